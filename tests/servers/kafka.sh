#!/usr/bin/env bash
# A real Apache Kafka (KRaft, one node) on loopback, for tests.
#   kafka.sh fetch | start | stop | status | tool CLASS ARGS...
# Needs Java 17 or newer, and mvn for the first fetch. `start` prints host:port once Kafka answers.
# Each instance is its own KAFKA_DATA (log, pid, records) and KAFKA_PORT; records stay until KAFKA_DATA is removed.
# KAFKA_WHILE=PID: when that process ends, however it ends, Kafka is stopped and KAFKA_DATA removed.
set -euo pipefail

cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
version=4.3.1 # a range does not resolve: kafka-tools and kafka must be the same
libs=$cache/kafka-$version
data=${KAFKA_DATA:-$cache/kafka-data}
port=${KAFKA_PORT:-19091}
controller_port=${KAFKA_CONTROLLER_PORT:-$((port + 100))}
java=(java "-Xmx${KAFKA_HEAP:-256m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info
  -cp "$libs/*")

dependency() { # GROUP ARTIFACT VERSION [EXCLUDED]
  echo "<dependency><groupId>$1</groupId><artifactId>$2</artifactId><version>$3</version><exclusions>
  <exclusion><groupId>$1</groupId><artifactId>${4:-none}</artifactId></exclusion></exclusions></dependency>"
}

fetch() {
  mkdir -p "$libs"
  exec 9>"$libs/.lock"
  flock 9 # several tests may ask at once
  if [[ ! -e $libs/.complete ]]; then
    cat >"$libs/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>citygate</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
$(dependency org.apache.kafka kafka_2.13 "$version")
$(dependency org.apache.kafka kafka-tools "$version" connect-runtime)
$(dependency org.slf4j slf4j-simple 1.7.36)
</dependencies></project>
POM
    mvn -q -B -f "$libs/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$libs" >&2
    touch "$libs/.complete"
  fi
  exec 9>&-
}

config() {
  cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$data/records
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=4194304
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
PROPERTIES
}

pid() { cat "$data/pid" 2>/dev/null || echo 0; }
running() { grep -aqsF "$data/server.properties" "/proc/$(pid)/cmdline"; }
ready() { grep -qs 'Kafka Server started' "$data/log"; }

start() {
  fetch
  mkdir -p "$data"
  if ! running; then
    config >"$data/server.properties"
    if [[ ! -e $data/records/meta.properties ]]; then
      "${java[@]}" kafka.tools.StorageTool format -t citygatecitygatecityga -c "$data/server.properties" >"$data/format.log" 2>&1
    fi
    nohup "${java[@]}" kafka.Kafka "$data/server.properties" </dev/null >"$data/log" 2>&1 &
    echo $! >"$data/pid"
    if [[ -n ${KAFKA_WHILE:-} ]]; then
      nohup "$0" stop-after "$KAFKA_WHILE" </dev/null >"$data/watch.log" 2>&1 &
    fi
  fi
  for ((tries = 0; tries < 900; tries++)); do
    if ready; then echo "127.0.0.1:$port" && return; fi
    if ! kill -0 "$(pid)" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "Kafka did not start: see $data/log" >&2
  tail -n 5 "$data/log" >&2
  exit 1
}

stop() {
  if ! running; then return; fi
  kill -CONT "$(pid)"
  kill "$(pid)"
  for ((tries = 0; tries < 100; tries++)); do
    if ! running; then return; fi
    sleep 0.1
  done
  kill -9 "$(pid)"
}

stop_after() { # PID
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  if running; then kill -9 "$(pid)"; fi # nobody is left who could read its records
  if [[ -e $data/server.properties ]]; then rm -rf "$data"; fi
}

case ${1:-} in
  fetch | start | stop) "$1" ;;
  stop-after) stop_after "$2" ;;
  status) if running; then echo "up on 127.0.0.1:$port, pid $(pid)"; else echo down; fi ;;
  tool) fetch && shift && exec "${java[@]}" "$@" ;;
  *) sed -n '2,6s/^# //p' "$0" >&2 && exit 2 ;;
esac
