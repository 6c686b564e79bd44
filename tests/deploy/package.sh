#!/usr/bin/env bash
# The Debian package on a machine of its own: a small Debian with systemd in a container, without any network.
#   tests/deploy/package.sh CITYGATE
# What must hold: the service starts as its own user; it is started again after kill -9; an upgrade asks nothing, keeps an edited
# configuration and the spool, and restarts nothing where the new version would not start; what is removed and installed again is enabled as
# before; a purge that is told nothing keeps readings that are not in Kafka, and one that is told yes deletes them. The store is not
# enabled; without a database it says so and ends; with the machine's own PostgreSQL it makes its tables there, and is restarted by an
# upgrade. Kafka does not exist: every reading is spooled, and none is stored. Needs root, and Debian's systemd-container, mmdebstrap,
# curl and util-linux.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
machine=$work/machine
nspawn=
leader=

fail() { echo "FAILED: $*" >&2 && exit 1; }
inside() { nsenter --target "$leader" --mount --uts --ipc --net --pid --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

finish() {
  local code=$?
  if ((code)) && [[ -n $leader ]]; then inside journalctl --no-pager --lines 30 2>&1 || true; fi
  if [[ -n $leader ]]; then kill -9 "$leader" 2>/dev/null || true; fi
  if [[ -n $nspawn ]]; then wait "$nspawn" 2>/dev/null || true; fi
  find /sys/fs/cgroup -depth -type d -path "*/citygate-package-$$*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

# One of its own, so that what the container makes below it can be found and removed.
enter_cgroup() {
  local hierarchy
  for hierarchy in /sys/fs/cgroup/{systemd,unified}; do
    if [[ -d $hierarchy ]]; then
      mkdir "$hierarchy/citygate-package-$$"
      echo "$BASHPID" >"$hierarchy/citygate-package-$$/cgroup.procs"
    fi
  done
}

boot() {
  mkdir -p "$machine"
  tar --numeric-owner -xf "$(tests/deploy/tools.sh system)" -C "$machine"
  rm -f "$machine/etc/machine-id"
  (enter_cgroup && exec systemd-nspawn --quiet --directory "$machine" --boot --register=no --keep-unit --private-network --machine "citygate-$$" \
    --link-journal=no) </dev/null >"$work/console" 2>&1 &
  nspawn=$!
  for ((tries = 0; tries < 600; tries++)); do
    if ! kill -0 "$nspawn" 2>/dev/null; then cat "$work/console" >&2 && fail 'the container ended'; fi
    leader=$(ps --ppid "$nspawn" -o pid= | tr -d ' ' || true) # systemd of the container
    if [[ -n $leader ]] && inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then return; fi
    sleep 0.2
  done
  cat "$work/console" >&2
  fail 'the container does not boot'
}

pid() { inside systemctl show --property MainPID --value citygate; }

until_ready() {
  for ((tries = 0; tries < 300; tries++)); do
    if inside citygate health --ready --config /etc/citygate/citygate.toml >"$work/health" 2>&1; then return; fi
    sleep 0.2
  done
  fail "the gateway is not ready: $(cat "$work/health")"
}

post() { # HOW_MANY
  local status reading
  for ((reading = 0; reading < $1; reading++)); do
    status=$(nsenter --target "$leader" --net curl -s -o /dev/null -w '%{http_code}' -d '{"power_w":1}' "http://127.0.0.1:8080/devices/meter-$reading/energy")
    [[ $status == 204 ]] || fail "a reading is answered $status"
  done
}

holds() { # READINGS
  local found
  found=$(nsenter --target "$leader" --net curl -s http://127.0.0.1:9464/metrics | sed -n 's/^citygate_spool_readings //p')
  [[ $found == "$1" ]] || fail "the spool holds ${found:-nothing}, not $1 readings"
}

install() { # VERSION
  local package
  package=$(COMPRESSION=none deploy/debian/build.sh "$citygate" "$1" "$work" 2>"$work/build.log") || { cat "$work/build.log" && fail 'no package'; }
  cp "$package" "$machine/root/citygate.deb"
  inside DEBIAN_FRONTEND=noninteractive dpkg --install /root/citygate.deb </dev/null >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" && fail dpkg; }
}

state() { inside systemctl show --property "$1" --value citygate-store; } # PROPERTY
await() { # WHAT COMMAND...
  for ((tries = 0; tries < 300; tries++)); do
    if "${@:2}" >/dev/null 2>&1; then return; fi
    sleep 0.2
  done
  fail "$1 did not happen"
}
is() { [[ $(state "$1") == "$2" ]]; } # PROPERTY VALUE

# As the superuser of the machine's PostgreSQL, and as the user of dashboards, who has a password.
sql() { inside runuser -u postgres -- psql --no-psqlrc --tuples-only --no-align --dbname city --command "$1"; }
read_only() { inside env PGPASSWORD="$grafana_password" psql --no-psqlrc --tuples-only --no-align --host 127.0.0.1 --username grafana --dbname city --command "$1"; }

# What README.md says of a server with a PostgreSQL of its own, in its own commands; that is installed here already.
documented() {
  awk '/with a PostgreSQL on the same machine:$/ {here = 1} here && /^```$/ {exit} here && inside {print} here && /^```sh$/ {inside = 1}' \
    deploy/README.md | grep -v '^apt' >"$machine/root/commands.sh"
  grep -q roles.sql "$machine/root/commands.sh" || fail 'README.md does not say how the store has its database'
  inside bash -euo pipefail /root/commands.sh >"$work/commands.log" 2>&1 || { cat "$work/commands.log" && fail 'what README.md says'; }
  grafana_password=$(head -n 1 "$work/commands.log")
}

citygate=$1
for unit in citygate citygate-store; do
  systemd-analyze security --offline=true --threshold=14 --no-pager "deploy/systemd/$unit.service" >"$work/security" ||
    fail "the unit is more open than it was: $(tail -n 1 "$work/security")"
  tail -n 1 "$work/security"
done
boot

install 0.1.0
until_ready
[[ $(inside ps -o user= -p "$(pid)") == citygate ]] || fail 'it does not run as its own user'
[[ $(inside stat -c '%U %a' /etc/citygate/citygate.toml /var/lib/citygate | tr '\n' ' ') == 'root 640 citygate 700 ' ]] || fail 'files are open to others'
echo "installed: it runs as $(inside ps -o user= -p "$(pid)"), with $(inside sh -c "grep -i '^max open files' /proc/$(pid)/limits" | awk '{print $4}') file descriptors"
post 20
holds 20

if [[ $(inside systemctl is-enabled citygate-store 2>&1) != disabled ]] || ! is ActiveState inactive; then fail 'the store is enabled, or runs'; fi
inside systemctl start citygate-store || true
await 'the end of a store without a database' is ActiveState failed
is ExecMainStatus 64 || fail "a store without a database ends with $(state ExecMainStatus)"
inside journalctl --no-pager --unit citygate-store | grep -q 'store.database_url is not set' || fail 'the store does not say what to set'
documented
await 'the tables of the store' sql 'select from city.energy'
await 'its SQL' sql 'select from city.v_city'
inside citygate health --store --config /etc/citygate/citygate.toml >"$work/health" || fail "the store does not run: $(cat "$work/health")"
if inside citygate health --store --ready --config /etc/citygate/citygate.toml >"$work/health"; then fail 'the store is ready without Kafka'; fi
[[ $(read_only 'select count(*) from city.energy') == 0 ]] || fail 'the user of dashboards cannot read'
if read_only 'begin read write; delete from city.energy' 2>"$work/refused"; then fail 'the user of dashboards may delete'; fi
grep -q 'permission denied' "$work/refused" || fail "the user of dashboards: $(cat "$work/refused")"
echo "the store: disabled; without a database it ends with 64; as README.md says it runs as $(inside ps -o user= -p "$(state MainPID)") and has" \
  "its tables ($(sql "select count(*) from pg_tables where schemaname = 'city'")), which the user of dashboards reads; $(cat "$work/health")"

# A dump, and its restore where not even the users are known, in the page's own commands.
block() { awk -v wanted="$1" '/^```sh$/ {seen++; inside = 1; next} /^```$/ {inside = 0} inside && seen == wanted' deploy/BACKUP.md; }
tables=$(sql "select count(*) from pg_tables where schemaname = 'city'")
block 2 >"$machine/root/commands.sh"
grep -q pg_dump "$machine/root/commands.sh" || fail 'BACKUP.md does not say how the database is dumped'
{
  echo 'cd /root'
  cat "$machine/root/commands.sh"
  echo 'systemctl stop citygate-store'
  printf 'runuser -u postgres -- %s\n' 'dropdb --force city' 'dropuser citygate' 'dropuser grafana'
  block 3
} >"$machine/root/restore.sh"
inside GRAFANA_PASSWORD="$grafana_password" bash -euo pipefail /root/restore.sh >"$work/commands.log" 2>&1 || { cat "$work/commands.log" && fail 'what BACKUP.md says'; }
await 'the store after the restore' inside citygate health --store --config /etc/citygate/citygate.toml
[[ $(sql "select count(*) from pg_tables where schemaname = 'city'") == "$tables" && $(read_only 'select count(*) from city.energy') == 0 ]] || fail 'the restore lacks tables'
if read_only 'begin read write; delete from city.energy' 2>"$work/refused"; then fail 'after a restore the user of dashboards may delete'; fi
echo "dump and restore, as BACKUP.md says: $tables tables, with their users and rights"

# What a person does there: a command without --config means the service's, and a reload is none that ends it.
inside runuser -u citygate -- citygate check >"$work/check" 2>&1 || true
grep -q 'spool: /var/lib/citygate/spool' "$work/check" || { cat "$work/check" && fail 'a command does not find the configuration of the service'; }
before=$(pid)
inside systemctl reload citygate
await 'the reload' inside sh -c "journalctl --no-pager --unit citygate | grep -q 'SIGHUP: identities'"
[[ $(pid) == "$before" ]] || fail 'a reload ends the gateway'
until_ready
# This small Debian installs no documentation.
dpkg-deb --extract "$machine/root/citygate.deb" "$work/content"
dead=$(cd "$work/content/usr/share/doc/citygate" && for page in *.md */*.md; do
  while read -r target; do if [[ ! -e $(dirname "$page")/$target ]]; then echo "$page: $target"; fi; done < <(grep -oP '\]\(\K[^)#:]+(?=[#)])' "$page")
done)
[[ -z $dead ]] || fail "links of the pages lead nowhere: $dead"
echo "commands find the service's configuration, a reload ends nothing, and $(find "$work/content/usr/share/doc" -name '*.md' | wc -l) pages have no dead link"

killed=$(pid)
inside kill -9 "$killed"
for ((tries = 0; tries < 100; tries++)); do
  if [[ $(pid) != 0 && $(pid) != "$killed" ]]; then break; fi
  sleep 0.1
done
until_ready
holds 20
echo 'kill -9: it was started again, and the spool holds what it held'

edited='log.level = "warn" # as this machine wants it'
inside sed -i "1i $edited" /etc/citygate/citygate.toml
before=$(pid) store_before=$(state MainPID)
install 0.1.1
until_ready
is ActiveState active && [[ $(state MainPID) != "$store_before" ]] || fail 'the store was not restarted'
if [[ $(pid) == "$before" ]] || ! inside dpkg-query -s citygate | grep -qx 'Version: 0.1.1'; then fail 'it was not upgraded'; fi
inside grep -qxF "$edited" /etc/citygate/citygate.toml || fail 'the upgrade changed the configuration'
holds 20
echo 'upgrade: it was restarted with its configuration, and the spool holds what it held'

install 0.1.0
until_ready
holds 20
echo 'downgrade: the same'

inside sed -i '1i unknown.setting = 1' /etc/citygate/citygate.toml
before=$(pid) store_before=$(state MainPID)
install 0.1.1
for words in 'nothing is restarted' unknown; do
  grep -q "$words" "$work/dpkg.log" || { cat "$work/dpkg.log" && fail 'an upgrade does not say that its program would not start'; }
done
[[ $(pid) == "$before" && $(state MainPID) == "$store_before" ]] || fail 'an upgrade ended services that would not start again'
inside sed -i 1d /etc/citygate/citygate.toml
inside runuser -u citygate -- citygate check --files >"$work/check" || { cat "$work/check" && fail 'what is in files is wrong'; }
inside systemctl restart citygate citygate-store
until_ready
holds 20
echo 'an upgrade whose program would not start: the services run on, and what is wrong is said'

inside DEBIAN_FRONTEND=noninteractive dpkg --remove citygate </dev/null >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" && fail remove; }
if inside pgrep --exact citygate; then fail 'a removal left a process'; fi
install 0.1.1
until_ready
holds 20
await 'the store, which was enabled' is ActiveState active
inside grep -qxF "$edited" /etc/citygate/citygate.toml || fail 'the removal changed the configuration'
echo 'removed and installed again: both services are enabled and run, and the spool holds what it held'

inside DEBIAN_FRONTEND=noninteractive dpkg --purge citygate >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" && fail purge; }
grep -q 'is kept: its spool holds readings' "$work/dpkg.log" || { cat "$work/dpkg.log" && fail 'the purge says nothing of readings'; }
install 0.1.1
until_ready
holds 20
echo 'purge without an answer: the readings are kept, and the next installation has them'

inside sh -c 'echo citygate citygate/delete-readings boolean true | debconf-set-selections'
inside DEBIAN_FRONTEND=noninteractive dpkg --purge citygate >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" && fail purge; }
if inside test -e /var/lib/citygate -o -e /etc/citygate; then cat "$work/dpkg.log" && fail 'the purge left files'; fi
if inside pgrep --exact citygate; then fail 'the purge left a process'; fi
echo 'purge that is told yes: nothing is left'
echo "ok     package: installed, killed, upgraded, downgraded, purged ($SECONDS s); no reading was lost"
