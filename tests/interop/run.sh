#!/usr/bin/env bash
# The outsiders: independent clients send to the real program, an independent reader takes it out of a real Kafka again.
#   tests/interop/run.sh [CITYGATE]
# mosquitto_pub (MQTT 3.1.1 and 5), paho, libcoap's coap-client, aiocoap and curl send; kcat reads; fastavro decodes.
# CITYGATE is the program (default: cargo's release build). Kafka is CITYGATE_TEST_KAFKA, or one started for this run.
# Python with paho-mqtt, aiocoap and fastavro is PYTHON (default: python3).
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
  if ((code)); then echo "--- the gateway's last words" && tail -n 20 "$work/citygate.log"; fi >&2
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

for tool in mosquitto_pub coap-client-notls kcat curl "$python" "$citygate"; do
  if ! command -v "$tool" >/dev/null; then echo "interop needs $tool" >&2 && exit 1; fi
done

read -r mqtt coap http admin kafka_port controller_port < <("$python" tests/interop/check.py free-ports 6)
kafka=${CITYGATE_TEST_KAFKA:-}
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
bad='{"temperature_c":-400}'

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

said=$(mosquitto_pub -h 127.0.0.1 -p "$mqtt" -V 5 -q 1 -t devices/bad-mosquitto/weather -m "$bad" 2>&1 || true)
expect 'mosquitto_pub is told why not' '[Pp]ayload format invalid' "$said"
said=$(coap-client-notls -v 6 -B 10 -m post -t 50 -e "$bad" "coap://127.0.0.1:$coap/devices/bad-libcoap/weather" 2>&1)
expect 'coap-client is told why not' 'c:4\.22.*temperature_c' "${said//$'\n'/ }"
said=$(curl -sS -i -d "$bad" "http://127.0.0.1:$http/devices/bad-curl/weather")
expect 'curl is told why not' '422.*application/problem\+json.*temperature_c' "${said//$'\n'/ }"

"$python" tests/interop/check.py send "$mqtt" "$coap" >>"$work/sent"

for topic in traffic weather energy dead-letter; do
  # Lengths first, so that values may hold any byte.
  kcat -b "$kafka" -t "$prefix$topic" -C -e -q -f '%K %S\n%k%s' >"$work/$topic.records"
done
"$python" tests/interop/check.py verify "$work" schemas
kill -TERM "${children[0]}"
wait "${children[0]}"
echo "ok  the gateway ended with exit code 0"
