#!/bin/sh
# Makes the root file system of an image: a program, the libraries it links, and what they read; no shell, no package manager.
#   root.sh PROGRAM FOLDER [REPOSITORY]       makes FOLDER, and FOLDER-state, the empty folder for state with those above it; of REPOSITORY it has schemas, SQL, topics
# All times are SOURCE_DATE_EPOCH, so that the same program gives the same layer.
set -eu

program=$1 root=$2 repository=${3:-}
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp" "$root-state/var/lib/citygate"
install -m 0755 "$program" "$root/usr/bin/"
strip "$root/usr/bin/$(basename "$program")"

# The loader and what it would load, each at the path where the program looks for it.
ldd "$program" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf '%s\n' root:x:0:0::/:/sbin/nologin citygate:x:10001:10001::/var/lib/citygate:/sbin/nologin >"$root/etc/passwd"
printf '%s\n' root:x:0: citygate:x:10001: >"$root/etc/group"
chmod 1777 "$root/tmp"
if [ -n "$repository" ]; then
  share=$root/usr/share/citygate
  mkdir -p "$share/schemas" "$share/postgres"
  cp "$repository"/schemas/*.avsc "$share/schemas/"
  cp "$repository"/deploy/postgres/*.sql "$repository"/deploy/postgres/*.avsc "$repository/deploy/postgres/jobs.toml" "$share/postgres/"
  cp "$repository/deploy/kafka/topics.toml" "$share/"
fi
find "$root" "$root-state" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
