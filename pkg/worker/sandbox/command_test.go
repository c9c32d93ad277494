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

package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/process"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "a", "B": "bee", "EMPTY": "", "REF": "$(A)", "A B": "space", "$": "dollar"}
	for in, want := range map[string]string{
		"":                  "",
		"plain":             "plain",
		"$(A)":              "a",
		"$(A)$(B)":          "abee",
		"x-$(A)-y":          "x-a-y",
		"x$(EMPTY)y":        "xy",
		"$(NONE)":           "$(NONE)",
		"$()":               "$()",
		"$(A B)":            "space",
		"$(REF)":            "$(A)", // values are not expanded
		"$$(A)":             "$(A)",
		"$$$(A)":            "$a",
		"$$$$(A)":           "$$(A)",
		"$$A":               "$A",
		"$A":                "$A",
		"${A}":              "${A}",
		"(A)":               "(A)",
		"$":                 "$",
		"a$":                "a$",
		"$$":                "$",
		"$(":                "$(",
		"$(A":               "$(A",
		"$(A$(B)":           "$(A$(B)",
		"$(A$(B))":          "$(A$(B))",
		"$(A $$ $(B":        "$(A $ $(B",
		"$(A)$(":            "a$(",
		"\\$(A)":            "\\a",
		"$? $! $1":          "$? $! $1",
		"$é$(A)":            "$éa",
		"$$$$$$$$":          "$$$$",
		"$(NONE)$(A)$$(A)":  "$(NONE)a$(A)",
		"--$($($($(--":      "--$($($($(--",
		"$($)":              "dollar",
		"first\n$(A)\nlast": "first\na\nlast",
	} {
		if got := expand(in, vars, maxExpanded); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNewCommand(t *testing.T) {
	t.Setenv("OF_THE_WORKER", "w")
	t.Setenv("OVERRIDDEN", "w")
	t.Setenv("WITHHELD", "secret")
	devices := map[string]string{"LEAT_DEVICES_EXAMPLE_COM_DISK": "0,2"}
	c := newCommand(&batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: "ns"},
		Spec: batch.TaskSpec{
			Command: []string{"$(FIRST)", "$(OF_THE_WORKER)"},
			Args:    []string{"$(SECOND)", "$(TASK_NAME)/$(TASK_NAMESPACE)/$(TASK_ATTEMPT)", "$(LEAT_DEVICES_EXAMPLE_COM_DISK)"},
			Env: []batch.EnvVar{
				{Name: "EARLY", Value: "$(FIRST)"},
				{Name: "FIRST", Value: "1"},
				{Name: "SECOND", Value: "$(FIRST)$(TASK_NAME)$$(FIRST)"},
				{Name: "OVERRIDDEN", Value: "t"},
				{Name: "TASK_NAME", Value: "not this"},
			},
			WorkingDir: "$(FIRST)",
		},
	}, 3, "/run/progress", devices, inheritedEnv([]string{"WITHHELD"}))
	if want := []string{"1", "$(OF_THE_WORKER)", "1t$(FIRST)", "t/ns/3", "0,2"}; !slices.Equal(c.Argv, want) {
		t.Errorf("argv is %q, want %q", c.Argv, want)
	}
	if c.Dir != "$(FIRST)" {
		t.Errorf("dir is %q: it is not expanded for containers either", c.Dir)
	}
	names := map[string]bool{}
	for _, e := range c.Env {
		name, _, _ := strings.Cut(e, "=")
		if names[name] {
			t.Errorf("%s occurs twice", name)
		}
		names[name] = true
	}
	for name, want := range map[string]string{
		"OF_THE_WORKER": "w", "OVERRIDDEN": "t", "EARLY": "$(FIRST)", "FIRST": "1", "SECOND": "1t$(FIRST)",
		"TASK_NAME": "t", "TASK_NAMESPACE": "ns", "TASK_ATTEMPT": "3",
		"TASK_PROGRESS_FILE": "/run/progress", "LEAT_DEVICES_EXAMPLE_COM_DISK": "0,2", "WITHHELD": "",
	} {
		got := ""
		for _, e := range c.Env {
			if len(e) > len(name) && e[:len(name)+1] == name+"=" {
				got = e[len(name)+1:]
			}
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestExpansionIsBounded uses variables that each double the size of the one before.
func TestExpansionIsBounded(t *testing.T) {
	task := &batch.Task{Spec: batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{{Name: "N0", Value: "0123456789"}}}}
	for i := range 60 {
		task.Spec.Env = append(task.Spec.Env, batch.EnvVar{Name: fmt.Sprintf("N%d", i+1), Value: fmt.Sprintf("$(N%d)$(N%d)", i, i)})
	}
	c := newCommand(task, 1, "", nil, nil)
	size := 0
	for _, text := range append(slices.Clone(c.Argv), c.Env...) {
		size += len(text)
	}
	if c.Err == nil || size > 3*maxExpanded {
		t.Fatalf("it has %d bytes, error: %v", size, c.Err)
	}
	if _, err := process.Start(testHost.reaper, c); err == nil || err.ExitCode != 126 || !strings.Contains(err.Error(), "refer to less") {
		t.Errorf("it is started: %v", err)
	}
	task.Spec.Env = task.Spec.Env[:15]
	if c := newCommand(task, 1, "", nil, nil); c.Err != nil {
		t.Error("320 KiB are too long")
	}
}

// FuzzExpand checks that an expansion is bounded, and that text without references stays as it is.
func FuzzExpand(f *testing.F) {
	for _, text := range []string{"", "$(A)", "$$(A)", "$(B)$(A)", "$(", "$", "$$$", "$(A", "a$(NONE)b", "$($(A))"} {
		f.Add(text, "value", 100)
		f.Add(text, "$(A)", 3)
		f.Add(strings.Repeat("$(A)", 20), strings.Repeat(text, 20), 10)
	}
	f.Fuzz(func(t *testing.T, text, value string, limit int) {
		vars := map[string]string{"A": value, "B": "b"}
		all := expand(text, vars, maxExpanded)
		got := expand(text, vars, limit)
		if len(got) > max(0, limit)+len(text)+max(len(value), len("b")) {
			t.Errorf("expand(%q, %q, %d) has %d bytes", text, vars, limit, len(got))
		}
		if !strings.HasPrefix(all, got) || len(got) <= limit && got != all && len(all) <= maxExpanded {
			t.Errorf("expand(%q, %q, %d) = %q, of %q", text, vars, limit, got, all)
		}
		if !strings.Contains(text, "$") && all != text {
			t.Errorf("expand(%q) = %q", text, all)
		}
		if escaped := strings.ReplaceAll(text, "$", "$$"); expand(escaped, vars, maxExpanded) != text && len(text) <= maxExpanded {
			t.Errorf("expand(%q) = %q", escaped, expand(escaped, vars, maxExpanded))
		}
	})
}
