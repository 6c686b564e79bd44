#!/usr/bin/env bash
# The outsiders: independent clients send to the real program, an independent reader takes it out of a real Kafka again.
#   tests/interop/run.sh [CITYGATE]
# mosquitto_pub (MQTT 3.1.1 and 5), a Mosquitto bridge, paho, MQTT.js, libcoap's coap-client, aiocoap and curl send; kcat
# reads; fastavro decodes.
# CITYGATE is the program (default: cargo's release build). Kafka is TEST_KAFKA, or one started for this run.
# Python with paho-mqtt, aiocoap and fastavro is PYTHON (default: python3); node finds MQTT.js through NODE_PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
citygate=${1:-${CARGO_TARGET_DIR:-target}/release/citygate}
work=$(mktemp -d)
children=()

finish() {
  local code=$?
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  if [[ -n ${own_kafka:-} ]]; then KAFKA_DATA=$work/kafka tests/servers/kafka.sh stop; fi
  if ((code)) && [[ -e $work/citygate.log ]]; then echo "--- the gateway's last words" && tail -n 20 "$work/citygate.log"; fi >&2
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

PATH=$PATH:/usr/sbin # where Debian has mosquitto, and not everybody looks
lacking=()
for tool in mosquitto mosquitto_pub coap-client-notls kcat curl node "$python" "$citygate"; do
  if ! command -v "$tool" >/dev/null; then lacking+=("$tool"); fi
done
for module in paho.mqtt.client aiocoap fastavro; do
  if ! "$python" -c "import $module" 2>/dev/null; then lacking+=("$module, of Python"); fi
done
if ! node -e 'require("mqtt")' 2>/dev/null; then lacking+=('mqtt, of node (NODE_PATH)'); fi
if ((${#lacking[@]})); then printf 'interop needs %s\n' "${lacking[@]}" >&2 && exit 1; fi

read -r mqtt coap http admin kafka_port controller_port bridge_31 bridge_311 bridge_50 \
  < <("$python" tests/interop/check.py free-ports 9)
kafka=${TEST_KAFKA:-}
if [[ -z $kafka ]]; then
  own_kafka=yes
  kafka=$(KAFKA_DATA=$work/kafka KAFKA_PORT=$kafka_port KAFKA_CONTROLLER_PORT=$controller_port KAFKA_WHILE=$$ \
    tests/servers/kafka.sh start)
fi
prefix=interop-$$.
cat >"$work/citygate.toml" <<TOML
[mqtt]
listen = "127.0.0.1:$mqtt"
[coap]
listen = "127.0.0.1:$coap"
[http]
listen = "127.0.0.1:$http"
[admin]
listen = "127.0.0.1:$admin"
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$prefix"
dead_letter_topic = "${prefix}dead-letter"
create_topics = true
partitions = 2
replication_factor = 1
[spool]
folder = "$work/spool"
TOML
"$citygate" run --config "$work/citygate.toml" >"$work/citygate.log" 2>&1 &
children+=($!)
for ((tries = 0; tries < 300; tries++)); do
  # Ready it is with its spool alone; what is looked for below is in Kafka.
  if curl -fs "http://127.0.0.1:$admin/metrics" | grep -q '^citygate_kafka_up 1'; then break; fi
  kill -0 "${children[0]}" # it runs
  sleep 0.1
done
curl -fsS "http://127.0.0.1:$admin/readyz"

declare -A reading=(
  [traffic]='{"vehicle_count":12,"speed_kmh":48.5,"interval_s":60,"lanes":[{"lane":1,"speed_kmh":48.5}],"classes":{"car":12}}'
  [weather]='{"temperature_c":-21.5,"relative_humidity_percent":48,"location":{"latitude":48.1,"longitude":11.6}}'
  [energy]='{"power_w":-1899.8,"energy_import_kwh":2589.8,"status":"ok","phases":[{"phase":"L1","voltage_v":229.0}]}'
)
bad='{"location":{"latitude":-400}}'

# Notes what Kafka must hold, then sends; the client's exit code or its words must say yes.
sent() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$work/sent"; } # DEVICE KIND BODY
expect() {                                                      # WHAT PATTERN TEXT
  if [[ ! $3 =~ $2 ]]; then echo "$1: expected $2, got: $3" >&2 && exit 1; fi
  echo "ok  $1"
}

for kind in traffic weather energy; do
  for version in 311 5; do
    sent "mosquitto-$version" "$kind" "${reading[$kind]}"
    mosquitto_pub -h 127.0.0.1 -p "$mqtt" -V "$version" -q 1 -i "mosquitto-$version" \
      -t "devices/mosquitto-$version/$kind" -m "${reading[$kind]}"
    echo "ok  mosquitto_pub, MQTT $version, QoS 1, $kind"
  done
  sent mosquitto-qos2 "$kind" "${reading[$kind]}"
  mosquitto_pub -h 127.0.0.1 -p "$mqtt" -V 5 -q 2 -t "devices/mosquitto-qos2/$kind" -m "${reading[$kind]}"
  echo "ok  mosquitto_pub, MQTT 5, QoS 2, $kind"
  # Its exit code is 0 even when nothing answers: only what it prints counts.
  for request in con: non:-N; do
    sent "libcoap-${request%%:*}" "$kind" "${reading[$kind]}"
    # shellcheck disable=SC2086
    said=$(coap-client-notls -v 6 -B 10 ${request#*:} -m post -t 50 -e "${reading[$kind]}" \
      "coap://127.0.0.1:$coap/devices/libcoap-${request%%:*}/$kind" 2>&1)
    expect "coap-client, ${request%%:*}, $kind" 'c:2\.04' "$said"
  done
  sent curl "$kind" "${reading[$kind]}"
  said=$(curl -sS -o "$work/body" -w '%{http_code}' -H 'content-type: application/json' -d "${reading[$kind]}" \
    "http://127.0.0.1:$http/devices/curl/$kind")
  expect "curl, $kind" '^204$' "$said"
done

# RFC 7959: the whole body in one block (coap-client says so with -b), and blocks of 64 bytes for the response.
blocks=0
for block in '-b 128' '-O 27,0x06' '-O 23,0x02'; do
  device=libcoap-block-$((blocks += 1))
  sent "$device" weather "${reading[weather]}"
  # shellcheck disable=SC2086
  said=$(coap-client-notls -v 6 -B 10 $block -m post -t 50 -e "${reading[weather]}" \
    "coap://127.0.0.1:$coap/devices/$device/weather" 2>&1)
  expect "coap-client, $block" 'c:2\.04' "$said"
done

said=$(mosquitto_pub -h 127.0.0.1 -p "$mqtt" -V 5 -q 1 -t devices/bad-mosquitto/weather -m "$bad" 2>&1 || true)
expect 'mosquitto_pub is told why not' '[Pp]ayload format invalid' "$said"
said=$(coap-client-notls -v 6 -B 10 -m post -t 50 -e "$bad" "coap://127.0.0.1:$coap/devices/bad-libcoap/weather" 2>&1)
expect 'coap-client is told why not' 'c:4\.22.*latitude' "${said//$'\n'/ }"
said=$(curl -sS -i -d "$bad" "http://127.0.0.1:$http/devices/bad-curl/weather")
expect 'curl is told why not' '422.*application/problem\+json.*latitude' "${said//$'\n'/ }"

# Batches and bodies by curl: a byte order mark, an item that is no JSON, a coding that is not decoded.
sent curl-batch weather "${reading[weather]}"
printf '\xef\xbb\xbf[NaN,\n %s]' "${reading[weather]}" >"$work/batch"
said=$(curl -sS -i --data-binary @"$work/batch" "http://127.0.0.1:$http/devices/curl-batch/weather")
expect 'curl is told of one item of a batch' '200 OK.*"accepted":1.*"rejected":1.*\[0\], line 1, column 2' "${said//$'\n'/ }"
said=$(curl -sS -i -d "[$bad]" "http://127.0.0.1:$http/devices/bad-curl-batch/weather")
expect 'curl is told that all of a batch was rejected' '422.*"rejected":1' "${said//$'\n'/ }"
said=$(curl -sS -i -H 'content-encoding: GZIP' -d "$bad" "http://127.0.0.1:$http/devices/coded/weather")
expect 'curl is told which coding is decoded' '415.*accept-encoding: identity' "${said//$'\n'/ }"
said=$(curl -sS -i -H 'host: a b' -d "$bad" "http://127.0.0.1:$http/devices/no-host/weather")
expect 'curl is told that its host is none' '400.*bad_host' "${said//$'\n'/ }"

"$python" tests/interop/check.py send "$mqtt" "$coap" >>"$work/sent"
node tests/interop/burst.cjs "$mqtt" >>"$work/sent"

# A metric of the gateway, summed over the series that match PATTERN.
metric() { # PATTERN
  curl -fsS "http://127.0.0.1:$admin/metrics" | awk -v pattern="$1" '$0 ~ pattern { sum += $NF } END { print sum + 0 }'
}

# Waits for it to exceed a number; what is checked later fails if it does not.
until_above() { # NUMBER PATTERN
  local tries
  for ((tries = 0; tries < 200; tries++)); do
    if (($(metric "$2") > $1)); then return; fi
    sleep 0.1
  done
}

# A broker that passes on what its devices publish, with the defaults of a bridge: `try_private` sets bit 7 of the protocol
# level (3.1 and 3.1.1), `notifications` publishes its state, retained, to an address that is no device's.
bridge() { # VERSION PORT
  local name=bridge-$1 sessions delivered refused kind
  sessions=$(metric '^citygate_mqtt_connects_total')
  refused=$(metric '^citygate_mqtt_closed_total.*"refused"')
  delivered=$(metric '^citygate_readings_total.*"delivered".*"mqtt"')
  cat >"$work/$name.conf" <<CONF
listener $2 127.0.0.1
allow_anonymous true
persistence false
connection $name
address 127.0.0.1:$mqtt
bridge_protocol_version $1
topic devices/# out 1
CONF
  mosquitto -v -c "$work/$name.conf" >"$work/$name.log" 2>&1 &
  children+=($!)
  until_above "$sessions" '^citygate_mqtt_connects_total'
  for kind in traffic weather energy; do
    sent "$name" "$kind" "${reading[$kind]}"
    mosquitto_pub -h 127.0.0.1 -p "$2" -q 1 -t "devices/$name/$kind" -m "${reading[$kind]}"
  done
  until_above $((delivered + 2)) '^citygate_readings_total.*"delivered".*"mqtt"'
  # One connection, the first: nothing was refused, and nothing that it sends by itself ended it.
  if (($(metric '^citygate_mqtt_closed_total.*"refused"') != refused)) ||
    (($(metric '^citygate_mqtt_connects_total') != sessions + 1)); then
    echo "the bridge ($1) connected more than once, or not at all:" >&2 && cat "$work/$name.log" >&2 && exit 1
  fi
  echo "ok  a Mosquitto bridge, $1"
}
bridge mqttv31 "$bridge_31"
bridge mqttv311 "$bridge_311"
bridge mqttv50 "$bridge_50"

for topic in traffic weather energy dead-letter; do
  # Lengths first, so that values may hold any byte.
  kcat -b "$kafka" -t "$prefix$topic" -C -e -q -f '%K %S\n%k%s' >"$work/$topic.records"
done
"$python" tests/interop/check.py verify "$work" schemas
kill -TERM "${children[0]}"
wait "${children[0]}"
echo "ok  the gateway ended with exit code 0"
