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
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// reason is a reason that a component writes, and that no constant of the API documents.
type reason struct {
	name, meaning string
}

// otherReasons are the reasons that controllers, the scheduler and workers write, by what they are reasons of.
// conditionsPage checks that each is in the code, and that the code has no other.
var otherReasons = []struct {
	title   string
	reasons []reason
}{
	{"Reasons of evictions: `DisruptionTarget` of a task", []reason{
		{"WorkerLost", "The lease of the worker has expired, or its Worker does not exist. Counts as a crash if the command ran."},
		{"WorkerRestarted", "The worker has restarted. Counts as a crash if the command ran."},
		{"WorkerStopped", "The worker was stopped before the task had finished."},
		{"WorkerResourcePressure", "The worker could not start the command, because it lacked descriptors, processes, memory or disk space."},
		{"WorkerDenied", "The worker is denied."},
		{"TaintEviction", "The worker has a `NoExecute` taint that the task does not tolerate, or no longer tolerates."},
		{"TaskQueueStopped", "The queue is drained (`stopPolicy: HoldAndDrain`)."},
		{"Evicted", "The default, for evictions without a reason."},
	}},
	{"Reasons of a command that waits: `status.state.waiting` of a task", []reason{
		{"BackOff", "The command has failed and starts again after a delay."},
	}},
	{"Reasons in the record of an attempt, beside those of a task", []reason{
		{"Deleted", "The task is being deleted."},
		{"Lost", "The task was deleted without a grace period, or was taken from the worker."},
	}},
	{"Reasons of `Ready` of a worker", []reason{
		{"WorkerReady", "True: the worker accepts tasks."},
		{"Draining", "False: the worker ends its tasks, and then stops."},
		{"Stopped", "False: the worker has stopped."},
		{"WorkerStatusUnknown", "Unknown: the lease has expired."},
		{"WorkerStopUnknown", "Unknown: the lease has expired while the worker was stopping."},
	}},
	{"Reasons of `ResourcePressure` of a worker", []reason{
		{"TooManyOpenFiles", "File descriptors are short."},
		{"TooManyProcesses", "Processes are short."},
		{"OutOfMemory", "Memory is short."},
		{"NoSpace", "Disk space is short."},
		{"SufficientResources", "False: the worker has enough of all of them."},
	}},
	{"Reasons of `Active` of a queue", []reason{
		{"Ready", "True: the queue starts tasks."},
		{"Stopped", "False: `stopPolicy` is `Hold` or `HoldAndDrain`."},
	}},
	{"Events of the StatefulSet of a pool", []reason{
		{"ScaledPool", "The number of workers has changed."},
		{"InvalidPool", "The label or an annotation is wrong. The StatefulSet is not touched."},
		{"ScalingForbidden", "The RoleBinding to `leat:pool-scaler` is missing."},
		{"ScaledByAnother", "Another field manager owns the replicas. The message has the command that ends that."},
		{"WorkersNotRegistered", "Workers have not registered for two minutes: see the pods."},
	}},
	{"Events of a set, besides the reasons of its conditions", []reason{
		{"Completed", "The set has succeeded."},
		{"StatusTooLarge", "The status cannot be stored."},
	}},
}

var camelCase = regexp.MustCompile(`^[A-Z][A-Za-z]+$`)

// conditionsPage returns the reference of conditions and reasons.
func conditionsPage() (string, error) {
	files, err := parseDir(typesDir)
	if err != nil {
		return "", err
	}
	documented := constants(files)
	if err := checkReasons(documented); err != nil {
		return "", err
	}
	var page strings.Builder
	page.WriteString(header("Conditions and reasons", "This page is for you if you read a status, or write a tool that does.", typesDir))
	for _, kind := range []struct{ title, prefix string }{{"Task", "Task"}, {"TaskSet", "TaskSet"}, {"Worker", "Worker"}} {
		var types, reasons []string
		for _, c := range documented {
			if kindOf(c) != kind.prefix || c.typeName != "" {
				continue
			}
			row := fmt.Sprintf("| `%s` | %s |", c.value, cell(withValues(withoutName(c), documented)))
			switch {
			case strings.Contains(c.name, "Reason"):
				reasons = append(reasons, row)
			case strings.Contains(c.doc, "is the type of the condition"):
				types = append(types, row)
			}
		}
		section(&page, "Conditions of a "+kind.title, "Condition", types)
		section(&page, "Reasons of a "+kind.title, "Reason", reasons)
	}
	section(&page, "Conditions of a TaskQueue", "Condition", []string{"| `Active` | True while the queue starts tasks. |"})
	for _, other := range otherReasons {
		var rows []string
		for _, r := range other.reasons {
			rows = append(rows, fmt.Sprintf("| `%s` | %s |", r.name, r.meaning))
		}
		section(&page, other.title, "Reason", rows)
	}
	return page.String(), nil
}

func section(page *strings.Builder, title, first string, rows []string) {
	if len(rows) > 0 {
		fmt.Fprintf(page, "\n## %s\n\n| %s | Meaning |\n|---|---|\n%s\n", title, first, strings.Join(rows, "\n"))
	}
}

// kindOf returns the kind that a constant of the API belongs to, by its name.
func kindOf(c constant) string {
	for _, prefix := range []string{"TaskSet", "TaskQueue", "Worker", "Task"} {
		if strings.HasPrefix(c.name, prefix) {
			return prefix
		}
	}
	return "Task" // DisruptionTarget
}

// withValues replaces the Go names of constants in a text by their values.
func withValues(text string, all []constant) string {
	return regexp.MustCompile(`\b[A-Z][A-Za-z]+\b`).ReplaceAllStringFunc(text, func(word string) string {
		for _, c := range all {
			if c.name == word && c.name != c.value {
				return "`" + c.value + "`"
			}
		}
		return word
	})
}

// checkReasons returns an error unless otherReasons are those of the code.
func checkReasons(documented []constant) error {
	literals, named := map[string]bool{}, map[string]string{}
	for _, root := range []string{"apis", "pkg"} {
		dirs, err := packageDirs(root)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			files, err := parseDir(dir)
			if err != nil {
				return err
			}
			for _, file := range files {
				ast.Inspect(file, func(node ast.Node) bool {
					if expr, ok := node.(ast.Expr); ok {
						if text, ok := stringValue(expr); ok {
							literals[text] = true
						}
					}
					return true
				})
			}
			for _, c := range constants(files) {
				if root == "pkg" && strings.HasPrefix(c.name, "reason") && camelCase.MatchString(c.value) {
					named[c.value] = dir
				}
			}
		}
	}
	known := map[string]bool{"InsufficientStorage": true} // the reason of an answer, not of a condition
	for _, c := range documented {
		known[c.value] = true
	}
	for _, other := range otherReasons {
		for _, r := range other.reasons {
			known[r.name] = true
			if !literals[r.name] && r.name != "Evicted" {
				return fmt.Errorf("no code has the reason %q: remove it from otherReasons", r.name)
			}
		}
	}
	var missing []string
	for name, dir := range named {
		if !known[name] {
			missing = append(missing, fmt.Sprintf("%s (%s)", name, dir))
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		return fmt.Errorf("document these reasons in otherReasons: %s", strings.Join(missing, ", "))
	}
	return nil
}
