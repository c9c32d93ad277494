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
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"
)

func parse(t *testing.T, source string) []*ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "source.go", "package source\n"+source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return []*ast.File{file}
}

func TestMetricsOf(t *testing.T) {
	got, err := metricsOf(parse(t, `
const name = "leat_named"
var byQueue = []string{"namespace", "queue"}
var (
	a = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leat_a_total", Help: "First " + "part."}, []string{"result"})
	b = prometheus.NewDesc("leat_b", "Second.", byQueue, nil)
	c = register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "leat", Subsystem: "c", Name: "seconds", Help: "Third."}))
	d = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: "Fourth."}, nil)
	e = prometheus.NewGauge(prometheus.GaugeOpts{Name: "other", Help: "Not ours."})
)
`))
	want := []metric{
		{"leat_a_total", "counter", "First part.", []string{"result"}},
		{"leat_b", "gauge", "Second.", []string{"namespace", "queue"}},
		{"leat_c_seconds", "histogram", "Third.", nil},
		{"leat_named", "gauge", "Fourth.", nil},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("metrics: %v, %v; want %v", got, err, want)
	}
	if _, err := metricsOf(parse(t, `var a = prometheus.NewCounter(prometheus.CounterOpts{Name: "leat_a_total"})`)); err == nil {
		t.Error("a metric without help is accepted")
	}
	if _, err := metricsOf(parse(t, `var a = prometheus.NewCounter(prometheus.CounterOpts{Name: other.Name, Help: "Help."})`)); err == nil {
		t.Error("a metric with a name that cannot be read is accepted")
	}
}

func TestConstants(t *testing.T) {
	all := constants(parse(t, `
const (
	// TaskDone is the type of the condition that is True
	// once it is done.
	TaskDone = "Done"
	// TaskReasonDone is the reason of TaskDone=True.
	TaskReasonDone = "AllDone"
	// TaskReasonGated means spec.gates are left.
	TaskReasonGated = "Gated"
	number = 3
)
`))
	if len(all) != 3 {
		t.Fatalf("constants: %v", all)
	}
	for i, want := range []string{"True once it is done.", "Of `Done`=True.", "spec.gates are left."} {
		if got := withValues(withoutName(all[i]), all); got != want {
			t.Errorf("%s: %q, want %q", all[i].name, got, want)
		}
	}
}

func TestFieldRow(t *testing.T) {
	files := parse(t, "type T struct {\n\t// list is a <list> | of $names.\n\t// +required\n\t// +k8s:maxItems=5\n\tList []Item `json:\"list,omitempty\"`\n}\ntype Item struct{}\n")
	field := files[0].Decls[0].(*ast.GenDecl).Specs[0].(*ast.TypeSpec).Type.(*ast.StructType).Fields.List[0]
	want := "| `list` | array of [Item](#item) | list is a \\<list> \\| of \\$names. *(required; at most 5 items)* |\n"
	if got := fieldRow(field, map[string]bool{"Item": true}); got != want {
		t.Errorf("row: %q, want %q", got, want)
	}
}

func TestWriteHelp(t *testing.T) {
	var page strings.Builder
	commands := writeHelp(&page, "Do <things>.\n\nUsage:\n  leat [command]\n\nExamples:\n  leat run\n\nRun:\n  retry       Run again\n  run         Run\n\nFlags:\n  -h, --help   help\n\nUse \"leat options\".")
	if want := []string{"retry", "run"}; !reflect.DeepEqual(commands, want) {
		t.Errorf("commands: %q, want %q", commands, want)
	}
	for _, want := range []string{`Do \<things>.`, "```text\nleat [command]\n```", "```sh\nleat run\n```", "```text\n-h, --help   help\n```"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q:\n%s", want, page.String())
		}
	}
	if strings.Contains(page.String(), "leat options") {
		t.Errorf("the page repeats the last line:\n%s", page.String())
	}
}
