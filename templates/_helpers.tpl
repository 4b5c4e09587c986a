{{/* Names. */}}

{{/*
The name that all objects begin with: 40 characters at most, so that <name>-<hash>-worker-<n> and
<name>-dataaccess-<hash> are labels of 63; it begins with a letter and has no dot, as a service's name must. A name
that had to be changed gets a hash of the whole, so that two long ones stay apart.
*/}}
{{- define "llm-finetune.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $release := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $wanted := default $release .Values.fullnameOverride -}}
{{- $fit := regexReplaceAll "^([0-9])" (replace "." "-" $wanted) "r${1}" -}}
{{- if or (ne $fit $wanted) (gt (len $fit) 40) -}}
{{- printf "%s-%s" ($fit | trunc 31 | trimAll "-") (sha256sum $wanted | trunc 8) -}}
{{- else -}}
{{- $fit -}}
{{- end -}}
{{- end }}

{{- define "llm-finetune.claimName" -}}
{{- default (include "llm-finetune.ownClaimName" .) .Values.storage.existingClaim -}}
{{- end }}

{{- define "llm-finetune.ownClaimName" -}}
{{- include "llm-finetune.fullname" . }}-pvc
{{- end }}

{{/* The Secret with the token; empty without one. */}}
{{- define "llm-finetune.secretName" -}}
{{- with .Values.secret -}}
{{- .existingSecret | default (and .encodedToken .name) | default "" -}}
{{- end -}}
{{- end }}

{{/* The Secret by which the workers tell each other from strangers. */}}
{{- define "llm-finetune.jobSecretName" -}}
{{- $own := include "llm-finetune.ownJobSecretName" . -}}
{{- with .Values.jobSecret -}}{{- default $own .existingSecret -}}{{- else -}}{{- $own -}}{{- end -}}
{{- end }}

{{- define "llm-finetune.ownJobSecretName" -}}
{{- include "llm-finetune.fullname" . }}-job-secret
{{- end }}

{{- define "llm-finetune.serviceAccountName" -}}
{{- with .Values.serviceAccount -}}
{{- default (ternary (include "llm-finetune.fullname" $) "" (default false .create)) .name -}}
{{- end -}}
{{- end }}

{{- define "llm-finetune.dataAccessName" -}}
{{- include "llm-finetune.fullname" . }}-dataaccess
{{- end }}

{{/* Its pod, as the StatefulSet names it; empty where there is none. */}}
{{- define "llm-finetune.dataPod" -}}
{{- if .Values.dataAccess.enabled -}}
{{- include "llm-finetune.dataAccessName" . }}-0
{{- end -}}
{{- end }}

{{/* The pod of `helm test`. */}}
{{- define "llm-finetune.testPod" -}}
{{- include "llm-finetune.fullname" . }}-test
{{- end }}

{{- define "llm-finetune.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- .name }}@{{ .digest -}}
{{- else -}}
{{- .name }}:{{ default $.Chart.AppVersion .tag -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels. */}}

{{/* What selects an object's pods; takes (list . "component"). */}}
{{- define "llm-finetune.selector" -}}
{{- $ := first . -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* An object's labels; takes (list . "component"). */}}
{{- define "llm-finetune.labels" -}}
{{- $ := first . -}}
{{- $own := include "llm-finetune.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" $.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $.Chart.Name (replace "+" "_" $.Chart.Version)) -}}
{{- merge $own (default dict $.Values.commonLabels) | toYaml -}}
{{- end }}

{{/* True unless none; 0 and false are values too. */}}
{{- define "llm-finetune.given" -}}
{{- not (or (kindIs "invalid" .) (eq (toString .) "")) | ternary "true" "" -}}
{{- end }}

{{/* Numbers: Helm reads them as floats and would write 1e+06. */}}
{{- define "llm-finetune.whole" -}}
{{- float64 . | int64 -}}
{{- end }}

{{- define "llm-finetune.quantity" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end }}

{{/* A quantity as a plain number, to compare. */}}
{{- define "llm-finetune.amount" -}}
{{- $units := dict "" 1.0 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $text := include "llm-finetune.quantity" . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit) -}}
{{- end }}
