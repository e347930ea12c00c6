{{/* The engine's container in mode stack, with the flags without which it would ignore the order. */}}
{{- define "headway.engine" -}}
{{- $images := dict "vllm" "vllm/vllm-openai:v0.32.0" "sglang" "lmsysorg/sglang:v0.5.23" }}
{{- $commands := dict "vllm" (list "vllm" "serve") "sglang" (list "python3" "-m" "sglang.launch_server") }}
{{- $models := dict "vllm" "" "sglang" "--model-path=" }}
{{- $health := dict "vllm" "/health" "sglang" "/ping" }}
{{- with .Values.engine -}}
name: engine
image: {{ .image | default (get $images .kind) }}
command: {{ get $commands .kind | toJson }}
args:
  - {{ get $models .kind }}{{ .model }}
  - --host={{ $.Values.proxy.host }}
  - --port={{ .port }}
  {{- with .servedModelName }}
  - --served-model-name={{ . }}
  {{- end }}
  {{- include (printf "headway.flags.%s" .kind) $ | nindent 2 }}
  {{- with .args }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with concat (include "headway.engineEnv" $ | fromYamlArray) .env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: engine, containerPort: {{ .port }}}
startupProbe:
  httpGet: {path: {{ get $health .kind }}, port: engine}
  failureThreshold: {{ div .startupSeconds 10 }}
livenessProbe:
  httpGet: {path: {{ get $health .kind }}, port: engine}
  timeoutSeconds: 10
  failureThreshold: 6
# The sidecar is told to stop only after this container has: so this one waits until every answer is out.
lifecycle: {{- include "headway.drainHook" $ | nindent 2 }}
resources: {{- toYaml .resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  {{- if .cacheClaim }}
  - {name: model-cache, mountPath: /root/.cache/huggingface}
  {{- end }}
{{- end }}
{{- end }}

{{- define "headway.flags.vllm" -}}
- --scheduling-policy=priority
- --enable-prompt-tokens-details
- --enable-per-request-metrics
{{- end }}

{{- define "headway.flags.sglang" -}}
- --enable-priority-scheduling
- --schedule-low-priority-values-first
- --disable-priority-preemption
- --retraction-policy=priority
- --default-priority-value=0
- --enable-cache-report
- --enable-metrics
{{- if .Values.engine.apiKeySecret }}
- --api-key=$(ENGINE_API_KEY)
{{- end }}
{{- end }}

{{- define "headway.engineEnv" -}}
{{- with .Values.engine.apiKeySecret }}
- name: {{ ternary "VLLM_API_KEY" "ENGINE_API_KEY" (eq $.Values.engine.kind "vllm") }}
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: api-key}
{{- end }}
{{- with .Values.engine.tokenSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: token}
{{- end }}
{{- end }}

{{- define "headway.drainHook" -}}
preStop:
  exec:
    command:
      - python3
      - -c
      {{- include "headway.script" (list . "drain.py") | nindent 6 }}
      - {{ .Values.drainDelaySeconds | quote }}
      - {{ add (include "headway.drainSeconds" . | float64 | ceil) 5 | quote }}
      - {{ .Values.proxy.adminPort | quote }}
{{- end }}
