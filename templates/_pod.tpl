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
serviceAccountName: {{ . }}
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
  {{ .nodeSelectorLabel }}: {{ include "llm-finetune.quantity" .nodeSelectorValue | quote }}
{{- end }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "llm-finetune.storageVolume" -}}
- name: storage
  persistentVolumeClaim:
    claimName: {{ include "llm-finetune.claimName" . }}
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "llm-finetune.storageMount" -}}
- name: tmp
  mountPath: /tmp
- name: storage
  mountPath: {{ clean .Values.storage.pvcMountPath | quote }}
{{- end }}

{{- define "llm-finetune.settingsVolume" -}}
- name: settings
  configMap:
    name: {{ include "llm-finetune.settingsName" . }}
{{- end }}

{{- define "llm-finetune.settingsMount" -}}
- name: settings
  mountPath: /etc/llm-finetune
  readOnly: true
{{- end }}

{{/*
The token is a file in HF_HOME. HF_HOME is a folder of its own that anybody may write to: a runtime that has to make it
for the token's mount makes it root's, and no cache could be written.
*/}}
{{- define "llm-finetune.homeVolume" -}}
- name: home
  emptyDir: {}
{{- with include "llm-finetune.secretName" . }}
- name: token
  secret:
    secretName: {{ . }}
    items:
      - key: token
        path: token
{{- end }}
{{- end }}

{{- define "llm-finetune.homeMount" -}}
{{- with .Values.envVars.hfHome }}
- name: home
  mountPath: {{ clean . | quote }}
{{- if include "llm-finetune.secretName" $ }}
- name: token
  mountPath: {{ printf "%s/token" (clean .) | quote }}
  subPath: token
  readOnly: true
{{- end }}
{{- end }}
{{- end }}
