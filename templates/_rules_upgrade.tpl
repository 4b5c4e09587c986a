{{/* A changed job is another one: it does not push aside a job that still runs, unless told to. */}}
{{- define "llm-finetune.upgradeRule" -}}
{{- $running := include "llm-finetune.runningJobs" . | fromYamlArray }}
{{- if and $running (not .Values.replaceRunningJob) }}
replaceRunningJob: the values differ from those of {{ join ", " $running }}, which still runs; wait until it has finished, or stop and replace it by `--set replaceRunningJob=true`
{{- end }}
{{- end }}

{{/* Names of this release's other jobs that have not finished, as a list in YAML. Empty where the cluster cannot be asked. */}}
{{- define "llm-finetune.runningJobs" -}}
{{- $running := list }}
{{- $new := include "llm-finetune.jobName" . }}
{{- range (include "llm-finetune.jobs" . | fromYaml).items }}
{{- $finished := false }}
{{- range dig "status" "conditions" list . }}
{{- if and (has .type (list "Succeeded" "Failed")) (eq .status "True") }}{{- $finished = true }}{{- end }}
{{- end }}
{{- if not (or $finished (eq .metadata.name $new)) }}{{- $running = append $running .metadata.name }}{{- end }}
{{- end }}
{{- toYaml $running }}
{{- end }}

{{/* This release's jobs as {items: …}. Asked only where the operator is known: lookup fails on an unknown kind. */}}
{{- define "llm-finetune.jobs" -}}
{{- $jobs := list }}
{{- if .Capabilities.APIVersions.Has "kubeflow.org/v1/PyTorchJob" }}
{{- range (lookup "kubeflow.org/v1" "PyTorchJob" .Release.Namespace "").items }}
{{- if eq (dig "metadata" "labels" "app.kubernetes.io/instance" "" .) $.Release.Name }}{{- $jobs = append $jobs . }}{{- end }}
{{- end }}
{{- end }}
{{- dict "items" $jobs | toYaml }}
{{- end }}
