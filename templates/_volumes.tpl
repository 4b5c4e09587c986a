{{/* The root file system is read-only: what pods mount, and where they may write. */}}

{{- define "llm-finetune.storageVolumes" -}}
- name: storage
  persistentVolumeClaim:
    claimName: {{ include "llm-finetune.claimName" . | quote }}
- name: tmp
  emptyDir:
    sizeLimit: {{ include "llm-finetune.quantity" .Values.tmp.sizeLimit | quote }}
{{- end }}

{{- define "llm-finetune.storageMounts" -}}
- name: storage
  mountPath: {{ clean .Values.storage.pvcMountPath | quote }}
- name: tmp
  mountPath: /tmp
{{- end }}

{{/*
The token's folder is in HF_HOME, which is a folder of its own that anybody may write to: made by the runtime for the
token's mount it would be root's, and no cache could be written. HF_TOKEN_PATH names the file in it: mounted alone, as a
subPath, it would stay the old one when the Secret is renewed.
*/}}
{{- define "llm-finetune.workerVolumes" -}}
{{- include "llm-finetune.storageVolumes" . }}
- name: home
  emptyDir:
    sizeLimit: {{ include "llm-finetune.quantity" .Values.home.sizeLimit | quote }}
{{- with include "llm-finetune.secretName" . }}
- name: token
  secret:
    secretName: {{ . | quote }}
    items:
      - key: token
        path: token
{{- end }}
- name: settings
  configMap:
    name: {{ include "llm-finetune.settingsName" . | quote }}
- name: job-secret
  secret:
    secretName: {{ include "llm-finetune.jobSecretName" . | quote }}
    items:
      - key: secret
        path: secret
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ include "llm-finetune.quantity" .Values.shm.sizeLimit | quote }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llm-finetune.workerMounts" -}}
{{- $home := clean .Values.envVars.hfHome -}}
{{- include "llm-finetune.storageMounts" . }}
- name: home
  mountPath: {{ $home | quote }}
{{- if include "llm-finetune.secretName" . }}
- name: token
  mountPath: {{ printf "%s/token" $home | quote }}
  readOnly: true
{{- end }}
- name: settings
  mountPath: /etc/llm-finetune
  readOnly: true
- name: job-secret
  mountPath: /etc/llm-finetune-secret
  readOnly: true
- name: shm
  mountPath: /dev/shm
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
