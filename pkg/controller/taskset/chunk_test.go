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
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// maxIndexes sets spec.chunking.maxIndexes.
func maxIndexes(n int32) specChange {
	return func(s *batch.TaskSetSpec) { s.Chunking = &batch.TaskSetChunking{MaxIndexes: ptr.To(n)} }
}

// unfinished returns the indexes of each unfinished task, in the order of their first index.
func (w *world) unfinished() []string {
	var tasks []*batch.Task
	for _, task := range w.tasks {
		if !task.Status.Phase.Finished() && task.DeletionTimestamp == nil {
			tasks = append(tasks, task)
		}
	}
	slices.SortFunc(tasks, func(a, b *batch.Task) int { return firstIndex(a) - firstIndex(b) })
	found := []string{}
	for _, task := range tasks {
		text := task.Spec.Indexes
		if text == "" {
			text = fmt.Sprint(firstIndex(task))
		}
		found = append(found, text)
	}
	return found
}

// expectUnfinished compares the indexes of the unfinished tasks, once the controller is idle.
func (w *world) expectUnfinished(want ...string) {
	w.t.Helper()
	w.syncUntilIdle()
	if got := w.unfinished(); !slices.Equal(got, want) {
		w.t.Fatalf("the unfinished tasks have the indexes %q, want %q", got, want)
	}
}

// bind binds the first n tasks that wait.
func (w *world) bind(n int) {
	w.t.Helper()
	tasks := sortedByIndex(w)
	for _, task := range tasks {
		if n > 0 && task.Spec.WorkerName == "" && !task.Status.Phase.Finished() {
			task = task.DeepCopy()
			task.Spec.WorkerName = "worker"
			w.putTask(task)
			n--
		}
	}
	if n > 0 {
		w.t.Fatalf("%d tasks are missing", n)
	}
}

func sortedByIndex(w *world) []*batch.Task {
	tasks := sortedTasks(w)
	slices.SortFunc(tasks, func(a, b *batch.Task) int { return firstIndex(a) - firstIndex(b) })
	return tasks
}

// endAfter ends the bound tasks, each with success, after their commands have run for that long each.
func (w *world) endAfter(d time.Duration) {
	for _, task := range sortedByIndex(w) {
		if task.Spec.WorkerName == "" || task.Status.Phase.Finished() {
			continue
		}
		task = task.DeepCopy()
		count := max(1, indexes.Count(task.IndexRanges()))
		task.Status.BusyMilliseconds = d.Milliseconds() * int64(count)
		if task.Spec.Indexes != "" {
			task.Status.CompletedCount = int32(count) - 1 // endTask adds the last one
		}
		w.endTask(task, 0)
	}
}

// updateTask changes the unfinished task whose first index that is.
func (w *world) updateTask(first int, change func(*batch.Task)) {
	w.t.Helper()
	task := w.task(first)
	change(task)
	w.putTask(task)
}

// learned returns a world with a set whose commands are known to run for 10 ms.
func learned(t *testing.T, changes ...specChange) *world {
	w := newWorld(t)
	w.create(newSpec(changes...))
	w.sets[testSet].Status.MedianMilliseconds = 10
	return w
}

// TestLearning checks how many tasks exist until the controller knows how long the commands run, and what it creates
// then.
func TestLearning(t *testing.T) {
	const lone = 16 // before a task is bound
	for _, test := range []struct {
		name     string
		changes  []specChange
		do       func(*world)
		tasks    int
		indexes  int // of the last task
		lastSize int
	}{
		{"few tasks exist at first", nil, func(*world) {}, lone, 1, 0},
		{"each bound task allows two more", nil, func(w *world) { w.bind(4) }, lone + 8, 1, 0},
		{"after a second without workers, parallelism does", nil, func(w *world) { w.advance(time.Second) }, 200, 1, 0},
		{
			"after a second with few ended commands, parallelism does", nil,
			func(w *world) {
				w.bind(7)
				w.endAfter(10 * time.Millisecond)
				w.syncUntilIdle()
				w.advance(2 * time.Second)
			}, 200, 1, 0,
		},
		{
			"eight short commands lead to chunks, and few tasks wait", nil,
			func(w *world) {
				w.bind(8)
				w.syncUntilIdle()
				w.endAfter(10 * time.Millisecond)
				w.syncUntilIdle()
				w.bind(4)
			}, lone + 8, 100, 100,
		},
		{
			"eight long commands lead to as many tasks as parallelism", nil,
			func(w *world) {
				w.bind(8)
				w.syncUntilIdle()
				w.endAfter(600 * time.Millisecond)
			}, 200, 1, 0,
		},
		{
			"maxIndexes bounds chunks", []specChange{maxIndexes(30)},
			func(w *world) {
				w.bind(8)
				w.syncUntilIdle()
				w.endAfter(10 * time.Millisecond)
				w.syncUntilIdle()
				w.bind(4)
			}, lone + 8, 30, 0,
		},
		{"maxIndexes 1 turns chunks off", []specChange{maxIndexes(1)}, func(*world) {}, 200, 1, 0},
		{
			"a backoffLimit of the template turns chunks off",
			[]specChange{func(s *batch.TaskSetSpec) { s.Template.Spec.BackoffLimit = ptr.To[int32](1) }}, func(*world) {}, 200, 1, 0,
		},
		{
			"commands that did not report how long they ran are no reason for chunks", nil,
			func(w *world) { w.bind(8); w.endAfter(0); w.syncUntilIdle(); w.advance(2 * time.Second) }, 200, 1, 0,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := startWorld(t, newSpec(append([]specChange{completions(100_000), parallelism(200)}, test.changes...)...))
			test.do(w)
			w.syncUntilIdle()
			tasks := w.unfinished()
			if len(tasks) != test.tasks {
				t.Errorf("%d tasks are unfinished, want %d", len(tasks), test.tasks)
			}
			size := 0
			for _, task := range w.tasks {
				size = max(size, indexes.Count(task.IndexRanges()))
			}
			if want := test.indexes; max(1, size) != want {
				t.Errorf("the largest task has %d indexes, want %d", size, want)
			}
		})
	}
}

// TestAWorkerWithoutChunksTurnsThemOff checks that no chunk is created while a ready worker of the namespace cannot run
// it, and that other workers do not matter.
func TestAWorkerWithoutChunksTurnsThemOff(t *testing.T) {
	worker := func(namespace string, ready metav1.ConditionStatus, features ...batch.WorkerFeature) *batch.Worker {
		w := &batch.Worker{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "w"}}
		w.Status.WorkerInfo.Features = features
		meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: ready})
		return w
	}
	for _, test := range []struct {
		name   string
		do     func(*Controller)
		chunks bool
	}{
		{"no worker", func(*Controller) {}, true},
		{"a new worker", func(c *Controller) { c.ObserveWorker(worker(testNamespace, "True", batch.WorkerFeatureChunks), false) }, true},
		{"an old worker", func(c *Controller) { c.ObserveWorker(worker(testNamespace, "True"), false) }, false},
		{"an old worker that is not ready", func(c *Controller) { c.ObserveWorker(worker(testNamespace, "Unknown"), false) }, true},
		{"an old worker of another namespace", func(c *Controller) { c.ObserveWorker(worker("other", "True"), false) }, true},
		{"an old worker that was upgraded", func(c *Controller) {
			c.ObserveWorker(worker(testNamespace, "True"), false)
			c.ObserveWorker(worker(testNamespace, "True", batch.WorkerFeatureChunks), false)
		}, true},
		{"an old worker that was deleted", func(c *Controller) {
			c.ObserveWorker(worker(testNamespace, "True"), false)
			c.ObserveWorker(worker(testNamespace, "True"), true)
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := learned(t, completions(100), parallelism(4))
			test.do(w.c)
			w.syncUntilIdle()
			if got := strings.Contains(strings.Join(w.unfinished(), " "), "-"); got != test.chunks {
				t.Errorf("the unfinished tasks are %q, want chunks: %t", w.unfinished(), test.chunks)
			}
		})
	}
}

// TestChunks checks what becomes of the indexes of a chunk.
func TestChunks(t *testing.T) {
	for _, test := range []struct {
		name string
		spec []specChange
		do   func(*world)
		want wantStatus
	}{
		{
			"successes are counted while the chunk runs", []specChange{completions(20), parallelism(1)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.updateTask(0, func(task *batch.Task) { task.Status.Phase, task.Status.CompletedCount = batch.TaskRunning, 4 })
				w.advance(2 * time.Second)
			},
			wantStatus{active: 1, succeeded: 4, completed: "0-3", started: true},
		},
		{
			"released indexes get other tasks at once", []specChange{completions(20), parallelism(2)},
			func(w *world) {
				w.expectUnfinished("0-9", "10-14")
				w.updateTask(10, func(task *batch.Task) { task.Status.IndexLimit = ptr.To[int32](1) })
				w.endTask(w.withCount(w.task(0), 9), 0)
				w.expectUnfinished("10-14", "11-14")
			},
			wantStatus{active: 2, succeeded: 10, completed: "0-9", started: true},
		},
		{
			"a chunk that ends early has released the rest", []specChange{completions(20), parallelism(1)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.endTask(w.withCount(w.task(0), 5), 0)
				w.expectUnfinished("6-12")
			},
			wantStatus{active: 1, succeeded: 6, completed: "0-5", started: true},
		},
		{
			"the index that fails is retried alone, after its backoff, and the rest at once",
			[]specChange{completions(17), parallelism(4), perIndex(1), indexed},
			func(w *world) {
				w.expectUnfinished("0-7", "8-11", "12,13", "14")
				w.endTask(w.withCount(w.task(0), 3), 1)
				w.expectUnfinished("4-6", "8-11", "12,13")
				w.advance(11 * time.Second)
				w.expectUnfinished("3", "4-6", "8-11", "12,13")
			},
			wantStatus{active: 4, succeeded: 3, failed: 1, completed: "0-2", indexFailures: "3:1", started: true},
		},
		{
			"an index that fails for good", []specChange{completions(20), parallelism(1), perIndex(0), indexed},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.endTask(w.withCount(w.task(0), 3), 1)
				w.advance(2 * time.Second)
			},
			wantStatus{active: 1, succeeded: 3, failed: 1, completed: "0-2", failedIndexes: "3", started: true},
		},
		{
			"an index whose failure is ignored runs alone",
			[]specChange{completions(20), parallelism(2), onExit(batch.TaskFailurePolicyActionIgnore, batch.TaskFailurePolicyOnExitCodesOpIn, 7)},
			func(w *world) {
				w.expectUnfinished("0-9", "10-14")
				w.endTask(w.withCount(w.task(0), 3), 7)
				w.advance(11 * time.Second)
				w.expectUnfinished("4-8", "10-14")
				w.endTask(w.withCount(w.task(4), 4), 0)
				w.expectUnfinished("3", "10-14")
				w.advance(2 * time.Second)
			},
			wantStatus{active: 2, succeeded: 8, completed: "0-2,4-8", started: true},
		},
		{
			"an index that fails while its task is deleted runs again, alone", []specChange{completions(20), parallelism(1)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.bind(1)
				w.syncUntilIdle()
				w.deleteTask(w.task(0))
				w.endTask(w.withCount(w.task(0), 3), 143)
				w.expectUnfinished("3")
			},
			wantStatus{active: 1, succeeded: 3, completed: "0-2", started: true},
		},
		{
			"what a lost chunk has completed is counted, and the rest runs again", []specChange{completions(20), parallelism(1)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.updateTask(0, func(task *batch.Task) {
					task.Spec.WorkerName, task.Status.Phase, task.Status.CompletedCount = "worker", batch.TaskRunning, 4
				})
				w.syncUntilIdle()
				w.removeTask(w.task(0))
				w.expectUnfinished("4-11")
				w.advance(2 * time.Second)
			},
			wantStatus{active: 1, succeeded: 4, completed: "0-3", started: true},
		},
		{
			"the indexes of a chunk that crashed its worker run alone", []specChange{completions(20), parallelism(3)},
			func(w *world) {
				w.expectUnfinished("0-9", "10-14", "15,16")
				w.updateTask(0, func(task *batch.Task) {
					task.Status.WorkerCrashes, task.Status.Disruptions, task.Status.IndexLimit = 1, 1, ptr.To[int32](1)
				})
				w.syncUntilIdle()
				w.endTask(w.withCount(w.task(10), 4), 0)
				w.endTask(w.withCount(w.task(15), 1), 0)
				w.expectUnfinished("0-9", "1", "2")
			},
			wantStatus{active: 3, succeeded: 7, completed: "10-16", started: true},
		},
		{
			"suspending deletes chunks, and what they have completed counts", []specChange{completions(20), parallelism(1)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.bind(1)
				w.updateTask(0, func(task *batch.Task) { task.Status.Phase, task.Status.CompletedCount = batch.TaskRunning, 2 })
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.syncUntilIdle()
				w.endTask(w.withCount(w.task(0), 2), 0)
				w.advance(2 * time.Second)
			},
			wantStatus{conditions: []string{"Suspended/TaskSetSuspended"}, succeeded: 3, completed: "0-2"},
		},
		{
			"a set that becomes smaller deletes the chunks past its end, and those across it that wait",
			[]specChange{indexed, completions(40), parallelism(40)},
			func(w *world) {
				w.expectUnfinished("0-19", "20-29", "30-34", "35,36", "37", "38", "39")
				w.updateTask(20, func(task *batch.Task) { task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskRunning })
				w.syncUntilIdle()
				w.change(func(s *batch.TaskSet) { s.Spec.Completions, s.Spec.Parallelism = ptr.To[int32](25), ptr.To[int32](25) })
				w.expectUnfinished("0-19", "20-29")
				w.endTask(w.withCount(w.task(20), 9), 0)
				w.endTask(w.withCount(w.task(0), 19), 0)
				w.advance(2 * time.Second)
			},
			wantStatus{conditions: reached, succeeded: 25, completed: "0-24", started: true, completionTimeSet: true},
		},
		{
			"a success policy is met in the middle of a chunk",
			[]specChange{indexed, completions(20), parallelism(1), success(ptr.To("2-3"), nil)},
			func(w *world) {
				w.expectUnfinished("0-9")
				w.updateTask(0, func(task *batch.Task) {
					task.Spec.WorkerName, task.Status.Phase, task.Status.CompletedCount = "worker", batch.TaskRunning, 4
				})
				w.syncUntilIdle()
				w.endTask(w.withCount(w.task(0), 4), 143)
			},
			wantStatus{
				conditions: []string{"SuccessCriteriaMet/SuccessPolicy", "Complete/SuccessPolicy"},
				succeeded:  4, completed: "0-3", started: true, completionTimeSet: true,
			},
		},
		{
			"a chunk does not exceed its share of items",
			[]specChange{indexed, parallelism(1), func(s *batch.TaskSetSpec) { s.Items = slices.Repeat([]string{strings.Repeat("x", 20<<10)}, 20) }},
			func(w *world) { w.expectUnfinished("0-2") },
			wantStatus{active: 1, started: true},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := learned(t, test.spec...)
			w.syncUntilIdle()
			test.do(w)
			w.expect(test.want)
			if w.set().Status.CompletionTime == nil && len(test.want.conditions) > 0 {
				w.startController()
				w.expect(test.want)
			}
		})
	}
}

// withCount returns a copy of the task in which that many indexes have succeeded.
func (w *world) withCount(task *batch.Task, completed int32) *batch.Task {
	task = task.DeepCopy()
	task.Status.CompletedCount = completed
	return task
}

// TestTasksThatWaitAreMerged checks that tasks of one index that were created before the commands were known to be
// short become chunks, unless they are bound first.
func TestTasksThatWaitAreMerged(t *testing.T) {
	w := startWorld(t, newSpec(completions(4000), parallelism(400), backoffLimit(1000)))
	w.advance(time.Second)
	if got := len(w.unfinished()); got != 400 {
		t.Fatalf("%d tasks exist before the duration is known, want 400", got)
	}
	w.bind(8)
	w.syncUntilIdle()
	w.endAfter(10 * time.Millisecond)
	w.bind(4)
	// The scheduler binds a task at the moment in which the controller deletes it.
	w.inject = func(verb, resource string) (before, after error) {
		if verb == "delete" && resource == "tasks" {
			task := w.task(200).DeepCopy()
			if task.Spec.WorkerName == "" {
				task.Spec.WorkerName = "worker"
				w.putTask(task)
			}
		}
		return nil, nil
	}
	w.syncUntilIdle()
	lone, chunks := 0, 0
	for _, task := range w.tasks {
		switch {
		case task.Status.Phase.Finished():
		case task.Spec.Indexes != "":
			chunks++
		default:
			lone++
		}
	}
	if w.task(200).Spec.WorkerName == "" || lone > 5+5 || chunks < 16 {
		t.Errorf("there are %d tasks of one index and %d chunks, and index 200 is bound to %q", lone, chunks, w.task(200).Spec.WorkerName)
	}
	var covered []indexes.Range
	for _, task := range w.tasks {
		ranges := task.IndexRanges()
		if task.Spec.Indexes == "" {
			ranges = []indexes.Range{{First: firstIndex(task), Last: firstIndex(task)}}
		}
		if both := indexes.Intersect(covered, ranges); len(both) > 0 {
			t.Errorf("two tasks have the indexes %s", indexes.Format(both))
		}
		covered = indexes.Union(covered, ranges)
	}
}

// TestALongTailIsRobust checks that a few long commands among short ones do not make the controller forget that most
// are short: the last command of a chunk may run much longer than the others.
func TestALongTailIsRobust(t *testing.T) {
	w := learned(t, completions(100_000), parallelism(8))
	for i := range 50 {
		w.syncUntilIdle()
		task := &batch.Task{}
		for _, other := range sortedByIndex(w) {
			if !other.Status.Phase.Finished() {
				task = other.DeepCopy()
				break
			}
		}
		count := int32(indexes.Count(task.IndexRanges()))
		task.Spec.WorkerName = "worker"
		task.Status.CompletedCount = count - 1
		task.Status.BusyMilliseconds = 10 * int64(count)
		if i%3 == 0 && count > 1 {
			task.Status.CompletedCount = count/2 - 1
			task.Status.BusyMilliseconds += 10_000
		}
		w.endTask(task, 0)
		w.advance(time.Second)
	}
	w.syncUntilIdle()
	for _, task := range w.tasks {
		if n := indexes.Count(task.IndexRanges()); n < 20 && !task.Status.Phase.Finished() {
			t.Errorf("a task has %d indexes, want at least 20", n)
		}
	}
}

// TestGapsInTheCompletedIndexesAreBounded suspends and resumes a set whose chunks have completed some of their indexes,
// many times. The list of completed indexes must fit into the status, so it must not become longer each time.
func TestGapsInTheCompletedIndexesAreBounded(t *testing.T) {
	const tasks = 8
	w := learned(t, completions(1_000_000), parallelism(tasks), backoffLimit(1000))
	for range 40 {
		w.syncUntilIdle()
		for _, task := range sortedByIndex(w) {
			if task.Spec.Indexes != "" && !task.Status.Phase.Finished() {
				task = w.withCount(task, 1)
				task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskRunning
				w.putTask(task)
			}
		}
		w.syncUntilIdle()
		w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
		w.syncUntilIdle()
		for _, task := range sortedByIndex(w) {
			if !task.Status.Phase.Finished() {
				w.endTask(task, 143)
			}
		}
		w.advance(2 * time.Second)
		w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
	}
	w.advance(2 * time.Second)
	if gaps := strings.Count(w.set().Status.CompletedIndexes, ","); gaps > 3*tasks {
		t.Errorf("the completed indexes have %d gaps: %s", gaps, w.set().Status.CompletedIndexes)
	}
}

// TestACreationWithUnknownOutcomeIsRepeated creates chunks whose creation seems to fail and has an effect, as while
// etcd is unavailable. The next ones must not have some of the same indexes, not even if the first request after those
// fails, too, so that the others are not sent.
func TestACreationWithUnknownOutcomeIsRepeated(t *testing.T) {
	for _, further := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("%d further failures", further), func(t *testing.T) { testUnknownOutcome(t, further) })
	}
}

func testUnknownOutcome(t *testing.T, further int) {
	w := learned(t, completions(100), parallelism(12))
	w.deliver(len(w.events))
	created, failed, bound := 0, 0, false
	w.inject = func(verb, resource string) (before, after error) {
		if verb == "create" {
			switch created++; {
			case created == 4 || created == 5:
				return nil, errors.New("etcdserver: request timed out")
			case created > 5 && failed < further:
				failed++
				return errors.New("connection refused"), nil
			}
		}
		return nil, nil
	}
	for range 20 {
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
		if !bound && created >= 7 {
			w.bind(3) // so that the next chunks are smaller
			bound = true
		}
		var all []indexes.Range
		for _, task := range sortedByIndex(w) {
			if both := indexes.Intersect(all, task.CompletionIndexes()); len(both) > 0 {
				t.Errorf("task %s and another have the indexes %s", task.Name, indexes.Format(both))
			}
			all = indexes.Union(all, task.CompletionIndexes())
		}
		w.events = slices.DeleteFunc(w.events, func(e event) bool { return e.task == nil || e.task.Spec.WorkerName == "" })
		w.deliver(len(w.events))
		w.now = w.now.Add(time.Second)
	}
	if created < 10+further || failed < further {
		t.Fatalf("%d tasks were created, %d of them failed", created, failed)
	}
}
