{{/* What every process of Ray is told, and the Pod of a Ray node that carries engines. */}}

{{- define "torpor.rayEnv" -}}
{{- if .Values.ray.tokenSecret }}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.ray.tokenSecret }}, key: auth_token}
{{- end }}
{{- if .Values.ray.tlsSecret }}
- {name: RAY_USE_TLS, value: "1"}
- {name: RAY_TLS_SERVER_CERT, value: /etc/torpor-ray-tls/tls.crt}
- {name: RAY_TLS_SERVER_KEY, value: /etc/torpor-ray-tls/tls.key}
- {name: RAY_TLS_CA_CERT, value: /etc/torpor-ray-tls/ca.crt}
{{- end }}
# The ledger keeps the budget; Ray's memory monitor would kill engines by rules of its own.
- {name: RAY_memory_monitor_refresh_ms, value: "0"}
- {name: RAY_enable_worker_prestart, value: "0"}
- {name: RAY_prestart_worker_first_driver, value: "0"}
# Engines hold no GPU in Ray's books: their devices are set by torpor.
- {name: RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- end }}

{{/* What a process needs that reads models: caches, the hub, Redis. */}}
{{- define "torpor.modelEnv" -}}
- {name: HOME, value: {{ include "torpor.cache" . }}}
- {name: XDG_CACHE_HOME, value: {{ include "torpor.cache" . }}}
- {name: HF_HOME, value: {{ include "torpor.cache" . }}/huggingface}
{{- if .Values.hub.offline }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with .Values.hub }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- include "torpor.redisEnv" . }}
{{- end }}

{{- define "torpor.redisEnv" -}}
{{- $url := .Values.redis.url -}}
{{- if .Values.valkey.enabled -}}
{{- $url = printf "redis://%s-valkey:6379/0" (include "torpor.name" .) -}}
{{- end -}}
{{- if $url }}
- {name: TORPOR_REDIS_URL, value: {{ $url | quote }}}
{{- if .Values.redis.existingSecret }}
- name: TORPOR_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.key }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Secrets of the durable tier of KV: the controller hands them to the nodes. */}}
{{- define "torpor.kvEnv" -}}
{{- with .Values.kv }}
{{- if .encryptionSecret }}
- name: TORPOR_KV_KEY
  valueFrom:
    secretKeyRef: {name: {{ .encryptionSecret }}, key: {{ .encryptionKey }}}
{{- end }}
{{- if .bucketSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef: {name: {{ $.Values.kv.bucketSecret }}, key: {{ . }}}
{{- end }}
- name: AWS_SESSION_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .bucketSecret }}, key: AWS_SESSION_TOKEN, optional: true}
{{- end }}
{{- end }}
{{- end }}

{{/* For those who speak to Redis. */}}
{{- define "torpor.redisMount" -}}
{{- if .Values.redis.caSecret }}
- {name: redis-ca, mountPath: /etc/torpor-redis, readOnly: true}
{{- end }}
{{- end }}

{{- define "torpor.redisVolume" -}}
{{- if .Values.redis.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ .Values.redis.caSecret }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{- define "torpor.rayMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if .Values.ray.tlsSecret }}
- {name: ray-tls, mountPath: /etc/torpor-ray-tls, readOnly: true}
{{- end }}
{{- end }}

{{/* Called with (dict "root" $ "shmMib" N). */}}
{{- define "torpor.rayVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .shmMib }}Mi}
{{- if .root.Values.ray.tlsSecret }}
- name: ray-tls
  secret: {secretName: {{ .root.Values.ray.tlsSecret }}}
{{- end }}
{{- end }}

{{- define "torpor.cacheVolume" -}}
- name: cache
  {{- if or .Values.cache.existingClaim .Values.cache.size }}
  persistentVolumeClaim:
    claimName: {{ .Values.cache.existingClaim | default (printf "%s-cache" (include "torpor.name" .)) }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{/* Read-only, for those who serve from it. */}}
{{- define "torpor.weightsClaim" -}}
{{- with .Values.weights -}}
{{- if or .existingClaim .size -}}
{{- .existingClaim | default (printf "%s-weights" (include "torpor.name" $)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "torpor.weightsVolume" -}}
{{- with include "torpor.weightsClaim" . }}
- name: weights
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- end }}

{{- define "torpor.weightsMount" -}}
{{- if include "torpor.weightsClaim" . }}
- {name: weights, mountPath: {{ .Values.weights.mountPath }}, readOnly: true}
{{- end }}
{{- end }}

{{/* The Pod of a node with engines, without what says how it joins: `command` is for groups that
     KubeRay does not start. Called with (dict "root" $ "group" GROUP "command" LIST). */}}
{{- define "torpor.workerPod" -}}
{{- $root := .root -}}
{{- $group := .group -}}
metadata:
  labels:
    {{- include "torpor.podLabels" (dict "root" $root "component" "ray-worker" "more" (mergeOverwrite (dict "torpor.dev/group" $group.name) ($group.podLabels | default dict))) | nindent 4 }}
  {{- with $group.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "torpor.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # ray start lets go of its node for up to 30 s.
  terminationGracePeriodSeconds: 60
  {{- with include "torpor.pullSecrets" $root | trim }}{{- . | nindent 2 }}{{- end }}
  securityContext:
    {{- include "torpor.podSecurity" dict | nindent 4 }}
  {{- with include "torpor.placement" (dict "where" $group) | trim }}{{- . | nindent 2 }}{{- end }}
  {{- if not $group.topologySpreadConstraints }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "torpor.selector" (dict "root" $root "component" "ray-worker") | nindent 10 }}
          torpor.dev/group: {{ $group.name }}
  {{- end }}
  containers:
    - name: ray-worker
      {{- include "torpor.imageFields" $root | nindent 6 }}
      {{- with .command }}
      command:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "torpor.containerSecurity" $root | nindent 8 }}
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- include "torpor.rayEnv" $root | trim | nindent 8 }}
        {{- include "torpor.modelEnv" $root | trim | nindent 8 }}
        {{- with $group.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- include "torpor.workerResources" . | nindent 8 }}
      {{- if .command }}
      {{- include "torpor.rayProbes" $root | nindent 6 }}
      {{- end }}
      volumeMounts:
        {{- include "torpor.rayMounts" $root | nindent 8 }}
        - {name: cache, mountPath: {{ include "torpor.cache" $root }}, subPath: cache}
        - {name: cache, mountPath: {{ include "torpor.state" $root }}, subPath: state}
        {{- with include "torpor.redisMount" $root | trim }}{{- . | nindent 8 }}{{- end }}
        {{- with include "torpor.weightsMount" $root | trim }}{{- . | nindent 8 }}{{- end }}
        {{- if $root.Values.weights.hostPath }}
        - {name: weights, mountPath: {{ $root.Values.weights.mountPath }}, readOnly: true}
        {{- end }}
  volumes:
    {{- include "torpor.rayVolumes" (dict "root" $root "shmMib" (include "torpor.shmMib" .)) | nindent 4 }}
    {{- include "torpor.cacheVolume" $root | nindent 4 }}
    {{- with include "torpor.redisVolume" $root | trim }}{{- . | nindent 4 }}{{- end }}
    {{- with include "torpor.weightsVolume" $root | trim }}{{- . | nindent 4 }}{{- end }}
    {{- if $root.Values.weights.hostPath }}
    - name: weights
      hostPath: {path: {{ $root.Values.weights.hostPath }}, type: Directory}
    {{- end }}
{{- end }}

{{/* A group's GPUs by the names that the ledger has for them: engines that take several are placed
     by these. Called with GROUP. */}}
{{- define "torpor.devices" -}}
{{- $devices := dict -}}
{{- range $index := until (int (.gpus | default 0)) -}}
{{- $_ := set $devices (printf "cuda:%d" $index) 1 -}}
{{- end -}}
{{- toJson $devices -}}
{{- end }}

{{/* Request and limit are one: the ledger's budget is a share of the limit. */}}
{{- define "torpor.workerResources" -}}
requests:
  cpu: {{ .group.cpus | quote }}
  memory: {{ include "torpor.memoryMib" . }}Mi
  {{- if .group.gpus }}
  {{ .group.gpuResource | default "nvidia.com/gpu" }}: {{ .group.gpus | quote }}
  {{- end }}
limits:
  memory: {{ include "torpor.memoryMib" . }}Mi
  {{- if .group.gpus }}
  {{ .group.gpuResource | default "nvidia.com/gpu" }}: {{ .group.gpus | quote }}
  {{- end }}
{{- end }}

{{/* As KubeRay sets them for Ray 2.53 and later; for Pods that it does not make. */}}
{{- define "torpor.rayProbes" -}}
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  initialDelaySeconds: 30
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
{{- end }}

{{- define "torpor.weightsDigest" -}}
{{- toJson .Values.weights.download | sha256sum | trunc 10 -}}
{{- end }}

{{- define "torpor.weightsMark" -}}
{{ .Values.weights.mountPath }}/.torpor/{{ include "torpor.weightsDigest" . }}
{{- end }}
