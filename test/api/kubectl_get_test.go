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
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// registerWorker registers a worker for eight tasks, with the worker's rights. It is not ready, so the scheduler binds
// no tasks to it. In standalone mode, the lifecycle controller evicts tasks of workers that do not exist.
func registerWorker(t testing.TB, e *kit.Env, namespace, name string) *batch.Worker {
	t.Helper()
	workers := kit.Client(t, e.Worker(t, namespace, name)).BatchV1alpha1().Workers(namespace)
	worker, err := workers.Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	kit.Check(t, err)
	worker.Status.Incarnation = "one"
	worker.Status.Capacity = batch.ResourceList{batch.ResourceTasks: resource.MustParse("8")}
	worker.Status.Allocatable = worker.Status.Capacity
	worker.Status.WorkerInfo.Version = "v1.2.3"
	worker, err = workers.UpdateStatus(t.Context(), worker, metav1.UpdateOptions{})
	kit.Check(t, err)
	return worker
}

func testKubectlColumns(t *testing.T, e *kit.Env) {
	t.Run("Tasks", func(t *testing.T) { testTaskColumns(t, e) })
	t.Run("Workers", func(t *testing.T) { testWorkerColumns(t, e) })
	if e.Standalone() {
		return // in standalone mode, controllers write the status of sets and queues
	}
	t.Run("TaskSets", func(t *testing.T) { testTaskSetColumns(t, e) })
	t.Run("TaskQueues", func(t *testing.T) { testTaskQueueColumns(t, e) })
}

func testTaskColumns(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	tasks := controllerClient(t, e).Tasks(k.namespace)
	registerWorker(t, e, k.namespace, "w-aaaaa")
	unschedulable := func(status *batch.TaskStatus) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: batch.TaskReasonUnschedulable, Message: "no worker has room",
		})
	}
	running := func(status *batch.TaskStatus) {
		start := metav1.Now()
		status.Phase, status.Attempts, status.StartTime = batch.TaskRunning, 1, &start
		status.State = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: start}}
	}
	ended := func(phase batch.TaskPhase, terminated batch.TaskStateTerminated) func(*batch.TaskStatus) {
		return func(status *batch.TaskStatus) {
			running(status)
			status.Phase, status.CompletionTime = phase, status.StartTime
			status.State = batch.TaskState{Terminated: &terminated}
		}
	}

	rows := []string{"NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE"}
	wide := []string{rows[0] + " QUEUE PRIORITY WAIT DURATION REASON"}
	// Row is the row of "get", and wide the additional columns of "get -o wide".
	for _, task := range []struct {
		name, spec string
		worker     string
		status     func(*batch.TaskStatus)
		then       func()
		row, wide  string
	}{
		{
			name: "bound", worker: "w-aaaaa",
			row: "Pending w-aaaaa <none> 0 <none> T", wide: "default 0 T <none> <none>",
		},
		{
			name: "crashed", worker: "w-aaaaa", spec: "crashLimit: 1", status: running,
			then: func() {
				_, err := tasks.Evict(t.Context(), "crashed", &batch.Eviction{Reason: "WorkerRestarted", WorkerCrashed: true}, metav1.CreateOptions{})
				kit.Check(t, err)
			},
			row: "WorkerCrashed w-aaaaa 137 1 <none> T", wide: "default 0 T T WorkerCrashed",
		},
		{
			name: "deadline", worker: "w-aaaaa",
			status: ended(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 143, Signal: 15, Reason: batch.TaskReasonDeadlineExceeded}),
			row:    "DeadlineExceeded w-aaaaa SIGTERM 1 <none> T", wide: "default 0 T T DeadlineExceeded",
		},
		{
			name: "evicted", worker: "w-aaaaa",
			then: func() {
				_, err := tasks.Evict(t.Context(), "evicted", &batch.Eviction{Reason: "WorkerLost"}, metav1.CreateOptions{})
				kit.Check(t, err)
			},
			row: "WorkerLost <none> <none> 0 <none> T", wide: "default 0 T <none> WorkerLost",
		},
		{
			name: "failed", worker: "w-aaaaa",
			status: ended(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 3, Reason: batch.TaskReasonError}),
			row:    "Error w-aaaaa 3 1 <none> T", wide: "default 0 T T Error",
		},
		{
			name: "gated", spec: "schedulingGates: [{name: example.com/approved}]",
			row: "SchedulingGated <none> <none> 0 <none> T", wide: "default 0 T <none> SchedulingGated",
		},
		{
			name: "killed", worker: "w-aaaaa",
			status: ended(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 137, Signal: 9, Reason: batch.TaskReasonError}),
			row:    "Error w-aaaaa SIGKILL 1 <none> T", wide: "default 0 T T Error",
		},
		{
			name: "running", worker: "w-aaaaa", status: running, spec: "queueName: nightly, priority: 7",
			row: "Running w-aaaaa <none> 1 <none> T", wide: "nightly 7 T T <none>",
		},
		{
			name: "succeeded", worker: "w-aaaaa",
			status: ended(batch.TaskSucceeded, batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}),
			row:    "Succeeded w-aaaaa 0 1 <none> T", wide: "default 0 T T Completed",
		},
		{
			name: "terminating", worker: "w-aaaaa", status: running,
			then: func() { kit.Check(t, tasks.Delete(t.Context(), "terminating", metav1.DeleteOptions{})) },
			row:  "Terminating w-aaaaa <none> 1 <none> T", wide: "default 0 T T <none>",
		},
		{
			name: "unschedulable", status: unschedulable,
			row: "Pending <none> <none> 0 <none> T", wide: "default 0 T <none> Unschedulable",
		},
	} {
		spec := "{command: [sleep]}"
		if task.spec != "" {
			spec = "{command: [sleep], " + task.spec + "}"
		}
		k.create("Task", task.name, spec)
		if task.worker != "" {
			bindTo(t, tasks, task.name, task.worker)
		}
		if task.status != nil {
			updateTaskStatus(t, tasks, task.name, task.status)
		}
		if task.then != nil {
			task.then()
		}
		rows = append(rows, task.name+" "+task.row)
		wide = append(wide, task.name+" "+task.row+" "+task.wide)
	}
	k.expectTable(rows, "get tk")
	k.expectTable(wide, "get tk -o wide")
}

func testTaskSetColumns(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	sets := controllerClient(t, e).TaskSets(k.namespace)
	start := metav1.Now()
	condition := func(name, reason string) metav1.Condition {
		return metav1.Condition{Type: name, Status: metav1.ConditionTrue, Reason: reason, Message: "set by the test", LastTransitionTime: start}
	}
	rows := []string{"NAME STATUS COMPLETIONS ACTIVE FAILED DURATION AGE"}
	for _, set := range []struct {
		name, spec string
		status     batch.TaskSetStatus
		row        string
	}{
		{"any-of-three", "parallelism: 3", batch.TaskSetStatus{}, "Running 0/1 of 3 0 0 <none> T"},
		{
			"complete", "completions: 3",
			batch.TaskSetStatus{
				Succeeded: 3, StartTime: &start, CompletionTime: &start,
				Conditions: []metav1.Condition{
					condition(batch.TaskSetSuccessCriteriaMet, "CompletionsReached"), condition(batch.TaskSetComplete, "CompletionsReached"),
				},
			},
			"Complete 3/3 0 0 T T",
		},
		{
			"failed", "completions: 3",
			batch.TaskSetStatus{Succeeded: 1, Failed: 7, StartTime: &start, Conditions: []metav1.Condition{
				condition(batch.TaskSetFailureTarget, "BackoffLimitExceeded"), condition(batch.TaskSetFailed, "BackoffLimitExceeded"),
			}},
			"Failed 1/3 0 7 T T",
		},
		{
			"running", "completions: 100000, parallelism: 50, completionMode: Indexed",
			batch.TaskSetStatus{Active: 50, Succeeded: 8123, Failed: 2, StartTime: &start},
			"Running 8123/100000 50 2 T T",
		},
		{
			"suspended", "completions: 3, suspend: true",
			batch.TaskSetStatus{Conditions: []metav1.Condition{condition(batch.TaskSetSuspended, "TaskSetSuspended")}},
			"Suspended 0/3 0 0 <none> T",
		},
	} {
		k.create("TaskSet", set.name, "{"+set.spec+", template: {spec: {command: [sleep]}}}")
		kit.Eventually(t, "the status of the TaskSet is written", func(context.Context) error {
			object, err := sets.Get(t.Context(), set.name, metav1.GetOptions{})
			kit.Check(t, err)
			object.Status = set.status
			_, err = sets.UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
			return err
		})
		rows = append(rows, set.name+" "+set.row)
	}
	k.expectTable(rows, "get tks")
	k.expectTable(rows, "get tks -o wide")
	k.expectTable([]string{"NAME DESIRED AVAILABLE AGE", "running 50 50 T"}, "get tks running --subresource=scale")
}

func testWorkerColumns(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	workers := controllerClient(t, e).Workers(k.namespace)
	rows := []string{"NAME STATUS TASKS VERSION AGE"}
	for _, worker := range []struct {
		name          string
		ready         metav1.ConditionStatus
		unschedulable bool
		row           string
	}{
		{"cordoned-aaaaa", metav1.ConditionTrue, true, "Ready,SchedulingDisabled 3/8 v1.2.3 T"},
		{"lost-aaaaa", metav1.ConditionUnknown, false, "Unknown 3/8 v1.2.3 T"},
		{"new-aaaaa", "", false, "Unknown 3/8 v1.2.3 T"},
		{"ready-aaaaa", metav1.ConditionTrue, false, "Ready 3/8 v1.2.3 T"},
		{"stopping-aaaaa", metav1.ConditionFalse, false, "NotReady 3/8 v1.2.3 T"},
	} {
		object := registerWorker(t, e, k.namespace, worker.name)
		object.Status.RunningTasks = 3
		if worker.ready != "" {
			object.Status.Conditions = []metav1.Condition{{
				Type: batch.WorkerReady, Status: worker.ready, Reason: "Test", LastTransitionTime: metav1.Now(),
			}}
		}
		_, err := workers.UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
		kit.Check(t, err)
		if worker.unschedulable {
			k.expectOutput("worker.batch.leat.dev/"+worker.name+" patched", "patch wkr "+worker.name+" --type=merge -p", `{"spec": {"unschedulable": true}}`)
		}
		rows = append(rows, worker.name+" "+worker.row)
	}
	k.expectTable(rows, "get wkr")
	k.expectTable(rows, "get wkr -o wide")

	lease := &batch.WorkerLease{
		ObjectMeta: metav1.ObjectMeta{Name: "ready-aaaaa"},
		Spec:       batch.WorkerLeaseSpec{HolderIdentity: "one", RenewTime: ptr.To(metav1.NowMicro())},
	}
	client := kit.Client(t, e.Worker(t, k.namespace, lease.Name))
	_, err := client.BatchV1alpha1().WorkerLeases(k.namespace).Create(t.Context(), lease, metav1.CreateOptions{})
	kit.Check(t, err)
	k.expectTable([]string{"NAME HOLDER RENEWED AGE", "ready-aaaaa one T T"}, "get workerleases")
}

func testTaskQueueColumns(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	queues, adminQueues := controllerClient(t, e).TaskQueues(k.namespace), kit.Client(t, e.Admin(t)).BatchV1alpha1().TaskQueues(k.namespace)
	rows := []string{"NAME PENDING RUNNING LIMIT STOP AGE"}
	for _, queue := range []struct{ name, spec, row string }{
		{"drained", "{stopPolicy: HoldAndDrain}", "12 3 <none> HoldAndDrain T"},
		{"free", "{}", "12 3 <none> <none> T"},
		{"limited", "{maxRunningTasks: 20, stopPolicy: Hold}", "12 3 20 Hold T"},
	} {
		k.create("TaskQueue", queue.name, queue.spec)
		kit.Eventually(t, "the status of the TaskQueue is written", func(context.Context) error {
			object, err := adminQueues.Get(t.Context(), queue.name, metav1.GetOptions{})
			kit.Check(t, err)
			object.Status.Pending, object.Status.Running = 12, 3
			_, err = queues.UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
			return err
		})
		rows = append(rows, queue.name+" "+queue.row)
	}
	k.expectTable(rows, "get tq")
	k.expectTable(rows, "get tq -o wide")
}

func testKubectlOutput(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.expectOutput("", "get tk")
	if _, stderr, err := k.execute("get tk"); err != nil || stderr != fmt.Sprintf("No resources found in %s namespace.\n", k.namespace) {
		t.Errorf("get tk of an empty namespace: got %q, %v", stderr, err)
	}
	k.create("Task", "one", "{command: [sleep, '1'], priority: 2}")
	k.create("Task", "two", "{command: [sleep, '2'], priority: 1}")
	k.run("label tk one app=web")

	want, err := controllerClient(t, e).Tasks(k.namespace).Get(t.Context(), "one", metav1.GetOptions{})
	kit.Check(t, err)
	for _, format := range []string{"yaml", "json"} {
		var got batch.Task
		out := k.run("get tk one --show-managed-fields -o " + format)
		kit.Check(t, yaml.UnmarshalStrict([]byte(out), &got))
		if got.APIVersion != "batch.leat.dev/v1alpha1" || got.Kind != "Task" || got.UID != want.UID || got.Spec.Command[1] != "1" ||
			len(got.ManagedFields) == 0 {
			t.Errorf("get -o %s: got\n%s", format, out)
		}
		var list struct {
			metav1.TypeMeta `json:",inline"`
			Items           []batch.Task `json:"items"`
		}
		kit.Check(t, yaml.Unmarshal([]byte(k.run("get tk -o "+format)), &list))
		if list.Kind != "List" || len(list.Items) != 2 || list.Items[1].Kind != "Task" {
			t.Errorf("get of a list -o %s: got %v", format, list)
		}
	}
	k.expectOutput("task.batch.leat.dev/one\ntask.batch.leat.dev/two", "get tk -o name")
	k.expectOutput(`["sleep","1"] default Pending`, "get tk one -o", "jsonpath={.spec.command} {.spec.queueName} {.status.phase}")
	k.expectOutput("one two", "get tk -o", "jsonpath={.items[*].metadata.name}")
	k.expectOutput("30", "get tk one -o", "go-template={{.spec.terminationGracePeriodSeconds}}")
	k.expectTable([]string{"N P", "one 2", "two 1"}, "get tk -o custom-columns=N:.metadata.name,P:.spec.priority")
	k.expectTable([]string{"NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE LABELS", "one Pending <none> <none> 0 <none> T app=web,batch.leat.dev/creator=" + batch.CreatorLabel(administrator)}, "get tk one --show-labels")
	k.expectTable([]string{"NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE APP", "one Pending <none> <none> 0 <none> T web", "two Pending <none> <none> 0 <none> T"}, "get tk -L app")
	k.expectTable([]string{"one Pending <none> <none> 0 <none> T", "two Pending <none> <none> 0 <none> T"}, "get tk --no-headers")
	k.expectTable([]string{"two Pending <none> <none> 0 <none> T", "one Pending <none> <none> 0 <none> T"}, "get tk --no-headers --sort-by=.spec.priority")
	k.expectTable([]string{"NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE", "one Pending <none> <none> 0 <none> T"}, "get tk one --subresource=status")
	k.expectFailure(1, []string{`Error from server (NotFound): tasks.batch.leat.dev "three" not found`}, "get tk three")
	k.expectOutput("", "get tk three --ignore-not-found")

	all := k.run("get tk --all-namespaces --no-headers")
	for _, name := range []string{"one", "two"} {
		if !strings.Contains(normalizeTable(all), k.namespace+" "+name+" Pending") {
			t.Errorf("get --all-namespaces: got\n%s\nwant task %s in it", all, name)
		}
	}
}

func testKubectlSelectors(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	tasks := controllerClient(t, e).Tasks(k.namespace)
	createFiveTasks(k)
	registerWorker(t, e, k.namespace, "w-aaaaa")
	bindTo(t, tasks, "t-3", "w-aaaaa")
	updateTaskStatus(t, tasks, "t-3", func(status *batch.TaskStatus) { status.Phase = batch.TaskRunning })

	for selector, want := range map[string]string{
		"-l parity=0":                        "t-0 t-2 t-4",
		"-l parity!=0":                       "t-1 t-3",
		"-l parity=2":                        "",
		"-l nothing":                         "",
		"--field-selector=metadata.name=t-2": "t-2",
		"--field-selector=spec.workerName=w-aaaaa":                             "t-3",
		"--field-selector=spec.workerName=":                                    "t-0 t-1 t-2 t-4",
		"--field-selector=spec.workerName!=w-aaaaa":                            "t-0 t-1 t-2 t-4",
		"--field-selector=spec.queueName=q-1":                                  "t-1 t-3",
		"--field-selector=status.phase=Running":                                "t-3",
		"--field-selector=status.phase!=Running":                               "t-0 t-1 t-2 t-4",
		"--field-selector=metadata.namespace=nobody":                           "",
		"-l parity=1 --field-selector=spec.queueName=q-1,status.phase=Pending": "t-1",
	} {
		k.expectOutput(want, "get tk "+selector+" -o", "jsonpath={.items[*].metadata.name}")
	}
	k.expectFailure(1, []string{
		`Error from server (BadRequest): `,
		`field label "spec.comand" is not supported by Task: use one of metadata.name, metadata.namespace, spec.queueName, spec.workerName, spec.pool, status.phase`,
	}, "get tk --field-selector=spec.comand=sleep")

	// kubectl requests pages, and each object is on one of them, in order.
	out, log, err := k.execute("get tk --chunk-size=2 -v=8 -o name")
	kit.Check(t, err)
	if out != "task.batch.leat.dev/t-0\ntask.batch.leat.dev/t-1\ntask.batch.leat.dev/t-2\ntask.batch.leat.dev/t-3\ntask.batch.leat.dev/t-4" {
		t.Errorf("get --chunk-size=2: got\n%s\nwant t-0 to t-4", out)
	}
	first, next := 0, 0
	for line := range strings.Lines(log) {
		switch {
		case !strings.Contains(line, `verb="GET"`) || !strings.Contains(line, "limit=2"):
		case strings.Contains(line, "continue="):
			next++
		default:
			first++
		}
	}
	if first != 1 || next != 2 {
		t.Errorf("got %d requests without a continue token and %d with one, want 1 and 2", first, next)
	}
}

func testKubectlWatch(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	tasks := controllerClient(t, e).Tasks(k.namespace)
	registerWorker(t, e, k.namespace, "w-aaaaa")
	k.create("Task", "one", "{command: [sleep], schedulingGates: [{name: later}]}")
	k.create("Task", "other", "{command: [sleep]}")

	all := k.start("get tk -w --output-watch-events")
	selected := k.start("get tk -w --field-selector=spec.workerName=w-aaaaa")
	named := k.start("get tk one -w --watch-only -o", "jsonpath={.spec.workerName}{\"\\n\"}", "-v=6")
	all.waitForLine("EVENT NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE")
	all.waitForLine("ADDED one SchedulingGated <none> <none> 0 <none> T")
	named.waitForWatch()

	k.run("patch tk one --type=merge -p", `{"spec": {"schedulingGates": null}}`)
	all.waitForLine("MODIFIED one Pending <none> <none> 0 <none> T")
	bindTo(t, tasks, "one", "w-aaaaa")
	all.waitForLine("MODIFIED one Pending w-aaaaa <none> 0 <none> T")
	selected.waitForLine("one Pending w-aaaaa <none> 0 <none> T")
	named.waitForLine("w-aaaaa")
	updateTaskStatus(t, tasks, "one", func(status *batch.TaskStatus) { status.Phase, status.Attempts = batch.TaskRunning, 1 })
	all.waitForLine("MODIFIED one Running w-aaaaa <none> 1 <none> T")
	selected.waitForLine("one Running w-aaaaa <none> 1 <none> T")
	kit.Check(t, tasks.Delete(t.Context(), "one", metav1.DeleteOptions{}))
	all.waitForLine("MODIFIED one Terminating w-aaaaa <none> 1 <none> T")
	kit.Check(t, tasks.Delete(t.Context(), "one", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	all.waitForLine("DELETED one Terminating w-aaaaa <none> 1 <none> T")

	// A watch with timeoutSeconds ends without an error.
	start := time.Now()
	out := k.run("get --raw", "/apis/batch.leat.dev/v1alpha1/namespaces/"+k.namespace+"/tasks?watch=true&timeoutSeconds=1")
	if took := time.Since(start); took > timeout/2 || !strings.Contains(out, `"type":"ADDED"`) || strings.Contains(out, `"type":"ERROR"`) {
		t.Errorf("watch with timeoutSeconds=1: got, after %s,\n%s", took, out)
	}
	// Leases have no watch. With a host, not even administrators have the right to it.
	want := "Error from server (Forbidden): "
	if e.Standalone() {
		want = "Error from server (MethodNotAllowed): "
	}
	k.expectFailure(1, []string{want}, "get workerleases -w")
}
