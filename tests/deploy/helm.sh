#!/usr/bin/env bash
# The chart deploy/helm/citygate: what it refuses, what it renders, and what a real API server says of that.
#   tests/deploy/helm.sh CITYGATE
# helm lint; every wrong value of helm.refused.txt is refused in its words; what is rendered with every switch passes
# kubernetes-validate --strict, and its configuration is one that the program CITYGATE accepts; then a real kube-apiserver with etcd is asked
# (server-side dry run, PodSecurity "restricted"), if helm.cluster.sh has built one: else that is said, and not done.
# Needs pip (helm and kubectl are in a package of PyPI), PYTHON with kubernetes-validate and PyYAML; for the API server apt: etcd-server.
# On a real node, with gateways that run: helm.node.sh.
set -euo pipefail

citygate=$(realpath "$1")
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
chart=deploy/helm/citygate
kubernetes=1.36 # of the schemas and of the API server
work=$(mktemp -d)
running=()

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  # At once: without etcd the API server would wait for it for ever, and nothing of either is kept.
  if ((${#running[@]})); then kill -9 "${running[@]}" 2>/dev/null || true; fi
  wait 2>/dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
fail() { echo "FAILED $*" >&2 && exit 1; }

# shellcheck source=tests/deploy/helm.tools.sh
. tests/deploy/helm.tools.sh
helm_and_kubectl "$cache" "$python"

# helm says of the link to the rules that it follows it.
quiet() { "$@" 2>"$work/helm.log" || { cat "$work/helm.log" >&2 && return 1; }; }
open=(--set "settings.kafka.bootstrap_servers=kafka:9092,devices.anonymous=true,mqtt.plaintext=true,http.plaintext=true,admin.open=true")
all=(--values tests/deploy/helm.all.yaml)
# shellcheck disable=SC2034 # by its name, as the other two
scaled=("${all[@]}" --set "autoscaling.enabled=true,autoscaling.scaleIn=true,drain.ordinals=null")

# The example of the README as it stands there.
sed -n "/<<'VALUES'$/,/^VALUES$/p" deploy/README.md | sed '1d; $d' >"$work/readme-values.yaml"
# shellcheck disable=SC2034
readme=(--values "$work/readme-values.yaml")

for values in open all scaled readme; do
  declare -n of=$values
  quiet helm lint --strict "$chart" "${of[@]}" >"$work/lint" || { cat "$work/lint" && fail "helm lint: $values"; }
  quiet helm template city "$chart" --namespace city --kube-version "$kubernetes" "${of[@]}" >"$work/$values.yaml"
done
echo "ok     helm lint --strict, with everything open, with every switch, with autoscaling, and as in the README"

refused=0
while IFS='|' read -r what how words; do
  if [[ $what == \#* ]]; then continue; fi
  read -ra how <<<"$how"
  words=$(xargs <<<"$words")
  if helm template city "$chart" "${open[@]}" "${how[@]}" >/dev/null 2>"$work/refused"; then fail "accepted: $what"; fi
  grep -qF -- "$words" "$work/refused" || { cat "$work/refused" && fail "$what: refused in other words than \"$words\""; }
  refused=$((refused + 1))
done <tests/deploy/helm.refused.txt
if helm template city "$chart" >/dev/null 2>&1; then fail 'accepted: the defaults, though nobody said who may send'; fi
echo "ok     $refused wrong values are refused, each in its words; so are the defaults alone"

# The operator's kinds are not Kubernetes' own, and not in its schemas.
"$python" tests/deploy/helm.py kubernetes "$work"/{open,all,scaled,readme}.yaml
"$python" -m kubernetes_validate --strict --kubernetes-version "$kubernetes" "$work"/{open,all,scaled,readme}.yaml.kubernetes >"$work/validate" 2>&1 ||
  { cat "$work/validate" && fail 'kubernetes-validate'; }
kinds=$(sed -n 's/^kind: //p' "$work/all.yaml" "$work/scaled.yaml" | sort -u | wc -l)
echo "ok     kubernetes-validate --strict $kubernetes: $(cat "$work"/*.kubernetes | grep -c '^kind: ') manifests of $kinds kinds (without ServiceMonitor, PrometheusRule)"

# The program reads what is rendered, with files where the pod has Secrets. Kafka and the registry do not exist; nothing else may be wrong.
mkdir -p "$work"/etc/{secrets,devices,tls/{mqtt,http,admin}}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=citygate -addext subjectAltName=DNS:citygate \
  -keyout "$work/etc/tls/mqtt/tls.key" -out "$work/etc/tls/mqtt/tls.crt" 2>/dev/null
cp "$work"/etc/tls/mqtt/* "$work/etc/tls/http"
cp "$work"/etc/tls/mqtt/* "$work/etc/tls/admin"
cp "$work/etc/tls/mqtt/tls.crt" "$work/etc/secrets/mqtt-client-ca"
printf '[ca]\ndefault_ca = own\n[own]\ndatabase = %s\ncrlnumber = %s\ndefault_md = sha256\ndefault_crl_days = 30\ncrl_extensions = of\n[of]\nauthorityKeyIdentifier = keyid\n' \
  "$work/revoked" "$work/number" >"$work/authority"
: >"$work/revoked" && echo 01 >"$work/number"
openssl ca -gencrl -config "$work/authority" -cert "$work/etc/tls/mqtt/tls.crt" -keyfile "$work/etc/tls/mqtt/tls.key" -out "$work/etc/secrets/mqtt-client-crl" 2>/dev/null
echo postgresql://citygate:hunter2@127.0.0.1:1/city >"$work/etc/secrets/database-url"
cp "$work/etc/tls/mqtt/tls.crt" "$work/etc/secrets/database-ca"
printf 'https://city:hunter2@127.0.0.1:1/\nhttp://127.0.0.1:2\n' >"$work/etc/secrets/alertmanager-urls"
for secret in kafka-sasl.password registry-password admin-token metrics-token; do openssl rand -hex 24 >"$work/etc/secrets/$secret"; done
cp -r schemas "$work/etc/schemas"
mkdir "$work/etc/config"
"$python" tests/deploy/helm.py topics "$work/all.yaml" >"$work/etc/config/topics.toml"
cmp "$work/etc/config/topics.toml" deploy/kafka/topics.toml || fail 'the list of topics is not that of deploy/kafka'
here() { sed "s|/etc/citygate|$work/etc|; s|\"kafka[^\"]*:9[^\"]*\"|\"127.0.0.1:1\"|; s|registry:8081|127.0.0.1:1|"; }
for values in open all scaled readme; do
  "$python" tests/deploy/helm.py configuration "$work/$values.yaml" | here >"$work/$values.toml"
  CITYGATE_STATE_DIR=$work/state CITYGATE_SCHEMAS__FOLDER=schemas "$citygate" check --config "$work/$values.toml" >"$work/check" 2>&1 || true
  grep '^error' "$work/check" >"$work/errors" || true
  if ! grep -q . "$work/errors" || grep -vE '^error +(kafka|registry)' "$work/errors"; then cat "$work/check" && fail "the program does not accept the configuration: $values"; fi
done
# The store's, with which the Job of topics reads the list as well.
"$python" tests/deploy/helm.py store "$work/all.yaml" | here >"$work/store.toml"
CITYGATE_SCHEMAS__FOLDER=schemas CITYGATE_STORE__DATABASE_URL_FILE=$work/etc/secrets/database-url CITYGATE_STORE__DATABASE_CA=$work/etc/secrets/database-ca \
  CITYGATE_STORE__ALERTMANAGER_URLS_FILE=$work/etc/secrets/alertmanager-urls \
  "$citygate" topics list --config "$work/store.toml" >"$work/listed" 2>&1 || { cat "$work/listed" && fail 'the program does not accept the configuration of the store'; }
grep -q '^city.alerts: ' "$work/listed" || { cat "$work/listed" && fail 'the Job of topics does not know those of results'; }
grep -qF '{name: CITYGATE_STORE__ALERTMANAGER_URLS_FILE, value: /etc/citygate/secrets/alertmanager-urls}' "$work/all.yaml" ||
  fail 'the store is not told where the URLs of Alertmanagers are'
# The store may connect to Alertmanagers if it tells any, however they are named, and not otherwise.
store=(--set "networkPolicy.enabled=true,store.enabled=true,store.databaseUrl.secret=a,store.databaseUrl.key=b")
leaves() { # PORTS VALUES...
  quiet helm template city "$chart" "${@:2}" >"$work/policy.yaml"
  local ports
  ports=$("$python" tests/deploy/helm.py egress "$work/policy.yaml" city-store)
  if [[ $ports != "$1" ]]; then fail "the store may connect to $ports, not $1: ${*:2}"; fi
}
# Another image is another Job of a drain; the same values are the same one.
drains() { quiet helm template city "$chart" "${open[@]}" --set 'drain.ordinals={3}' "$@" | sed -n 's/^  name: \(city-drain-.*\)/\1/p'; }
[[ $(drains) == city-drain-3-* && $(drains) == "$(drains)" && $(drains) != "$(drains --set image.tag=0.2.0)" && $(drains) != "$(drains --set drain.folder=spool.rescued-1)" ]] ||
  fail 'a drain of another image would change a Job, which cannot be changed'
leaves 5432 "${open[@]}" "${store[@]}"
leaves '5432 9093' "${open[@]}" "${store[@]}" --set-json 'settings.store.alertmanager_urls=["http://alerts:9093"]'
leaves '5433 9094' "${all[@]}"
cmp <("$python" tests/deploy/helm.py rules "$work/all.yaml") <("$python" tests/deploy/helm.py yaml deploy/prometheus/rules.yaml) ||
  fail 'the rules are not those of deploy/prometheus'
helm template city "$chart" "${all[@]}" --set prometheusRule.runbook=https://wiki.example/RUNBOOK.md 2>/dev/null >"$work/linked.yaml"
grep -q 'runbook_url: https://wiki.example/RUNBOOK.md#citygatedown$' "$work/linked.yaml" || fail 'alerts do not lead to the runbook that a value names'
if grep -q 'deploy/RUNBOOK.md' "$work/linked.yaml"; then fail 'an alert leads to another runbook than the value names'; fi
echo "ok     the program accepts what is rendered as its settings, of gateways and store; the rules are those of deploy/prometheus"

if [[ ! -x $cache/k8s/bin/kube-apiserver ]] || ! command -v etcd >/dev/null; then
  echo "note   NOT DONE: no API SERVER was asked, as there is no $cache/k8s/bin/kube-apiserver, or no etcd (tests/deploy/helm.cluster.sh build: ten minutes)"
  exit 0
fi

# === a real API server ===
read -r etcd_port peer_port api_port < <("$python" -c '
import socket
open = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in open))')
etcd --data-dir "$work/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
  --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-cluster "default=http://127.0.0.1:$peer_port" >"$work/etcd.log" 2>&1 &
running+=($!)
openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,1,\"system:masters\"" >"$work/tokens.csv"
"$cache/k8s/bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$api_port" \
  --cert-dir="$work/certs" --service-account-key-file="$work/sa.key" --service-account-signing-key-file="$work/sa.key" \
  --service-account-issuer=https://localhost --token-auth-file="$work/tokens.csv" --authorization-mode=RBAC \
  --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/24 >"$work/apiserver.log" 2>&1 &
running+=($!)
cat >"$work/kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:$api_port", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: c, context: {cluster: c, user: u, namespace: city}}]
current-context: c
Y
export KUBECONFIG=$work/kubeconfig
for ((tries = 0; ; tries++)); do
  if kubectl get --raw /readyz >/dev/null 2>&1; then break; fi
  if ((tries > 300)); then tail -n 5 "$work"/{etcd,apiserver}.log >&2 && fail 'the API server does not start'; fi
  sleep 0.2
done
kubectl create namespace city >/dev/null
kubectl label namespace city pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null
"$python" tests/deploy/helm.py operator | kubectl apply --filename - >/dev/null
kubectl wait --for=condition=Established crd --all --timeout=30s >/dev/null
server() { kubectl apply --server-side --dry-run=server --filename "$1" 2>&1; }
objects=0
for values in open all scaled readme; do
  server "$work/$values.yaml" >"$work/said" || { cat "$work/said" && fail "the API server refuses $values"; }
  if grep -i warning "$work/said"; then fail "the API server warns of $values"; fi
  objects=$((objects + $(grep -c 'serverside-applied' "$work/said")))
done
# It does refuse, and PodSecurity does look: else what is above would say nothing.
sed 's/maxUnavailable: 1/maximallyUnavailable: 1/' "$work/all.yaml" >"$work/planted.yaml"
if server "$work/planted.yaml" >"$work/said"; then fail 'the API server accepts a field that does not exist'; fi
sed 's/allowPrivilegeEscalation: false/allowPrivilegeEscalation: true/' "$work/all.yaml" >"$work/planted.yaml"
server "$work/planted.yaml" >"$work/said" || true
if ! grep -q 'would violate PodSecurity "restricted' "$work/said"; then cat "$work/said" && fail 'PodSecurity does not look'; fi
# Pods, as the StatefulSet and the Jobs would make them, are enforced on, not only warned of.
kubectl create serviceaccount city >/dev/null
kubectl apply --filename - >/dev/null <<<'{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 1}'
"$python" tests/deploy/helm.py pods "$work/all.yaml" >"$work/pods.yaml"
server "$work/pods.yaml" >"$work/said" || { cat "$work/said" && fail 'the API server refuses a pod'; }
echo "ok     kube-apiserver $(kubectl version 2>/dev/null | sed -n 's/^Server Version: //p'): $objects objects accepted without a warning (server-side dry run), $(grep -c 'serverside-applied' "$work/said") pods in a namespace" \
  "with PodSecurity restricted; a field that does not exist and a privilege are refused"
