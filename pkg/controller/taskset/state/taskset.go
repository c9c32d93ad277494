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
// Package state holds what the TaskSet controller knows of the task sets: which indexes are completed, failed, held by
// a task, in backoff or pending, and in which state each task is. It sends no requests.
package state

import (
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
	// MaxRetainedFailures is how many failed tasks of a set are retained for users to inspect.
	MaxRetainedFailures = 100
	// maxIndex is the number of indexes of a set without completions.
	maxIndex = 1<<31 - 1
)

// TaskSet is the state of one task set. The cost of an event does not depend on the number of indexes.
//
// An index is completed, failed, held by a task, in backoff, blocked by a dependency, or pending. The status of the set
// stores the first two, and how often each other index has failed. All else follows from the status and the tasks, so
// the state can be loaded again at any time. Counting is idempotent for two reasons: a task with failure count f counts
// as a failure only while at most f failures of its index are counted, and a task is deleted only when the status that
// counts it is stored.
//
// Index sets are ranges, and no field has an entry for each index.
type TaskSet struct {
	// UID is the UID of the set.
	UID types.UID
	// Orphans are tasks that have the label of the set and no controller. NonMatching are tasks that the set controls
	// and that do not have its label.
	Orphans, NonMatching map[types.UID]*batch.Task
	// Sync is what one sync of the set keeps for the next.
	Sync SyncRecord

	// events are those that no sync has seen yet. The lock of the Store guards them. All other fields belong to the
	// sync.
	events []taskEvent

	tasks   map[types.UID]*TrackedTask
	backoff failureBackoff

	// loaded reports whether the following fields are valid.
	loaded bool

	// indexEnd is one more than the last index.
	indexEnd             int
	order                QueueOrder
	backoffLimitPerIndex *int32
	failurePolicy        *batch.TaskFailurePolicy
	successRules         []successRule

	// items are the items of the set, nil without any.
	items []string

	completed, failedIndexes, pending, held indexSet
	// alone are indexes that must not run in a chunk: a task of theirs has failed without being counted, a worker has
	// crashed while it ran them, or no other index fits beside them. It is kept in memory only.
	alone indexSet
	// startable are the only indexes that may start, nil for all. They follow from the sets in followed.
	startable *indexSet
	followed  []*batch.TaskSet
	// cancelled are indexes that no longer run, and cancelledText is the text that they were parsed from.
	cancelled     indexSet
	cancelledText string
	// failedWithoutTask reports whether indexes have failed without a failed task since the status was stored.
	failedWithoutTask bool
	// uncertain are tasks whose creation has failed, but may have had an effect all the same.
	uncertain []TaskToCreate
	// durations are the durations of commands that have ended.
	durations durations
	// learningSince is when the controller began to learn how long the commands run, zero until then. boundOnce reports
	// whether a task was bound since.
	learningSince time.Time
	boundOnce     bool
	// extraHolders counts the tasks that hold an index besides the first one. There are none unless users create tasks.
	extraHolders map[int]int
	// failures counts the failures of indexes that are neither completed nor failed.
	failures map[int]int
	// failed is how many tasks have failed.
	failed int32
	// failureDecided reports whether further failures do not count, because the set has failed or will fail.
	failureDecided bool
	// policyFailure is why the failure policy fails the set, empty if it does not.
	policyFailure string

	active, ready, terminating int32
	// placed counts active tasks by their placement.
	placed [placements]int

	// The lists hold the tasks in the state of that name. Tasks that have left the state are removed when the list is
	// next used.
	finished, counted, ignoredFailures, retainedFailures, toDelete []*TrackedTask
	// duplicates are active tasks that may have to be deleted: their index may be done or have another task, or their
	// queue or priority may be outdated.
	duplicates []*TrackedTask
}

// newTaskSet returns an empty state.
func newTaskSet(uid types.UID, backoff ExponentialBackoff) *TaskSet {
	return &TaskSet{
		UID: uid, Orphans: map[types.UID]*batch.Task{}, NonMatching: map[types.UID]*batch.Task{},
		tasks: map[types.UID]*TrackedTask{}, backoff: failureBackoff{ExponentialBackoff: backoff},
	}
}

// Load starts again from the stored status of the set and the tasks that were observed.
func (s *TaskSet) Load(set *batch.TaskSet) error {
	spec, status := &set.Spec, &set.Status
	s.indexEnd, s.order, s.items = indexEndOf(set), QueueOrderOfSet(set), spec.Items
	s.backoffLimitPerIndex = spec.BackoffLimitPerIndex
	s.failurePolicy = spec.TaskFailurePolicy
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
	// The set may have become smaller since. Indexes past its end do not count.
	s.completed = newIndexSet(indexes.Below(completed, s.indexEnd))
	s.failedIndexes = newIndexSet(indexes.Below(failed, s.indexEnd))
	s.pending = remaining(s.indexEnd, &s.completed, &s.failedIndexes)
	s.startable, s.followed = nil, nil
	s.cancelled, s.cancelledText, s.failedWithoutTask = indexSet{}, "", false
	s.held, s.extraHolders = indexSet{}, map[int]int{}
	s.successRules = newSuccessRules(spec.SuccessPolicy, s.indexEnd, &s.completed)
	s.failures = make(map[int]int, len(failures))
	for _, f := range failures {
		if f.Index < s.indexEnd {
			s.failures[f.Index] = f.Count
		}
	}
	s.failed, s.policyFailure = status.Failed, ""
	s.durations.stored = time.Duration(status.MedianMilliseconds) * time.Millisecond
	s.failureDecided = FinishedCondition(set) != nil
	if target := TargetCondition(set); target != nil && target.Reason != batch.TaskSetReasonCancelled {
		s.failureDecided = true
	}
	s.active, s.ready, s.terminating, s.placed = 0, 0, 0, [placements]int{}
	s.finished, s.counted, s.ignoredFailures, s.retainedFailures, s.toDelete, s.duplicates = nil, nil, nil, nil, nil, nil
	s.loaded = true
	for index := range s.backoff.readyAt {
		if s.pending.remove(index); s.isDone(index) {
			s.backoff.forget(index)
		}
	}
	for _, t := range s.tasks {
		t.state, t.held, t.countedCount, t.placement = Absent, nil, 0, notActive
		s.countCompleted(t) // before failures are counted, whatever the order of the tasks
	}
	for _, t := range s.tasks {
		s.applyObserved(t)
	}
	return nil
}

// Invalidate discards everything but the observed tasks and the backoff. The state must be loaded again before it is
// used.
func (s *TaskSet) Invalidate() { s.loaded = false }

// IsLoadedFor reports whether the state was loaded for a set of this size, queue and priority.
func (s *TaskSet) IsLoadedFor(set *batch.TaskSet) bool {
	return s.loaded && s.indexEnd == indexEndOf(set) && s.order == QueueOrderOfSet(set)
}

// indexEndOf returns one more than the last index of a set.
func indexEndOf(set *batch.TaskSet) int { return int(ptr.Deref(set.Spec.Completions, maxIndex)) }

// Observe records an event of a task, nil when it was deleted.
func (s *TaskSet) Observe(uid types.UID, task *batch.Task) {
	t := s.tasks[uid]
	switch {
	case task == nil && t == nil:
		return
	case task == nil:
		t.gone = true
		delete(s.tasks, uid)
		if s.loaded {
			s.transition(t, t.state)
		}
		return
	case t == nil:
		t = newTrackedTask(task)
		s.tasks[uid] = t
	}
	t.observe(task)
	if s.loaded {
		s.applyObserved(t)
	}
}

// ObserveCreated records a task that the server returned for a request to create it. requestedAt is when the controller
// sent the request, zero if the task existed already.
func (s *TaskSet) ObserveCreated(task *batch.Task, requestedAt time.Time) {
	s.Observe(task.UID, task)
	t := s.tasks[task.UID]
	t.requestedAt = requestedAt
	if order := s.order; !requestedAt.IsZero() && t.order != order {
		t.requestedOrder = &order
	}
}

// applyObserved moves a task to the state that was observed.
func (s *TaskSet) applyObserved(t *TrackedTask) {
	s.countCompleted(t)
	if t.crashed && t.chunk {
		// The worker may have been at any of them.
		for _, r := range t.indexes {
			s.alone.addRange(r)
		}
	}
	s.transition(t, t.observedState())
	s.hold(t)
	s.place(t)
	s.measure(t)
	index := t.Index()
	if t.state.Active() {
		s.backoff.recordStart(index)
	}
	// The failures before this task have happened, even if none of them was counted.
	if !s.failureDecided && !s.isDone(index) && t.failureCount > s.failures[index] {
		s.failed += int32(t.failureCount - s.failures[index])
		s.failures[index] = t.failureCount
	}
	if t.state.Active() && (s.isSuperfluous(t) || s.hasOtherHolders(t) || s.isOutdated(t)) {
		s.duplicates = append(s.duplicates, t)
	}
}

// countCompleted counts the indexes of a chunk that have succeeded since the last call.
func (s *TaskSet) countCompleted(t *TrackedTask) {
	if t.completedCount > t.countedCount {
		s.completeIndexes(indexes.Slice(t.indexes, t.countedCount, t.completedCount))
		t.countedCount = t.completedCount
	}
}

// isSuperfluous reports whether the index that an active task runs needs no more tasks. So is a chunk with an index
// that is cancelled: its other indexes are pending again. A chunk that waits for a worker is superfluous, too, if the
// set has become so small that one of its indexes is past the end.
func (s *TaskSet) isSuperfluous(t *TrackedTask) bool {
	if s.isDone(t.Index()) || s.cancelled.size > 0 && intersectionSize(t.held, s.cancelled.ranges) > 0 {
		return true
	}
	return !t.bound && t.held[len(t.held)-1].Last >= s.indexEnd
}

// hasOtherHolders reports whether another task holds an index of the task.
func (s *TaskSet) hasOtherHolders(t *TrackedTask) bool {
	for index := range s.extraHolders {
		if indexes.Contains(t.held, index) {
			return true
		}
	}
	return false
}

// Tasks returns all tasks that exist.
func (s *TaskSet) Tasks() []*TrackedTask { return slices.Collect(maps.Values(s.tasks)) }

// HasTasks reports whether a task of the set exists.
func (s *TaskSet) HasTasks() bool { return len(s.tasks) > 0 }

// FailureCount returns how many tasks of the index had been counted as failed when the task was created.
func FailureCount(task *batch.Task) int {
	failures, err := strconv.ParseInt(task.Annotations[batch.AnnotationIndexFailureCount], 10, 32)
	if err != nil || failures < 0 {
		return 0
	}
	return int(failures)
}
