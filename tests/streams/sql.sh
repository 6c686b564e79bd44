#!/usr/bin/env bash
# What is computed in SQL (deploy/postgres) against a synthetic city whose ledger knows what is true, on a real PostgreSQL.
#   tests/streams/sql.sh [SEED]
# Aggregates are compared row by row with an independent computation, anomalies by precision and recall with what was injected,
# insights and alerts with what happened; all of it once more in another order, and computed twice; every panel of the dashboards
# of the city is asked. Then the labels of a road authority on real loops, where real payloads are at hand (TEST_CORPUS), and
# conditions and outages as cases, readings that correct one another in any order, numbers at the ends of what can be held, what fails, and
# stretches without a reading.
# All of it as the user, and with the settings, of deploy/postgres/setup/roles.sql, in a session far from UTC. PYTHON has psycopg and fastavro; apt: postgresql.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
work=$(mktemp -d)
POSTGRES_DATA=$work/postgres
POSTGRES_PORT=$("$python" -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
POSTGRES_SETTINGS='-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c shared_buffers=256MB -c work_mem=32MB -c max_wal_size=2GB'
export POSTGRES_DATA POSTGRES_PORT POSTGRES_SETTINGS PYTHONDONTWRITEBYTECODE=1

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  tests/servers/postgres.sh stop || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
chmod 755 "$work" # PostgreSQL runs as another user where this is root

url=$(tests/servers/postgres.sh start)
root=(tests/servers/postgres.sh psql -U postgres -d postgres)
# As a cluster of PostgreSQL 14 is: everybody may write in public.
"${root[@]}" -d city -c 'grant create on schema public to public'
"${root[@]}" -f deploy/postgres/setup/roles.sql >/dev/null
"${root[@]}" -f deploy/postgres/setup/roles.sql >/dev/null # any number of times
"${root[@]}" -c "alter role citygate set timezone = 'America/New_York'"
url=${url/city@/citygate@}
said=$("${root[@]}" -d city -At -c "select has_schema_privilege('grafana', 'public', 'create')" -c '\connect - citygate' -c 'show search_path' -c 'show timezone' | tr '\n' ' ')
if [[ $said != 'f pg_catalog, pg_temp America/New_York ' ]]; then
  echo "FAILED roles.sql: grafana may write in public, and citygate has as path and zone: $said" >&2
  exit 1
fi
"$python" tests/streams/streams.py "$url" "$@"
"$python" deploy/grafana/city.py --check
asked=$("$python" deploy/grafana/city.py --ask "$url" 2026-11-02 2026-11-06)
echo "ok     $asked"
"$python" tests/streams/loops.py "$url"
"$python" tests/streams/conditions.py "$url"
"$python" tests/streams/outages.py "$url"
"$python" tests/streams/corrections.py "$url"
"$python" tests/streams/extremes.py "$url"
"$python" tests/streams/failures.py "$url"
"$python" tests/streams/stretches.py "$url"
