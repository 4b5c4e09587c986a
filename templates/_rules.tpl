{{/* What must hold between keys: one line for each rule that the values break. */}}

{{- define "llm-finetune.rules" -}}
{{- include "llm-finetune.oldNameRules" . }}
{{- include "llm-finetune.groupRules" . }}
{{- include "llm-finetune.tokenRules" . }}
{{- include "llm-finetune.podRules" . }}
{{- include "llm-finetune.claimRules" . }}
{{- include "llm-finetune.dataRules" . }}
{{- include "llm-finetune.pathRules" . }}
{{- include "llm-finetune.upgradeRule" . }}
{{- end }}

{{- define "llm-finetune.groupRules" -}}
{{- $workers := include "llm-finetune.whole" .Values.distributed.workers | int64 -}}
{{- with .Values.elasticPolicy }}
{{- $min := include "llm-finetune.whole" .minReplicas | int64 }}
{{- $max := include "llm-finetune.whole" .maxReplicas | int64 }}
{{- $wait := include "llm-finetune.whole" (default $workers .waitForWorkers) | int64 }}
{{- if gt $min $max }}
elasticPolicy.minReplicas: found {{ $min }}, but elasticPolicy.maxReplicas is {{ $max }}; the fewest workers cannot be more than the most
{{- else if or (lt $workers $min) (gt $workers $max) }}
distributed.workers: found {{ $workers }}, expected from elasticPolicy.minReplicas ({{ $min }}) to elasticPolicy.maxReplicas ({{ $max }})
{{- else if or (lt $wait $min) (gt $wait $workers) }}
elasticPolicy.waitForWorkers: found {{ $wait }}, expected from elasticPolicy.minReplicas ({{ $min }}) to distributed.workers ({{ $workers }})
{{- end }}
{{- if and (ne .rdzvBackend "c10d") (not .rdzvHost) }}
elasticPolicy.rdzvHost: none, but elasticPolicy.rdzvBackend is {{ .rdzvBackend }}; write the host where etcd listens, or `rdzvBackend: c10d`
{{- end }}
{{- end }}
{{- end }}

{{/* The messages never show the token, whole or in part. */}}
{{- define "llm-finetune.tokenRules" -}}
{{- with .Values.secret }}
{{- if and .encodedToken .existingSecret }}
secret.encodedToken: secret.existingSecret names a Secret already; set one of the two to null
{{- else if and .encodedToken (not .name) }}
secret.name: none, but secret.encodedToken is set; write a name for the Secret
{{- else if .encodedToken }}
{{- $encoded := regexReplaceAll "\\s" .encodedToken "" }}
{{- $base64 := and (regexMatch "^[A-Za-z0-9+/]+={0,2}$" $encoded) (eq (mod (len $encoded) 4) 0) }}
{{- if not (and $base64 (regexMatch "^[!-~]+$" ($encoded | b64dec | trim))) }}
secret.encodedToken: is not a token in base64; write what `echo -n TOKEN | base64` prints
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llm-finetune.podRules" -}}
{{- with .Values.resources }}
{{- if ne (empty .nodeSelectorLabel) (kindIs "invalid" .nodeSelectorValue) }}
resources.nodeSelectorLabel: goes with resources.nodeSelectorValue; set both, or neither
{{- end }}
{{- include "llm-finetune.amountRule" (list "resources.cpuRequest" .cpuRequest "resources.cpuLimit" .cpuLimit) }}
{{- include "llm-finetune.amountRule" (list "resources.memoryRequest" .memoryRequest "resources.memoryLimit" .memoryLimit) }}
{{- end }}
{{- with .Values.dataAccess.resources }}
{{- $limits := default dict .limits }}
{{- range $name, $request := .requests }}
{{- include "llm-finetune.amountRule" (list (printf "dataAccess.resources.requests.%s" $name) $request (printf "dataAccess.resources.limits.%s" $name) (get $limits $name)) }}
{{- end }}
{{- end }}
{{- with .Values.deploy.env }}
{{- if and .enabled (not .configMapName) }}
deploy.env.configMapName: none, but deploy.env.enabled is true; write the ConfigMap's name
{{- end }}
{{- end }}
{{- include "llm-finetune.extraRules" . }}
{{- end }}

{{/* Kubernetes takes a job whose pods it will not make. Takes key and value of the request and of the limit. */}}
{{- define "llm-finetune.amountRule" -}}
{{- $request := index . 1 }}
{{- $limit := index . 3 }}
{{- if and $request $limit (gt (include "llm-finetune.amount" $request | float64) (include "llm-finetune.amount" $limit | float64)) }}
{{ index . 0 }}: found {{ include "llm-finetune.quantity" $request }}, which is more than {{ index . 2 }} ({{ include "llm-finetune.quantity" $limit }})
{{- end }}
{{- end }}

{{/* Here too the job would be taken, and its pods never made. */}}
{{- define "llm-finetune.extraRules" -}}
{{- $volumes := list "storage" "tmp" "home" "token" "settings" "job-secret" "shm" }}
{{- range .Values.extraVolumes }}
{{- if has .name $volumes }}
extraVolumes: the name {{ .name }} is taken; write another than {{ join ", " $volumes }}
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- $home := clean .Values.envVars.hfHome }}
{{- $paths := list "/tmp" "/dev/shm" "/etc/llm-finetune" "/etc/llm-finetune-secret" $home (printf "%s/token" $home) (clean .Values.storage.pvcMountPath) }}
{{- range .Values.extraVolumeMounts }}
{{- if not (has .name $volumes) }}
extraVolumeMounts: no volume has the name {{ .name }}; write one of {{ join ", " $volumes }}, or add it to extraVolumes
{{- end }}
{{- if has (clean .mountPath) $paths }}
extraVolumeMounts: something is mounted at {{ .mountPath }} already; write another mountPath
{{- end }}
{{- $paths = append $paths (clean .mountPath) }}
{{- end }}
{{- $names := list }}
{{- range .Values.extraEnv }}
{{- if has .name $names }}
extraEnv: the name {{ .name }} stands there twice
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}

{{/* What a claim that is there already cannot become. */}}
{{- define "llm-finetune.claimRules" -}}
{{- $name := include "llm-finetune.ownClaimName" . }}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace $name }}
{{- if and $claim (eq $name (include "llm-finetune.claimName" .)) }}
{{- with .Values.storage }}
{{- $size := $claim.spec.resources.requests.storage }}
{{- if lt (include "llm-finetune.amount" .resources | float64) (include "llm-finetune.amount" $size | float64) }}
storage.resources: found {{ .resources }}, but the claim {{ $name }} has {{ $size }} already and cannot shrink; write {{ $size }} or more
{{- end }}
{{- $class := dig "spec" "storageClassName" "" $claim }}
{{- if and .storageClassName (ne .storageClassName $class) }}
storage.storageClassName: found {{ .storageClassName }}, but the claim {{ $name }} is of {{ $class }} already; write that
{{- end }}
{{- if ne (sortAlpha .accessModes | join ", ") (sortAlpha $claim.spec.accessModes | join ", ") }}
storage.accessModes: found {{ join ", " .accessModes }}, but the claim {{ $name }} has {{ join ", " $claim.spec.accessModes }} already; write that
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llm-finetune.dataRules" -}}
{{- with .Values.distributed }}
{{- if and .train.datasetName .train.dataFile }}
distributed.train.dataFile: distributed.train.datasetName is set too; write `datasetName: null` to use the file, or `dataFile: null` to use the data set
{{- else if and (or .doTrain .doEval) (not .train.datasetName) (not .train.dataFile) }}
distributed.train.dataFile: none, and no distributed.train.datasetName; write the path of a file on the volume, or the name of a data set
{{- end }}
{{- end }}
{{- end }}
