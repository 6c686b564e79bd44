#!/usr/bin/env bash
# CoAP on a host with several addresses: an answer leaves from the one that was asked, and what was sent to many is not
# stored.
#   tests/interop/addresses.sh [CITYGATE]
# Two network namespaces with a cable between them: the gateway's has several addresses of both families, the clients'
# are connected sockets and libcoap's coap-client. No Kafka: a reading that is in the spool is accepted. Where namespaces
# are not permitted it says SKIPPED, or fails if CITYGATE_REQUIRE_KAFKA=1.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
citygate=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/citygate}")

for tool in unshare nsenter ip coap-client-notls "$python" "$citygate"; do
  if ! command -v "$tool" >/dev/null; then echo "interop needs $tool" >&2 && exit 1; fi
done
if [[ -z ${TEST_NAMESPACE:-} ]]; then
  export TEST_NAMESPACE=own
  for how in --net '--map-root-user --net'; do
    # shellcheck disable=SC2086
    if unshare $how true 2>/dev/null; then exec unshare $how -- "$0" "$citygate"; fi
  done
  echo "SKIPPED $0: network namespaces are not permitted here" >&2
  [[ ${CITYGATE_REQUIRE_KAFKA:-0} != 1 ]]
  exit
fi

work=$(mktemp -d)
children=()

finish() {
  local code=$?
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  if ((code)) && [[ -f $work/citygate.log ]]; then tail -n 20 "$work/citygate.log" >&2; fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

# --- the cable: `gate` here, `city` where the clients are

unshare --net sleep infinity &
clients=$!
children+=("$clients")
for ((tries = 0; tries < 100; tries++)); do
  if [[ $(readlink "/proc/$clients/ns/net") != "$(readlink /proc/self/ns/net)" ]]; then break; fi
  sleep 0.05
done
there() { nsenter --target "$clients" --net -- "$@"; }

ip link set lo up
ip link add gate type veth peer name city
ip link set city netns "$clients"
for address in 10.77.0.1/24 10.77.0.2/24 fd77::1/64 fd77::2/64 fe80::77/64; do
  if [[ $address == *:* ]]; then ip address add "$address" dev gate nodad; else ip address add "$address" brd + dev gate; fi
done
# A whole network that is routed to this host, without any interface that has it.
ip -6 route add local fd78::/64 dev lo
ip link set gate up
there ip link set lo up
there ip address add 10.77.0.9/24 brd + dev city
there ip address add fd77::9/64 dev city nodad
there ip address add fe80::99/64 dev city nodad
there ip link set city up
there ip -6 route add fd78::/64 via fd77::1

start() { # LISTEN
  rm -rf "$work/state"
  cat >"$work/citygate.toml" <<TOML
state_dir = "$work/state"
[mqtt]
enabled = false
[http]
enabled = false
[coap]
listen = $1
# Meant: the namespace has no other network.
allow_plaintext = true
allow_anonymous = true
[admin]
listen = "127.0.0.1:9464"
[kafka]
bootstrap_servers = "127.0.0.1:9"
TOML
  "$citygate" run --config "$work/citygate.toml" >"$work/citygate.log" 2>&1 &
  gateway=$!
  children+=("$gateway")
  "$python" tests/interop/addresses.py ready
}

stop() {
  kill -TERM "$gateway"
  wait "$gateway"
}

asked=0
ask() { # ADDRESS...
  there "$python" tests/interop/addresses.py ask "$@"
  asked=$((asked + 2 * $#)) # a confirmable and a non-confirmable one
  for address in "$@"; do
    # coap-client knows no interface names.
    if [[ $address == *%* ]]; then continue; fi
    # Its exit code is 0 even when nothing answers: only what it prints counts.
    said=$(there coap-client-notls -v 6 -B 4 -m post -t 50 -e '{"temperature_c":21.5}' \
      "coap://$address:5683/devices/libcoap/weather" 2>&1 || true)
    asked=$((asked + 1))
    if [[ ! $said =~ c:2\.04 ]]; then echo "coap-client, $address: no 2.04: $said" >&2 && exit 1; fi
    echo "ok  coap-client, $address"
  done
}

four=(10.77.0.1 10.77.0.2 '[fd77::1]' '[fd77::2]')
for listen in '"[::]:5683"' '["0.0.0.0:5683", "[::]:5683"]'; do
  echo "--- listen = $listen"
  asked=0
  start "$listen"
  ask "${four[@]}" '[fe80::77%city]' '[fd78::4]'
  there "$python" tests/interop/addresses.py many 10.77.0.255 255.255.255.255 224.0.0.1 'ff02::1%city'
  # Addresses come and go.
  ip address add 10.77.0.3/24 dev gate
  ip address add fd77::3/64 dev gate nodad
  ask 10.77.0.3 '[fd77::3]'
  ip address del 10.77.0.3/24 dev gate
  ip address add 10.77.0.3/24 dev gate
  ask 10.77.0.3 10.77.0.1
  ip address del 10.77.0.3/24 dev gate
  ip address del fd77::3/64 dev gate
  "$python" tests/interop/addresses.py judge "$asked" 16
  stop
done

echo '--- every address by name'
asked=0
start '["10.77.0.1:5683", "10.77.0.2:5683", "[fd77::1]:5683", "[fd77::2]:5683"]'
ask "${four[@]}"
"$python" tests/interop/addresses.py judge "$asked" 0
stop
