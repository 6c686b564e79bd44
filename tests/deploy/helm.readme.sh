# shellcheck shell=bash disable=SC2154
# The section "Kubernetes" of deploy/README.md as a newcomer pastes it; helm.node.sh sources this, and has what is used here.
# What cannot be literal here: the image is imported instead of built and pushed, its program is called without docker; the cluster has no
# names (Kafka is an address), no balancers, and volumes that were made before.

# Block N of the section in this language.
pasted() { # LANGUAGE N
  awk -v language="\`\`\`$1" -v wanted="$2" '/^## /{here = /^## Kubernetes$/} here && $0 == "```" {inside = 0} inside && seen == wanted {print}
    here && $0 == language {inside = 1; seen++}' deploy/README.md |
    sed -e "/^docker build /d; /^service: /d; s/kafka:9092/$kafka/; s|citygate() {.*|citygate() { \"$work/citygate\" \"\$@\"; }|" \
      -e 's/^helm install city/& --set storage.className=-/'
}

follow() { # N DEVICE: the block of commands, which send and show a reading of the device
  {
    echo "trap 'kill \$(jobs -p) 2>/dev/null || true' EXIT" # what a person ends by hand
    pasted sh "$1"
  } >"$work/pasted-$1.sh"
  (cd "$work/clone" && bash -euo pipefail "$work/pasted-$1.sh") >"$work/said-$1" 2>"$work/said-$1.log" ||
    { cat "$work/pasted-$1.sh" "$work/said-$1" "$work/said-$1.log" && fail "block $1 of the section Kubernetes"; } >&2
  grep -q '^HTTP/.* 204' "$work/said-$1" || { cat "$work/said-$1" && fail "the reading of block $1 is not accepted"; }
  grep -q '^{"kind":"energy","device":"'"$2"'",.*"power_w":12.5' "$work/said-$1" || { cat "$work/said-$1" && fail "the reading of block $1 is not in Kafka"; }
}

# A Prometheus as the section configures one; a query of the dashboard then has an answer. Debian's is built without the search for pods, so that
# it is given their addresses.
dashboard_has_rows() {
  local query value targets
  targets=$(kubectl -n city get pods --output jsonpath='{range .items[*]}{.status.podIP}:9465,{end}')
  kubectl -n city get secret citygate-admin --output jsonpath='{.data.metrics-token}' | base64 -d >"$work/metrics-token"
  {
    printf 'global: {scrape_interval: 2s}\n'
    pasted yaml 1 | sed "s|/etc/prometheus/citygate-token|$work/metrics-token|; s|/etc/prometheus/ca.pem|$work/clone/ca.pem|
      s|kubernetes_sd_configs: .*|static_configs: [{targets: [${targets%,}]}]|; /relabel_configs/,\$d"
  } >"$work/prometheus.yaml"
  prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" --web.listen-address=127.0.0.1:9090 2>"$work/prometheus.log" &
  prometheus=$!
  query=$(jq -r '[.panels[].targets[]?.expr // empty | select(contains("citygate_readings_received_total"))][0]' deploy/grafana/citygate.json)
  query=$(sed 's/[$]__rate_interval/1m/g; s/[$]instance/.*/g; s/[$]job/citygate/g' <<<"$query")
  # shellcheck disable=SC2329 # await calls it
  rows() {
    value=$(curl -fsG http://127.0.0.1:9090/api/v1/query --data-urlencode "query=$query" | jq '.data.result | length') && ((value > 0))
  }
  await 60 "a row of the dashboard's query $query" rows
  kill "$prometheus"
  wait "$prometheus" || true
  prometheus=0
}

# As often as it is installed, so many volumes.
documented() {
  local began=$SECONDS volume
  for volume in {0..3}; do static_volume "first-$volume" 8Gi; done
  git clone -q . "$work/clone" 2>/dev/null || cp -r . "$work/clone"
  follow 1 meter-1
  echo "ok     README.md, a first look: the first reading is seen in Kafka $((SECONDS - began)) s after the first command"
  began=$SECONDS
  follow 2 meter-9
  echo "ok     README.md, for good: with TLS and a key the reading is seen in Kafka after $((SECONDS - began)) s"
  dashboard_has_rows
  echo "ok     README.md, Prometheus: a query of the dashboard has rows $((SECONDS - began)) s after the first command"
}
