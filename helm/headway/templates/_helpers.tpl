{{/* Names and labels that every object shares. */}}
{{- define "headway.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "headway.fullname" -}}
{{- $name := include "headway.name" . -}}
{{- $composed := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{ default $composed .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "headway.selector" -}}
app.kubernetes.io/name: {{ include "headway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headway.labels" -}}
{{ include "headway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels that the pods with a proxy carry; injected pods are not this release's own. */}}
{{- define "headway.proxySelector" -}}
{{- if eq .Values.mode "inject" -}}
headway.dev/inject: {{ .Release.Name }}
{{- else -}}
{{ include "headway.selector" . }}
app.kubernetes.io/component: proxy
{{- end }}
{{- end }}

{{- define "headway.redisSelector" -}}
{{ include "headway.selector" . }}
app.kubernetes.io/component: redis
{{- end }}

{{- define "headway.retrainSelector" -}}
{{ include "headway.selector" . }}
app.kubernetes.io/component: retrain
{{- end }}

{{- define "headway.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Seconds from the decision to stop a pod to its end: keep serving, drain, and a margin for the engine's own exit. */}}
{{- define "headway.drainSeconds" -}}
{{ .Values.config.drain_s | default 600 }}
{{- end }}
{{- define "headway.graceSeconds" -}}
{{ add .Values.drainDelaySeconds (include "headway.drainSeconds" . | float64 | ceil) 30 }}
{{- end }}

{{/* What every container of the proxy's image may do: the PSA level `restricted`, and a read-only root. */}}
{{- define "headway.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* As whom pods run. */}}
{{- define "headway.identity" -}}
automountServiceAccountToken: false
# A Service named headway-x would otherwise set HEADWAY_X_… in every container, and those are no settings.
enableServiceLinks: false
{{- include "headway.given" (list . "serviceAccountName" "imagePullSecrets" "priorityClassName") }}
{{- end }}

{{/* Where the pods with a proxy run. */}}
{{- define "headway.placement" -}}
{{- include "headway.given" (list . "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "runtimeClassName") }}
{{- end }}

{{/* Those of the named values that are not empty, as YAML. */}}
{{- define "headway.given" -}}
{{- $values := (first .).Values }}
{{- range $key := rest . }}
{{- with get $values $key }}
{{ toYaml (dict $key .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A script of files/, as an item of a container's command. */}}
{{- define "headway.script" -}}
- |-
  {{- (first .).Files.Get (printf "files/%s" (last .)) | trim | nindent 2 }}
{{- end }}
