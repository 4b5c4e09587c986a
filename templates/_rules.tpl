{{/* What must hold between keys: one line for each rule that the values break. */}}

{{- define "llm-finetune.rules" -}}
{{- include "llm-finetune.groupRules" . }}
{{- include "llm-finetune.tokenRules" . }}
{{- include "llm-finetune.podRules" . }}
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
{{- end }}
{{- with .Values.deploy.env }}
{{- if and .enabled (not .configMapName) }}
deploy.env.configMapName: none, but deploy.env.enabled is true; write the ConfigMap's name
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
