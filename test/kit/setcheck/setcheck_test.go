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

package setcheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
)

// record is a history, and the marks of commands. A change at revision n is received at second n.
type record struct {
	changes []history.Change
	marks   []Mark
	tasks   map[types.UID]*batch.Task
	// at has the positions of changes that tests refer to.
	at map[string]int
}

func (r *record) add(what string, c history.Change) {
	r.at[what] = len(r.changes)
	c.Revision = int64(len(r.changes) + 1)
	c.Received = time.Unix(c.Revision, 0)
	r.changes = append(r.changes, c)
}

// create creates a task with indexes as spec.indexes has them, or with one index.
func (r *record) create(uid types.UID, list string) {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "s-" + string(uid), UID: uid}}
	task.Labels = map[string]string{batch.LabelTaskSetName: "s"}
	if _, err := strconv.Atoi(list); err == nil {
		task.Labels[batch.LabelCompletionIndex] = list
	} else {
		task.Spec.Indexes = list
	}
	task.Status.Phase = batch.TaskPending
	r.tasks[uid] = task
	r.add(string(uid)+" created", history.Change{After: task})
}

func (r *record) update(what string, uid types.UID, edit func(*batch.Task)) {
	before := r.tasks[uid]
	after := before.DeepCopy()
	edit(after)
	r.tasks[uid] = after
	r.add(string(uid)+" "+what, history.Change{Before: before, After: after})
}

func (r *record) bind(uid types.UID, worker string) {
	r.update("bound", uid, func(t *batch.Task) { t.Spec.WorkerName, t.Status.Incarnation = worker, worker+"1"; t.Status.Bindings++ })
}

func (r *record) evict(uid types.UID) {
	r.update("evicted", uid, func(t *batch.Task) {
		t.Spec.WorkerName, t.Status.Incarnation, t.Status.Phase = "", "", batch.TaskPending
		t.Status.Disruptions++
		meta.SetStatusCondition(&t.Status.Conditions, metav1.Condition{Type: batch.DisruptionTarget, Status: metav1.ConditionTrue, Reason: "WorkerLost"})
		if t.Spec.Indexes != "" {
			t.Status.IndexLimit = new(t.Status.CompletedCount + 1)
		}
	})
}

func (r *record) report(what string, uid types.UID, phase batch.TaskPhase, completed, attempts int32) {
	r.update(what, uid, func(t *batch.Task) {
		t.Status.Phase, t.Status.CompletedCount, t.Status.Attempts = phase, completed, attempts
	})
}

func (r *record) remove(uid types.UID) {
	r.add(string(uid)+" deleted", history.Change{Before: r.tasks[uid]})
}

func (r *record) set(what, completed string, succeeded, failed int32, done bool) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	set.Status.CompletedIndexes, set.Status.Succeeded, set.Status.Failed = completed, succeeded, failed
	if done {
		set.Status.Conditions = []metav1.Condition{{Type: batch.TaskSetComplete, Status: metav1.ConditionTrue}}
	}
	r.add(what, history.Change{SetAfter: set})
}

// mark adds marks of a command right after the last change.
func (r *record) mark(uid types.UID, worker string, index int, kinds ...MarkKind) {
	for _, kind := range kinds {
		at := time.Unix(int64(len(r.changes)), int64(1000*(len(r.marks)+1)))
		r.marks = append(r.marks, Mark{Kind: kind, Index: index, Task: uid, Worker: worker, Incarnation: worker + "1", At: at})
	}
}

// right returns the record of a set that keeps all promises. Its index 0 loses a worker, and index 1 is alone. A chunk
// has the others: worker a runs 2, 3 and 4, and releases 5 to 8. Worker b gets these, and fails at 6, which runs
// again alone. Then a gets 7 and 8, and loses them while 7 runs.
func right() *record {
	r := &record{tasks: map[types.UID]*batch.Task{}, at: map[string]int{}}
	r.create("zero", "0")
	r.bind("zero", "a")
	r.mark("zero", "a", 0, Start)
	r.report("running", "zero", batch.TaskRunning, 0, 1)
	r.evict("zero")
	r.bind("zero", "b")
	r.mark("zero", "b", 0, Start)
	r.report("running again", "zero", batch.TaskRunning, 0, 2)
	r.mark("zero", "b", 0, End)
	r.report("succeeded", "zero", batch.TaskSucceeded, 0, 2)
	r.create("one", "1")
	r.bind("one", "a")
	r.mark("one", "a", 1, Start, End)
	r.report("succeeded", "one", batch.TaskSucceeded, 0, 1)
	r.set("zero counted", "0", 1, 0, false)
	r.remove("zero")
	r.set("one counted", "0-1", 2, 0, false)
	r.remove("one")

	r.create("first", "2-8")
	r.bind("first", "a")
	r.mark("first", "a", 2, Start, End)
	r.mark("first", "a", 3, Start, End)
	r.mark("first", "a", 4, Start)
	r.report("running", "first", batch.TaskRunning, 2, 1)
	r.update("released", "first", func(t *batch.Task) { t.Status.IndexLimit = new(int32(3)) })
	r.create("second", "5-8")
	r.bind("second", "b")
	r.mark("first", "a", 4, End)
	r.report("succeeded", "first", batch.TaskSucceeded, 3, 1)
	r.mark("second", "b", 5, Start, End)
	r.mark("second", "b", 6, Start, Fail)
	r.report("failed", "second", batch.TaskFailed, 1, 1)
	r.create("retry", "6")
	r.bind("retry", "a")
	r.mark("retry", "a", 6, Start, End)
	r.report("succeeded", "retry", batch.TaskSucceeded, 0, 1)
	r.create("third", "7-8")
	r.bind("third", "a")
	r.mark("third", "a", 7, Start)
	r.evict("third")
	r.create("last", "8")
	r.bind("last", "b")
	r.mark("last", "b", 8, Start, End)
	r.report("succeeded", "last", batch.TaskSucceeded, 0, 1)
	r.bind("third", "b")
	r.report("running", "third", batch.TaskRunning, 0, 1)
	r.mark("third", "b", 7, Start, End)
	r.report("succeeded", "third", batch.TaskSucceeded, 1, 1)
	r.set("all counted", "0-8", 9, 1, true)
	for _, uid := range []types.UID{"first", "second", "retry", "third", "last"} {
		r.remove(uid)
	}
	return r
}

// TestCheckDetectsFaults plants one fault after the other into the record of a set.
func TestCheckDetectsFaults(t *testing.T) {
	const completions = 9
	// edit changes the task after a change.
	edit := func(what string, f func(*batch.Task)) func(*record) {
		return func(r *record) {
			i := r.at[what]
			f(r.changes[i].After)
		}
	}
	status := func(what string, f func(*batch.TaskSetStatus)) func(*record) {
		return func(r *record) { f(&r.changes[r.at[what]].SetAfter.Status) }
	}
	drop := func(what string) func(*record) {
		return func(r *record) { r.changes = slices.Delete(r.changes, r.at[what], r.at[what]+1) }
	}
	swap := func(what string) func(*record) {
		return func(r *record) {
			i := r.at[what]
			r.changes[i], r.changes[i-1] = r.changes[i-1], r.changes[i]
		}
	}
	started := func(uid types.UID, worker string, index int, after string) func(*record) {
		return func(r *record) {
			at := time.Unix(int64(r.at[after]+1), 999e6)
			r.marks = append(r.marks, Mark{Kind: Start, Index: index, Task: uid, Worker: worker, Incarnation: worker + "1", At: at})
		}
	}
	unmarked := func(uid types.UID, index int, kind MarkKind) func(*record) {
		return func(r *record) {
			r.marks = slices.DeleteFunc(r.marks, func(m Mark) bool { return m.Task == uid && m.Index == index && m.Kind == kind })
		}
	}
	for _, test := range []struct {
		name, want string
		plant      func(*record)
	}{
		{"nothing", "", func(*record) {}},
		{"a late start on the worker that it was evicted from", "", func(r *record) { r.marks[0].At = time.Unix(11, 0) }},

		{"an index counted twice", "succeeded is 2, but the completed indexes are 0", status("zero counted", func(s *batch.TaskSetStatus) { s.Succeeded = 2 })},
		{"an index counted without success", "none of its tasks succeeded", drop("zero succeeded")},
		{"an index counted while it runs", "index 4 is counted, but none", status("one counted", func(s *batch.TaskSetStatus) { s.CompletedIndexes, s.Succeeded = "0-1,4", 3 })},
		{"an index that is no longer counted", "is no longer counted", status("one counted", func(s *batch.TaskSetStatus) { s.CompletedIndexes, s.Succeeded = "1", 1 })},
		{"an index lost", "index 8 is not counted in the end", status("all counted", func(s *batch.TaskSetStatus) { s.CompletedIndexes, s.Succeeded = "0-7", 8 })},
		{"an index that failed for good without a failure", "counted as failed after 0 failures", status("all counted", func(s *batch.TaskSetStatus) { s.FailedIndexes = new("8") })},
		{"a failure that is not counted", "failed is 0 in the end, but 1 tasks", status("all counted", func(s *batch.TaskSetStatus) { s.Failed = 0 })},
		{"a task deleted before it was counted", "deleted before its index 0", swap("zero deleted")},
		{"a task deleted while it ran", "deleted while worker a had its index 4", func(r *record) {
			i := r.at["first released"]
			r.changes = slices.Insert(r.changes, i, history.Change{Before: r.changes[i].Before})
		}},
		{"a set that does not complete", "not complete", status("all counted", func(s *batch.TaskSetStatus) { s.Conditions = nil })},
		{"a set written after completion", "after completion", func(r *record) { r.changes = append(r.changes, r.changes[r.at["all counted"]]) }},

		{"two incarnations at once", "without an eviction", edit("zero succeeded", func(t *batch.Task) { t.Status.Incarnation = "b2" })},
		{"an attempt of two incarnations", "attempt 1 is reported by incarnation b1 after a1", edit("zero running again", func(t *batch.Task) { t.Status.Attempts = 1 })},
		{"a report of the worker that it was evicted from", "was evicted from a, and has phase Succeeded", edit("zero evicted", func(t *batch.Task) { t.Status.Phase = batch.TaskSucceeded })},
		{"two tasks of an index", "has several tasks", func(r *record) {
			other := r.changes[0].After.DeepCopy()
			other.UID = "other"
			r.changes = slices.Insert(r.changes, 1, history.Change{After: other})
		}},
		{"a chunk with an index that has failed", "is not alone", edit("third created", func(t *batch.Task) { t.Spec.Indexes = "6-8" })},
		{"a chunk with an index that another has", "its index 4 has several tasks", edit("second created", func(t *batch.Task) { t.Spec.Indexes = "4-8" })},
		{"a final phase that changes", "it was Succeeded and is Running", func(r *record) {
			c := r.changes[r.at["zero succeeded"]]
			c.Before, c.After = c.After, c.After.DeepCopy()
			c.After.Status.Phase = batch.TaskRunning
			r.changes = slices.Insert(r.changes, r.at["one created"], c)
		}},

		{"a start after success", "after it succeeded at", func(r *record) {
			r.marks[slices.IndexFunc(r.marks, func(m Mark) bool { return m.Task == "one" })].At = time.Unix(30, 0)
		}},
		{"a start without a binding", "more than task s-one allows worker b", started("one", "b", 1, "one bound")},
		{"a second start under a binding", "more than task s-one allows worker a", started("one", "a", 1, "one bound")},
		{"a start of another task's index", "more than task s-one allows", started("one", "a", 5, "one bound")},
		{"a command that never ended", "never came to that", unmarked("one", 1, End)},
		{"an index of a chunk that never ended", "never came to that", unmarked("first", 3, End)},
		{"a failure that no command had", "never came to that", unmarked("second", 6, Fail)},
		{"a start on a second worker", "while it ran on worker a", func(r *record) {
			for _, kind := range []MarkKind{Start, End} {
				r.marks = append(r.marks, Mark{Kind: kind, Index: 4, Task: "second", Worker: "b", Incarnation: "b1", At: time.Unix(int64(r.at["first released"]+1), 5e8)})
			}
		}},

		// What must not happen with tasks that have several indexes.
		{"an index started after its release was sent", "index 5 was started once more than task s-first allows worker a", started("first", "a", 5, "first released")},
		{"an index started after the end of its task", "index 8 was started once more than task s-second allows worker b", started("second", "b", 8, "second failed")},
		{"a prefix counter that goes back", "1 completed indexes after 2", edit("first released", func(t *batch.Task) { t.Status.CompletedCount = 1 })},
		{"a chunk continued past a failure", "index 7 of task s-second was started after index 6 had failed", started("second", "b", 7, "second failed")},
		{"an eviction that keeps indexes", "was evicted with", edit("third evicted", func(t *batch.Task) { t.Status.IndexLimit = nil })},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := right()
			test.plant(r)
			got := strings.Join(Check(r.changes, r.marks, Want{Set: "s", Completions: completions, Failures: 2}).Wrong, "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("got violations %q, want %q", got, test.want)
			}
		})
	}
}

func TestCheckCounts(t *testing.T) {
	r := right()
	got := Check(r.changes, r.marks, Want{Set: "s", Completions: 9, Failures: 2})
	if got.Chunks != 3 || got.Released != 4+2 || got.Evictions != 2 || got.Starts != 12 || got.Restarted != 3 || got.LateStarts != 0 {
		t.Errorf("got %s", got)
	}
}

// An index that fails each time must be counted as failed, and no other.
func TestCheckKnowsIndexesThatFail(t *testing.T) {
	r := &record{tasks: map[types.UID]*batch.Task{}, at: map[string]int{}}
	for _, uid := range []types.UID{"once", "twice"} {
		r.create(uid, "0")
		r.bind(uid, "a")
		r.mark(uid, "a", 0, Start, Fail)
		r.report("failed", uid, batch.TaskFailed, 0, 1)
	}
	r.set("failed", "", 0, 2, false)
	status := &r.changes[len(r.changes)-1].SetAfter.Status
	status.FailedIndexes = new("0")
	status.Conditions = []metav1.Condition{{Type: batch.TaskSetFailed, Status: metav1.ConditionTrue}}
	always := func(int) bool { return true }
	if wrong := Check(r.changes, r.marks, Want{Set: "s", Completions: 1, Fails: always, Failures: 2}).Wrong; len(wrong) > 0 {
		t.Errorf("got violations %q, want none", wrong)
	}
	for name, want := range map[string]Want{
		"after 2 failures, want 3":       {Set: "s", Completions: 1, Fails: always, Failures: 3},
		"index 0 is not counted":         {Set: "s", Completions: 1, Failures: 2},
		"2 tasks of index 0 have failed": {Set: "s", Completions: 1, Fails: always, Failures: 1},
	} {
		if got := strings.Join(Check(r.changes, r.marks, want).Wrong, "\n"); !strings.Contains(got, name) {
			t.Errorf("got violations %q, want %q", got, name)
		}
	}
}

// A former leader creates a task that shares index 1 with another. The controller deletes it, and it has succeeded
// before its worker knows.
func TestCheckAllowsLateCreations(t *testing.T) {
	r := &record{tasks: map[types.UID]*batch.Task{}, at: map[string]int{}}
	r.create("first", "0-1")
	r.bind("first", "a")
	r.create("late", "1-2")
	r.bind("late", "b")
	for index, worker := range []string{"a", "a", "b"} {
		uid := types.UID("first")
		if index == 2 {
			uid = "late"
			r.mark(uid, worker, 1, Start, End)
		}
		r.mark(uid, worker, index, Start, End)
	}
	r.report("succeeded", "first", batch.TaskSucceeded, 2, 1)
	r.report("succeeded", "late", batch.TaskSucceeded, 2, 1)
	r.remove("late")
	r.set("counted", "0-2", 3, 0, true)
	r.remove("first")
	want := Want{Set: "s", Completions: 3, LateCreations: true}
	if got := Check(r.changes, r.marks, want); len(got.Wrong) > 0 || got.LateCreations != 1 {
		t.Errorf("got %d late creations and violations %q, want 1 and none", got.LateCreations, got.Wrong)
	}
	want.LateCreations = false
	if got := strings.Join(Check(r.changes, r.marks, want).Wrong, "\n"); !strings.Contains(got, "its index 1 has several tasks") {
		t.Errorf("without late creations: got violations %q", got)
	}
}

func TestParseMarks(t *testing.T) {
	got, err := ParseMarks("start 1 5.7/ns/a/inc/uid-9_1-2 5000001\nfail 3 5.7/ns/b/inc/uid-9-1 6000000\n")
	want := []Mark{
		{Kind: Start, Index: 1, Task: "uid-9", Worker: "a", Incarnation: "inc", At: time.UnixMicro(5000001)},
		{Kind: Fail, Index: 3, Task: "uid-9", Worker: "b", Incarnation: "inc", At: time.UnixMicro(6000000)},
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, line := range []string{"start 1\n", "start 1 inc/uid-1 5\n", "start 1 o/ns/w/inc/none 5\n"} {
		if _, err := ParseMarks(line); err == nil {
			t.Errorf("%q was parsed", line)
		}
	}
}
