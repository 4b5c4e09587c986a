{{/*
The job's name ends in a hash of all that it says: an updated PyTorchJob does not roll its pods, and a finished one
never runs again, so another job needs another name.
*/}}
{{- define "llm-finetune.jobName" -}}
{{- $said := list (include "llm-finetune.jobSpec" (list . "")) .Values.queueName -}}
{{- include "llm-finetune.fullname" . }}-{{ $said | toJson | sha256sum | trunc 8 -}}
{{- end }}

{{/* Takes (list . "name of the job"). */}}
{{- define "llm-finetune.jobSpec" -}}
{{- $name := last . -}}
{{- $ := first . -}}
{{- with $ -}}
# One agent in a pod; unset, the operator starts one process for each CPU of the host.
nprocPerNode: "1"
runPolicy:
  # The job counts as succeeded when one worker has; the others still save.
  cleanPodPolicy: None
  {{- range $key := list "backoffLimit" "activeDeadlineSeconds" "ttlSecondsAfterFinished" }}
  {{- if include "llm-finetune.given" (get $.Values $key) }}
  {{ $key }}: {{ get $.Values $key | include "llm-finetune.whole" }}
  {{- end }}
  {{- end }}
  {{- with .Values.schedulingPolicy }}
  schedulingPolicy:
    {{- toYaml . | nindent 4 }}
  {{- end }}
elasticPolicy:
  {{- with .Values.elasticPolicy }}
  rdzvBackend: {{ .rdzvBackend }}
  # Two jobs on one etcd never meet.
  rdzvId: {{ $name | quote }}
  {{- with .rdzvHost }}
  rdzvHost: {{ . | quote }}
  {{- end }}
  {{- if .rdzvPort }}
  rdzvPort: {{ include "llm-finetune.whole" .rdzvPort }}
  {{- else if ne .rdzvBackend "c10d" }}
  rdzvPort: 2379
  {{- end }}
  minReplicas: {{ include "llm-finetune.whole" .minReplicas }}
  maxReplicas: {{ include "llm-finetune.whole" .maxReplicas }}
  maxRestarts: {{ include "llm-finetune.whole" .maxRestarts }}
  {{- end }}
pytorchReplicaSpecs:
  Worker:
    replicas: {{ include "llm-finetune.whole" .Values.distributed.workers }}
    # 1 to 127 ends the job, 128 and above starts the pod again.
    restartPolicy: ExitCode
    template:
      metadata:
        {{- include "llm-finetune.podMetadata" (list . "worker") | nindent 8 }}
      spec:
        {{- include "llm-finetune.workerPod" . | nindent 8 }}
{{- end -}}
{{- end }}

{{- define "llm-finetune.workerPod" -}}
{{- include "llm-finetune.podSecurity" . }}
{{- include "llm-finetune.nodes" . }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
terminationGracePeriodSeconds: {{ include "llm-finetune.whole" .Values.terminationGracePeriodSeconds }}
containers:
  - name: pytorch
    image: {{ include "llm-finetune.image" . | quote }}
    {{- with .Values.image.pullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    # `env` ends with 127, for good, where the image has no such command; the runtime would start it for ever.
    command: [env, llm-finetune, worker]
    args:
      {{- include "llm-finetune.workerArguments" . | nindent 6 }}
    # What ends the process before it can write its message: the end of its log says why.
    terminationMessagePolicy: FallbackToLogsOnError
    {{- include "llm-finetune.environment" . | nindent 4 }}
    {{- include "llm-finetune.containerSecurity" . | nindent 4 }}
    resources:
      {{- include "llm-finetune.resources" . | nindent 6 }}
    volumeMounts:
      {{- include "llm-finetune.workerMounts" . | nindent 6 }}
volumes:
  {{- include "llm-finetune.workerVolumes" . | nindent 2 }}
{{- end }}

{{- define "llm-finetune.workerArguments" -}}
- --settings
- /etc/llm-finetune/settings.json
- --volume
- {{ clean .Values.storage.pvcMountPath | quote }}
- --wait-for-workers
- {{ include "llm-finetune.whole" (default .Values.distributed.workers .Values.elasticPolicy.waitForWorkers) | quote }}
- --upload-timeout-minutes
- {{ include "llm-finetune.renamed" (list . "storage.uploadTimeoutMinutes") | quote }}
- --data-pod
- {{ include "llm-finetune.dataPod" . | quote }}
- --namespace
- {{ .Release.Namespace | quote }}
- --grace-seconds
# What is left of the grace period is for the launcher's own last words.
- {{ sub (include "llm-finetune.whole" .Values.terminationGracePeriodSeconds | int64) 20 | quote }}
{{- end }}

{{- define "llm-finetune.resources" -}}
{{- $resources := dict -}}
{{- range $kind := list "request" "limit" -}}
{{- range $name := list "cpu" "memory" -}}
{{- with get $.Values.resources (printf "%s%s" $name (title $kind)) -}}
{{- $kinds := printf "%ss" $kind -}}
{{- $amounts := get $resources $kinds | default dict -}}
{{- $_ := set $resources $kinds (set $amounts $name (include "llm-finetune.quantity" .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}
