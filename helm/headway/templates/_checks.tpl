{{/* What cannot work is refused before anything is installed, each with one sentence that says what to do. */}}
{{- define "headway.checks" -}}
{{- $v := .Values }}
{{- if not $v.image.repository }}
{{- fail "image.repository is required: no image is published yet; build one from the Containerfile, push it, and give its name" }}
{{- end }}
{{- if and (eq $v.mode "stack") (not $v.engine.model) }}
{{- fail "engine.model is required in mode stack: give the model's name or path, as the engine takes it" }}
{{- end }}
{{- if and (eq $v.mode "gateway") (not $v.gateway.engines) (not $v.gateway.discovery.service) }}
{{- fail "mode gateway needs engines: give gateway.engines (base URLs) or gateway.discovery.service (a headless Service)" }}
{{- end }}
{{- if and (eq $v.mode "gateway") $v.gateway.engines $v.gateway.discovery.service }}
{{- fail "give either gateway.engines or gateway.discovery.service, not both" }}
{{- end }}
{{- if and (eq $v.mode "inject") (eq (int $v.inject.port) (int $v.inject.enginePort)) }}
{{- fail (printf "inject.port and inject.enginePort are both %d: the proxy needs a port of its own beside the engine's" (int $v.inject.port)) }}
{{- end }}
{{- if and (eq $v.mode "inject") $v.inject.policy (not (include "headway.policyVersion" .)) }}
{{- fail "this cluster has no MutatingAdmissionPolicy (Kubernetes 1.36, or 1.34 with the v1beta1 API on): set inject.policy=false and add the proxy with `headway sidecar-patch` or the kustomize component" }}
{{- end }}
{{- if and (eq $v.mode "inject") (or $v.networkPolicy.enabled $v.persistence.enabled (ne $v.autoscaling.kind "none")) }}
{{- fail "networkPolicy, persistence and autoscaling belong to the engine's own Deployment in mode inject: leave them off here" }}
{{- end }}
{{- $many := or (gt (int $v.replicas) 1) (ne $v.autoscaling.kind "none") }}
{{- if and $v.persistence.enabled $many }}
{{- fail "persistence needs replicas=1 without autoscaling, because the traffic log has one writer: share it through redis instead" }}
{{- end }}
{{- if and (eq $v.redis.kind "external") (not $v.redis.existingSecret) }}
{{- fail "redis.kind=external needs redis.existingSecret: a Secret with the key `url`, such as rediss://:PASSWORD@HOST:6380/0" }}
{{- end }}
{{- if and $v.retrain.enabled (eq $v.redis.kind "none") }}
{{- fail "retrain.enabled needs redis: a job in another pod cannot read a proxy's own log, which that proxy retrains from by itself (persistence.enabled)" }}
{{- end }}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.prometheusAddress) }}
{{- fail "autoscaling.kind=keda needs autoscaling.prometheusAddress: the base URL of the Prometheus that scrapes the proxies" }}
{{- end }}
{{- include "headway.checkKinds" . }}
{{- range $secret := compact (list $v.redis.existingSecret $v.redis.caSecret $v.engine.apiKeySecret $v.engine.tokenSecret $v.test.apiKeySecret) }}
{{- include "headway.checkSecret" (list $ $secret) }}
{{- end }}
{{- end }}

{{- define "headway.checkKinds" -}}
{{- range $kind, $wanted := dict "monitoring.coreos.com/v1/PodMonitor" .Values.metrics.podMonitor.enabled "monitoring.coreos.com/v1/PrometheusRule" .Values.metrics.rules.enabled "keda.sh/v1alpha1/ScaledObject" (eq .Values.autoscaling.kind "keda") }}
{{- if and $wanted (not ($.Capabilities.APIVersions.Has $kind)) (not ($.Capabilities.APIVersions.Has (dir $kind))) }}
{{- fail (printf "this cluster does not know %s: install its operator first, or turn that value off" $kind) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A render without a cluster sees no object at all; the ConfigMap that each namespace has tells the two apart. */}}
{{- define "headway.checkSecret" -}}
{{- $namespace := (first .).Release.Namespace }}
{{- $connected := lookup "v1" "ConfigMap" $namespace "kube-root-ca.crt" }}
{{- if and $connected (not (lookup "v1" "Secret" $namespace (last .))) }}
{{- fail (printf "there is no Secret %q in namespace %q: create it first" (last .) $namespace) }}
{{- end }}
{{- end }}

{{- define "headway.policyVersion" -}}
{{- range $version := list "v1" "v1beta1" }}
{{- if $.Capabilities.APIVersions.Has (printf "admissionregistration.k8s.io/%s/MutatingAdmissionPolicy" $version) }}{{ $version }} {{ end }}
{{- end }}
{{- end }}
