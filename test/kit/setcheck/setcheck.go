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

// Package setcheck checks the life of each index of a TaskSet. It compares what etcd has recorded of the set and its
// tasks, and what the commands have recorded themselves, with docs/concepts/reliability.md.
package setcheck

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// Want is what a set must come to.
type Want struct {
	// Set is the name of the set, and Completions the number of its indexes.
	Set         string
	Completions int
	// Fails reports whether an index fails in the end. All others are completed. Nil means that none fails.
	Fails func(index int) bool
	// Failures is how often an index that fails does so: its backoffLimitPerIndex and one.
	Failures int
	// LateCreations allows that two tasks have the same index, or that a task of an index is created after the index was
	// counted: a controller manager that wakes from a freeze, or has lost its connection, still sends what it had
	// prepared. The index is counted once nevertheless.
	LateCreations bool
}

// binding is one assignment of a task to a worker. The worker may start the indexes at the positions from first up to
// and without end, once each.
type binding struct {
	task                *task
	worker, incarnation string
	first, end          int
	evicted             bool
}

// task is the state of a task at a revision.
type task struct {
	name    string
	uid     types.UID
	chunk   bool
	ranges  []indexes.Range
	binding *binding // nil while it is not bound
	// The task holds the indexes at the positions from completed up to and without end.
	completed, end int
}

// index is the state of an index at a revision.
type index struct {
	holders []*task
	// succeeded and failed count the tasks that reported so, and late those that were created while another task had the
	// index, or after it was counted.
	succeeded, failed, late int
	completed               bool // by the stored status of the set
	failedFinally           bool // by the stored status of the set
	succeededAt             time.Time
}

// Result is the state of a check.
type Result struct {
	// Wrong are the violations.
	Wrong []string
	// Chunks counts tasks that have several indexes, Released indexes that a worker released before it started them,
	// Starts starts of commands, Restarted all but the first of each index, LateStarts those after the success of their
	// index, and LateCreations tasks that Want.LateCreations allows.
	Chunks, Released, Evictions, Starts, Restarted, LateStarts, LateCreations int

	want     Want
	indexes  []index
	tasks    map[types.UID]*task
	bindings []*binding
	done     bool
	failed   int32
	// reporters are the incarnations that reported the attempts, by task, completedCount and number.
	reporters map[string]string
	// reported are the ends that workers reported.
	reported []Mark
}

func (r *Result) fail(format string, args ...any) {
	r.Wrong = append(r.Wrong, "set "+r.want.Set+": "+fmt.Sprintf(format, args...))
}

// Check compares the history of a set and the marks of its commands with the promises:
//   - A task is bound to one worker at a time, and only the incarnation that it is bound to reports on it. Its prefix
//     of completed indexes never shrinks, and indexes that it has released stay released.
//   - At any time, one task at most has an index that has not ended. A task is deleted only after its ends were
//     counted.
//   - A counted index has succeeded, or failed for good; it is counted once, and stays counted. In the end all are.
//   - A worker starts an index once for each binding of a task that has it, and none that its task has released or that
//     is behind a failed one.
//   - A command has run to the end that its worker reports, and none of the index starts after its success, except on a
//     worker that has lost it.
func Check(changes []history.Change, marks []Mark, want Want) *Result {
	r := &Result{want: want, indexes: make([]index, want.Completions), tasks: map[types.UID]*task{}, reporters: map[string]string{}}
	for _, c := range changes {
		switch {
		case c.SetAfter != nil && c.SetAfter.Name == want.Set:
			r.observeSet(c.Revision, c.SetAfter)
		case c.Task() != nil && c.Task().Labels[batch.LabelTaskSetName] == want.Set:
			r.observeTask(c)
		}
	}
	r.checkEnd()
	r.compareMarks(marks)
	return r
}

// checkEnd checks the final state of the set and its indexes.
func (r *Result) checkEnd() {
	failures, late := 0, 0
	for n := range r.indexes {
		i := &r.indexes[n]
		failures, late = failures+i.failed, late+i.late
		switch fails := r.want.Fails != nil && r.want.Fails(n); {
		case fails && (!i.failedFinally || i.completed):
			r.fail("index %d is not counted as failed in the end", n)
		case !fails && (!i.completed || i.failedFinally):
			r.fail("index %d is not counted in the end", n)
		case !fails && (i.succeeded < 1 || i.succeeded > 1+i.late):
			r.fail("%d tasks of index %d have succeeded", i.succeeded, n)
		case fails && (i.failed < r.want.Failures || i.failed > r.want.Failures+i.late):
			r.fail("%d tasks of index %d have failed, want %d", i.failed, n, r.want.Failures)
		}
	}
	if late == 0 && int(r.failed) != failures {
		r.fail("failed is %d in the end, but %d tasks have failed", r.failed, failures)
	}
	if !r.done {
		r.fail("not complete")
	}
}

// observeSet checks the status of the set at a revision.
func (r *Result) observeSet(revision int64, set *batch.TaskSet) {
	completed, err := indexes.Parse(set.Status.CompletedIndexes, r.want.Completions)
	if err != nil {
		r.fail("revision %d: %v", revision, err)
		return
	}
	failed, err := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), r.want.Completions)
	if err != nil {
		r.fail("revision %d: %v", revision, err)
		return
	}
	for n := range r.indexes {
		i := &r.indexes[n]
		nowCompleted, nowFailed := indexes.Contains(completed, n), indexes.Contains(failed, n)
		switch {
		case i.completed && !nowCompleted:
			r.fail("revision %d: index %d is no longer counted: %s", revision, n, set.Status.CompletedIndexes)
		case i.failedFinally && !nowFailed:
			r.fail("revision %d: index %d is no longer counted as failed: %s", revision, n, *set.Status.FailedIndexes)
		case nowCompleted && i.succeeded == 0:
			r.fail("revision %d: index %d is counted, but none of its tasks succeeded", revision, n)
		case nowFailed && i.failed < r.want.Failures:
			r.fail("revision %d: index %d is counted as failed after %d failures, want %d", revision, n, i.failed, r.want.Failures)
		}
		i.completed, i.failedFinally = nowCompleted, nowFailed
	}
	if int(set.Status.Succeeded) != indexes.Count(completed) {
		r.fail("revision %d: succeeded is %d, but the completed indexes are %s", revision, set.Status.Succeeded, set.Status.CompletedIndexes)
	}
	if set.Status.Failed < r.failed {
		r.fail("revision %d: failed is %d after %d", revision, set.Status.Failed, r.failed)
	}
	if r.done {
		r.fail("revision %d: the status was written after completion: %+v", revision, set.Status)
	}
	r.failed = set.Status.Failed
	r.done = meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete) || meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetFailed)
}

// observeTask checks a change of a task of the set.
func (r *Result) observeTask(c history.Change) {
	wrong := func(format string, args ...any) {
		r.fail("revision %d: task %s: %s", c.Revision, c.Task().Name, fmt.Sprintf(format, args...))
	}
	if c.Before == nil {
		r.create(c.After, wrong)
		return
	}
	t := r.tasks[c.Task().UID]
	switch {
	case t == nil:
		wrong("it changed, and was not created")
	case c.After == nil:
		r.delete(t, c.Before, wrong)
	default:
		for _, message := range transitions.Wrong(c.Before, c.After) {
			wrong("%s", message)
		}
		r.update(t, c, wrong)
	}
}

func (r *Result) create(created *batch.Task, wrong func(string, ...any)) {
	t := &task{name: created.Name, uid: created.UID}
	t.ranges, t.chunk = created.CompletionIndexes(), created.Spec.Indexes != ""
	t.end = indexes.Count(t.ranges)
	if t.end == 0 || t.ranges[len(t.ranges)-1].Last >= r.want.Completions {
		wrong("it has the indexes %q and the label %q", created.Spec.Indexes, created.Labels[batch.LabelCompletionIndex])
		return
	}
	if t.chunk {
		r.Chunks++
	}
	r.tasks[t.uid] = t
	late := false
	for position := range t.end {
		n := indexes.At(t.ranges, position)
		i := &r.indexes[n]
		switch {
		case t.chunk && i.failed > 0 && !r.want.LateCreations:
			wrong("its index %d has failed before, and is not alone", n)
		case len(i.holders) > 0 && !r.want.LateCreations:
			wrong("its index %d has several tasks: %s has it", n, i.holders[0].name)
		case i.succeeded > 0 && !i.completed && !r.want.LateCreations:
			wrong("its index %d has succeeded", n)
		}
		if len(i.holders) > 0 || i.succeeded > 0 || i.failedFinally {
			i.late++
			late = true
		}
		i.holders = append(i.holders, t)
	}
	if late {
		r.LateCreations++
	}
}

// drop removes a task from the holders of its indexes at the positions from first up to and without end.
func (r *Result) drop(t *task, first, end int) {
	for position := first; position < end; position++ {
		i := &r.indexes[indexes.At(t.ranges, position)]
		i.holders = slices.DeleteFunc(i.holders, func(holder *task) bool { return holder == t })
	}
}

func (r *Result) delete(t *task, last *batch.Task, wrong func(string, ...any)) {
	// Of tasks that share an index, which needs a late creation, the controller deletes one with all its indexes.
	shared := false
	for position := range t.end {
		shared = shared || r.indexes[indexes.At(t.ranges, position)].late > 0
	}
	for position := range t.end {
		n := indexes.At(t.ranges, position)
		switch i := &r.indexes[n]; {
		case i.completed || i.failedFinally || shared:
		case position < t.completed:
			wrong("deleted before its index %d was counted", n)
		case t.binding != nil && !last.Status.Phase.Finished():
			wrong("deleted while worker %s had its index %d", t.binding.worker, n)
		}
	}
	r.drop(t, t.completed, t.end)
	delete(r.tasks, t.uid)
}

func (r *Result) update(t *task, c history.Change, wrong func(string, ...any)) {
	before, after := c.Before, c.After
	from, to := before.Spec.WorkerName, after.Spec.WorkerName
	switch {
	case from == "" && to != "":
		t.binding = &binding{task: t, worker: to, incarnation: after.Status.Incarnation, first: t.completed, end: t.end}
		r.bindings = append(r.bindings, t.binding)
	case from != "" && to == "" && t.binding != nil:
		r.Evictions++
		t.binding.evicted = true
		t.binding = nil
	case to != "" && t.binding != nil:
		r.observeReport(t, c, wrong)
	}
	if !t.chunk {
		return
	}
	// The worker may have started indexes that an eviction takes from it, but none that it has released itself.
	if limit := int(ptr.Deref(after.Status.IndexLimit, int32(t.end))); limit < t.end {
		if t.binding != nil {
			r.Released += t.end - limit
			t.binding.end = min(t.binding.end, limit)
		}
		r.drop(t, limit, t.end)
		t.end = limit
	}
}

// observeReport checks a report of the worker: that only the incarnation that started an attempt reports on it. It
// counts the indexes that have ended.
func (r *Result) observeReport(t *task, c history.Change, wrong func(string, ...any)) {
	before, after := &c.Before.Status, &c.After.Status
	if (after.Attempts != before.Attempts || after.Phase != before.Phase) && after.Attempts > 0 {
		attempt := fmt.Sprintf("%s/%d/%d", t.uid, after.CompletedCount, after.Attempts)
		switch reporter := r.reporters[attempt]; {
		case reporter == "":
			r.reporters[attempt] = after.Incarnation
		case reporter != after.Incarnation:
			wrong("attempt %d is reported by incarnation %s after %s", after.Attempts, after.Incarnation, reporter)
		}
	}
	finished := after.Phase.Finished() && !before.Phase.Finished()
	completed := int(after.CompletedCount)
	if !t.chunk && finished && after.Phase == batch.TaskSucceeded {
		completed = 1
	}
	for ; t.completed < min(completed, t.end); t.completed++ {
		i := r.end(End, t, c)
		i.succeeded++
		i.succeededAt = c.Received
	}
	if !finished {
		return
	}
	started := t.completed
	if after.Phase == batch.TaskFailed && t.completed < t.end {
		r.end(Fail, t, c).failed++
		started++
	}
	r.drop(t, t.completed, t.end)
	t.binding.end = min(t.binding.end, started)
	if t.chunk {
		r.Released += t.end - started
	}
	t.end = started
}

// end records the reported end of the index at the position of a task that has not ended, and returns the index.
func (r *Result) end(kind MarkKind, t *task, c history.Change) *index {
	n := indexes.At(t.ranges, t.completed)
	r.drop(t, t.completed, t.completed+1)
	// A task fails, too, when its worker terminates the command because the task is being deleted.
	if kind != Fail || c.After.DeletionTimestamp == nil {
		r.reported = append(r.reported, Mark{Kind: kind, Index: n, Task: t.uid, Worker: t.binding.worker, Incarnation: t.binding.incarnation, At: c.Received})
	}
	return &r.indexes[n]
}

// run identifies the runs of an index under the bindings of a task to an incarnation.
type run struct {
	task        types.UID
	incarnation string
	index       int
}

// compareMarks compares the marks of the commands with the history.
func (r *Result) compareMarks(marks []Mark) {
	allowed, evicted, ended, names := map[run]int{}, map[run]bool{}, map[run]map[MarkKind]bool{}, map[types.UID]*task{}
	for _, b := range r.bindings {
		names[b.task.uid] = b.task
		for position := b.first; position < b.end; position++ {
			at := run{b.task.uid, b.incarnation, indexes.At(b.task.ranges, position)}
			allowed[at]++
			evicted[at] = evicted[at] || b.evicted
		}
	}
	started := make([]int, r.want.Completions)
	// failedAt has the first failure under a binding: an index, and when.
	failedAt := map[run]Mark{}
	for _, m := range marks {
		at := run{m.Task, m.Incarnation, m.Index}
		switch {
		case m.Index < 0 || m.Index >= r.want.Completions:
			r.fail("a command ran for index %d", m.Index)
			continue
		case m.Kind != Start:
			if ended[at] == nil {
				ended[at] = map[MarkKind]bool{}
			}
			ended[at][m.Kind] = true
			if first, found := failedAt[run{m.Task, m.Incarnation, -1}]; m.Kind == Fail && (!found || m.At.Before(first.At)) {
				failedAt[run{m.Task, m.Incarnation, -1}] = m
			}
			continue
		}
		started[m.Index]++
		if allowed[at]--; allowed[at] < 0 {
			r.fail("index %d was started once more than task %s allows worker %s, at %s", m.Index, nameOf(names, m.Task), m.Worker, m.At.Format(timeFormat))
		}
		// Another task of the index may run it, too, if it was created late.
		if i := &r.indexes[m.Index]; i.late == 0 && !i.succeededAt.IsZero() && m.At.After(i.succeededAt) {
			// A worker that was frozen right before the start of a command starts it when it wakes. By then the task was
			// evicted.
			if r.LateStarts++; !evicted[run{m.Task, m.Incarnation, m.Index}] {
				r.fail("index %d started on worker %s at %s, after it succeeded at %s", m.Index, m.Worker, m.At.Format(timeFormat), i.succeededAt.Format(timeFormat))
			}
		}
	}
	for _, m := range marks {
		if first, found := failedAt[run{m.Task, m.Incarnation, -1}]; m.Kind == Start && found && m.Index > first.Index && m.At.After(first.At) {
			r.fail("index %d of task %s was started after index %d had failed", m.Index, nameOf(names, m.Task), first.Index)
		}
	}
	for _, m := range r.reported {
		if !ended[run{m.Task, m.Incarnation, m.Index}][m.Kind] {
			r.fail("worker %s reported %q of index %d in task %s, but its command never came to that", m.Worker, m.Kind, m.Index, nameOf(names, m.Task))
		}
	}
	for _, n := range started {
		r.Starts += n
		r.Restarted += max(0, n-1)
	}
	r.compareOverlaps(marks, evicted)
}

const timeFormat = "15:04:05.000"

func nameOf(tasks map[types.UID]*task, uid types.UID) string {
	if t := tasks[uid]; t != nil {
		return t.name
	}
	return fmt.Sprintf("with UID %s, which was never bound,", uid)
}

// compareOverlaps checks that no two workers run an index at once, unless the first has lost it.
func (r *Result) compareOverlaps(marks []Mark, evicted map[run]bool) {
	byIndex := make([][]Mark, r.want.Completions)
	for _, m := range marks {
		if m.Index >= 0 && m.Index < r.want.Completions && r.indexes[m.Index].late == 0 {
			byIndex[m.Index] = append(byIndex[m.Index], m)
		}
	}
	for n, all := range byIndex {
		slices.SortStableFunc(all, func(a, b Mark) int { return a.At.Compare(b.At) })
		var running *Mark
		for i, m := range all {
			if m.Kind != Start {
				if running != nil && running.Incarnation == m.Incarnation {
					running = nil
				}
				continue
			}
			if running != nil && running.Incarnation != m.Incarnation && !evicted[run{running.Task, running.Incarnation, n}] && endsAfter(all[i:], *running) {
				r.fail("index %d was started on worker %s while it ran on worker %s, which had not lost it", n, m.Worker, running.Worker)
			}
			running = &m
		}
	}
}

// endsAfter reports whether the marks have an end of a run that has started before: it was not killed.
func endsAfter(marks []Mark, started Mark) bool {
	return slices.ContainsFunc(marks, func(m Mark) bool {
		return m.Kind != Start && m.Task == started.Task && m.Incarnation == started.Incarnation
	})
}

// String returns the figures of a check in a line.
func (r *Result) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d indexes, %d tasks with several, %d indexes released, %d starts, %d of them again, %d late; %d evictions, %d late creations",
		r.want.Completions, r.Chunks, r.Released, r.Starts, r.Restarted, r.LateStarts, r.Evictions, r.LateCreations)
	return text.String()
}
