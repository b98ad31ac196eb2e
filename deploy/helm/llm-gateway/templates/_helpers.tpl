{{- define "llm-gateway.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 45 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "llm-gateway.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "llm-gateway.labels" -}}
{{ include "llm-gateway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "llm-gateway.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else if .image.tag }}{{ .image.repository }}:{{ .image.tag }}{{ else }}{{ fail (printf "%s.image: give its digest (sha256:…), or a tag to try things out" .what) }}{{ end }}
{{- end }}

{{- define "llm-gateway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "llm-gateway.containerSecurity" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- define "llm-gateway.spread" -}}
{{- $policy := ternary "DoNotSchedule" "ScheduleAnyway" (eq .spread "hard") }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ $policy }}
  labelSelector:
    matchLabels:
      {{- include "llm-gateway.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- define "llm-gateway.tracing" -}}
{{- if .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .Values.tracing.endpoint | quote }}}
{{- if not .Values.tracing.metrics }}
- {name: OTEL_METRICS_EXPORTER, value: none}
{{- end }}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .Values.tracing.ratio | quote }}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: k8s.pod.name=$(POD_NAME)}
{{- end }}
{{- end }}

{{- define "llm-gateway.store" -}}
{{- $redis := .Values.redis }}
{{- if eq $redis.mode "external" }}
- name: GATEWAY_STORE
  valueFrom: {secretKeyRef: {name: {{ required "redis.secret: the secret with Redis' URL" $redis.secret }}, key: {{ $redis.key | default "url" }}}}
{{- else if eq $redis.mode "bundled" }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ required "redis.secret: the secret with Redis' password" $redis.secret }}, key: {{ $redis.key | default "password" }}}}
- {name: GATEWAY_STORE, value: "redis://:$(REDIS_PASSWORD)@{{ include "llm-gateway.fullname" . }}-redis:6379"}
{{- else if or (gt (int .Values.gateway.replicas) 1) .Values.autoscaling.enabled }}
{{- fail "redis.mode none is for one gateway: several would each grant the whole of every limit" }}
{{- end }}
{{- end }}
