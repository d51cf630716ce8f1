{{/* What a schema cannot say. Included by the ConfigMap, so that every rendering is checked. */}}
{{- define "torpor.checks" -}}
{{- $values := .Values -}}
{{- if not $values.fleet.models -}}
{{- fail "fleet.models: at least one model is needed" -}}
{{- end -}}
{{- if not $values.keys.existingSecret -}}
{{- fail "keys.existingSecret is required: a Secret with the entries that `torpor keys new` prints" -}}
{{- end -}}
{{- if not $values.ray.address -}}
{{- if not $values.ray.tokenSecret -}}
{{- fail "ray.tokenSecret is required for a Ray cluster of our own: a Secret with the key auth_token" -}}
{{- end -}}
{{- if not $values.workerGroups -}}
{{- fail "workerGroups: at least one is needed, or the ray.address of a cluster that has nodes" -}}
{{- end -}}
{{- if hasKey ($values.fleet.memory | default dict) "host_budget_gib" -}}
{{- fail "fleet.memory.host_budget_gib: write budgetGib in the worker groups instead" -}}
{{- end -}}
{{- end -}}
{{- include "torpor.checkGroups" . -}}
{{- include "torpor.checkWeights" . -}}
{{- if and $values.redis.url $values.valkey.enabled -}}
{{- fail "redis.url and valkey.enabled: only one of them" -}}
{{- end -}}
{{- if and $values.valkey.enabled (not $values.redis.existingSecret) -}}
{{- fail "valkey.enabled needs redis.existingSecret: a Secret with its password" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.host is required" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: at least one Gateway is needed" -}}
{{- end -}}
{{- if and $values.serviceMonitor.enabled (not $values.serviceMonitor.existingSecret) -}}
{{- fail "serviceMonitor.existingSecret is required: /metrics wants an API key" -}}
{{- end -}}
{{- end }}

{{- define "torpor.checkGroups" -}}
{{- $names := list -}}
{{- $device := include "torpor.device" . -}}
{{- range .Values.workerGroups -}}
{{- if has .name $names -}}
{{- fail (printf "workerGroups: two are named %s" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if and (eq $device "cuda") (not .gpus) -}}
{{- fail (printf "workerGroups: %s has no GPU, but the fleet's device is cuda: a fleet has one kind of device" .name) -}}
{{- end -}}
{{- if and (eq $device "cpu") .gpus -}}
{{- fail (printf "workerGroups: %s has GPUs, but fleet.device is cpu" .name) -}}
{{- end -}}
{{- $scope := dict "root" $ "group" . -}}
{{- $rest := sub (include "torpor.memoryMib" $scope | int) (mulf .budgetGib 1024 | int) -}}
{{- $shm := include "torpor.shmMib" $scope | int -}}
{{- if lt (int $rest) $shm -}}
{{- fail (printf "workerGroups: of the memory of %s the ledger leaves %d MiB, but /dev/shm may take %d: raise budgetGib, or lower fleet.memory.%s" .name (int $rest) $shm (ternary "host_fraction" "device_fraction" (eq $device "cuda"))) -}}
{{- end -}}
{{- if .autoscaling -}}
{{- if not $.Values.keda.prometheusAddress -}}
{{- fail (printf "workerGroups: %s has autoscaling, which needs keda.prometheusAddress" .name) -}}
{{- end -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail (printf "workerGroups: %s has more minReplicas than maxReplicas" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "torpor.checkWeights" -}}
{{- $weights := .Values.weights -}}
{{- $sources := compact (list $weights.existingClaim $weights.hostPath $weights.size) -}}
{{- if gt (len $sources) 1 -}}
{{- fail "weights: only one of existingClaim, hostPath and size" -}}
{{- end -}}
{{- if and $weights.download (or $weights.hostPath (not $sources)) -}}
{{- fail "weights.download needs a claim: existingClaim or size" -}}
{{- end -}}
{{- if $weights.hostPath -}}
{{- range .Values.fleet.models -}}
{{- $footprint := mergeOverwrite (dict) (dig "footprint" (dict) ($.Values.fleet.defaults | default dict)) (.footprint | default dict) -}}
{{- if and (hasPrefix "/" .path) (not (or $footprint.weights_gib $footprint.awake_gib)) -}}
{{- fail (printf "fleet.models: %s needs footprint.weights_gib, since the controller does not see weights.hostPath" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
