{{/* Names, labels, image. */}}

{{- define "torpor.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What never changes of an object: for selectors. Called with (dict "root" $ "component" NAME). */}}
{{- define "torpor.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "torpor.labels" -}}
{{ include "torpor.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a Pod: those of the selector, and what the user adds; called with "more" too. */}}
{{- define "torpor.podLabels" -}}
{{ include "torpor.selector" . }}
{{- with mergeOverwrite (dict) .root.Values.commonLabels (.more | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "torpor.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "torpor.name" . -}}
{{- else -}}
default
{{- end -}}
{{- end }}

{{/* `cuda` or `cpu`: of the worker groups, unless fleet.device says it. */}}
{{- define "torpor.device" -}}
{{- $written := .Values.fleet.device | default "auto" -}}
{{- if ne $written "auto" -}}
{{- $written -}}
{{- else -}}
{{- $device := "cpu" -}}
{{- range .Values.workerGroups -}}{{- if .gpus -}}{{- $device = "cuda" -}}{{- end -}}{{- end -}}
{{- $device -}}
{{- end -}}
{{- end }}

{{- define "torpor.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- $tag := default (printf "%s-%s" .Chart.AppVersion (include "torpor.device" .)) $image.tag -}}
{{- printf "%s:%s" $image.repository $tag -}}
{{- end -}}
{{- end }}

{{/* What every container with our image says: image and policy. */}}
{{- define "torpor.imageFields" -}}
image: {{ include "torpor.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "torpor.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted"; the image's user is 1000. */}}
{{- define "torpor.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user | default 1000 }}
runAsGroup: {{ .user | default 1000 }}
fsGroup: {{ .user | default 1000 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "torpor.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where a Pod may run: of a mapping with nodeSelector, tolerations, affinity and so on. */}}
{{- define "torpor.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" }}
{{- with get $.where $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "torpor.components" -}}
podSelector:
  matchLabels:
    {{- toYaml .instance | nindent 4 }}
  matchExpressions:
    - {key: app.kubernetes.io/component, operator: In, values: {{ toJson .components }}}
{{- end }}
