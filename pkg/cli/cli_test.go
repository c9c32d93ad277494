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
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// call runs a command line as a process would. There is no cluster unless the environment configures one.
func call(t *testing.T, program, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	streams, in, out, errOut := genericiooptions.NewTestIOStreams()
	in.WriteString(stdin)
	code = Main(program, args, streams)
	return out.String(), errOut.String(), code
}

func noCluster(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{"KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST", "XDG_DATA_HOME", "XDG_STATE_HOME"} {
		t.Setenv(name, "")
	}
}

func TestUsageErrorsNameWhatIsAccepted(t *testing.T) {
	noCluster(t)
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, []byte("a\nb\x00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ line, want string }{
		{"rnu", `unknown command "rnu"; did you mean run?`},
		{"run --arry 10 -- true", "unknown flag --arry; did you mean --array?"},
		{"run --array 10 --par 5 -- true", "unknown flag --par; did you mean --parallelism?"},
		{"run -array 10 -- true", "; did you mean --array?"},
		{"run ls -l", `"ls" is not a script here; write -- before a command: leat run [flags] -- ls -l`},
		{"run echo hi", `"echo" is not a script here; write -- before a command: leat run [flags] -- echo hi`},
		{"run --time 1:2:3:4 -- true", `--time "1:2:3:4": write minutes, like 90, or minutes:seconds`},
		{"run --time 5 --timeout 5m -- true", "--time and --timeout: write one of them"},
		{"run --gpu -1 -- true", "--gpu -1: write how many, like 1"},
		{"run --gpu 1 --request nvidia.com/gpu=2 -- true", "nvidia.com/gpu is asked for twice"},
		{"run --wait", "no command to run: write leat run -- COMMAND"},
		{"run --array 9-5 -- true", "9-5: the last number is before the first"},
		{"run --array", "--array needs a value: Run the command for each index"},
		{"run --array 5 --each-line f -- true", "--array and --each-line: write one of them"},
		{"run --array 10%5 --parallelism 6 -- true", "--array 10%5 and --parallelism 6: write one of them"},
		{"run --parallelism 6 -- true", "--parallelism is for sets: write --array or --each-line too"},
		{"run --hold -- true", "--hold is for sets: write --array or --each-line too; --array 1 makes a set of one task"},
		{"run --after task/a -- true", `--after "task/a": write names of sets, like a,b; to wait for a single command, run it as a set with --array 1`},
		{"run --after a --after-any b,a -- true", "--after-any a: taskset/a is named twice: write it once"},
		{"run --after-each a -- true", "--after-each is for sets with the same indexes: write --array or --each-line too, or --after"},
		{"cancel a --index x", "--index \"x\""},
		{"cancel a b --index 1", `--index "1": write indexes like 5 or 0-4,7, the name of one set, and not --now`},
		{"cancel a --index 1 --now", `--index "1": write indexes like 5 or 0-4,7, the name of one set, and not --now`},
		{"run --chunk 5 -- true", "--chunk is for sets: write --array or --each-line too"},
		{"run --array 10 --chunk 0 -- true", "--chunk 0: write 1 to 1000; 1 makes a task for each index"},
		{"run --array 10 --chunk 1001 -- true", "--chunk 1001: write 1 to 1000"},
		{"run --array 10 --chunk x -- true", `--chunk "x": write a whole number`},
		{"run --array= -- true", "--array is empty: write how many, like 1000"},
		{"run --each-line= -- true", "--each-line is empty: name a file, or - for standard input"},
		{"run --array 10 --max-failed -1 -- true", "--max-failed -1: write 0 or more"},
		{"run --toleration a=b:Never -- true", `--toleration "a=b:Never": write KEY=VALUE:EFFECT`},
		{"run --toleration =b -- true", "write KEY=VALUE:EFFECT, KEY:EFFECT or KEY"},
		{"run --label a -- true", `--label "a": write KEY=VALUE`},
		{"run --label -a=b -- true", `--label "-a=b": write KEY=VALUE: `},
		{"run --label a=b --label a=c -- true", "--label a is given twice"},
		{"run --env-file /no/such/file -- true", "name a file with NAME=VALUE on each line"},
		{"run --array 10 --parallelism 0 -- true", "--parallelism 0: write 1 or more"},
		{"run --array 10 --parallelism x -- true", `--parallelism "x": write a whole number`},
		{"run --each-line /no/such/file -- true", "name a file with one item on each line, or - for standard input"},
		{"run --each-line " + file + " -- true", "line 2 has a NUL character"},
		{"run --timeout 90 -- true", `--timeout "90": write a number with its unit, like 90s, 10m or 2h`},
		{"run --timeout 0s -- true", "--timeout 0s: write 1s or more"},
		{"run --ttl -5s -- true", "--ttl -5s: write 0s or more"},
		{"run --backoff-limit -1 -- true", "--backoff-limit -1: write 0 or more"},
		{"run --env NOT_SET_HERE -- true", "--env NOT_SET_HERE: no such variable is set here: write NOT_SET_HERE=VALUE"},
		{"run --env =x -- true", `--env "=x": write NAME=VALUE, or NAME for the value that it has here`},
		{"run --env A=1 --env A=2 -- true", "--env A is given twice"},
		{"run --cpu lots -- true", "--cpu lots: write an amount, like --cpu 500m"},
		{"run --request gpu -- true", "--request gpu: write an amount"},
		{"run --cpu 1 --request cpu=2 -- true", "cpu is asked for twice"},
		{"run --worker-selector disk -- true", "write labels that a worker must have, like disk=ssd,zone=a"},
		{"run --pool Not_A_Pool -- true", `--pool "Not_A_Pool": write the name of a pool`},
		{"run --max 3 -- true", "--max is for -f: write -f FILE too"},
		{"run --owner a/b -- true", "--owner is for -f: write -f FILE too"},
		{"run -f job.yaml true", `-f job.yaml has the command: leave out "true"`},
		{"run -f job.yaml --array 3", "--array is for a command, and -f job.yaml has one: change it there"},
		{"run -f job.yaml --pool p --max 3", "--max is for a new pool, and --pool p uses one as it is: write one of them"},
		{"run -f job.yaml --max 0", "--max 0: write 1 to 5000"},
		{"run -f job.yaml --owner name", `--owner "name": write the name and the UID of a Job, as NAME/UID`},
		{"run -f /no/such/file", "-f: open /no/such/file: no such file"},
		{"convert", "no file to convert: write -f FILE, or -f - for standard input"},
		{"convert job.yaml", `takes no arguments, and was given "job.yaml"`},
		{"convert -f job.yaml --max 5001", "--max 5001: write 1 to 5000"},
		{"convert -f job.yaml --pool A", `--pool "A": write the name of a pool`},
		{"convert -f /no/such/file", "-f: open /no/such/file: no such file"},
		{"run --dry-run maybe -- true", `--dry-run "maybe": write client, server or none`},
		{"run --dry-run client -o nonsense -- true", "unable to match a printer suitable for the output format"},
		{"pool make", `unknown command "leat pool make": write create, list, update or delete`},
		{"pool create --image x", "which pool? Write: leat pool create NAME"},
		{"pool create a b --image x", "takes one pool, and was given 2 names"},
		{"pool create Render --image x", `pool "Render": write a name of lower case letters, digits and -`},
		{"pool create " + strings.Repeat("a", 53) + " --image x", "has 53 characters: at most 52 are accepted"},
		{"pool create render", "--image is missing: name an image with the programs for your commands, like --image debian:13"},
		{"pool create render --image x --max 0", "--max 0: write a number from 1 to 5000"},
		{"pool create render --image x --max 3 --min 4", "--min 4: write a number from 0 to --max 3"},
		{"pool create render --image x --idle 1500ms", "--idle 1.5s: write whole seconds from 0s to 168h0m0s, like 60s or 10m"},
		{"pool create render --image x --tasks 0", "--tasks 0: write 1 or more"},
		{"pool create render --image x --cpu lots", `--cpu "lots": write an amount, like --cpu 500m or --memory 8Gi`},
		{"pool create render --image x --memory 0", `--memory "0": write an amount`},
		{"pool create render --image x --gpu -1", "--gpu -1: write how many, like 1"},
		{"pool create render --image x --gpu 1 --resource nvidia.com/gpu=2", "nvidia.com/gpu is given twice"},
		{"pool create render --image x --resource gpu=1", `--resource "gpu=1": write a name with a domain and a whole number, like example.com/fpga=1`},
		{"pool create render --image x --resource example.com/fpga=500m", "write a name with a domain and a whole number"},
		{"pool create render --image x --label a", `--label "a": write KEY=VALUE`},
		{"pool create render --image x --label batch.leat.dev/pool=a", "--label batch.leat.dev/pool: leave it out: it is the name of the pool"},
		{"pool create render --image x --taint gpu", `--taint "gpu": write KEY=VALUE:EFFECT or KEY:EFFECT: the effect is NoSchedule, PreferNoSchedule or NoExecute`},
		{"pool create render --image x --from /no/such/file", "name a file with a part of a StatefulSet, or - for standard input"},
		{"pool create render --image x --dry-run maybe", `--dry-run "maybe": write client, server or none`},
		{"pool update", "which pool? Write: leat pool update NAME"},
		{"pool update --all render", "--all and render: write one of them"},
		{"pool delete", "which pool? Write: leat pool delete NAME"},
		{"pool delete render --timeout -1s", "--timeout -1s: write 0s or more"},
		{"pool list render", `"leat pool list" takes no arguments, and was given "render"`},
		{"wait", "which task or set? Write: leat wait NAME"},
		{"wait --for 0% x", `--for "0%": What to wait for: end, start, failure, or a share of the tasks like 50%`},
		{"logs a b", "takes one task or set, and was given 2 names"},
		{"logs x --tail -2", "--tail -2: write a number of lines, or -1 for all"},
		{"logs x --index 5-3", "write indexes like 5 or 0-4,7"},
		{"logs x -f -p", "an attempt that is over prints no more"},
		{"logs x --max-log-requests 0", "--max-log-requests 0: write 1 or more"},
		{"logs x --attempt 0", "--attempt 0: write 1 for the first attempt, or a larger number"},
		{"logs x --attempt 1 -f", "--attempt and --follow: write one of them"},
		{"logs x --attempt 1 -p", "--attempt and --previous: write one of them"},
		{"logs x --failed -f", "--failed and --follow: what has failed prints no more"},
		{"logs x --failed --index 1", "--failed and --index: write one of them"},
		{"logs x --output-dir=", "--output-dir is empty: name a directory"},
		{"logs x --output-dir d -f", "--output-dir and --follow: files are written of output so far"},
		{"logs x --overwrite", "--overwrite is for --output-dir: write both"},
		{"history", "which task or set? Write: leat history NAME"},
		{"history x --slowest 0", "--slowest 0: write how many, 1 or more"},
		{"history x --slowest 1 --sort cpu", "--slowest and --sort: --slowest sorts by duration"},
		{"history x --slowest 1 --limit 1", "--slowest and --limit: write one of them"},
		{"history x --limit -1", "--limit -1: write a number of attempts, or 0 for all"},
		{"history x --sort size", `--sort "size": write index, start, duration, cpu or memory`},
		{"history x -o yaml", `--output "yaml": write json or wide`},
		{"history x --index 5-3", "write indexes like 5 or 0-4,7"},
		{"retry", "which task or set? Write: leat retry NAME"},
		{"retry x --failed --all", "--failed and --all: write one of them"},
		{"retry x --memory much", `--memory "much": write an amount, like --cpu 500m or --memory 1Gi`},
		{"retry x --cpu -1", `--cpu "-1": write an amount`},
		{"retry x --timeout 0s", "--timeout 0s: write 1s or more"},
		{"retry x --backoff-limit -1", "--backoff-limit -1: write 0 or more"},
		{"retry x --index 5-3", "write indexes like 5 or 0-4,7"},
		{"retry x --index=", "--index is empty: write indexes like 5 or 0-4,7"},
		{"retry x --queue=", "--queue is empty: write the name of a queue"},
		{"update x", "nothing to change: write leat update x --priority N, or --queue QUEUE"},
		{"update x --queue=", "--queue is empty: write the name of a queue"},
		{"explain x --index 1-2", `--index "1-2": write one index, like 7`},
		{"explain task/x --index 1", "--index is for sets, and task/x is one task"},
		{"delete", "which task or set? Write: leat delete NAME"},
		{"top --interval 1ms", "--interval 1ms: write 100ms or more"},
		{"board --port 65536", "--port 65536: write a port, or 0 for any that is free"},
		{"board x", `takes no arguments, and was given "x"`},
		{"top x", `takes no arguments, and was given "x"`},
		{"cancel", "which task or set? Write: leat cancel NAME"},
		{"drain", "which worker? Write: leat drain NAME"},
		{"drain w --grace -1s", "--grace -1s: write 0s or more"},
		{"suspend --all x", "unknown flag --all"},
	} {
		t.Run(test.line, func(t *testing.T) {
			out, errOut, code := call(t, "leat", "", strings.Fields(test.line)...)
			if code != exitUsage || out != "" || !strings.HasPrefix(errOut, "error: ") || !strings.Contains(errOut, test.want) || !strings.Contains(errOut, "--help'.") {
				t.Errorf("exit code %d, %q, %q; expected %q", code, out, errOut, test.want)
			}
		})
	}
}

func TestErrorWithoutACluster(t *testing.T) {
	for _, line := range []string{"run -- true", "wait x", "logs x", "history x", "top", "board", "explain x", "retry --failed x", "cancel x", "suspend x", "cordon x", "drain x", "worker deny x", "worker allow x", "delete x", "update x --priority 1"} {
		noCluster(t)
		_, errOut, code := call(t, "leat", "", strings.Fields(line)...)
		if want := "error: no cluster is configured: run `leat up`, or set KUBECONFIG\n"; code != exitFailed || errOut != want {
			t.Errorf("%s: exit code %d, %q", line, code, errOut)
		}
	}
	noCluster(t)
	t.Setenv("KUBECONFIG", "/no/such/file")
	if _, errOut, code := call(t, "kubectl-leat", "", "top"); code != exitFailed || errOut != "error: no cluster is configured in KUBECONFIG=/no/such/file: run `kubectl leat up`, or set KUBECONFIG\n" {
		t.Errorf("KUBECONFIG: exit code %d, %q", code, errOut)
	}
}

func TestUnreachableServer(t *testing.T) {
	noCluster(t)
	_, errOut, code := call(t, "leat", "", "run", "--server=https://127.0.0.1:1", "--", "true")
	if code != exitFailed || !strings.Contains(errOut, "the server https://127.0.0.1:1 cannot be reached") || !strings.Contains(errOut, "`leat up` starts one") {
		t.Errorf("exit code %d, %q", code, errOut)
	}
}

// The server of "leat up" is used if no other is configured.
func TestLocalServerIsFound(t *testing.T) {
	noCluster(t)
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	config := "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:%s'}}]\n"
	write := func(file, port string) {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "%s", port)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(data, "leat", "kubeconfig"), "2")
	if _, errOut, _ := call(t, "leat", "", "top"); !strings.Contains(errOut, "https://127.0.0.1:2 cannot be reached") {
		t.Errorf("without another: %q", errOut)
	}
	write(filepath.Join(os.Getenv("HOME"), ".kube", "config"), "3")
	if _, errOut, _ := call(t, "leat", "", "--kubeconfig", filepath.Join(os.Getenv("HOME"), ".kube", "config"), "top"); !strings.Contains(errOut, "https://127.0.0.1:3 cannot be reached") {
		t.Errorf("with another: %q", errOut)
	}
}

func TestDryRun(t *testing.T) {
	noCluster(t)
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"one task", []string{"run", "--name=t", "-n", "ns", "--dry-run=client", "-o", "yaml", "--queue=q", "--priority=5", "--backoff-limit=2", "--timeout=90s", "--ttl=1h", "--workdir=/w", "--worker-selector=disk=ssd", "--pool=render", "--env=A=b=c", "--cpu=500m", "--request=example.com/gpu=1", "--", "a", "--b"}, `apiVersion: batch.leat.dev/v1alpha1
kind: Task
metadata:
  name: t
  namespace: ns
spec:
  activeDeadlineSeconds: 90
  backoffLimit: 2
  command:
  - a
  - --b
  env:
  - name: A
    value: b=c
  pool: render
  priority: 5
  queueName: q
  resources:
    requests:
      cpu: 500m
      example.com/gpu: "1"
  ttlSecondsAfterFinished: 3600
  workerSelector:
    disk: ssd
  workingDir: /w
status:
  state: {}
`},
		{"an array", []string{"run", "--array=1000000%500", "--dry-run=client", "-o", "yaml", "--backoff-limit=1", "--", "/usr/bin/My_Tool.sh"}, `apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata:
  generateName: my-tool-sh-
spec:
  backoffLimitPerIndex: 1
  completionMode: Indexed
  completions: 1000000
  maxFailedIndexes: 10000
  parallelism: 500
  template:
    metadata: {}
    spec:
      command:
      - /usr/bin/My_Tool.sh
      resources: {}
status: {}
`},
		{"lines", []string{"run", "--each-line=-", "--name=l", "--dry-run=client", "-o", "yaml", "--", "gzip"}, `apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata:
  name: l
spec:
  backoffLimitPerIndex: 0
  completionMode: Indexed
  completions: 2
  items:
  - x
  - y z
  parallelism: 2
  template:
    metadata: {}
    spec:
      command:
      - gzip
      - $(TASK_ITEM)
      resources: {}
status: {}
`},
		{"chunks", []string{"run", "--array=5", "--name=c", "--dry-run=client", "-o", "yaml", "--chunk=1", "--", "true"}, `apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata:
  name: c
spec:
  backoffLimitPerIndex: 0
  chunking:
    maxIndexes: 1
  completionMode: Indexed
  completions: 5
  parallelism: 5
  template:
    metadata: {}
    spec:
      command:
      - "true"
      resources: {}
status: {}
`},
		{"a set that is held, labelled and tolerant", []string{"run", "--array=5", "--name=h", "--dry-run=client", "-o", "yaml", "--hold", "--max-failed=2", "--label=a=b", "--toleration=k=v:NoExecute", "--toleration=only", "--", "true"}, `apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata:
  labels:
    a: b
  name: h
spec:
  backoffLimitPerIndex: 0
  completionMode: Indexed
  completions: 5
  maxFailedIndexes: 2
  parallelism: 5
  suspend: true
  template:
    metadata:
      labels:
        a: b
    spec:
      command:
      - "true"
      resources: {}
      tolerations:
      - effect: NoExecute
        key: k
        operator: Equal
        value: v
      - key: only
        operator: Exists
status: {}
`},
		{"a name", []string{"run", "--name=t", "--dry-run=client", "-o", "name", "--", "true"}, "task.batch.leat.dev/t\n"},
		{"words", []string{"run", "--name=t", "--array=5", "--dry-run=client", "--", "true"}, "taskset.batch.leat.dev/t created (client dry run)\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errOut, code := call(t, "leat", "x\ny z\n", test.args...)
			if code != 0 || out != test.want {
				t.Errorf("exit code %d, %s\n%s", code, errOut, out)
			}
		})
	}
}

func TestNamePrefix(t *testing.T) {
	for program, want := range map[string]string{
		"echo": "echo", "/usr/bin/python3": "python3", `C:\Tools\My Tool.EXE`: "my-tool-exe", "./_x_": "x", "...": "task", strings.Repeat("ab", 40): strings.Repeat("ab", 20),
		strings.Repeat("a", 39) + ".sh": strings.Repeat("a", 39), "ÄÖÜ": "task", "7z": "7z", "a\x00b\nc": "a-b-c", "": "task", "/": "task",
	} {
		if got := namePrefix(program); got != want {
			t.Errorf("%q becomes %q, expected %q", program, got, want)
		}
	}
}

func TestParseRef(t *testing.T) {
	for text, want := range map[string]ref{
		"x": {"", "x"}, "task/x": {kindTask, "x"}, "tk/x": {kindTask, "x"}, "tasks.batch.leat.dev/x": {kindTask, "x"},
		"tks/x": {kindSet, "x"}, "TaskSet/x": {kindSet, "x"}, "wkr/x": {kindWorker, "x"},
	} {
		if got, err := parseRef(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "task/", "pod/x", "a/b/c"} {
		if got, err := parseRef(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestCutIndex(t *testing.T) {
	for text, want := range map[string]struct {
		name   string
		number int
	}{
		"squares/7": {"squares", 7}, "taskset/squares/7": {"taskset/squares", 7}, "@latest/0": {"@latest", 0}, "task/x/3": {"task/x", 3},
		"taskset/task/12": {"taskset/task", 12},
	} {
		if name, number, ok := cutIndex(text); !ok || name != want.name || number != want.number {
			t.Errorf("cutIndex(%q) = %q, %d, %t", text, name, number, ok)
		}
	}
	for _, text := range []string{"squares", "task/7", "tks/7", "workers.batch.leat.dev/7", "squares/x", "squares/-1", "squares/", "squares/2147483648"} {
		if name, number, ok := cutIndex(text); ok || name != text {
			t.Errorf("cutIndex(%q) = %q, %d, %t", text, name, number, ok)
		}
	}
}

func TestVersionWithoutAServer(t *testing.T) {
	noCluster(t)
	if out, errOut, code := call(t, "leat", "", "version"); code != 0 || !strings.HasPrefix(out, "Client Version: v") || errOut != "No cluster is configured, so there is no server to ask.\n" {
		t.Errorf("no cluster: exit code %d, %q, %q", code, out, errOut)
	}
	if out, errOut, code := call(t, "leat", "", "version", "--server", "http://127.0.0.1:1"); code != 1 || !strings.HasPrefix(out, "Client Version: v") || !strings.Contains(errOut, "cannot be reached") {
		t.Errorf("no server: exit code %d, %q, %q", code, out, errOut)
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	if _, errOut, code := call(t, "leat", "", "version"); code != 1 || !strings.Contains(errOut, "no cluster is configured in KUBECONFIG=") {
		t.Errorf("no kubeconfig: exit code %d, %q", code, errOut)
	}
}

// Every command has a help text with examples under the name of the program.
func TestHelp(t *testing.T) {
	noCluster(t)
	for _, program := range []string{"leat", "kubectl-leat"} {
		name := strings.ReplaceAll(program, "-", " ")
		for _, command := range []string{"", "run", "convert", "wait", "retry", "logs", "history", "top", "explain", "cancel", "delete", "update", "suspend", "resume", "cordon", "uncordon", "drain", "worker", "worker deny", "worker allow"} {
			out, _, code := call(t, "/some/where/"+program, "", strings.Fields(command+" --help")...)
			usage := strings.TrimSpace("  " + name + " " + command)
			if code != 0 || !strings.Contains(out, "Examples:\n  "+name+" ") || !strings.Contains(out, usage) {
				t.Errorf("%s %s: exit code %d\n%s", program, command, code, out)
			}
			if program == "kubectl-leat" && strings.Contains(strings.ReplaceAll(out, "kubectl leat", ""), "leat run") {
				t.Errorf("%s speaks of leat:\n%s", command, out)
			}
		}
	}
	if out, _, code := call(t, "leat", "", "options"); code != 0 || !strings.Contains(out, "--context") || !strings.Contains(out, "--as ") {
		t.Errorf("options: exit code %d\n%s", code, out)
	}
	if out, _, code := call(t, "leat", "", "version", "--client"); code != 0 || !strings.HasPrefix(out, "Client Version: v") {
		t.Errorf("version: exit code %d, %q", code, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, errOut, code := call(t, "leat", "", "completion", shell); code != 0 || !strings.Contains(out, "leat") {
			t.Errorf("completion %s: exit code %d, %q", shell, code, errOut)
		}
	}
	for _, test := range []struct{ line, want string }{
		{"history x --sort ", "index\nstart\nduration\ncpu\nmemory\n:4\n"},
		{"history x -o ", "json\nwide\n:4\n"},
		{"logs x --output-dir ", ":16\n"}, // directories only
	} {
		if out, _, code := call(t, "leat", "", append([]string{"__complete"}, strings.Split(test.line, " ")...)...); code != 0 || out != test.want {
			t.Errorf("completion of %q: exit code %d, %q", test.line, code, out)
		}
	}
	// This is how kubectl completes the arguments of plugins.
	if out, _, code := call(t, "kubectl_complete-leat", "", "dra"); code != 0 || !strings.HasPrefix(out, "drain") {
		t.Errorf("completion for kubectl: exit code %d, %q", code, out)
	}
}

func TestControlCharactersDoNotReachTheTerminal(t *testing.T) {
	var b bytes.Buffer
	writeIndented(&b, "\xbc\x1b[31mred\x1b[0m\r\x07\n10%\r20%\nnext\tcolumn\u009b2J\n\n")
	if want := "  | red\n  | 20%\n  | next\tcolumn\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}
