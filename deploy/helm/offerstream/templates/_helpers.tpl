{{- define "offerstream.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Release name, with the chart's name where it does not hold it already; room for the longest suffix ("-training"). */ -}}
{{- define "offerstream.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 41 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 41 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "offerstream.selector" -}}
app.kubernetes.io/name: {{ include "offerstream.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "offerstream.labels" -}}
{{ include "offerstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "offerstream.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "offerstream.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "offerstream.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "offerstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "offerstream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "offerstream.envFrom" -}}
- configMapRef:
    name: {{ include "offerstream.fullname" . }}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The environment that every process of this chart reads, as a map. */ -}}
{{- define "offerstream.environment" -}}
KAFKA_BOOTSTRAP: {{ .Values.kafka.bootstrap | quote }}
OFFERSTREAM_DATA_DIR: /var/lib/offerstream
OFFERSTREAM_ADMIN_HOST: "0.0.0.0"
OFFERSTREAM_ADMIN_PORT: "6066"
{{- range $name, $value := .Values.settings }}
{{- /* Numbers are floats to Helm: 4194304 must not become 4.194304e+06. */}}
OFFERSTREAM_{{ upper $name }}: {{ if and (kindIs "float64" $value) (eq $value (floor $value)) }}{{ printf "%.0f" $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end -}}

{{- /* What both containers of a training have in common. */ -}}
{{- define "offerstream.training" -}}
image: {{ printf "%s:%s" .Values.training.image.repository (default .Chart.AppVersion .Values.training.image.tag) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
envFrom:
  {{- include "offerstream.envFrom" . | nindent 2 }}
securityContext:
  {{- include "offerstream.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: model, mountPath: /model}
  - {name: tmp, mountPath: /tmp}
{{- end -}}
