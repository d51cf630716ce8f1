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
{{- include "torpor.checkRanks" . -}}
{{- include "torpor.checkWeights" . -}}
{{- if and $values.redis.url $values.valkey.enabled -}}
{{- fail "redis.url and valkey.enabled: only one of them" -}}
{{- end -}}
{{- if and $values.valkey.enabled (not $values.redis.existingSecret) -}}
{{- fail "valkey.enabled needs redis.existingSecret: a Secret with its password" -}}
{{- end -}}
{{- if and $values.redis.caSecret (not (hasPrefix "rediss://" $values.redis.url)) -}}
{{- fail "redis.caSecret is for a redis.url with rediss://" -}}
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
{{- $nodes := 0 -}}
{{- $device := include "torpor.device" . -}}
{{- range .Values.workerGroups -}}
{{- if has .name $names -}}
{{- fail (printf "workerGroups: two are named %s" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $nodes = add $nodes (.autoscaling | default (dict "minReplicas" (.replicas | default 1))).minReplicas -}}
{{- if and (eq $device "cuda") (not .gpus) -}}
{{- fail (printf "workerGroups: %s has no GPU, but the fleet's device is cuda: a fleet has one kind of device" .name) -}}
{{- end -}}
{{- if and (eq $device "cpu") .gpus -}}
{{- fail (printf "workerGroups: %s has GPUs, but fleet.device is cpu" .name) -}}
{{- end -}}
{{- $scope := dict "root" $ "group" . -}}
{{- $fraction := ternary "host_fraction" "device_fraction" (eq $device "cuda") -}}
{{- $rest := include "torpor.unbookedMib" $scope | int -}}
{{- $kv := include "torpor.kvHostMib" $ | int -}}
{{- $shm := sub (include "torpor.shmMib" $scope | int) $kv | int -}}
{{- $need := include "torpor.shmNeedMib" $ | int -}}
{{- if and (not .shmGib) (lt $shm $need) -}}
{{- fail (printf "workerGroups: the models may need %d MiB of /dev/shm, and a node of %s has %d for them: raise budgetGib, lower fleet.memory.%s, or write shmGib" $need .name $shm $fraction) -}}
{{- end -}}
{{- if gt $shm $rest -}}
{{- fail (printf "workerGroups: of the memory of %s the ledger leaves %d MiB, but /dev/shm may take %d beside KV: raise budgetGib, lower fleet.memory.%s, or lower shmGib" .name $rest $shm $fraction) -}}
{{- end -}}
{{- if ge $kv (mulf .budgetGib 1024 | int) -}}
{{- fail (printf "workerGroups: fleet.kv.host_gib takes all of the budgetGib of %s" .name) -}}
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
{{- if and .Values.workerGroups (not .Values.ray.address) (lt (int $nodes) 1) -}}
{{- fail "workerGroups: one must keep a node (minReplicas: 1): without any the controller is not ready, and nobody could ask for more" -}}
{{- end -}}
{{- end }}

{{/* An engine takes its GPUs of one node. */}}
{{- define "torpor.checkRanks" -}}
{{- if and (eq (include "torpor.device" .) "cuda") (not .Values.ray.address) -}}
{{- $most := 0 -}}
{{- range .Values.workerGroups -}}{{- $most = max $most (int .gpus) -}}{{- end -}}
{{- $common := dig "tensor_parallel" 1 (.Values.fleet.defaults | default dict) -}}
{{- range .Values.fleet.models -}}
{{- $ranks := .tensor_parallel | default $common | int -}}
{{- if gt $ranks (int $most) -}}
{{- fail (printf "fleet.models: %s takes %d GPUs of one node, and no worker group has more than %d" .name $ranks (int $most)) -}}
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
