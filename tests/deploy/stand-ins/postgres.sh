#!/bin/bash
# As the entrypoint of postgres: an empty folder becomes a database of POSTGRES_USER, whose password is in POSTGRES_PASSWORD_FILE, and
# what is in /docker-entrypoint-initdb.d is run once, by a server that listens on its socket alone. Then the command.
set -euo pipefail

user=${POSTGRES_USER:-postgres}
chmod 0700 "$PGDATA"
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  initdb --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=trust >/dev/null
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  pg_ctl -w -o "-c listen_addresses='' $(printf ' %q' "${@:2}")" start >/dev/null
  if [[ ${POSTGRES_DB:-$user} != postgres ]]; then createdb --username="$user" "${POSTGRES_DB:-$user}"; fi
  for script in /docker-entrypoint-initdb.d/*.sh; do
    # shellcheck source=/dev/null
    . "$script"
  done
  pg_ctl -w -m fast stop >/dev/null
fi
exec "$@"
