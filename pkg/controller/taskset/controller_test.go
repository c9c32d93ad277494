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

package taskset

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// startWorld returns a world with a set whose first tasks are created.
func startWorld(t *testing.T, spec batch.TaskSetSpec) *world {
	w := newWorld(t)
	w.create(spec)
	w.syncUntilIdle()
	return w
}

func TestConsecutiveFailuresDelayTheNextTask(t *testing.T) {
	w := startWorld(t, newSpec(completions(3), parallelism(1), backoffLimit(100)))
	started := func(index int, after time.Duration) {
		t.Helper()
		w.advance(after - 2*time.Second)
		w.expectActive()
		w.advance(3 * time.Second)
		w.expectActive(index)
	}
	for _, delay := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600} {
		w.end(1, 0)
		started(0, delay*time.Second)
	}
	w.end(0, 0)
	w.expectActive(1)
	w.advance(2 * time.Second)
	w.end(1, 1)
	started(1, 10*time.Second)
}

func TestAFailureFollowedByASuccessDelaysNothing(t *testing.T) {
	w := startWorld(t, newSpec(completions(9), parallelism(2)))
	w.end(1, 1)
	w.end(0, 0)
	w.expectActive(1, 2)
}

func TestAFailureIsCountedAfterItsTaskIsDeleted(t *testing.T) {
	w := startWorld(t, newSpec(completions(3), parallelism(1), perIndex(5)))
	w.end(1, 0)
	w.expect(wantStatus{failed: 1, indexFailures: "0:1", started: true})
	w.advance(11 * time.Second)
	w.end(1, 0)
	// The status is not written, the next task is created, and a user deletes the failed task.
	w.inject = func(verb, resource string) (before, after error) {
		if resource == "tasksets/status" {
			before = apierrors.NewInternalError(errors.New("internal"))
		}
		return before, nil
	}
	w.deliver(len(w.events))
	w.now = w.now.Add(25 * time.Second)
	for range 3 {
		_ = w.reconcile()
		w.deliver(len(w.events))
	}
	w.expectCreated(0, 2)
	for _, task := range w.tasks {
		if task.Status.Phase == batch.TaskFailed {
			w.removeTask(task)
		}
	}
	w.inject = nil
	w.startController()
	w.expect(wantStatus{active: 1, failed: 2, indexFailures: "0:2", started: true})
}

func (w *world) expectCreated(index, failures int) {
	w.t.Helper()
	if w.created[creation{index, failures}] != 1 {
		w.t.Fatalf("the tasks created for index %d and others are %v", index, w.created)
	}
}

func TestIndexesWithABackoffLimitBackOffIndependently(t *testing.T) {
	w := startWorld(t, newSpec(completions(5), parallelism(2), perIndex(9)))
	w.end(1, 0)
	w.expectActive(1) // An index in backoff counts towards the parallelism.
	w.end(0, 1)
	w.expectActive(2)
	w.advance(11 * time.Second)
	w.expectActive(0, 2)
	w.end(1, 0)
	w.advance(11 * time.Second)
	w.expectActive(2)
	w.advance(10 * time.Second)
	w.expectActive(0, 2)
}

func TestScaling(t *testing.T) {
	w := startWorld(t, newSpec(completions(10), parallelism(4)))
	w.run(0, 3)
	w.syncUntilIdle()
	scale := func(n int32) {
		w.change(func(s *batch.TaskSet) { s.Spec.Parallelism = &n })
		w.syncUntilIdle()
	}
	// Pending tasks are deleted first, the highest index first.
	scale(3)
	w.expectActive(0, 1, 3)
	scale(2)
	w.expectActive(0, 3)
	scale(1)
	w.expectActive(0)
	w.endTask(w.task(3), 143)
	scale(3)
	w.expectActive(0, 1, 2)
	scale(0)
	w.expectActive()
	w.endTask(w.task(0), 143)
	scale(2)
	w.expectActive(0, 1)
	w.expect(wantStatus{active: 2, started: true})
}

func TestElasticSetsChangeTheirCompletions(t *testing.T) {
	w := startWorld(t, newSpec(completions(3), parallelism(3), indexed))
	scale := func(n int32) {
		w.change(func(s *batch.TaskSet) { s.Spec.Parallelism, s.Spec.Completions = &n, &n })
		w.syncUntilIdle()
	}
	w.end(0, 2)
	w.expect(wantStatus{active: 2, succeeded: 1, completed: "2", started: true})
	scale(5)
	w.expectActive(0, 1, 3, 4)
	w.end(1, 4)
	w.advance(statusWriteInterval)
	scale(2)
	w.expectActive(0, 1)
	w.expect(wantStatus{active: 2, failed: 1, started: true})
	w.end(0, 0, 1)
	w.expect(wantStatus{conditions: reached, succeeded: 2, failed: 1, completed: "0,1", started: true, completionTimeSet: true})
}

// TestWaitingTasksFollowTheQueueAndPriorityOfTheirSet changes both before a task has started.
func TestWaitingTasksFollowTheQueueAndPriorityOfTheirSet(t *testing.T) {
	orders := func(w *world) map[int]state.QueueOrder {
		found := map[int]state.QueueOrder{}
		for _, task := range w.tasks {
			if task.DeletionTimestamp == nil {
				found[firstIndex(task)] = state.QueueOrderOf(&task.Spec)
			}
		}
		return found
	}
	expect := func(t *testing.T, w *world, want map[int]state.QueueOrder) {
		t.Helper()
		if got := orders(w); !maps.Equal(got, want) {
			t.Errorf("the queues and priorities are %v, want %v", got, want)
		}
	}
	change := func(queue string, priority int32) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) { set.Spec.QueueName, set.Spec.Template.Spec.Priority = queue, priority }
	}
	plain := state.QueueOrder{Queue: "default", Priority: 0}

	t.Run("all waiting tasks", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(9), parallelism(2)))
		expect(t, w, map[int]state.QueueOrder{0: plain, 1: plain})
		w.change(change("default", 5))
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: {Queue: "default", Priority: 5}, 1: {Queue: "default", Priority: 5}})
		w.change(change("other", 5))
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: {Queue: "other", Priority: 5}, 1: {Queue: "other", Priority: 5}})
		w.expect(wantStatus{active: 2, started: true})
	})
	t.Run("after the controller was down", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(9), parallelism(2)))
		w.change(change("other", 5))
		w.startController()
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: {Queue: "other", Priority: 5}, 1: {Queue: "other", Priority: 5}})
	})
	t.Run("not one that is bound", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(9), parallelism(2)))
		w.change(change("other", 5))
		w.deliver(len(w.events))
		task := w.task(0)
		task.Spec.WorkerName = "worker"
		w.putTask(task) // The controller has not observed this yet.
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: plain, 1: {Queue: "other", Priority: 5}})
	})
	t.Run("as far as webhooks allow", func(t *testing.T) {
		w := newWorld(t)
		w.admit = func(task *batch.Task) { task.Spec.Priority = 77 }
		w.create(newSpec(completions(9), parallelism(2)))
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: {Queue: "default", Priority: 77}, 1: {Queue: "default", Priority: 77}})
		if n := w.requests["create tasks"]; n != 2 {
			t.Errorf("%d tasks were created, want 2", n)
		}
		w.change(change("other", 5))
		w.syncUntilIdle()
		expect(t, w, map[int]state.QueueOrder{0: {Queue: "other", Priority: 77}, 1: {Queue: "other", Priority: 77}})
	})
	t.Run("not once a task runs", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(9), parallelism(2)))
		w.run(0)
		w.advance(statusWriteInterval)
		for _, refused := range []func(*batch.TaskSet){change("other", 0), change("default", 5)} {
			if err := w.tryChange(refused); !apierrors.IsInvalid(err) {
				t.Errorf("the update returned %v, want Invalid", err)
			}
		}
	})
}

// TestOnlyDuplicatesAreDeleted creates a second task of an index.
func TestOnlyDuplicatesAreDeleted(t *testing.T) {
	w := startWorld(t, newSpec(completions(9), parallelism(3)))
	duplicate := w.task(0)
	duplicate.Name, duplicate.UID = "duplicate", "duplicate"
	w.putTask(duplicate)
	w.expectActive(0, 1, 2)
	if w.requests["delete tasks"] != 1 || w.requests["create tasks"] != 3 {
		t.Errorf("the requests are %v", w.requests)
	}
}

// TestLongDeadlinesDoNotOverflow uses the longest deadline that the server accepts, and longer ones that may be stored.
func TestLongDeadlinesDoNotOverflow(t *testing.T) {
	for _, seconds := range []int64{math.MaxInt32, math.MaxInt32 + 1, 9_223_372_036, 9_223_372_037, math.MaxInt64} {
		w := startWorld(t, newSpec(completions(2)))
		set := w.set().DeepCopy()
		set.Spec.ActiveDeadlineSeconds = &seconds
		w.putSet(set)
		w.advance(1000 * time.Hour)
		w.expect(wantStatus{active: 1, started: true})
	}
}

// TestElasticSetsFinishAfterTwoQuickUpdates shrinks a set and changes its parallelism before the controller writes the
// status.
func TestElasticSetsFinishAfterTwoQuickUpdates(t *testing.T) {
	w := startWorld(t, newSpec(completions(8), parallelism(8), indexed))
	w.end(0, 2, 3, 4, 5, 6, 7)
	w.expect(wantStatus{active: 2, succeeded: 6, completed: "2-7", started: true})
	w.change(func(s *batch.TaskSet) { s.Spec.Parallelism, s.Spec.Completions = ptr.To[int32](2), ptr.To[int32](2) })
	w.change(func(s *batch.TaskSet) { s.Spec.Parallelism = ptr.To[int32](1) })
	w.expect(wantStatus{active: 1, started: true})
	w.end(0, 0)
	w.syncUntilIdle()
	w.end(0, 1)
	w.expect(wantStatus{conditions: reached, succeeded: 2, completed: "0,1", started: true, completionTimeSet: true})
}

func TestTasksOfASet(t *testing.T) {
	spec := newSpec(completions(20), parallelism(12), indexed, backoffLimit(100))
	spec.QueueName = "q"
	spec.Template = batch.TaskTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"note": "mine"}},
		Spec: batch.TaskSpec{
			Command: []string{"true"}, TTLSecondsAfterFinished: ptr.To[int32](0),
			Env: []batch.EnvVar{{Name: "FILE", Value: "in-$(TASK_INDEX)"}, {Name: "JOB_COMPLETION_INDEX", Value: "own"}},
		},
	}
	w := startWorld(t, spec)
	w.end(1, 11)
	w.advance(11 * time.Second)
	task, set := w.task(11), w.set()
	if !strings.HasPrefix(task.Name, "set-11-") || len(task.Name) != len("set-11-abcde") {
		t.Errorf("the name is %q", task.Name)
	}
	wantMeta := metav1.ObjectMeta{
		Name: task.Name, Namespace: testNamespace, UID: task.UID, ResourceVersion: task.ResourceVersion, CreationTimestamp: task.CreationTimestamp,
		Generation: 1,
		Labels: map[string]string{
			"batch.leat.dev/controller-uid": string(set.UID), "batch.leat.dev/taskset-name": "set", "batch.leat.dev/completion-index": "11",
		},
		Annotations: map[string]string{"note": "mine", "batch.leat.dev/index-failure-count": "1"},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "batch.leat.dev/v1alpha1", Kind: "TaskSet", Name: "set", UID: set.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}},
	}
	if diff := cmp.Diff(wantMeta, task.ObjectMeta); diff != "" {
		t.Errorf("metadata: want -, got +:\n%s", diff)
	}
	wantSpec := batch.TaskSpec{
		QueueName: "q", Command: []string{"true"},
		Env: []batch.EnvVar{{Name: "TASK_INDEX", Value: "11"}, {Name: "FILE", Value: "in-$(TASK_INDEX)"}, {Name: "JOB_COMPLETION_INDEX", Value: "own"}},
	}
	wantSpec.BackoffLimit, wantSpec.TerminationGracePeriodSeconds = task.Spec.BackoffLimit, task.Spec.TerminationGracePeriodSeconds
	wantSpec.CrashLimit = task.Spec.CrashLimit
	if diff := cmp.Diff(wantSpec, task.Spec); diff != "" {
		t.Errorf("spec: want -, got +:\n%s", diff)
	}
	if template := w.set().Spec.Template; len(template.Spec.Env) != 2 || len(template.Annotations) != 1 {
		t.Errorf("the template has changed: %+v", template)
	}
}

func TestTasksOfASetWithItems(t *testing.T) {
	spec := newSpec(completions(3), parallelism(3), indexed)
	spec.Items = []string{"a b", "", "$(HOME) $$5 $"}
	spec.Template.Spec.Env = []batch.EnvVar{{Name: "TASK_INDEX", Value: "$(TASK_ITEM)"}}
	w := startWorld(t, spec)
	for index, want := range []string{"a b", "", "$$(HOME) $$$$5 $$"} {
		env := []batch.EnvVar{
			{Name: "TASK_ITEM", Value: want}, {Name: "JOB_COMPLETION_INDEX", Value: strconv.Itoa(index)}, {Name: "TASK_INDEX", Value: "$(TASK_ITEM)"},
		}
		if diff := cmp.Diff(env, w.task(index).Spec.Env); diff != "" {
			t.Errorf("index %d: want -, got +:\n%s", index, diff)
		}
	}
}

func TestCountedTasksAreDeleted(t *testing.T) {
	w := startWorld(t, newSpec(completions(300), parallelism(150), backoffLimit(1000)))
	w.advance(time.Second) // until the controller stops learning how long the commands run
	for index := range 150 {
		code := int32(0)
		if index < 120 {
			code = 1
		}
		w.end(code, index)
		if index%10 == 9 {
			w.now = w.now.Add(time.Second)
		}
	}
	w.advance(5 * time.Second)
	if got := len(w.phase(batch.TaskSucceeded)); got != 0 {
		t.Errorf("%d succeeded tasks are left", got)
	}
	failed := w.phase(batch.TaskFailed)
	if len(failed) != state.MaxRetainedFailures || failed[0] != 20 {
		t.Errorf("%d failed tasks are retained, the first of index %d", len(failed), failed[0])
	}
	w.advance(time.Hour)
	w.end(0, 50)
	w.advance(2 * time.Second)
	if failed := w.phase(batch.TaskFailed); slices.Contains(failed, 50) || len(failed) != state.MaxRetainedFailures-1 {
		t.Errorf("the failed tasks of %v are retained after index 50 has succeeded", failed)
	}
}

func TestFailedTasksOfAFinishedSetAreRetained(t *testing.T) {
	w := startWorld(t, newSpec(completions(3), parallelism(3), perIndex(0)))
	w.end(0, 0, 2)
	w.end(1, 1)
	w.expect(wantStatus{conditions: failedFor("FailedIndexes"), succeeded: 2, failed: 1, completed: "0,2", failedIndexes: "1", started: true})
	for range 2 {
		if len(w.tasks) != 1 || !slices.Equal(w.phase(batch.TaskFailed), []int{1}) {
			t.Errorf("the tasks left are %v, want the failed one", w.tasks)
		}
		w.startController()
		w.advance(time.Hour)
	}
}

func TestStatusIsWrittenOnceASecond(t *testing.T) {
	w := startWorld(t, newSpec(completions(1000), parallelism(10)))
	before := w.requests["update tasksets/status"]
	for range 100 { // Each iteration takes 100 ms.
		index := w.active()[0]
		w.run(index)
		w.syncUntilIdle()
		w.end(0, index)
		w.advance(100 * time.Millisecond)
	}
	w.advance(2 * time.Second)
	if writes := w.requests["update tasksets/status"] - before; writes < 9 || writes > 12 {
		t.Errorf("%d writes of the status in ten seconds", writes)
	}
	if w.set().Status.Succeeded != 100 {
		t.Errorf("%d tasks have succeeded", w.set().Status.Succeeded)
	}
	before = w.requests["update tasksets/status"]
	w.advance(time.Hour)
	w.change(func(s *batch.TaskSet) { s.Annotations = map[string]string{"x": "y"} })
	w.advance(time.Hour)
	if writes := w.requests["update tasksets/status"] - before; writes != 0 {
		t.Errorf("%d writes of an unchanged status", writes)
	}
}

func TestOneEventForEachTransition(t *testing.T) {
	w := startWorld(t, newSpec(completions(40), parallelism(4), suspended))
	w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
	w.syncUntilIdle()
	for range 40 {
		w.end(0, w.active()[0])
		w.advance(time.Second)
	}
	want := []string{"Normal Suspended: TaskSet suspended", "Normal Resumed: TaskSet resumed", "Normal Completed: TaskSet completed"}
	if diff := cmp.Diff(want, w.recorder.seen); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	w = startWorld(t, newSpec(backoffLimit(0)))
	w.end(1, 0)
	w.advance(time.Hour)
	want = []string{"Warning BackoffLimitExceeded: TaskSet has reached the specified backoff limit"}
	if diff := cmp.Diff(want, w.recorder.seen); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestFailedCreationsAreReportedAndRetried(t *testing.T) {
	resource := batch.Resource("tasks")
	for name, test := range map[string]struct {
		err  error
		want string
		// least and most are the attempts in a minute.
		least, most int
	}{
		"quota":      {apierrors.NewForbidden(resource, "x", errors.New("exceeded quota: small")), "exceeded quota: small", 3, 9},
		"full queue": {apierrors.NewTooManyRequests("queue default is full", 3), "queue default is full", 18, 21},
		"server":     {apierrors.NewInternalError(errors.New("internal")), "internal", 3, 9},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			room, attempts := 3, 0
			w.inject = func(verb, resource string) (before, after error) {
				if verb != "create" {
					return nil, nil
				}
				if attempts++; room == 0 {
					return test.err, nil
				}
				room--
				return nil, nil
			}
			w.create(newSpec(completions(20), parallelism(10)))
			w.advance(2 * time.Second)
			w.expect(wantStatus{conditions: []string{"ReplicaFailure/FailedCreate"}, active: 3, started: true})
			if message := w.conditionMessage(batch.TaskSetReplicaFailure); !strings.Contains(message, test.want) {
				t.Errorf("the message is %q", message)
			}
			attempts = 0
			w.advance(time.Minute)
			if attempts < test.least || attempts > test.most {
				t.Errorf("%d attempts within a minute", attempts)
			}
			room = 1000
			w.advance(createBackoffMax)
			w.expect(wantStatus{active: 10, started: true})
			if len(w.recorder.seen) != 1 || !strings.HasPrefix(w.recorder.seen[0], "Warning FailedCreate: ") {
				t.Errorf("Events: %q", w.recorder.seen)
			}
		})
	}
}

func TestAStatusThatIsTooLargeIsReported(t *testing.T) {
	w := newWorld(t)
	w.inject = func(verb, resource string) (before, after error) {
		if verb == "update" && resource == "tasksets/status" {
			return apierrors.NewRequestEntityTooLargeError("the object does not fit into etcd"), nil
		}
		return nil, nil
	}
	w.create(newSpec(completions(9)))
	w.deliver(len(w.events))
	if err := w.reconcile(); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("the sync returned %v", err)
	}
	if len(w.recorder.seen) != 1 || !strings.HasPrefix(w.recorder.seen[0], "Warning StatusTooLarge: The status cannot be stored: ") {
		t.Errorf("Events: %q", w.recorder.seen)
	}
}

func TestAForeignTaskOfThatNameIsReported(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(2), parallelism(2)))
	name := batch.NewTask(w.set(), 1, 0).Name
	w.putTask(&batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: name, UID: "foreign"}})
	w.advance(2 * time.Second)
	if message := w.conditionMessage(batch.TaskSetReplicaFailure); !strings.Contains(message, name+" exists and is not controlled by this task set: delete it") {
		t.Errorf("the message is %q", message)
	}
	w.removeTask(w.tasks[name])
	w.advance(createBackoffMax)
	w.expectActive(0, 1)
}

func TestTimeToLive(t *testing.T) {
	ttl := func(seconds int32) specChange {
		return func(s *batch.TaskSetSpec) { s.TTLSecondsAfterFinished = &seconds }
	}
	end := func(w *world) {
		w.end(0, 0)
		w.end(1, 1)
		w.syncUntilIdle()
	}
	t.Run("ends on time", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(2), parallelism(2), perIndex(0), ttl(100)))
		w.advance(time.Hour)
		end(w)
		w.advance(98 * time.Second)
		if w.set() == nil || w.set().DeletionTimestamp != nil {
			t.Fatal("the set was deleted early")
		}
		w.advance(3 * time.Second)
		if w.set().DeletionTimestamp == nil || !slices.Contains(w.set().Finalizers, metav1.FinalizerDeleteDependents) {
			t.Errorf("the set is not deleted with its tasks: %+v", w.set().ObjectMeta)
		}
	})
	t.Run("zero deletes at once", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(2), parallelism(2), perIndex(0), ttl(0)))
		end(w)
		w.syncUntilIdle()
		if w.set().DeletionTimestamp == nil {
			t.Error("the set still exists")
		}
	})
	t.Run("can be extended until it ends", func(t *testing.T) {
		w := startWorld(t, newSpec(completions(2), parallelism(2), perIndex(0), ttl(100)))
		end(w)
		w.advance(99 * time.Second)
		w.change(func(s *batch.TaskSet) { s.Spec.TTLSecondsAfterFinished = ptr.To[int32](1000) })
		w.now = w.now.Add(10 * time.Second)
		// The controller has not observed the extension.
		if err := w.reconcile(); err != nil || w.set().DeletionTimestamp != nil {
			t.Errorf("the set is deleted, or the sync failed: %v", err)
		}
		w.advance(1000 * time.Second)
		if w.set().DeletionTimestamp == nil {
			t.Error("the set still exists")
		}
	})
}

func TestDeletionOfASet(t *testing.T) {
	start := func(t *testing.T, collect bool) *world {
		w := newWorld(t)
		w.collect = collect
		w.startController()
		w.create(newSpec(completions(9), parallelism(3)))
		w.syncUntilIdle()
		w.run(0)
		w.end(0, 1)
		w.syncUntilIdle()
		return w
	}
	gone := func(w *world) {
		w.events = append(w.events, event{oldSet: w.set()})
		delete(w.sets, testSet)
		w.advance(10 * time.Second)
	}
	t.Run("in the background", func(t *testing.T) {
		w := start(t, true)
		gone(w)
		w.expectActive()
		w.endTask(w.task(0), 143)
		w.advance(time.Minute)
		if len(w.tasks) > 0 || w.c.store.Len() > 0 {
			t.Errorf("%v are left, and the store has %d sets", w.tasks, w.c.store.Len())
		}
	})
	t.Run("while there was no controller", func(t *testing.T) {
		w := start(t, true)
		delete(w.sets, testSet)
		w.startController()
		w.advance(time.Minute)
		w.expectActive()
	})
	t.Run("and another set with its name", func(t *testing.T) {
		w := start(t, true)
		gone(w)
		w.create(newSpec(completions(9), parallelism(2)))
		w.expectActive(0, 1)
		w.endTask(w.tasks[w.phaseName(batch.TaskRunning)], 143)
		w.expectActive(0, 1)
		w.expect(wantStatus{active: 2, started: true})
	})
	t.Run("in the foreground", func(t *testing.T) {
		w := start(t, true)
		if err := w.deleteSet(testSet, metav1.DeletePropagationForeground); err != nil {
			t.Fatal(err)
		}
		w.advance(time.Minute)
		w.expectActive()
		if w.set() == nil {
			t.Fatal("the set was deleted before its last task")
		}
		w.endTask(w.task(0), 143)
		w.advance(time.Minute)
		if len(w.sets) > 0 || len(w.tasks) > 0 {
			t.Errorf("objects left: %v, %v", w.sets, w.tasks)
		}
	})
	t.Run("with its tasks orphaned", func(t *testing.T) {
		w := start(t, true)
		if err := w.deleteSet(testSet, metav1.DeletePropagationOrphan); err != nil {
			t.Fatal(err)
		}
		w.advance(time.Minute)
		if len(w.sets) > 0 {
			t.Error("the set still exists")
		}
		w.expectActive(0, 2, 3)
		for name, task := range w.tasks {
			if len(task.OwnerReferences) > 0 {
				t.Errorf("task %s has an owner", name)
			}
		}
	})
	t.Run("with a garbage collector", func(t *testing.T) {
		for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
			w := start(t, false)
			if err := w.deleteSet(testSet, policy); err != nil {
				t.Fatal(err)
			}
			w.advance(time.Minute)
			w.expectActive(0, 2, 3)
			if len(w.set().Finalizers) != 1 {
				t.Errorf("finalizers: %v", w.set().Finalizers)
			}
		}
		w := start(t, false)
		gone(w)
		w.expectActive(0, 2, 3)
	})
}

// phaseName returns the name of a task in that phase.
func (w *world) phaseName(phase batch.TaskPhase) string {
	for name, task := range w.tasks {
		if task.Status.Phase == phase {
			return name
		}
	}
	return ""
}

func TestAdoption(t *testing.T) {
	w := startWorld(t, newSpec(completions(9), parallelism(3)))
	disown := func(index int) string {
		task := w.task(index)
		task.OwnerReferences = nil
		w.putTask(task)
		return task.Name
	}
	t.Run("of a matching task without a controller", func(t *testing.T) {
		name := disown(1)
		w.syncUntilIdle()
		if !metav1.IsControlledBy(w.tasks[name], w.set()) {
			t.Error("the task is not adopted")
		}
		w.expectActive(0, 1, 2)
	})
	t.Run("not of a task without an index", func(t *testing.T) {
		task := w.task(1)
		task.Name, task.UID, task.OwnerReferences = "no-index", "no-index", nil
		delete(task.Labels, batch.LabelCompletionIndex)
		w.putTask(task)
		w.syncUntilIdle()
		if len(w.tasks["no-index"].OwnerReferences) > 0 {
			t.Error("the task is adopted")
		}
		w.removeTask(w.tasks["no-index"])
	})
	t.Run("not of a task with another controller", func(t *testing.T) {
		task := w.task(1)
		task.Name, task.UID = "anothers", "anothers"
		task.OwnerReferences = []metav1.OwnerReference{{APIVersion: "x/v1", Kind: "X", Name: "x", UID: "x", Controller: ptr.To(true)}}
		w.putTask(task)
		w.syncUntilIdle()
		if len(w.tasks["anothers"].OwnerReferences) != 1 {
			t.Error("the task is adopted")
		}
		w.removeTask(w.tasks["anothers"])
	})
	t.Run("not by a set that is being deleted", func(t *testing.T) {
		if err := w.deleteSet(testSet, metav1.DeletePropagationOrphan); err != nil {
			t.Fatal(err)
		}
		name := disown(2)
		w.deliver(0)
		for range 3 {
			if err := w.reconcile(); err != nil {
				t.Fatal(err)
			}
		}
		w.syncUntilIdle()
		if len(w.tasks[name].OwnerReferences) > 0 {
			t.Error("the task is adopted")
		}
	})
}

func TestTasksThatNoLongerMatchAreReleased(t *testing.T) {
	w := startWorld(t, newSpec(completions(9), parallelism(2)))
	task := w.task(1)
	task.Labels[batch.LabelControllerUID] = "another"
	w.putTask(task)
	w.syncUntilIdle()
	if len(w.tasks[task.Name].OwnerReferences) > 0 {
		t.Error("the task is not released")
	}
}

func TestDeletedTasksAreReplaced(t *testing.T) {
	w := startWorld(t, newSpec(completions(4), parallelism(3), backoffLimit(0)))
	w.run(0)
	w.deleteTask(w.task(0)) // terminates gracefully, and fails
	w.deleteTask(w.task(1)) // is deleted at once
	w.expectActive(1, 2)
	w.endTask(w.task(0), 143)
	w.expectActive(0, 1, 2)
	w.expect(wantStatus{active: 3, started: true})
	if n := w.created[creation{0, 0}]; n != 2 {
		t.Errorf("index 0 was created %d times", n)
	}
}

func TestStatusWrittenByAnotherClientIsUsed(t *testing.T) {
	w := startWorld(t, newSpec(completions(9), parallelism(2)))
	w.changeStatus(func(s *batch.TaskSetStatus) { s.CompletedIndexes, s.Succeeded = "0-4", 5 })
	w.expectActive(5, 6)
	w.expect(wantStatus{active: 2, succeeded: 5, completed: "0-4", started: true})
}

func TestLostResponsesAreHarmless(t *testing.T) {
	w := newWorld(t)
	lost := 0
	w.inject = func(verb, _ string) (before, after error) {
		if verb == "get" || lost > 20 {
			return nil, nil
		}
		lost++
		return nil, apierrors.NewTimeoutError("the response was lost", 0)
	}
	w.create(newSpec(completions(6), parallelism(3)))
	for step := 0; state.FinishedCondition(w.set()) == nil && step < 1000; step++ {
		w.deliver(len(w.events))
		_ = w.reconcile()
		w.now = w.now.Add(time.Second)
		for _, index := range w.active() {
			w.end(0, index)
		}
	}
	w.inject = nil
	w.advance(time.Minute)
	w.expect(wantStatus{conditions: reached, succeeded: 6, completed: "0-5", started: true, completionTimeSet: true})
	if lost < 10 {
		t.Errorf("%d responses were lost", lost)
	}
	for s, n := range w.created {
		if n != 1 {
			t.Errorf("index %d was created %d times", s.index, n)
		}
	}
}

// TestFinishedTasksDoNotPileUp checks that counted tasks are deleted as fast as tasks finish.
func TestFinishedTasksDoNotPileUp(t *testing.T) {
	const parallel = 200
	w := newWorld(t)
	w.create(newSpec(completions(8000), parallelism(parallel)))
	most := 0
	for !isConditionTrue(w.set(), batch.TaskSetComplete) {
		w.deliver(len(w.events))
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(100 * time.Millisecond)
		for _, task := range w.tasks {
			if task.Status.Phase == batch.TaskPending {
				w.endTask(task, 0)
			}
		}
		most = max(most, len(w.tasks))
	}
	// The tasks of one second, or ten syncs, wait until the status that counts them is stored.
	if want := parallel + 10*parallel; most > want {
		t.Errorf("there were %d tasks at a time, want at most %d", most, want)
	}
}

// TestAPausedControllerReadsTheSetBeforeItCreates pauses a leader, whose watches deliver newer events only later.
func TestAPausedControllerReadsTheSetBeforeItCreates(t *testing.T) {
	w := startWorld(t, newSpec(completions(4), parallelism(1)))
	w.removeTask(w.task(0))
	w.deliver(len(w.events))
	set := w.set().DeepCopy()
	set.Status.CompletedIndexes, set.Status.Succeeded = "0-1", 2
	w.putSet(set)
	undelivered := w.events
	w.events = nil
	w.now = w.now.Add(10 * time.Second)
	if err := w.reconcile(); err != nil {
		t.Fatal(err)
	}
	w.expectActive(2)
	w.events = append(undelivered, w.events...)
	w.syncUntilIdle()
	w.expectActive(2)
}

func TestAControllerThatIsPausedInASyncStopsCreating(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(9), parallelism(9)))
	w.inject = func(verb, _ string) (before, after error) {
		if verb == "create" {
			w.now = w.now.Add(10 * time.Second)
		}
		return nil, nil
	}
	w.deliver(len(w.events))
	if err := w.reconcile(); !errors.Is(err, errStale) {
		t.Errorf("the error is %v, want %v", err, errStale)
	}
	if active := w.active(); !slices.Equal(active, []int{0}) {
		t.Errorf("active are %v, want the first only", active)
	}
	w.inject = nil
	w.syncUntilIdle()
	w.expectActive(0, 1, 2, 3, 4, 5, 6, 7, 8)
}

// TestTasksThatFinishBeforeTheirDeletionCount finishes a task that the controller is about to delete. The task must be
// counted and must not run again.
func TestTasksThatFinishBeforeTheirDeletionCount(t *testing.T) {
	w := startWorld(t, newSpec(completions(10), parallelism(4)))
	w.end(0, 3)
	finished := w.events
	w.events = nil
	w.change(func(s *batch.TaskSet) { s.Spec.Parallelism = ptr.To[int32](3) })
	w.deliver(len(w.events))
	if err := w.reconcile(); err != nil {
		t.Fatal(err)
	}
	if left := w.phase(batch.TaskSucceeded); !slices.Equal(left, []int{3}) {
		t.Errorf("the finished tasks are those of %v, want the one of index 3", left)
	}
	w.events = append(finished, w.events...)
	w.advance(2 * time.Second)
	if completed := w.set().Status.CompletedIndexes; completed != "3" {
		t.Errorf("completed are %q", completed)
	}
	w.expectActive(0, 1, 2)
	if w.created[creation{3, 0}] != 1 {
		t.Errorf("index 3 was created %d times", w.created[creation{3, 0}])
	}
}

// TestFailuresAreEvaluatedAgainAfterAConflict makes a write of the status conflict, after which all tasks are counted
// again.
func TestFailuresAreEvaluatedAgainAfterAConflict(t *testing.T) {
	w := startWorld(t, newSpec(completions(3), parallelism(3), onExit(batch.TaskFailurePolicyActionFailTaskSet, batch.TaskFailurePolicyOnExitCodesOpIn, 7)))
	w.end(7, 1)
	refused := false
	w.inject = func(_, resource string) (before, after error) {
		if resource == "tasksets/status" && !refused {
			refused = true
			before = apierrors.NewConflict(batch.Resource("tasksets"), testSet, errors.New("it has changed"))
		}
		return before, nil
	}
	w.syncUntilIdle()
	if !refused || !isConditionTrue(w.set(), batch.TaskSetFailureTarget) {
		t.Errorf("conditions: %v", w.conditions())
	}
}

// TestADeletionThatNoEventShowsIsRequestedAgain deletes a task that the informer has never seen, as between two of its
// lists. The set must not wait for its end for good.
func TestADeletionThatNoEventShowsIsRequestedAgain(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(3), parallelism(3)))
	w.deliver(len(w.events))
	for len(w.tasks) < 3 {
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
	}
	withoutTasks := func() {
		w.events = slices.DeleteFunc(w.events, func(e event) bool { return e.set == nil && e.oldSet == nil })
		w.deliver(len(w.events))
	}
	withoutTasks()
	w.change(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) })
	withoutTasks()
	if err := w.reconcile(); err != nil {
		t.Fatal(err)
	}
	if len(w.tasks) > 0 {
		t.Fatalf("the tasks of %v are left in a suspended set", w.active())
	}
	withoutTasks()
	w.change(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(false) })
	w.now = w.now.Add(staleAfter + time.Second) // The next sync loads the state again.
	w.expectActive(0, 1, 2)
}
