#!/usr/bin/env bash
# Makes the Debian package of a built program, with dpkg-deb alone.
#   deploy/debian/build.sh CITYGATE VERSION FOLDER        prints FOLDER/citygate_VERSION_ARCHITECTURE.deb
# COMPRESSION=none makes it in a moment. The program is stripped; what it links decides which Debian the package is for (libc6 of where it was built, or later).
set -euo pipefail
cd "$(dirname "$0")/../.."

program=$1 version=$2 out=$3
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"

install -D -m 0755 "$program" "$root/usr/bin/citygate"
strip "$root/usr/bin/citygate"
install -D -m 0644 -t "$root/lib/systemd/system" deploy/systemd/citygate.service deploy/systemd/citygate-store.service
# Early in the order, so that whatever a machine's own files say wins.
install -D -m 0644 deploy/systemd/citygate.sysctl "$root/usr/lib/sysctl.d/10-citygate.conf"
install -D -m 0644 -t "$root/usr/share/citygate/schemas" schemas/*.avsc
install -D -m 0644 -t "$root/usr/share/citygate/postgres" deploy/postgres/{*.sql,*.avsc,jobs.toml}
install -D -m 0644 -t "$root/usr/share/citygate/postgres/setup" deploy/postgres/setup/*.sql
install -D -m 0644 -t "$root/usr/share/citygate" deploy/kafka/topics.toml
# Short, so that upgrades of the package hardly ever change it: dpkg asks nobody, and new defaults hold.
install -D -m 0644 -t "$root/etc/citygate" deploy/debian/citygate.toml

# The pages, with what they name beside them as in the repository.
docs=$root/usr/share/doc/citygate
install -D -m 0644 LICENSE "$docs/copyright"
install -D -m 0644 -t "$docs" deploy/*.md deploy/citygate.toml
for folder in prometheus alertmanager grafana kafka; do install -D -m 0644 -t "$docs/$folder" "deploy/$folder"/*; done
install -D -m 0644 -t "$docs/postgres" deploy/postgres/README.md
install -D -m 0644 -t "$docs/schemas" schemas/README.md
sed -i 's|](\.\./schemas/|](schemas/|g' "$docs"/*.md
sed -i 's|](\.\./deploy/|](../|g' "$docs/schemas/README.md"
sed -i 's|deploy/RUNBOOK.md|/usr/share/doc/citygate/RUNBOOK.md|' "$docs/prometheus"/*.yaml
# What the package does not have is named without a link.
for page in "$docs"/*.md "$docs"/*/*.md; do
  while read -r target; do
    if [[ ! -e $(dirname "$page")/$target ]]; then sed -i "s|\[\([^]]*\)\](${target}[^)]*)|\1|g" "$page"; fi
  done < <(grep -oP '\]\(\K[^)#:]+(?=[#)])' "$page" | sort -u)
done

libc=$(dpkg-query -W -f '${Version}' libc6 | sed 's/-.*//')
install -d -m 0755 "$root/DEBIAN"
install -m 0755 -t "$root/DEBIAN" deploy/debian/{postinst,prerm,postrm}
install -m 0644 -t "$root/DEBIAN" deploy/debian/templates
echo /etc/citygate/citygate.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: citygate
Version: $version
Architecture: $architecture
Section: net
Priority: optional
Maintainer: the citygate maintainers <citygate@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: debconf (>= 0.5), libc6 (>= $libc), libgcc-s1, passwd
Recommends: ca-certificates
Suggests: postgresql
Description: ingestion gateway for a city's sensors
 MQTT, CoAP and HTTP in, readings validated against Avro schemas, Kafka out. A positive answer means that a reading is
 acknowledged by all in-sync replicas or fsynced in the local spool. The service citygate-store, which is not enabled, stores readings
 from Kafka in PostgreSQL.
CONTROL

mkdir -p "$out"
dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$root" "$out" >&2
echo "$out/citygate_${version}_$architecture.deb"
