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
)

const convertibleJob = `apiVersion: batch/v1
kind: Job
metadata: {name: good, namespace: render}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: example.com/main:1, command: [work], tty: true}]
`

const refusedJob = `apiVersion: batch/v1
kind: Job
metadata: {generateName: bad-}
spec:
  template:
    spec:
      restartPolicy: Never
      hostname: here
      containers: [{name: main, image: example.com/main:1}]
`

// TestProblemsOfJobsAreNamedWithoutACluster: "convert" and "run -f" name the fields that cannot be converted before
// they need a server.
func TestProblemsOfJobsAreNamedWithoutACluster(t *testing.T) {
	noCluster(t)
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
	for _, test := range []struct {
		name, line, stdin string
		want              []string // lines of standard error begin so
	}{
		{"a Job that cannot be converted", "convert -f -", refusedJob, []string{
			`error: -: Job/bad-*: spec.template.spec.hostname: Invalid value: "here": `,
			"error: -: Job/bad-*: spec.template.spec.containers[0].command: Required value: ",
			"error: 1 of 1 Job cannot be converted",
		}},
		{"one that can be, and needs a cluster", "convert -f -", convertibleJob, []string{
			"note: -: Job/good: spec.template.spec.containers[0].tty: ignored: ", "error: no cluster is configured: ",
		}},
		{"other objects", "convert -f -", secret + "---\n" + convertibleJob, []string{
			"note: -: Secret/s is left out: it stays as it is", "note: -: Job/good: ", "error: no cluster is configured: ",
		}},
		{"no Job", "convert -f -", secret, []string{"note: -: Secret/s is left out", "error: there is no Job and no CronJob to convert"}},
		{"another namespace", "convert -n other -f -", convertibleJob, []string{
			`error: -: Job/good: metadata.namespace: "render": must be other, as --namespace is, or unset`,
		}},
		{"a misspelled field", "convert -f -", strings.Replace(convertibleJob, "restartPolicy", "restartpolicy", 1), []string{
			`error: -: document 1: Job good: strict decoding error: unknown field "spec.template.spec.restartpolicy"`,
		}},
		{"to run it", "run -f -", refusedJob, []string{
			"error: -: Job/bad-*: spec.template.spec.hostname", "error: -: Job/bad-*: spec.template.spec.containers[0].command", "error: -: Job/bad-* cannot be converted",
		}},
		{"an entrypoint beside a command", "convert -f - -- /entrypoint", convertibleJob, []string{
			`error: -: Job/good: spec.template.spec.containers[0].command: Invalid value: "work": it replaces the entrypoint`, "error: 1 of 1 Job cannot be converted",
		}},
		{"to run two", "run -f -", convertibleJob + "---\n" + refusedJob, []string{"error: -: it has 2 objects that can run: must be one"}},
		{"to run another kind", "run -f -", "apiVersion: batch.leat.dev/v1alpha1\nkind: TaskQueue\nmetadata: {name: q}\n", []string{
			"error: -: TaskQueue/q cannot run: must be a Job, CronJob, task or set",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errOut, code := call(t, "leat", test.stdin, strings.Fields(test.line)...)
			lines := strings.Split(strings.TrimSuffix(errOut, "\n"), "\n")
			if code != exitFailed || out != "" || !slices.EqualFunc(lines, test.want, strings.HasPrefix) {
				t.Errorf("got exit code %d, output %q and errors\n%s\nwant 1, none and\n%s", code, out, errOut, strings.Join(test.want, "\n"))
			}
		})
	}
	file := filepath.Join(t.TempDir(), "jobs.yaml")
	if err := os.WriteFile(file, []byte(convertibleJob), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := call(t, "leat", "", "convert", "-f", file, "-f", file, "--", "/x"); code != exitUsage || !strings.Contains(errOut, "/x is the entrypoint of one image, and there are 2 Jobs") {
		t.Errorf("two Jobs for one entrypoint: got exit code %d and %q", code, errOut)
	}
	if _, errOut, code := call(t, "leat", "", "convert", "-f", file, "-f", file, "--pool", "p"); code != exitUsage || !strings.Contains(errOut, "--pool p names one pool, and there are 2 Jobs") {
		t.Errorf("two Jobs for one pool: got exit code %d and %q", code, errOut)
	}
}

// TestRunOfAManifest: "run -f" creates a task or a set of a file, with the changes that flags describe.
func TestRunOfAManifest(t *testing.T) {
	noCluster(t)
	set := "apiVersion: batch.leat.dev/v1alpha1\nkind: TaskSet\nmetadata: {generateName: x-}\nspec: {template: {spec: {command: [work]}}}\n"
	line := "run -f - --dry-run=client -o yaml --name s --pool p --queue q --priority 3 --hold --owner j/17"
	out, errOut, code := call(t, "leat", set, strings.Fields(line)...)
	for _, want := range []string{"  name: s\n", "pool: p\n", "queueName: q\n", "priority: 3\n", "suspend: true\n", "  - apiVersion: batch/v1\n    kind: Job\n    name: j\n    uid: \"17\"\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("got exit code %d and %q, %q; want %q in it", code, out, errOut, want)
		}
	}
	if strings.Contains(out, "generateName") {
		t.Errorf("got %q, want no generateName beside the name", out)
	}
	if _, errOut, code := call(t, "leat", set, "run", "-f", "-", "--", "true"); code != exitUsage || !strings.Contains(errOut, `-f - has the command: leave out "true"`) {
		t.Errorf("a set and a command: got exit code %d and %q", code, errOut)
	}
	withoutCommand := strings.Replace(convertibleJob, "command: [work]", "args: [work]", 1)
	out, errOut, code = call(t, "leat", withoutCommand, "run", "-f", "-", "--dry-run=client", "-o", "yaml", "--", "/entrypoint", "--verbose")
	if code != 0 || !strings.Contains(out, "command:\n      - /entrypoint\n      - --verbose\n") || !strings.Contains(out, "args:\n      - work\n") {
		t.Errorf("set of a Job without a command: got exit code %d and %q, %q; want the entrypoint", code, out, errOut)
	}
	out, errOut, code = call(t, "leat", convertibleJob, "run", "-f", "-", "--dry-run=client", "-o", "yaml")
	if code != 0 || !strings.Contains(out, "kind: TaskSet\n") || !strings.Contains(out, "pool: good\n") || !strings.HasPrefix(errOut, "note: ") {
		t.Errorf("set of a Job: got exit code %d and %q, %q; want a set in the pool good, and a note", code, out, errOut)
	}
}

func TestDifferences(t *testing.T) {
	value := func(image string, args ...any) map[string]any {
		return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
			"initContainers": []any{map[string]any{"image": image}}, "containers": []any{map[string]any{"args": args}},
		}}}}
	}
	for _, test := range []struct {
		name string
		a, b map[string]any
		want []string
	}{
		{"equal", value("a", "x"), value("a", "x"), nil},
		{"the image of Leat", value("a", "x"), value("b", "x"), nil},
		{"an argument", value("a", "x"), value("a", "y"), []string{"spec.template.spec.containers[0].args[0]"}},
		{"more arguments", value("a", "x"), value("a", "x", "y"), []string{"spec.template.spec.containers[0].args"}},
		{"a missing template", value("a"), map[string]any{}, []string{"spec.template"}},
	} {
		if got := differingFields(test.a, test.b); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if got := differences("a", map[string]any{"x": 1, "y": 2}, map[string]any{"y": 2, "z": 3}); !slices.Equal(got, []string{"a.x", "a.z"}) {
		t.Errorf("got %q, want the keys that only one of the maps has", got)
	}
}
