#!/usr/bin/env bash
# What 200,000 identities cost: start, memory, look-up, and a reload of all of them while devices send.
#   tests/interop/many_identities.sh CITYGATE SIMULATORS KAFKA
# CITYGATE and SIMULATORS are the programs, KAFKA the bootstrap servers of a Kafka with room for topics named many-*. 200 devices with keys
# send RATE (2000) readings a second over HTTP, where each is looked up, and over MQTT, for SECONDS_EACH (15): first known alone, then among IDENTITIES (200000),
# whose file is replaced RELOADS (5) times meanwhile. Fails if a reading is answered with anything but yes, or a connection is lost.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
identities=${IDENTITIES:-200000}
rate=${RATE:-2000}
seconds=${SECONDS_EACH:-15}
reloads=${RELOADS:-5}
python=${PYTHON:-python3}
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/lib.sh"

read -r mqtt coap http admin < <(free_ports 4)
prefix=many-$$.
how=(--mqtt "127.0.0.1:$mqtt" --http "127.0.0.1:$http" --connections 200)
"$simulators" load "${how[@]}" --list-devices >"$work/fleet.ndjson"
mkdir "$work/devices"
"$citygate" devices --json --folder "$work/devices" import "$work/fleet.ndjson" >"$work/keys.ndjson"

# others COUNT MARK: the file of those that do not send, in one step.
others() {
  "$python" - "$@" >"$work/others" <<'PYTHON'
import hashlib, json, sys
count, mark = int(sys.argv[1]), sys.argv[2]
for number in range(count):
    digest = hashlib.sha256(f"{mark}-{number}".encode()).hexdigest()
    print(json.dumps({"id": f"other-{number:06}", "keys": [f"sha256:{digest}"], "kinds": ["traffic", "weather"]}))
PYTHON
  mv "$work/others" "$work/devices/others.ndjson"
}

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
[devices]
folder = "$work/devices"
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$prefix"
dead_letter_topic = "${prefix}dead-letter"
create_topics = true
TOML

metric() { curl -fs "http://127.0.0.1:$admin/metrics" | awk -v name="$1" '$1 == name { print $2 }'; }
now_ms() { date +%s%3N; }
ticks() { awk '{ print $14 + $15 }' "/proc/$gateway/stat"; } # user and system, hundredths of a second
memory() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$gateway/status"; }
of_report() { "$python" -c "import json,sys; r = json.load(open(sys.argv[1]))['total']; print($1)" "$work/report.json"; }

start() { # until it listens and knows them
  local began
  began=$(now_ms)
  start_gateway "$citygate" "$admin"
  echo "$(metric citygate_devices) identities: $(($(now_ms) - began)) ms until it listens, $(memory VmRSS) KiB resident"
  until [[ $(metric citygate_kafka_up) == 1 ]]; do sleep 0.1; done
}

send() { # MS: what the gateway's CPU was per reading
  local before
  before=$(ticks)
  "$simulators" load "${how[@]}" --keys "$work/keys.ndjson" --rate "$rate" --seconds "$seconds" --json >"$work/report.json" 2>"$work/log" ||
    { cat "$work/log" "$work/report.json" >&2 && exit 1; }
  echo "$((($(ticks) - before) * 10000 / $(of_report 'r["positive"]'))) us of CPU per reading: $(of_report '
    "%s positive, %s others, p99 %s ms" % (r["positive"], r["negative"] + r["unanswered"], r["latency"]["p99_ms"])')"
}

echo "load of the machine: $(cut -d' ' -f1-3 /proc/loadavg)"
start
send
stop_gateway
others "$((identities - 200))" 0
start
send
echo "$(memory VmHWM) KiB at most before a reload"
before=$(metric citygate_devices)
[[ $before == "$identities" ]]

replace() {
  local round began
  for ((round = 1; round <= reloads; round++)); do
    sleep 1
    others "$((identities - 200 + round))" "$round"
    began=$(now_ms)
    until [[ $(metric citygate_devices) == $((identities + round)) ]]; do sleep 0.02; done
    echo "reloaded: in force $(($(now_ms) - began)) ms after its file was there"
  done
}
replace &
replacing=$!
echo "with reloads: $(send)"
wait "$replacing"
echo "$(memory VmHWM) KiB at most, $(memory VmRSS) KiB now, after $reloads reloads"
