#!/bin/bash
# The first run's job: an authority, the gateways' certificate, tokens, and identities of the demo's devices; what exists is kept.
# All of it is in one volume; each service reads its own folder only, by its user.
set -euo pipefail

secrets=/secrets devices=${DEMO_DEVICES:-300}
umask 077
cd "$secrets"
chmod 0755 .
mkdir -p authority gateway/devices prometheus fleet
chmod 0755 fleet

if [[ ! -e authority/key.pem ]]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=citygate compose authority' \
    -keyout authority/key.pem -out ca.pem 2>/dev/null
  chmod 0644 ca.pem
fi

if [[ ! -e gateway/certificate.pem ]]; then
  names=DNS:balancer,DNS:gateway-1,DNS:gateway-2,DNS:localhost,IP:127.0.0.1
  if [[ -n ${PUBLIC_NAMES:-} ]]; then names+=,$PUBLIC_NAMES; fi
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=citygate' \
    -keyout gateway/key.pem -out request.pem 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" >names
  openssl x509 -req -in request.pem -CA ca.pem -CAkey authority/key.pem -CAcreateserial -CAserial authority/serial -days 825 \
    -extfile names -out own.pem 2>/dev/null
  cat own.pem ca.pem >gateway/certificate.pem
  rm -f request.pem own.pem names
fi

for token in gateway/admin-token gateway/metrics-token grafana-password; do
  if [[ ! -e $token ]]; then openssl rand -hex 24 >"$token"; fi
done
cp gateway/metrics-token prometheus/metrics-token

if [[ ! -e fleet/keys.ndjson ]]; then
  device-simulators run --devices "$devices" --mqtt balancer:8883 --http balancer:8443 --list-devices >fleet/devices.ndjson
  citygate devices --folder gateway/devices --json import fleet/devices.ndjson >fleet/keys.new
  mv fleet/keys.new fleet/keys.ndjson
fi

# The users of the images: citygate and the fleet, Prometheus, Grafana.
chown -R 10001:10001 gateway fleet
chown -R 65534:65534 prometheus
chown 472:0 grafana-password
echo "set up: $(wc -l <fleet/keys.ndjson) devices, certificate valid until $(openssl x509 -noout -enddate -in gateway/certificate.pem)"
