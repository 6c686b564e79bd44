#!/usr/bin/env bash
# A real PostgreSQL on loopback, for tests.
#   postgres.sh start | stop | kill | status | psql ARGUMENT…
# Needs the programs of PostgreSQL 15 or newer (Debian: postgresql). They refuse to run as root, which then uses the user nobody.
# `start` prints the URL of a database `city`, whose owner `city` needs no password. Each instance is its own POSTGRES_DATA (data,
# log) and POSTGRES_PORT; POSTGRES_SETTINGS are options of the server (-c name=value …); POSTGRES_WHILE=PID stops it and
# removes POSTGRES_DATA when that process ends. `kill` ends it by SIGKILL, all its processes at once; `start` recovers it.
set -euo pipefail

cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
data=${POSTGRES_DATA:-$cache/postgres-data}
port=${POSTGRES_PORT:-15432}
url=postgresql://city@127.0.0.1:$port/city

programs() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do
    if [[ -x $folder/initdb ]]; then echo "$folder" && return; fi
  done
  dirname "$(command -v initdb)"
}

# As another user where this one is root: the server does not run as root.
as_user() {
  if ((EUID == 0)); then setpriv --reuid=nobody --regid=nogroup --clear-groups env -C / "$@"; else "$@"; fi
}

pid() { head -n 1 "$data/db/postmaster.pid" 2>/dev/null || echo 0; }
running() { [[ $(pid) -gt 1 ]] && grep -aqsF "$data/db" "/proc/$(pid)/cmdline"; }
client() { "$bin/psql" -X -q -h 127.0.0.1 -p "$port" -v ON_ERROR_STOP=1 "$@"; }

initialise() {
  mkdir -p "$data"
  if ((EUID == 0)); then chown nobody:nogroup "$data"; fi
  as_user "$bin/initdb" -D "$data/db" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$data/initdb.log"
  touch "$data/.initialised"
}

start() {
  if [[ ! -e $data/.initialised ]]; then initialise; fi
  if ! running; then
    local settings="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories= -c timezone=UTC ${POSTGRES_SETTINGS:-}"
    if ! as_user "$bin/pg_ctl" -D "$data/db" -l "$data/log" -w -t 60 -s -o "$settings" start >&2 </dev/null; then
      tail -n 5 "$data/log" >&2
      exit 1
    fi
    if [[ -n ${POSTGRES_WHILE:-} ]]; then
      nohup "$0" stop-after "$POSTGRES_WHILE" </dev/null >"$data/watch.log" 2>&1 &
    fi
  fi
  if [[ $(client -U postgres -d postgres -At -c "select 1 from pg_roles where rolname = 'city'") != 1 ]]; then
    client -U postgres -d postgres -c 'create role city login' -c 'create database city owner city'
  fi
  echo "$url"
}

stop() {
  if running; then as_user "$bin/pg_ctl" -D "$data/db" -m fast -w -s stop >&2; fi
}

kill_all() {
  local postmaster
  postmaster=$(pid)
  if ! running; then return; fi
  # Its children end by themselves once they notice; all at once is what a lost machine looks like.
  pkill -9 -P "$postmaster" || true
  kill -9 "$postmaster"
  while [[ -d /proc/$postmaster ]]; do sleep 0.05; done
}

stop_after() { # PID
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  stop
  if [[ -e $data/.initialised ]]; then rm -rf "$data"; fi
}

bin=$(programs)
case ${1:-} in
  start | stop) "$1" ;;
  kill) kill_all ;;
  stop-after) stop_after "$2" ;;
  status) if running; then echo "up: $url"; else echo down; fi ;;
  psql) shift && client -U city -d city "$@" ;;
  *) sed -n '2,7s/^# //p' "$0" >&2 && exit 2 ;;
esac
