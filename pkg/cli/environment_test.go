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

package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func runOptionsFor(t *testing.T) (*runOptions, func() string) {
	t.Helper()
	streams, _, _, errOut := genericiooptions.NewTestIOStreams()
	return &runOptions{factory: &factory{streams: streams}}, errOut.String
}

func written(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HERE", "a $(NAME) $x")
	t.Setenv("EMPTY", "")
	o, errOut := runOptionsFor(t)
	o.envFiles = []string{written(t, "\ufeffFIRST=1\r\n\n# comment\n  # another\nQUOTED=\"as it is\" # too\nHERE\nTWICE=file\nMONEY=$(FIRST)$$\n")}
	o.env = []string{"TWICE=flag", "EMPTY", "REFERS=$(FIRST)"}
	env, err := o.environment()
	if err != nil || errOut() != "" {
		t.Fatal(err, errOut())
	}
	want := []batch.EnvVar{
		{Name: "FIRST", Value: "1"}, {Name: "QUOTED", Value: `"as it is" # too`}, {Name: "HERE", Value: "a $$(NAME) $$x"},
		{Name: "MONEY", Value: "$$(FIRST)$$$$"}, {Name: "TWICE", Value: "flag"}, {Name: "EMPTY", Value: ""}, {Name: "REFERS", Value: "$(FIRST)"},
	}
	if !slices.Equal(env, want) {
		t.Errorf("got  %q\nwant %q", env, want)
	}
}

func TestExportedEnvironment(t *testing.T) {
	t.Setenv("HERE", "$y")
	t.Setenv("BINARY", "\xff")
	t.Setenv("TASK_INDEX", "3")
	t.Setenv("_", "/bin/sh")
	o, errOut := runOptionsFor(t)
	o.export, o.env = true, []string{"HOME=/elsewhere"}
	env, err := o.environment()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, variable := range env {
		if _, twice := got[variable.Name]; twice {
			t.Errorf("%s is there twice", variable.Name)
		}
		got[variable.Name] = variable.Value
	}
	if got["HERE"] != "$$y" || got["HOME"] != "/elsewhere" || got["PATH"] == "" {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{"BINARY", "TASK_INDEX", "_", "PWD"} {
		if value, ok := got[name]; ok {
			t.Errorf("%s is exported as %q", name, value)
		}
	}
	if said := errOut(); !strings.Contains(said, "readable by every user who can read tasks") || !strings.Contains(said, `skips variables that cannot be stored: "BINARY"`) {
		t.Errorf("said %q", said)
	}
}

func TestLargeEnvironmentWarning(t *testing.T) {
	o, errOut := runOptionsFor(t)
	o.env = []string{"A=" + strings.Repeat("x", largeEnvironment)}
	if _, err := o.environment(); err != nil || !strings.Contains(errOut(), "1 variables of 64 KiB are stored with each task") {
		t.Errorf("%v, %q", err, errOut())
	}
}

func TestInvalidEnvironment(t *testing.T) {
	t.Setenv("BINARY", "\xff")
	for content, want := range map[string]string{
		"A=1\nB C=2\n":          `line 2: "B C=2": write NAME=VALUE`,
		"=x\n":                  `line 1: "=x": write NAME=VALUE`,
		"A=1\n\nNOT_SET_HERE\n": "line 3: NOT_SET_HERE: no such variable is set here",
		"A=\xff\n":              "line 1 is not UTF-8",
		"BINARY\n":              "line 1: BINARY: its value here is not UTF-8",
		"\xff\xfeA\x00":         "the file is UTF-16",
	} {
		o, _ := runOptionsFor(t)
		o.envFiles = []string{written(t, content)}
		if env, err := o.environment(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; expected %q", content, env, err, want)
		}
	}
}

func TestUnreadInputWarning(t *testing.T) {
	open := func(content string) *os.File {
		file, err := os.Open(written(t, content))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	pipe := func(content string) *os.File {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { reader.Close(); writer.Close() })
		if _, err := writer.WriteString(content); err != nil {
			t.Fatal(err)
		}
		return reader
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, test := range []struct {
		name   string
		stream *os.File
		want   bool
	}{
		{"a file", open("x"), true}, {"an empty file", open(""), false},
		{"a pipe", pipe("x"), true}, {"a pipe without a word", pipe(""), false}, {"nothing", null, false},
	} {
		if got := hasInput(test.stream); got != test.want {
			t.Errorf("%s: has input: %t", test.name, got)
		}
	}
	if hasInput(strings.NewReader("x")) {
		t.Error("a stream of no process has input")
	}
}
