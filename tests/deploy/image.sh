#!/usr/bin/env bash
# deploy/Dockerfile, built from its first stage to its last by a real Docker engine, and what it makes, run as deploy/README.md says.
#   tests/deploy/image.sh        by hand: it compiles with the profile `dist`, for minutes, with both cores; begin it with nice
# Proved: the file's stages and targets, by BuildKit; what the program links is in the image; size, labels, user, health; the same program
# gives the same layers; each block of the page's section "The image", pasted as it is, with a real Kafka and PostgreSQL; the demo's commands.
# Not proved: the official base images, as no registry of images can be reached. rust:… and buildpack-deps:… are stand-ins: Debian's packages
# (tools.sh), at the official image's paths this machine's Rust of the same version, and the crates of Cargo.lock, so that RUN needs no network.
# The section's blocks write /etc/citygate, in a mount namespace in which /etc is a copy: the machine's own stays as it is.
# Needs root, what docker.sh and tools.sh name, cargo of the Dockerfile's version with the crates of Cargo.lock (cargo fetch), jq, and what
# tests/servers/ and tests/interop/demo.sh need. 8 GB of disk. DOCKER_ROOT=FOLDER keeps the engine's images and cache for the next time.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
bytes_max=30000000 # of the image, whose base is empty

fail() { echo "FAILED: $*" >&2 && exit 1; }
say() { printf '%4d s  %s\n' "$((SECONDS - began))" "$*"; }
megabytes() { awk -v bytes="$1" 'BEGIN {printf "%.1f MB", bytes / 1e6}'; }

# ------------------------------------------------------------------------------------------ inside the engine's namespace

# The image that the Dockerfile names, made of a tar file, this compiler and these crates; one that is the same as before is kept.
rust_base() { # TAG TAR
  local of tar=$work/rust.tar root=$work/root cargo=usr/local/cargo rustup name
  rustup=usr/local/rustup/toolchains/$(basename "$(rustc --print sysroot)")
  local crates=$cargo/registry/src/index.crates.io-1949cf8c6b5b557f # where cargo unpacks them: paths are in messages of panics
  of=$({ cat "$2.packages" Cargo.lock && rustc --version; } | sha256sum | cut -c 1-16)
  if [[ $(docker image inspect --format '{{index .Config.Labels "of"}}' "$1" 2>/dev/null) == "$of" ]]; then return; fi
  mkdir -p "$root/$cargo/bin" "$root/$rustup/bin" "$root/$crates"
  cargo vendor --locked --offline --versioned-dirs "$root/$crates" >/dev/null 2>"$work/vendor.log" || { cat "$work/vendor.log" && fail 'crates: cargo fetch'; }
  printf '%s\n' '[source.crates-io]' 'replace-with = "here"' '[source.here]' "directory = \"/$crates\"" '[net]' 'offline = true' >"$root/$cargo/config.toml"
  cp -a "$(rustc --print sysroot)/lib" "$root/$rustup"
  for name in cargo rustc; do
    cp "$(rustc --print sysroot)/bin/$name" "$root/$rustup/bin"
    ln -s "/$rustup/bin/$name" "$root/$cargo/bin/$name"
  done
  cp "$2" "$tar"
  tar --append --file "$tar" --owner=0 --group=0 --directory "$root" usr/local/cargo usr/local/rustup
  rm -rf "$root"
  docker import --change "LABEL of=$of" --change 'ENV RUSTUP_HOME=/usr/local/rustup' --change 'ENV CARGO_HOME=/usr/local/cargo' \
    --change 'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$tar" "$1" >/dev/null
  rm "$tar"
}

bases() {
  local rust
  rust=$(sed -n 's/^FROM \(rust:[^ ]*\) .*/\1/p' deploy/Dockerfile)
  [[ $(rustc --version) == "rustc ${rust:5:4}."* ]] || fail "$(rustc --version) does not stand in for $rust"
  rust_base "$rust" "$rust_tar"
  if ! docker image inspect buildpack-deps:bookworm-curl >/dev/null 2>&1; then docker import "$curl_tar" buildpack-deps:bookworm-curl >/dev/null; fi
  say "$rust is $(rustc --version), $(grep -c '^name = ' Cargo.lock) crates, Debian's $(wc -w < <(tr , ' ' <"$rust_tar.packages")) packages and what they need"
}

# What BuildKit says stays in build.log.
logged() { BUILDKIT_PROGRESS=plain "$@" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" && fail "$*"; }; }
compiled() { sed -n 's/^#[0-9]* [0-9.]* *Finished .dist. profile .* in /compiled with the profile dist in /p' "$work/build.log"; }

# The page's command, then the other targets: the second line of the Dockerfile's head, and as compose.yaml has it.
targets() {
  local command from=$SECONDS how
  command=$(block 1 | sed -n 's/^\(docker build .* [.]\)\( .*\)\?$/\1/p')
  [[ -n $command ]] || fail 'the page does not say how the image is built'
  logged bash -c "$command"
  how=$(compiled)
  say "$command: $((SECONDS - from)) s, ${how:-the program of an earlier run}"
  logged bash -c "$(sed -n 's/^#   \(docker build .*--target fleet [.]\).*/\1/p' deploy/Dockerfile)"
  logged docker build --file deploy/Dockerfile --target setup --tag citygate-setup .
  docker run --rm --network none citygate-fleet --version >"$work/version" || fail 'the fleet does not start'
  docker run --rm --network none --volume "$PWD/deploy/compose/setup.sh:/setup.sh:ro" --volume image-secrets:/secrets --env DEMO_DEVICES=3 --env PUBLIC_NAMES= citygate-setup \
    /bin/bash /setup.sh >"$work/setup.log" 2>&1 || { cat "$work/setup.log" && fail setup; }
  [[ -s $(docker volume inspect --format '{{.Mountpoint}}' image-secrets)/gateway/certificate.pem ]] || fail 'setup made no certificate'
  say "targets fleet and setup are built, and run: $(cat "$work/version"); a certificate is made"
}

# Size and labels, and whether the page says so.
facts() {
  local bytes program id stated labels version
  bytes=$(docker image inspect --format '{{.Size}}' citygate)
  id=$(docker create citygate)
  docker cp --quiet "$id:/" "$work/files" 2>/dev/null
  docker rm "$id" >/dev/null
  program=$(stat --format %s "$work/files/usr/bin/citygate")
  (cd "$work/files" && find . -type f -size +20k -not -path './usr/bin/*' -printf '%s %p\n' | sort -rn | awk '{printf "        %7d %s\n", $1, $2}')
  say "the image has $(megabytes "$bytes"), the program in it $(megabytes "$program"); the fleet's has $(megabytes "$(docker image inspect --format '{{.Size}}' citygate-fleet)")"
  ((bytes <= bytes_max)) || fail "the image has $bytes bytes, more than $bytes_max"
  stated=$(sed -n 's/.*in .\/usr\/share\/citygate.: some \([0-9]*\) MB.*/\1/p' deploy/README.md)
  ((bytes / 500000 >= 2 * stated - 2 && bytes / 500000 <= 2 * stated + 2)) || fail "deploy/README.md says ${stated:-nothing} of $(megabytes "$bytes")"
  labels=$(docker image inspect --format '{{json .Config.Labels}}' citygate)
  jq -r 'to_entries[] | "        \(.key)=\(.value)"' <<<"$labels"
  version=$(docker run --rm citygate --version)
  [[ "citygate $(jq -r '."org.opencontainers.image.version"' <<<"$labels")" == "$version" ]] || fail "the label's version is not that of $version"
  [[ $(docker image inspect --format '{{.Config.User}}' citygate) == 10001:10001 ]] || fail 'its user is not 10001'
}

layers() { docker image inspect --format '{{join .RootFS.Layers "\n"}}' "$1"; }

# The file systems are made once more, of the same program and a while later; the compiler must not run.
again() {
  sed "s|^RUN deploy/image/root.sh|RUN : $EPOCHREALTIME \&\& deploy/image/root.sh|" deploy/Dockerfile >"$work/again.Dockerfile"
  cmp -s deploy/Dockerfile "$work/again.Dockerfile" && fail 'the Dockerfile has no line to be run again'
  logged docker build --file "$work/again.Dockerfile" --no-cache-filter citygate --tag citygate:again .
  [[ -z $(compiled) ]] || fail 'it was compiled again: the layers of the same program cannot be compared'
  if ! cmp -s <(layers citygate) <(layers citygate:again); then
    diff <(layers citygate) <(layers citygate:again) || true
    differing
    fail 'the same program has other layers'
  fi
  layers citygate | sed 's/^/        /'
  say "built again of the same program, the $(layers citygate | wc -l) layers are the same"
}

# What differs: names, modes, owners, times and sizes of the two images' files.
differing() {
  local id tag
  for tag in latest again; do
    id=$(docker create "citygate:$tag")
    docker export "$id" | tar --list --verbose --full-time --numeric-owner --file - >"$work/list-$tag"
    docker rm "$id" >/dev/null
  done
  diff "$work"/list-{latest,again} || true
}

# Block N of shell commands in the page's section.
block() { # N
  awk -v wanted="$1" '/^##/{here = /^### The image$/} here && $0 == "```" {inside = 0} inside && seen == wanted {print}
    here && $0 == "```sh" {inside = 1; seen++}' deploy/README.md
}

paste() { # N
  local files
  files=$(ulimit -Hn)
  block "$1" >"$work/block-$1.sh"
  # Where not even root may have more files than its own limit, the container cannot either.
  if grep -q 'nofile=65536' "$work/block-$1.sh" && ((files < 65536)) && ! (ulimit -n 65536) 2>/dev/null; then
    sed -i "s/nofile=65536/nofile=$files/" "$work/block-$1.sh"
    say "NOT AS THE PAGE SAYS: --ulimit nofile=$files, as this machine allows no more"
  fi
  timeout 180 bash -euo pipefail "$work/block-$1.sh" >"$work/said-$1" 2>"$work/said-$1.log" ||
    { cat "$work/block-$1.sh" "$work/said-$1" "$work/said-$1.log" && docker logs --tail 20 gateway && fail "block $1 of the section"; }
}

# As Docker and the kernel have it: who it is, what it may, and that Docker calls it healthy.
confined() { # CONTAINER
  local pid status health
  for ((tries = 0; tries < 300; tries++)); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$1")
    if [[ $health == healthy ]]; then break; fi
    sleep 0.2
  done
  [[ $health == healthy ]] || { docker inspect --format '{{json .State.Health}}' "$1" && fail "$1 is $health"; }
  pid=$(docker inspect --format '{{.State.Pid}}' "$1")
  status=$(awk '/^(Uid|Gid|Cap...|NoNewPrivs):/{printf "%s%s ", $1, $2}' "/proc/$pid/status")
  [[ $status =~ ^Uid:10001\ Gid:10001\ (Cap...:0+ ){5}NoNewPrivs:1\ $ ]] || fail "$1 runs with $status"
  [[ $(awk '$5 == "/" {print $6}' "/proc/$pid/mountinfo") =~ ^ro, ]] || fail "the root of $1 can be written"
  say "$1 is healthy, says Docker: as uid 10001, without a capability, its root is read only"
}

gateway() {
  mkdir -p "$work"/etc/{upper,work}
  mount -t overlay overlay -o "lowerdir=/etc,upperdir=$work/etc/upper,workdir=$work/etc/work" /etc
  KAFKA_PORT=9092 "$here/../servers/kafka.sh" start >/dev/null
  paste 2
  grep -q '^HTTP/1.1 204' "$work/said-2" || { cat "$work/said-2" && fail 'the reading is not accepted'; }
  jq -e 'select(.device == "meter-9" and .reading.power_w == 12.5)' <(grep '^{' "$work/said-2") >/dev/null || { cat "$work/said-2" && fail 'the reading is not in Kafka'; }
  say "$(grep -c . "$work/block-2.sh") lines pasted: topics are made, a gateway runs, its reading is seen with tail"
  confined gateway
}

store() {
  local rows=0
  export CITYGATE_PASSWORD=hunter2 PGHOST=127.0.0.1 PGUSER=postgres
  POSTGRES_PORT=5432 "$here/../servers/postgres.sh" start >/dev/null
  psql -qc 'drop database city' -c 'drop role city' # the page's own script makes it
  psql -qf deploy/postgres/setup/roles.sql >"$work/roles.log" 2>&1 || { cat "$work/roles.log" && fail roles.sql; }
  paste 3
  for ((tries = 0; tries < 100; tries++)); do
    rows=$(psql -At city -c "select count(*) from city.energy where device = 'meter-9'")
    if ((rows > 0)); then break; fi
    sleep 0.2
  done
  ((rows == 1)) || { docker logs --tail 20 store && fail "the reading is $rows rows"; }
  say "$(grep -c . "$work/block-3.sh") lines pasted: a store runs, the reading is a row"
  confined store
  local container
  for container in gateway store; do
    docker stop --time 90 "$container" >/dev/null
    [[ $(docker inspect --format '{{.State.ExitCode}}' "$container") == 0 ]] || { docker logs --tail 20 "$container" && fail "$container ends with an error"; }
  done
  say 'both end with 0 when they are stopped'
}

demo() {
  local command='docker run --rm --network host citygate demo'
  [[ $(block 1) == *$'\n'"$command "* && $(<deploy/README.md) == *"\`$command\`"* ]] || fail "the page does not say $command"
  read -ra command <<<"${command% demo}"
  "$here/../interop/demo.sh" "${command[@]}" >"$work/demo.log" 2>&1 || { cat "$work/demo.log" && fail demo; }
  say "$(cat "$work/demo.log")"
}

finish() {
  KAFKA_PORT=9092 "$here/../servers/kafka.sh" stop
  POSTGRES_PORT=5432 "$here/../servers/postgres.sh" stop
  docker ps --all --quiet | xargs -r docker rm --force --volumes >/dev/null
  docker volume rm --force image-secrets citygate-state >/dev/null
}

inside() {
  trap finish EXIT
  bases
  targets
  again
  gateway
  store
  demo
  facts # last, so that an image that is too large is seen at work
  echo "ok     image: built, $(megabytes "$(docker image inspect --format '{{.Size}}' citygate)"), and run as the page says ($((SECONDS - began)) s)"
}

# ------------------------------------------------------------------------------------------ outside

# Nothing may be left of what was started: no process, no mount, no cgroup of the engine, and /etc/citygate as it was.
nothing_left() {
  local process left=''
  for process in /proc/[0-9]*; do
    if grep -qaF -e "$work/" -e "$DOCKER_ROOT/" "$process/cmdline" 2>/dev/null; then left+=" $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | cut -c 1-80)"; fi
  done
  left+=$(grep -oF -e "$work/" -e "$DOCKER_ROOT/" /proc/mounts || true)
  left+=$(find /sys/fs/cgroup -maxdepth 2 -path "*$(cat "$work/cgroup")*" 2>/dev/null || true)
  if [[ -n $left ]]; then fail "left behind: $left"; fi
  [[ $(configured) == "$configured" ]] || fail '/etc/citygate was changed'
  echo 'ok     no process, mount or cgroup is left; /etc/citygate is as it was'
}
configured() { find /etc/citygate -printf '%p %T@ %s\n' 2>/dev/null || true; }

began=$SECONDS
if [[ ${1:-} == --inside ]]; then
  work=$2 rust_tar=$3 curl_tar=$4
  echo "$DOCKER_CGROUP" >"$work/cgroup"
  export KAFKA_DATA=$work/kafka POSTGRES_DATA=$work/postgres
  inside
  exit
fi

if (($#)); then sed -n '2,11s/^# //p' "$0" >&2 && exit 2; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0711 "$work" # PostgreSQL is another user
configured=$(configured)
if [[ -z ${DOCKER_ROOT:-} ]]; then DOCKER_ROOT=$work/engine; fi
DOCKER_CONFIG=$("$here/tools.sh" buildx)
export DOCKER_ROOT DOCKER_CONFIG DOCKER_BUILDKIT=1
rust_tar=$("$here/tools.sh" rust)
curl_tar=$("$here/tools.sh" curl)
"$here/../servers/kafka.sh" fetch
"$here/docker.sh" "$0" --inside "$work" "$rust_tar" "$curl_tar"
nothing_left
