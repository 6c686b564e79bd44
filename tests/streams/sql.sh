#!/usr/bin/env bash
# What is computed in SQL (deploy/postgres) against a synthetic city whose ledger knows what is true, on a real PostgreSQL.
#   tests/streams/sql.sh [SEED]
# Aggregates are compared row by row with an independent computation, anomalies by precision and recall with what was injected,
# insights and alerts with what happened; all of it once more in another order, and computed twice; every panel of the dashboards
# of the city is asked. Then the labels of a road authority on real loops, where real payloads are at hand (TEST_CORPUS), and
# conditions and outages as cases, and readings that correct one another in any order. PYTHON has psycopg and fastavro; apt: postgresql.
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
