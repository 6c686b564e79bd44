#!/usr/bin/env bash
# `citygate demo` as somebody new to it has it: every command that it prints is pasted as it is while it runs, and must show something.
#   demo.sh COMMAND...     the program, such as target/release/citygate, or docker run --rm --network host citygate
# Needs what is pasted: curl, mosquitto_pub, coap-client-notls, kcat; and jq.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED demo: $*" >&2 && exit 1; }

# A program in an image is not at its path here: it is asked for in the same way as the demo was.
tail_of() { # LINE
  local kafka words
  if [[ ${command[0]} != docker ]]; then timeout 15 bash -c "$1" && return; fi
  read -r kafka _ _ words <<<"$1"
  # shellcheck disable=SC2086
  timeout 15 "${command[@]:0:${#command[@]}-1}" -e "$kafka" "${command[-1]}" $words
}

paste() { # LINE
  local line=$1
  case $line in
    'curl -i '*) timeout 15 bash -c "$line" | grep '^HTTP/1.1 204' ;;
    mosquitto_pub* | coap-client*) timeout 15 bash -c "$line" ;;
    CITYGATE_*' tail '*) tail_of "$line" | jq -e 'select(.device == "mine") | .kind' ;;
    kcat*) timeout 15 bash -c "$line" | grep ' bytes at offset ' ;;
    */metrics) timeout 15 bash -c "$line" | grep '^citygate_readings_total{' ;;
    */status) timeout 15 bash -c "$line" | jq -e 'has("kafka")' ;;
    *) fail "a line that is no command: $line" ;;
  esac
}

command=("$@")
"$@" demo --seconds 20 --devices 30 >"$work/out" 2>"$work/log" &
demo=$!
for ((tries = 0; tries < 200; tries++)); do
  if grep -q '^  curl .*/status$' "$work/log"; then break; fi
  kill -0 "$demo" 2>/dev/null || break
  sleep 0.1
done
grep '^  ' "$work/log" | sed '/ s  sent /d' >"$work/lines" || { cat "$work/log" && fail 'it prints no command'; }
pasted=0
while read -r line; do
  paste "$line" >"$work/said" 2>"$work/errors" </dev/null || { cat "$work/said" "$work/errors" && fail "pasted: $line"; }
  pasted=$((pasted + 1))
done <"$work/lines"
((pasted == 7)) || fail "it prints $pasted commands, not 7"
wait "$demo" || { tail -n 20 "$work/log" && fail 'it ends with an error'; }
echo "ok     demo: each of the $pasted commands that it prints shows something; $(grep -m 1 '^acknowledged [0-9,]*:' "$work/log" || tail -n 1 "$work/log")"
