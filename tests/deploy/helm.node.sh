#!/usr/bin/env bash
# The chart on a real Kubernetes node, under load: the long form of helm.sh. About five minutes, by hand; not part of .ci/run.
#   tests/deploy/helm.node.sh CITYGATE SIMULATORS
# Two gateways are installed (restricted pods, TLS, identities, static volumes), and 90 devices send over MQTT, CoAP and HTTP through the Services
# the whole time. Then: a container is killed, a pod is deleted, both are upgraded one after the other; Kafka is frozen, and one gateway
# is scaled in with readings in its spool, which a Job sends to Kafka; it is scaled out again; the release is uninstalled. In the end
# no reading that was acknowledged is lost, and the volumes exist.
# Needs root, the programs of `helm.cluster.sh build` and what its head names, gcc, and what kafka.sh needs. The image is a stand-in for that of
# deploy/Dockerfile: the program CITYGATE and what it links.
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
  mkdir -p "$work"/{pause,root/usr/bin,root/usr/share/citygate,root/var/lib/citygate,root/tmp}
  printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' | gcc -static -O1 -x c -o "$work/pause/pause" -
  strip -o "$work/root/usr/bin/citygate" "$citygate"
  while read -r library; do
    mkdir -p "$work/root$(dirname "$library")"
    cp -L "$library" "$work/root$library"
  done < <(ldd "$citygate" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p')
  cp -r "$here/../../schemas" "$work/root/usr/share/citygate/schemas"
  "$PYTHON" "$here/helm.py" image "$work/pause.tar" localhost/pause:1 "$work/pause" /pause
  "$PYTHON" "$here/helm.py" image "$work/citygate.tar" localhost/citygate:node "$work/root" /usr/bin/citygate
  cp "$citygate" "$work/citygate" && cp "$simulators" "$work/simulators"
  IMAGES="$work/pause.tar $work/citygate.tar" "$here/helm.cluster.sh" run "$work/node" "$here/helm.node.sh" inside "$work"
  if pgrep -f "$work/" >/dev/null; then fail "processes were left: $(pgrep -af "$work/" | head -3)"; fi
  if grep -q "$work" /proc/mounts; then fail 'mounts were left'; fi
  left=$(find /sys/fs/cgroup -type d -path '*k8s.io*' 2>/dev/null | head -3)
  if [[ -n $left ]]; then fail "control groups were left: $left"; fi
  echo "ok     nothing is left: no process, no mount, no control group"
  exit
fi

# === inside: the node is ready ===
work=$2
cd "$here/../.."
export KAFKA_DATA=$work/kafka KAFKA_HOST=10.203.0.1 KAFKA_PORT=9092 KAFKA_CONTROLLER_PORT=9192 KAFKA_HEAP=384m
fleet=0
# shellcheck disable=SC2329 # the trap calls it
finish() {
  local code=$?
  if ((fleet)); then kill -9 "$fleet" 2>/dev/null || true; fi
  if ((code)); then
    kubectl get pods,pvc,jobs --namespace city --output wide || true
    kubectl get events --namespace city --sort-by=.lastTimestamp | tail -n 12 || true
    kubectl logs --namespace city --selector app.kubernetes.io/name=citygate --tail 8 --prefix || true
    tail -n 3 "$work/fleet.log" || true
  fi >&2
  kill -CONT "$(cat "$KAFKA_DATA/pid")" 2>/dev/null || true
  tests/servers/kafka.sh stop || true
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

kafka=$(tests/servers/kafka.sh start)
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
for volume in 0 1; do
  mkdir -m 777 "$work/volume-$volume"
  kubectl apply --filename - >/dev/null <<Y
{apiVersion: v1, kind: PersistentVolume, metadata: {name: volume-$volume}, spec: {capacity: {storage: 3Gi}, accessModes: [ReadWriteOnce],
  hostPath: {path: $work/volume-$volume}, storageClassName: "", persistentVolumeReclaimPolicy: Retain}}
Y
done
cat >"$work/values.yaml" <<Y
image: {repository: localhost/citygate, tag: node}
settings:
  kafka: {bootstrap_servers: "$kafka", create_topics: true}
  spool: {bytes_max: 512 MiB}
  drain: {delay: 7s, deadline: 10s}
  limits: {prefix: {exempt: ["10.0.0.0/8"]}}
storage: {size: 3Gi, className: "-"}
mqtt: {plaintext: true}
http: {plaintext: true, tlsSecret: tls}
coap: {enabled: true}
devices: {secret: identities, anonymous: true}
admin: {tlsSecret: tls, token: {secret: admin, key: token}, metricsToken: {secret: admin, key: metrics-token}}
resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}
preStopSeconds: 2
Y
began=$SECONDS
helm install city deploy/helm/citygate --namespace city --values "$work/values.yaml" --wait --timeout 150s >"$work/helm.log" 2>&1 || { cat "$work/helm.log" && fail 'helm install'; }
done_in 'helm install --wait: 2 gateways are ready, restricted, with TLS and identities from Secrets'

address() { kubectl get service "$1" --output jsonpath='{.spec.clusterIP}'; }
tcp=$(address city) udp=$(address city-coap)
ask_https() { curl -s -m 8 -o /dev/null -w '%{http_code}' --cacert "$work/tls.crt" --connect-to "citygate:8443:$tcp:8443" -d '{"power_w":1}' "$@" https://citygate:8443/devices/known-1/energy; }
[[ $(ask_https) == 401 && $(ask_https -u "known-1:$key") == 204 ]] || fail 'a device with an identity is accepted with its key alone'
# kube-proxy learns of each Service's gateways a little later than the pods are ready.
ping_coap() { timeout 1 bash -c "exec 3<>/dev/udp/$udp/5683; printf '\x40\x00\x12\x34' >&3; head -c 4 <&3"; }
await 30 'an answer over CoAP' ping_coap
"$work/simulators" run --mqtt "$tcp:1883" --coap "$udp:5683" --http "$tcp:8080" --kafka "$kafka" --devices 90 --seconds 900 --read-timeout 60 \
  --silence-timeout 90s --json >"$work/fleet.json" 2>"$work/fleet.log" &
fleet=$!
pod() { kubectl get pod "$1" --output jsonpath="$2"; }
metric() { # POD NAME
  curl -s -m 5 -k -H "authorization: Bearer $token" "https://$(pod "$1" '{.status.podIP}'):9465/metrics" | sed -n "s/^$2 //p"
}
holds() { (($(metric "$1" citygate_spool_readings) > "$2")); } # POD READINGS
received() { curl -s -m 5 -k -H "authorization: Bearer $token" "https://$(pod "$1" '{.status.podIP}'):9465/metrics" | grep -q '^citygate_readings_received_total.*protocol="coap".* [1-9]'; }
await 60 'readings over CoAP at one of the gateways' eval 'received city-0 || received city-1'

began=$SECONDS
container=$(pod city-0 '{.status.containerStatuses[0].containerID}')
ctr -a "$CONTAINERD" -n k8s.io tasks kill --signal SIGKILL "${container#containerd://}"
ready() { [[ $(pod "$1" '{.status.containerStatuses[0].ready}') == true ]]; }
restarted() { [[ $(pod city-0 '{.status.containerStatuses[0].restartCount}') == 1 ]] && ready city-0; }
await 90 'a new container' restarted
done_in 'a container killed -9 under load is ready again'

uid=$(pod city-1 '{.metadata.uid}')
kubectl delete pod city-1 >/dev/null
another() { [[ $(pod city-1 '{.metadata.uid}') != "$uid" ]] && ready city-1; }
await 120 'a new pod' another
done_in 'a pod deleted under load is ready again'

upgrade --set podAnnotations.upgraded=yes --wait --timeout 240s
upgraded() { [[ $(pod "$1" '{.metadata.annotations.upgraded}') == yes ]] && ready "$1"; }
await 240 'the upgrade of both' eval 'upgraded city-0 && upgraded city-1'
done_in 'helm upgrade: both are replaced under load, one after the other'

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
await 180 'the end of the Job' kubectl wait --for=condition=Complete job/city-drain-1 --timeout=1s
kubectl logs job/city-drain-1 | tail -n 1
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

began=$SECONDS
helm uninstall city --namespace city --wait >/dev/null
await 120 'the end of all pods' eval '! kubectl get pods --output name | grep -q .'
[[ $(kubectl get pvc --output jsonpath='{.items[*].status.phase}') == 'Bound Bound' ]] || fail 'a volume is gone'
done_in 'helm uninstall: no pod, and both volumes exist'
