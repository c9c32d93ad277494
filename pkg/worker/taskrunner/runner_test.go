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

package taskrunner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// newTask creates a task that is bound to worker w by the incarnation.
func newTask(t *testing.T, api *testapi.Client, incarnation string) *batch.Task {
	t.Helper()
	tasks := api.BatchV1alpha1().Tasks("default")
	_, err := tasks.Create(t.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: "default"}, Spec: batch.TaskSpec{Command: []string{"true"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tasks.Bind(t.Context(), "t", &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: "t"}, Target: batch.BindingTarget{Name: "w", Incarnation: incarnation},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	task, err := tasks.Get(t.Context(), "t", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func TestAResultWhoseResponseWasLostIsNotWrittenAgain(t *testing.T) {
	server := testapi.New()
	task := newTask(t, server.Client(), "first")
	api := server.Client()
	var once sync.Once
	api.After = func(string, string) (err error) {
		once.Do(func() { err = errors.New("connection reset") })
		return err
	}
	stored, err := newAssignment(api.BatchV1alpha1().Tasks("default"), task, NewMetrics(nil), nil).updateStatus(t.Context(), nil, task, func(s *batch.TaskStatus) {
		s.Phase = batch.TaskSucceeded
	})
	if err != nil {
		t.Fatal(err)
	}
	if stored.Status.Phase != batch.TaskSucceeded {
		t.Errorf("got phase %s", stored.Status.Phase)
	}
	// The second write fails with a conflict, which shows that the first has succeeded.
	if n := api.Count("update", "tasks/status"); n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
}

// Others change it before each of the first writes, and all the time that the worker waits before the next one.
func TestATaskThatOthersKeepChangingIsWritten(t *testing.T) {
	server := testapi.New()
	task := newTask(t, server.Client(), "first")
	tasks := server.Client().BatchV1alpha1().Tasks("default")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var n atomic.Int32
	change := func() {
		current, err := tasks.Get(ctx, "t", metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		current.Labels = map[string]string{"n": fmt.Sprint(n.Add(1))}
		if _, err := tasks.Update(ctx, current, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	}
	api := server.Client()
	writes := 0
	api.Hook = func(verb, _, _ string) error {
		if writes++; writes <= 2 {
			change()
		}
		return nil
	}
	written := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-written:
				return
			case <-time.After(10 * time.Millisecond):
				change()
			}
		}
	})
	_, err := newAssignment(api.BatchV1alpha1().Tasks("default"), task, NewMetrics(nil), nil).updateStatus(ctx, ctx.Done(), task, func(s *batch.TaskStatus) {
		s.Phase = batch.TaskRunning
	})
	close(written)
	others.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

// The server does not tell a worker that a task is gone: it forbids it all tasks that are not bound to it.
func TestARequestAboutATaskThatIsGoneIsNotRepeated(t *testing.T) {
	server := testapi.New()
	task := newTask(t, server.Client(), "first")
	api := server.Client()
	lost := make(chan struct{})
	refusals := 0
	api.Hook = func(verb, _, name string) error {
		if refusals++; refusals == 3 {
			close(lost)
		}
		return apierrors.NewForbidden(batch.Resource("tasks"), name, errors.New("no task is bound to it"))
	}
	a := newAssignment(api.BatchV1alpha1().Tasks("default"), task, NewMetrics(nil), lost)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// While the informer has the task, a refusal may be a temporary error of the server.
	if err := a.forceDelete(ctx, task); !errors.Is(err, errLost) || refusals != 3 {
		t.Errorf("got %v after %d refusals, want that the task is lost after 3", err, refusals)
	}
}

func TestAnOlderVersionOfATaskIsIgnored(t *testing.T) {
	api := testapi.New().Client()
	task := newTask(t, api, "first")
	older := task.DeepCopy()
	older.Spec.WorkerName, older.Status.Incarnation, older.ResourceVersion = "", "", "1"
	r := New(&Config{Tasks: api.BatchV1alpha1().Tasks("default"), Metrics: NewMetrics(nil)}, task, nil)
	r.observe(older)
	if r.stopReason != notStopped || r.task.Spec.WorkerName != "w" {
		t.Error("the task is taken for lost because it was not bound before")
	}
}

func TestWorkersThatShareARegistererAreCountedTogether(t *testing.T) {
	registry := prometheus.NewRegistry()
	first, second := NewMetrics(registry), NewMetrics(registry)
	first.running.Inc()
	second.running.Inc()
	NewMetrics(nil).running.Inc()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, family := range families {
		if family.GetName() == "leat_worker_running_tasks" {
			found = true
			if got := family.Metric[0].Gauge.GetValue(); got != 2 {
				t.Errorf("%v tasks run, want 2", got)
			}
		}
	}
	if !found {
		t.Error("nothing is registered")
	}
}

func TestATaskThatWasBoundAgainHasAnotherAssignment(t *testing.T) {
	api := testapi.New().Client()
	task := newTask(t, api, "first")
	r := New(&Config{Tasks: api.BatchV1alpha1().Tasks("default"), Metrics: NewMetrics(nil)}, task, nil)
	if !r.Handles(task) || !r.assignment.matches(task) {
		t.Error("the task does not belong to its own assignment")
	}
	for name, change := range map[string]func(*batch.Task){
		"evicted and bound again":  func(task *batch.Task) { task.Status.Disruptions++ },
		"returned and bound again": func(task *batch.Task) { task.Status.Bindings++ },
		"deleted and created":      func(task *batch.Task) { task.UID = "other" },
	} {
		changed := task.DeepCopy()
		change(changed)
		if r.Handles(changed) || r.assignment.matches(changed) {
			t.Errorf("a task that was %s belongs to the assignment", name)
		}
	}
	task.Status.Bindings = 0 // an older server, beside newer ones, has dropped it
	if !r.Handles(task) || !r.assignment.matches(task) {
		t.Error("a task without the number of its bindings does not belong to the assignment")
	}
}

// The slot may be granted while the runner handles the request.
func TestATaskIsReturnedOnlyIfItHasNoSlot(t *testing.T) {
	for name, test := range map[string]struct {
		before int // tasks that want the only slot, too
		want   stopReason
	}{"waiting": {1, stoppedByReturn}, "granted": {0, notStopped}} {
		t.Run(name, func(t *testing.T) {
			api := testapi.New().Client()
			task := newTask(t, api, "first")
			slots := slotsOf("tasks=1")
			for range test.before {
				slots.Enter(task)
			}
			r := New(&Config{Tasks: api.BatchV1alpha1().Tasks("default"), Metrics: NewMetrics(nil), Slots: slots}, task, nil)
			r.slot = slots.Enter(task)
			asked := task.DeepCopy()
			asked.Status.Conditions = append(asked.Status.Conditions, metav1.Condition{Type: batch.TaskReturnRequested, Status: metav1.ConditionTrue})
			asked.ResourceVersion += "0"
			r.observe(asked)
			if r.stopReason != test.want {
				t.Errorf("got stop reason %d, want %d", r.stopReason, test.want)
			}
		})
	}
}
