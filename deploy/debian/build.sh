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
install -D -m 0644 deploy/systemd/citygate.sysctl "$root/usr/lib/sysctl.d/60-citygate.conf"
install -D -m 0644 -t "$root/usr/share/citygate/schemas" schemas/*.avsc
install -D -m 0644 -t "$root/usr/share/citygate/postgres" deploy/postgres/{*.sql,*.avsc,jobs.toml}
install -D -m 0644 -t "$root/usr/share/citygate/postgres/setup" deploy/postgres/setup/*.sql
install -D -m 0644 deploy/kafka/topics.toml "$root/etc/citygate/topics.toml"
install -d -m 0755 "$root/etc/citygate"
sed -e 's|^state_dir = .*|state_dir = "/var/lib/citygate"|' -e 's|^folder = "schemas"|folder = "/usr/share/citygate/schemas"|' \
  -e 's|"deploy/kafka/topics.toml"|"/etc/citygate/topics.toml"|' -e 's|^sql_folder = "deploy/postgres"|sql_folder = "/usr/share/citygate/postgres"|' \
  deploy/citygate.toml >"$root/etc/citygate/citygate.toml"
# A setting that was renamed must not leave the package with a path of the repository.
for setting in 'state_dir = "/var/lib/citygate"' 'folder = "/usr/share/citygate/schemas"' '# topics_file = "/etc/citygate/topics.toml"' \
  'sql_folder = "/usr/share/citygate/postgres"'; do
  grep -qxF "$setting" "$root/etc/citygate/citygate.toml"
done

# The pages, with what they name beside them as in the repository.
docs=$root/usr/share/doc/citygate
install -D -m 0644 LICENSE "$docs/copyright"
install -D -m 0644 -t "$docs" deploy/*.md "$root/etc/citygate/citygate.toml"
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
printf '/etc/citygate/%s\n' citygate.toml topics.toml >"$root/DEBIAN/conffiles"
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
