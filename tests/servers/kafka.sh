#!/usr/bin/env bash
# A real Apache Kafka (KRaft, one node or three, or 1+1: a broker and its controller) on loopback, for tests.
#   kafka.sh fetch | start [1|3|1+1] | stop | status | tool CLASS ARGS...
# Needs Java 17 or newer, and mvn for the first fetch. `start` prints host:port[,host:port,host:port] once all nodes answer.
# Each instance is its own KAFKA_DATA (log, pid, records) and KAFKA_PORT; records stay until KAFKA_DATA is removed.
# Three nodes: replication factor 3, min.insync.replicas 2; node N is KAFKA_PORT+N-1, its log and pid are in KAFKA_DATA/nodeN.
# 1+1: two processes, so that one can be stopped without the other; node1 is the broker, node2 its controller.
# `start` again starts only what is down, so one node is killed with kill -9 "$(<"$KAFKA_DATA/node2/pid")".
# KAFKA_HOST: the address, if it is not 127.0.0.1.
# KAFKA_WHILE=PID: when that process ends, however it ends, Kafka is stopped and KAFKA_DATA removed (unless KAFKA_KEEP is set).
set -euo pipefail

cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
version=4.3.1 # a range does not resolve: kafka-tools and kafka must be the same
libs=$cache/kafka-$version
data=${KAFKA_DATA:-$cache/kafka-data}
host=${KAFKA_HOST:-127.0.0.1}
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

config() { # NODE COUNT HOME
  local voters='' n roles=broker,controller replicas=$2 isr
  local broker=PLAINTEXT://$host:$((port + $1 - 1)) controller=CONTROLLER://127.0.0.1:$((controller_port + $1 - 1))
  local listeners=$broker,$controller advertised=advertised.listeners=$broker
  for ((n = 1; n <= $2; n++)); do voters+=,$n@127.0.0.1:$((controller_port + n - 1)); done
  if [[ $2 == 1+1 ]]; then
    voters=,2@127.0.0.1:$((controller_port + 1)) replicas=1
    if (($1 == 1)); then roles=broker listeners=$broker; else roles=controller listeners=$controller advertised=''; fi
  fi
  isr=$((replicas > 1 ? 2 : 1))
  cat <<PROPERTIES
process.roles=$roles
node.id=$1
controller.quorum.voters=${voters#,}
listeners=$listeners
$advertised
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$3/records
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=4194304
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$isr
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  # A broker alone is back sooner; of three, the leaders move as late as Kafka's own defaults (9 s) have it.
  if ((replicas == 1)); then printf '%s\n' broker.session.timeout.ms=3000 broker.heartbeat.interval.ms=500; fi
}

# Where a node lives: the instance's folder if it is alone, a folder of its own if not.
homes() { if [[ -d $data/node1 ]]; then printf '%s\n' "$data"/node*; else echo "$data"; fi; }
pid() { cat "$1/pid" 2>/dev/null || echo 0; } # HOME
running() { grep -aqsF "$1/server.properties" "/proc/$(pid "$1")/cmdline"; }
ready() { grep -qs 'Kafka Server started' "$1/log"; }

launch() { # NODE COUNT HOME
  mkdir -p "$3"
  if running "$3"; then return; fi
  config "$@" >"$3/server.properties"
  if [[ ! -e $3/records/meta.properties ]]; then
    "${java[@]}" kafka.tools.StorageTool format -t citygatecitygatecityga -c "$3/server.properties" >"$3/format.log" 2>&1
  fi
  nohup "${java[@]}" kafka.Kafka "$3/server.properties" </dev/null >"$3/log" 2>&1 &
  echo $! >"$3/pid"
}

await() { # HOME
  for ((tries = 0; tries < 900; tries++)); do
    if ready "$1"; then return; fi
    if ! kill -0 "$(pid "$1")" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "Kafka did not start: see $1/log" >&2
  tail -n 5 "$1/log" >&2
  exit 1
}

start() { # COUNT
  local node home servers='' down=yes
  fetch
  for home in $(homes); do if running "$home"; then down=; fi; done
  for ((node = 1; node <= $1; node++)); do
    if (($1 == 1)); then home=$data; else home=$data/node$node; fi
    launch "$node" "$1" "$home"
    if [[ $1 != 1+1 ]] || ((node == 1)); then servers+=,$host:$((port + node - 1)); fi
  done
  if [[ -n ${KAFKA_WHILE:-} && -n $down ]]; then
    nohup "$0" stop-after "$KAFKA_WHILE" </dev/null >"$data/watch.log" 2>&1 &
  fi
  for home in $(homes); do await "$home"; done
  echo "${servers#,}"
}

stop() {
  local home
  for home in $(homes); do
    if running "$home"; then kill -CONT "$(pid "$home")" && kill "$(pid "$home")"; fi
  done
  for home in $(homes); do
    for ((tries = 0; tries < 100; tries++)); do
      if ! running "$home"; then continue 2; fi
      sleep 0.1
    done
    kill -9 "$(pid "$home")"
  done
}

stop_after() { # PID
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  for home in $(homes); do
    if running "$home"; then kill -9 "$(pid "$home")"; fi # nobody is left who could read its records
  done
  if [[ -z ${KAFKA_KEEP:-} ]]; then rm -rf "$data"; fi
}

status() {
  for home in $(homes); do
    if running "$home"; then
      echo "up on $(sed -n 's|^advertised.listeners=PLAINTEXT://||p' "$home/server.properties"), pid $(pid "$home")"
    else
      echo down
    fi
  done
}

case ${1:-} in
  fetch | stop | status) "$1" ;;
  start) start "${2:-1}" ;;
  stop-after) stop_after "$2" ;;
  tool) fetch && shift && exec "${java[@]}" "$@" ;;
  *) sed -n '2,9s/^# //p' "$0" >&2 && exit 2 ;;
esac
