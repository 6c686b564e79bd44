# shellcheck shell=bash
# What the scripts here share: a folder that is removed, ports, and a gateway that is started, waited for and stopped. To be sourced;
# `work` is the folder, `gateway` the process. A script that fails shows the gateway's last words.
work=$(mktemp -d)
gateway=
launch=() # goes before the gateway's program: taskset

stop_gateway() {
  if [[ -n $gateway ]]; then kill "$gateway" 2>/dev/null && wait "$gateway" || true; fi
  gateway=
}

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  stop_gateway
  if ((code)) && [[ -e $work/citygate.log ]]; then echo "--- the gateway's last words" && tail -n 20 "$work/citygate.log"; fi >&2
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

free_ports() { # COUNT
  "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/check.py" free-ports "$1"
}

# Waits until the admin port answers a path with a line; `/livez` and any line if neither is given.
start_gateway() { # PROGRAM ADMIN_PORT [PATH LINE]
  "${launch[@]}" "$1" run --config "$work/citygate.toml" >>"$work/citygate.log" 2>&1 &
  gateway=$!
  local tries
  for ((tries = 0; tries < 1500; tries++)); do
    if curl -fs "http://127.0.0.1:$2${3:-/livez}" 2>/dev/null | grep -q "^${4:-}"; then return; fi
    kill -0 "$gateway" # it runs
    sleep 0.02
  done
  echo "the gateway does not answer" >&2
  return 1
}
