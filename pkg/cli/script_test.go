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

	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

func TestScripts(t *testing.T) {
	for _, test := range []struct {
		name, text  string
		interpreter []string // without the text and the name
		named       bool     // the name of the script follows
		flags       []string
		err         string
	}{
		{name: "a shell", text: "#!/bin/sh\necho $1 $$\n", interpreter: []string{"/bin/sh", "-c"}, named: true},
		{name: "with options", text: "#!/bin/bash -eu\n", interpreter: []string{"/bin/bash", "-eu", "-c"}, named: true},
		{name: "by env", text: "#!/usr/bin/env python3.12\nprint()\n", interpreter: []string{"python3.12", "-c"}},
		{name: "by env with options", text: "#! /usr/bin/env -S perl -w\r\n", interpreter: []string{"perl", "-w", "-e"}},
		{
			name:        "with flags",
			text:        "#!/bin/sh\n# what it does\n#LEAT --array 0-9%2\n#LEAT --memory=2Gi\n#LEAT\t--hold\n\n#LEATHER --no\n #LEAT --env=A=b  c \necho\n#LEAT --late 1\n",
			interpreter: []string{"/bin/sh", "-c"}, named: true, flags: []string{"--array=0-9%2", "--memory=2Gi", "--hold", "--env=A=b  c"},
		},
		{name: "a program", text: "\x7fELF", err: "the first line must name the interpreter, like #!/bin/sh; to run a program, write -- before it"},
		{name: "no interpreter", text: "#!\n", err: "the first line must name the interpreter"},
		{name: "env alone", text: "#!/usr/bin/env\n", err: "names no interpreter"},
		{name: "another interpreter", text: "#!/usr/bin/Rscript\n", err: "/usr/bin/Rscript does not take a script as an argument: put the script where the workers see it, and write leat run -- /usr/bin/Rscript "},
		{name: "binary", text: "#!/bin/sh\n\x00", err: "must be text in UTF-8"},
		{name: "two flags on a line", text: "#!/bin/sh\n#LEAT --cpu 2 --memory 1Gi\n", err: `line 2: "#LEAT --cpu 2 --memory 1Gi": write one flag on each line`},
		{name: "no flag", text: "#!/bin/sh\n\n#LEAT array 5\n", err: `line 3: "#LEAT array 5": write one flag of leat run, like #LEAT --array 0-99`},
		{name: "nothing", text: "#!/bin/sh\n#LEAT\n", err: "write one flag of leat run"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "my $job.sh")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := readScript(file)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), file) {
					t.Errorf("got %v, want %q and the name of the file", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := append(slices.Clone(test.interpreter), strings.ReplaceAll(test.text, "$", "$$"))
			if test.named {
				want = append(want, strings.ReplaceAll(file, "$", "$$"))
			}
			var flags []string
			for _, f := range s.flags {
				flags = append(flags, f.text)
			}
			if !slices.Equal(s.interpreter, want) || !slices.Equal(flags, test.flags) {
				t.Errorf("got %q with the flags %q, want %q with %q", s.interpreter, flags, want, test.flags)
			}
		})
	}
	if _, err := readScript(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory: got %v", err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, slices.Repeat([]byte("#"), maxScriptBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readScript(large); err == nil || !strings.Contains(err.Error(), "has 131072 bytes, and a script at most 131071") {
		t.Errorf("a large file: got %v", err)
	}
}

func TestRunScript(t *testing.T) {
	noCluster(t)
	t.Chdir(t.TempDir())
	text := "#!/bin/sh\n#LEAT --array 1-5:2\n#LEAT --cpu 2\n#LEAT --env A=1\n#LEAT --env B=$HOME {}\n#LEAT --time 1:00:00\necho ${TASK_INDEX}\n"
	if err := os.WriteFile("Step_1.sh", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dryRun := func(args ...string) batch.TaskSetSpec {
		t.Helper()
		out, errOut, code := call(t, "leat", "", append([]string{"run", "--dry-run=client", "-o", "yaml"}, args...)...)
		var set batch.TaskSet
		if err := yaml.UnmarshalStrict([]byte(out), &set); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v: %s", code, err, errOut)
		}
		if set.GenerateName != "step-1-sh-" {
			t.Errorf("the name begins with %q", set.GenerateName)
		}
		return set.Spec
	}
	embedded := []string{"/bin/sh", "-c", strings.ReplaceAll(text, "$", "$$"), "Step_1.sh"}

	spec := dryRun("Step_1.sh", "--wait", "$(TASK_INDEX)", "-x")
	if want := append(slices.Clone(embedded), "--wait", "$(TASK_INDEX)", "-x"); !slices.Equal(spec.Template.Spec.Command, want) {
		t.Errorf("got the command %q, want %q", spec.Template.Spec.Command, want)
	}
	if env := spec.Template.Spec.Env; len(env) != 2 || env[1] != (batch.EnvVar{Name: "B", Value: "$HOME {}"}) {
		t.Errorf("got the variables %+v", env)
	}
	if ptr.Deref(spec.Completions, 0) != 3 || spec.IndexNumbers == nil || ptr.Deref(spec.Template.Spec.ActiveDeadlineSeconds, 0) != 3600 {
		t.Errorf("got %+v", spec)
	}

	spec = dryRun("--array=10", "--cpu=4", "--env=C=2", "./Step_1.sh")
	cpu := spec.Template.Spec.Resources.Requests[batch.ResourceCPU]
	if ptr.Deref(spec.Completions, 0) != 10 || spec.IndexNumbers != nil || cpu.String() != "4" || len(spec.Template.Spec.Env) != 1 {
		t.Errorf("with flags on the command line: got %+v", spec)
	}

	lines := strings.NewReplacer("#LEAT --array 1-5:2\n", "").Replace(text)
	if err := os.WriteFile("Step_1.sh", []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("items", []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec = dryRun("--each-line=items", "Step_1.sh")
	want := []string{"/bin/sh", "-c", strings.ReplaceAll(lines, "$", "$$"), "Step_1.sh", taskstate.ItemReference}
	if !slices.Equal(spec.Template.Spec.Command, want) || len(spec.Items) != 2 {
		t.Errorf("got the command %q with the items %q, want %q", spec.Template.Spec.Command, spec.Items, want)
	}

	if err := os.WriteFile("bad.sh", []byte("#!/bin/sh\n# no\n#LEAT --cpus 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := call(t, "leat", "", "run", "bad.sh"); code != exitUsage || !strings.Contains(errOut, "bad.sh: line 3: #LEAT --cpus=4: unknown flag: --cpus") {
		t.Errorf("exit code %d, %q", code, errOut)
	}
}

func TestTimesOfSbatch(t *testing.T) {
	for text, want := range map[string]int64{
		"90": 5400, "30:00": 1800, "1:30:00": 5400, "2-12": 216_000, "1-0:30": 88_200, "0-0:0:5": 5, "0:01": 1,
		"": 0, "0": 0, "0:00": 0, "1h": 0, "1:2:3:4": 0, "-5": 0, "1-": 0, "99999-0": 0,
	} {
		if got, err := parseSlurmTime(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
}
