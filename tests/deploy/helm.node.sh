#!/usr/bin/env bash
# The chart on a real Kubernetes node, under load: the long form of helm.sh. About five minutes, by hand; not part of .ci/run.
#   tests/deploy/helm.node.sh CITYGATE SIMULATORS
# With README_ONLY=1 only what deploy/README.md says of Kubernetes, in its own commands (helm.readme.sh). Else: two gateways and two instances of the store are
# installed (restricted pods, TLS, identities, static volumes, topics by the Job), and 90 devices send
# over MQTT, CoAP and HTTP through the Services the whole time. Then: a gateway's and a store's container are killed, a pod is deleted, all are upgraded
# one after the other, and rolled back; Kafka is frozen, and one gateway is scaled in with readings in its spool, which a Job sends to Kafka; it is
# scaled out again; the release is uninstalled. In the end each reading that was acknowledged is in Kafka and one row in PostgreSQL, dashboards'
# queries are answered to their user, and the volumes exist. Kafka and PostgreSQL are processes of the node.
# Needs root, the programs of `helm.cluster.sh build` and what its head names, gcc, prometheus, and what kafka.sh and postgres.sh need. The image is that of
# deploy/Dockerfile, with the program CITYGATE.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
export PYTHON=${PYTHON:-python3}
cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
fail() { echo "FAILED $*" >&2 && exit 1; }

# === outside: images ===
if [[ $1 != inside ]]; then
  citygate=$(realpath "$1") simulators=$(realpath "$2")
  work=$(mktemp -d)
  trap 'rm -rf "$work" || true' EXIT
  # shellcheck source=tests/deploy/helm.tools.sh
  . "$here/helm.tools.sh"
  helm_and_kubectl "$cache" "$PYTHON"
  mkdir "$work/pause"
  printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' | gcc -static -O1 -x c -o "$work/pause/pause" -
  "$here/../../deploy/image/root.sh" "$citygate" "$work/root" "$here/../.."
  mkdir -p "$work/root/var/lib/citygate"
  "$PYTHON" "$here/helm.py" image "$work/pause.tar" localhost/pause:1 "$work/pause" /pause
  "$PYTHON" "$here/helm.py" image "$work/citygate.tar" registry.example/citygate:0.1.0 "$work/root" /usr/bin/citygate
  cp "$citygate" "$work/citygate" && cp "$simulators" "$work/simulators"
  IMAGES="$work/pause.tar $work/citygate.tar" "$here/helm.cluster.sh" run "$work/node" "$here/helm.node.sh" inside "$work"
  if pgrep -f "$work/" >/dev/null; then fail "processes were left: $(pgrep -af "$work/" | head -3)"; fi
  if grep -q "$work" /proc/mounts; then fail 'mounts were left'; fi
  left=$(find /var/lib/{kubelet,cni} /var/log/{pods,containers} /run/{netns,containerd} -newer "$work/pause" 2>/dev/null | head -3 || true)
  if [[ -n $left ]]; then fail "files were left: $left"; fi
  left=$(find /sys/fs/cgroup -type d -path '*k8s.io*' 2>/dev/null | head -3)
  if [[ -n $left ]]; then fail "control groups were left: $left"; fi
  echo "ok     nothing is left: no process, no mount, no file, no control group"
  exit
fi

# === inside: the node is ready ===
work=$2
cd "$here/../.."
node=10.203.0.1
export KAFKA_DATA=$work/kafka KAFKA_HOST=$node KAFKA_PORT=9092 KAFKA_CONTROLLER_PORT=9192 KAFKA_HEAP=384m POSTGRES_DATA=$work/postgres POSTGRES_PORT=5432
fleet=0 prometheus=0
# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  if ((fleet)); then kill -9 "$fleet" 2>/dev/null || true; fi
  if ((prometheus)); then kill -9 "$prometheus" 2>/dev/null || true; fi
  if ((code)); then
    kubectl get pods,pvc,jobs --namespace city --output wide || true
    kubectl get events --namespace city --sort-by=.lastTimestamp | tail -n 12 || true
    kubectl logs --namespace city --selector app.kubernetes.io/name=citygate --tail 8 --prefix --max-log-requests 20 || true
    tail -n 3 "$work/fleet.log" || true
  fi >&2
  kill -CONT "$(cat "$KAFKA_DATA/pid")" 2>/dev/null || true
  tests/servers/kafka.sh stop || true
  tests/servers/postgres.sh stop || true
  exit "$code"
}
trap finish EXIT
began=$SECONDS
done_in() { echo "ok     $1 ($((SECONDS - began)) s)" && began=$SECONDS; }
await() { # SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2
  until "${@:3}" >/dev/null 2>&1; do
    if ((SECONDS > until)); then fail "$what did not happen within $1 s"; fi
    sleep 0.5
  done
}
upgrade() { helm upgrade city deploy/helm/citygate --namespace city --reuse-values "$@" >"$work/helm.log" 2>&1 || { cat "$work/helm.log" && fail 'helm upgrade'; }; }

# A PostgreSQL beyond the cluster, with a certificate; its database is made as deploy/README.md says. It runs as another user.
sql() { PGOPTIONS=--client-min-messages=warning psql -XqAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -U postgres "$@"; }
postgres() {
  chmod 711 "$work"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=db -addext "subjectAltName=IP:$node" \
    -keyout "$work/db.key" -out "$work/db.crt" 2>/dev/null
  chown nobody "$work/db.key"
  chmod 600 "$work/db.key"
  POSTGRES_SETTINGS="-c listen_addresses=0.0.0.0 -c ssl=on -c ssl_cert_file=$work/db.crt -c ssl_key_file=$work/db.key" tests/servers/postgres.sh start >/dev/null
  echo 'hostssl city citygate 10.202.0.0/24 scram-sha-256' >>"$POSTGRES_DATA/db/pg_hba.conf"
  sql -d postgres -c 'select pg_reload_conf()' -c 'drop database city' >/dev/null
  CITYGATE_PASSWORD=hunter2 sql -d postgres -f deploy/postgres/setup/roles.sql >/dev/null
  echo "postgresql://citygate:hunter2@$node:5432/city?sslmode=require" >"$work/database-url"
}

static_volume() { # NAME SIZE
  mkdir -m 777 "$work/$1"
  kubectl apply --filename - >/dev/null <<Y
{apiVersion: v1, kind: PersistentVolume, metadata: {name: $1}, spec: {capacity: {storage: $2}, accessModes: [ReadWriteOnce],
  hostPath: {path: $work/$1}, storageClassName: "", persistentVolumeReclaimPolicy: Retain}}
Y
}

kafka=$(tests/servers/kafka.sh start)
# shellcheck source=tests/deploy/helm.readme.sh
. tests/deploy/helm.readme.sh
if [[ ${README_ONLY:-} ]]; then documented && exit; fi
postgres
kubectl create namespace city >/dev/null
kubectl label namespace city pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=citygate -addext subjectAltName=DNS:citygate \
  -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
kubectl create secret tls tls --cert="$work/tls.crt" --key="$work/tls.key" >/dev/null
token=$(openssl rand -hex 24)
kubectl create secret generic admin --from-literal=token="$token" --from-literal=metrics-token="$(openssl rand -hex 24)" >/dev/null
mkdir "$work/devices"
key=$("$work/citygate" devices add --folder "$work/devices" known-1 --json | jq -r .key)
kubectl create secret generic identities --from-file="$work/devices" >/dev/null
kubectl create secret generic citygate-database --from-file=url="$work/database-url" --from-file=ca.crt="$work/db.crt" >/dev/null
# The list of topics, for one broker.
sed 's/^replication = 3/replication = 1/; s/^min_insync_replicas = 2/min_insync_replicas = 1/' deploy/kafka/topics.toml >"$work/topics.toml"
kubectl create configmap topics --from-file="$work/topics.toml" >/dev/null
for volume in 0 1; do static_volume "volume-$volume" 3Gi; done
cat >"$work/values.yaml" <<Y
image: {repository: registry.example/citygate}
settings:
  kafka: {bootstrap_servers: "$kafka"}
  spool: {bytes_max: 512 MiB}
  drain: {delay: 7s, deadline: 10s}
  limits: {prefix: {exempt: ["10.0.0.0/8"]}}
storage: {size: 3Gi, className: "-"}
mqtt: {plaintext: true}
http: {plaintext: true, tlsSecret: tls}
coap: {enabled: true}
devices: {secret: identities, anonymous: true}
admin: {tlsSecret: tls, token: {secret: admin, key: token}, metricsToken: {secret: admin, key: metrics-token}}
topics: {configMap: topics, apply: true}
store: {enabled: true, databaseUrl: {secret: citygate-database, key: url}, databaseCa: {secret: citygate-database, key: ca.crt}}
resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}
preStopSeconds: 2
Y
began=$SECONDS
helm install city deploy/helm/citygate --namespace city --values "$work/values.yaml" --wait --timeout 150s >"$work/helm.log" 2>&1 || { cat "$work/helm.log" && fail 'helm install'; }
done_in 'helm install --wait: 2 gateways and 2 instances of the store are ready, restricted, with TLS and identities from Secrets; the Job made the topics'

address() { kubectl get service "$1" --output jsonpath='{.spec.clusterIP}'; }
tcp=$(address city) udp=$(address city-coap)
ask_https() { curl -s -m 8 -o /dev/null -w '%{http_code}' --cacert "$work/tls.crt" --connect-to "citygate:8443:$tcp:8443" -d '{"power_w":1}' "$@" https://citygate:8443/devices/known-1/energy; }
[[ $(ask_https) == 401 && $(ask_https -u "known-1:$key") == 204 ]] || fail 'a device with an identity is accepted with its key alone'
# kube-proxy learns of each Service's gateways a little later than the pods are ready.
ping_coap() { timeout 1 bash -c "exec 3<>/dev/udp/$udp/5683; printf '\x40\x00\x12\x34' >&3; head -c 4 <&3"; }
await 30 'an answer over CoAP' ping_coap
# Where the devices stand: without a place a device is in no dashboard.
city=(--mqtt "$tcp:1883" --coap "$udp:5683" --http "$tcp:8080" --devices 90)
"$work/simulators" run "${city[@]}" --list-devices >"$work/places.ndjson"
CITYGATE_KAFKA__BOOTSTRAP_SERVERS=$kafka "$work/citygate" devices publish --from "$work/places.ndjson" >/dev/null
"$work/simulators" run "${city[@]}" --kafka "$kafka" --seconds 900 --read-timeout 60 \
  --silence-timeout 90s --ledger "$work/ledger" --json >"$work/fleet.json" 2>"$work/fleet.log" &
fleet=$!
pod() { kubectl get pod "$1" --output jsonpath="$2"; }
metric() { # POD NAME
  curl -s -m 5 -k -H "authorization: Bearer $token" "https://$(pod "$1" '{.status.podIP}'):9465/metrics" | sed -n "s/^$2 //p"
}
holds() { (($(metric "$1" citygate_spool_readings) > "$2")); } # POD READINGS
received() { curl -s -m 5 -k -H "authorization: Bearer $token" "https://$(pod "$1" '{.status.podIP}'):9465/metrics" | grep -q '^citygate_readings_received_total.*protocol="coap".* [1-9]'; }
await 60 'readings over CoAP at one of the gateways' eval 'received city-0 || received city-1'

began=$SECONDS
kill_container() { # POD
  local container
  container=$(pod "$1" '{.status.containerStatuses[0].containerID}')
  ctr -a "$CONTAINERD" -n k8s.io tasks kill --signal SIGKILL "${container#containerd://}"
}
kill_container city-0
store=$(kubectl get pods --selector app.kubernetes.io/component=store --output jsonpath='{.items[0].metadata.name}')
kill_container "$store"
ready() { [[ $(pod "$1" '{.status.containerStatuses[0].ready}') == true ]]; }
restarted() { [[ $(pod "$1" '{.status.containerStatuses[0].restartCount}') == 1 ]] && ready "$1"; }
await 90 'a new container' eval "restarted city-0 && restarted $store"
done_in 'a container of a gateway and one of the store, killed -9 under load, are ready again'

uid=$(pod city-1 '{.metadata.uid}')
kubectl delete pod city-1 >/dev/null
another() { [[ $(pod city-1 '{.metadata.uid}') != "$uid" ]] && ready city-1; }
await 120 'a new pod' another
done_in 'a pod deleted under load is ready again'

upgrade --set podAnnotations.upgraded=yes --wait --timeout 240s
upgraded() { [[ $(pod "$1" '{.metadata.annotations.upgraded}') == yes ]] && ready "$1"; }
await 240 'the upgrade of both' eval 'upgraded city-0 && upgraded city-1'
done_in 'helm upgrade: all are replaced under load, one after the other'
helm rollback city --namespace city --wait --timeout 240s >"$work/helm.log" 2>&1 || { cat "$work/helm.log" && fail 'helm rollback'; }
rolled_back() { [[ -z $(pod "$1" '{.metadata.annotations.upgraded}') ]] && ready "$1"; }
await 240 'the rollback of both' eval 'rolled_back city-0 && rolled_back city-1'
done_in 'helm rollback: the same, back'

kill -STOP "$(cat "$KAFKA_DATA/pid")"
# After an upgrade most connections are at the one that was replaced first.
await 90 'readings in the spool of city-1' holds city-1 20
upgrade --set replicas=1
await 120 'the end of city-1' eval '! kubectl get pod city-1'
claim=$(kubectl get pvc state-city-1 --output jsonpath='{.spec.volumeName}')
left() { # dry-run ends with 1 while there is something
  (CITYGATE_SCHEMAS__FOLDER=schemas "$work/citygate" drain --spool "$work/$claim/spool" --dry-run 2>"$work/dry-run.log" || true) |
    sed -n 's/.* holds \([0-9]*\) readings.*/\1/p'
}
stranded=$(left)
((stranded > 0)) || fail 'nothing is in the spool of city-1'
done_in "scaled in while Kafka is frozen: $stranded readings are on the volume that is left"

kill -CONT "$(cat "$KAFKA_DATA/pid")"
upgrade --set 'drain.ordinals={1}'
await 180 'the end of the Job' kubectl wait --for=condition=Complete job --selector citygate/ordinal=1 --timeout=1s
kubectl logs --selector citygate/ordinal=1 | tail -n 1
[[ $(left) == 0 ]] || fail 'the Job left readings'
done_in 'a Job has sent them to Kafka'

upgrade --set-json 'drain.ordinals=[]' --set replicas=2 --wait --timeout 150s
await 150 'city-1' ready city-1
await 120 'empty spools' eval '! holds city-0 0 && ! holds city-1 0'
done_in 'scaled out again, on the same volume'

kill -INT "$fleet"
wait "$fleet" || { cat "$work/fleet.json" && fail 'the fleet lost something'; }
fleet=0
echo "ok     fleet: $(jq -c '{acknowledged, in_kafka, lost, by_protocol: (.by_protocol | map_values(.acknowledged))}' "$work/fleet.json")"
jq -e '.lost == 0 and .acknowledged > 1000 and all(.by_protocol[]; .acknowledged > 0)' "$work/fleet.json" >/dev/null || fail 'lost, or too few'

# Each reading that the ledger knows as acknowledged is a row, and none is two.
jq -r '.reading? // empty | select(.end == "acknowledged" and .accepted) | "\(.kind)|\(.device)|\(.sequence)"' "$work/ledger" | sort >"$work/acknowledged"
stored() {
  for kind in traffic weather energy; do sql -d city -c "select '$kind', device, sequence from city.$kind where sequence is not null"; done | sort >"$work/rows"
  [[ -z $(comm -23 "$work/acknowledged" "$work/rows") ]]
}
(($(wc -l <"$work/acknowledged") > 1000)) || fail 'the ledger names too few acknowledged readings'
await 60 'rows of all acknowledged readings' stored
[[ -z $(uniq -d "$work/rows") ]] || fail "a reading is two rows: $(uniq -d "$work/rows" | head -n 1)"
[[ $(sql -d city -c 'select count(*) from city.undecodable') == 0 ]] || fail 'records are no rows'
echo "ok     store: each of $(wc -l <"$work/acknowledged") acknowledged readings is one row, of $(wc -l <"$work/rows")"
jq -r '.panels[].targets[]?.rawSql // empty' deploy/grafana/{city,devices}.json |
  sed -E 's/[$]__timeFilter\(([a-z_.]+)\)/\1 between now() - interval '"'1 day'"' and now()/g; s/$/;/' >"$work/queries.sql"
as_grafana() { psql -XqAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -U grafana -d city "$@"; }
as_grafana -f "$work/queries.sql" >"$work/answers" 2>&1 || { cat "$work/answers" && fail 'a query of a dashboard is refused'; }
seen() { (($(as_grafana -c "$(jq -r '.panels[] | select(.title == "Seen").targets[0].rawSql' deploy/grafana/devices.json)") > 80)); }
await 120 'devices in the dashboard' seen
echo "ok     dashboards: $(wc -l <"$work/queries.sql") queries are answered to the user who only reads"

began=$SECONDS
helm uninstall city --namespace city --wait >/dev/null
await 120 'the end of all pods' eval '! kubectl get pods --output name | grep -q .'
[[ $(kubectl get pvc --output jsonpath='{.items[*].status.phase}') == 'Bound Bound' ]] || fail 'a volume is gone'
done_in 'helm uninstall: no pod, and both volumes exist'
