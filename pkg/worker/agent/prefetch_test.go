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

package agent

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/processtest"
)

// slots sets how many tasks the worker runs at a time.
func slots(n int64) func(*Options) {
	return func(o *Options) {
		o.Capacity = batch.ResourceList{batch.ResourceTasks: *resource.NewQuantity(n, resource.DecimalSI)}
		o.Prefetch = 2
	}
}

// prefetch creates a task and binds it to a worker that has no slot for it.
func (f *fixture) prefetch(w *runningWorker, name string, task *batch.Task) {
	f.Helper()
	f.create(name, task)
	f.bindPrefetched(w, name)
}

func (f *fixture) bindPrefetched(w *runningWorker, name string) {
	f.Helper()
	_, err := f.test.BatchV1alpha1().Tasks("default").Bind(f.Context(), name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: "w", Incarnation: w.incarnation}, Prefetched: true,
	}, metav1.CreateOptions{})
	f.must(err)
}

// requestReturn asks the worker of a task to return it, as the scheduler does.
func (f *fixture) requestReturn(name string) {
	f.Helper()
	task := f.get(name)
	meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
		Type: batch.TaskReturnRequested, Status: metav1.ConditionTrue, Reason: batch.TaskReasonRebalanced,
	})
	_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
	f.must(err)
}

// occupy runs a task that ends when the file is created, and waits until it runs.
func (f *fixture) occupy(w *runningWorker, name, file string) {
	f.Helper()
	f.run(w, name, script("echo >>"+f.file("started-"+name)+"; while [ ! -e "+f.file(file)+" ]; do sleep 0.01; done"))
	processtest.Eventually(f.T, name+" runs", func() bool { return f.lines("started-"+name) == 1 })
}

// awaitWaiting waits until the worker has a runner for the task.
func (f *fixture) awaitWaiting(w *runningWorker, name string) {
	f.Helper()
	processtest.Eventually(f.T, name+" waits on the worker", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.runners[name] != nil
	})
}

func isUnbound(task *batch.Task) bool { return task.Spec.WorkerName == "" }

func TestAPrefetchedTaskStartsWhenASlotIsFree(t *testing.T) {
	f := newFixture(t)
	w := f.start(slots(1), func(o *Options) { o.AnnounceDelay = time.Hour })
	f.occupy(w, "first", "go")
	for _, name := range []string{"second", "third"} {
		f.prefetch(w, name, script("echo "+name+" >>"+f.file("ran")))
		f.awaitWaiting(w, name)
	}
	waiting := f.get("second").Status
	if waiting.Phase != batch.TaskPending || waiting.State.Waiting == nil || waiting.State.Waiting.Reason != batch.TaskReasonPrefetched || waiting.Bindings != 1 {
		t.Errorf("got status %+v", waiting)
	}
	if n := w.config.Running.Load(); n != 1 {
		t.Errorf("%d tasks run, want 1", n)
	}
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	for _, name := range []string{"first", "second", "third"} {
		if s := f.awaitFinished(name).Status; s.Phase != batch.TaskSucceeded || s.Attempts != 1 || s.Disruptions != 0 {
			t.Errorf("%s: got status %+v", name, s)
		}
	}
	data, _ := os.ReadFile(f.file("ran"))
	if string(data) != "second\nthird\n" {
		t.Errorf("the order was %q", data)
	}
	if n := w.api.Count("update", "tasks/status"); n != 3 {
		t.Errorf("%d status writes, want one for each task", n)
	}
}

// The next task starts while the worker waits for the response to the result of the last one.
func TestAPrefetchedTaskDoesNotWaitForTheResultOfAnother(t *testing.T) {
	f := newFixture(t)
	api := f.server.Client()
	goOn := make(chan struct{})
	api.Hook = func(verb, _, name string) error {
		if verb == "updateStatus" && name == "first" {
			<-goOn
		}
		return nil
	}
	w := f.startWith(api, slots(1), func(o *Options) { o.AnnounceDelay = time.Hour })
	f.occupy(w, "first", "go")
	f.prefetch(w, "second", script("exit 0"))
	f.awaitWaiting(w, "second")
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	f.awaitFinished("second")
	if s := f.get("first").Status; s.Phase.Finished() {
		t.Errorf("the result was stored: got phase %s", s.Phase)
	}
	close(goOn)
	f.awaitFinished("first")
}

// runners returns the names of the tasks that the worker has.
func (f *fixture) runners(w *runningWorker) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.runners {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestAPrefetchedTaskIsReturnedOnRequest(t *testing.T) {
	f := newFixture(t)
	w := f.start(slots(1))
	f.occupy(w, "first", "go")
	f.prefetch(w, "second", script("echo >>"+f.file("ran")))
	f.awaitWaiting(w, "second")
	f.requestReturn("second")
	s := f.await("second", "is returned", isUnbound).Status
	if s.Phase != batch.TaskPending || s.Disruptions != 0 || s.Attempts != 0 || s.WorkerCrashes != 0 || s.Bindings != 1 ||
		s.State.Waiting == nil || s.State.Waiting.Reason != batch.TaskReasonRebalanced {
		t.Errorf("got status %+v", s)
	}
	for _, condition := range []string{batch.DisruptionTarget, batch.TaskReturnRequested, batch.TaskScheduled} {
		if meta.FindStatusCondition(s.Conditions, condition) != nil {
			t.Errorf("the task has the condition %s", condition)
		}
	}
	// It may be bound to the same process again, which then has another assignment.
	f.bindPrefetched(w, "second")
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	if s := f.awaitFinished("second").Status; s.Bindings != 2 || s.Attempts != 1 || f.lines("ran") != 1 {
		t.Errorf("got status %+v after %d starts", s, f.lines("ran"))
	}
}

func TestATaskThatHasStartedIsNotReturned(t *testing.T) {
	f := newFixture(t)
	w := f.start(slots(1), func(o *Options) { o.AnnounceDelay = time.Hour })
	f.occupy(w, "first", "go")
	if s := f.get("first").Status; s.Phase != batch.TaskPending {
		t.Fatalf("the start is reported: got phase %s", s.Phase)
	}
	f.requestReturn("first") // the scheduler cannot know that it has started
	f.prefetch(w, "second", script("exit 0"))
	f.awaitWaiting(w, "second") // and so the worker has seen the request
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	s := f.awaitFinished("first").Status
	if s.Phase != batch.TaskSucceeded || s.Attempts != 1 || s.Bindings != 1 || f.lines("started-first") != 1 {
		t.Errorf("got status %+v after %d starts", s, f.lines("started-first"))
	}
	if meta.FindStatusCondition(s.Conditions, batch.TaskReturnRequested) != nil {
		t.Error("the finished task has the request")
	}
	f.awaitFinished("second")
}

func TestTasksThatWaitForASlotWhen(t *testing.T) {
	for _, tc := range []struct {
		name  string
		event func(f *fixture, w *runningWorker)
		check func(f *fixture)
	}{
		{
			"their worker stops", func(f *fixture, w *runningWorker) { f.must(w.stop()) },
			func(f *fixture) {
				s := f.await("second", "is returned", isUnbound).Status
				if s.Disruptions != 0 || s.State.Waiting == nil || s.State.Waiting.Reason != "WorkerStopped" {
					f.Errorf("got status %+v", s)
				}
			},
		},
		{
			"they are deleted", func(f *fixture, w *runningWorker) { f.delete("second", nil) },
			func(f *fixture) { f.awaitGone("second") },
		},
		{
			"they are evicted", func(f *fixture, w *runningWorker) { f.evict("second") },
			func(f *fixture) {
				// Nobody but the worker knows that they have not started.
				if s := f.get("second").Status; s.Disruptions != 1 || s.Attempts != 0 {
					f.Errorf("got status %+v", s)
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			w := f.start(slots(1))
			f.occupy(w, "first", "go")
			f.prefetch(w, "second", script("echo >>"+f.file("ran")))
			f.awaitWaiting(w, "second")
			tc.event(f, w)
			tc.check(f)
			f.must(os.WriteFile(f.file("go"), nil, 0o644))
			processtest.Eventually(t, "the worker has no tasks", func() bool {
				select {
				case <-w.done:
					return true
				default:
					return len(f.runners(w)) == 0
				}
			})
			if f.lines("ran") != 0 {
				t.Error("the task has started")
			}
		})
	}
}

func TestPrefetchLimitIsPublished(t *testing.T) {
	f := newFixture(t)
	w := f.start(slots(3))
	if got := f.worker().Status.PrefetchLimit; got != 6 {
		t.Errorf("got limit %d, want 6", got)
	}
	// A worker that is short of a resource keeps no tasks from others.
	w.registration.pressure.RecordFailure(unix.EMFILE, 2)
	processtest.Eventually(t, "the limit is 0", func() bool { return f.worker().Status.PrefetchLimit == 0 })
}
