{{/* Where paths may lead: what the job writes belongs on the volume, what it reads there or on a mount of the user's. */}}

{{- define "llm-finetune.pathRules" -}}
{{- $mount := clean .Values.storage.pvcMountPath }}
{{- if include "llm-finetune.ofTheImage" $mount }}
storage.pvcMountPath: found {{ .Values.storage.pvcMountPath }}, which would hide files of the image; write a folder of its own, such as /tmp/pvc-mount or /data
{{- end }}
{{- $home := clean .Values.envVars.hfHome }}
{{- $within := or (hasPrefix (printf "%s/" $mount) (printf "%s/" $home)) (hasPrefix (printf "%s/" $home) $mount) }}
{{- if or $within (include "llm-finetune.ofTheImage" $home) }}
envVars.hfHome: found {{ .Values.envVars.hfHome }}, expected a folder of its own for the mounted token, such as /tmp/home; caches on the volume are envVars.hfDatasetsCache and envVars.transformersCache
{{- end }}
{{- $written := list $mount }}
{{- $read := list $mount }}
{{- range .Values.extraVolumeMounts }}{{- $read = append $read (clean .mountPath) }}{{- end }}
{{- $rule := dict "mount" $mount }}
{{- with .Values.distributed }}
{{- $paths := dict "script" .script "modelNameOrPath" .modelNameOrPath "train.dataFile" .train.dataFile "train.outputDir" .train.outputDir "eval.dataFile" .eval.dataFile "quantize.peftModelDir" .quantize.peftModelDir "quantize.outputDir" .quantize.outputDir }}
{{- range $key, $path := $paths }}
{{- if hasPrefix "~" (default "" $path) }}
distributed.{{ $key }}: found {{ $path }}, but no shell reads ~ in a pod; write the whole path, such as {{ $mount }}/{{ base $path }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.envVars }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "envVars.hfDatasetsCache" "path" .hfDatasetsCache "roots" $written) $rule) }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "envVars.transformersCache" "path" .transformersCache "roots" $written) $rule) }}
{{- end }}
{{- with .Values.distributed }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.train.outputDir" "path" .train.outputDir "roots" $written) $rule) }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.train.dataFile" "path" .train.dataFile "roots" $read) $rule) }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.eval.dataFile" "path" .eval.dataFile "roots" $read) $rule) }}
{{- if .doQuantize }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.quantize.outputDir" "path" .quantize.outputDir "roots" $written) $rule) }}
{{- if not .doTrain }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.quantize.peftModelDir" "path" .quantize.peftModelDir "roots" $read) $rule) }}
{{- end }}
{{- end }}
{{- /* A name on the Hub has one slash at most. */}}
{{- if not (regexMatch "^[A-Za-z0-9][\\w.-]*(/[\\w.-]+)?$" .modelNameOrPath) }}
{{- include "llm-finetune.pathRule" (merge (dict "key" "distributed.modelNameOrPath" "path" .modelNameOrPath "roots" $read) $rule) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a mount at this path would hide what a container needs. */}}
{{- define "llm-finetune.ofTheImage" -}}
{{- regexFind "^/(|tmp|(bin|boot|dev|etc|lib|lib64|opt|proc|root|run|sbin|sys|usr|var|workspace)(/.*)?)$" . -}}
{{- end }}

{{/* Takes key, path (may be none), roots, and mount. */}}
{{- define "llm-finetune.pathRule" -}}
{{- if and .path (not (hasPrefix "~" .path)) }}
{{- $path := clean .path }}
{{- $fits := false }}
{{- range .roots }}{{- if hasPrefix (printf "%s/" .) $path }}{{- $fits = true }}{{- end }}{{- end }}
{{- if not $fits }}
{{- /* With another mount, the paths of the chart's own values have to be written anew. */}}
{{- $below := regexReplaceAll "^/tmp/pvc-mount(/|$)" (clean (printf "/%s" .path)) "" | trimPrefix "/" | default "output" }}
{{ .key }}: found {{ .path }}, which is not below storage.pvcMountPath ({{ .mount }}); write {{ .mount }}/{{ $below }}
{{- end }}
{{- end }}
{{- end }}
