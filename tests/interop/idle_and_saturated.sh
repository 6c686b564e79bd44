#!/usr/bin/env bash
# What TLS and identities cost where a city's rate does not show it: memory per idle connection, and CPU per reading when the
# gateway is saturated, with and without, in turns.
#   tests/interop/idle_and_saturated.sh CITYGATE SIMULATORS KAFKA
# CITYGATE and SIMULATORS are the programs, KAFKA the bootstrap servers of a Kafka with room for topics named cost-*. IDLE (4000)
# connections stay open for a few seconds; CONNECTIONS (100) over MQTT send as fast as they can for SECONDS_EACH (10). Each in ROUNDS (3),
# with the gateway and the load on cores of their own where there are two. plain: anonymous; tls: each device has a key, and TLS.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
idle=${IDLE:-4000}
connections=${CONNECTIONS:-100}
seconds=${SECONDS_EACH:-10}
rounds=${ROUNDS:-3}
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/lib.sh"

read -r mqtt coap http admin mqtts < <(free_ports 5)
of_load=()
if (($(nproc) > 1)); then launch=(taskset -c 0) of_load=(taskset -c "1-$(($(nproc) - 1))"); fi

prefix=cost-$$.
count=$((idle > connections ? idle : connections))
"$simulators" load --mqtt x:1 --connections "$count" --list-devices >"$work/fleet.ndjson"
mkdir "$work/devices"
"$citygate" devices --json --folder "$work/devices" import "$work/fleet.ndjson" >"$work/keys.ndjson"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/certificate.pem" 2>"$work/openssl.log"

start() { # plain | tls
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
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$prefix"
dead_letter_topic = "${prefix}dead-letter"
create_topics = true
TOML
  if [[ $1 == tls ]]; then
    # A device may send what the gateway can take.
    printf '[devices]\nfolder = "%s"\nreadings_per_second = 1000000\nbytes_per_second = "1 GiB"\n' "$work/devices" >>"$work/citygate.toml"
    printf '[mqtt.tls]\nlisten = "127.0.0.1:%s"\ncertificate = "%s"\nkey = "%s"\n' "$mqtts" "$work/certificate.pem" "$work/key.pem" \
      >>"$work/citygate.toml"
  fi
  start_gateway "$citygate" "$admin" /metrics 'citygate_kafka_up 1'
  how=(--mqtt "127.0.0.1:$mqtt")
  if [[ $1 == tls ]]; then how=(--mqtt "127.0.0.1:$mqtts" --keys "$work/keys.ndjson" --tls-ca "$work/certificate.pem"); fi
}

ticks() { awk '{ print $14 + $15 }' "/proc/$gateway/stat"; } # user and system, hundredths of a second
resident() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$gateway/status"; }
open_now() { curl -fs "http://127.0.0.1:$admin/metrics" | awk '$1 == "citygate_mqtt_connections" { print $2 }'; }
of_report() { "${PYTHON:-python3}" -c "import json,sys; r = json.load(open(sys.argv[1]))['total']; print($1)" "$work/report.json"; }
load() { "${of_load[@]}" "$simulators" load "${how[@]}" --json "$@" >"$work/report.json" 2>"$work/log"; }

hold() { # plain | tls: bytes of memory for each idle connection
  start "$1"
  local before holding
  before=$(resident)
  load --connections "$idle" --idle --ramp 15s --seconds 10 &
  holding=$!
  until (($(open_now) == idle)); do
    kill -0 "$holding" 2>/dev/null || { echo "only some of the connections were made" >&2 && cat "$work/log" "$work/report.json" >&2 && exit 1; }
    sleep 0.2
  done
  sleep 1
  echo $((($(resident) - before) * 1024 / idle)) >>"$work/idle-$1"
  wait "$holding" || true # nothing was sent, which it says
  stop_gateway
}

saturate() { # plain | tls: CPU in hundredths of a microsecond per reading, readings a second
  start "$1"
  local before answered
  load --connections "$connections" --seconds 2 || true # warm
  before=$(ticks)
  load --connections "$connections" --seconds "$seconds" || { cat "$work/log" "$work/report.json" >&2 && exit 1; }
  answered=$(of_report 'r["positive"]')
  echo "$((($(ticks) - before) * 1000000 / answered)) $((answered / seconds))" >>"$work/saturated-$1"
  stop_gateway
}

for ((round = 0; round < rounds; round++)); do
  for how_of in plain tls; do hold "$how_of" && saturate "$how_of"; done
done
column() { cut -d' ' -f"$2" "$work/$1" | sort -n; }
median() { column "$1" "$2" | awk -v middle=$(((rounds + 1) / 2)) 'NR == middle'; }
echo "load of the machine: $(cut -d' ' -f1-3 /proc/loadavg)"
for how_of in plain tls; do
  printf '%-6s idle: %s bytes per connection (%s)\n' "$how_of" "$(median "idle-$how_of" 1)" "$(column "idle-$how_of" 1 | paste -sd' ')"
done
for how_of in plain tls; do
  printf '%-6s saturated: %s us of CPU per reading (%s) at %s readings/s\n' "$how_of" \
    "$(median "saturated-$how_of" 1 | awk '{ print $1 / 100 }')" \
    "$(column "saturated-$how_of" 1 | awk '{ print $1 / 100 }' | paste -sd' ')" "$(median "saturated-$how_of" 2)"
done
paste -d' ' "$work/saturated-plain" "$work/saturated-tls" | awk '{ print $3 / $1 }' | sort -n | paste -sd' ' |
  sed 's/^/ratio of tls to plain, by round: /'
