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
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// TestKilledAtAnyRequestCountsOnce runs sets to completion while the controller is killed repeatedly, before a request
// or between its effect and its response, and while events arrive late. In the modes with chunks, workers report
// progress, release indexes and are lost.
func TestKilledAtAnyRequestCountsOnce(t *testing.T) {
	const completions = 40
	modes := map[string]func(*batch.TaskSetSpec){
		"plain": func(spec *batch.TaskSetSpec) { spec.BackoffLimit = ptr.To[int32](1000) },
		"limit per index": func(spec *batch.TaskSetSpec) {
			spec.CompletionMode = ptr.To(batch.IndexedCompletion)
			spec.BackoffLimitPerIndex = ptr.To[int32](1)
		},
		"ignored failures": func(spec *batch.TaskSetSpec) {
			spec.BackoffLimit = ptr.To[int32](1000)
			spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
				Action:      batch.TaskFailurePolicyActionIgnore,
				OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{7}},
			}}}
		},
	}
	for mode, change := range maps.Clone(modes) {
		modes["chunks, "+mode] = change
	}
	for mode, change := range modes {
		chunks := strings.HasPrefix(mode, "chunks, ")
		perIndex, ignores := strings.HasSuffix(mode, "limit per index"), strings.HasSuffix(mode, "ignored failures")
		for seed := range uint64(60) {
			t.Run(fmt.Sprintf("%s/%d", mode, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				w := newWorld(t)
				spec := batch.TaskSetSpec{Completions: ptr.To[int32](completions), Parallelism: ptr.To[int32](1 + random.Int32N(12))}
				change(&spec)
				w.create(spec)
				if chunks {
					w.sets[testSet].Status.MedianMilliseconds = 10
				}
				kills, ran, ignored, chunked := 0, map[string]int{}, 0, 0
				w.inject = func(verb, resource string) (before, after error) {
					if odds := map[bool]int{false: 15, true: 5}[chunks]; verb == "get" || random.IntN(odds) > 0 || kills > 40 {
						return nil, nil
					}
					kills++
					if random.IntN(2) == 0 {
						return errKilled, nil
					}
					return nil, errKilled
				}
				// fails returns how often an index fails: never, once, twice or always.
				fails := func(index int) int {
					switch {
					case index%11 == 4 && !perIndex:
						return 2
					case index%7 == 3:
						return 1
					case index%7 == 5 && perIndex:
						return 1000
					}
					return 0
				}
				for step := 0; w.set() == nil || state.FinishedCondition(w.set()) == nil; step++ {
					if step > 100_000 {
						t.Fatalf("the set does not finish: %+v", w.set().Status)
					}
					switch random.IntN(4) {
					case 0:
						w.deliver(random.IntN(len(w.events) + 1))
					case 1:
						w.now = w.now.Add(time.Duration(random.IntN(3000)) * time.Millisecond)
					case 2:
						for _, task := range sortedTasks(w) {
							if task.Status.Phase.Finished() || random.IntN(3) > 0 {
								continue
							}
							ran[task.Name+string(task.UID)]++
							if task.Spec.Indexes != "" {
								chunked++
								w.runChunk(task, random, func(index int) bool { return fails(index) > 0 })
								continue
							}
							index, code := firstIndex(task), int32(0)
							if state.FailureCount(task) < fails(index) {
								code = 1
							}
							if ignores && code == 0 && random.IntN(5) == 0 {
								code = 7
								ignored++
							}
							w.endTask(task, code)
						}
					default:
						if err := w.reconcile(); err != nil && !strings.Contains(err.Error(), errKilled.Error()) {
							t.Fatal(err)
						} else if err != nil {
							w.startStaleController(random.IntN(3))
						}
					}
				}
				w.inject = nil
				w.startController()
				w.advance(time.Minute)

				var succeeded []indexes.Range
				failedIndexes, failed := 0, 0
				for index := range completions {
					n := fails(index)
					if perIndex && n > 1 {
						n = 2
						failedIndexes++
					} else {
						if last := len(succeeded) - 1; last >= 0 && succeeded[last].Last == index-1 {
							succeeded[last].Last = index
						} else {
							succeeded = append(succeeded, indexes.Range{First: index, Last: index})
						}
					}
					failed += n
				}
				status := w.set().Status
				wantIndexes := indexes.Format(succeeded)
				if int(status.Succeeded) != completions-failedIndexes || status.CompletedIndexes != wantIndexes || int(status.Failed) != failed {
					t.Errorf("%d succeeded (%s), %d failed; want %d (%s), %d", status.Succeeded, status.CompletedIndexes, status.Failed,
						completions-failedIndexes, wantIndexes, failed)
				}
				want := batch.TaskSetComplete
				if failedIndexes > 0 {
					want = batch.TaskSetFailed
				}
				if !isConditionTrue(w.set(), want) || status.IndexFailures != "" && want == batch.TaskSetComplete {
					t.Errorf("the set is not %s: %+v", want, status)
				}
				for s, n := range w.created {
					if n > 1 && !ignores && !(chunks && s.failures == 0) {
						t.Errorf("%d tasks were created for index %d with failure count %d", n, s.index, s.failures)
					}
				}
				if chunks && chunked == 0 {
					t.Error("there was no chunk")
				}
				if ignores && !chunks {
					retries := 0
					for _, n := range w.created {
						retries += n - 1
					}
					if retries != ignored {
						t.Errorf("%d tasks were created again after %d ignored failures", retries, ignored)
					}
				}
				if left := len(w.tasks); left > 2*failedIndexes {
					t.Errorf("%d tasks of a finished set are left", left)
				}
				if kills == 0 {
					t.Error("the controller was never killed")
				}
			})
		}
	}
}

// TestKilledAtAnyRequestStartsInOrder runs a set, one that follows it index by index, and one that waits for that,
// while the controller is killed and events arrive late. The first set is deleted as soon as it has ended, and some of
// its indexes are cancelled. No task may exist before it may start.
func TestKilledAtAnyRequestStartsInOrder(t *testing.T) {
	const count = 20
	for seed := range uint64(60) {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			w := newWorld(t)
			w.collect = true
			w.startController()
			names := []string{"other", "each", testSet}
			each := func() []specChange {
				return []specChange{completions(count), parallelism(1 + random.Int32N(count)), perIndex(0)}
			}
			w.createNamed("other", newSpec(append(each(), func(s *batch.TaskSetSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) })...))
			w.createNamed("each", newSpec(append(each(), dependsPerIndex("other"))...))
			w.create(newSpec(dependsOn("each", batch.TaskSetDependencyFinished)))
			for _, name := range names[:1+random.IntN(2)] {
				w.sets[name].Status.MedianMilliseconds = 10 // its tasks are chunks
			}
			kills, succeeded := 0, map[string]map[int]bool{"other": {}, "each": {}, testSet: {}}
			w.inject = func(verb, resource string) (before, after error) {
				switch {
				case verb == "get" || random.IntN(10) > 0 || kills > 40:
					return nil, nil
				case random.IntN(2) == 0:
					kills++
					return errKilled, nil
				}
				kills++
				return nil, errKilled
			}
			fails := func(index int) bool { return index%7 == 3 }
			// cancelled are the indexes of the first set that may have been cancelled before they succeeded.
			cancelled := map[int]bool{}
			check := func() {
				for _, task := range w.tasks {
					for _, r := range task.CompletionIndexes() {
						for index := r.First; index <= r.Last; index++ {
							if task.Labels[batch.LabelTaskSetName] == "each" && !succeeded["other"][index] {
								t.Fatalf("task %s exists before index %d of the other set has succeeded", task.Name, index)
							}
						}
					}
					if task.Labels[batch.LabelTaskSetName] == testSet && state.FinishedCondition(w.sets["each"]) == nil {
						t.Fatalf("task %s exists before the other set has ended", task.Name)
					}
				}
			}
			for step := 0; state.FinishedCondition(w.set()) == nil; step++ {
				if step > 100_000 {
					t.Fatalf("the sets do not finish: %+v, %+v", w.sets["each"].Status, w.set().Status)
				}
				switch random.IntN(5) {
				case 0:
					w.deliver(random.IntN(len(w.events) + 1))
				case 1:
					w.now = w.now.Add(time.Duration(random.IntN(3000)) * time.Millisecond)
				case 2:
					for _, task := range sortedTasks(w) {
						if task.Status.Phase.Finished() || random.IntN(3) > 0 {
							continue
						}
						before := int(task.Status.CompletedCount)
						name := task.Labels[batch.LabelTaskSetName]
						switch {
						case task.Spec.Indexes != "":
							w.runChunk(task, random, func(index int) bool { return name == "other" && fails(index) })
							if after := w.tasks[task.Name]; after != nil {
								for i := before; i < int(after.Status.CompletedCount); i++ {
									succeeded[name][indexes.At(after.IndexRanges(), i)] = true
								}
							}
						case name == "other" && fails(firstIndex(task)):
							w.endTask(task, 1)
						default:
							succeeded[name][firstIndex(task)] = true
							w.endTask(task, 0)
						}
					}
				case 3:
					if other := w.sets["other"]; other != nil && other.DeletionTimestamp == nil && len(cancelled) < 3 && random.IntN(10) == 0 {
						cancelled[random.IntN(count)] = true
						w.changeNamed("other", func(set *batch.TaskSet) {
							set.Spec.CancelledIndexes = indexes.Format(indexes.Of(slices.Sorted(maps.Keys(cancelled))))
						})
					}
				default:
					if err := w.reconcile(); err != nil && !strings.Contains(err.Error(), errKilled.Error()) {
						t.Fatal(err)
					} else if err != nil {
						w.startStaleController(random.IntN(3))
					}
				}
				check()
			}
			status := w.sets["each"].Status
			failed, err := indexes.Parse(ptr.Deref(status.FailedIndexes, ""), count)
			if err != nil {
				t.Fatal(err)
			}
			for index := range count {
				must := fails(index)
				if is := indexes.Contains(failed, index); is && !must && !cancelled[index] || must && !is {
					t.Errorf("index %d: failed: %t; it fails in the other set: %t, and is cancelled there: %t", index, is, must, cancelled[index])
				}
			}
			if int(status.Succeeded)+indexes.Count(failed) != count || status.Failed != 0 {
				t.Errorf("%d succeeded and %s failed of %d, with %d failed tasks", status.Succeeded, indexes.Format(failed), count, status.Failed)
			}
			if kills == 0 || !isConditionTrue(w.set(), batch.TaskSetComplete) {
				t.Errorf("%d kills: %+v", kills, w.set().Status)
			}
		})
	}
}

// runChunk does with a chunk what a worker may do: it completes some of its indexes and then reports that, releases
// indexes, is lost, or finishes the task.
func (w *world) runChunk(task *batch.Task, random *rand.Rand, fails func(index int) bool) {
	task = task.DeepCopy()
	ranges, status := task.IndexRanges(), &task.Status
	count := ptr.Deref(status.IndexLimit, int32(indexes.Count(ranges)))
	stopAt := status.CompletedCount + random.Int32N(count-status.CompletedCount+1)
	for status.CompletedCount < stopAt && !fails(indexes.At(ranges, int(status.CompletedCount))) {
		status.CompletedCount++
	}
	status.BusyMilliseconds = 10 * int64(status.CompletedCount)
	switch {
	case status.CompletedCount < stopAt:
		w.endTask(task, 1)
		return
	case status.CompletedCount == count, status.CompletedCount > 0 && task.DeletionTimestamp != nil:
		status.CompletedCount-- // endTask adds it
		w.endTask(task, 0)
		return
	case task.DeletionTimestamp != nil:
		w.removeTask(task)
		return
	}
	task.Spec.WorkerName, status.Phase = "worker", batch.TaskRunning
	switch random.IntN(4) {
	case 0:
		status.IndexLimit = ptr.To(status.CompletedCount + 1)
	case 1:
		status.IndexLimit = ptr.To(status.CompletedCount + 1)
		task.Spec.WorkerName, status.Phase = "", batch.TaskPending
	}
	w.putTask(task)
}

// sortedTasks returns all tasks, ordered by name.
func sortedTasks(w *world) []*batch.Task {
	var tasks []*batch.Task
	for _, task := range w.tasks {
		tasks = append(tasks, task)
	}
	slices.SortFunc(tasks, func(a, b *batch.Task) int { return strings.Compare(a.Name, b.Name) })
	return tasks
}
