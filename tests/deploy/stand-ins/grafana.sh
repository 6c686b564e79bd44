#!/bin/bash
# Answers /api/health if data sources, dashboards, passwords and authority can be read where Grafana would read them.
set -euo pipefail

for file in /etc/grafana/provisioning/{datasources,dashboards}/citygate.yaml /var/lib/citygate-dashboards/{citygate,city,devices}.json \
  "$GF_SECURITY_ADMIN_PASSWORD__FILE" \
  $(sed -n 's/.*[$]__file{\([^}]*\)}.*/\1/p; s/.*sslRootCertFile: *//p' /etc/grafana/provisioning/datasources/citygate.yaml); do
  head -c 1 "$file" >/dev/null
done
printf '%s\n' defaults ' mode http' ' timeout client 5s' 'frontend health' ' bind :3000' \
  ' http-request return status 200 content-type application/json string "{}" if { path /api/health }' >/tmp/health.cfg
exec haproxy -db -f /tmp/health.cfg
