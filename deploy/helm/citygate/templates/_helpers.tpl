{{- define "citygate.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "citygate.selector" -}}
app.kubernetes.io/name: citygate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "citygate.labels" -}}
{{ include "citygate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* "20s", "2m": seconds */}}
{{- define "citygate.seconds" -}}
{{- if hasSuffix "m" . }}{{ mul 60 (trimSuffix "m" . | int) }}{{ else }}{{ trimSuffix "s" . | int }}{{ end }}
{{- end }}

{{/* "4 GiB", "512 MiB", "8Gi", "512Mi": MiB */}}
{{- define "citygate.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- if contains "G" . }}{{ mul 1024 $number }}{{ else if contains "T" . }}{{ mul 1048576 $number }}{{ else }}{{ $number }}{{ end }}
{{- end }}

{{/* What a gateway may need to end, as "Signals and the end" of deploy/README.md has it. */}}
{{- define "citygate.grace" -}}
{{- $spool := include "citygate.mebibytes" .Values.settings.spool.bytes_max | int -}}
{{- $rewrite := add1 (div $spool (int .Values.storage.mebibytesPerSecond)) -}}
{{- $delay := include "citygate.seconds" .Values.settings.drain.delay -}}
{{- $deadline := include "citygate.seconds" .Values.settings.drain.deadline -}}
{{ add (int .Values.preStopSeconds) (int $delay) (int $deadline) 60 $rewrite }}
{{- end }}

{{/* Probes of 2 s in which a start must be done, with the whole spool to be read. */}}
{{- define "citygate.startupProbes" -}}
{{- $spool := include "citygate.mebibytes" .Values.settings.spool.bytes_max | int -}}
{{ div (add (div $spool (int .Values.storage.mebibytesPerSecond)) 60) 2 | add1 }}
{{- end }}

{{/* With an autoscaler: as many as there are. */}}
{{- define "citygate.replicas" -}}
{{- $replicas := int .Values.replicas -}}
{{- if .Values.autoscaling.enabled -}}
{{- $running := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "citygate.name" .) -}}
{{- $replicas = max $replicas (int .Values.autoscaling.min) -}}
{{- if $running }}{{ $replicas = int $running.spec.replicas }}{{ end -}}
{{- end -}}
{{ $replicas }}
{{- end }}

{{/* A value in TOML: numbers of values.yaml are floats to Helm. */}}
{{- define "citygate.value" -}}
{{- if kindIs "float64" . }}{{ if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . }}[{{ range $at, $one := . }}{{ if $at }}, {{ end }}{{ include "citygate.value" $one }}{{ end }}]
{{- else }}{{ toJson . }}{{ end -}}
{{- end }}

{{- define "citygate.key" -}}
{{ if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/* A table in TOML, then the tables in it: (dict "path" "mqtt" "table" …). */}}
{{- define "citygate.table" -}}
{{- $path := .path }}
{{- if $path }}
[{{ $path }}]
{{- end }}
{{- range $key, $value := .table }}
{{- if not (kindIs "map" $value) }}
{{ include "citygate.key" $key }} = {{ include "citygate.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $inner := include "citygate.key" $key }}
{{ include "citygate.table" (dict "path" (ternary $inner (printf "%s.%s" $path $inner) (empty $path)) "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The settings with what the chart decides: addresses, TLS, files. In YAML. */}}
{{- define "citygate.settings" -}}
{{- $values := .Values -}}
{{- $settings := deepCopy $values.settings -}}
{{- range $name, $ports := dict "mqtt" (list 1883 8883) "http" (list 8080 8443) }}
{{- $listener := get $values $name -}}
{{- $table := dict "enabled" $listener.enabled "allow_anonymous" $values.devices.anonymous "allow_plaintext" $listener.plaintext -}}
{{- /* Without TLS it is beyond loopback only if that is meant; it is always there, so that a probe inside the pod finds it. */}}
{{- $_ := set $table "listen" (printf "%s:%d" (ternary "0.0.0.0" "127.0.0.1" $listener.plaintext) (index $ports 0 | int)) -}}
{{- if $listener.tlsSecret }}
{{- $tls := dict "listen" (printf "0.0.0.0:%d" (index $ports 1 | int)) "client_certificates" $listener.clientCertificates -}}
{{- $_ := set $tls "certificate" (printf "/etc/citygate/tls/%s/tls.crt" $name) -}}
{{- $_ := set $tls "key" (printf "/etc/citygate/tls/%s/tls.key" $name) -}}
{{- if $listener.clientCa }}{{ $_ := set $tls "client_ca" (printf "/etc/citygate/secrets/%s-client-ca" $name) }}{{ end -}}
{{- if $listener.clientCrl }}{{ $_ := set $tls "crl" (printf "/etc/citygate/secrets/%s-client-crl" $name) }}{{ end -}}
{{- $_ := set $table "tls" $tls -}}
{{- end }}
{{- $_ := set $settings $name (mergeOverwrite (deepCopy (get $settings $name | default dict)) $table) -}}
{{- end }}
{{- $coap := dict "enabled" $values.coap.enabled "listen" (ternary "0.0.0.0:5683" "127.0.0.1:5683" $values.coap.enabled) "allow_plaintext" $values.coap.enabled "allow_anonymous" (and $values.coap.enabled $values.devices.anonymous) -}}
{{- $_ := set $settings "coap" (mergeOverwrite (deepCopy ($settings.coap | default dict)) $coap) -}}
{{- $admin := dict "listen" (ternary "0.0.0.0:9464" "127.0.0.1:9464" $values.admin.open) -}}
{{- if $values.admin.open }}{{ $_ := set $admin "allow_plaintext" true }}{{ $_ := set $admin "allow_anonymous" true }}{{ end -}}
{{- if $values.admin.tlsSecret }}
{{- $_ := set $admin "tls" (dict "listen" "0.0.0.0:9465" "certificate" "/etc/citygate/tls/admin/tls.crt" "key" "/etc/citygate/tls/admin/tls.key") -}}
{{- end }}
{{- if $values.admin.token }}{{ $_ := set $admin "token_file" "/etc/citygate/secrets/admin-token" }}{{ end -}}
{{- if $values.admin.metricsToken }}{{ $_ := set $admin "metrics_token_file" "/etc/citygate/secrets/metrics-token" }}{{ end -}}
{{- $_ := set $settings "admin" $admin -}}
{{- if or $values.devices.secret $values.devices.claim }}
{{- $_ := set $settings "devices" (mergeOverwrite (deepCopy ($settings.devices | default dict)) (dict "folder" "/etc/citygate/devices")) -}}
{{- end }}
{{- $registry := $settings.registry | default dict -}}
{{- if $values.secrets.registryPassword }}{{ $_ := set $registry "password_file" "/etc/citygate/secrets/registry-password" }}{{ end -}}
{{- if $values.secrets.registryToken }}{{ $_ := set $registry "token_file" "/etc/citygate/secrets/registry-token" }}{{ end -}}
{{- if $registry }}{{ $_ := set $settings "registry" $registry }}{{ end -}}
{{- if $values.secrets.kafkaProperties }}
{{- $files := dict -}}
{{- range $property, $_ := $values.secrets.kafkaProperties }}{{ $_ := set $files $property (printf "/etc/citygate/secrets/kafka-%s" $property) }}{{ end -}}
{{- $_ := set $settings.kafka "properties_files" $files -}}
{{- end }}
{{- if $values.topics.bundled }}{{ $_ := set $settings.kafka "topics_file" "/etc/citygate/config/topics.toml" }}{{ end -}}
{{- if $values.topics.configMap }}{{ $_ := set $settings.kafka "topics_file" "/etc/citygate/topics/topics.toml" }}{{ end -}}
{{- toYaml $settings -}}
{{- end }}

{{- define "citygate.toml" -}}
{{ include "citygate.table" (dict "path" "" "table" (omit (include "citygate.settings" . | fromYaml) "store")) | trim }}
{{- end }}

{{/* What the store and the Job of topics read: what the gateways do, but for what only these need. Where the database is, is in their environment. */}}
{{- define "citygate.storeToml" -}}
{{- $settings := pick (include "citygate.settings" . | fromYaml) "kafka" "registry" "schemas" "log" -}}
{{- $store := mergeOverwrite (deepCopy (.Values.settings.store | default dict)) (dict "listen" "0.0.0.0:9466" "allow_anonymous" true) -}}
{{- $_ := set $settings "store" $store -}}
{{ include "citygate.table" (dict "path" "" "table" $settings) | trim }}
{{- end }}

{{/* Keys of Secrets that become files: (file, secret, key) in YAML. */}}
{{- define "citygate.secretFiles" -}}
{{- $files := (include "citygate.kafkaSecretFiles" . | fromYaml).files | default list -}}
{{- range $name := list "mqtt" "http" }}
{{- with (get $.Values $name).clientCa }}{{ $files = append $files (dict "file" (printf "%s-client-ca" $name) "secret" .secret "key" .key) }}{{ end }}
{{- with (get $.Values $name).clientCrl }}{{ $files = append $files (dict "file" (printf "%s-client-crl" $name) "secret" .secret "key" .key) }}{{ end }}
{{- end }}
{{- range $file, $of := dict "admin-token" .Values.admin.token "metrics-token" .Values.admin.metricsToken }}
{{- with $of }}{{ $files = append $files (dict "file" $file "secret" .secret "key" .key) }}{{ end }}
{{- end }}
{{- dict "files" $files | toYaml -}}
{{- end }}

{{/* Those of Kafka and of the registry alone. */}}
{{- define "citygate.kafkaSecretFiles" -}}
{{- $files := list -}}
{{- range $file, $of := dict "registry-password" .Values.secrets.registryPassword "registry-token" .Values.secrets.registryToken }}
{{- with $of }}{{ $files = append $files (dict "file" $file "secret" .secret "key" .key) }}{{ end }}
{{- end }}
{{- range $property, $of := .Values.secrets.kafkaProperties }}
{{- $files = append $files (dict "file" (printf "kafka-%s" $property) "secret" $of.secret "key" $of.key) }}
{{- end }}
{{- dict "files" $files | toYaml -}}
{{- end }}

{{/* And those of the database and of Alertmanagers. */}}
{{- define "citygate.storeSecretFiles" -}}
{{- $files := (include "citygate.kafkaSecretFiles" . | fromYaml).files | default list -}}
{{- range $file, $of := dict "database-url" .Values.store.databaseUrl "database-ca" .Values.store.databaseCa "alertmanager-urls" .Values.store.alertmanagerUrls }}
{{- with $of }}{{ $files = append $files (dict "file" $file "secret" .secret "key" .key) }}{{ end }}
{{- end }}
{{- dict "files" $files | toYaml -}}
{{- end }}

{{/* What is wrong although each value by itself is right. */}}
{{- define "citygate.check" -}}
{{- $values := .Values -}}
{{- range $name := list "mqtt" "http" }}
{{- $listener := get $values $name -}}
{{- if and $listener.enabled (not $listener.tlsSecret) (not $listener.plaintext) }}
{{- fail (printf "%s: nobody could reach it; set %s.tlsSecret, or %s.plaintext=true inside a trusted network, or %s.enabled=false" $name $name $name $name) }}
{{- end }}
{{- if and (ne $listener.clientCertificates "none") (or (not $listener.clientCa) (not $listener.tlsSecret)) }}
{{- fail (printf "%s.clientCertificates: needs %s.tlsSecret and %s.clientCa" $name $name $name) }}
{{- end }}
{{- if and $listener.clientCrl (eq $listener.clientCertificates "none") }}
{{- fail (printf "%s.clientCrl: needs %s.clientCertificates" $name $name) }}
{{- end }}
{{- end }}
{{- if and $values.coap.enabled (not $values.devices.anonymous) (not ($values.settings.coap | default dict).key_in_query) }}
{{- fail "coap: every message would be refused, as it has no credentials; set devices.anonymous=true or settings.coap.key_in_query=true inside a trusted network" }}
{{- end }}
{{- if not (or $values.mqtt.enabled $values.http.enabled $values.coap.enabled) }}
{{- fail "mqtt, http, coap: one of them must be enabled" }}
{{- end }}
{{- if and $values.serviceMonitor.enabled (not $values.admin.open) (not $values.serviceMonitor.serverName) }}
{{- fail "serviceMonitor.serverName: must be the name in the certificate of the admin port; Prometheus asks pods by their addresses" }}
{{- end }}
{{- if and (not $values.devices.secret) (not $values.devices.claim) (not $values.devices.anonymous) }}
{{- fail "devices: who may send? Set devices.secret or devices.claim, or devices.anonymous=true inside a trusted network" }}
{{- end }}
{{- if and $values.devices.secret $values.devices.claim }}{{ fail "devices: set secret or claim, not both" }}{{ end }}
{{- if and $values.topics.bundled $values.topics.configMap }}{{ fail "topics: set bundled or configMap, not both" }}{{ end }}
{{- if and (not $values.admin.open) (or (not $values.admin.tlsSecret) (not $values.admin.token)) }}
{{- fail "admin: set admin.tlsSecret and admin.token, or admin.open=true inside a trusted network" }}
{{- end }}
{{- if and $values.admin.open (or $values.admin.tlsSecret $values.admin.token $values.admin.metricsToken) }}
{{- fail "admin.open: is true, and yet there is admin.tlsSecret, admin.token or admin.metricsToken; set one of both" }}
{{- end }}
{{- $spool := include "citygate.mebibytes" $values.settings.spool.bytes_max | int -}}
{{- $volume := include "citygate.mebibytes" $values.storage.size | int -}}
{{- if gt (add $spool 2048) $volume }}
{{- fail (printf "storage.size: %s is too small for settings.spool.bytes_max (%s) and 2 GiB to spare" $values.storage.size $values.settings.spool.bytes_max) }}
{{- end }}
{{- if lt (include "citygate.seconds" $values.settings.drain.delay | int) 7 }}
{{- fail "settings.drain.delay: must be 7s at least, as readiness fails after three probes of 2 s" }}
{{- end }}
{{- $replicas := include "citygate.replicas" . | int -}}
{{- range $values.drain.ordinals }}
{{- if lt (int .) $replicas }}{{ fail (printf "drain.ordinals: gateway %d runs (there are %d); only one that was scaled in can be drained" (int .) $replicas) }}{{ end }}
{{- end }}
{{- if and $values.store.enabled (not $values.store.databaseUrl) }}
{{- fail "store.databaseUrl: must name the key of a Secret with postgresql://citygate:password@host:5432/city?sslmode=require" }}
{{- end }}
{{- if and $values.store.alertmanagerUrls ($values.settings.store | default dict).alertmanager_urls }}
{{- fail "store.alertmanagerUrls: settings.store.alertmanager_urls is set, too; keep one of them" }}
{{- end }}
{{- if and $values.topics.apply (not $values.topics.bundled) (not $values.topics.configMap) }}
{{- fail "topics.apply: of which list? Set topics.bundled or topics.configMap" }}
{{- end }}
{{- if gt (int $values.autoscaling.min) (int $values.autoscaling.max) }}{{ fail "autoscaling.min: is above autoscaling.max" }}{{ end }}
{{- end }}

{{- define "citygate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "citygate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "citygate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What the image says of its folders is in its environment, which comes before the file. */}}
{{- define "citygate.environment" -}}
- {name: CITYGATE_STATE_DIR, value: /var/lib/citygate}
{{- if .Values.schemas.configMap }}
- {name: CITYGATE_SCHEMAS__FOLDER, value: /etc/citygate/schemas}
{{- end }}
{{- end }}

{{- define "citygate.mounts" -}}
- {name: state, mountPath: /var/lib/citygate}
- {name: config, mountPath: /etc/citygate/config, readOnly: true}
{{- range $name := list "mqtt" "http" "admin" }}
{{- if (get $.Values $name).tlsSecret }}
- {name: tls-{{ $name }}, mountPath: /etc/citygate/tls/{{ $name }}, readOnly: true}
{{- end }}
{{- end }}
{{- if (include "citygate.secretFiles" . | fromYaml).files }}
- {name: secrets, mountPath: /etc/citygate/secrets, readOnly: true}
{{- end }}
{{- if or .Values.devices.secret .Values.devices.claim }}
- {name: devices, mountPath: /etc/citygate/devices, readOnly: true}
{{- end }}
{{- if .Values.schemas.configMap }}
- {name: schemas, mountPath: /etc/citygate/schemas, readOnly: true}
{{- end }}
{{- if .Values.topics.configMap }}
- {name: topics, mountPath: /etc/citygate/topics, readOnly: true}
{{- end }}
{{- end }}

{{- define "citygate.secretVolume" -}}
{{- with .files }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range . }}
      - secret: {name: {{ .secret }}, items: [{key: {{ .key | quote }}, path: {{ .file | quote }}}]}
      {{- end }}
{{- end }}
{{- end }}

{{- define "citygate.volumes" -}}
- name: config
  configMap: {name: {{ include "citygate.name" . }}}
{{- range $name := list "mqtt" "http" "admin" }}
{{- with (get $.Values $name).tlsSecret }}
- name: tls-{{ $name }}
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- include "citygate.secretVolume" (include "citygate.secretFiles" . | fromYaml) }}
{{- if .Values.devices.secret }}
- name: devices
  secret: {secretName: {{ .Values.devices.secret }}, defaultMode: 0440}
{{- else if .Values.devices.claim }}
- name: devices
  persistentVolumeClaim: {claimName: {{ .Values.devices.claim }}, readOnly: true}
{{- end }}
{{- with .Values.schemas.configMap }}
- name: schemas
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.topics.configMap }}
- name: topics
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}
