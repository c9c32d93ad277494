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
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the prefix of the import paths of this module.
const module = "github.com/leat-dev/leat/"

// metricPrefix is that of all metrics of Leat.
const metricPrefix = "leat_"

// metric is a collector in the source.
type metric struct {
	name, kind, help string
	labels           []string
}

// metricGroups are the programs by the directories of their collectors.
var metricGroups = []struct{ title, intro, dir string }{
	{"`leat-apiserver`", "Besides these, it serves what every Kubernetes API server has, with the group `batch.leat.dev`.", "pkg/apiserver"},
	{"The scheduler", "In `leat-controller-manager` and `leat up`.", "pkg/scheduler"},
	{"The controllers", "In `leat-controller-manager` and `leat up`. Rates, errors and durations of syncs are `controller_runtime_reconcile_*`.", "pkg/controller"},
	{"`leat-worker`", "Also in `leat up`.", "pkg/worker"},
}

const metricsIntro = `
Names follow kube-controller-manager and Kueue. No label holds the name of a task, a set or a worker.

## Where they are served

| Program | Address of ` + "`/metrics`" + ` |
|---|---|
| ` + "`leat-apiserver`" + ` | its port, for those who may get that path |
| ` + "`leat-controller-manager`" + ` | ` + "`--metrics-bind-address`" + `, by default 127.0.0.1:8080: the controllers and the scheduler |
| ` + "`leat-worker`" + ` | ` + "`--metrics-bind-address`" + `, by default nowhere; in a pod ` + "`:9090`" + `, as a port named ` + "`metrics`" + ` |
| ` + "`leat up`" + ` | ` + "`--metrics-bind-address`" + `, by default nowhere: the controllers, the scheduler and the workers |

## How to read them

Counters start at zero with their process, and only the leading controller manager counts. A counter grows after the status is
stored, so a crash counts nothing twice; what a process did not live to count is missing. Exact numbers are those of the task sets:
` + "`status.succeeded`" + ` and ` + "`status.failed`" + `. Times of finished tasks are in whole seconds.

[Monitor Leat](../how-to/monitor.md#alert-on-what-matters) lists what is worth an alert.

| Label | Values |
|---|---|
| ` + "`reason`" + ` of finished tasks, sets, evictions | those of [conditions and reasons](conditions.md); others are ` + "`Other`" + ` |
| ` + "`reason`" + ` of deletions by the lifecycle controller | ` + "`TimeToLive`" + `, ` + "`WorkerLost`" + ` (the worker that had to end the task is gone), ` + "`DeletionInterrupted`" + ` (a deletion had begun and did not end) |
| ` + "`result`" + ` | ` + "`succeeded`" + `, ` + "`failed`" + `; of scheduling: ` + "`scheduled`" + `, ` + "`unschedulable`" + `, ` + "`error`" + ` |
| ` + "`state`" + ` of pools | ` + "`scaled`" + `, ` + "`invalid`" + `, ` + "`forbidden`" + `, ` + "`foreign`" + `: see [Pools](../concepts/pools.md) |
| ` + "`state`" + ` of workers | ` + "`ready`" + `, ` + "`not_ready`" + ` (draining, stopped), ` + "`unreachable`" + ` |
| ` + "`transition`" + ` | ` + "`lost`" + `, ` + "`returned`" + `, ` + "`removed`" + ` |
`

// metricsPage returns the reference of all metrics.
func metricsPage() (string, error) {
	var page strings.Builder
	page.WriteString(header("Metrics", "This page is for you if you operate Leat, and look up the name, the labels or the meaning of a metric.", "the collectors in pkg/"))
	page.WriteString(metricsIntro)
	total := 0
	for _, group := range metricGroups {
		dirs, err := packageDirs(group.dir)
		if err != nil {
			return "", err
		}
		var all []metric
		for _, dir := range dirs {
			files, err := parseDir(dir)
			if err != nil {
				return "", err
			}
			found, err := metricsOf(files)
			if err != nil {
				return "", fmt.Errorf("%s: %w", dir, err)
			}
			all = append(all, found...)
		}
		total += len(all)
		slices.SortFunc(all, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n", group.title, group.intro)
		for _, m := range all {
			labels := make([]string, len(m.labels))
			for i, label := range m.labels {
				labels[i] = "`" + label + "`"
			}
			fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(labels, ", "), cell(m.help))
		}
	}
	if total == 0 {
		return "", fmt.Errorf("no collectors found")
	}
	return page.String(), nil
}

// metricsOf returns the metrics that a package makes with constructors of the Prometheus client.
func metricsOf(files []*ast.File) ([]metric, error) {
	lists := map[string][]string{} // variables with label names
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			if spec, ok := node.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					if labels, ok := stringList(spec.Values[i], nil); ok {
						lists[name.Name] = labels
					}
				}
			}
			return true
		})
	}
	texts, err := constantTexts(files)
	if err != nil {
		return nil, err
	}
	var all []metric
	var failure error
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch fun := call.Fun.(type) {
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			case *ast.Ident:
				name = fun.Name
			}
			m, ok := metricOfCall(name, call, lists, texts)
			if ok && m.name == "" {
				failure = errors.New("the name of a metric is neither a literal nor a constant")
			}
			if ok && strings.HasPrefix(m.name, metricPrefix) {
				if m.help == "" {
					failure = fmt.Errorf("metric %s has no help", m.name)
				}
				all = append(all, m)
			}
			return true
		})
	}
	return all, failure
}

// metricOfCall returns the metric that a call of a constructor makes, and whether it is one.
func metricOfCall(constructor string, call *ast.CallExpr, lists map[string][]string, texts map[string]string) (metric, bool) {
	var m metric
	if constructor == "NewDesc" && len(call.Args) >= 3 {
		m.name, _ = text(call.Args[0], texts)
		m.help, _ = text(call.Args[1], texts)
		m.labels, _ = stringList(call.Args[2], lists)
		m.kind = "gauge"
		if strings.HasSuffix(m.name, "_total") {
			m.kind = "counter"
		}
		return m, true
	}
	kind := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(constructor, "New"), "Vec"), "Func")
	if kind != "Counter" && kind != "Gauge" && kind != "Histogram" || len(call.Args) == 0 {
		return m, false
	}
	options := call.Args[0]
	if address, ok := options.(*ast.UnaryExpr); ok && address.Op == token.AND {
		options = address.X
	}
	literal, ok := options.(*ast.CompositeLit)
	if !ok {
		return m, false
	}
	m.kind = strings.ToLower(kind)
	parts := map[string]string{}
	for _, element := range literal.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			if key, ok := pair.Key.(*ast.Ident); ok {
				parts[key.Name], _ = text(pair.Value, texts)
			}
		}
	}
	m.help = parts["Help"]
	m.name = strings.Trim(strings.Join([]string{parts["Namespace"], parts["Subsystem"], parts["Name"]}, "_"), "_")
	m.name = strings.ReplaceAll(m.name, "__", "_")
	if len(call.Args) > 1 {
		m.labels, _ = stringList(call.Args[1], lists)
	}
	return m, true
}

// constantTexts returns the string constants of a package by name, and those of the module's packages that it imports
// by package and name.
func constantTexts(files []*ast.File) (map[string]string, error) {
	texts := map[string]string{}
	for _, c := range constants(files) {
		texts[c.name] = c.value
	}
	for _, file := range files {
		for _, imported := range file.Imports {
			importPath, err := strconv.Unquote(imported.Path.Value)
			if err != nil {
				return nil, err
			}
			dir, ok := strings.CutPrefix(importPath, module)
			if !ok {
				continue
			}
			importedFiles, err := parseDir(dir)
			if err != nil {
				return nil, err
			}
			name := path.Base(dir)
			if imported.Name != nil {
				name = imported.Name.Name
			}
			for _, c := range constants(importedFiles) {
				texts[name+"."+c.name] = c.value
			}
		}
	}
	return texts, nil
}

// text returns the value of a literal, a sum of them, or a constant.
func text(expr ast.Expr, texts map[string]string) (string, bool) {
	switch e := expr.(type) {
	case *ast.Ident:
		value, ok := texts[e.Name]
		return value, ok
	case *ast.SelectorExpr:
		value, ok := texts[fmt.Sprint(e.X)+"."+e.Sel.Name]
		return value, ok
	}
	return stringValue(expr)
}

// stringList returns the elements of a []string literal, or of a variable that holds one.
func stringList(expr ast.Expr, lists map[string][]string) ([]string, bool) {
	if ident, ok := expr.(*ast.Ident); ok {
		list, ok := lists[ident.Name]
		return list, ok
	}
	literal, ok := expr.(*ast.CompositeLit)
	if !ok {
		return nil, false
	}
	if array, ok := literal.Type.(*ast.ArrayType); !ok || fmt.Sprint(array.Elt) != "string" {
		return nil, false
	}
	var list []string
	for _, element := range literal.Elts {
		value, ok := stringValue(element)
		if !ok {
			return nil, false
		}
		list = append(list, value)
	}
	return list, true
}
