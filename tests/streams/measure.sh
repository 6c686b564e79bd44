#!/usr/bin/env bash
# What storing and computing cost, on real servers: CPU time per reading of every process, beside what a plain COPY and another sink take.
#   tests/streams/measure.sh CITYGATE SIMULATORS PART...
#   store [N]          `citygate store` of N (1,000,000) readings without jobs, then the same rows by COPY
#   sink [N]           Debezium's JDBC sink on the same records (100,000); it, Kafka Connect and an Avro converter come by mvn
#   queries [N [S]]    N (10,000,000) readings of 30 days and their aggregates, or what is made in S (900) seconds; then every dashboard query
#                      with EXPLAIN
#   live RATE SECONDS  gateway, store and jobs under a fixed load: CPU and memory of each part, latency of rows and of aggregates, lag, and
#                      bytes in Kafka and PostgreSQL against `citygate topics plan`
# Wall time depends on what else the machine does, so the load is printed with it. MEASURE_SQL: another folder than deploy/postgres.
# MEASURE_KEEP: a folder for configuration and logs. PYTHON has psycopg, fastavro and confluent-kafka; apt: postgresql, default-jre-headless, maven.
set -euo pipefail

citygate=$(realpath "$1")
simulators=$(realpath "$2")
part=$3
shift 3
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
connect=$cache/connect-4.3.1
work=$(mktemp -d)
chmod 755 "$work" # PostgreSQL runs as another user where this is root

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  tests/servers/postgres.sh stop || true
  tests/servers/registry.sh stop || true
  tests/servers/kafka.sh stop || true
  if [[ -n ${MEASURE_KEEP:-} ]]; then mkdir -p "$MEASURE_KEEP" && cp "$work"/*.{log,toml,json,properties} "$MEASURE_KEEP" 2>/dev/null || true; fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

dependency() { echo "<dependency><groupId>$1</groupId><artifactId>$2</artifactId><version>$3</version></dependency>"; }

# FOLDER DEPENDENCY...: a folder with the jars.
jars() {
  mkdir -p "$connect/$1"
  cat >"$connect/$1.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>citygate</groupId><artifactId>$1</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>${*:2}</dependencies></project>
POM
  mvn -q -B -f "$connect/$1.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$connect/$1" >&2
}

# Kafka Connect, the sink, and a converter that reads Confluent's wire format.
fetch_connect() {
  mkdir -p "$connect"
  exec 9>"$connect/.lock"
  flock 9
  if [[ ! -e $connect/.complete ]]; then
    jars worker "$(dependency org.apache.kafka connect-runtime 4.3.1)" "$(dependency org.apache.kafka connect-json 4.3.1)" \
      "$(dependency org.apache.kafka connect-transforms 4.3.1)" "$(dependency org.slf4j slf4j-simple 1.7.36)"
    jars plugins/sink "$(dependency io.debezium debezium-connector-jdbc 3.3.1.Final)" "$(dependency org.postgresql postgresql 42.7.8)"
    jars plugins/converter "$(dependency io.apicurio apicurio-registry-utils-converter 2.6.13.Final)"
    # The worker has these; a second one in a plugin is another class.
    rm -f "$connect"/plugins/*/{kafka-clients,connect-api,connect-json,connect-transforms,slf4j-simple}-*.jar \
      "$connect"/plugins/*/jackson-{core,databind,annotations}-*.jar
    touch "$connect/.complete"
  fi
  exec 9>&-
}

free_ports() {
  "$python" -c 'import socket; s = [socket.create_server(("127.0.0.1", 0)) for _ in range(7)]; print(*(x.getsockname()[1] for x in s))'
}
read -r KAFKA_PORT KAFKA_CONTROLLER_PORT REGISTRY_PORT REGISTRY_MANAGEMENT_PORT POSTGRES_PORT MEASURE_PORT MEASURE_PORT_2 < <(free_ports)
export KAFKA_PORT KAFKA_CONTROLLER_PORT REGISTRY_PORT REGISTRY_MANAGEMENT_PORT POSTGRES_PORT MEASURE_PORT MEASURE_PORT_2 PYTHONDONTWRITEBYTECODE=1
export KAFKA_DATA=$work/kafka KAFKA_HEAP=512m REGISTRY_DATA=$work/registry POSTGRES_DATA=$work/postgres
export POSTGRES_SETTINGS='-c shared_buffers=512MB -c max_wal_size=4GB -c work_mem=32MB -c track_commit_timestamp=on'
if [[ $part == store || $part == sink ]]; then POSTGRES_SETTINGS+=' -c autovacuum=off'; fi
if [[ $part == sink ]]; then fetch_connect; fi

kafka=none registry=none
if [[ $part == queries ]]; then
  POSTGRES_SETTINGS+=' -c fsync=off -c full_page_writes=off -c synchronous_commit=off'
else
  kafka=$(tests/servers/kafka.sh start)
  registry=$(tests/servers/registry.sh start)
fi
database=$(tests/servers/postgres.sh start)
"$python" tests/streams/measure.py "$part" "$@" --citygate "$citygate" --simulators "$simulators" --kafka "$kafka" --registry "$registry" \
  --database "$database" --work "$work" --connect "$connect" --sql "$(realpath "${MEASURE_SQL:-deploy/postgres}")"
