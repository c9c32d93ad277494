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

package api

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

func testKubectlApply(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	queue := k.withStdin(manifest("TaskQueue", "line", "{weight: 1}"))
	queue.expectOutput("taskqueue.batch.leat.dev/line created", "apply -f -")
	queue.expectOutput("taskqueue.batch.leat.dev/line unchanged", "apply -f -")
	queue.expectOutput("", "diff -f -")

	changed := k.withStdin(manifest("TaskQueue", "line", "{weight: 2, maxRunningTasks: 5}"))
	out, _, err := changed.execute("diff -f -")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("diff of a changed object: got %v, want exit status 1", err)
	}
	for _, line := range []string{"\n-  weight: 1\n", "\n+  weight: 2\n", "\n+  maxRunningTasks: 5\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("diff: got\n%s\nwant %q in it", out, line)
		}
	}
	k.expectOutput("1", "get tq line -o", "jsonpath={.spec.weight}{.spec.maxRunningTasks}")

	changed.expectOutput("taskqueue.batch.leat.dev/line configured (server dry run)", "apply --dry-run=server -f -")
	changed.expectOutput("taskqueue.batch.leat.dev/line configured", "apply -f -")
	k.expectOutput("2 5 2", "get tq line -o", "jsonpath={.spec.weight} {.spec.maxRunningTasks} {.metadata.generation}")
	changed.expectOutput("taskqueue.batch.leat.dev/line unchanged", "apply -f -")
	// A field that is no longer applied is removed, or gets its default.
	k.withStdin(manifest("TaskQueue", "line", "{}")).expectOutput("taskqueue.batch.leat.dev/line configured", "apply -f -")
	k.expectOutput("1 ", "get tq line -o", "jsonpath={.spec.weight} {.spec.maxRunningTasks}")

	task := k.withStdin(manifest("Task", "one", "{command: [sleep], env: [{name: A, value: b}], tolerations: [{key: a}]}"))
	task.expectOutput("task.batch.leat.dev/one created", "apply -f -")
	task.expectOutput("task.batch.leat.dev/one unchanged", "apply -f -")
	task.expectOutput("", "diff -f -")
	k.withStdin(manifest("Task", "one", "{command: [sleep], env: [{name: A, value: b}], tolerations: [{key: a}, {key: b}], activeDeadlineSeconds: 60}")).
		expectOutput("task.batch.leat.dev/one configured", "apply -f -")
	k.withStdin(manifest("Task", "one", "{command: [awake]}")).expectFailure(1, []string{
		`The Task "one" is invalid: `, "* spec.command: Invalid value: ", "field is immutable",
		`* spec.tolerations: Forbidden: may be added, not removed: "a" of effect "" is missing`,
		"* spec.activeDeadlineSeconds: Invalid value: null: must not be removed; it may be at most 60",
	}, "apply -f -")

	set := k.withStdin(manifest("TaskSet", "many", "{completions: 3, parallelism: 0, template: {spec: {command: [sleep]}}}"))
	set.expectOutput("taskset.batch.leat.dev/many created", "apply -f -")
	// The generated selector and template labels are no difference.
	set.expectOutput("taskset.batch.leat.dev/many unchanged", "apply -f -")
	kit.Eventually(t, "kubectl diff shows no difference", func(context.Context) error { // a controller may update the status between the reads of diff
		_, _, err := set.execute("diff -f -")
		return err
	})
	k.withStdin(manifest("TaskSet", "many", "{completions: 3, parallelism: 2, template: {spec: {command: [sleep]}}}")).
		expectOutput("taskset.batch.leat.dev/many configured", "apply -f -")
}

func testKubectlServerSideApply(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	queue := k.withStdin(manifest("TaskQueue", "line", "{weight: 1}"))
	queue.expectOutput("taskqueue.batch.leat.dev/line serverside-applied", "apply --server-side --field-manager=alice -f -")
	queue.expectOutput("", "diff --server-side --field-manager=alice -f -")

	heavy := k.withStdin(manifest("TaskQueue", "line", "{weight: 9}"))
	heavy.expectFailure(1, []string{`Apply failed with 1 conflict: conflict with "alice": .spec.weight`}, "apply --server-side --field-manager=bob -f -")
	k.expectOutput("1", "get tq line -o", "jsonpath={.spec.weight}")
	heavy.expectOutput("taskqueue.batch.leat.dev/line serverside-applied", "apply --server-side --field-manager=bob --force-conflicts -f -")
	k.expectOutput("9", "get tq line -o", "jsonpath={.spec.weight}")
	k.expectOutput("bob", "get tq line --show-managed-fields -o", `jsonpath={.metadata.managedFields[?(@.operation=="Apply")].manager}`)

	// Items of a list have owners, by their key.
	k.withStdin(manifest("Task", "one", "{command: [sleep], schedulingGates: [{name: a}, {name: b}]}")).
		expectOutput("task.batch.leat.dev/one serverside-applied", "apply --server-side --field-manager=alice -f -")
	k.withStdin(manifest("Task", "one", "{command: [sleep], schedulingGates: [{name: b}]}")).
		expectOutput("task.batch.leat.dev/one serverside-applied", "apply --server-side --field-manager=alice -f -")
	k.expectOutput("b", "get tk one -o", "jsonpath={.spec.schedulingGates[*].name}")
	// An apply without changes writes nothing.
	version := k.run("get tk one -o", "jsonpath={.metadata.resourceVersion}")
	k.withStdin(manifest("Task", "one", "{command: [sleep], schedulingGates: [{name: b}]}")).
		expectOutput("task.batch.leat.dev/one serverside-applied", "apply --server-side --field-manager=alice -f -")
	k.expectOutput(version, "get tk one -o", "jsonpath={.metadata.resourceVersion}")

	// An apply to the main resource ignores the status.
	k.withStdin(manifest("Task", "two", "{command: [sleep]}\nstatus: {phase: Succeeded, progress: 9/9}")).
		expectOutput("task.batch.leat.dev/two serverside-applied", "apply --server-side --field-manager=alice -f -")
	k.expectOutput("Pending ", "get tk two -o", "jsonpath={.status.phase} {.status.progress}")

	// Migrate from client-side to server-side apply.
	set := k.withStdin(manifest("TaskSet", "many", "{parallelism: 1, completions: 3, template: {spec: {command: [sleep]}}}"))
	set.run("apply -f -")
	set.expectOutput("taskset.batch.leat.dev/many serverside-applied", "apply --server-side -f -")
	// The client that scales owns the field.
	k.expectOutput("taskset.batch.leat.dev/many scaled", "scale tks many --replicas=5")
	k.withStdin(manifest("TaskSet", "many", "{parallelism: 2, completions: 3, template: {spec: {command: [sleep]}}}")).
		expectFailure(1, []string{`Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using batch.leat.dev/v1alpha1: .spec.parallelism`}, "apply --server-side -f -")
}

func testKubectlReplace(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	queue := k.withStdin(manifest("TaskQueue", "line", "{weight: 1}"))
	queue.expectOutput("taskqueue.batch.leat.dev/line created", "create -f -")
	queue.expectFailure(1, []string{`Error from server (AlreadyExists): `, `taskqueues.batch.leat.dev "line" already exists`}, "create -f -")
	old := k.run("get tq line -o json")
	k.withStdin(manifest("TaskQueue", "line", "{weight: 2}")).expectOutput("taskqueue.batch.leat.dev/line replaced", "replace -f -")
	k.expectOutput("2 2", "get tq line -o", "jsonpath={.spec.weight} {.metadata.generation}")
	k.withStdin(old).expectFailure(1, []string{"Error from server (Conflict): ", "the object has been modified; please apply your changes to the latest version and try again"}, "replace -f -")
	k.withStdin(manifest("TaskQueue", "row", "{}")).expectFailure(1, []string{`taskqueues.batch.leat.dev "row" not found`}, "replace -f -")

	uid := k.run("get tq line -o", "jsonpath={.metadata.uid}")
	out := queue.run("replace --force -f -")
	if !strings.Contains(out, `taskqueue.batch.leat.dev "line" deleted`) || !strings.HasSuffix(out, "taskqueue.batch.leat.dev/line replaced") {
		t.Errorf("replace --force: got %s", out)
	}
	if newUID := k.run("get tq line -o", "jsonpath={.metadata.uid}"); newUID == uid {
		t.Error("replace --force: got the old uid, want a new object")
	}

	// create supports generateName.
	named := k.withStdin("apiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {generateName: made-}\nspec: {command: [sleep]}\n").run("create -o name -f -")
	if !strings.HasPrefix(named, "task.batch.leat.dev/made-") {
		t.Errorf("create with generateName: got %s", named)
	}
	k.withStdin(manifest("Task", "dry", "{command: [sleep]}")).expectOutput("task.batch.leat.dev/dry created (server dry run)", "create --dry-run=server -f -")
	k.expectOutput("", "get tk dry --ignore-not-found")
}

func testKubectlPatch(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.create("Task", "one", "{command: [sleep], schedulingGates: [{name: a}, {name: b}, {name: c}]}")
	for _, test := range []struct{ kind, patch, path, want string }{
		{"json", `[{"op": "test", "path": "/spec/command/0", "value": "sleep"}, {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 60}]`, "{.spec.activeDeadlineSeconds}", "60"},
		{"json", `[{"op": "remove", "path": "/spec/schedulingGates/0"}]`, "{.spec.schedulingGates[*].name}", "b c"},
		{"merge", `{"spec": {"ttlSecondsAfterFinished": 5}}`, "{.spec.ttlSecondsAfterFinished}", "5"},
		{"merge", `{"spec": {"schedulingGates": [{"name": "c"}]}}`, "{.spec.schedulingGates[*].name}", "c"},
		{"strategic", `{"spec": {"schedulingGates": [{"name": "c", "$patch": "delete"}]}}`, "{.spec.schedulingGates[*].name}", ""},
		{"strategic", `{"spec": {"ttlSecondsAfterFinished": null}}`, "{.spec.ttlSecondsAfterFinished}", ""},
		{"strategic", `{"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}`, "{.spec.tolerations[*].key}", "a"},
	} {
		k.expectOutput("task.batch.leat.dev/one patched", "patch tk one --type="+test.kind+" -p", test.patch)
		k.expectOutput(test.want, "get tk one -o", "jsonpath="+test.path)
	}
	k.expectOutput("task.batch.leat.dev/one patched (no change)", "patch tk one --type=merge -p", `{"spec": {"activeDeadlineSeconds": 60}}`)
	k.expectFailure(1, []string{`The Task "one" is invalid: spec.activeDeadlineSeconds: Invalid value: 61: must be less than or equal to its former value, 60`},
		"patch tk one --type=merge -p", `{"spec": {"activeDeadlineSeconds": 61}}`)
	k.expectOutput("task.batch.leat.dev/one patched (no change)", "patch tk one --type=merge -p", `{"spec": {"workerName": "w-aaaaa"}}`)
	k.expectFailure(1, []string{`The Task "one" is invalid: spec.schedulingGates[0]: Forbidden: `},
		"patch tk one --type=merge -p", `{"spec": {"schedulingGates": [{"name": "d"}]}}`)
	k.expectFailure(1, []string{`Error from server (NotFound): tasks.batch.leat.dev "two" not found`}, "patch tk two --type=merge -p", `{}`)

	// Components write the status. With a host, administrators can only read it.
	status := k.withUser(e.Controller(t))
	status.expectOutput("task.batch.leat.dev/one patched", "patch tk one --subresource=status --type=merge -p",
		`{"spec": {"ttlSecondsAfterFinished": 9}, "status": {"progress": "1/2"}}`)
	k.expectOutput("1/2 ", "get tk one -o", "jsonpath={.status.progress} {.spec.ttlSecondsAfterFinished}")
	k.expectOutput("task.batch.leat.dev/one patched (no change)", "patch tk one --type=merge -p", `{"status": {"progress": "2/2"}}`)
	status.expectFailure(1, []string{`The Task "one" is invalid: status.phase: Unsupported value: "Done": supported values: "Failed", "Pending", "Running", "Succeeded"`},
		"patch tk one --subresource=status --type=merge -p", `{"status": {"phase": "Done"}}`)
	if !e.Standalone() {
		k.expectFailure(1, []string{`Error from server (Forbidden): `, `cannot patch resource "tasks/status"`},
			"patch tk one --subresource=status --type=merge -p", `{"status": {"progress": "2/2"}}`)
	}

	k.create("TaskSet", "many", "{completions: 3, template: {spec: {command: [sleep]}}}")
	k.expectOutput("taskset.batch.leat.dev/many patched", "patch tks many --type=merge -p", `{"spec": {"suspend": true}}`)
	k.expectOutput("scale.autoscaling/many patched", "patch tks many --subresource=scale --type=merge -p", `{"spec": {"replicas": 4}}`)
	k.expectOutput("true 4", "get tks many -o", "jsonpath={.spec.suspend} {.spec.parallelism}")
}

func testKubectlLabelAndAnnotate(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.create("Task", "one", "{command: [sleep]}")
	k.expectOutput("task.batch.leat.dev/one labeled", "label tk one app=web")
	k.expectOutput("task.batch.leat.dev/one not labeled", "label tk one app=web")
	k.expectFailure(1, []string{"'app' already has a value (web), and --overwrite is false"}, "label tk one app=api")
	k.expectOutput("task.batch.leat.dev/one labeled", "label tk one app=api --overwrite")
	k.expectOutput("task.batch.leat.dev/one annotated", "annotate tk one", "example.com/why=to see")
	k.expectOutput("api to see 1", "get tk one -o", `jsonpath={.metadata.labels.app} {.metadata.annotations.example\.com/why} {.metadata.generation}`)
	k.expectOutput("task.batch.leat.dev/one unlabeled", "label tk one app-")
	k.expectOutput("task.batch.leat.dev/one annotated", "annotate tk --all example.com/why-")
	k.expectOutput(" ", "get tk one -o", `jsonpath={.metadata.labels.app} {.metadata.annotations.example\.com/why}`)
	k.expectFailure(1, []string{`a valid label must be an empty string or consist of alphanumeric characters`}, "label tk one app=-")
}

func testKubectlScale(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.create("TaskSet", "many", "{completions: 30, parallelism: 3, template: {spec: {command: [sleep]}}}")
	k.expectOutput("taskset.batch.leat.dev/many scaled", "scale tks many --replicas=7")
	k.expectOutput("7 2", "get tks many -o", "jsonpath={.spec.parallelism} {.metadata.generation}")
	k.expectOutput("7", "get tks many --subresource=scale -o", "jsonpath={.spec.replicas}")
	k.expectOutput("taskset.batch.leat.dev/many scaled", "scale tks many --current-replicas=7 --replicas=8")
	k.expectFailure(1, []string{"Expected replicas to be 7, was 8"}, "scale tks many --current-replicas=7 --replicas=9")
	k.expectOutput("taskset.batch.leat.dev/many scaled", "scale tks many --replicas=0")
	k.expectOutput("0", "get tks many -o", "jsonpath={.spec.parallelism}")
	k.expectFailure(1, []string{`tasksets.batch.leat.dev "few" not found`}, "scale tks few --replicas=1")
	k.create("Task", "one", "{command: [sleep]}")
	k.expectFailure(1, []string{"Error from server ("}, "scale tk one --replicas=1")
}

// testKubectlExamples applies and deletes the examples.
func testKubectlExamples(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	root, err := host.RepositoryRoot()
	kit.Check(t, err)
	dir := filepath.Join(root, "artifacts", "examples")
	all := []string{
		"taskset.batch.leat.dev/split", "taskset.batch.leat.dev/transcode", "taskset.batch.leat.dev/join",
		"taskset.batch.leat.dev/subtitles", "taskset.batch.leat.dev/thumbnails", "taskset.batch.leat.dev/publish",
		"task.batch.leat.dev/hello", "taskqueue.batch.leat.dev/nightly", "taskset.batch.leat.dev/squares",
	}
	k.expectOutput(strings.Join(all, " created\n")+" created", "apply -f "+dir)
	k.expectOutput(strings.Join(all, " unchanged\n")+" unchanged", "apply -f "+dir)
	k.expectOutput("Indexed 100 5", "get tks squares -o", "jsonpath={.spec.completionMode} {.spec.completions} {.spec.parallelism}")
	k.run("delete -f " + dir)
	kit.Eventually(t, "the examples are deleted", func(context.Context) error { // the tasks of the set are deleted after it
		if left := k.run("get tk,tks,tq -o name"); left != "" {
			return fmt.Errorf("%s exist", left)
		}
		return nil
	})
}

func testKubectlWait(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	client := controllerClient(t, e)
	tasks, sets := client.Tasks(k.namespace), client.TaskSets(k.namespace)
	registerWorker(t, e, k.namespace, "w-aaaaa")
	k.create("Task", "one", "{command: [sleep]}")
	k.create("TaskSet", "many", "{completions: 3, parallelism: 0, template: {spec: {command: [sleep]}}}")

	k.expectFailure(1, []string{"error: timed out waiting for the condition on tasksets/many"}, "wait tks many --for=condition=Complete --timeout=100ms")
	k.expectFailure(1, []string{`tasks.batch.leat.dev "two" not found`}, "wait tk two --for=condition=TaskScheduled --timeout=100ms")

	waiting := k.start("wait tk one --for=condition=TaskScheduled -v=6")
	waiting.waitForWatch()
	bindTo(t, tasks, "one", "w-aaaaa")
	waiting.waitForLine("task.batch.leat.dev/one condition met")
	waiting.waitForExit()

	waiting = k.start("wait tk one --for=condition=Complete -v=6")
	waiting.waitForWatch()
	updateTaskStatus(t, tasks, "one", func(status *batch.TaskStatus) { status.Phase = batch.TaskRunning })
	updateTaskStatus(t, tasks, "one", func(status *batch.TaskStatus) { status.Phase = batch.TaskSucceeded })
	waiting.waitForLine("task.batch.leat.dev/one condition met")
	waiting.waitForExit()
	// A task that is replaced by its export is pending and not bound, although the export names the worker.
	out := k.withStdin(k.run("get tk one -o yaml")).run("replace --force -f -")
	if !strings.HasSuffix(out, "task.batch.leat.dev/one replaced") {
		t.Errorf("replace --force by an export: got %s", out)
	}
	k.expectOutput("Pending ", "get tk one -o", "jsonpath={.status.phase} {.spec.workerName}")

	waiting = k.start("wait tks many --for=condition=Complete -v=6")
	waiting.waitForWatch()
	kit.Eventually(t, "the status of the TaskSet is written", func(context.Context) error {
		set, err := sets.Get(t.Context(), "many", metav1.GetOptions{})
		kit.Check(t, err)
		now := metav1.Now()
		if set.Status.StartTime == nil {
			set.Status.StartTime = &now
		}
		set.Status.CompletionTime, set.Status.Succeeded = &now, 3
		for _, condition := range []string{batch.TaskSetSuccessCriteriaMet, batch.TaskSetComplete} {
			meta.SetStatusCondition(&set.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: "CompletionsReached"})
		}
		_, err = sets.UpdateStatus(t.Context(), set, metav1.UpdateOptions{})
		return err
	})
	waiting.waitForLine("taskset.batch.leat.dev/many condition met")
	waiting.waitForExit()

	waiting = k.start("wait tk one --for=delete -v=6")
	waiting.waitForWatch()
	kit.Check(t, tasks.Delete(t.Context(), "one", metav1.DeleteOptions{}))
	waiting.waitForLine("task.batch.leat.dev/one condition met")
	waiting.waitForExit()

	waiting = k.start("wait tk three --for=create -v=6")
	waiting.waitFor(func(line string) bool { return strings.Contains(line, `tasks/three" status="404 Not Found"`) })
	k.create("Task", "three", "{command: [sleep]}")
	waiting.waitForLine("task.batch.leat.dev/three condition met")
	waiting.waitForExit()
}
