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

package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// Reserve returns at most n tasks to create now: first those whose creation has failed, then others in ascending order
// of their indexes. The caller must call ObserveCreated, NotRequested or CreationFailed for each.
func (s *TaskSet) Reserve(n int, chunks ChunkLimits) []TaskToCreate {
	var tasks []TaskToCreate
	for len(tasks) < n && len(s.uncertain) > 0 {
		task := s.uncertain[0]
		s.uncertain = s.uncertain[1:]
		if s.isPending(task) && indexes.Count(task.Indexes) <= max(1, chunks.MaxIndexes) {
			for _, r := range task.Indexes {
				s.pending.removeRange(r)
			}
			tasks = append(tasks, task)
		}
	}
	for len(tasks) < n && s.pending.size > 0 {
		size := s.chunkSize(chunks)
		task := TaskToCreate{Indexes: s.takeChunk(size)}
		if len(task.Indexes) == 0 {
			index, _ := s.pending.pop()
			if size > 1 {
				s.alone.add(index) // or its task would be merged, and created again
			}
			task = TaskToCreate{Indexes: []indexes.Range{{First: index, Last: index}}, FailureCount: s.failures[index]}
		}
		tasks = append(tasks, task)
	}
	return tasks
}

// Release makes the indexes of a reserved task pending again, except those that a task holds.
func (s *TaskSet) Release(task TaskToCreate) {
	for _, r := range task.Indexes {
		s.updatePending(r)
	}
}

// CreationFailed makes the indexes of a reserved task pending again. Reserve returns the same task first: if the server
// has created it nevertheless, the name shows that, and no other task gets some of its indexes.
func (s *TaskSet) CreationFailed(task TaskToCreate) {
	s.Release(task)
	task.Uncertain = true
	s.uncertain = append(s.uncertain, task)
}

// NotRequested makes the indexes of a reserved task pending again whose creation was not requested this time.
func (s *TaskSet) NotRequested(task TaskToCreate) {
	if task.Uncertain {
		s.CreationFailed(task)
		return
	}
	s.Release(task)
}

// isPending reports whether all indexes of a task to create are pending, and have not failed since.
func (s *TaskSet) isPending(task TaskToCreate) bool {
	for _, r := range task.Indexes {
		if indexes.Count(s.pending.within(r)) < sizeOf(r) {
			return false
		}
		for index := r.First; index <= r.Last; index++ {
			if s.failures[index] != task.FailureCount {
				return false
			}
		}
	}
	return true
}

// EndBackoffs makes the indexes pending whose own backoff has ended. It returns when the next backoff of an index ends,
// zero if there is none.
func (s *TaskSet) EndBackoffs(now time.Time) (next time.Time) {
	for index, at := range s.backoff.readyAt {
		if at.After(now) {
			next = earliest(next, at)
			continue
		}
		delete(s.backoff.readyAt, index)
		s.updatePending(indexes.Range{First: index, Last: index})
	}
	return next
}

// BackoffUntil returns when the backoff of all indexes ends, zero if there is none.
func (s *TaskSet) BackoffUntil() time.Time { return s.backoff.until() }

// IndexesInBackoff returns how many indexes are in a backoff of their own.
func (s *TaskSet) IndexesInBackoff() int { return len(s.backoff.readyAt) }

// ActiveTasks returns all active tasks.
func (s *TaskSet) ActiveTasks() []*TrackedTask {
	tasks := make([]*TrackedTask, 0, s.active)
	for _, t := range s.tasks {
		if t.state.Active() {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// ActiveTasksForRemoval returns the n active tasks, except those that are deleted anyway, whose deletion costs least:
// pending tasks before running ones, and higher indexes before lower ones.
func (s *TaskSet) ActiveTasksForRemoval(n int, except []*TrackedTask) []*TrackedTask {
	excluded := make(map[*TrackedTask]bool, len(except))
	for _, t := range except {
		excluded[t] = true
	}
	tasks := slices.DeleteFunc(s.ActiveTasks(), func(t *TrackedTask) bool { return excluded[t] })
	if n >= len(tasks) {
		return tasks
	}
	rank := func(t *TrackedTask) int {
		switch {
		case t.state == Running:
			return 2
		case t.bound:
			return 1
		}
		return 0
	}
	slices.SortFunc(tasks, func(a, b *TrackedTask) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.Index(), a.Index()))
	})
	return tasks[:n]
}

// activeTasksOf returns the active tasks of an index: one at most, unless users have created some.
func (s *TaskSet) activeTasksOf(index int) []*TrackedTask {
	var tasks []*TrackedTask
	for _, t := range s.tasks {
		if t.state.Active() && indexes.Contains(t.held, index) {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// isOutdated reports whether a task waits for a worker in another queue, or with another priority, than the set has.
// Such a task is deleted and created again, unless the server changed the order that was requested, as a webhook may.
func (s *TaskSet) isOutdated(t *TrackedTask) bool {
	order := t.order
	if t.requestedOrder != nil {
		order = *t.requestedOrder
	}
	return !t.bound && order != s.order
}

// TasksToStop returns the tasks to delete whatever the parallelism: duplicate and outdated tasks, tasks of indexes that
// are done, and ignored failures whose backoff has ended. retryAt is when the next such backoff ends, zero if there is
// none.
func (s *TaskSet) TasksToStop(now time.Time) (tasks []*TrackedTask, retryAt time.Time) {
	if len(s.duplicates) > 0 {
		tasks = s.duplicatesToStop()
	}
	s.ignoredFailures = slices.DeleteFunc(s.ignoredFailures, func(t *TrackedTask) bool {
		if t.state != Ignored {
			return true
		}
		readyAt := s.backoff.until()
		if s.backoffLimitPerIndex != nil {
			readyAt = s.backoff.readyAt[t.Index()]
		}
		if readyAt.After(now) {
			retryAt = earliest(retryAt, readyAt)
		} else {
			tasks = append(tasks, t)
		}
		return false
	})
	return tasks, retryAt
}

// duplicatesToStop returns the duplicates that must be deleted, and forgets the others.
func (s *TaskSet) duplicatesToStop() []*TrackedTask {
	stopping, seen := map[int]int{}, make(map[*TrackedTask]bool, len(s.duplicates))
	s.duplicates = slices.DeleteFunc(s.duplicates, func(t *TrackedTask) bool {
		if !t.state.Active() || seen[t] {
			return true
		}
		stop := s.isSuperfluous(t) || s.isOutdated(t)
		for index := range s.extraHolders {
			stop = stop || indexes.Contains(t.held, index) && len(s.activeTasksOf(index))-stopping[index] >= 2
		}
		if !stop {
			return true
		}
		seen[t] = true
		for _, r := range t.held {
			for index := r.First; index <= r.Last; index++ {
				stopping[index]++
			}
		}
		return false
	})
	return slices.Clone(s.duplicates)
}

// TasksToDelete returns at most n tasks whose count is stored and that nobody needs, and reports whether there are
// more.
func (s *TaskSet) TasksToDelete(n int) (tasks []*TrackedTask, more bool) {
	s.toDelete = slices.DeleteFunc(s.toDelete, func(t *TrackedTask) bool { return t.state != ToDelete })
	n = min(n, len(s.toDelete))
	return s.toDelete[:n], n < len(s.toDelete)
}

// UnconfirmedDeletions returns the unfinished tasks whose deletion was requested or observed at least that long ago,
// and that should be gone: those that no event has shown as being deleted, and those without a worker. The former may
// be gone without an event: the informer does not see a task that is created and deleted between two of its lists. The
// latter remain if the server was killed between its two writes, which mark a task and delete it. The deletion must be
// requested again, which shows whether the task exists. checkAt is when to call it again, zero if no deletion is
// unconfirmed.
func (s *TaskSet) UnconfirmedDeletions(now time.Time, after time.Duration) (tasks []*TrackedTask, checkAt time.Time) {
	if s.terminating == 0 {
		return nil, time.Time{}
	}
	for _, t := range s.tasks {
		if t.state != Terminating || t.deletionTimestamp && t.bound {
			continue
		}
		if !t.deletionRequested {
			t.deletionRequested, t.deletionRequestedAt = true, now
		}
		if due := t.deletionRequestedAt.Add(after); due.After(now) {
			checkAt = earliest(checkAt, due)
			continue
		}
		t.deletionRequested = false
		tasks = append(tasks, t)
	}
	return tasks, checkAt
}

// DeletionRequested records that the server has accepted the deletion of a task at that time.
func (s *TaskSet) DeletionRequested(t *TrackedTask, now time.Time) {
	t.deletionRequested, t.deletionRequestedAt = true, now
	switch {
	case !s.loaded:
	case t.state == ToDelete:
		s.transition(t, Deleted)
	default:
		s.transition(t, t.observedState())
	}
}

// MustCount reports whether a task may not be deleted in another version than the known one, because it would have to
// be counted if it has finished.
func (s *TaskSet) MustCount(t *TrackedTask) bool { return s.loaded && t.state.Active() }
