{{/* fleet.yaml, and what follows from it. */}}

{{- define "torpor.port" -}}8000{{- end }}
{{- define "torpor.state" -}}/var/lib/torpor{{- end }}
{{- define "torpor.cache" -}}/var/cache/torpor{{- end }}

{{- define "torpor.rayAddress" -}}
{{- .Values.ray.address | default (printf "%s-head-svc:6379" (include "torpor.name" .)) -}}
{{- end }}

{{/* After the signal to stop, while endpoints and proxies learn that the Pod is leaving. */}}
{{- define "torpor.unreadySeconds" -}}5{{- end }}

{{/* What of fleet.yaml counts only at a start of the controller, or all of it. */}}
{{- define "torpor.fleetMark" -}}
{{- $fleet := include "torpor.fleet" . -}}
{{- if not .Values.controller.restartOnChange -}}
{{- $fleet = omit (fromJson $fleet) "models" "defaults" | toJson -}}
{{- end -}}
{{- sha256sum $fleet -}}
{{- end }}

{{/* As JSON, which is YAML: whole numbers stay whole. */}}
{{- define "torpor.fleet" -}}
{{- $fleet := deepCopy .Values.fleet -}}
{{- $_ := set $fleet "device" (include "torpor.device" .) -}}
{{- $_ := set $fleet "state_dir" (include "torpor.state" .) -}}
{{- $_ := set $fleet "log_dir" "-" -}}
{{- $server := dict "host" "0.0.0.0" "port" (include "torpor.port" . | int) "keys_file" "keys.yaml" -}}
{{- $_ := set $server "unready_s" (include "torpor.unreadySeconds" . | int) -}}
{{- $_ := set $server "drain_s" (int .Values.controller.drainSeconds) -}}
{{- $_ := set $fleet "server" (mergeOverwrite (dict) ($fleet.server | default dict) $server) -}}
{{- if and $fleet.kv .Values.redis.caSecret -}}
{{- $_ := set $fleet "kv" (mergeOverwrite (dict) $fleet.kv (dict "redis_ca" "/etc/torpor-redis/ca.crt")) -}}
{{- end -}}
{{- $ray := dict "address" (include "torpor.rayAddress" .) -}}
{{- $_ := set $fleet "ray" (mergeOverwrite (dict) ($fleet.ray | default dict) $ray) -}}
{{- toPrettyJson $fleet -}}
{{- end }}

{{/* Seconds that the most patient model lets a request wait. */}}
{{- define "torpor.longestWait" -}}
{{- $common := dig "max_wait_s" 300 (.Values.fleet.defaults | default dict) -}}
{{- $longest := 0 -}}
{{- range .Values.fleet.models -}}
{{- $wait := $common -}}{{- if hasKey . "max_wait_s" -}}{{- $wait = .max_wait_s -}}{{- end -}}
{{- $longest = max $longest (ceil $wait | int) -}}
{{- end -}}
{{- $longest -}}
{{- end }}

{{- define "torpor.requestSeconds" -}}
{{- add (include "torpor.longestWait" . | int) (int .Values.exposure.responseSeconds) -}}
{{- end }}

{{/* Paths for Ingress and HTTPRoute, as "TYPE PATH" lines: the inference routes, and /fleet on
     request. */}}
{{- define "torpor.paths" -}}
Prefix /v1
Exact /pooling
Exact /tokenize
Exact /detokenize
{{- if .Values.exposure.fleet }}
Prefix /fleet
{{- end }}
{{- end }}

{{- define "torpor.objectStoreMib" -}}
{{- dig "ray" "object_store_mib" 128 .Values.fleet -}}
{{- end }}

{{/* MiB of the KV server's host tier, which lies in /dev/shm and in the ledger's budget. */}}
{{- define "torpor.kvHostMib" -}}
{{- if .Values.fleet.kv -}}
{{- mulf (dig "host_gib" 1 .Values.fleet.kv) 1024 | ceil | int -}}
{{- else -}}
0
{{- end -}}
{{- end }}

{{/* MiB of /dev/shm that the models may need on a node beside the KV server: Ray's object store, and
     a quarter GiB for each process that they may have there (vLLM's message rings, NCCL). */}}
{{- define "torpor.shmNeedMib" -}}
{{- $defaults := .Values.fleet.defaults | default dict -}}
{{- $processes := 0 -}}
{{- range .Values.fleet.models -}}
{{- $all := mergeOverwrite (dict "replicas" 1 "tensor_parallel" 1) $defaults . -}}
{{- $replicas := $all.replicas -}}
{{- if kindIs "map" $replicas -}}{{- $replicas = $replicas.max | default 1 -}}{{- end -}}
{{- $processes = add $processes (mul (int $replicas) (int $all.tensor_parallel)) -}}
{{- end -}}
{{- max 1024 (add (include "torpor.objectStoreMib" . | int) (mul 256 $processes)) -}}
{{- end }}

{{/* MiB of a group's container that the ledger does not book. */}}
{{- define "torpor.unbookedMib" -}}
{{- sub (include "torpor.memoryMib" . | int) (mulf .group.budgetGib 1024 | int) -}}
{{- end }}

{{/* MiB of /dev/shm of a group's Pod: half of what the ledger does not book. Not what the models
     need, which is less: their Pod would be another one with each model that comes or goes. */}}
{{- define "torpor.shmMib" -}}
{{- if .group.shmGib -}}
{{- mulf .group.shmGib 1024 | ceil | int -}}
{{- else -}}
{{- add (div (include "torpor.unbookedMib" . | int) 2) (include "torpor.kvHostMib" .root | int) -}}
{{- end -}}
{{- end }}

{{/* MiB that a group's container asks for and is limited to: so much that the ledger, which takes
     its fraction of the limit, finds the group's budget. */}}
{{- define "torpor.memoryMib" -}}
{{- $memory := .root.Values.fleet.memory | default dict -}}
{{- $fraction := ternary (dig "host_fraction" 0.5 $memory) (dig "device_fraction" 0.9 $memory) (eq (include "torpor.device" .root) "cuda") -}}
{{- divf (mulf .group.budgetGib 1024) $fraction | ceil | int -}}
{{- end }}
