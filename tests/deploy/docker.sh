#!/usr/bin/env bash
# A Docker engine of its own in a network namespace of its own: bridges, iptables rules and published ports end with it.
#   docker.sh COMMAND...        runs COMMAND there; 127.0.0.1 is the namespace's own, and nothing else can be reached
# Needs root, and Debian's docker.io, containerd, runc, iptables and iproute2. DOCKER_ROOT (default: a new folder, removed at the
# end) keeps images: a folder that is empty, new, or of an earlier call. DOCKER_CONFIG is the folder with the compose plugin (tools.sh compose).
set -euo pipefail

if [[ -z ${DOCKER_ROOT:-} ]]; then
  DOCKER_ROOT=$(mktemp -d)
  remove=$DOCKER_ROOT
fi
# At the end every process is killed whose command names this folder, so it must be nobody else's.
DOCKER_ROOT=$(realpath --canonicalize-missing "$DOCKER_ROOT")
if [[ -e $DOCKER_ROOT && ! -e $DOCKER_ROOT/.of-docker.sh && -n $(ls --almost-all "$DOCKER_ROOT") ]]; then
  echo "docker.sh: DOCKER_ROOT=$DOCKER_ROOT is neither empty nor of an earlier call: name another folder" >&2
  exit 2
fi
export DOCKER_ROOT DOCKER_HOST=unix://$DOCKER_ROOT/docker.sock DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} DOCKER_CGROUP=/citygate-docker-$$
mkdir -p "$DOCKER_ROOT"
touch "$DOCKER_ROOT/.of-docker.sh"

# What is left of an engine that was killed: its own processes name this folder, those of containers are in its cgroups.
finish() {
  local code=$? process list
  for process in /proc/[0-9]*; do
    if grep -qaF "$DOCKER_ROOT/" "$process/cmdline" 2>/dev/null; then kill -9 "${process#/proc/}" 2>/dev/null || true; fi
  done
  find /sys/fs/cgroup -path "*$DOCKER_CGROUP*" -name cgroup.procs 2>/dev/null | while read -r list; do
    while read -r process; do kill -9 "$process" 2>/dev/null || true; done < <(cat "$list" 2>/dev/null)
  done
  for ((tries = 0; tries < 20; tries++)); do
    find /sys/fs/cgroup -depth -type d -path "*$DOCKER_CGROUP*" -exec rmdir {} + 2>/dev/null || true
    if [[ -z $(find /sys/fs/cgroup -maxdepth 2 -path "*$DOCKER_CGROUP" 2>/dev/null) ]]; then break; fi
    sleep 0.2
  done
  sed -n "s|^[^ ]* \($DOCKER_ROOT/[^ ]*\) .*|\1|p" /proc/mounts | sort -r | xargs -r umount --lazy 2>/dev/null || true
  if [[ -n ${remove:-} ]]; then rm -rf "$remove"; fi
  exit "$code"
}
trap finish EXIT

# In the background, so that a signal to this script ends it at once, and with it the namespace.
# shellcheck disable=SC2016 # expanded in the namespace
unshare --net --mount --fork --kill-child bash -c '
  set -euo pipefail
  ip link set lo up
  dockerd --host "$DOCKER_HOST" --data-root "$DOCKER_ROOT/data" --exec-root "$DOCKER_ROOT/exec" --pidfile "$DOCKER_ROOT/pid" \
    --cgroup-parent "$DOCKER_CGROUP" --bip 10.200.0.1/24 --default-address-pool base=10.201.0.0/16,size=24 \
    --default-ulimit nofile=16384:16384 >"$DOCKER_ROOT/log" 2>&1 &
  for ((tries = 0; tries < 600; tries++)); do
    if docker info >/dev/null 2>&1; then break; fi
    if ! kill -0 $!; then tail "$DOCKER_ROOT/log" >&2; exit 1; fi
    sleep 0.1
  done
  code=0
  "$@" || code=$?
  docker ps -aq | xargs -r docker rm -f >/dev/null
  kill "$(cat "$DOCKER_ROOT/pid")"
  wait
  exit $code' _ "$@" &
engine=$!
trap 'kill -9 $engine; exit 1' INT TERM
wait $engine
