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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// TestSetsFinishAfterAnyAcceptedUpdate updates the specs of sets at random while tasks run, succeed and fail and the
// controller is stopped, killed and started. The server must accept all writes of the controller, and a set whose tasks
// all succeed from then on must finish.
func TestSetsFinishAfterAnyAcceptedUpdate(t *testing.T) {
	kinds := map[string]batch.TaskSetSpec{
		"elastic":         newSpec(completions(8), parallelism(8), indexed, backoffLimit(1000)),
		"limit per index": newSpec(completions(8), parallelism(8), perIndex(1)),
		"plain":           newSpec(completions(8), parallelism(4), backoffLimit(20)),
		"any success":     newSpec(parallelism(4), backoffLimit(20)),
		"success policy":  newSpec(completions(8), parallelism(8), indexed, backoffLimit(1000), success(ptr.To("1,3"), nil)),
		"ignored":         newSpec(completions(8), parallelism(8), indexed, onExit(ignore, in, 1)),
	}
	for kind, spec := range kinds {
		for seed := range uint64(80) {
			t.Run(fmt.Sprintf("%s/%d", kind, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t)
				w.create(*spec.DeepCopy())
				stopped := false
				for steps := 20 + random.IntN(80); steps > 0 && state.TargetCondition(w.set()) == nil; steps-- {
					w.randomStep(random, &stopped)
				}
				if stopped {
					w.startStaleController(random.IntN(3))
				}
				w.inject = nil
				if state.FinishedCondition(w.set()) == nil {
					w.change(func(set *batch.TaskSet) {
						set.Spec.Suspend, set.Spec.Parallelism, set.Spec.ActiveDeadlineSeconds = ptr.To(false), ptr.To(1+random.Int32N(8)), nil
					})
				}
				for round := 0; state.FinishedCondition(w.set()) == nil; round++ {
					if round > 100 {
						t.Fatalf("the set does not finish: %+v", w.set().Status)
					}
					w.advance(time.Minute)
					for _, task := range sortedTasks(w) {
						if task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
							w.endTask(task, 0)
						}
					}
				}
				final, status := state.FinishedCondition(w.set()), &w.set().Status
				if want := ptr.Deref(w.set().Spec.Completions, 1); final.Reason == batch.TaskSetReasonCompletionsReached && status.Succeeded < want {
					t.Errorf("the set is complete with %d of %d", status.Succeeded, want)
				}
			})
		}
	}
}

// randomStep applies one random change to the set, its tasks or its controller.
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
			w.startStaleController(random.IntN(3))
		}
	case 7, 8:
		for _, task := range sortedTasks(w) {
			switch unfinished := task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed; {
			case !unfinished:
			case random.IntN(3) == 0 && task.DeletionTimestamp == nil:
				w.run(firstIndex(task))
			case random.IntN(2) == 0:
				w.endTask(task, random.Int32N(4)/3)
			}
		}
	default:
		w.inject = nil
		if random.IntN(10) == 0 {
			w.inject = func(string, string) (before, after error) { return nil, errKilled }
		}
		if *stopped {
			return
		}
		w.deliver(random.IntN(len(w.events) + 1))
		if err := w.reconcile(); err != nil && !strings.Contains(err.Error(), errKilled.Error()) {
			w.t.Fatal(err)
		} else if err != nil {
			w.inject = nil
			w.startStaleController(random.IntN(3))
		}
	}
}

// TestTasksOfAcceptedSetsCanBeCreated generates sets whose tasks are near the limits of a task's size. The server must
// accept a set if and only if it accepts all of its tasks, with the maximum failure count.
func TestTasksOfAcceptedSetsCanBeCreated(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	near := func(bound int) int { return bound - random.IntN(60) + 10 }
	accepted, refused := 0, 0
	for range 60 {
		spec := newSpec(indexed, backoffLimit(random.Int32N(2000)))
		spec.Template.Spec.Command = []string{"true"}
		n := 1 + random.IntN(12)
		if random.IntN(2) == 0 {
			for range n {
				spec.Items = append(spec.Items, strings.Repeat("$", random.IntN(12))+strings.Repeat("a", random.IntN(12)))
			}
		} else {
			spec.Completions = ptr.To(int32(n))
		}
		if random.IntN(2) == 0 {
			spec.BackoffLimitPerIndex = ptr.To(random.Int32N(200))
		}
		for _, name := range []string{"TASK_INDEX", "JOB_COMPLETION_INDEX", "TASK_ITEM"} {
			if random.IntN(4) == 0 {
				spec.Template.Spec.Env = append(spec.Template.Spec.Env, batch.EnvVar{Name: name, Value: "own"})
			}
		}
		switch random.IntN(10) {
		case 0: // Rare, because comparing so many variables is slow.
			for i := range min(4096, 4100-random.IntN(9)) - len(spec.Template.Spec.Env) {
				spec.Template.Spec.Env = append(spec.Template.Spec.Env, batch.EnvVar{Name: fmt.Sprintf("V%d", i)})
			}
		case 1, 2, 3, 4:
			bound := 1<<20 - 60 - 12*len(spec.Items) // The items of a set count, too.
			spec.Template.Spec.Args = []string{strings.Repeat("a", near(bound))}
		default:
			spec.Template.Annotations = map[string]string{"note": strings.Repeat("a", near(256<<10-len("note")-len(batch.AnnotationIndexFailureCount)))}
		}
		if len(spec.Items) > 0 && random.IntN(2) == 0 {
			spec.Template.Spec.Args, spec.Items = []string{strings.Repeat("a", near(1<<20-100))}, []string{strings.Repeat("$", 40)}
		}
		set, err := rules().createSet(&batch.TaskSet{ObjectMeta: metav1.ObjectMeta{
			Namespace: testNamespace, Name: testSet, UID: "set", CreationTimestamp: metav1.Now(),
		}, Spec: spec})
		if err == nil {
			accepted++
		} else {
			refused++
			set = &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: testSet, UID: "set"}, Spec: spec}
			batch.SetObjectDefaults_TaskSet(set)
			if strings.Contains(err.Error(), "spec.items: ") {
				continue // The items do not fit into a set. The size of a task does not matter.
			}
		}
		failures := int(*set.Spec.BackoffLimit)
		if limit := set.Spec.BackoffLimitPerIndex; limit != nil {
			failures = min(failures, int(*limit))
		}
		var impossible error
		for index := range int(*set.Spec.Completions) {
			task := batch.NewTask(set, index, failures)
			task.UID, task.CreationTimestamp = "task", metav1.Now()
			if _, refusal := rules().createTask(task); refusal != nil {
				impossible = refusal
			}
		}
		switch {
		case err == nil && impossible != nil:
			t.Fatalf("the set is accepted, but its task is refused: %v", impossible)
		case err != nil && impossible == nil:
			t.Fatalf("all tasks are accepted, but the set is refused: %v", err)
		}
	}
	if accepted < 5 || refused < 5 {
		t.Errorf("%d sets were accepted and %d refused, want at least 5 of each", accepted, refused)
	}
}
