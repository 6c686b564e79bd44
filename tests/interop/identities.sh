#!/usr/bin/env bash
# Other people's clients prove who they are: keys, passwords, TLS and client certificates, and what they are told when they are
# refused; an operator reads the admin port.
#   tests/interop/identities.sh [CITYGATE]
# mosquitto_pub (MQTT 3.1.1 and 5), paho, MQTT.js, Eclipse Paho of Java and curl, in the clear and over TLS; openssl s_client looks at the
# protocols that are offered, and at the alerts. Without Kafka: readings are spooled, and answered positively.
# CITYGATE is the program (default: cargo's release build); PYTHON has paho-mqtt; node finds MQTT.js through NODE_PATH.
set -euo pipefail
shopt -s nocasematch # clients differ in how they write the same words
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
citygate=${1:-${CARGO_TARGET_DIR:-target}/release/citygate}
work=$(mktemp -d)
gateway=

finish() {
  local code=$?
  if [[ -n $gateway ]]; then kill "$gateway" 2>/dev/null && wait "$gateway" || true; fi
  if ((code)) && [[ -e $work/citygate.log ]]; then echo "--- the gateway's last words" && tail -n 20 "$work/citygate.log"; fi >&2
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

lacking=()
for tool in mosquitto_pub curl openssl node java mvn "$python" "$citygate"; do
  if ! command -v "$tool" >/dev/null; then lacking+=("$tool"); fi
done
if ! "$python" -c 'import paho.mqtt.client' 2>/dev/null; then lacking+=('paho.mqtt.client, of Python'); fi
if ! node -e 'require("mqtt")' 2>/dev/null; then lacking+=('mqtt, of node (NODE_PATH)'); fi
if ((${#lacking[@]})); then printf 'identities need %s\n' "${lacking[@]}" >&2 && exit 1; fi

# An authority, and a certificate of localhost.
quietly() { "$@" >"$work/openssl.log" 2>&1 || { cat "$work/openssl.log" >&2 && return 1; }; }
quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=interop authority' \
  -keyout "$work/ca.key" -out "$work/ca.pem"
quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' \
  -keyout "$work/key.pem" -out "$work/request.pem"
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >"$work/names"
quietly openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
  -extfile "$work/names" -out "$work/own.pem"
cat "$work/own.pem" "$work/ca.pem" >"$work/certificate.pem"

# Client certificates: of devices and an operator; one that is revoked, one that is over, one of another authority.
cat >"$work/ca.cnf" <<CNF
[ca]
default_ca = interop
[interop]
database = $work/index.txt
new_certs_dir = $work
serial = $work/serial
crlnumber = $work/crlnumber
certificate = $work/ca.pem
private_key = $work/ca.key
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
unique_subject = no
x509_extensions = client
[client]
basicConstraints = CA:false
extendedKeyUsage = clientAuth
[any]
commonName = supplied
CNF
touch "$work/index.txt"
echo 1000 >"$work/serial"
echo 1000 >"$work/crlnumber"
authority() { quietly openssl ca -config "$work/ca.cnf" -batch -notext "$@"; }
client() { # FILE NAME [OPTION ...]
  quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$work/$1.key" -out "$work/request.pem"
  authority -in "$work/request.pem" -out "$work/$1.pem" "${@:3}"
}
client mast-8 mast-8
client operator operator
client revoked mast-8
client over mast-8 -startdate 20200101000000Z -enddate 20210101000000Z
authority -revoke "$work/revoked.pem"
authority -gencrl -out "$work/crl.pem"
quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=another authority' \
  -keyout "$work/another.key" -out "$work/another.pem"
quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=mast-8' -keyout "$work/foreign.key" \
  -out "$work/request.pem"
printf 'extendedKeyUsage=clientAuth\n' >"$work/extensions"
quietly openssl x509 -req -in "$work/request.pem" -CA "$work/another.pem" -CAkey "$work/another.key" -CAcreateserial -days 2 \
  -extfile "$work/extensions" -out "$work/foreign.pem"

# A device with a key, one with a password, and one that is disabled.
mkdir "$work/devices"
devices() { "$citygate" devices --folder "$work/devices" "$@"; }
key=$(devices add loop-7 --kind weather --json | sed 's/.*"key":"\([^"]*\)".*/\1/')
printf 'correct horse\n' | devices add mast --password-stdin
off=$(devices add off --json | sed 's/.*"key":"\([^"]*\)".*/\1/')
devices disable off
devices add mast-8 --certificate cn:mast-8
token=$(openssl rand -hex 24)
echo "$token" >"$work/token"

read -r mqtt http admin mqtts https admins nobody < <("$python" tests/interop/check.py free-ports 7)
cat >"$work/citygate.toml" <<TOML
state_dir = "$work/state"
[mqtt]
listen = "127.0.0.1:$mqtt"
[mqtt.tls]
listen = "127.0.0.1:$mqtts"
certificate = "$work/certificate.pem"
key = "$work/key.pem"
client_certificates = "optional"
client_ca = "$work/ca.pem"
crl = "$work/crl.pem"
[coap]
enabled = false
[http]
listen = "127.0.0.1:$http"
[http.tls]
listen = "127.0.0.1:$https"
certificate = "$work/certificate.pem"
key = "$work/key.pem"
client_certificates = "optional"
client_ca = "$work/ca.pem"
crl = "$work/crl.pem"
[admin]
listen = "127.0.0.1:$admin"
token_file = "$work/token"
[admin.tls]
listen = "127.0.0.1:$admins"
certificate = "$work/certificate.pem"
key = "$work/key.pem"
client_certificates = "required"
client_ca = "$work/ca.pem"
crl = "$work/crl.pem"
[devices]
folder = "$work/devices"
[kafka]
bootstrap_servers = "127.0.0.1:$nobody"
TOML
"$citygate" run --config "$work/citygate.toml" >"$work/citygate.log" 2>&1 &
gateway=$!
for ((tries = 0; tries < 300; tries++)); do
  if curl -fs "http://127.0.0.1:$admin/readyz" >/dev/null; then break; fi
  kill -0 "$gateway" # it runs
  sleep 0.1
done

reading='{"temperature_c":-21.5}'
expect() { # WHAT PATTERN TEXT
  if [[ ! $3 =~ $2 ]]; then echo "$1: expected $2, got: $3" >&2 && exit 1; fi
  echo "ok  $1"
}

# mosquitto_pub: its exit code is that of the CONNACK, or of the PUBACK.
publish() { # VERSION PORT ID SECRET DEVICE [OPTION ...]
  local version=$1 port=$2 id=$3 secret=$4 device=$5
  shift 5
  mosquitto_pub -h localhost -p "$port" -V "$version" -q 1 -u "$id" -P "$secret" -t "devices/$device/weather" -m "$reading" "$@" 2>&1 &&
    echo published
}
for version in 311 5; do
  for way in "$mqtt" "$mqtts --cafile $work/ca.pem"; do
    read -r port tls <<<"$way"
    named="MQTT $version${tls:+ over TLS}"
    # shellcheck disable=SC2086
    {
      expect "mosquitto_pub, $named, key" '^published$' "$(publish $version "$port" loop-7 "$key" loop-7 $tls || true)"
      expect "mosquitto_pub, $named, password" '^published$' "$(publish $version "$port" mast 'correct horse' mast $tls || true)"
      expect "mosquitto_pub, $named, wrong key" '[Bb]ad user ?name or password' "$(publish $version "$port" loop-7 "$off" loop-7 $tls || true)"
      expect "mosquitto_pub, $named, disabled" '[Nn]ot authori[sz]ed' "$(publish $version "$port" off "$off" off $tls || true)"
    }
  done
done
expect 'mosquitto_pub, MQTT 5, of another device' '[Nn]ot authori[sz]ed' "$(publish 5 "$mqtt" loop-7 "$key" loop-8 || true)"

for url in "http://127.0.0.1:$http" "https://localhost:$https"; do
  post() { curl -sS -i --cacert "$work/ca.pem" -d "$reading" "$@" 2>&1 | tr -d '\r' | tr '\n' ' '; }
  expect "curl, ${url%%:*}, Basic" ' 204 ' "$(post -u "loop-7:$key" "$url/devices/loop-7/weather")"
  expect "curl, ${url%%:*}, Bearer" ' 204 ' "$(post -H "authorization: Bearer $key" "$url/devices/loop-7/weather")"
  expect "curl, ${url%%:*}, password" ' 204 ' "$(post -u 'mast:correct horse' "$url/devices/mast/weather")"
  expect "curl, ${url%%:*}, wrong" ' 401 .*www-authenticate: Basic.*unknown device, or wrong key' "$(post -u "loop-7:$off" "$url/devices/loop-7/weather")"
  expect "curl, ${url%%:*}, of another" ' 403 .*may not write for loop-8' "$(post -u "loop-7:$key" "$url/devices/loop-8/weather")"
done

# Client certificates.
shows() { # VERSION FILE DEVICE [OPTION ...]
  mosquitto_pub -h localhost -p "$mqtts" -V "$1" -q 1 --cafile "$work/ca.pem" --cert "$work/$2.pem" --key "$work/$2.key" \
    -t "devices/$3/weather" -m "$reading" "${@:4}" 2>&1 && echo published
}
for version in 311 5; do
  expect "mosquitto_pub, MQTT $version, certificate" '^published$' "$(shows $version mast-8 mast-8 || true)"
  expect "mosquitto_pub, MQTT $version, certificate and its own name" '^published$' "$(shows $version mast-8 mast-8 -u mast-8 || true)"
  expect "mosquitto_pub, MQTT $version, certificate and another name" 'bad user ?name or password' "$(shows $version mast-8 loop-7 -u loop-7 -P "$key" || true)"
  expect "mosquitto_pub, MQTT $version, certificate of no device" 'bad user ?name or password' "$(shows $version operator mast-8 || true)"
  for bad in revoked over foreign; do
    expect "mosquitto_pub, MQTT $version, $bad certificate" 'error|alert|lost' "$(shows $version $bad mast-8 || true)"
  done
done
certified() { post --cert "$work/$1.pem" --key "$work/$1.key" "https://localhost:$https/devices/$2/weather" "${@:3}" || true; }
expect 'curl, certificate' ' 204 ' "$(certified mast-8 mast-8)"
expect 'curl, certificate, of another' ' 403 .*may not write for loop-7' "$(certified mast-8 loop-7)"
expect 'curl, certificate and the key of another' ' 401 .*unknown device, or wrong key' "$(certified mast-8 loop-7 -u "loop-7:$key")"
for bad in revoked over foreign; do expect "curl, $bad certificate" 'alert|reset|error' "$(certified $bad mast-8)"; done

# Alerts, as openssl tells them; with TLS 1.3 they come after the handshake.
alerts() { timeout 5 openssl s_client -connect "localhost:$1" -CAfile "$work/ca.pem" -ign_eof "${@:2}" </dev/null 2>&1 | tr '\n' ' ' || true; }
for version in tls1_2 tls1_3; do
  told() { alerts "$mqtts" "-$version" -cert "$work/$1.pem" -key "$work/$1.key"; }
  expect "openssl, $version, revoked certificate" 'alert certificate revoked' "$(told revoked)"
  expect "openssl, $version, certificate that is over" 'alert certificate expired' "$(told over)"
  expect "openssl, $version, certificate of another authority" 'alert unknown ca' "$(told foreign)"
done
expect 'openssl, tls1_3, no certificate where it is required' 'alert certificate required' "$(alerts "$admins" -tls1_3)"

# The admin port: probes are open, everything else is for operators.
ask() { curl -sS -i --cacert "$work/ca.pem" "$@" 2>&1 | tr -d '\r' | tr '\n' ' ' || true; }
expect 'curl, admin port, /livez' ' 200 ' "$(ask "http://127.0.0.1:$admin/livez")"
expect 'curl, admin port, no token' ' 401 .*www-authenticate: Bearer' "$(ask "http://127.0.0.1:$admin/status")"
expect 'curl, admin port, wrong token' ' 401 ' "$(ask -H 'authorization: Bearer 0123456789abcdef' "http://127.0.0.1:$admin/status")"
expect 'curl, admin port, token' ' 200 .*uptime_s' "$(ask -H "authorization: Bearer $token" "http://127.0.0.1:$admin/status")"
expect 'curl, admin port, certificate' ' 200 .*uptime_s' "$(ask --cert "$work/operator.pem" --key "$work/operator.key" "https://localhost:$admins/status")"
expect 'curl, admin port, no certificate' 'alert|reset|error' "$(ask "https://localhost:$admins/status")"

expect 'paho, MQTT 5 over TLS, certificate' '^Success Success$' "$("$python" - "$mqtts" "$work" "$reading" <<'PYTHON'
import sys, threading
import paho.mqtt.client as mqtt
port, work, reading = sys.argv[1:]
done, reasons = threading.Event(), []
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=mqtt.MQTTv5)
client.tls_set(f"{work}/ca.pem", f"{work}/mast-8.pem", f"{work}/mast-8.key")
client.on_connect = lambda client, data, flags, reason, properties: (reasons.append(str(reason)), client.publish("devices/mast-8/weather", reading, qos=1))
client.on_publish = lambda client, data, mid, reason, properties: (reasons.append(str(reason)), done.set())
client.connect("localhost", int(port))
client.loop_start()
done.wait(20)
print(*reasons)
PYTHON
)"

expect 'MQTT.js, MQTT 5 over TLS, certificate' '^published; .*revoked' "$(node - "$mqtts" "$work" "$reading" <<'NODE'
const mqtt = require("mqtt"), fs = require("fs");
const [port, work, reading] = process.argv.slice(2);
const read = (name) => fs.readFileSync(`${work}/${name}`);
const options = (name) => ({ protocolVersion: 5, ca: read("ca.pem"), cert: read(`${name}.pem`), key: read(`${name}.key`), reconnectPeriod: 0, clientId: "mqttjs" });
const client = mqtt.connect(`mqtts://localhost:${port}`, options("mast-8"));
client.publish("devices/mast-8/weather", reading, { qos: 1 }, (error) => {
  client.end();
  const refused = mqtt.connect(`mqtts://localhost:${port}`, options("revoked"));
  refused.on("error", (why) => { console.log(`${error ? error.message : "published"}; ${why.message}`); refused.end(true); });
});
NODE
)"

expect 'paho, MQTT 5 over TLS, key' '^Success Success$' "$("$python" - "$mqtts" "$work/ca.pem" "$key" "$reading" <<'PYTHON'
import sys, threading
import paho.mqtt.client as mqtt
port, authority, key, reading = sys.argv[1:]
done, reasons = threading.Event(), []
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=mqtt.MQTTv5)
client.username_pw_set("loop-7", key)
client.tls_set(authority)
client.on_connect = lambda client, data, flags, reason, properties: (reasons.append(str(reason)), client.publish("devices/loop-7/weather", reading, qos=1))
client.on_publish = lambda client, data, mid, reason, properties: (reasons.append(str(reason)), done.set())
client.connect("localhost", int(port))
client.loop_start()
done.wait(20)
print(*reasons)
PYTHON
)"

expect 'MQTT.js, MQTT 5 over TLS, key' '^published; Bad User Name or Password' "$(node - "$mqtts" "$work/ca.pem" "$key" "$reading" <<'NODE'
const mqtt = require("mqtt"), fs = require("fs");
const [port, authority, key, reading] = process.argv.slice(2);
const options = (password) => ({ protocolVersion: 5, username: "loop-7", password, ca: fs.readFileSync(authority), reconnectPeriod: 0, clientId: "mqttjs" });
const client = mqtt.connect(`mqtts://localhost:${port}`, options(key));
client.publish("devices/loop-7/weather", reading, { qos: 1 }, (error) => {
  client.end();
  const refused = mqtt.connect(`mqtts://localhost:${port}`, options("wrong"));
  refused.on("error", (why) => { console.log(`${error ? error.message : "published"}; ${why.message.replace("Connection refused: ", "")}`); refused.end(true); });
});
NODE
)"

# A Java device. Its libraries, and a compiler that needs no JDK, are fetched once.
libs=${CITYGATE_CACHE:-$HOME/.cache/citygate}/java-client
if ! cmp -s tests/interop/java/pom.xml "$libs/pom.xml"; then
  rm -rf "$libs"
  mvn -q -B -f tests/interop/java/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$libs" >"$work/maven.log" 2>&1 || { cat "$work/maven.log" >&2 && exit 1; }
  cp tests/interop/java/pom.xml "$libs"
fi
java -cp "$libs/*" org.eclipse.jdt.internal.compiler.batch.Main -17 -proc:none -cp "$(printf '%s:' "$libs"/*.jar)" \
  -d "$work/java" tests/interop/java/Publish.java
for name in mast-8 revoked; do
  openssl pkcs12 -export -in "$work/$name.pem" -inkey "$work/$name.key" -passout pass: -out "$work/$name.p12"
done
of_java() { # URI DEVICE AUTHORITY CERTIFICATE USER SECRET
  java -cp "$work/java:$libs/*" Publish "$1" "devices/$2/weather" "$reading" "${@:3}" 2>&1 | tail -n 1
}
plain=tcp://localhost:$mqtt secure=ssl://localhost:$mqtts
expect 'Java, MQTT 5, key' '^published$' "$(of_java "$plain" loop-7 - - loop-7 "$key")"
expect 'Java, MQTT 5, password' '^published$' "$(of_java "$plain" mast - - mast 'correct horse')"
expect 'Java, MQTT 5, wrong key' '^refused 134 ' "$(of_java "$plain" loop-7 - - loop-7 "$off")"
expect 'Java, MQTT 5 over TLS, key' '^published$' "$(of_java "$secure" loop-7 "$work/ca.pem" - loop-7 "$key")"
expect 'Java, MQTT 5 over TLS, password' '^published$' "$(of_java "$secure" mast "$work/ca.pem" - mast 'correct horse')"
expect 'Java, MQTT 5 over TLS, certificate' '^published$' "$(of_java "$secure" mast-8 "$work/ca.pem" "$work/mast-8.p12" - -)"
# With TLS 1.3 the handshake is over for the client when it hears of it: it lost its connection, or could not make one.
expect 'Java, MQTT 5 over TLS, revoked certificate' '^refused (0|32109) ' "$(of_java "$secure" mast-8 "$work/ca.pem" "$work/revoked.p12" - -)"

# No protocol below 1.2: the client may speak it, the gateway does not.
offered() { openssl s_client -connect "localhost:$mqtts" -CAfile "$work/ca.pem" "$@" </dev/null 2>&1 | tr '\n' ' '; }
expect 'openssl, TLS 1.2' 'Verify return code: 0' "$(offered -tls1_2)"
expect 'openssl, TLS 1.3' 'Verify return code: 0' "$(offered -tls1_3)"
for old in -tls1 -tls1_1; do
  expect "openssl, ${old#-} is refused" 'alert|no protocols available|unsupported protocol' "$(offered "$old" -cipher 'ALL:@SECLEVEL=0')"
done
expect 'openssl, no cipher without forward secrecy' 'alert handshake failure|no cipher match' "$(offered -tls1_2 -cipher 'AES128-SHA:AES256-SHA:AES128-GCM-SHA256@SECLEVEL=0')"

# What was answered is what is counted.
law=$(curl -fs -H "authorization: Bearer $token" "http://127.0.0.1:$admin/metrics" | awk '
  /^citygate_readings_received_total/ { received += $2 }
  /^citygate_readings_total/ { ended += $2 }
  END { print (received > 0 && received == ended) ? "kept" : received " received, " ended " ended" }')
expect 'received = delivered + spooled + rejected + busy' '^kept$' "$law"
for secret in "$key" "$off" 'correct horse' "$token"; do
  if grep -qF -- "$secret" "$work/citygate.log"; then echo "a secret is in the log" >&2 && exit 1; fi
done
for line in 'mqtt revoked' 'mqtt expired' 'mqtt unknown_issuer' 'admin missing'; do
  pattern="a client certificate is refused listener=\"${line% *}\" peer=127.0.0.1:.* reason=\"${line#* }\""
  expect "one line of the log says $line" '^1$' "$(grep -c "$pattern" "$work/citygate.log" || true)"
done
echo 'ok  no secret is in the log'
