#!/usr/bin/env bash
# Runs fuzz targets for a while, two at a time; fails if one finds something, and prints where it is.
#   tests/fuzz/run.sh SECONDS [TARGET ...]
# Without cargo fuzz, which takes minutes to build and wants a nightly compiler: the flags are those that it gives, and stable.
# What is built stays in FUZZ_TARGET (default: the folder fuzz of CITYGATE_CACHE, or of ~/.cache/citygate): minutes the first time. FUZZ_FOUND (default: a temporary folder) is where
# inputs are put that fail. LAUNCH goes before each target: "nice -n 19".
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=$1
shift
targets=("$@")
if ((${#targets[@]} == 0)); then targets=(proxy_header authorization identities scanner); fi
host=$(rustc -vV | sed -n 's/^host: //p')
found=${FUZZ_FOUND:-$(mktemp -d)}
read -ra launch <<<"${LAUNCH:-}"
export CARGO_TARGET_DIR=${FUZZ_TARGET:-${CITYGATE_CACHE:-$HOME/.cache/citygate}/fuzz}
export RUSTFLAGS='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16'
RUSTFLAGS=$(tr -s '\n ' ' ' <<<"$RUSTFLAGS")
# OpenSSL of the system where it is at hand: to compile it with all this would take longer than to fuzz.
if pkg-config --exists openssl 2>/dev/null; then export OPENSSL_NO_VENDOR=1; fi
# The versions of the project itself.
cp Cargo.lock tests/fuzz/Cargo.lock
cargo build --quiet --release --manifest-path tests/fuzz/Cargo.toml --target "$host" --bins

fuzz() { # TARGET
  local corpus log=$found/$1.log dictionary=()
  corpus=$(mktemp -d)
  if [[ $1 == scanner ]]; then dictionary=(-dict=tests/fuzz/json.dict); fi
  if "${launch[@]}" "$CARGO_TARGET_DIR/$host/release/$1" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="$found/$1-" "${dictionary[@]}" "$corpus" >"$log" 2>&1; then
    echo "ok  $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(find "$corpus" -type f | wc -l) of them kept"
    rm -rf "$corpus"
  else
    tail -n 40 "$log"
    echo "FAILED $1: see $found"
    return 1
  fi
}

failed=0
for ((at = 0; at < ${#targets[@]}; at += 2)); do
  jobs=()
  for target in "${targets[@]:at:2}"; do
    fuzz "$target" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
done
exit "$failed"
