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

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// fixture is a server with a client for the test and one for the scheduler.
type fixture struct {
	t    *testing.T
	ctx  context.Context
	test *testapi.Client
	api  *testapi.Client
}

func newFixture(t *testing.T) *fixture {
	server := testapi.New()
	return &fixture{t: t, ctx: t.Context(), test: server.Client(), api: server.Client()}
}

// start runs a scheduler until the test ends or stop is called.
func (f *fixture) start(options ...Option) (stop func()) {
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan error, 1)
	go func() {
		done <- New(f.api, append([]Option{WithReportDelay(10 * time.Millisecond)}, options...)...).Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	f.t.Cleanup(stop)
	return stop
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) addWorker(w *batch.Worker) {
	f.t.Helper()
	created, err := f.test.BatchV1alpha1().Workers(w.Namespace).Create(f.ctx, w.DeepCopy(), metav1.CreateOptions{})
	f.must(err)
	created.Status = validStatus(w)
	_, err = f.test.BatchV1alpha1().Workers(w.Namespace).UpdateStatus(f.ctx, created, metav1.UpdateOptions{})
	f.must(err)
}

// validStatus returns the status of a worker with what the server demands and the scheduler does not read.
func validStatus(w *batch.Worker) batch.WorkerStatus {
	status := *w.Status.DeepCopy()
	status.Capacity = status.Allocatable
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Now()
	}
	return status
}

func (f *fixture) changeWorker(name string, change func(*batch.Worker)) {
	f.t.Helper()
	w, err := f.test.BatchV1alpha1().Workers("default").Get(f.ctx, name, metav1.GetOptions{})
	f.must(err)
	change(w)
	w, err = f.test.BatchV1alpha1().Workers("default").Update(f.ctx, w, metav1.UpdateOptions{})
	f.must(err)
	change(w)
	w.Status = validStatus(w)
	_, err = f.test.BatchV1alpha1().Workers("default").UpdateStatus(f.ctx, w, metav1.UpdateOptions{})
	f.must(err)
}

func (f *fixture) addTask(task *batch.Task) {
	f.t.Helper()
	_, err := f.test.BatchV1alpha1().Tasks(task.Namespace).Create(f.ctx, task, metav1.CreateOptions{})
	f.must(err)
}

func (f *fixture) finish(name string) {
	f.t.Helper()
	task := f.task(name)
	task.Status.Phase = batch.TaskSucceeded
	_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.ctx, task, metav1.UpdateOptions{})
	f.must(err)
}

func (f *fixture) task(name string) *batch.Task {
	f.t.Helper()
	task, err := f.test.BatchV1alpha1().Tasks("default").Get(f.ctx, name, metav1.GetOptions{})
	f.must(err)
	return task
}

func (f *fixture) eventually(what string, cond func() bool) {
	f.t.Helper()
	err := wait.PollUntilContextTimeout(f.ctx, 2*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return cond(), nil })
	if err != nil {
		f.t.Fatalf("%s: not within 10 s", what)
	}
}

func (f *fixture) bound(name string) func() bool {
	return func() bool { return f.task(name).Spec.WorkerName != "" }
}

func (f *fixture) reports(name, message string) func() bool {
	return func() bool { return reportedMessage(f.task(name)) == message }
}

// atRest waits until the scheduler has sent no request for a while.
func (f *fixture) atRest() {
	f.t.Helper()
	n, since := len(f.api.Actions()), time.Now()
	f.eventually("the scheduler comes to rest", func() bool {
		if now := len(f.api.Actions()); now != n {
			n, since = now, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
}

func TestBindsToTheIncarnationSeen(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 1))
	f.addTask(newTask("a"))
	f.start()
	f.eventually("a is bound", f.bound("a"))
	task := f.task("a")
	if task.Spec.WorkerName != "w" || task.Status.Incarnation != "first" {
		t.Errorf("bound to %q, incarnation %q", task.Spec.WorkerName, task.Status.Incarnation)
	}
	w, err := f.test.BatchV1alpha1().Workers("default").Get(f.ctx, "w", metav1.GetOptions{})
	f.must(err)
	for _, a := range f.api.Actions() {
		if a.GetSubresource() == "binding" {
			b := a.(clienttesting.CreateAction).GetObject().(*batch.Binding)
			if b.UID != task.UID || b.Target.UID != w.UID {
				t.Errorf("binding has task %q and worker %q, want %q and %q", b.UID, b.Target.UID, task.UID, w.UID)
			}
			if b.ResourceVersion == "" {
				t.Error("the binding has no resource version")
			}
		}
	}
}

func TestReportsEachUnschedulableMessageOnce(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("a", 1, notReady))
	f.addWorker(newWorker("b", 1))
	f.addWorker(newWorker("c", 1))
	f.addTask(newTask("one"))
	f.addTask(newTask("two"))
	f.start()
	f.eventually("one is bound", f.bound("one"))
	f.eventually("two is bound", f.bound("two"))
	f.addTask(newTask("three"))
	f.eventually("three has the message", f.reports("three", "0/3 workers are available: 1 was not ready, 2 had no room for tasks."))
	c := meta.FindStatusCondition(f.task("three").Status.Conditions, batch.TaskScheduled)
	if c.Status != metav1.ConditionFalse || c.Reason != batch.TaskReasonUnschedulable || c.LastTransitionTime.IsZero() {
		t.Errorf("got condition %+v", c)
	}

	// Events that change nothing for the task cost no write.
	f.changeWorker("b", func(w *batch.Worker) { w.Status.RunningTasks = 1 })
	f.changeWorker("c", func(w *batch.Worker) { w.Labels = map[string]string{"some": "label"} })
	f.atRest()
	if n := f.api.Count("update", "tasks/status"); n != 1 {
		t.Errorf("%d status writes, want 1", n)
	}

	f.changeWorker("b", cordoned)
	f.eventually("three has the new message", f.reports("three", "0/3 workers are available: 1 had no room for tasks, 1 was not ready, 1 was unschedulable."))
	f.must(f.test.BatchV1alpha1().Workers("default").Delete(f.ctx, "a", metav1.DeleteOptions{}))
	f.eventually("three does not count a any more", f.reports("three", "0/2 workers are available: 1 had no room for tasks, 1 was unschedulable."))
	f.atRest()
	if n := f.api.Count("update", "tasks/status"); n != 3 {
		t.Errorf("%d status writes, want 3", n)
	}
}

func TestAllTasksOfALongQueueAreReportedInTurn(t *testing.T) {
	f := newFixture(t)
	for i := range 2*reportBatch + 1 {
		f.addTask(newTask(fmt.Sprint("t", i)))
	}
	f.start()
	f.eventually("all are reported", func() bool { return f.api.Count("update", "tasks/status") == 2*reportBatch+1 })
	f.atRest()
	if n := f.api.Count("update", "tasks/status"); n != 2*reportBatch+1 {
		t.Errorf("%d status writes for %d tasks", n, 2*reportBatch+1)
	}
}

func TestATaskThatIsBoundSoonIsNotReported(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 1))
	f.start(WithReportDelay(time.Second))
	for i := range 20 {
		f.addTask(newTask(fmt.Sprint("t", i)))
	}
	for i := range 20 {
		name := fmt.Sprint("t", i)
		f.eventually(name+" or another is bound", func() bool {
			for j := range 20 {
				if task := f.task(fmt.Sprint("t", j)); task.Spec.WorkerName != "" && task.Status.Phase == batch.TaskPending {
					f.finish(task.Name)
					return true
				}
			}
			return false
		})
	}
	if n := f.api.Count("update", "tasks/status"); n != 0 {
		t.Errorf("%d status writes, want none", n)
	}
}

func TestATaskThatFitsNowhereDoesNotHoldUpOthers(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 1))
	f.addTask(newTask("huge", requesting("cpu", "1000"), func(t *batch.Task) { t.Spec.Priority = 10 }))
	f.addTask(newTask("small"))
	f.start()
	f.eventually("small is bound", f.bound("small"))
	f.eventually("huge has the message", f.reports("huge", "0/1 workers are available: 1 had insufficient cpu, 1 had no room for tasks."))
}

func TestPlacesABlockedTaskWhenThereMayBeRoom(t *testing.T) {
	for _, tc := range []struct {
		name   string
		worker *batch.Worker
		task   *batch.Task
		event  func(f *fixture)
	}{
		{"a worker comes", nil, newTask("t"), func(f *fixture) { f.addWorker(newWorker("w2", 1)) }},
		{"a worker becomes ready", newWorker("w", 1, notReady), newTask("t"), func(f *fixture) {
			f.changeWorker("w", func(w *batch.Worker) { w.Status.Conditions[0].Status = metav1.ConditionTrue })
		}},
		{"a worker is uncordoned", newWorker("w", 1, cordoned), newTask("t"), func(f *fixture) {
			f.changeWorker("w", func(w *batch.Worker) { w.Spec.Unschedulable = false })
		}},
		{"a taint is removed", newWorker("w", 1, tainted("k", "v", batch.TaintEffectNoExecute)), newTask("t"), func(f *fixture) {
			f.changeWorker("w", func(w *batch.Worker) { w.Spec.Taints = nil })
		}},
		{"a worker is labelled", newWorker("w", 1), newTask("t", selecting("zone", "x")), func(f *fixture) {
			f.changeWorker("w", labelled("zone", "x"))
		}},
		{"a worker is upgraded", newWorker("w", 1), newTask("t", withIndexes), func(f *fixture) {
			f.changeWorker("w", featuring(batch.WorkerFeatureChunks))
		}},
		{"a worker grows", newWorker("w", 0), newTask("t"), func(f *fixture) { f.changeWorker("w", with("tasks", "1")) }},
		{"a task is finished", newWorker("w", 0), newTask("t"), func(f *fixture) {
			f.changeWorker("w", with("tasks", "1"))
			f.eventually("t is bound", f.bound("t"))
			f.addTask(newTask("u"))
			f.eventually("u waits", f.reports("u", "0/1 workers are available: 1 had no room for tasks."))
			f.finish("t")
			f.eventually("u is bound", f.bound("u"))
		}},
		{"a task is deleted", newWorker("w", 1), newTask("t", requesting("cpu", "1")), func(f *fixture) {
			zero := int64(0)
			f.addTask(newTask("u"))
			f.eventually("u is bound", f.bound("u"))
			f.changeWorker("w", with("cpu", "1"))
			f.eventually("t waits", f.reports("t", "0/1 workers are available: 1 had no room for tasks."))
			f.must(f.test.BatchV1alpha1().Tasks("default").Delete(f.ctx, "u", metav1.DeleteOptions{GracePeriodSeconds: &zero}))
		}},
		{"a toleration is added", newWorker("w", 1, tainted("k", "v", batch.TaintEffectNoSchedule)), newTask("t"), func(f *fixture) {
			task := f.task("t")
			tolerating(batch.Toleration{Operator: batch.TolerationOpExists})(task)
			_, err := f.test.BatchV1alpha1().Tasks("default").Update(f.ctx, task, metav1.UpdateOptions{})
			f.must(err)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			if tc.worker != nil {
				f.addWorker(tc.worker)
			}
			f.addTask(tc.task)
			f.start()
			f.eventually("t waits", func() bool { return reportedMessage(f.task("t")) != "" })
			f.atRest()
			if f.bound("t")() {
				t.Fatal("t is bound before the event")
			}
			tc.event(f)
			f.eventually("t is bound", f.bound("t"))
		})
	}
}

func TestIgnoresTasksThatAreNotEligible(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 10))
	f.addTask(newTask("gated", func(t *batch.Task) { t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "g"}} }))
	f.addTask(newTask("elsewhere", func(t *batch.Task) { t.Namespace = "other" }))
	f.start()
	f.addTask(newTask("plain"))
	f.eventually("plain is bound", f.bound("plain"))
	f.atRest()
	if n := f.api.Count("create", "tasks/binding"); n != 1 {
		t.Errorf("%d bindings were sent, want that of plain only", n)
	}
	elsewhere, err := f.test.BatchV1alpha1().Tasks("other").Get(f.ctx, "elsewhere", metav1.GetOptions{})
	f.must(err)
	if elsewhere.Spec.WorkerName != "" {
		t.Error("a task was bound to a worker of another namespace")
	}
	task := f.task("gated")
	task.Spec.SchedulingGates = nil
	_, err = f.test.BatchV1alpha1().Tasks("default").Update(f.ctx, task, metav1.UpdateOptions{})
	f.must(err)
	f.eventually("gated is bound once its gate is gone", f.bound("gated"))
}

func TestBindingsInFlightAreBoundedAndNeverOverfillAWorker(t *testing.T) {
	f := newFixture(t)
	const parallelism, places, tasks = 4, 10, 25
	var inFlight, most atomic.Int64
	release := make(chan struct{})
	f.api.Hook = func(verb, _, _ string) error {
		if verb != "bind" {
			return nil
		}
		n := inFlight.Add(1)
		defer inFlight.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-release
		return nil
	}
	f.addWorker(newWorker("w", places))
	for i := range tasks {
		f.addTask(newTask(fmt.Sprint("t", i)))
	}
	f.start(WithBindParallelism(parallelism))
	f.eventually("all slots are in use", func() bool { return inFlight.Load() == parallelism })
	close(release)
	f.eventually("as many are bound as there is room for", func() bool { return f.countBound() == places })
	f.atRest()
	if n := f.countBound(); n != places {
		t.Errorf("%d tasks are bound to a worker with %d places", n, places)
	}
	if n := most.Load(); n > parallelism {
		t.Errorf("%d bindings were in flight, at most %d are allowed", n, parallelism)
	}
}

func (f *fixture) countBound() int {
	list, err := f.test.BatchV1alpha1().Tasks("default").List(f.ctx, metav1.ListOptions{FieldSelector: "spec.workerName!="})
	f.must(err)
	return len(list.Items)
}

func TestOneTaskWhoseBindingFailsDoesNotHoldUpOthers(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
	}{
		{"conflict", apierrors.NewConflict(batch.Resource("tasks"), "bad", errors.New("no"))},
		{"forbidden", apierrors.NewForbidden(batch.Resource("tasks"), "bad", errors.New("no"))},
		{"internal error", apierrors.NewInternalError(errors.New("no"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			var tries atomic.Int64
			f.api.Hook = func(verb, _, name string) error {
				if verb == "bind" && name == "bad" && tries.Add(1) == 1 {
					return tc.err
				}
				return nil
			}
			f.addWorker(newWorker("w", 1))
			f.addTask(newTask("bad", func(t *batch.Task) { t.Spec.Priority = 1 }))
			f.addTask(newTask("good"))
			f.start()
			f.eventually("good gets the place", f.bound("good"))
			f.finish("good")
			f.eventually("bad is tried again", f.bound("bad"))
		})
	}
}

func TestAServerThatCannotBeReachedIsNotFloodedWithBindings(t *testing.T) {
	f := newFixture(t)
	var tries atomic.Int64
	f.api.Hook = func(verb, _, _ string) error {
		tries.Add(1)
		return errors.New("connection refused")
	}
	f.addWorker(newWorker("w", 1000))
	for i := range 500 {
		f.addTask(newTask(fmt.Sprint("t", i)))
	}
	f.start()
	f.atRest()
	if n := tries.Load(); n == 0 || n > 2*16 {
		t.Errorf("%d bindings were sent, want about as many as can be in flight", n)
	}
}

func TestAnEvictedTaskIsBoundAgain(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 1))
	f.addTask(newTask("t"))
	f.start()
	f.eventually("t is bound", f.bound("t"))
	f.changeWorker("w", cordoned)
	f.addTask(newTask("u"))
	f.eventually("the worker is seen to be cordoned", f.reports("u", "0/1 workers are available: 1 was unschedulable."))
	_, err := f.test.BatchV1alpha1().Tasks("default").Evict(f.ctx, "t", &batch.Eviction{Reason: "WorkerStopped"}, metav1.CreateOptions{})
	f.must(err)
	f.eventually("t waits", f.reports("t", "0/1 workers are available: 1 was unschedulable."))
	f.changeWorker("w", func(w *batch.Worker) { w.Status.Incarnation = "second" })
	f.must(f.test.BatchV1alpha1().Tasks("default").Delete(f.ctx, "u", metav1.DeleteOptions{}))
	f.changeWorker("w", func(w *batch.Worker) { w.Spec.Unschedulable = false })
	f.eventually("t is bound to the new incarnation", func() bool { return f.task("t").Status.Incarnation == "second" })
}

func TestARestartedSchedulerCountsWhatIsBound(t *testing.T) {
	const places = 200
	f := newFixture(t)
	f.addWorker(newWorker("w", places))
	for i := range places + 50 {
		f.addTask(newTask(fmt.Sprint("t", i)))
	}
	stop := f.start()
	f.eventually("all places are taken", func() bool { return f.countBound() == places })
	stop()
	// The workers are known well before the tasks are.
	var once sync.Once
	f.api.PrependReactor("list", "tasks", func(clienttesting.Action) (fail bool, _ k8sruntime.Object, _ error) {
		once.Do(func() { fail = true })
		return fail, nil, errors.New("not now")
	})
	f.start()
	f.eventually("the tasks are listed", func() bool { return f.api.Count("watch", "tasks") == 2 })
	f.atRest()
	if n := f.countBound(); n != places {
		t.Errorf("%d tasks are bound to a worker with %d places", n, places)
	}
}

func TestIsIdleWithoutEventsAndLeavesNothingBehind(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("w", 1))
	f.addTask(newTask("a"))
	f.addTask(newTask("b"))
	stop := f.start()
	f.eventually("b waits", func() bool { return reportedMessage(f.task("a"))+reportedMessage(f.task("b")) != "" })
	f.atRest()
	before := len(f.api.Actions())
	err := wait.PollUntilContextTimeout(f.ctx, 20*time.Millisecond, 500*time.Millisecond, false, func(context.Context) (bool, error) {
		return len(f.api.Actions()) != before, nil
	})
	if err == nil {
		t.Errorf("requests without an event: %v", f.api.Actions()[before:])
	}
	stop()
	for _, g := range strings.Split(stacks(), "\n\n") {
		if strings.Contains(g, "pkg/scheduler.(*Scheduler)") || strings.Contains(g, "client-go/tools/cache") {
			t.Errorf("a goroutine is left:\n%s", g)
		}
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
