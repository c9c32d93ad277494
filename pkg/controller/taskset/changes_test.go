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
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestAcceptedChangesLeaveASetThatCanEnd changes the specs of sets at random, while tasks run, succeed and fail and the controller is
// stopped, killed and started. Whatever the server has accepted, no write of the controller is refused, and a set whose tasks all succeed
// from then on comes to its end.
func TestAcceptedChangesLeaveASetThatCanEnd(t *testing.T) {
	kinds := map[string]batch.TaskSetSpec{
		"elastic":         of(completions(8), parallelism(8), indexed, backoffLimit(1000)),
		"limit per index": of(completions(8), parallelism(8), perIndex(1)),
		"plain":           of(completions(8), parallelism(4), backoffLimit(20)),
		"any success":     of(parallelism(4), backoffLimit(20)),
		"success policy":  of(completions(8), parallelism(8), indexed, backoffLimit(1000), success(ptr.To("1,3"), nil)),
		"ignored":         of(completions(8), parallelism(8), indexed, onExit(ignore, in, 1)),
	}
	for kind, spec := range kinds {
		for seed := range uint64(80) {
			t.Run(fmt.Sprintf("%s/%d", kind, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t)
				w.create(*spec.DeepCopy())
				stopped := false
				for steps := 20 + random.IntN(80); steps > 0 && outcome(w.set()) == nil; steps-- {
					w.randomStep(random, &stopped)
				}
				if stopped {
					w.startBehind(random.IntN(3))
				}
				w.fail = nil
				if finished(w.set()) == nil {
					w.change(func(set *batch.TaskSet) {
						set.Spec.Suspend, set.Spec.Parallelism, set.Spec.ActiveDeadlineSeconds = ptr.To(false), ptr.To(1+random.Int32N(8)), nil
					})
				}
				for round := 0; finished(w.set()) == nil; round++ {
					if round > 100 {
						t.Fatalf("the set does not end: %+v", w.set().Status)
					}
					w.pass(time.Minute)
					for _, task := range sortedTasks(w) {
						if task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
							w.endTask(task, 0)
						}
					}
				}
				final, status := finished(w.set()), &w.set().Status
				if want := ptr.Deref(w.set().Spec.Completions, 1); final.Reason == batch.TaskSetReasonCompletionsReached && status.Succeeded < want {
					t.Errorf("the set is complete with %d of %d", status.Succeeded, want)
				}
			})
		}
	}
}

// randomStep lets one thing happen to the set, its tasks or its controller.
func (w *world) randomStep(random *rand.Rand, stopped *bool) {
	n := func() *int32 { return ptr.To(random.Int32N(9)) }
	switch random.IntN(12) {
	case 0:
		both := n()
		_ = w.tryChange(func(set *batch.TaskSet) { set.Spec.Parallelism, set.Spec.Completions = both, both })
	case 1:
		_ = w.tryChange(func(set *batch.TaskSet) { set.Spec.Parallelism = n() })
	case 2:
		_ = w.tryChange(func(set *batch.TaskSet) { set.Spec.Completions = n() })
	case 3:
		_ = w.tryChange(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(!ptr.Deref(set.Spec.Suspend, false)) })
	case 4:
		_ = w.tryChange(func(set *batch.TaskSet) {
			set.Spec.MaxFailedIndexes, set.Spec.BackoffLimit = n(), ptr.To(10+random.Int32N(10))
			set.Spec.ActiveDeadlineSeconds = ptr.To(1 + random.Int64N(1000))
		})
	case 5:
		w.now = w.now.Add(time.Duration(random.IntN(20_000)) * time.Millisecond)
	case 6:
		if *stopped = !*stopped; !*stopped {
			w.startBehind(random.IntN(3))
		}
	case 7, 8:
		for _, task := range sortedTasks(w) {
			switch unfinished := task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed; {
			case !unfinished:
			case random.IntN(3) == 0 && task.DeletionTimestamp == nil:
				w.run(indexOf(task))
			case random.IntN(2) == 0:
				w.endTask(task, random.Int32N(4)/3)
			}
		}
	default:
		w.fail = nil
		if random.IntN(10) == 0 {
			w.fail = func(string, string) (before, after error) { return nil, errDead }
		}
		if *stopped {
			return
		}
		w.deliver(random.IntN(len(w.news) + 1))
		if err := w.reconcile(); err != nil && !strings.Contains(err.Error(), errDead.Error()) {
			w.t.Fatal(err)
		} else if err != nil {
			w.fail = nil
			w.startBehind(random.IntN(3))
		}
	}
}
