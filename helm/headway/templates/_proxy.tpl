{{/* The proxy's container: a sidecar in stack and inject, the main container in gateway. */}}
{{- define "headway.proxy" -}}
name: headway
image: {{ include "headway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [headway, serve, --config, /etc/headway/headway.toml]
{{- with concat (include "headway.redisEnv" . | fromYamlArray) .Values.proxy.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: headway, containerPort: {{ include "headway.port" . }}}
  - {name: headway-admin, containerPort: {{ .Values.proxy.adminPort }}}
# Started means listening: waiting for the engine here would keep the engine from starting at all.
startupProbe:
  httpGet: {path: /healthz, port: headway}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: headway}
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: headway}
  periodSeconds: 5
  timeoutSeconds: 5
resources: {{- toYaml .Values.proxy.resources | nindent 2 }}
securityContext: {{- include "headway.securityContext" . | nindent 2 }}
volumeMounts: {{- include "headway.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "headway.volumeMounts" -}}
- {name: headway-config, mountPath: /etc/headway, readOnly: true}
- {name: headway-state, mountPath: /var/lib/headway}
- {name: headway-tmp, mountPath: /tmp}
{{- if .Values.engine.apiKeySecret }}
- {name: headway-engine-key, mountPath: /secrets/engine, readOnly: true}
{{- end }}
{{- if .Values.redis.caSecret }}
- {name: headway-redis-ca, mountPath: /secrets/redis-ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "headway.volumes" -}}
- name: headway-config
  configMap: {name: {{ include "headway.fullname" . }}}
- name: headway-tmp
  emptyDir: {}
{{- with .Values.engine.apiKeySecret }}
- name: headway-engine-key
  secret: {secretName: {{ . }}}
{{- end }}
{{- with .Values.redis.caSecret }}
- name: headway-redis-ca
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{/* A password is only ever put in by the kubelet, so that it is in no manifest. */}}
{{- define "headway.redisEnv" -}}
{{- if eq .Values.redis.kind "external" -}}
- name: HEADWAY_REDIS
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: url}
{{- else if eq .Values.redis.kind "internal" -}}
- name: HEADWAY_REDIS
  value: redis://{{ include "headway.fullname" . }}-redis:{{ .Values.redis.port }}/0
- name: HEADWAY_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "headway.redisSecret" . }}, key: password}
{{- end }}
{{- end }}

{{/* The same for `headway sidecar-patch`, as its flags. */}}
{{- define "headway.patchSecrets" -}}
{{- with .Values.engine.apiKeySecret }} --engine-key-secret {{ . }}{{ end }}
{{- if eq .Values.redis.kind "internal" }} --redis redis://{{ include "headway.fullname" . }}-redis:{{ .Values.redis.port }}/0{{ end }}
{{- if ne .Values.redis.kind "none" }} --redis-secret {{ include "headway.redisSecret" . }}{{ end }}
{{- with .Values.redis.caSecret }} --redis-ca-secret {{ . }}{{ end }}
{{- end }}

{{/* JSON as one word of a shell. */}}
{{- define "headway.shellJson" -}}
'{{ toJson . | replace "'" "\\u0027" }}'
{{- end }}

{{- define "headway.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "headway.fullname" .)) }}
{{- end }}
