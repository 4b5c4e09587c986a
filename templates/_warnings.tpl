{{/* What renders, but not as its writer may think: a paragraph each, before all else. */}}
{{- define "llm-finetune.warnings" -}}
{{- if contains "intel/ai-workflows" .Values.image.name }}
WARNING: image.name is {{ .Values.image.name }}, the image of an older chart. It has no llm-finetune in it, so the
job will fail. Build this project's image, push it, and write:
    image:
      name: <your registry>/llm-finetune
      tag: {{ .Chart.AppVersion | quote }}
{{ end }}
{{- if .Values.metadata }}
WARNING: metadata has no effect; this release is in the namespace {{ .Release.Namespace }} (helm --namespace).
{{ end }}
{{- range include "llm-finetune.givenOldNames" . | fromJsonArray }}
WARNING: {{ .old }} is now {{ .new }}; the old name works until the next release.
{{- end }}
{{- if and .Release.IsUpgrade (not (include "llm-finetune.jobs" . | fromYaml).items) }}
WARNING: no job of this release was found in the cluster, or it could not be asked. Whatever job the revision before
had, running or not, this one takes its place.
{{ end }}
{{- end }}
