{{- /* leat.image is the name of an image with its tag and, if it is set, its digest. */ -}}
{{- define "leat.image" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
