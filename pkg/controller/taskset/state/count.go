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
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// CountFinished counts the tasks that have finished since the last call, in the order in which they finished. Times in
// the future, by the clocks of workers, count as now.
func (s *TaskSet) CountFinished(now time.Time) {
	for _, t := range s.finished {
		if t.finishedAt.After(now) {
			t.finishedAt = now
		}
	}
	slices.SortFunc(s.finished, func(a, b *TrackedTask) int {
		return cmp.Or(a.finishedAt.Compare(b.finishedAt), cmp.Compare(a.Index(), b.Index()), cmp.Compare(a.failureCount, b.failureCount),
			cmp.Compare(a.UID, b.UID))
	})
	for _, t := range s.finished {
		s.countTask(t)
	}
	clear(s.finished)
	s.finished = s.finished[:0]
}

// countTask counts a finished task, by the second table of TaskState. The successes of a chunk are counted already.
func (s *TaskSet) countTask(t *TrackedTask) {
	index := t.Index()
	if t.Succeeded() {
		s.backoff.recordSuccess(t.finishedAt)
		switch {
		case t.chunk:
			s.transition(t, Counted)
		case s.isDone(index):
			s.flush(t)
		default:
			s.completeIndexes(t.indexes)
			s.transition(t, Counted)
		}
		return
	}
	if t.completedCount > 0 {
		// The indexes before this one have succeeded earlier.
		s.backoff.recordSuccess(t.finishedAt.Add(-1))
	}
	switch {
	case s.failureDecided || s.isDone(index) || t.failureCount < s.failures[index]:
		if !s.isDone(index) && t.failureCount+1 == s.failures[index] {
			s.recordBackoff(t)
		}
		if t.completedCount > 0 {
			s.transition(t, Counted)
		} else {
			s.flush(t)
		}
	case t.deletionTimestamp || t.deletionRequested:
		s.alone.add(index)
		s.transition(t, Discarded)
	default:
		s.countFailure(t)
	}
}

// completeIndexes marks indexes as completed, except those that are done.
func (s *TaskSet) completeIndexes(ranges []indexes.Range) {
	for _, r := range ranges {
		for _, o := range s.open(r) {
			s.completeRange(o)
		}
	}
}

// completeRange marks the indexes of a range as completed. None of them may be done.
func (s *TaskSet) completeRange(r indexes.Range) {
	s.completed.addRange(r)
	s.pending.removeRange(r)
	s.alone.removeRange(r)
	for i := range s.successRules {
		s.successRules[i].recordSuccess(r)
	}
	if len(s.failures) == 0 && len(s.extraHolders) == 0 && s.backoff.isEmpty() {
		return
	}
	for index := r.First; index <= r.Last; index++ {
		delete(s.failures, index)
		s.backoff.forget(index)
		if s.extraHolders[index] > 0 {
			s.duplicates = append(s.duplicates, s.activeTasksOf(index)...)
		}
	}
}

// countFailure counts a failed task as the failure policy has it.
func (s *TaskSet) countFailure(t *TrackedTask) {
	action, message := matchFailurePolicy(s.failurePolicy, t.failed)
	index := t.Index()
	s.recordBackoff(t)
	if action == batch.TaskFailurePolicyActionIgnore {
		s.alone.add(index)
		s.transition(t, Ignored)
		return
	}
	s.failed++
	s.failures[index] = t.failureCount + 1
	if action == batch.TaskFailurePolicyActionFailTaskSet && s.policyFailure == "" {
		s.policyFailure = message
	}
	if limit := s.backoffLimitPerIndex; limit != nil &&
		(action == batch.TaskFailurePolicyActionFailIndex || t.failureCount >= int(*limit)) {
		s.failedIndexes.add(index)
		delete(s.failures, index)
		s.backoff.forget(index)
	}
	s.transition(t, Counted)
}

// recordBackoff starts the backoff after the failure of a task, once for each task.
func (s *TaskSet) recordBackoff(t *TrackedTask) {
	if !t.backoffRecorded {
		t.backoffRecorded = true
		s.backoff.recordFailure(t.Index(), t.failureCount, t.finishedAt, s.backoffLimitPerIndex != nil)
	}
}

// DecideFailure counts the active tasks as failed, because they will be deleted, and all further failures as none.
func (s *TaskSet) DecideFailure() {
	s.failed += s.active
	s.failureDecided = true
}

// StatusStored records that the status is stored with everything that is counted.
func (s *TaskSet) StatusStored() {
	for _, t := range s.counted {
		s.flush(t)
	}
	clear(s.counted)
	s.counted, s.failedWithoutTask = s.counted[:0], false
	s.retainedFailures = slices.DeleteFunc(s.retainedFailures, func(t *TrackedTask) bool {
		if t.state == Retained && !s.isWorthRetaining(t) {
			s.transition(t, ToDelete)
		}
		return t.state != Retained
	})
}

// flush moves a task whose count is stored to Retained or ToDelete.
func (s *TaskSet) flush(t *TrackedTask) {
	if s.isWorthRetaining(t) {
		s.transition(t, Retained)
	} else {
		s.transition(t, ToDelete)
	}
}

// isWorthRetaining reports whether a task has failed and its index has not succeeded since.
func (s *TaskSet) isWorthRetaining(t *TrackedTask) bool {
	index := t.Index()
	return !t.Succeeded() && index >= 0 && index < s.indexEnd && !s.completed.has(index)
}

// Finish records that the set has finished: nothing counts any more.
func (s *TaskSet) Finish() {
	s.failureDecided = true
	for _, t := range s.ignoredFailures {
		if t.state == Ignored {
			s.flush(t)
		}
	}
	s.ignoredFailures = nil
	s.StatusStored()
}
