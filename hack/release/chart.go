/*
Copyright The Leat Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
)

// The files of the chart that are not generated from config/.
//
//go:embed all:chart
var chartFiles embed.FS

// writeChart writes the Helm chart.
func (r *release) writeChart(image types.Image) error {
	etcd, err := etcdImage(r.source)
	if err != nil {
		return err
	}
	templates, err := chartTemplates(r.source)
	if err != nil {
		return err
	}
	replacer := strings.NewReplacer(
		// Helm requires a version without "v".
		"CHART_VERSION", strings.TrimPrefix(r.version, "v"), "LEAT_VERSION", r.version,
		"LEAT_REPOSITORY", image.NewName, "LEAT_TAG", image.NewTag, "LEAT_DIGEST", image.Digest,
		"ETCD_REPOSITORY", etcd.NewName, "ETCD_TAG", etcd.NewTag)
	var files []archived
	err = fs.WalkDir(chartFiles, "chart", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := chartFiles.ReadFile(path)
		files = append(files, archived{"leat/" + strings.TrimPrefix(path, "chart/"), 0o644, []byte(replacer.Replace(string(content)))})
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(templates)) {
		files = append(files, archived{"leat/templates/" + name, 0o644, []byte(templates[name])})
	}
	var chart bytes.Buffer
	if err := writeTarball(&chart, files, r.created); err != nil {
		return err
	}
	return os.WriteFile(r.file(".tgz"), chart.Bytes(), 0o644)
}

// option is a value of the chart that selects components of config/.
type option struct {
	// value is the value in templates.
	value string
	// boolean is true if the value is only compared with the empty string: the first choice is the empty one.
	boolean bool
	choices []choice
}

// choice is a value of an option.
type choice struct {
	value      string
	components []string
}

// options are all options. Their components are built in this order. With this order, each line is in one "if" only.
var options = []option{
	{value: ".Values.archive.url", boolean: true, choices: []choice{
		{"", nil},
		{"s3", []string{"components/archive-s3"}},
	}},
	{value: ".Values.etcd.mode", choices: []choice{
		{"internal", []string{"components/etcd"}},
		{"ha", []string{"components/etcd", "components/etcd-ha"}},
		{"ephemeral", []string{"components/etcd", "components/etcd-ephemeral"}},
		{"external", []string{"components/etcd-external"}},
	}},
	{value: ".Values.certificates.issuer", choices: []choice{
		{"leat", []string{"components/certificates"}},
		{"cert-manager", []string{"components/cert-manager"}},
	}},
	{value: ".Values.monitoring", choices: []choice{
		{"none", nil},
		{"metrics", []string{"components/metrics"}},
		{"prometheus-operator", []string{"components/monitoring"}},
	}},
}

// combination has the index of a choice for each option.
type combination []int

// combinations returns all combinations of choices.
func combinations() []combination {
	all := []combination{{}}
	for _, option := range options {
		var longer []combination
		for _, c := range all {
			for i := range option.choices {
				longer = append(longer, append(slices.Clone(c), i))
			}
		}
		all = longer
	}
	return all
}

// paths returns the paths of the resource and of the components of the combination in config/.
func (c combination) paths() []string {
	paths := []string{"base"}
	for i, option := range options {
		paths = append(paths, option.choices[c[i]].components...)
	}
	return paths
}

// Images of the built manifests. Templates have values instead.
var placeholders = []types.Image{{Name: "leat", NewName: "leat-placeholder"}, {Name: "etcd", NewName: "etcd-placeholder"}}

// substitution replaces a line of a manifest by lines of a template.
type substitution struct {
	// object is the object with the line, or "" for all objects.
	object   string
	line     string
	template string
}

// substitutions are the lines that have values of the chart.
var substitutions = []substitution{
	{"", `image: leat-placeholder`, `image: {{ include "leat.image" .Values.image }}`},
	{"", `image: etcd-placeholder`, `image: {{ include "leat.image" .Values.etcd.image }}`},
	{"Deployment/leat-apiserver", `replicas: 2`, `replicas: {{ .Values.apiserver.replicas }}`},
	{"Deployment/leat-apiserver", `- --goaway-chance=0`, "- --goaway-chance=0\n{{- range .Values.apiserver.extraArgs }}\n- {{ . | quote }}\n{{- end }}"},
	{"Deployment/leat-apiserver", `- --etcd-servers=https://etcd.example.com:2379`, `- {{ printf "--etcd-servers=%s" (join "," .Values.etcd.external.servers) | quote }}`},
	{"Deployment/leat-apiserver", `- --etcd-prefix=/leat`, `- {{ printf "--etcd-prefix=%s" .Values.etcd.external.prefix | quote }}`},
	{"Deployment/leat-apiserver", `- --archive=s3://leat-archive/leat`, `- {{ printf "--archive=%s" .Values.archive.url | quote }}`},
	{"Deployment/leat-apiserver", `- --archive-s3-endpoint=https://s3.example.com`, `- {{ printf "--archive-s3-endpoint=%s" .Values.archive.endpoint | quote }}`},
	{"Deployment/leat-apiserver", `- --archive-s3-region=us-east-1`, `- {{ printf "--archive-s3-region=%s" .Values.archive.region | quote }}`},
	{"Deployment/leat-controller-manager", `replicas: 2`, `replicas: {{ .Values.controllerManager.replicas }}`},
	{"Deployment/leat-controller-manager", `- --health-probe-bind-address=:8081`, "- --health-probe-bind-address=:8081\n{{- range .Values.controllerManager.extraArgs }}\n- {{ . | quote }}\n{{- end }}"},
	// Backups outlive the release, as the data of etcd do.
	{"PersistentVolumeClaim/leat-etcd-backup", `metadata:`, "metadata:\n  annotations:\n    helm.sh/resource-policy: keep"},
}

// chartTemplates returns the templates of the chart, by the names of their files. There is one for each object. A line
// that only some combinations of choices have is in an "if" with the condition for them.
func chartTemplates(source string) (map[string]string, error) {
	all := combinations()
	objects := map[string]*mergedObject{}
	for i, c := range all {
		built, err := kustomize(source, c.paths(), placeholders...)
		if err != nil {
			return nil, err
		}
		for _, resource := range built.Resources() {
			text, err := resource.AsYAML()
			if err != nil {
				return nil, err
			}
			name := fileName(resource)
			if objects[name] == nil {
				objects[name] = &mergedObject{name: resource.GetKind() + "/" + resource.GetName()}
			}
			objects[name].add(i, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"))
		}
	}
	used, templates := map[substitution]bool{}, map[string]string{}
	for name, object := range objects {
		text, err := object.template(all, used)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.name, err)
		}
		templates[name] = text
	}
	var errs []error
	for _, s := range substitutions {
		if !used[s] {
			errs = append(errs, fmt.Errorf("no manifest of config/ has the line %q, which has a value of the chart: %s", s.line, s.template))
		}
	}
	return templates, errors.Join(errs...)
}

// fileName returns the name of the template of an object.
func fileName(resource *resource.Resource) string {
	return strings.ToLower(resource.GetKind()) + "-" + strings.ReplaceAll(resource.GetName(), ":", "-") + ".yaml"
}

// mergedObject is the lines of an object in all combinations.
type mergedObject struct {
	name     string
	lines    []mergedLine
	variants []*variant
}

// mergedLine is a line and the variants that have it. The lines of a variant are a subsequence of the merged lines.
type mergedLine struct {
	text     string
	variants []*variant
}

// variant is a text of an object, and the indexes of the combinations that have it.
type variant struct {
	text         string
	combinations []int
}

// add adds the lines that the object has in a combination.
func (o *mergedObject) add(combination int, lines []string) {
	text := strings.Join(lines, "\n")
	if i := slices.IndexFunc(o.variants, func(v *variant) bool { return v.text == text }); i >= 0 {
		o.variants[i].combinations = append(o.variants[i].combinations, combination)
		return
	}
	added := &variant{text: text, combinations: []int{combination}}
	o.variants = append(o.variants, added)

	// longest[i][j] is the length of the longest common subsequence of o.lines[i:] and lines[j:].
	longest := make([][]int, len(o.lines)+1)
	for i := range longest {
		longest[i] = make([]int, len(lines)+1)
	}
	for i := len(o.lines) - 1; i >= 0; i-- {
		for j := len(lines) - 1; j >= 0; j-- {
			if o.lines[i].text == lines[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	var merged []mergedLine
	for i, j := 0, 0; i < len(o.lines) || j < len(lines); {
		switch {
		case i < len(o.lines) && j < len(lines) && o.lines[i].text == lines[j]:
			merged = append(merged, mergedLine{lines[j], append(slices.Clone(o.lines[i].variants), added)})
			i, j = i+1, j+1
		case j == len(lines) || i < len(o.lines) && longest[i+1][j] > longest[i][j+1]:
			merged = append(merged, o.lines[i])
			i++
		default:
			merged = append(merged, mergedLine{lines[j], []*variant{added}})
			j++
		}
	}
	o.lines = merged
}

// template returns the template of the object, and records the substitutions that it used.
func (o *mergedObject) template(all []combination, used map[substitution]bool) (string, error) {
	var text strings.Builder
	text.WriteString("{{- /* Generated from config/. */ -}}\n")
	namespace := o.name == "Namespace/leat-system"
	if namespace {
		// Helm creates the namespace of the release before it installs objects.
		text.WriteString("{{- if ne .Release.Namespace \"leat-system\" }}\n")
	}
	present := o.combinations(o.variants, all)
	always, err := conditionFor(present, all)
	if err != nil {
		return "", err
	}
	if always != "" {
		text.WriteString("{{- if " + always + " }}\n")
	}
	open := ""
	for _, line := range o.lines {
		condition, err := conditionFor(o.combinations(line.variants, all), present)
		if err != nil {
			return "", fmt.Errorf("line %q: %w", line.text, err)
		}
		if condition != open {
			if open != "" {
				text.WriteString("{{- end }}\n")
			}
			if condition != "" {
				text.WriteString("{{- if " + condition + " }}\n")
			}
			open = condition
		}
		text.WriteString(o.substitute(line.text, used) + "\n")
	}
	if open != "" {
		text.WriteString("{{- end }}\n")
	}
	if always != "" {
		text.WriteString("{{- end }}\n")
	}
	if namespace {
		text.WriteString("{{- end }}\n")
	}
	return text.String(), nil
}

// combinations returns the combinations that have one of the variants.
func (o *mergedObject) combinations(variants []*variant, all []combination) []combination {
	var having []combination
	for _, v := range variants {
		for _, i := range v.combinations {
			having = append(having, all[i])
		}
	}
	return having
}

// substitute returns the lines of a template for a line of a manifest.
func (o *mergedObject) substitute(line string, used map[substitution]bool) string {
	trimmed := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(trimmed)]
	for _, s := range substitutions {
		// The first line of an item in a list has a hyphen.
		hyphen := ""
		if !strings.HasPrefix(s.line, "- ") && strings.HasPrefix(trimmed, "- ") {
			hyphen = "- "
		}
		if (s.object == "" || s.object == o.name) && trimmed == hyphen+s.line {
			used[s] = true
			return indent + hyphen + strings.ReplaceAll(s.template, "\n", "\n"+indent)
		}
	}
	return strings.ReplaceAll(line, "{{", `{{ "{{" }}`)
}

// conditionFor returns the condition that holds in exactly these combinations among others, or "" if these are all of
// them. Each option must have a set of choices such that the combinations are the product of these sets.
func conditionFor(having, among []combination) (string, error) {
	product := 1
	var terms []string
	for i, option := range options {
		chosen, possible := choicesOf(i, having), choicesOf(i, among)
		product *= len(chosen)
		if len(chosen) < len(possible) {
			terms = append(terms, option.condition(chosen, possible))
		}
	}
	if product != len(having) {
		return "", fmt.Errorf("no conjunction of conditions holds in the combinations %v only: make the components of config/ independent of each other", having)
	}
	if len(terms) < 2 {
		return strings.Join(terms, ""), nil
	}
	return "and (" + strings.Join(terms, ") (") + ")", nil
}

// choicesOf returns the indexes of the choices that the combinations have of an option.
func choicesOf(option int, combinations []combination) []int {
	var chosen []int
	for _, c := range combinations {
		if !slices.Contains(chosen, c[option]) {
			chosen = append(chosen, c[option])
		}
	}
	slices.Sort(chosen)
	return chosen
}

// condition returns the condition that holds for the chosen among the possible choices.
func (o option) condition(chosen, possible []int) string {
	var in, out []string
	for _, i := range possible {
		value := fmt.Sprintf("%q", o.choices[i].value)
		if slices.Contains(chosen, i) {
			in = append(in, value)
		} else {
			out = append(out, value)
		}
	}
	switch {
	case o.boolean && chosen[0] == 0:
		return "not " + o.value
	case o.boolean:
		return o.value
	case len(in) == 1:
		return "eq " + o.value + " " + in[0]
	case len(out) == 1:
		return "ne " + o.value + " " + out[0]
	}
	return "has " + o.value + " (list " + strings.Join(in, " ") + ")"
}
