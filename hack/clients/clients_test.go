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

// Package clients tests Leat with released clients of other projects, against a server with a worker on this machine.
// "make clients" installs the clients and runs the tests.
package clients

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/ssa"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// root is the directory of the repository.
const root = "../.."

// namespace is the namespace of the worker.
const namespace = "default"

// timeout limits every wait.
const timeout = 2 * time.Minute

var kubeconfig string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run starts a server and runs the tests.
func run(m *testing.M) int {
	log.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "leat-clients-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	kubeconfig = filepath.Join(dir, "kubeconfig")
	var output bytes.Buffer
	up := exec.Command(filepath.Join(root, "bin/test/leat"), "up", "--data-dir="+filepath.Join(dir, "data"), "--kubeconfig="+kubeconfig,
		"--secure-port=0", "--worker-tasks=4")
	up.Stdout, up.Stderr = &output, &output
	if err := up.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: make test-programs builds it\n", err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	defer func() {
		_ = up.Process.Signal(os.Interrupt)
		<-ended
	}()
	ready := func(ctx context.Context) (bool, error) {
		select {
		case err := <-ended:
			ended <- err
			return false, fmt.Errorf("leat up ended: %v", err)
		default:
		}
		out, err := kubectl(ctx, "", "get", "workers", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", nil
	}
	if err := wait.PollUntilContextTimeout(context.Background(), 200*time.Millisecond, timeout, true, ready); err != nil {
		fmt.Fprintf(os.Stderr, "no worker is ready: %v\n%s", err, output.String())
		return 1
	}
	return m.Run()
}

// kubectl runs the old kubectl and returns its standard output. An error includes its standard error.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, filepath.Join(root, "bin/clients/kubectl"), append(args, "--kubeconfig="+kubeconfig, "--namespace="+namespace)...)
	command.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// check fails the test at once if err is not nil.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// manifest returns an object of Leat in YAML.
func manifest(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: batch.leat.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

func TestOldKubectl(t *testing.T) {
	expect := func(want, stdin string, args ...string) {
		t.Helper()
		out, err := kubectl(t.Context(), stdin, args...)
		check(t, err)
		if out != want {
			t.Errorf("kubectl %s: got %q, want %q", strings.Join(args, " "), out, want)
		}
	}
	good := manifest("Task", "kubectl-good", "{command: [sleep, '1']}")
	expect("task.batch.leat.dev/kubectl-good created", good, "apply", "-f", "-")
	expect("task.batch.leat.dev/kubectl-good unchanged", good, "apply", "-f", "-")
	expect("task.batch.leat.dev/kubectl-bad created", manifest("Task", "kubectl-bad", "{command: ['false']}"), "create", "-f", "-")
	expect("task.batch.leat.dev/kubectl-good condition met", "", "wait", "tk/kubectl-good", "--for=condition=Complete", "--timeout=2m")
	expect("task.batch.leat.dev/kubectl-bad condition met", "", "wait", "tk/kubectl-bad", "--for=condition=Failed", "--timeout=2m")
	expect("Succeeded", "", "get", "tk", "kubectl-good", "-o", "jsonpath={.status.phase}")
	expect("task.batch.leat.dev/kubectl-good labeled", "", "label", "tk", "kubectl-good", "a=b")
	expect("task.batch.leat.dev/kubectl-good", "", "get", "tk", "-l", "a=b", "-o", "name")
	expect("task.batch.leat.dev/kubectl-good patched", "", "patch", "tk", "kubectl-good", "--type=merge", "-p", `{"spec": {"ttlSecondsAfterFinished": 3600}}`)
	out, err := kubectl(t.Context(), "", "explain", "tasks.spec.command")
	check(t, err)
	if !strings.Contains(out, "command is the program to run") {
		t.Errorf("explain: got %s, want the description of command", out)
	}

	// An exported task that was bound can be created again, and runs again.
	export, err := kubectl(t.Context(), "", "get", "tk", "kubectl-good", "-o", "yaml")
	check(t, err)
	out, err = kubectl(t.Context(), export, "replace", "--force", "-f", "-")
	check(t, err)
	if !strings.HasSuffix(out, "task.batch.leat.dev/kubectl-good replaced") {
		t.Errorf("replace with an export: got %s, want the task to be replaced", out)
	}
	expect("task.batch.leat.dev/kubectl-good condition met", "", "wait", "tk/kubectl-good", "--for=condition=Complete", "--timeout=2m")

	set := manifest("TaskSet", "kubectl-set", "{completions: 3, parallelism: 2, template: {spec: {command: ['true']}}}")
	expect("taskset.batch.leat.dev/kubectl-set serverside-applied", set, "apply", "--server-side", "-f", "-")
	expect("taskset.batch.leat.dev/kubectl-set condition met", "", "wait", "tks/kubectl-set", "--for=condition=Complete", "--timeout=2m")

	// A watch shows the existing task, then its deletion.
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	watch := exec.CommandContext(ctx, filepath.Join(root, "bin/clients/kubectl"), "--kubeconfig="+kubeconfig, "--namespace="+namespace,
		"get", "tk", "kubectl-good", "--watch", "--output-watch-events") // "-o name" omits the type of the event
	stdout, err := watch.StdoutPipe()
	check(t, err)
	check(t, watch.Start())
	buffer, seen := make([]byte, 1<<10), ""
	await := func(word string) {
		t.Helper()
		for !strings.Contains(seen, word) {
			n, err := stdout.Read(buffer)
			seen += string(buffer[:n])
			if err != nil {
				t.Fatalf("got events %s and error %v, want %s", seen, err, word)
			}
		}
	}
	await("ADDED")
	expect(`task.batch.leat.dev "kubectl-good" deleted`+"\n"+`task.batch.leat.dev "kubectl-bad" deleted`, "", "delete", "tk", "kubectl-good", "kubectl-bad")
	await("DELETED")
	cancel()
	_ = watch.Wait() // cancel killed it
	expect(`taskset.batch.leat.dev "kubectl-set" deleted`, "", "delete", "tks", "kubectl-set")
}

// newClient returns a client of controller-runtime.
func newClient(t *testing.T) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	check(t, err)
	c, err := client.New(config, client.Options{})
	check(t, err)
	return c
}

// object returns an unstructured object of Leat.
func object(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "batch.leat.dev/v1alpha1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": namespace}, "spec": spec,
	}}
}

// TestKstatus checks the status of objects in all phases, as computed by the library that Flux, Helm and "kpt live"
// use.
func TestKstatus(t *testing.T) {
	c := newClient(t)
	becomes := func(want status.Status, object *unstructured.Unstructured) {
		t.Helper()
		var got *status.Result
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
			err := c.Get(ctx, client.ObjectKeyFromObject(object), object)
			if err != nil {
				return false, err
			}
			got, err = status.Compute(object)
			return err == nil && got.Status == want, err
		})
		if err != nil {
			t.Errorf("%s %s: got %+v, error %v; want %s", object.GetKind(), object.GetName(), got, err, want)
		}
	}
	command := func(command ...any) map[string]any { return map[string]any{"command": command} }

	gated := command("true")
	gated["schedulingGates"] = []any{map[string]any{"name": "example.com/gate"}}
	task := object("Task", "kstatus-gated", gated)
	check(t, c.Create(t.Context(), task))
	becomes(status.InProgressStatus, task)
	patch := client.MergeFrom(task.DeepCopy())
	unstructured.RemoveNestedField(task.Object, "spec", "schedulingGates")
	check(t, c.Patch(t.Context(), task, patch))
	becomes(status.CurrentStatus, task)

	bad := object("Task", "kstatus-bad", command("false"))
	check(t, c.Create(t.Context(), bad))
	becomes(status.FailedStatus, bad)

	set := object("TaskSet", "kstatus-set", map[string]any{"suspend": true, "template": map[string]any{"spec": command("false")}, "backoffLimit": int64(0)})
	check(t, c.Create(t.Context(), set))
	becomes(status.InProgressStatus, set)
	patch = client.MergeFrom(set.DeepCopy())
	check(t, unstructured.SetNestedField(set.Object, false, "spec", "suspend"))
	check(t, c.Patch(t.Context(), set, patch))
	becomes(status.FailedStatus, set)

	for _, object := range []client.Object{task, bad, set} {
		check(t, c.Delete(t.Context(), object))
	}
}

func TestFlux(t *testing.T) {
	c := newClient(t)
	manager := ssa.NewResourceManager(c, polling.NewStatusPoller(c, c.RESTMapper(), polling.Options{}), ssa.Owner{Field: "flux", Group: "flux"})
	run := func(command ...any) map[string]any { return map[string]any{"command": command} }
	set := map[string]any{"completions": int64(2), "template": map[string]any{"spec": run("true")}}
	good := func() []*unstructured.Unstructured {
		return []*unstructured.Unstructured{
			object("TaskQueue", "flux-queue", map[string]any{"weight": int64(2)}),
			object("Task", "flux-good", run("sleep", "1")),
			object("TaskSet", "flux-set", set),
		}
	}
	options := ssa.WaitOptions{Interval: 200 * time.Millisecond, Timeout: timeout, FailFast: true}

	changes, err := manager.ApplyAll(t.Context(), good(), ssa.DefaultApplyOptions())
	check(t, err)
	for _, entry := range changes.Entries {
		if entry.Action != ssa.CreatedAction {
			t.Errorf("%s: got %s, want created", entry.Subject, entry.Action)
		}
	}
	check(t, manager.Wait(good(), options))
	var task unstructured.Unstructured
	task.SetGroupVersionKind(good()[1].GroupVersionKind())
	check(t, c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "flux-good"}, &task))
	if phase, _, _ := unstructured.NestedString(task.Object, "status", "phase"); phase != "Succeeded" {
		t.Errorf("after the wait: got phase %s, want Succeeded", phase)
	}
	changes, err = manager.ApplyAll(t.Context(), good(), ssa.DefaultApplyOptions())
	check(t, err)
	for _, entry := range changes.Entries {
		if entry.Action != ssa.UnchangedAction {
			t.Errorf("applied again: %s: got %s, want unchanged", entry.Subject, entry.Action)
		}
	}

	bad := []*unstructured.Unstructured{object("Task", "flux-bad", run("false"))}
	_, err = manager.ApplyAll(t.Context(), bad, ssa.DefaultApplyOptions())
	check(t, err)
	if err := manager.Wait(bad, options); err == nil || !strings.Contains(err.Error(), "Task/default/flux-bad status: 'Failed'") {
		t.Errorf("wait for a task that fails: got %v, want an error with its status Failed", err)
	}

	all := append(good(), bad...)
	_, err = manager.DeleteAll(t.Context(), all, ssa.DefaultDeleteOptions())
	check(t, err)
	check(t, manager.WaitForTermination(all, options))
}

func TestPython(t *testing.T) { script(t, "/usr/bin/python3", "python/scenario.py") }

func TestNode(t *testing.T) { script(t, "node", "node/scenario.mjs") }

// script runs a scenario in another language with its interpreter.
func script(t *testing.T, interpreter, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	command := exec.CommandContext(ctx, interpreter, path, namespace)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", interpreter, path, err, out)
	}
}
