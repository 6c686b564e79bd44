#!/bin/bash
# Makes the database and its users, with the passwords that setup.sh made. The image runs it once, when the volume is empty; again, after
# passwords were made anew: docker compose exec postgres bash /docker-entrypoint-initdb.d/citygate.sh
CITYGATE_PASSWORD=$(</secrets/postgres/citygate-password) GRAFANA_PASSWORD=$(</secrets/postgres/grafana-password) \
  psql --no-psqlrc --quiet --username postgres --dbname postgres --file /citygate/roles.sql
