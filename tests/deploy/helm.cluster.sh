#!/usr/bin/env bash
# A real one-node Kubernetes (etcd, API server, controller manager, scheduler, proxy, kubelet with containerd and runc) in a network
# namespace of its own, and in those of processes and mounts: bridges, iptables rules, shims, and files under /run, /var/lib and /var/log
# vanish with them.
#   tests/deploy/helm.cluster.sh build                     the programs, from the Go module proxy, into CITYGATE_CACHE/k8s/bin: ten minutes
#   tests/deploy/helm.cluster.sh run FOLDER COMMAND...     runs the command there, with KUBECONFIG set and FOLDER for everything that is written
# IMAGES (for `run`) are tar balls of images to import; one must be localhost/pause:1. `run` needs root, and kubectl on the PATH; apt: etcd-server
# containerd runc containernetworking-plugins iptables iproute2. Not there: cluster DNS, dynamic volumes, enforcement of NetworkPolicy.
set -euo pipefail

version=1.36.3
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}/k8s

# k8s.io/kubernetes requires its staging modules at v0.0.0 and replaces them by folders; here by their published versions.
module() {
  local file staging=0.${version#1.}
  file=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
  echo 'module citygate.local/kubernetes'
  grep -E '^(go|godebug) ' "$file"
  printf 'require k8s.io/kubernetes v%s\nreplace (\n' "$version"
  grep -oE '^\s*k8s.io/[a-z0-9-]+ (=>|v0\.0\.0( |$))' "$file" | awk '{print $1}' | sort -u |
    while read -r one; do echo "  $one => $one v$staging"; done
  echo ')'
}

build() {
  local program
  mkdir -p "$cache"
  cd "$cache"
  if [[ ! -e go.sum ]]; then
    module >go.mod.new # not go.mod at once: an empty one stops the go command
    mv go.mod.new go.mod
    printf '//go:build tools\n\npackage tools\n\nimport (\n' >tools.go
    for program in "${programs[@]}"; do printf '\t_ "k8s.io/kubernetes/cmd/%s"\n' "$program" >>tools.go; done
    echo ')' >>tools.go
    go mod tidy -e
  fi
  for program in "${programs[@]}"; do
    if [[ ! -x bin/$program ]]; then
      go build -trimpath -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=v$version -X k8s.io/component-base/version.gitMajor=1
        -X k8s.io/component-base/version.gitMinor=36" -o "bin/$program" "k8s.io/kubernetes/cmd/$program"
    fi
  done
}

kubelet=0 # its process
configure() { # in FOLDER, with `ip` of the node
  openssl genrsa -out sa.key 2048 2>/dev/null
  local token
  token=$(openssl rand -hex 16)
  echo "$token,admin,1,\"system:masters\"" >tokens.csv
  cat >kubeconfig <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$ip:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: c, context: {cluster: c, user: u, namespace: city}}]
current-context: c
Y
  cat >containerd.toml <<Y
version = 2
root = "$PWD/containerd/root"
state = "$PWD/containerd/state"
[grpc]
  address = "$PWD/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$PWD/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
Y
  mkdir -p cni
  cat >cni/10.conflist <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$PWD/ipam",
    "ranges": [[{"subnet": "10.202.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
  # Machines without CAP_SYS_RESOURCE and with a cgroup v1 tree, as they come.
  cat >kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ip
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
cgroupsPerQOS: false
evictionHard: {nodefs.available: 1%, imagefs.available: 1%}
containerRuntimeEndpoint: unix://$PWD/containerd.sock
Y
}

# Containers, so that their cgroups are removed; processes and mounts vanish with their namespaces.
end() {
  local one tries
  if ((kubelet)); then kill -9 "$kubelet" && wait "$kubelet" || true; fi 2>/dev/null
  for one in $(ctr -a containerd.sock -n k8s.io tasks ls -q 2>/dev/null); do
    ctr -a containerd.sock -n k8s.io tasks kill -s SIGKILL "$one" >/dev/null 2>&1 || true
  done
  for ((tries = 0; tries < 100; tries++)); do
    if ! ctr -a containerd.sock -n k8s.io tasks ls 2>/dev/null | grep -q RUNNING; then break; fi
    sleep 0.1
  done
  for one in $(ctr -a containerd.sock -n k8s.io tasks ls -q 2>/dev/null); do
    ctr -a containerd.sock -n k8s.io tasks rm --force "$one" >/dev/null 2>&1 || true
  done
}

inside() { # COMMAND...
  local ip=10.203.0.1 bin=$cache/bin tries image folder
  # What kubelet, containerd and CNI write at fixed places.
  for folder in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
  ip link set lo up
  ip link add node0 type bridge
  ip addr add "$ip/24" dev node0
  ip link set node0 up
  ip route add default dev node0
  configure
  export KUBECONFIG=$PWD/kubeconfig CONTAINERD=$PWD/containerd.sock
  trap end EXIT
  etcd --data-dir etcd --unsafe-no-fsync >etcd.log 2>&1 &
  containerd -c containerd.toml >containerd.log 2>&1 &
  "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$ip" --cert-dir=certs --service-account-key-file=sa.key \
    --service-account-signing-key-file=sa.key --service-account-issuer="https://$ip" --token-auth-file=tokens.csv --authorization-mode=RBAC \
    --service-cluster-ip-range=10.96.0.0/24 --kubelet-preferred-address-types=InternalIP --allow-privileged=false >apiserver.log 2>&1 &
  for ((tries = 0; ; tries++)); do
    if kubectl get --raw /readyz >/dev/null 2>&1; then break; fi
    if ((tries > 300)); then tail -n 5 apiserver.log >&2 && return 1; fi
    sleep 0.2
  done
  "$bin/kube-controller-manager" --kubeconfig=kubeconfig --service-account-private-key-file=sa.key --leader-elect=false --cert-dir=certs-kcm >kcm.log 2>&1 &
  "$bin/kube-scheduler" --kubeconfig=kubeconfig --leader-elect=false >scheduler.log 2>&1 &
  "$bin/kube-proxy" --kubeconfig=kubeconfig --hostname-override=node --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
    --conntrack-tcp-timeout-close-wait=0 --cluster-cidr=10.202.0.0/24 >proxy.log 2>&1 &
  for image in $IMAGES; do ctr -a containerd.sock -n k8s.io images import "$image" >/dev/null; done
  "$bin/kubelet" --kubeconfig=kubeconfig --config=kubelet.yaml --root-dir="$PWD/kubelet" --cert-dir="$PWD/kubelet/pki" --hostname-override=node \
    --node-ip="$ip" >kubelet.log 2>&1 &
  kubelet=$!
  kubectl wait --for=create node/node --timeout=90s >/dev/null
  kubectl wait --for=condition=Ready node/node --timeout=90s >/dev/null
  "$@"
}

case ${1:-} in
  build) build ;;
  run)
    mkdir -p "$2"
    here=$(realpath "$0")
    cd "$2"
    shift 2
    code=0
    IMAGES=${IMAGES:-} unshare --net --mount --pid --mount-proc --fork --kill-child "$here" inside "$@" || code=$?
    # What containers had; rmdir removes no group that somebody uses.
    find /sys/fs/cgroup -depth -type d -path '*/k8s.io*' -exec rmdir {} + 2>/dev/null || true
    exit "$code"
    ;;
  inside) shift && inside "$@" ;;
  *) sed -n '2,9s/^# //p' "$0" >&2 && exit 2 ;;
esac
