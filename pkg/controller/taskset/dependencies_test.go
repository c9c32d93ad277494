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
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

func dependsOn(name string, condition batch.TaskSetDependencyCondition) specChange {
	return func(s *batch.TaskSetSpec) {
		s.DependsOn = append(s.DependsOn, batch.TaskSetDependency{Name: name, Condition: condition})
	}
}

func dependsPerIndex(name string) specChange {
	return func(s *batch.TaskSetSpec) {
		s.DependsOn = append(s.DependsOn, batch.TaskSetDependency{Name: name, PerIndex: true})
	}
}

func cancelledIndexes(list string) specChange {
	return func(s *batch.TaskSetSpec) { s.CancelledIndexes = list }
}

// activeOf returns the indexes of the active tasks of a set of that name.
func (w *world) activeOf(name string) []int {
	w.t.Helper()
	all := w.tasks
	defer func() { w.tasks = all }()
	w.tasks = map[string]*batch.Task{}
	for taskName, task := range all {
		if task.Labels[batch.LabelTaskSetName] == name {
			w.tasks[taskName] = task
		}
	}
	return w.active()
}

// endOf finishes the tasks of indexes of a set of that name.
func (w *world) endOf(name string, exitCode int32, of ...int) {
	w.t.Helper()
	w.syncUntilIdle()
	for _, index := range of {
		found := false
		for _, task := range sortedTasks(w) {
			if task.Labels[batch.LabelTaskSetName] == name && firstIndex(task) == index && !task.Status.Phase.Finished() {
				w.endTask(task, exitCode)
				found = true
			}
		}
		if !found {
			w.t.Fatalf("index %d of %s has no task", index, name)
		}
	}
	w.advance(statusWriteInterval)
}

// changeNamed updates a set of that name as a user does.
func (w *world) changeNamed(name string, f func(*batch.TaskSet)) {
	w.t.Helper()
	set := w.sets[name].DeepCopy()
	f(set)
	set, err := rules().updateSet(set, w.sets[name])
	if err != nil {
		w.t.Fatal(err)
	}
	w.putSet(set)
}

// dependencyReason returns the status and the reason of the condition DependenciesMet.
func (w *world) dependencyReason() string {
	c := meta.FindStatusCondition(w.set().Status.Conditions, batch.TaskSetDependenciesMet)
	if c == nil {
		return ""
	}
	return string(c.Status) + "/" + c.Reason
}

// TestSetWaitsUntilAnotherHasEnded ends a set in all ways, while the controller runs or before it starts, and expects
// what a set that depends on it does.
func TestSetWaitsUntilAnotherHasEnded(t *testing.T) {
	const (
		starts = "starts"
		fails  = "fails"
		waits  = "waits"
	)
	complete := func(w *world) { w.endOf("other", 0, 0) }
	fail := func(w *world) { w.endOf("other", 1, 0) }
	for _, test := range []struct {
		name  string
		other func(*world)
		// complete, failed and finished are what a set does that depends on the condition of that name.
		complete, failed, finished string
	}{
		{"runs", func(*world) {}, waits, waits, waits},
		{"succeeds", complete, starts, fails, starts},
		{"fails", fail, fails, starts, starts},
		{"is cancelled", func(w *world) { w.changeNamed("other", cancel) }, fails, starts, starts},
		{"is suspended", func(w *world) { w.changeNamed("other", func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) }) }, waits, waits, waits},
		{"is deleted", func(w *world) { w.removeSet("other") }, fails, fails, fails},
		{"is being deleted", func(w *world) { w.terminateSet("other") }, waits, waits, waits},
		{"is replaced by a set that succeeds", func(w *world) {
			w.removeSet("other")
			w.createNamed("other", newSpec(completions(1), backoffLimit(0)))
			w.advance(time.Minute)
			complete(w)
		}, fails, fails, fails},
		{"succeeds, and is deleted then", func(w *world) {
			complete(w)
			w.removeSet("other")
		}, starts, fails, starts},
		{"succeeds, and is deleted before that is observed", func(w *world) {
			w.syncUntilIdle()
			w.finishUnobserved("other")
			w.removeSet("other")
		}, starts, fails, starts},
		{"succeeds, and is replaced before that is observed", func(w *world) {
			w.syncUntilIdle()
			w.finishUnobserved("other")
			w.removeSet("other")
			w.createNamed("other", newSpec(completions(1), backoffLimit(0)))
		}, starts, fails, starts},
	} {
		for _, dependent := range []struct {
			condition batch.TaskSetDependencyCondition
			want      string
		}{
			{batch.TaskSetDependencyComplete, test.complete}, {batch.TaskSetDependencyFailed, test.failed}, {batch.TaskSetDependencyFinished, test.finished},
		} {
			t.Run(fmt.Sprintf("%s, %s", test.name, dependent.condition), func(t *testing.T) {
				w := newWorld(t)
				w.createNamed("other", newSpec(completions(1), backoffLimit(0)))
				w.create(newSpec(completions(2), parallelism(2), backoffLimit(0), deadline(10), dependsOn("other", dependent.condition)))
				w.advance(time.Minute)
				if got := w.dependencyReason(); got != "False/Waiting" || w.set().Status.StartTime != nil || len(w.activeOf(testSet)) > 0 {
					t.Fatalf("before the other has ended: %s, started at %v, with tasks %v", got, w.set().Status.StartTime, w.activeOf(testSet))
				}
				before := len(w.created)
				test.other(w)
				w.advance(2 * time.Second)
				switch dependent.want {
				case starts:
					if got := w.activeOf(testSet); len(got) != 2 || w.dependencyReason() != "True/DependenciesMet" || w.set().Status.StartTime == nil {
						t.Errorf("active are %v, %s, started at %v", got, w.dependencyReason(), w.set().Status.StartTime)
					}
				case waits:
					if got := w.dependencyReason(); got != "False/Waiting" || w.set().Status.StartTime != nil || len(w.activeOf(testSet)) > 0 {
						t.Errorf("%s, started at %v, with tasks %v", got, w.set().Status.StartTime, w.activeOf(testSet))
					}
				case fails:
					want := []string{"DependencyFailed", "DependencyFailed", "DependencyFailed"}
					var got []string
					for _, name := range []string{batch.TaskSetFailureTarget, batch.TaskSetFailed, batch.TaskSetStalled} {
						if c := meta.FindStatusCondition(w.set().Status.Conditions, name); c != nil {
							got = append(got, c.Reason)
						}
					}
					if diff := cmp.Diff(want, got); diff != "" || w.dependencyReason() != "False/DependencyFailed" || w.set().Status.Failed != 0 {
						t.Errorf("%s, %+v:\n%s", w.dependencyReason(), w.set().Status, diff)
					}
					if !strings.Contains(w.conditionMessage(batch.TaskSetFailed), "TaskSet other") {
						t.Errorf("the message does not name the set: %q", w.conditionMessage(batch.TaskSetFailed))
					}
				}
				if dependent.want != starts && len(w.activeOf(testSet)) > 0 {
					t.Errorf("tasks were created: %d, then %d", before, len(w.created))
				}
			})
		}
	}
}

// removeSet deletes a set and its tasks at once.
func (w *world) removeSet(name string) {
	for _, task := range sortedTasks(w) {
		if task.Labels[batch.LabelTaskSetName] == name {
			w.removeTask(task)
		}
	}
	w.version++
	w.events = append(w.events, event{oldSet: w.sets[name]})
	delete(w.sets, name)
}

// terminateSet starts to delete a set that has a finalizer of another controller.
func (w *world) terminateSet(name string) {
	set := w.sets[name].DeepCopy()
	set.Finalizers = []string{"example.com/hold"}
	w.putSet(set)
	if err := w.deleteSet(name, ""); err != nil {
		w.t.Fatal(err)
	}
}

// finishUnobserved makes a set complete as another controller does. The events are not delivered.
func (w *world) finishUnobserved(name string) {
	set := w.sets[name].DeepCopy()
	now := ptr.To(w.now)
	for _, condition := range []string{batch.TaskSetSuccessCriteriaMet, batch.TaskSetComplete} {
		s := &syncContext{now: *now}
		meta.SetStatusCondition(&set.Status.Conditions, *s.newCondition(condition, "True", batch.TaskSetReasonCompletionsReached, "done"))
	}
	set.Status.Succeeded, set.Status.Active, set.Status.Ready = *set.Spec.Completions, 0, nil
	set.Status.CompletionTime = (&syncContext{now: *now}).timestamp()
	set, err := rules().updateStatus(set, w.sets[name])
	if err != nil {
		w.t.Fatal(err)
	}
	w.putSet(set)
}

func TestSetWaitsForNamesThatDoNotExist(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(1), dependsOn("later", ""), dependsOn("never", batch.TaskSetDependencyFinished)))
	w.advance(time.Hour)
	const both = "TaskSet waits for later (does not exist yet), never (does not exist yet)"
	if got := w.conditionMessage(batch.TaskSetDependenciesMet); got != both || len(w.set().Status.Dependencies) > 0 {
		t.Errorf("%q, %+v", got, w.set().Status.Dependencies)
	}
	w.createNamed("later", newSpec(completions(1)))
	w.advance(time.Second)
	uid := w.sets["later"].UID
	if diff := cmp.Diff([]batch.TaskSetDependencyStatus{{Name: "later", UID: uid}}, w.set().Status.Dependencies); diff != "" {
		t.Error(diff)
	}
	w.endOf("later", 0, 0)
	if diff := cmp.Diff([]batch.TaskSetDependencyStatus{{Name: "later", UID: uid, Met: true}}, w.set().Status.Dependencies); diff != "" {
		t.Error(diff)
	}
	w.expectActive()
	w.createNamed("never", newSpec(completions(1)))
	w.endOf("never", 0, 0)
	w.expectActive(0)
}

// TestSetThatIsBeingDeletedIsNotSeen expects a set to wait for the one that will have the name next.
func TestSetThatIsBeingDeletedIsNotSeen(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(1)))
	w.advance(time.Second)
	w.terminateSet("other")
	w.create(newSpec(completions(1), dependsOn("other", "")))
	w.advance(time.Second)
	w.removeSet("other")
	w.advance(time.Second)
	if got := w.dependencyReason(); got != "False/Waiting" || len(w.set().Status.Dependencies) > 0 {
		t.Fatalf("%s, %+v", got, w.set().Status.Dependencies)
	}
	w.createNamed("other", newSpec(completions(1)))
	w.endOf("other", 0, 0)
	w.expectActive(0)
}

func TestSetThatWaitsCanBeSuspendedAndCancelled(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(1)))
	w.create(newSpec(completions(1), deadline(5), suspended, dependsOn("other", "")))
	w.advance(time.Minute)
	w.change(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(false) })
	w.advance(time.Minute)
	if w.set().Status.StartTime != nil || w.dependencyReason() != "False/Waiting" {
		t.Fatalf("resumed, the set is started: %+v", w.set().Status)
	}
	w.change(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) })
	w.endOf("other", 0, 0)
	w.expectActive()
	w.change(func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(false) })
	w.expectActive(0)

	w.createNamed("third", newSpec(completions(1), dependsOn("nothing", "")))
	w.advance(time.Second)
	w.changeNamed("third", cancel)
	w.advance(time.Second)
	if final := state.FinishedCondition(w.sets["third"]); final == nil || final.Reason != batch.TaskSetReasonCancelled {
		t.Errorf("%+v", w.sets["third"].Status)
	}
}

func TestSetWithoutCompletionsToReachWaits(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(1)))
	w.create(newSpec(completions(0), dependsOn("other", "")))
	w.advance(time.Minute)
	if state.FinishedCondition(w.set()) != nil {
		t.Fatalf("the set is complete before the other: %+v", w.set().Status)
	}
	w.endOf("other", 0, 0)
	if !isConditionTrue(w.set(), batch.TaskSetComplete) {
		t.Errorf("%+v", w.set().Status)
	}
}

// TestTimeToLiveWaitsForDependents kills the controller before a set that depends on another stores that the other has
// ended, and expects that the other still exists then.
func TestTimeToLiveWaitsForDependents(t *testing.T) {
	w := newWorld(t)
	w.collect = true
	w.startController()
	w.createNamed("other", newSpec(completions(1), func(s *batch.TaskSetSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) }))
	w.create(newSpec(completions(1), dependsOn("other", "")))
	w.syncUntilIdle()
	for _, task := range sortedTasks(w) {
		w.endTask(task, 0)
	}
	blocked := false
	w.inject = func(verb, resource string) (before, after error) {
		if final := state.FinishedCondition(w.sets["other"]); final == nil || verb != "update" || resource != "tasksets/status" {
			return nil, nil
		}
		blocked = true
		return errKilled, nil
	}
	for range 10 {
		w.deliver(len(w.events))
		_ = w.reconcile()
		w.now = w.now.Add(time.Second)
	}
	if !blocked || w.sets["other"] == nil || w.sets["other"].DeletionTimestamp != nil {
		t.Fatalf("the other set is deleted although its end is not stored: %v", w.sets["other"])
	}
	w.inject = nil
	w.startController()
	w.advance(10 * time.Second)
	if w.sets["other"] != nil {
		t.Error("the other set is not deleted although its end is stored")
	}
	w.expectActive(0)
}

// TestEventsReachDependents expects names to sync only for changes that matter.
func TestEventsReachDependents(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(3), perIndex(0)))
	w.create(newSpec(completions(3), dependsOn("other", "")))
	w.createNamed("each", newSpec(completions(3), perIndex(0), dependsPerIndex("other")))
	w.syncUntilIdle()
	observe := func(change func(*batch.TaskSet), deleted bool) string {
		set := w.sets["other"].DeepCopy()
		change(set)
		var names []string
		for _, key := range w.c.ObserveSet(set, deleted) {
			names = append(names, key.Name)
		}
		for i, name := range names {
			if name == "set" && i == 0 && len(names) == 3 {
				names[0], names[1] = names[1], names[0]
			}
		}
		return strings.Join(names, " ")
	}
	for _, test := range []struct {
		name    string
		change  func(*batch.TaskSet)
		deleted bool
		want    string
	}{
		{"nothing", func(*batch.TaskSet) {}, false, "other"},
		{"active tasks", func(set *batch.TaskSet) { set.Status.Active = 99 }, false, "other"},
		{"a success", func(set *batch.TaskSet) { set.Status.CompletedIndexes = "1" }, false, "each other"},
		{"a failure", func(set *batch.TaskSet) { set.Status.CompletedIndexes, set.Status.FailedIndexes = "1", ptr.To("2") }, false, "each other"},
		{"the end", func(set *batch.TaskSet) {
			set.Status.CompletedIndexes, set.Status.FailedIndexes = "1", ptr.To("2")
			meta.SetStatusCondition(&set.Status.Conditions, *(&syncContext{}).newCondition(batch.TaskSetFailed, "True", "FailedIndexes", ""))
		}, false, "each set other"},
		{"the deletion", func(*batch.TaskSet) {}, true, "each set other"},
	} {
		if got := observe(test.change, test.deleted); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	w.removeSet("each")
	w.removeSet(testSet)
	w.removeSet("other")
	w.syncUntilIdle()
	if n := w.c.store.Len(); n > 0 {
		t.Errorf("%d names are kept of sets that are gone", n)
	}
}

// TestGoneSetIsConfirmedByTheServer expects that a set is only taken as gone when the server says so: a new leader may
// observe less than the former one had.
func TestGoneSetIsConfirmedByTheServer(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(1)))
	w.create(newSpec(completions(1), dependsOn("other", "")))
	w.advance(time.Second)
	other := w.sets["other"]
	delete(w.sets, "other")
	w.startController() // its list lacks the other set
	w.sets["other"] = other
	w.deliver(len(w.events))
	if err := w.reconcile(); err != nil {
		t.Fatal(err)
	}
	if state.TargetCondition(w.set()) != nil || w.requests["get tasksets"] == 0 {
		t.Errorf("the set fails although the other exists: %+v", w.set().Status)
	}
}

// TestIndexesFollowThoseOfAnotherSet checks after each step which indexes run.
func TestIndexesFollowThoseOfAnotherSet(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(6), parallelism(6), perIndex(0)))
	w.create(newSpec(completions(6), parallelism(6), perIndex(0), deadline(3600), dependsPerIndex("other")))
	w.advance(time.Minute)
	if w.set().Status.StartTime != nil || w.dependencyReason() != "False/Waiting" {
		t.Fatalf("started before an index may run: %+v", w.set().Status)
	}
	step := func(do func(), active ...int) {
		t.Helper()
		do()
		w.advance(2 * time.Second)
		if diff := cmp.Diff(append([]int{}, active...), w.activeOf(testSet)); diff != "" {
			t.Fatalf("want -, got +:\n%s", diff)
		}
	}
	step(func() { w.endOf("other", 0, 4) }, 4)
	step(func() { w.endOf("other", 1, 1) }, 4)
	if got := ptr.Deref(w.set().Status.FailedIndexes, ""); got != "1" || w.set().Status.Failed != 0 {
		t.Errorf("failed indexes %q, %d failed tasks", got, w.set().Status.Failed)
	}
	step(func() { w.endOf("other", 0, 0) }, 0, 4)
	step(func() { w.endOf(testSet, 0, 4) }, 0)
	step(func() { w.endOf(testSet, 1, 0) })
	step(func() { w.startController() })
	step(func() { w.endOf("other", 0, 2, 3, 5) }, 2, 3, 5)
	if got := w.dependencyReason(); got != "True/DependenciesMet" {
		t.Errorf("the other set has ended: %s", got)
	}
	step(func() { w.removeSet("other") }, 2, 3, 5)
	step(func() { w.startController() }, 2, 3, 5)
	step(func() { w.endOf(testSet, 0, 2, 3, 5) })
	want := wantStatus{
		conditions: []string{
			"DependenciesMet/DependenciesMet", "FailureTarget/FailedIndexes", "Failed/FailedIndexes", "Stalled/FailedIndexes",
		},
		succeeded: 4, failed: 1, completed: "2-5", failedIndexes: "0,1", started: true,
	}
	w.expect(want)
}

// TestIndexesOfAnotherSetThatEnds expects that indexes which did not succeed there fail here, however it has ended.
func TestIndexesOfAnotherSetThatEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		other batch.TaskSetSpec
		end   func(*world)
		want  string
	}{
		{"cancelled", newSpec(completions(4), parallelism(4), perIndex(0)), func(w *world) { w.changeNamed("other", cancel) }, "1-3"},
		{"one failure fails all", newSpec(completions(4), parallelism(4), indexed, backoffLimit(0)), func(w *world) { w.endOf("other", 1, 2) }, "1-3"},
		{"enough have succeeded", newSpec(completions(4), parallelism(4), perIndex(0), success(ptr.To("0,3"), nil)), func(w *world) { w.endOf("other", 0, 3) }, "1,2"},
		{"the others are cancelled", newSpec(completions(4), parallelism(4), perIndex(0)), func(w *world) {
			w.changeNamed("other", func(set *batch.TaskSet) { set.Spec.CancelledIndexes = "1-3" })
		}, "1-3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.createNamed("other", test.other)
			w.create(newSpec(completions(4), parallelism(1), perIndex(0), dependsPerIndex("other")))
			w.endOf("other", 0, 0)
			w.expectActiveOf(testSet, 0)
			test.end(w)
			w.advance(2 * time.Second)
			if got := ptr.Deref(w.set().Status.FailedIndexes, ""); got != test.want || w.dependencyReason() != "True/DependenciesMet" {
				t.Errorf("failed are %q, want %q; %s", got, test.want, w.dependencyReason())
			}
			w.endOf(testSet, 0, 0)
		})
	}
}

// expectActiveOf syncs until the controller is idle, and compares the indexes of a set with active tasks.
func (w *world) expectActiveOf(name string, want ...int) {
	w.t.Helper()
	w.advance(2 * time.Second)
	if diff := cmp.Diff(append([]int{}, want...), w.activeOf(name)); diff != "" {
		w.t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestSetWithOtherIndexesWaitsAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(3), parallelism(3), indexed, perIndex(0)))
	w.create(newSpec(completions(4), perIndex(0), dependsPerIndex("other")))
	w.endOf("other", 0, 0)
	w.expectActiveOf(testSet)
	if got := w.dependencyReason(); got != "False/CompletionsDiffer" {
		t.Error(got)
	}
	w.changeNamed("other", func(set *batch.TaskSet) {
		set.Spec.Completions, set.Spec.Parallelism = ptr.To[int32](4), ptr.To[int32](4)
	})
	w.expectActiveOf(testSet, 0)
	w.changeNamed("other", func(set *batch.TaskSet) {
		set.Spec.Completions, set.Spec.Parallelism = ptr.To[int32](5), ptr.To[int32](5)
	})
	w.expectActiveOf(testSet, 0)
	w.changeNamed("other", cancel)
	w.expectActiveOf(testSet)
	if got := w.dependencyReason(); got != "False/DependencyFailed" || !isConditionTrue(w.set(), batch.TaskSetFailed) {
		t.Errorf("%s: %+v", got, w.set().Status)
	}
}

func TestIndexesFollowSeveralSets(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b"} {
		w.createNamed(name, newSpec(completions(3), parallelism(3), perIndex(0)))
	}
	w.create(newSpec(completions(3), parallelism(3), perIndex(0), dependsPerIndex("a"), dependsPerIndex("b"), dependsOn("whole", "")))
	w.endOf("a", 0, 0, 1)
	w.endOf("b", 0, 1, 2)
	w.expectActiveOf(testSet)
	w.createNamed("whole", newSpec(completions(1)))
	w.endOf("whole", 0, 0)
	w.expectActiveOf(testSet, 1)
	w.endOf("a", 1, 2)
	w.expectActiveOf(testSet, 1)
	w.endOf("b", 0, 0)
	w.expectActiveOf(testSet, 0, 1)
	if got := ptr.Deref(w.set().Status.FailedIndexes, ""); got != "2" {
		t.Errorf("failed are %q", got)
	}
}

// TestFewIndexesFailBeyondTheLimit expects that a set does not list more failed indexes than its status has space for.
func TestFewIndexesFailBeyondTheLimit(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(1000), parallelism(1), perIndex(0)))
	w.create(newSpec(completions(1000), perIndex(0), maxFailedIndexes(5), dependsPerIndex("other")))
	w.endOf("other", 0, 0)
	w.changeNamed("other", cancel)
	w.advance(2 * time.Second)
	if got := ptr.Deref(w.set().Status.FailedIndexes, ""); got != "1-6" || !isConditionTrue(w.set(), batch.TaskSetFailed) {
		t.Errorf("failed are %q: %v", got, w.conditions())
	}
}

// TestChunksOfFollowingSetHaveOnlyStartableIndexes runs a set whose commands are short.
func TestChunksOfFollowingSetHaveOnlyStartableIndexes(t *testing.T) {
	w := newWorld(t)
	w.createNamed("other", newSpec(completions(40), parallelism(40), perIndex(0), func(s *batch.TaskSetSpec) {
		s.Chunking = &batch.TaskSetChunking{MaxIndexes: ptr.To[int32](1)}
	}))
	w.create(newSpec(completions(40), parallelism(40), perIndex(0), dependsPerIndex("other")))
	w.sets[testSet].Status.MedianMilliseconds = 10
	var even []int
	for i := 0; i < 40; i += 2 {
		even = append(even, i)
	}
	w.endOf("other", 0, even...)
	w.advance(2 * time.Second)
	chunks, ran := 0, 0
	for _, task := range w.tasks {
		if task.Labels[batch.LabelTaskSetName] != testSet {
			continue
		}
		for _, r := range task.CompletionIndexes() {
			ran += r.Last - r.First + 1
			if r.First != r.Last || r.First%2 != 0 {
				t.Errorf("task %s has indexes %v", task.Name, r)
			}
		}
		if task.Spec.Indexes != "" {
			chunks++
		}
	}
	if chunks == 0 || ran != len(even) {
		t.Errorf("%d chunks, and %d indexes run of %d", chunks, ran, len(even))
	}
}

// TestCancelledIndexesFailOnce cancels indexes in all states.
func TestCancelledIndexesFailOnce(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(8), parallelism(4), perIndex(1)))
	w.advance(time.Second)
	w.run(0, 1, 2, 3)
	w.end(0, 0)
	w.end(1, 1)
	w.advance(2 * time.Second) // 1 is in backoff
	w.expectActive(2, 3, 4)
	w.change(func(set *batch.TaskSet) { set.Spec.CancelledIndexes = "0-2,5" })
	w.advance(2 * time.Second)
	w.endTerminating()
	w.expectActive(3, 4, 6, 7)
	w.startController()
	w.advance(time.Minute)
	w.end(0, 3, 4, 6)
	w.end(1, 7)
	w.advance(2 * time.Minute)
	w.change(func(set *batch.TaskSet) { set.Spec.CancelledIndexes = "0-2,5-7" })
	w.advance(2 * time.Second)
	w.expect(wantStatus{
		conditions: []string{"FailureTarget/FailedIndexes", "Failed/FailedIndexes", "Stalled/FailedIndexes"},
		succeeded:  4, failed: 2, completed: "0,3,4,6", failedIndexes: "1,2,5,7", started: true,
	})
}

// endTerminating ends the tasks that are being deleted, as a worker does that kills their commands.
func (w *world) endTerminating() {
	for _, task := range sortedTasks(w) {
		if task.DeletionTimestamp != nil {
			w.removeTask(task)
		}
	}
}

// TestCancelledIndexOfChunk expects that a task with a cancelled index ends, that what it has completed counts, and
// that its other indexes run again.
func TestCancelledIndexOfChunk(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(10), parallelism(1), perIndex(0)))
	w.sets[testSet].Status.MedianMilliseconds = 100
	w.advance(time.Second)
	task := w.task(0)
	if task.Spec.Indexes == "" {
		t.Fatalf("the task has no indexes: %+v", task.Spec)
	}
	task.Spec.WorkerName, task.Status.Phase, task.Status.CompletedCount = "worker", batch.TaskRunning, 2
	w.putTask(task)
	w.change(func(set *batch.TaskSet) { set.Spec.CancelledIndexes = "3" })
	w.advance(2 * time.Second)
	if w.tasks[task.Name].DeletionTimestamp == nil {
		t.Fatal("the task is not deleted")
	}
	w.endTerminating()
	w.advance(2 * time.Second)
	for _, task := range w.tasks {
		for _, r := range task.CompletionIndexes() {
			if r.First <= 3 && 3 <= r.Last || r.First < 2 {
				t.Errorf("indexes %v run", r)
			}
		}
	}
	if status := w.set().Status; status.CompletedIndexes != "0,1" || ptr.Deref(status.FailedIndexes, "") != "3" || status.Failed != 0 {
		t.Errorf("%+v", status)
	}
	if active := w.active(); len(active) != 1 || active[0] != 2 {
		t.Errorf("active are %v", active)
	}
}

// TestSuccessPolicyWithCancelledIndexes expects that a set succeeds whose policy does not need the cancelled indexes.
func TestSuccessPolicyWithCancelledIndexes(t *testing.T) {
	w := newWorld(t)
	w.create(newSpec(completions(3), parallelism(3), perIndex(0), success(ptr.To("0,2"), nil), cancelledIndexes("1")))
	w.expectActive(0, 2)
	w.end(0, 0, 2)
	w.advance(2 * time.Second)
	if !isConditionTrue(w.set(), batch.TaskSetComplete) || ptr.Deref(w.set().Status.FailedIndexes, "") != "1" {
		t.Errorf("%v: %+v", w.conditions(), w.set().Status)
	}
}
