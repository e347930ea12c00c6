{{/* The proxy's configuration file: what the chart decides, then `config`. */}}
{{- define "headway.port" -}}
{{ ternary .Values.inject.port .Values.proxy.port (eq .Values.mode "inject") }}
{{- end }}

{{- define "headway.engineUrls" -}}
{{- if eq .Values.mode "stack" -}}
- http://127.0.0.1:{{ .Values.engine.port }}
{{- else if eq .Values.mode "inject" -}}
- http://127.0.0.1:{{ .Values.inject.enginePort }}
{{- else if .Values.gateway.discovery.service -}}
- dns+http://{{ .Values.gateway.discovery.service }}.{{ .Release.Namespace }}.svc:{{ .Values.gateway.discovery.port }}
{{- else -}}
{{ toYaml .Values.gateway.engines }}
{{- end }}
{{- end }}

{{- define "headway.toml" -}}
{{- $own := dict "engine" (include "headway.engineUrls" . | fromYamlArray) "state" "/var/lib/headway" }}
{{- $_ := set $own "host" .Values.proxy.host }}
{{- $_ := set $own "port" (include "headway.port" . | int) }}
{{- $open := or .Values.metrics.expose .Values.metrics.podMonitor.enabled }}
{{- $_ := set $own "admin_host" (ternary .Values.proxy.host "127.0.0.1" $open) }}
{{- $_ := set $own "admin_port" .Values.proxy.adminPort }}
{{- if and (eq .Values.mode "stack") (not .Values.config.engine_kind) }}{{ $_ := set $own "engine_kind" .Values.engine.kind }}{{ end }}
{{- if .Values.engine.apiKeySecret }}{{ $_ := set $own "engine_api_key_file" "/secrets/engine/api-key" }}{{ end }}
{{- if .Values.redis.caSecret }}{{ $_ := set $own "redis_ca_file" "/secrets/redis-ca/ca.crt" }}{{ end }}
{{- range $key, $value := merge $own .Values.config }}
{{ $key }} = {{ include "headway.tomlValue" $value }}
{{- end }}
{{- end }}

{{/* Helm's toToml writes whole numbers as 8000.0; strings and numbers are the same in JSON and TOML, tables are not. */}}
{{- define "headway.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ toJson $key }} = {{ include "headway.tomlValue" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "headway.tomlValue" $item }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}
