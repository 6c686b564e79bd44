#!/usr/bin/env bash
# A week of a city, from its devices to decisions, on the processes that a city runs: Kafka (three brokers), a registry, PostgreSQL, the
# gateway, the store, and the fleet of the scenario city_week, whose ledger says what is true.
#   tests/streams/week.sh CITYGATE SIMULATORS [--kills] [--seed N] [--speed N] [--keep FOLDER]
# Every reading is a row once, aggregates are compared row by row with an independent computation, anomalies are graded, alerts are those
# that the ledger says: see week.py. --kills: brokers, PostgreSQL and the store are killed (SIGKILL) again and again meanwhile.
# --speed: seconds of the city in one of the clock. --keep: ledger, logs and configuration stay there.
# CITYGATE and SIMULATORS are programs; PYTHON has psycopg, fastavro and confluent-kafka; apt: postgresql, default-jre-headless, maven.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
shift 2
kills="" seed="" keep="" speed=7200
while (($#)); do
  case $1 in
    --kills) kills=yes ;;
    --seed) seed=$2 && shift ;;
    --speed) speed=$2 && shift ;;
    --keep) keep=$(realpath "$2") && shift ;;
    *) sed -n '4s/^# *//p' "$0" >&2 && exit 2 ;;
  esac
  shift
done
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$(mktemp -d)
chmod 755 "$work" # PostgreSQL runs as another user where this is root
gateway='' store='' killer=''

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  # What is killed again and again is not started again after this.
  touch "$work/over" "$work/done"
  if [[ -n $killer ]]; then wait "$killer" || true; fi
  if [[ -e $work/store.pid ]]; then store=$(<"$work/store.pid"); fi
  for pid in $gateway $store; do kill "$pid" 2>/dev/null || true; done
  tests/servers/postgres.sh stop || true
  tests/servers/registry.sh stop || true
  tests/servers/kafka.sh stop || true
  if ((code)); then tail -n 15 "$work"/*.log >&2 || true; fi
  if [[ -n $keep ]]; then mkdir -p "$keep" && cp "$work"/*.{log,toml,ndjson,json} "$keep" || true; fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

# Waits until a command succeeds; fails after so many seconds.
await() { # SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2
  until "${@:3}" >/dev/null 2>&1; do
    if ((SECONDS > until)); then echo "FAILED $what did not happen within $1 s" >&2 && exit 1; fi
    sleep 0.1
  done
}

read -r KAFKA_PORT REGISTRY_PORT REGISTRY_MANAGEMENT_PORT POSTGRES_PORT mqtt coap http admin stored < <("$python" tests/streams/week.py ports)
export KAFKA_PORT REGISTRY_PORT REGISTRY_MANAGEMENT_PORT POSTGRES_PORT PYTHONDONTWRITEBYTECODE=1
export KAFKA_CONTROLLER_PORT=$((KAFKA_PORT + 3)) KAFKA_DATA=$work/kafka REGISTRY_DATA=$work/registry POSTGRES_DATA=$work/postgres
# What a killed process had written is in the system's cache: only a lost machine needs fsync.
export POSTGRES_SETTINGS='-c fsync=off -c shared_buffers=256MB -c work_mem=32MB -c max_wal_size=2GB'

began=$SECONDS
kafka=$(tests/servers/kafka.sh start 3)
registry=$(tests/servers/registry.sh start)
database=$(tests/servers/postgres.sh start)
# The store as the user that a city has for it.
tests/servers/postgres.sh psql -U postgres -d postgres -f deploy/postgres/setup/roles.sql >/dev/null
database=${database/city@/citygate@}
cat >"$work/citygate.toml" <<TOML
state_dir = "$work/state"
[mqtt]
listen = "127.0.0.1:$mqtt"
[coap]
listen = "127.0.0.1:$coap"
[http]
listen = "127.0.0.1:$http"
[admin]
listen = "127.0.0.1:$admin"
[schemas]
folder = "$PWD/schemas"
[registry]
url = "$registry"
[kafka]
bootstrap_servers = "$kafka"
topics_file = "$PWD/deploy/kafka/topics.toml"
[store]
database_url = "$database"
listen = "127.0.0.1:$stored"
instance = "store-0"
# The week is the last that is over.
late_after = "360h"
sql_folder = "$PWD/deploy/postgres"
TOML
"$citygate" topics apply --config "$work/citygate.toml" >"$work/topics.log"
scenario=(city_week)
if [[ -n $seed ]]; then
  "$simulators" scenarios city_week | sed "s/^seed = .*/seed = $seed/" >"$work/city_week.toml"
  scenario=("$work/city_week.toml")
fi
"$simulators" run "${scenario[@]}" --short --list-devices >"$work/places.ndjson"
"$citygate" devices publish --config "$work/citygate.toml" --from "$work/places.ndjson"

start_store() {
  "$citygate" store --config "$work/citygate.toml" >>"$work/store.log" 2>&1 &
  echo $! >"$work/store.pid"
  disown # or the shell says each time that it was killed
}

sql() { tests/servers/postgres.sh psql -U citygate -At -c "$1"; }

# Kills one after another, each when so many more readings are stored, or the fleet is done; what is killed is started again.
kill_again_and_again() {
  local victim number=0 rows=0 next=3000 node
  for victim in store postgres broker store postgres store broker postgres store; do
    until { rows=$(sql 'select coalesce(sum(next_offset), 0) from city.kafka_offset' 2>/dev/null) && ((rows >= next)); } || [[ -e $work/done ]]; do
      sleep 0.05
    done
    if [[ -e $work/over ]]; then return; fi
    next=$((rows + 4000)) number=$((number + 1)) node=
    case $victim in
      store)
        kill -9 "$(<"$work/store.pid")"
        start_store
        ;;
      postgres)
        tests/servers/postgres.sh kill
        tests/servers/postgres.sh start >/dev/null
        ;;
      broker)
        node=$((1 + number % 3))
        kill -9 "$(<"$KAFKA_DATA/node$node/pid")"
        tests/servers/kafka.sh start 3 >/dev/null
        ;;
    esac
    echo "killed $victim${node:+ $node} at $rows records"
  done
}

"$citygate" run --config "$work/citygate.toml" 2>"$work/gateway.log" &
gateway=$!
start_store
await 60 'the store is ready' curl -fs "http://127.0.0.1:$stored/readyz"
await 60 'the gateway has Kafka' eval "curl -fs http://127.0.0.1:$admin/metrics | grep -q '^citygate_kafka_up 1'"
await 60 'every device has its place' eval "[[ \$(sql 'select count(*) from city.device') == $(wc -l <"$work/places.ndjson") ]]"
# Days without a reading are computed in larger pieces.
sql "update city.threshold set value = 86400 where name = 'compute.chunk'"
echo "ok     servers, gateway and store are ready after $((SECONDS - began)) s"

if [[ -n $kills ]]; then
  kill_again_and_again >"$work/kills.log" 2>&1 &
  killer=$!
fi
"$simulators" run "${scenario[@]}" --short --speed "$speed" --ledger "$work/ledger.ndjson" --json --mqtt "127.0.0.1:$mqtt" --coap "127.0.0.1:$coap" \
  --http "127.0.0.1:$http" --kafka "$kafka" >"$work/report.json" 2>"$work/fleet.log"
echo "ok     the fleet is done after $((SECONDS - began)) s"
touch "$work/done"
if [[ -n $kills ]]; then
  wait "$killer"
  killer=''
  echo "ok     killed: $(grep "^killed" "$work/kills.log" | cut -d " " -f 2 | sort | uniq -c | xargs)"
fi
"$python" tests/streams/week.py compare --ledger "$work/ledger.ndjson" --database "$database" --kafka "$kafka" --registry "$registry"
echo "ok     all in $((SECONDS - began)) s"
