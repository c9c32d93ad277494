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
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// maxKept bounds the failed tasks of a set that are kept for people to look at.
	maxKept = 100
	// maxIndex bounds the indexes of a set without completions.
	maxIndex = 1<<31 - 1
)

// order is what decides when a task that waits gets its turn.
type order struct {
	queue    string
	priority int32
}

func orderOf(spec *batch.TaskSpec) order { return order{spec.QueueName, spec.Priority} }

// orderOfSet returns the order of the tasks that the controller makes.
func orderOfSet(set *batch.TaskSet) order {
	return order{set.Spec.QueueName, set.Spec.Template.Spec.Priority}
}

// entry is what the ledger knows of a task.
type entry struct {
	uid   types.UID
	name  string
	index int
	// failures is how many tasks of the index had been counted as failed when this one was created.
	failures int
	phase    batch.TaskPhase
	version  string // its resourceVersion
	bound    bool
	order    order
	// asked is the order that this process asked for, if something on the server's side has made another of it.
	asked       *order
	terminating bool
	// deleting says that this process has asked for the deletion.
	deleting   bool
	finishedAt time.Time
	// requestedAt is when this process asked for the task, zero once it has been seen to start.
	requestedAt time.Time
	// failed is the task if it has failed: it is judged again whenever the ledger is loaded.
	failed *batch.Task

	queued  bool // in ledger.finished, or past it
	counted bool // no longer holds its index
	backoff bool // its failure has been taken into the backoff
	gone    bool
}

func (e *entry) finished() bool {
	return e.phase == batch.TaskSucceeded || e.phase == batch.TaskFailed
}

// active says that the task is to run on.
func (e *entry) active() bool { return !e.finished() && !e.terminating && !e.deleting }

// holds says that no other task of the index may be created. A task that has ended without being counted holds its index until
// it is gone: the next one will have its name.
func (e *entry) holds() bool { return !e.counted }

func (e *entry) update(task *batch.Task) {
	e.phase, e.version = task.Status.Phase, task.ResourceVersion
	e.bound, e.order = task.Spec.WorkerName != "", orderOf(&task.Spec)
	e.terminating = task.DeletionTimestamp != nil
	if e.finished() {
		e.finishedAt = finishedAt(task)
	}
	if e.phase == batch.TaskFailed && !e.queued {
		e.failed = task
	}
}

// finishedAt gives when a finished task has ended.
func finishedAt(task *batch.Task) time.Time {
	switch {
	case task.Status.CompletionTime != nil:
		return task.Status.CompletionTime.Time
	case task.Status.State.Terminated != nil && !task.Status.State.Terminated.FinishedAt.IsZero():
		return task.Status.State.Terminated.FinishedAt.Time
	}
	return task.CreationTimestamp.Time
}

// start is a task to be created.
type start struct {
	index, failures int
}

// ledger counts the tasks of one set. Each change of a task costs the same however large the set is.
//
// An index is at any time completed, failed for good, held by a task, waiting for the end of its backoff, or pending. The first two
// and the failures of the others are in the status of the set; all else follows from them and from the tasks there are, so that a
// ledger can be thrown away and loaded again at any time. What makes counting idempotent is that a task with f failures before it
// counts as a failure only while fewer than f+1 of its index are counted, and that a task is deleted only when what it counts for
// is stored.
type ledger struct {
	entries map[types.UID]*entry
	retry   retryDelays

	loaded bool
	// What follows is made by load.

	// limit is past the last index.
	limit int
	// order is that of the tasks that wait.
	order                order
	backoffLimitPerIndex *int32
	policy               *batch.TaskFailurePolicy
	completed            indexSet
	failedIndexes        indexSet
	pending              indexSet
	failures             map[int]int
	holders              map[int]int
	rules                []successRule
	failed               int32
	// failing says that nothing more counts as a failure: the set is bound to fail.
	failing bool
	// fatal is why the failure policy fails the set, if it does.
	fatal string

	active, ready, terminating int32

	finished []*entry // to be counted
	counted  []*entry // counted, not stored yet
	ignored  []*entry // failed, to be deleted and tried again
	excess   []*entry // not wanted
	disposed []*entry // to be deleted
	kept     []*entry // failed, kept for people
}

func newLedger(delays delays) *ledger {
	return &ledger{entries: map[types.UID]*entry{}, retry: retryDelays{delays: delays}}
}

// load starts from the stored status of the set.
func (l *ledger) load(set *batch.TaskSet) error {
	spec, status := &set.Spec, &set.Status
	l.limit, l.order = limitOf(set), orderOfSet(set)
	l.backoffLimitPerIndex = spec.BackoffLimitPerIndex
	l.policy = spec.TaskFailurePolicy
	// Of a set that was made smaller, what is past its limit no longer counts.
	completed, err := indexes.Parse(status.CompletedIndexes, maxIndex)
	if err != nil {
		return err
	}
	failed, err := indexes.Parse(ptr.Deref(status.FailedIndexes, ""), maxIndex)
	if err != nil {
		return err
	}
	failures, err := indexes.ParseCounts(status.IndexFailures, maxIndex)
	if err != nil {
		return err
	}
	l.completed, l.failedIndexes = newIndexSet(indexes.Below(completed, l.limit)), newIndexSet(indexes.Below(failed, l.limit))
	l.pending = remaining(l.limit, &l.completed, &l.failedIndexes)
	l.rules = newSuccessRules(spec.SuccessPolicy, l.limit, &l.completed)
	l.failures = make(map[int]int, len(failures))
	for _, f := range failures {
		if f.Index < l.limit {
			l.failures[f.Index] = f.Count
		}
	}
	l.failed = status.Failed
	l.failing = finished(set) != nil
	if target := outcome(set); target != nil && target.Reason != batch.TaskSetReasonCancelled {
		l.failing = true
	}
	l.fatal = ""
	l.active, l.ready, l.terminating = 0, 0, 0
	l.holders = make(map[int]int, len(l.entries))
	l.finished, l.counted, l.ignored, l.excess, l.disposed, l.kept = nil, nil, nil, nil, nil, nil
	l.loaded = true
	for index := range l.retry.waiting {
		if l.pending.remove(index); l.done(index) {
			l.retry.forget(index)
		}
	}
	for _, e := range l.entries {
		e.queued, e.counted = false, false
		l.enter(e)
	}
	return nil
}

// fits reports whether the ledger was loaded for a set of this size and order.
func (l *ledger) fits(set *batch.TaskSet) bool {
	return l.loaded && l.limit == limitOf(set) && l.order == orderOfSet(set)
}

func limitOf(set *batch.TaskSet) int { return int(ptr.Deref(set.Spec.Completions, maxIndex)) }

// observe takes in what has become of a task, nil when it is gone.
func (l *ledger) observe(uid types.UID, task *batch.Task) {
	e, known := l.entries[uid]
	switch {
	case !known && task == nil:
		return
	case !known:
		e = &entry{uid: uid, name: task.Name, index: indexOf(task), failures: failuresOf(task)}
		l.entries[uid] = e
	case l.loaded:
		l.leave(e)
	}
	if task != nil {
		e.update(task)
		if l.loaded {
			l.enter(e)
		}
	} else {
		e.gone = true
		delete(l.entries, uid)
	}
	if l.loaded {
		l.place(e.index)
	}
}

// indexOf gives the index of a task of a set, -1 if it has none.
func indexOf(task *batch.Task) int {
	index, err := strconv.ParseInt(task.Labels[batch.LabelCompletionIndex], 10, 32)
	if err != nil || index < 0 {
		return -1
	}
	return int(index)
}

func failuresOf(task *batch.Task) int {
	failures, err := strconv.ParseInt(task.Annotations[batch.AnnotationIndexFailureCount], 10, 32)
	if err != nil || failures < 0 {
		return 0
	}
	return int(failures)
}

// done says that the index is not to be run again.
func (l *ledger) done(index int) bool {
	return index < 0 || index >= l.limit || l.completed.has(index) || l.failedIndexes.has(index)
}

// enter adds what a task stands for.
func (l *ledger) enter(e *entry) {
	switch {
	case e.active():
		l.active++
		if e.phase == batch.TaskRunning {
			l.ready++
		}
	case !e.finished():
		l.terminating++
	}
	if e.holds() {
		l.holders[e.index]++
		l.pending.remove(e.index)
	}
	if e.active() {
		l.retry.started(e.index)
	}
	// A task with failures before it is there only because these have happened, even if nobody has counted them.
	if !l.failing && !l.done(e.index) && e.failures > l.failures[e.index] {
		l.failed += int32(e.failures - l.failures[e.index])
		l.failures[e.index] = e.failures
	}
	switch {
	case e.finished() && !e.queued:
		e.queued = true
		l.finished = append(l.finished, e)
	case e.active() && (l.done(e.index) || l.holders[e.index] > 1 || l.outdated(e)):
		l.excess = append(l.excess, e)
	}
}

// leave takes back what enter added.
func (l *ledger) leave(e *entry) {
	switch {
	case e.active():
		l.active--
		if e.phase == batch.TaskRunning {
			l.ready--
		}
	case !e.finished():
		l.terminating--
	}
	if e.holds() {
		l.holders[e.index]--
	}
}

// place makes an index pending that is not done and that nothing holds, unless it waits.
func (l *ledger) place(index int) {
	if l.holders[index] == 0 {
		delete(l.holders, index)
	}
	if l.holders[index] > 0 || l.done(index) || l.retry.waits(index) {
		l.pending.remove(index)
	} else {
		l.pending.add(index)
	}
}

// deleting notes that the deletion of a task has been asked for.
func (l *ledger) deleting(e *entry) {
	if !l.loaded {
		e.deleting = true
		return
	}
	l.leave(e)
	e.deleting = true
	l.enter(e)
}

// count counts the tasks that have finished since it was last called, in the order in which they have. What workers' clocks say
// counts up to now.
func (l *ledger) count(now time.Time) {
	for _, e := range l.finished {
		if e.finishedAt.After(now) {
			e.finishedAt = now
		}
	}
	slices.SortFunc(l.finished, func(a, b *entry) int {
		return cmp.Or(a.finishedAt.Compare(b.finishedAt), cmp.Compare(a.index, b.index), cmp.Compare(a.failures, b.failures))
	})
	for _, e := range l.finished {
		held := e.holds() && !e.gone
		l.countOne(e)
		if held && !e.holds() {
			l.holders[e.index]--
		}
		l.place(e.index)
	}
	l.finished = l.finished[:0]
}

func (l *ledger) countOne(e *entry) {
	switch {
	case e.phase == batch.TaskSucceeded:
		e.counted = true
		l.retry.succeeded(e.finishedAt)
		if l.done(e.index) {
			l.settle(e)
			return
		}
		l.completed.add(e.index)
		delete(l.failures, e.index)
		l.retry.forget(e.index)
		for i := range l.rules {
			l.rules[i].count(e.index)
		}
		if l.holders[e.index] > 1 {
			l.findExcess(e.index)
		}
		l.counted = append(l.counted, e)

	case l.failing || l.done(e.index) || e.failures < l.failures[e.index]:
		// Counted before, or past the point where it counts.
		e.counted = true
		if !l.done(e.index) && e.failures+1 == l.failures[e.index] {
			l.delay(e)
		}
		l.settle(e)

	case e.terminating || e.deleting:
		// Ended by its deletion: the index is tried again, at the same count, once the task is gone.

	default:
		action, message := judge(l.policy, e.failed)
		l.delay(e)
		if action == batch.TaskFailurePolicyActionIgnore {
			l.ignored = append(l.ignored, e)
			return
		}
		e.counted = true
		l.failed++
		l.failures[e.index] = e.failures + 1
		if action == batch.TaskFailurePolicyActionFailTaskSet && l.fatal == "" {
			l.fatal = message
		}
		if limit := l.backoffLimitPerIndex; limit != nil &&
			(action == batch.TaskFailurePolicyActionFailIndex || e.failures >= int(*limit)) {
			l.failedIndexes.add(e.index)
			delete(l.failures, e.index)
			l.retry.forget(e.index)
		}
		l.counted = append(l.counted, e)
	}
}

// delay takes a failure into the backoff, once.
func (l *ledger) delay(e *entry) {
	if !e.backoff {
		e.backoff = true
		l.retry.failed(e.index, e.failures, e.finishedAt, l.backoffLimitPerIndex != nil)
	}
}

// activeOf gives how many active tasks an index has: one, unless people have created some.
func (l *ledger) activeOf(index int) int {
	n := 0
	for _, e := range l.entries {
		if e.index == index && e.active() {
			n++
		}
	}
	return n
}

// findExcess looks for tasks of an index that is done: there are none unless people have created some.
func (l *ledger) findExcess(index int) {
	for _, e := range l.entries {
		if e.index == index && e.active() {
			l.excess = append(l.excess, e)
		}
	}
}

// stored notes that the status is stored, with all that is counted.
func (l *ledger) stored() {
	for _, e := range l.counted {
		l.settle(e)
	}
	l.counted = l.counted[:0]
	if len(l.kept) > 0 {
		l.kept = slices.DeleteFunc(l.kept, func(e *entry) bool {
			superseded := l.completed.has(e.index) || e.index >= l.limit
			if superseded {
				l.disposed = append(l.disposed, e)
			}
			return superseded || e.gone
		})
	}
}

// settle disposes of a task whose part in the status is stored: one that has failed is kept unless its index has succeeded since.
func (l *ledger) settle(e *entry) {
	if e.phase == batch.TaskSucceeded || e.index < 0 || e.index >= l.limit || l.completed.has(e.index) {
		l.disposed = append(l.disposed, e)
		return
	}
	at, _ := slices.BinarySearchFunc(l.kept, e, func(a, b *entry) int { return a.finishedAt.Compare(b.finishedAt) })
	l.kept = slices.Insert(l.kept, at, e)
	if len(l.kept) > maxKept {
		l.disposed = append(l.disposed, l.kept[0])
		l.kept = slices.Delete(l.kept, 0, 1)
	}
}

// take gives at most n tasks to start now, in ascending order of their indexes. Those that are not created are given back.
func (l *ledger) take(n int) []start {
	var starts []start
	for len(starts) < n {
		index, ok := l.pending.pop()
		if !ok {
			break
		}
		starts = append(starts, start{index, l.failures[index]})
	}
	return starts
}

func (l *ledger) giveBack(s start) { l.place(s.index) }

// wake makes the indexes pending whose backoff is over, and gives when the next one's is.
func (l *ledger) wake(now time.Time) (next time.Time) {
	for index, at := range l.retry.waiting {
		if at.After(now) {
			next = earliest(next, at)
			continue
		}
		delete(l.retry.waiting, index)
		l.place(index)
	}
	return next
}

// victims returns the n active tasks, other than those that are ended anyway, whose end costs least: those that wait before those that run,
// the last indexes first.
func (l *ledger) victims(n int, anyway []*entry) []*entry {
	except := make(map[*entry]bool, len(anyway))
	for _, e := range anyway {
		except[e] = true
	}
	var active []*entry
	for _, e := range l.entries {
		if e.active() && !except[e] {
			active = append(active, e)
		}
	}
	if n >= len(active) {
		return active
	}
	rank := func(e *entry) int {
		switch {
		case e.phase == batch.TaskRunning:
			return 2
		case e.bound:
			return 1
		}
		return 0
	}
	slices.SortFunc(active, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.index, a.index))
	})
	return active[:n]
}

// outdated reports whether a task waits for a worker in another queue, or with another priority, than the set says. It is ended, and made
// again, unless that would not help: a webhook may choose them.
func (l *ledger) outdated(e *entry) bool {
	order := e.order
	if e.asked != nil {
		order = *e.asked
	}
	return !e.bound && order != l.order
}

// unwanted returns the tasks to end whatever the parallelism, and those to try again at the same count.
func (l *ledger) unwanted(now time.Time) (entries []*entry, again time.Time) {
	ended, seen := map[int]int{}, make(map[*entry]bool, len(l.excess))
	for _, e := range l.excess {
		if !e.active() || e.gone || seen[e] {
			continue
		}
		if !l.done(e.index) && !l.outdated(e) && l.activeOf(e.index)-ended[e.index] < 2 {
			continue
		}
		seen[e] = true
		ended[e.index]++
		entries = append(entries, e)
	}
	l.excess = nil
	l.ignored = slices.DeleteFunc(l.ignored, func(e *entry) bool {
		if e.gone {
			return true
		}
		at := l.retry.until()
		if l.backoffLimitPerIndex != nil {
			at = l.retry.waiting[e.index]
		}
		if at.After(now) {
			again = earliest(again, at)
			return false
		}
		entries = append(entries, e)
		return true
	})
	return entries, again
}

// indexFailures writes the failures that are not settled yet.
func (l *ledger) indexFailures() string {
	counts := make([]indexes.Counted, 0, len(l.failures))
	for _, index := range slices.Sorted(maps.Keys(l.failures)) {
		counts = append(counts, indexes.Counted{Index: index, Count: l.failures[index]})
	}
	return indexes.FormatCounts(counts)
}
