#!/usr/bin/env bash
# What identities and TLS cost: the gateway's CPU per reading and its memory, with and without, in turns.
#   tests/interop/cost_of_identities.sh CITYGATE SIMULATORS KAFKA
# CITYGATE and SIMULATORS are the programs, KAFKA the bootstrap servers of a Kafka with room for topics named cost-*. DEVICES (2000)
# over MQTT and HTTP, half each, send a reading per INTERVAL_MS (1000) for SECONDS_EACH (20) in each of ROUNDS (3); plain: anonymous
# senders; keys: each proves who it is; tls: the same over TLS. Fails if a reading is lost. Numbers are medians, and all rounds behind them.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
devices=${DEVICES:-2000}
interval=${INTERVAL_MS:-1000}
seconds=${SECONDS_EACH:-20}
rounds=${ROUNDS:-3}
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/lib.sh"

read -r mqtt coap http admin mqtts https < <(free_ports 6)

prefix=cost-$$.
fleet=(run --devices "$devices" --interval-ms "$interval" --seconds "$seconds" --kafka "$kafka" --topic-prefix "$prefix" --json)
"$simulators" run --devices "$devices" --http x:1 --list-devices >"$work/fleet.ndjson"
mkdir "$work/devices"
"$citygate" devices --json --folder "$work/devices" import "$work/fleet.ndjson" >"$work/keys.ndjson"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/certificate.pem" 2>"$work/openssl.log"

configure() { # plain | keys | tls
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
[spool]
folder = "$work/spool"
TOML
  if [[ $1 != plain ]]; then printf '[devices]\nfolder = "%s"\n' "$work/devices" >>"$work/citygate.toml"; fi
  if [[ $1 == tls ]]; then
    printf '[%s.tls]\nlisten = "127.0.0.1:%s"\ncertificate = "%s"\nkey = "%s"\n' \
      mqtt "$mqtts" "$work/certificate.pem" "$work/key.pem" http "$https" "$work/certificate.pem" "$work/key.pem" \
      >>"$work/citygate.toml"
  fi
}

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; } # PID: user and system, hundredths of a second
of_report() { "${PYTHON:-python3}" -c "import json,sys; r = json.load(open(sys.argv[1])); print($1)" "$work/report.json"; }

play() { # plain | keys | tls: one line: CPU per reading in us, memory in KiB, readings
  configure "$1"
  start_gateway "$citygate" "$admin" /metrics 'citygate_kafka_up 1'
  local how=(--mqtt "127.0.0.1:$mqtt" --http "127.0.0.1:$http") before acknowledged
  if [[ $1 != plain ]]; then how+=(--keys "$work/keys.ndjson"); fi
  if [[ $1 == tls ]]; then how=(--mqtt "127.0.0.1:$mqtts" --http "127.0.0.1:$https" --keys "$work/keys.ndjson" --tls-ca "$work/certificate.pem"); fi
  before=$(ticks "$gateway")
  "$simulators" "${fleet[@]}" "${how[@]}" >"$work/report.json" 2>"$work/log" || { cat "$work/log" "$work/report.json" >&2 && exit 1; }
  acknowledged=$(of_report 'r["acknowledged"]')
  [[ $(of_report 'r["lost"]') == 0 ]]
  echo "$((($(ticks "$gateway") - before) * 10000 / acknowledged)) $(awk '$1 == "VmHWM:" { print $2 }' "/proc/$gateway/status") $acknowledged" >>"$work/$1"
  stop_gateway
}

for ((round = 0; round < rounds; round++)); do
  for how in plain keys tls; do play "$how"; done
done
printf '%-8s%22s%26s%14s\n' '' 'CPU per reading, us' 'memory at most, KiB' 'readings'
for how in plain keys tls; do
  median() { sort -n -k "$1" "$work/$how" | awk -v at="$1" -v middle=$(((rounds + 1) / 2)) 'NR == middle { print $at }'; }
  printf '%-8s%10s (%s)%14s%14s\n' "$how" "$(median 1)" "$(cut -d' ' -f1 "$work/$how" | paste -sd' ')" "$(median 2)" "$(median 3)"
done
