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
	// maxRetainedFailures is how many failed tasks of a set are retained for users to inspect.
	maxRetainedFailures = 100
	// maxIndex is the number of indexes of a set without completions.
	maxIndex = 1<<31 - 1
)

// order is what decides when a task that waits gets its turn.
type queueOrder struct {
	queue    string
	priority int32
}

func queueOrderOf(spec *batch.TaskSpec) queueOrder { return queueOrder{spec.QueueName, spec.Priority} }

// queueOrderOfSet returns the order of the tasks that the controller makes.
func queueOrderOfSet(set *batch.TaskSet) queueOrder {
	return queueOrder{set.Spec.QueueName, set.Spec.Template.Spec.Priority}
}

// entry is what the ledger knows of a task.
type trackedTask struct {
	uid   types.UID
	name  string
	index int
	// failures is how many tasks of the index had been counted as failed when this one was created.
	failures        int
	phase           batch.TaskPhase
	resourceVersion string
	bound           bool
	order           queueOrder
	// asked is the order that this process asked for, if something on the server's side has made another of it.
	requestedOrder *queueOrder
	terminating    bool
	// deleting says that this process has asked for the deletion.
	deleting   bool
	finishedAt time.Time
	// requestedAt is when this process asked for the task, zero once it has been seen to start.
	requestedAt time.Time
	// failed is the task if it has failed: it is judged again whenever the ledger is loaded.
	failed *batch.Task

	queued          bool // in ledger.finished, or past it
	counted         bool // no longer holds its index
	backoffRecorded bool // its failure has been taken into the backoff
	gone            bool
}

func (e *trackedTask) finished() bool {
	return e.phase == batch.TaskSucceeded || e.phase == batch.TaskFailed
}

// active says that the task is to run on.
func (e *trackedTask) active() bool { return !e.finished() && !e.terminating && !e.deleting }

// holds says that no other task of the index may be created. A task that has ended without being counted holds its
// index until it is gone: the next one will have its name.
func (e *trackedTask) holdsIndex() bool { return !e.counted }

func (e *trackedTask) update(task *batch.Task) {
	e.phase, e.resourceVersion = task.Status.Phase, task.ResourceVersion
	e.bound, e.order = task.Spec.WorkerName != "", queueOrderOf(&task.Spec)
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
type taskToCreate struct {
	index, failures int
}

// ledger counts the tasks of one set. Each change of a task costs the same however large the set is.
//
// An index is at any time completed, failed for good, held by a task, waiting for the end of its backoff, or pending.
// The first two and the failures of the others are in the status of the set; all else follows from them and from the
// tasks there are, so that a ledger can be thrown away and loaded again at any time. What makes counting idempotent is
// that a task with f failures before it counts as a failure only while fewer than f+1 of its index are counted, and
// that a task is deleted only when what it counts for is stored.
type taskSetState struct {
	tasks   map[types.UID]*trackedTask
	backoff failureBackoff

	loaded bool
	// What follows is made by load.

	// limit is past the last index.
	indexEnd int
	// order is that of the tasks that wait.
	order                queueOrder
	backoffLimitPerIndex *int32
	policy               *batch.TaskFailurePolicy
	completed            indexSet
	failedIndexes        indexSet
	pending              indexSet
	failures             map[int]int
	holders              map[int]int
	successRules         []successRule
	failed               int32
	// failing says that nothing more counts as a failure: the set is bound to fail.
	failureDecided bool
	// fatal is why the failure policy fails the set, if it does.
	policyFailure string

	active, ready, terminating int32

	finished         []*trackedTask // to be counted
	counted          []*trackedTask // counted, not stored yet
	ignoredFailures  []*trackedTask // failed, to be deleted and tried again
	duplicates       []*trackedTask // not wanted
	toDelete         []*trackedTask // to be deleted
	retainedFailures []*trackedTask // failed, kept for people
}

func newTaskSetState(backoff exponentialBackoff) *taskSetState {
	return &taskSetState{tasks: map[types.UID]*trackedTask{}, backoff: failureBackoff{exponentialBackoff: backoff}}
}

// load starts from the stored status of the set.
func (l *taskSetState) load(set *batch.TaskSet) error {
	spec, status := &set.Spec, &set.Status
	l.indexEnd, l.order = indexEndOf(set), queueOrderOfSet(set)
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
	l.completed, l.failedIndexes = newIndexSet(indexes.Below(completed, l.indexEnd)), newIndexSet(indexes.Below(failed, l.indexEnd))
	l.pending = remaining(l.indexEnd, &l.completed, &l.failedIndexes)
	l.successRules = newSuccessRules(spec.SuccessPolicy, l.indexEnd, &l.completed)
	l.failures = make(map[int]int, len(failures))
	for _, f := range failures {
		if f.Index < l.indexEnd {
			l.failures[f.Index] = f.Count
		}
	}
	l.failed = status.Failed
	l.failureDecided = finishedCondition(set) != nil
	if target := targetCondition(set); target != nil && target.Reason != batch.TaskSetReasonCancelled {
		l.failureDecided = true
	}
	l.policyFailure = ""
	l.active, l.ready, l.terminating = 0, 0, 0
	l.holders = make(map[int]int, len(l.tasks))
	l.finished, l.counted, l.ignoredFailures, l.duplicates, l.toDelete, l.retainedFailures = nil, nil, nil, nil, nil, nil
	l.loaded = true
	for index := range l.backoff.readyAt {
		if l.pending.remove(index); l.isDone(index) {
			l.backoff.forget(index)
		}
	}
	for _, e := range l.tasks {
		e.queued, e.counted = false, false
		l.enter(e)
	}
	return nil
}

// fits reports whether the ledger was loaded for a set of this size and order.
func (l *taskSetState) matches(set *batch.TaskSet) bool {
	return l.loaded && l.indexEnd == indexEndOf(set) && l.order == queueOrderOfSet(set)
}

func indexEndOf(set *batch.TaskSet) int { return int(ptr.Deref(set.Spec.Completions, maxIndex)) }

// observe takes in what has become of a task, nil when it is gone.
func (l *taskSetState) observe(uid types.UID, task *batch.Task) {
	e, known := l.tasks[uid]
	switch {
	case !known && task == nil:
		return
	case !known:
		e = &trackedTask{uid: uid, name: task.Name, index: completionIndexOf(task), failures: failureCountOf(task)}
		l.tasks[uid] = e
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
		delete(l.tasks, uid)
	}
	if l.loaded {
		l.updatePending(e.index)
	}
}

// completionIndexOf gives the index of a task of a set, -1 if it has none.
func completionIndexOf(task *batch.Task) int {
	index, err := strconv.ParseInt(task.Labels[batch.LabelCompletionIndex], 10, 32)
	if err != nil || index < 0 {
		return -1
	}
	return int(index)
}

func failureCountOf(task *batch.Task) int {
	failures, err := strconv.ParseInt(task.Annotations[batch.AnnotationIndexFailureCount], 10, 32)
	if err != nil || failures < 0 {
		return 0
	}
	return int(failures)
}

// done says that the index is not to be run again.
func (l *taskSetState) isDone(index int) bool {
	return index < 0 || index >= l.indexEnd || l.completed.has(index) || l.failedIndexes.has(index)
}

// enter adds what a task stands for.
func (l *taskSetState) enter(e *trackedTask) {
	switch {
	case e.active():
		l.active++
		if e.phase == batch.TaskRunning {
			l.ready++
		}
	case !e.finished():
		l.terminating++
	}
	if e.holdsIndex() {
		l.holders[e.index]++
		l.pending.remove(e.index)
	}
	if e.active() {
		l.backoff.recordStart(e.index)
	}
	// A task with failures before it is there only because these have happened, even if nobody has counted them.
	if !l.failureDecided && !l.isDone(e.index) && e.failures > l.failures[e.index] {
		l.failed += int32(e.failures - l.failures[e.index])
		l.failures[e.index] = e.failures
	}
	switch {
	case e.finished() && !e.queued:
		e.queued = true
		l.finished = append(l.finished, e)
	case e.active() && (l.isDone(e.index) || l.holders[e.index] > 1 || l.outdated(e)):
		l.duplicates = append(l.duplicates, e)
	}
}

// leave takes back what enter added.
func (l *taskSetState) leave(e *trackedTask) {
	switch {
	case e.active():
		l.active--
		if e.phase == batch.TaskRunning {
			l.ready--
		}
	case !e.finished():
		l.terminating--
	}
	if e.holdsIndex() {
		l.holders[e.index]--
	}
}

// place makes an index pending that is not done and that nothing holds, unless it waits.
func (l *taskSetState) updatePending(index int) {
	if l.holders[index] == 0 {
		delete(l.holders, index)
	}
	if l.holders[index] > 0 || l.isDone(index) || l.backoff.isWaiting(index) {
		l.pending.remove(index)
	} else {
		l.pending.add(index)
	}
}

// deleting notes that the deletion of a task has been asked for.
func (l *taskSetState) deletionRequested(e *trackedTask) {
	if !l.loaded {
		e.deleting = true
		return
	}
	l.leave(e)
	e.deleting = true
	l.enter(e)
}

// count counts the tasks that have finished since it was last called, in the order in which they have. What workers'
// clocks say counts up to now.
func (l *taskSetState) countFinished(now time.Time) {
	for _, e := range l.finished {
		if e.finishedAt.After(now) {
			e.finishedAt = now
		}
	}
	slices.SortFunc(l.finished, func(a, b *trackedTask) int {
		return cmp.Or(a.finishedAt.Compare(b.finishedAt), cmp.Compare(a.index, b.index), cmp.Compare(a.failures, b.failures))
	})
	for _, e := range l.finished {
		held := e.holdsIndex() && !e.gone
		l.countTask(e)
		if held && !e.holdsIndex() {
			l.holders[e.index]--
		}
		l.updatePending(e.index)
	}
	l.finished = l.finished[:0]
}

func (l *taskSetState) countTask(e *trackedTask) {
	switch {
	case e.phase == batch.TaskSucceeded:
		e.counted = true
		l.backoff.recordSuccess(e.finishedAt)
		if l.isDone(e.index) {
			l.flush(e)
			return
		}
		l.completed.add(e.index)
		delete(l.failures, e.index)
		l.backoff.forget(e.index)
		for i := range l.successRules {
			l.successRules[i].recordSuccess(e.index)
		}
		if l.holders[e.index] > 1 {
			l.markDuplicates(e.index)
		}
		l.counted = append(l.counted, e)

	case l.failureDecided || l.isDone(e.index) || e.failures < l.failures[e.index]:
		// Counted before, or past the point where it counts.
		e.counted = true
		if !l.isDone(e.index) && e.failures+1 == l.failures[e.index] {
			l.recordFailure(e)
		}
		l.flush(e)

	case e.terminating || e.deleting:
		// Ended by its deletion: the index is tried again, at the same count, once the task is gone.

	default:
		action, message := matchFailurePolicy(l.policy, e.failed)
		l.recordFailure(e)
		if action == batch.TaskFailurePolicyActionIgnore {
			l.ignoredFailures = append(l.ignoredFailures, e)
			return
		}
		e.counted = true
		l.failed++
		l.failures[e.index] = e.failures + 1
		if action == batch.TaskFailurePolicyActionFailTaskSet && l.policyFailure == "" {
			l.policyFailure = message
		}
		if limit := l.backoffLimitPerIndex; limit != nil &&
			(action == batch.TaskFailurePolicyActionFailIndex || e.failures >= int(*limit)) {
			l.failedIndexes.add(e.index)
			delete(l.failures, e.index)
			l.backoff.forget(e.index)
		}
		l.counted = append(l.counted, e)
	}
}

// delay takes a failure into the backoff, once.
func (l *taskSetState) recordFailure(e *trackedTask) {
	if !e.backoffRecorded {
		e.backoffRecorded = true
		l.backoff.recordFailure(e.index, e.failures, e.finishedAt, l.backoffLimitPerIndex != nil)
	}
}

// activeTasksOf gives how many active tasks an index has: one, unless people have created some.
func (l *taskSetState) activeTasksOf(index int) int {
	n := 0
	for _, e := range l.tasks {
		if e.index == index && e.active() {
			n++
		}
	}
	return n
}

// markDuplicates looks for tasks of an index that is done: there are none unless people have created some.
func (l *taskSetState) markDuplicates(index int) {
	for _, e := range l.tasks {
		if e.index == index && e.active() {
			l.duplicates = append(l.duplicates, e)
		}
	}
}

// stored notes that the status is stored, with all that is counted.
func (l *taskSetState) statusStored() {
	for _, e := range l.counted {
		l.flush(e)
	}
	l.counted = l.counted[:0]
	if len(l.retainedFailures) > 0 {
		l.retainedFailures = slices.DeleteFunc(l.retainedFailures, func(e *trackedTask) bool {
			superseded := l.completed.has(e.index) || e.index >= l.indexEnd
			if superseded {
				l.toDelete = append(l.toDelete, e)
			}
			return superseded || e.gone
		})
	}
}

// settle disposes of a task whose part in the status is stored: one that has failed is kept unless its index has
// succeeded since.
func (l *taskSetState) flush(e *trackedTask) {
	if e.phase == batch.TaskSucceeded || e.index < 0 || e.index >= l.indexEnd || l.completed.has(e.index) {
		l.toDelete = append(l.toDelete, e)
		return
	}
	at, _ := slices.BinarySearchFunc(l.retainedFailures, e, func(a, b *trackedTask) int { return a.finishedAt.Compare(b.finishedAt) })
	l.retainedFailures = slices.Insert(l.retainedFailures, at, e)
	if len(l.retainedFailures) > maxRetainedFailures {
		l.toDelete = append(l.toDelete, l.retainedFailures[0])
		l.retainedFailures = slices.Delete(l.retainedFailures, 0, 1)
	}
}

// take gives at most n tasks to start now, in ascending order of their indexes. Those that are not created are given
// back.
func (l *taskSetState) reserve(n int) []taskToCreate {
	var starts []taskToCreate
	for len(starts) < n {
		index, ok := l.pending.pop()
		if !ok {
			break
		}
		starts = append(starts, taskToCreate{index, l.failures[index]})
	}
	return starts
}

func (l *taskSetState) release(s taskToCreate) { l.updatePending(s.index) }

// wake makes the indexes pending whose backoff is over, and gives when the next one's is.
func (l *taskSetState) endBackoffs(now time.Time) (next time.Time) {
	for index, at := range l.backoff.readyAt {
		if at.After(now) {
			next = earliest(next, at)
			continue
		}
		delete(l.backoff.readyAt, index)
		l.updatePending(index)
	}
	return next
}

// activeTasksForRemoval returns the n active tasks, other than those that are ended anyway, whose end costs least:
// those that wait before those that run, the last indexes first.
func (l *taskSetState) activeTasksForRemoval(n int, anyway []*trackedTask) []*trackedTask {
	except := make(map[*trackedTask]bool, len(anyway))
	for _, e := range anyway {
		except[e] = true
	}
	var active []*trackedTask
	for _, e := range l.tasks {
		if e.active() && !except[e] {
			active = append(active, e)
		}
	}
	if n >= len(active) {
		return active
	}
	rank := func(e *trackedTask) int {
		switch {
		case e.phase == batch.TaskRunning:
			return 2
		case e.bound:
			return 1
		}
		return 0
	}
	slices.SortFunc(active, func(a, b *trackedTask) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.index, a.index))
	})
	return active[:n]
}

// outdated reports whether a task waits for a worker in another queue, or with another priority, than the set says. It
// is ended, and made again, unless that would not help: a webhook may choose them.
func (l *taskSetState) outdated(e *trackedTask) bool {
	order := e.order
	if e.requestedOrder != nil {
		order = *e.requestedOrder
	}
	return !e.bound && order != l.order
}

// unwanted returns the tasks to end whatever the parallelism, and those to try again at the same count.
func (l *taskSetState) tasksToStop(now time.Time) (entries []*trackedTask, again time.Time) {
	ended, seen := map[int]int{}, make(map[*trackedTask]bool, len(l.duplicates))
	for _, e := range l.duplicates {
		if !e.active() || e.gone || seen[e] {
			continue
		}
		if !l.isDone(e.index) && !l.outdated(e) && l.activeTasksOf(e.index)-ended[e.index] < 2 {
			continue
		}
		seen[e] = true
		ended[e.index]++
		entries = append(entries, e)
	}
	l.duplicates = nil
	l.ignoredFailures = slices.DeleteFunc(l.ignoredFailures, func(e *trackedTask) bool {
		if e.gone {
			return true
		}
		at := l.backoff.until()
		if l.backoffLimitPerIndex != nil {
			at = l.backoff.readyAt[e.index]
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
func (l *taskSetState) formatIndexFailures() string {
	counts := make([]indexes.Counted, 0, len(l.failures))
	for _, index := range slices.Sorted(maps.Keys(l.failures)) {
		counts = append(counts, indexes.Counted{Index: index, Count: l.failures[index]})
	}
	return indexes.FormatCounts(counts)
}
