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

package task

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// runningTask returns a task that runs on worker w and has the number of worker crashes.
func runningTask(crashes int32, limit *int32) *batch.Task {
	return newTask(func(task *batch.Task) {
		task.Spec.WorkerName, task.Spec.CrashLimit = "w", limit
		task.Status.Incarnation, task.Status.Phase, task.Status.Attempts = "i", batch.TaskRunning, 3
		task.Status.WorkerCrashes, task.Status.Disruptions = crashes, crashes
		task.Status.State.Running = &batch.TaskStateRunning{StartedAt: metav1.Unix(100, 0)}
		meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
			Type: batch.TaskScheduled, Status: metav1.ConditionTrue, Reason: batch.TaskReasonBound, Message: "bound to worker w",
		})
	})
}

func TestEvict(t *testing.T) {
	for _, test := range []struct {
		name     string
		task     *batch.Task
		crashed  bool
		crashes  int32
		finished bool
	}{
		{"a drain does not count", runningTask(4, nil), false, 4, false},
		{"a crash counts", runningTask(0, nil), true, 1, false},
		{"the last but one is evicted", runningTask(3, nil), true, 4, false},
		{"the fifth fails by default", runningTask(4, nil), true, 5, true},
		{"the first fails with a limit of one", runningTask(0, ptr.To[int32](1)), true, 1, true},
		{"a raised limit is not reached", runningTask(4, ptr.To[int32](6)), true, 5, false},
		{"a limit that was lowered is passed", runningTask(4, ptr.To[int32](2)), true, 5, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := test.task.DeepCopy()
			eviction := &batch.Eviction{Reason: "WorkerLost", Message: "Worker w does not exist any more.", WorkerCrashed: test.crashed}
			if err := evict(test.task, eviction, metav1.Unix(200, 0)); err != nil {
				t.Fatal(err)
			}
			if test.task.Status.WorkerCrashes != test.crashes {
				t.Errorf("got %d crashes, want %d", test.task.Status.WorkerCrashes, test.crashes)
			}
			if Finished(test.task) != test.finished {
				t.Fatalf("got phase %s", test.task.Status.Phase)
			}
			if !test.finished {
				if test.task.Spec.WorkerName != "" || test.task.Status.Incarnation != "" || test.task.Status.Disruptions != before.Status.Disruptions+1 {
					t.Errorf("the task is still bound: %+v", test.task)
				}
				return
			}
			want := before
			want.Status.Phase, want.Status.WorkerCrashes, want.Status.CompletionTime = batch.TaskFailed, test.crashes, ptr.To(metav1.Unix(200, 0))
			want.Status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{
				ExitCode: 137, Reason: "WorkerCrashed", StartedAt: metav1.Unix(100, 0), FinishedAt: metav1.Unix(200, 0),
				Message: test.task.Status.State.Terminated.Message,
			}}
			if diff := cmp.Diff(want, test.task); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			for _, part := range []string{"worker w", "does not exist any more", "crashLimit"} {
				if message := test.task.Status.State.Terminated.Message; !strings.Contains(message, part) {
					t.Errorf("the message does not contain %q: %s", part, message)
				}
			}
			if got := StatusColumn(test.task); got != "WorkerCrashed" {
				t.Errorf("got column %q", got)
			}
		})
	}
}

func TestMessageOfACrashedTaskIsBounded(t *testing.T) {
	task := runningTask(4, nil)
	eviction := &batch.Eviction{Reason: "WorkerLost", Message: strings.Repeat("é", 16000), WorkerCrashed: true}
	if err := evict(task, eviction, metav1.Now()); err != nil {
		t.Fatal(err)
	}
	if message := task.Status.State.Terminated.Message; len(message) > 8192 || strings.ContainsRune(message, '\uFFFD') {
		t.Errorf("the message has %d bytes, or an incomplete character", len(message))
	}
}

func TestATaskThatWasNotStartedIsEvictedWithoutADisruption(t *testing.T) {
	prefetched := func(mutate ...func(*batch.Task)) *batch.Task {
		task := runningTask(0, nil)
		task.Status.Phase, task.Status.Bindings = batch.TaskPending, 1
		task.Status.State = batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: batch.TaskReasonPrefetched}}
		meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
			Type: batch.TaskReturnRequested, Status: metav1.ConditionTrue, Reason: batch.TaskReasonRebalanced,
		})
		for _, m := range mutate {
			m(task)
		}
		return task
	}
	for _, test := range []struct {
		name    string
		task    *batch.Task
		refused string
	}{
		{name: "a task of one index", task: prefetched()},
		{name: "a task of several indexes keeps them", task: prefetched(func(task *batch.Task) { task.Spec.Indexes = "0-9" })},
		{
			name: "a task that has started", task: prefetched(func(task *batch.Task) { task.Status.Phase = batch.TaskRunning }),
			refused: "the command has been started since the task was bound: the phase is Running",
		},
		{
			name: "a task that is being deleted", task: prefetched(func(task *batch.Task) { task.DeletionTimestamp = ptr.To(metav1.Now()) }),
			refused: "the task is being deleted: to delete it at once, delete it with a grace period of 0",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.task.DeepCopy()
			// A worker that is wrong about the crash does not fail a task that it has not started.
			eviction := &batch.Eviction{Reason: batch.TaskReasonRebalanced, Message: "no slot", NotStarted: true, WorkerCrashed: true}
			err := evict(test.task, eviction, metav1.Unix(200, 0))
			if test.refused != "" {
				if err == nil || err.Error() != test.refused {
					t.Errorf("got error %v, want %q", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want.Spec.WorkerName, want.Status.Incarnation, want.Status.Conditions = "", "", []metav1.Condition{}
			want.Status.State.Waiting = &batch.TaskStateWaiting{Reason: batch.TaskReasonRebalanced, Message: "no slot"}
			if diff := cmp.Diff(want, test.task); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestNoFieldsOfBindingsAndEvictionsAreManaged(t *testing.T) {
	fields := fieldpath.NewSet(fieldpath.MakePathOrDie("metadata", "labels"), fieldpath.MakePathOrDie("target", "name"))
	for name, storage := range map[string]rest.Storage{"binding": &BindingREST{}, "eviction": &EvictionREST{}} {
		t.Run(name, func(t *testing.T) {
			strategy, ok := storage.(rest.ResetFieldsFilterStrategy)
			if !ok {
				t.Fatalf("%T is no rest.ResetFieldsFilterStrategy", storage)
			}
			filter := strategy.GetResetFieldsFilter()[fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String())]
			if filter == nil {
				t.Fatalf("no filter for %s", v1alpha1.SchemeGroupVersion)
			}
			if left := filter.Filter(fields); !left.Empty() {
				t.Errorf("managers of %s are recorded", left)
			}
		})
	}
}
