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

package config

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	lua "github.com/yuin/gopher-lua"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// argoCD returns the settings for Argo CD by their keys.
func argoCD(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("../artifacts/argocd/argocd-cm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var patch struct {
		Data map[string]string `json:"data"`
	}
	if err := yaml.UnmarshalStrict(data, &patch); err != nil {
		t.Fatal(err)
	}
	return patch.Data
}

// TestArgoCDHealth runs the checks as Argo CD does: with the same interpreter and the object in the variable obj.
func TestArgoCDHealth(t *testing.T) {
	const ended = `{type: SuccessCriteriaMet, status: "True", reason: CompletionsReached, message: all}, `
	for name, test := range map[string]struct {
		kind, object, status, message string
	}{
		"a task that was just created":             {"Task", `{spec: {}}`, "Progressing", "The task has not ended"},
		"a task without conditions":                {"Task", `{spec: {}, status: {phase: Pending}}`, "Progressing", "The task has not ended"},
		"a task that waits":                        {"Task", `{spec: {}, status: {conditions: [{type: TaskScheduled, status: "False", reason: Unschedulable, message: no room}, {type: Reconciling, status: "True", reason: Pending, message: it waits}]}}`, "Progressing", "it waits"},
		"a task that has succeeded":                {"Task", `{spec: {}, status: {conditions: [{type: Reconciling, status: "False", reason: Completed, message: ""}, {type: Complete, status: "True", reason: Completed, message: done}]}}`, "Healthy", "done"},
		"a task that has failed":                   {"Task", `{spec: {}, status: {conditions: [{type: Failed, status: "True", reason: Error, message: "Error: exit code 3"}, {type: Stalled, status: "True", reason: Error, message: "Error: exit code 3"}]}}`, "Degraded", "Error: exit code 3"},
		"a task that was disrupted":                {"Task", `{spec: {}, status: {conditions: [{type: DisruptionTarget, status: "True", reason: WorkerLost, message: x}]}}`, "Progressing", "The task has not ended"},
		"a set that was just created":              {"TaskSet", `{spec: {}}`, "Progressing", "The set has not ended"},
		"a set that runs":                          {"TaskSet", `{spec: {suspend: false}, status: {active: 3, conditions: [{type: Reconciling, status: "False", reason: Started, message: ""}]}}`, "Progressing", "The set has not ended"},
		"a set that was never started":             {"TaskSet", `{spec: {suspend: true}}`, "Suspended", "The set is suspended"},
		"a set that is suspended":                  {"TaskSet", `{spec: {suspend: true}, status: {conditions: [{type: Suspended, status: "True", reason: TaskSetSuspended, message: x}]}}`, "Suspended", "The set is suspended"},
		"a set whose tasks are refused":            {"TaskSet", `{spec: {}, status: {conditions: [{type: ReplicaFailure, status: "True", reason: FailedCreate, message: exceeded quota}]}}`, "Progressing", "exceeded quota"},
		"a set that is about to succeed":           {"TaskSet", `{spec: {}, status: {conditions: [` + ended + `]}}`, "Progressing", "The set has not ended"},
		"a set that has succeeded":                 {"TaskSet", `{spec: {}, status: {conditions: [` + ended + `{type: Complete, status: "True", reason: CompletionsReached, message: all}]}}`, "Healthy", "all"},
		"a set that is about to fail":              {"TaskSet", `{spec: {}, status: {conditions: [{type: FailureTarget, status: "True", reason: BackoffLimitExceeded, message: x}]}}`, "Progressing", "The set has not ended"},
		"a set that has failed":                    {"TaskSet", `{spec: {}, status: {conditions: [{type: Failed, status: "True", reason: BackoffLimitExceeded, message: 7 have failed}]}}`, "Degraded", "BackoffLimitExceeded: 7 have failed"},
		"a set that failed while it was suspended": {"TaskSet", `{spec: {suspend: true}, status: {conditions: [{type: Failed, status: "True", reason: Cancelled, message: by alice}]}}`, "Degraded", "Cancelled: by alice"},
	} {
		t.Run(name, func(t *testing.T) {
			var object any
			if err := yaml.Unmarshal([]byte(test.object), &object); err != nil {
				t.Fatal(err)
			}
			interpreter := lua.NewState()
			defer interpreter.Close()
			interpreter.SetGlobal("obj", luaValue(t, interpreter, object))
			if err := interpreter.DoString(argoCD(t)["resource.customizations.health.batch.leat.dev_"+test.kind]); err != nil {
				t.Fatal(err)
			}
			result, ok := interpreter.Get(-1).(*lua.LTable)
			if !ok {
				t.Fatalf("the check returns %v", interpreter.Get(-1))
			}
			if status, message := result.RawGetString("status").String(), result.RawGetString("message").String(); status != test.status || message != test.message {
				t.Errorf("the health is %s: %s; want %s: %s", status, message, test.status, test.message)
			}
		})
	}
}

// luaValue converts a JSON value to a Lua value.
func luaValue(t *testing.T, interpreter *lua.LState, value any) lua.LValue {
	t.Helper()
	switch v := value.(type) {
	case nil:
		return lua.LNil
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case string:
		return lua.LString(v)
	case []any:
		table := interpreter.NewTable()
		for _, item := range v {
			table.Append(luaValue(t, interpreter, item))
		}
		return table
	case map[string]any:
		table := interpreter.NewTable()
		for key, item := range v {
			table.RawSetString(key, luaValue(t, interpreter, item))
		}
		return table
	}
	t.Fatalf("a value of JSON is a %T", value)
	return nil
}

// Argo CD compares quantities as numbers only in the fields of its settings.
func TestArgoCDKnowsEveryListOfQuantities(t *testing.T) {
	settings := argoCD(t)
	for kind, object := range map[string]any{"Task": v1alpha1.Task{}, "TaskSet": v1alpha1.TaskSet{}} {
		var fields []struct{ Field, Type string }
		if err := yaml.UnmarshalStrict([]byte(settings["resource.customizations.knownTypeFields.batch.leat.dev_"+kind]), &fields); err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		for _, field := range fields {
			if field.Type != "core/v1/ResourceList" {
				t.Errorf("%s is known as %s", field.Field, field.Type)
			}
			known[field.Field] = true
		}
		for _, path := range quantities(reflect.TypeOf(object), "") {
			if strings.HasPrefix(path, "spec.") && !known[path] {
				t.Errorf("Argo CD does not know that %s of %s holds quantities", path, kind)
			}
			delete(known, path)
		}
		if len(known) > 0 {
			t.Errorf("%s has no quantities in %v", kind, known)
		}
	}
	// The stored list is normalized by its known type.
	var list corev1.ResourceList
	if err := yaml.Unmarshal([]byte(`{cpu: 1000m, memory: 1024Mi}`), &list); err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(list); err != nil || string(text) != `{"cpu":"1","memory":"1Gi"}` {
		t.Errorf("the list is written as %s, %v", text, err)
	}
}

// quantities returns the paths of the maps of quantities in a type.
func quantities(of reflect.Type, path string) []string {
	switch of.Kind() {
	case reflect.Pointer:
		return quantities(of.Elem(), path)
	case reflect.Slice:
		return quantities(of.Elem(), path+"[]")
	case reflect.Map:
		if of.Elem().PkgPath() == "k8s.io/apimachinery/pkg/api/resource" {
			return []string{path}
		}
	case reflect.Struct:
		var paths []string
		for i := range of.NumField() {
			field := of.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.PkgPath != "" || field.Type.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" {
				continue
			}
			paths = append(paths, quantities(field.Type, strings.TrimPrefix(path+"."+name, "."))...)
		}
		return paths
	}
	return nil
}

// TestFluxHealth evaluates the expressions of docs/how-to/gitops.md as Flux does, with the fields of the object as
// variables.
func TestFluxHealth(t *testing.T) {
	page, err := os.ReadFile("../docs/how-to/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	environment, err := cel.NewEnv(cel.Variable("status", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	expression := func(name string) cel.Program {
		match := regexp.MustCompile(`(?m)^ +` + name + `: "(.*)"$`).FindSubmatch(page)
		if match == nil {
			t.Fatalf("the page has no expression %q", name)
		}
		ast, issues := environment.Compile(string(match[1]))
		if issues.Err() != nil {
			t.Fatal(issues.Err())
		}
		program, err := environment.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	current, failed := expression("current"), expression("failed")
	for name, test := range map[string]struct {
		status          string
		current, failed bool
	}{
		"just created":       {`{}`, false, false},
		"runs":               {`{active: 3, conditions: [{type: Reconciling, status: "False"}]}`, false, false},
		"is about to end":    {`{conditions: [{type: SuccessCriteriaMet, status: "True"}]}`, false, false},
		"has succeeded":      {`{conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}]}`, true, false},
		"has failed":         {`{conditions: [{type: Failed, status: "True"}, {type: Stalled, status: "True"}]}`, false, true},
		"was once suspended": {`{conditions: [{type: Suspended, status: "False"}]}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var status any
			if err := yaml.Unmarshal([]byte(test.status), &status); err != nil {
				t.Fatal(err)
			}
			for program, want := range map[*cel.Program]bool{&current: test.current, &failed: test.failed} {
				got, _, err := (*program).Eval(map[string]any{"status": status})
				if err != nil || got.Value() != want {
					t.Errorf("a set that %s: %v, %v; want %t", name, got, err, want)
				}
			}
		})
	}
}
