#!/usr/bin/env bash
# What watches a gateway and a store, at work: rules, Alertmanager and dashboard as they are shipped, on 127.0.0.1.
#   tests/deploy/watching.sh CITYGATE SIMULATORS KAFKA
# promtool and amtool find no fault; the dashboard is what its code makes. Then Prometheus, Alertmanager, a receiver of webhooks and
# mail, a gateway (admin port with TLS and a token), a store with PostgreSQL, and 500 devices: every panel's query has rows; an alert on
# the city reaches the city's people once, and its end once, and no operator; the gateway is killed, and one alert arrives, and no other; it
# is started again, and the alert is taken back; the same of PostgreSQL; no reading that was acknowledged is lost, all have an outcome, and
# all that is in Kafka is stored. Durations of the shipped files are made ten times shorter and ports are replaced, nothing else. About 2 min.
# Not proved: how Grafana draws it (there is none here).
# CITYGATE, SIMULATORS are programs, KAFKA bootstrap servers; PYTHON has grafana-foundation-sdk; apt: prometheus prometheus-alertmanager
# postgresql.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
kafka=$3
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
work=$(mktemp -d)
chmod 700 "$work"
# PostgreSQL may run as another user, who must reach it.
postgres=$(mktemp -d)
chmod 755 "$postgres"
running=()

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  if ((${#running[@]})); then kill "${running[@]}" 2>/dev/null || true; fi
  POSTGRES_DATA=$postgres/data tests/servers/postgres.sh kill || true
  wait || true
  if ((code)); then tail -n 15 "$work"/{gateway,store,fleet,prometheus,alertmanager,receiver}.log >&2 || true; fi
  if ((code)); then echo "FAILED ${failed:-}" >&2; fi
  rm -rf "$work" "$postgres"
  exit "$code"
}
trap finish EXIT

lacking=()
for tool in prometheus promtool prometheus-alertmanager amtool curl jq openssl "$python"; do
  if ! command -v "$tool" >/dev/null; then lacking+=("$tool"); fi
done
if ((${#lacking[@]})); then printf 'watching needs %s\n' "${lacking[@]}" >&2 && exit 1; fi

fail() { failed=$* && exit 1; }

# Waits until a command succeeds; fails after so many seconds.
await() { # SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2
  until "${@:3}" >/dev/null 2>&1; do
    if ((SECONDS > until)); then fail "$what did not happen within $1 s"; fi
    sleep 0.2
  done
}

# === the files by themselves ===
promtool check rules deploy/prometheus/rules.yaml >"$work/rules.log" 2>&1 || { cat "$work/rules.log" && fail 'promtool check rules'; }
grep -q 'SUCCESS: [1-9]' "$work/rules.log" || fail 'promtool finds no rules'
promtool test rules deploy/prometheus/rules_test.yaml >"$work/rules.log" || { cat "$work/rules.log" && fail 'promtool test rules'; }
amtool check-config deploy/alertmanager/alertmanager.yaml >"$work/amtool.log" || { cat "$work/amtool.log" && fail 'amtool check-config'; }
"$python" deploy/grafana/dashboard.py --check
alerts=$(grep -c -- '- alert:' deploy/prometheus/rules.yaml)
cases=$(grep -cE 'eval_time: ' deploy/prometheus/rules_test.yaml)
echo "ok     $alerts alerts, tested in $cases looks: promtool check and test rules, amtool check-config; the dashboard is what its code makes"

# Which alerts are kept back is Alertmanager's to say; nobody is told here, as it does not wait so long.
read -r alone_port < <("$python" -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
prometheus-alertmanager --config.file=deploy/alertmanager/alertmanager.yaml --storage.path="$work/alone" --cluster.listen-address= \
  --web.listen-address="127.0.0.1:$alone_port" 2>"$work/alone.log" &
alone=$!
running+=("$alone")
await 20 'Alertmanager' curl -fs "http://127.0.0.1:$alone_port/-/ready"
causes=$("$python" tests/deploy/watching.py one-cause "http://127.0.0.1:$alone_port") || fail 'one alert for one cause'
kill "$alone"
echo "ok     one alert for one cause: $causes"

# === everything at work ===
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 \
  -keyout "$work/key.pem" -out "$work/ca.pem" 2>/dev/null
openssl rand -hex 24 >"$work/operators-token"
openssl rand -hex 24 >"$work/metrics-token"
read -r mqtt coap http admin watch_port alert_port store_port database_port < <("$python" - <<'PYTHON'
import socket
both = []
while len(both) < 8:
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    try:
        udp.bind(tcp.getsockname())
        both.append((tcp, udp))
    except OSError:
        pass
print(*(tcp.getsockname()[1] for tcp, _ in both))
PYTHON
)
prefix=watch-$$.
cat >"$work/citygate.toml" <<TOML
state_dir = "$work/state"
[mqtt]
listen = "127.0.0.1:$mqtt"
[coap]
listen = "127.0.0.1:$coap"
[http]
listen = "127.0.0.1:$http"
[admin]
listen = "127.0.0.1:0"
token_file = "$work/operators-token"
metrics_token_file = "$work/metrics-token"
[admin.tls]
listen = "127.0.0.1:$admin"
certificate = "$work/ca.pem"
key = "$work/key.pem"
[schemas]
folder = "$PWD/schemas"
[kafka]
bootstrap_servers = "$kafka"
topic_prefix = "$prefix"
dead_letter_topic = "${prefix}dead-letter"
topics_file = "$work/topics.toml"
create_topics = true
[store]
database_url = "postgresql://city@127.0.0.1:$database_port/city?sslmode=disable"
listen = "127.0.0.1:$store_port"
group = "${prefix}store"
sql_folder = "$PWD/deploy/postgres"
alertmanager_urls = ["http://127.0.0.1:$alert_port"]
TOML
# As they are shipped, on one broker.
sed "s/^\[topics\.\"city\./[topics.\"$prefix/; s/^\(replication\|min_insync_replicas\) = .*/\1 = 1/" deploy/kafka/topics.toml >"$work/topics.toml"
"$citygate" topics apply --config "$work/citygate.toml" >"$work/topics.log" || { cat "$work/topics.log" && fail 'citygate topics apply'; }
database() { POSTGRES_DATA=$postgres/data POSTGRES_PORT=$database_port tests/servers/postgres.sh "$@"; } # ACTION
database start >"$work/postgres.log"
start_gateway() {
  "$citygate" run --config "$work/citygate.toml" 2>>"$work/gateway.log" &
  gateway=$!
  running+=("$gateway")
}
"$citygate" store --config "$work/citygate.toml" 2>>"$work/store.log" &
running+=($!)

: >"$work/received"
"$python" tests/deploy/watching.py receive "$work/received" >"$work/ports" 2>"$work/receiver.log" &
running+=($!)
await 10 'the receiver' test -s "$work/ports"
read -r webhook mail <"$work/ports"

# Minutes and seconds of waits become a tenth, but `for` 12 s at least: Prometheus needs up to 5 s to find its targets, and until then
# knows no gateway. Ranges of rates stay.
shorter() { # FILE
  "$python" - "$1" <<'PYTHON'
import re, sys
seconds = {"s": 1, "m": 60, "h": 3600}
least = lambda name: 12000 if name == "for: " else 0
tenth = lambda found: f"{found[1]}{max(int(found[2]) * seconds[found[3]] * 100, least(found[1]))}ms"
print(re.sub(r"((?:for|group_wait|group_interval|repeat_interval|scrape_interval|evaluation_interval): )(\d+)([smh])\b", tenth, open(sys.argv[1]).read()))
PYTHON
}
shorter deploy/prometheus/rules.yaml >"$work/rules.yaml"
shorter deploy/prometheus/prometheus.yaml | sed "s/127.0.0.1:9093/127.0.0.1:$alert_port/" >"$work/prometheus.yaml"
shorter deploy/alertmanager/alertmanager.yaml |
  sed "s|http://127.0.0.1:9095|http://127.0.0.1:$webhook|; s/127.0.0.1:25/127.0.0.1:$mail/" >"$work/alertmanager.yaml"
echo "- targets: [\"127.0.0.1:$admin\"]" >"$work/targets.yaml"
echo "- targets: [\"127.0.0.1:$store_port\"]" >"$work/stores.yaml"
promtool check config "$work/prometheus.yaml" >"$work/promtool.log" || { cat "$work/promtool.log" && fail 'promtool check config'; }
prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$watch_port" 2>"$work/prometheus.log" &
running+=($!)
prometheus-alertmanager --config.file="$work/alertmanager.yaml" --storage.path="$work/alerts" --cluster.listen-address= \
  --web.listen-address="127.0.0.1:$alert_port" 2>"$work/alertmanager.log" &
running+=($!)
start_gateway

ask() { # QUERY: its values
  curl -fs "http://127.0.0.1:$watch_port/api/v1/query" --data-urlencode "query=$1" | jq -r '.data.result[].value[1]'
}
answers() { [[ $(ask "$1") == "$2" ]]; } # QUERY VALUE
await 30 'Kafka available, seen by Prometheus' answers 'citygate_kafka_up' 1
await 60 'a store at work, seen by Prometheus' answers 'sum(citygate_store_runs_jobs) == 1 and max(citygate_store_fault) == 0 and count(citygate_store_job_last_success_timestamp_seconds) >= 4' 1

"$simulators" run --mqtt "127.0.0.1:$mqtt" --coap "127.0.0.1:$coap" --http "127.0.0.1:$http" --kafka "$kafka" --topic-prefix "$prefix" \
  --devices 500 --seconds 50 --json >"$work/fleet.json" 2>"$work/fleet.log" &
fleet=$!
running+=("$fleet")
# A reading that is out of range, and answers over every protocol, so that there is something to see.
curl -s -o /dev/null -d '{"power_w":-1e300}' "http://127.0.0.1:$http/devices/faulty-1/energy"
await 30 'readings over all protocols' answers 'count(sum by (protocol) (rate(citygate_readings_received_total[30s])) > 0)' 3
# A result (it says that there is none): what is computed takes minutes.
database psql -c "insert into city.outbox (topic, key) values ('city.alerts', 'none')"
await 20 'a curve of some length' answers 'min(count_over_time(citygate_mqtt_connections[1m])) >= bool 8' 1
await 30 'rows of all kinds' answers 'count(sum by (kind) (rate(citygate_store_rows_total[30s])) > 0)' 3
await 30 'a result that is published' answers 'count(rate(citygate_store_published_total[30s]))' 1
"$python" deploy/grafana/dashboard.py --ask "http://127.0.0.1:$watch_port" | tee "$work/asked"
if [[ -s $work/received ]]; then cat "$work/received" && fail 'something was alerted while all was well'; fi

# A segment is congested, as the SQL would find it, and is not any more.
database psql -c "insert into city.alert (id, alert, scope, subject, district, severity, raised_at, value, reason, readings, published) values
  ('congestion|s-1', 'congestion', 'segment', 's-1', 'north', 'critical', now(), 9, 'segment s-1: 9 km/h at worst', '[]', true)"
raised=$SECONDS
of_city() { # STATUS: how many messages say so of the segment
  jq -se "[.[] | select(.by == \"city\").alerts[] | select(. == [\"CityCongestion\", \"s-1\", \"$1\"])] | length" "$work/received"
}
said_once() { [[ $(of_city "$1") == 1 ]]; } # STATUS
await 40 'the alert on the city' said_once firing
told=$((SECONDS - raised))
database psql -c "update city.alert set cleared_at = date_trunc('second', now())"
cleared=$SECONDS
await 40 'the end of the alert on the city' said_once resolved
ended=$((SECONDS - cleared))
await 10 'mail of it' jq -se '[.[] | select(.by == "mail" and .to == ["control-room@city.example"])] | length == 2' "$work/received"
jq -se 'all(.[]; .by == "city" or .to == ["control-room@city.example"])' "$work/received" >/dev/null ||
  { cat "$work/received" && fail 'somebody else was told of the city'; }
echo "ok     an alert on the city: its people are told after $told s, and of its end $ended s after it, once each, and nobody else is"

kill -9 "$gateway"
wait "$gateway" 2>/dev/null || true
killed=$SECONDS
arrived() { jq -se "any(.[]; .by == \"webhook\" and any(.alerts[]; . == [\"$1\", \"127.0.0.1:$2\", \"$3\"]))" "$work/received"; } # ALERT PORT STATUS
await 40 'the alert' arrived CitygateDown "$admin" firing
alerted=$((SECONDS - killed))
sleep 3 # would another one follow?
start_gateway
started=$SECONDS
await 40 'the end of the alert' arrived CitygateDown "$admin" resolved
cleared=$((SECONDS - started))
# What it wrote to the spool while it was alone is in Kafka; the devices have sent what they had.
wait "$fleet" || { cat "$work/fleet.json" && fail 'the fleet lost something'; }
await 20 'an outcome of every reading' answers 'sum(instance:citygate_readings_unanswered:sum)' 0
await 20 'an empty spool' answers 'sum(citygate_spool_readings)' 0

jq -se '[.[] | select(.by == "webhook").alerts[] | .[0:2]] | unique | length == 1' "$work/received" >/dev/null ||
  { cat "$work/received" && fail 'more than one alert'; }
await 10 'mail of the alert and of its end' jq -se '[.[] | select(.to == ["operations@city.example"]).subject | test("(FIRING|RESOLVED).*CitygateDown")] | length >= 2 and all' "$work/received"
echo "ok     gateway killed under 500 devices: one alert after $alerted s, taken back $cleared s after the start;" \
  "fleet: $(jq -c '{acknowledged, in_kafka, lost}' "$work/fleet.json"), all accounted for"

database kill
killed=$SECONDS
await 60 'the alert of the database' arrived CitygateStoreDatabaseUnavailable "$store_port" firing
alerted=$((SECONDS - killed))
sleep 3 # would another one follow?
database start >"$work/postgres.log"
started=$SECONDS
await 40 'the end of the alert of the database' arrived CitygateStoreDatabaseUnavailable "$store_port" resolved
cleared=$((SECONDS - started))
jq -se '[.[] | select(.by == "webhook").alerts[] | .[0]] | unique == ["CitygateDown", "CitygateStoreDatabaseUnavailable"]' "$work/received" >/dev/null ||
  { cat "$work/received" && fail 'more than one alert of PostgreSQL'; }
jq -se 'all(.[] | select(.to == ["operations@city.example"]).subject; test("CitygateDown|CitygateStoreDatabaseUnavailable"))' "$work/received" >/dev/null ||
  { cat "$work/received" && fail 'mail of more than the two alerts'; }
await 20 'all that is in Kafka stored' answers 'sum(citygate_store_lag_records)' 0
in_kafka=$(jq .in_kafka "$work/fleet.json")
stored=$(database psql -At -c 'select (select count(*) from city.traffic) + (select count(*) from city.weather) + (select count(*) from city.energy)')
duplicates=$(ask 'sum(citygate_store_duplicates_total)')
if ((stored + duplicates < in_kafka)); then fail "of $in_kafka records $stored are stored, and $duplicates are duplicates"; fi
if ! said_once firing || ! said_once resolved; then cat "$work/received" && fail 'the alert on the city was told twice'; fi
echo "ok     PostgreSQL killed: one alert after $alerted s, taken back $cleared s after the start; $stored rows and $duplicates duplicates of $in_kafka records"
