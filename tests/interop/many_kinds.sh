#!/usr/bin/env bash
# What many kinds in one folder cost: the gateway's start, memory and CPU per reading, and Kafka's share apart.
#   tests/interop/many_kinds.sh CITYGATE SIMULATORS KAFKA KAFKA_PID [KINDS...]
# CITYGATE and SIMULATORS are the programs, KAFKA the bootstrap servers of a Kafka with room for topics named many-*, KAFKA_PID
# its process. KINDS are numbers of kinds, 3 and 200 unless given. Schemas are those of traffic, weather and energy in turn, under
# other names, so that the mix of readings is the same for any number. Fails if a reading is lost, or a kind is not played.
# Instructions are counted by the bench: BENCH_SCHEMAS=FOLDER cargo bench --bench instructions, with few and with many kinds.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
kafka_pid=$4
shift 4
numbers=("$@")
if ((${#numbers[@]} == 0)); then numbers=(3 200); fi
partitions=${PARTITIONS:-3}
seconds=${SECONDS_EACH:-20}
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
gateway=

stop() {
  if [[ -n $gateway ]]; then kill "$gateway" 2>/dev/null && wait "$gateway" || true; fi
  gateway=
}
# shellcheck disable=SC2329 # the trap calls it
finish() {
  stop
  rm -rf "$work"
}
trap finish EXIT

ports() { # HOW_MANY
  "${PYTHON:-python3}" - "$1" <<'PYTHON'
import socket, sys
held = []
while len(held) < 2 * int(sys.argv[1]):
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    try:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        held += tcp, udp
    except OSError:
        pass
print(*(tcp.getsockname()[1] for tcp in held[::2]))
PYTHON
}

schemas() { # HOW_MANY FOLDER
  mkdir -p "$2"
  local kinds=(traffic weather energy) number
  for ((number = 0; number < $1; number++)); do
    cp "schemas/${kinds[number % 3]}.avsc" "$2/kind-$number.avsc"
  done
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }
kib() { awk -v what="$2:" '$1 == what { print $2 }' "/proc/$1/status"; } # PID WHAT
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }                     # PID: user and system, hundredths of a second

tenths() { echo "$(($1 / 10)).$(($1 % 10))"; }

configure() { # FOLDER PREFIX
  cat >"$work/citygate.toml" <<TOML
[mqtt]
listen = "127.0.0.1:$mqtt"
[coap]
listen = "127.0.0.1:$coap"
[http]
listen = "127.0.0.1:$http"
[admin]
listen = "127.0.0.1:$admin"
[schemas]
folder = "$1"
kinds = ["*"]
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$2"
dead_letter_topic = "${2}dead-letter"
create_topics = true
partitions = $partitions
[spool]
folder = "$work/spool"
TOML
}

start() { # sets listening and ready, milliseconds
  local began
  began=$(now_ms)
  "$citygate" run --config "$work/citygate.toml" 2>"$work/gateway.log" &
  gateway=$!
  until curl -fs -o "$work/metrics" "http://127.0.0.1:$admin/metrics"; do
    kill -0 "$gateway" 2>/dev/null || { cat "$work/gateway.log" >&2 && exit 1; }
    sleep 0.01
  done
  listening=$(($(now_ms) - began))
  until curl -fs -o "$work/metrics" "http://127.0.0.1:$admin/metrics" && grep -q '^citygate_kafka_up 1' "$work/metrics" &&
    ! grep -q '^citygate_kafka_topic_missing{.*} 1' "$work/metrics"; do
    (($(now_ms) - began < 120000)) || { cat "$work/gateway.log" >&2 && exit 1; }
    sleep 0.05
  done
  ready=$(($(now_ms) - began))
}

play() { # FOLDER PREFIX DEVICES SECONDS
  "$simulators" run --mqtt "127.0.0.1:$mqtt" --coap "127.0.0.1:$coap" --http "127.0.0.1:$http" --kafka "$kafka" \
    --topic-prefix "$2" --schemas "$1" --kinds '*' --devices "$3" --seconds "$4" --json >"$work/report.json" 2>"$work/log" ||
    { cat "$work/log" "$work/report.json" >&2 && exit 1; }
}

of_report() { "${PYTHON:-python3}" -c "import json,sys; r = json.load(open(sys.argv[1])); print($1)" "$work/report.json"; }

failed=0
printf '%-44s' "kinds, $partitions partitions each" && printf '%12s' "${numbers[@]}" && echo
declare -A row
rows=("start to listening, ms" "start to Kafka with its topics, ms" "the same when the topics exist, ms" "memory after the start, KiB"
  "memory after the readings, KiB" "readings acknowledged" "lost" "kinds with readings in Kafka" "CPU per reading, us"
  "Kafka: memory more with the topics, KiB" "Kafka: idle CPU with them, % of a core" "gateway: idle CPU, % of a core"
  "Kafka: CPU per reading, us")
for number in "${numbers[@]}"; do
  read -r mqtt coap http admin < <(ports 4)
  folder=$work/schemas-$number
  prefix=many-$$-$number.
  schemas "$number" "$folder"
  configure "$folder" "$prefix"
  before=$(kib "$kafka_pid" VmRSS)
  start
  row["0 $number"]=$listening row["1 $number"]=$ready
  stop
  start
  row["2 $number"]=$ready row["3 $number"]=$(kib "$gateway" VmRSS)
  row["9 $number"]=$(($(kib "$kafka_pid" VmRSS) - before))
  sleep 3
  of_kafka=$(ticks "$kafka_pid") of_gateway=$(ticks "$gateway")
  sleep 10
  row["10 $number"]=$(tenths $(($(ticks "$kafka_pid") - of_kafka)))
  row["11 $number"]=$(tenths $(($(ticks "$gateway") - of_gateway)))
  of_kafka=$(ticks "$kafka_pid") of_gateway=$(ticks "$gateway")
  play "$folder" "$prefix" 600 "$seconds"
  acknowledged=$(of_report 'r["acknowledged"]')
  lost=$(of_report 'r["lost"]') played=$(of_report 'sum(kind["in_kafka"] > 0 for kind in r["by_kind"].values())')
  row["4 $number"]=$(kib "$gateway" VmRSS) row["5 $number"]=$acknowledged row["6 $number"]=$lost row["7 $number"]=$played
  row["8 $number"]=$((($(ticks "$gateway") - of_gateway) * 10000 / acknowledged))
  row["12 $number"]=$((($(ticks "$kafka_pid") - of_kafka) * 10000 / acknowledged))
  if ((lost > 0 || played != number)); then failed=1; fi
  stop
done
for index in "${!rows[@]}"; do
  printf '%-44s' "${rows[index]}"
  for number in "${numbers[@]}"; do printf '%12s' "${row["$index $number"]}"; done
  echo
done
exit "$failed"
