#!/bin/bash
# The first run's job: an authority, certificates of the gateways and of PostgreSQL, tokens, passwords, and identities of the demo's
# devices; what exists is kept. All of it is in one volume; each service reads its own folder only, by its user (gateways 10001, fleet
# 10002, store 10003, PostgreSQL 999, Prometheus 65534).
set -euo pipefail

secrets=/secrets devices=${DEMO_DEVICES:-300}
umask 077
cd "$secrets"
chmod 0755 .
mkdir -p authority gateway/devices prometheus fleet postgres store
chmod 0755 fleet

# Files of one step get their names together, the one that is asked for last: a run that was ended halfway is done anew.
if [[ ! -e authority/key.pem || ! -e ca.pem ]]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=citygate compose authority' \
    -keyout authority/key.new -out ca.new 2>/dev/null
  chmod 0644 ca.new
  rm -f {gateway,postgres}/certificate.pem
  mv ca.new ca.pem
  mv authority/key.new authority/key.pem
fi

certificate() { # FOLDER NAMES
  if [[ -e $1/certificate.pem && -e $1/key.pem ]]; then return; fi
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=citygate' \
    -keyout key.new -out request.pem 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$2" >names
  openssl x509 -req -in request.pem -CA ca.pem -CAkey authority/key.pem -CAcreateserial -CAserial authority/serial -days 825 \
    -extfile names -out own.pem 2>/dev/null
  cat own.pem ca.pem >chain.new
  mv key.new "$1/key.pem"
  mv chain.new "$1/certificate.pem"
  rm -f request.pem own.pem names
}
certificate gateway "DNS:balancer,DNS:gateway-1,DNS:gateway-2,DNS:localhost,IP:127.0.0.1${PUBLIC_NAMES:+,$PUBLIC_NAMES}"
for name in ${PUBLIC_NAMES//,/ }; do
  if ! openssl x509 -noout -ext subjectAltName -in gateway/certificate.pem | tr -d ' ' | sed 's/IPAddress:/IP:/g' | tr ',' '\n' | grep -qxF "$name"; then
    echo "warning: the gateways' certificate lacks $name; to have a new one: rm /secrets/gateway/certificate.pem, and this job again" >&2
  fi
done
certificate postgres DNS:postgres

for token in gateway/admin-token gateway/metrics-token grafana-password postgres/{password,citygate-password,grafana-password}; do
  if [[ ! -e $token ]]; then openssl rand -hex 24 >"$token"; fi
done
cp gateway/metrics-token prometheus/metrics-token
cp postgres/grafana-password grafana-database-password
echo "postgresql://citygate:$(<postgres/citygate-password)@postgres:5432/city?sslmode=require" >store/database-url

# The demo's devices have a file of identities of their own, so that it can be replaced together with their keys: when either is
# missing, and when the demo has other devices than before. A device of somebody else is never replaced.
demo() {
  local identities=gateway/devices/demo.ndjson made=demo.new
  rm -rf "$made"
  mkdir -p "$made/new" "$made/all"
  if ((devices > 0)); then
    device-simulators run --devices "$devices" --mqtt balancer:8883 --http balancer:8443 --list-devices >"$made/devices.ndjson"
  else
    : >"$made/devices.ndjson"
  fi
  if [[ -e fleet/keys.ndjson && -e $identities ]] && cmp -s "$made/devices.ndjson" fleet/devices.ndjson; then return; fi
  citygate devices --folder "$made/new" --json import "$made/devices.ndjson" >"$made/keys.ndjson"
  cp -R gateway/devices/. "$made/all"
  cp "$made/new/devices.ndjson" "$made/all/demo.ndjson"
  if ! citygate devices --folder "$made/all" list >/dev/null 2>"$made/mistakes"; then
    echo "warning: the demo's devices stay as they are: $(head -n 1 "$made/mistakes")" >&2
    return
  fi
  # keys.ndjson last: a run that was ended halfway is done anew.
  rm -f fleet/keys.ndjson
  chown 10001:10001 "$made/new/devices.ndjson"
  mv "$made/new/devices.ndjson" "$identities"
  mv "$made/devices.ndjson" fleet/devices.ndjson
  mv "$made/keys.ndjson" fleet/keys.ndjson
  echo "the demo has new identities: $devices devices"
}
demo
rm -rf demo.new
touch fleet/keys.ndjson fleet/devices.ndjson

# The users of the services: citygate, the fleet, the store, PostgreSQL, Prometheus, Grafana.
chown -R 10001:10001 gateway
chown -R 10002:10002 fleet
chown -R 10003:10003 store
chown -R 999:999 postgres
chown -R 65534:65534 prometheus
chown 472:0 grafana-password grafana-database-password
echo "set up: $(wc -l <fleet/keys.ndjson) devices of the demo, certificate valid until $(openssl x509 -noout -enddate -in gateway/certificate.pem)"
