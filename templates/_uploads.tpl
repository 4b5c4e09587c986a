{{/* The commands that bring what the job reads from the volume to it; none where it reads nothing from there. */}}
{{- define "llm-finetune.uploads" -}}
{{- $pod := include "llm-finetune.dataPod" . }}
{{- $mount := clean .Values.storage.pvcMountPath }}
{{- $folders := dict }}
{{- range list .Values.distributed.modelNameOrPath .Values.distributed.train.dataFile .Values.distributed.eval.dataFile }}
{{- if hasPrefix (printf "%s/" $mount) (clean (default "" .)) }}
{{- $folder := dir (clean .) }}
{{- $_ := set $folders $folder (append (get $folders $folder | default list) (base .) | uniq) }}
{{- end }}
{{- end }}
{{- if and $pod $folders }}

Upload what the job reads; the workers wait for it {{ include "llm-finetune.renamed" (list . "storage.uploadTimeoutMinutes") }} minutes:
{{- range $folder, $names := $folders }}
{{- if and (gt (len $names) 1) (ne $folder $mount) }}
{{ base $folder }} is a folder with {{ join ", " $names }} in it:
    {{- include "llm-finetune.upload" (list $ (base $folder) (dir $folder)) }}
{{- else }}
{{- range $names }}
    {{- include "llm-finetune.upload" (list $ . $folder) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Into a folder that is there: `kubectl cp` means another place where its target is. Takes (list . "name" "folder"). */}}
{{- define "llm-finetune.upload" -}}
{{- $ := first . }}
{{- $pod := include "llm-finetune.dataPod" $ }}
{{- $folder := last . }}
{{- if ne $folder (clean $.Values.storage.pvcMountPath) }}
    kubectl -n {{ $.Release.Namespace }} exec {{ $pod }} -- mkdir -p {{ squote $folder }}
{{- end }}
    kubectl -n {{ $.Release.Namespace }} cp {{ index . 1 | squote }} {{ printf "%s:%s/" $pod $folder | squote }}
{{- end }}
