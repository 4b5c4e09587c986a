{{/* The workers' environment; a variable in extraEnv takes the place of the chart's own. */}}
{{- define "llm-finetune.environment" -}}
{{- $named := dict -}}
{{- range .Values.extraEnv }}{{- $_ := set $named .name true }}{{- end -}}
{{- $env := list -}}
{{- range include "llm-finetune.ownEnv" . | fromYamlArray -}}
{{- if not (hasKey $named .name) }}{{- $env = append $env . }}{{- end -}}
{{- end -}}
{{- with .Values.deploy.env -}}
{{- if .enabled -}}
envFrom:
  - configMapRef:
      name: {{ .configMapName | quote }}
{{ end -}}
{{- end -}}
env:
  {{- concat $env (default list .Values.extraEnv) | toYaml | nindent 2 -}}
{{- end }}

{{- define "llm-finetune.ownEnv" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- /* Unset, these would say what the node has. */}}
{{- if .Values.resources.cpuLimit }}
- {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {containerName: pytorch, resource: limits.cpu, divisor: 1m}}}
{{- end }}
{{- if .Values.resources.cpuRequest }}
- {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {containerName: pytorch, resource: requests.cpu, divisor: 1m}}}
{{- end }}
- {name: HOME, value: /tmp}
- {name: LLM_FINETUNE_SECRET_FILE, value: /etc/llm-finetune-secret/secret}
{{- if include "llm-finetune.secretName" . }}
- {name: HF_TOKEN_PATH, value: {{ printf "%s/token/token" (clean .Values.envVars.hfHome) | quote }}}
{{- end }}
{{- with .Values.envVars }}
{{- $set := dict
  "LD_PRELOAD" .ldPreload
  "LOG_LEVEL" .logLevel
  "LOGLEVEL" .logLevel
  "CCL_WORKER_COUNT" .cclWorkerCount
  "HF_HOME" .hfHome
  "HF_DATASETS_CACHE" .hfDatasetsCache
  "HF_HUB_CACHE" .transformersCache
}}
{{- range $name, $value := dict "http" .httpProxy "https" .httpsProxy "ftp" .ftpProxy "socks" .socksProxy "no" .noProxy }}
{{- /* Programs differ in which of the two they read. */}}
{{- $_ := set $set (printf "%s_proxy" $name) $value }}
{{- $_ := set $set (printf "%s_PROXY" (upper $name)) $value }}
{{- end }}
{{- range $name, $value := $set }}
{{- if include "llm-finetune.given" $value }}
- {name: {{ $name }}, value: {{ include "llm-finetune.quantity" $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
