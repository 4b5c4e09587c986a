{{/* What every pod of the chart has alike: labels, security, the volume, a place to write. */}}

{{/* No sidecar: it breaks the rendezvous, and a pod with one never completes. Takes (list . "component"). */}}
{{- define "llm-finetune.podMetadata" -}}
{{- $ := first . -}}
{{- $apart := dict "sidecar.istio.io/inject" "false" -}}
{{- $selector := include "llm-finetune.selector" . | fromYaml -}}
labels:
  {{- merge $selector (default dict $.Values.podLabels) (default dict $.Values.commonLabels) $apart | toYaml | nindent 2 }}
annotations:
  {{- merge (deepCopy (default dict $.Values.podAnnotations)) $apart | toYaml | nindent 2 }}
{{- end }}

{{/* The restricted Pod Security Standard. Any user id works; without one the image's counts. */}}
{{- define "llm-finetune.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "llm-finetune.serviceAccountName" . }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
  {{- with get $.Values.securityContext $key }}
  {{ $key }}: {{ include "llm-finetune.whole" . }}
  {{- end }}
  {{- end }}
  {{- if .Values.securityContext.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "llm-finetune.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: {{ default false .Values.securityContext.allowPrivilegeEscalation }}
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Which nodes. */}}
{{- define "llm-finetune.nodes" -}}
{{- with .Values.resources }}
{{- if .nodeSelectorLabel }}
nodeSelector:
  {{ .nodeSelectorLabel | quote }}: {{ include "llm-finetune.quantity" .nodeSelectorValue | quote }}
{{- end }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
