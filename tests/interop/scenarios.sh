#!/usr/bin/env bash
# Plays the short form of every bundled scenario against a gateway of its own; fails if one does not hold.
#   tests/interop/scenarios.sh CITYGATE SIMULATORS KAFKA [KAFKA_PID]
# CITYGATE and SIMULATORS are the programs, KAFKA the bootstrap servers of a Kafka that creates nothing by itself and has room
# for topics named check-*. With KAFKA_PID, the broker's process, kafka_outage is played as well: it is frozen for seconds.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
kafka_pid=${4:-}
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
gateway=

# shellcheck disable=SC2329 # the trap calls it
finish() {
  if [[ -n $gateway ]]; then kill "$gateway" 2>/dev/null && wait "$gateway" || true; fi
  rm -rf "$work"
}
trap finish EXIT

# Ports that are free now, for TCP and UDP.
ports() { # HOW_MANY
  "${PYTHON:-python3}" - "$1" <<'PYTHON'
import socket, sys
taken = []
while len(taken) < 2 * int(sys.argv[1]):
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    try:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        taken += tcp, udp
    except OSError:
        pass
print(*(tcp.getsockname()[1] for tcp in taken[::2]))
PYTHON
}

read -r mqtt coap http admin < <(ports 4)
prefix=check-$$.
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
folder = "$PWD/schemas"
kinds = ["*"]
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$prefix"
dead_letter_topic = "${prefix}dead-letter"
create_topics = true
partitions = 3
[spool]
folder = "$work/spool"
TOML
"$citygate" run --config "$work/citygate.toml" 2>"$work/gateway.log" &
gateway=$!
for ((tries = 0; ; tries++)); do
  # Ready it is with its spool alone; the fleet looks for topics that it makes.
  if curl -fs "http://127.0.0.1:$admin/metrics" | grep -q '^citygate_kafka_up 1'; then break; fi
  if ((tries > 150)) || ! kill -0 "$gateway"; then cat "$work/gateway.log" >&2 && exit 1; fi
  sleep 0.2
done

failed=0
cd "$work" # the scenarios and the schemas are in the program: it needs no folder
read -ra names < <("$simulators" scenarios | cut -d ' ' -f 1 | xargs)
if ((${#names[@]} == 0)); then echo "the program has no scenarios" >&2 && exit 1; fi
for name in "${names[@]}"; do
  extra=()
  if "$simulators" scenarios "$name" | grep -q 'what = "kafka_outage"'; then
    if [[ -z $kafka_pid ]]; then echo "skipped $name: it needs the process of Kafka" && continue; fi
    extra=(--freeze-pid "$kafka_pid")
  fi
  if "$simulators" run "$name" --short "${extra[@]}" --mqtt "127.0.0.1:$mqtt" --coap "127.0.0.1:$coap" \
    --http "127.0.0.1:$http" --kafka "$kafka" --topic-prefix "$prefix" >"$work/report" 2>"$work/log"; then
    echo "ok     $name: $(tail -n 1 "$work/report")"
  else
    failed=1
    cat "$work/log" "$work/report"
    echo "FAILED $name"
  fi
done
exit "$failed"
