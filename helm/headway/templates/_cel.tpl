{{/* YAML as a CEL literal. dyn(): the API server refuses maps and lists whose members differ in type. */}}
{{- define "headway.cel" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ toJson $key }}: dyn({{ include "headway.cel" (get $ $key) }}){{ end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}dyn({{ include "headway.cel" $item }}){{ end }}]
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}

{{/* One operation: a list of (path, value). */}}
{{- define "headway.celAdd" -}}
JSONPatch{op: "add", path: {{ first . | quote }}, value: {{ include "headway.cel" (last .) }}}
{{- end }}
