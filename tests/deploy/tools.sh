#!/usr/bin/env bash
# What the proofs of deploy/ need besides Debian's packages, each built once and kept in CITYGATE_CACHE.
#   tools.sh compose     docker compose v2, as a plugin (from the Go proxy: Debian has version 1 only); prints its folder
#   tools.sh buildx      docker buildx, as a plugin: BuildKit's client, which Debian has not; prints its folder
#   tools.sh base        a small Debian with the third-party programs that stand in for their images; prints its tar file
#   tools.sh system      a small Debian with systemd, where the package is installed; prints its tar file
#   tools.sh rust        a small Debian with the part of the official Rust image that is Debian's; prints its tar file
#   tools.sh curl        the same of buildpack-deps:bookworm-curl
# Needs root, go (compose, buildx) and mmdebstrap (the others); a first call of each takes one to three minutes.
set -euo pipefail

cache=${CITYGATE_CACHE:-$HOME/.cache/citygate}
release=bookworm
compose_version=5.6.0
buildx_version=0.38.2

compose() {
  local home=$cache/compose-$compose_version
  mkdir -p "$home"
  exec 9>"$home/.lock"
  flock 9
  if [[ ! -x $home/cli-plugins/docker-compose ]]; then
    mkdir -p "$home/src" "$home/cli-plugins"
    # A module of our own: `go install` refuses modules with excludes, so they are repeated here.
    cat >"$home/src/go.mod" <<MOD
module citygate/compose
go 1.25
require github.com/docker/compose/v5 v$compose_version
exclude (
	github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc
	github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2
)
MOD
    printf '%s\n' '//go:build tools' 'package tools' 'import _ "github.com/docker/compose/v5/cmd"' >"$home/src/tools.go"
    (cd "$home/src" && go get "github.com/docker/compose/v5/cmd@v$compose_version" && go mod tidy &&
      go build -trimpath -ldflags '-s -w' -o "$home/docker-compose" github.com/docker/compose/v5/cmd) >&2
    mv "$home/docker-compose" "$home/cli-plugins/"
    rm -rf "$home/src"
  fi
  echo "$home"
}

buildx() {
  local home=$cache/buildx-$buildx_version
  mkdir -p "$home"
  exec 9>"$home/.lock"
  flock 9
  if [[ ! -x $home/cli-plugins/docker-buildx ]]; then
    mkdir -p "$home/src" "$home/cli-plugins"
    printf '%s\n' 'module citygate/buildx' 'go 1.25' >"$home/src/go.mod"
    printf '%s\n' '//go:build tools' 'package tools' 'import _ "github.com/docker/buildx/cmd/buildx"' >"$home/src/tools.go"
    (cd "$home/src" && go get "github.com/docker/buildx/cmd/buildx@v$buildx_version" &&
      go build -trimpath -ldflags '-s -w' -o "$home/docker-buildx" github.com/docker/buildx/cmd/buildx) >&2
    mv "$home/docker-buildx" "$home/cli-plugins/"
    rm -rf "$home/src"
  fi
  echo "$home"
}

# A root file system as a tar file, without what no container needs; PostgreSQL without its compiler, which is larger than all the rest.
root() { # NAME PACKAGES
  local tar=$cache/roots/$release-$1.tar
  mkdir -p "$cache/roots"
  exec 9>"$cache/roots/.lock-$1"
  flock 9
  if [[ ! -e $tar || $(cat "$tar.packages" 2>/dev/null) != "$2" ]]; then
    mmdebstrap --quiet --format=tar --variant=minbase --include="$2" \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/*/libLLVM*' \
      --dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/llvmjit*' --dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/bitcode/*' \
      "$release" "$tar.new" >&2
    mv "$tar.new" "$tar"
    echo "$2" >"$tar.packages"
  fi
  echo "$tar"
}

case ${1:-} in
  compose | buildx) "$1" ;;
  base) root base ca-certificates,curl,haproxy,openssl,postgresql-15,prometheus,prometheus-alertmanager,zlib1g ;;
  system) root system ca-certificates,debconf,postgresql-15,procps,systemd,systemd-sysv ;;
  # Besides the compiler those libraries of buildpack-deps that a dependency of ours might look for, and link if it finds them.
  rust) root rust build-essential,ca-certificates,curl,git,libcurl4-openssl-dev,libkrb5-dev,liblzma-dev,libssl-dev,perl,pkg-config,zlib1g-dev ;;
  curl) root curl ca-certificates,curl,gnupg,netbase,wget ;;
  *) sed -n '2,9s/^# //p' "$0" >&2 && exit 2 ;;
esac
