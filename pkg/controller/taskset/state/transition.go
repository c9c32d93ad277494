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

import "slices"

// transition moves a task to another state. Only transition, and Load when it starts again, change the state of a task,
// the counters and lists of tasks, and which indexes are held.
func (s *TaskSet) transition(t *TrackedTask, to TaskState) {
	switch {
	case t.gone && to != Finished && to != Counted:
		to = Absent
	case to == ToDelete && t.deletionRequested:
		to = Deleted
	}
	from := t.state
	if from == to {
		return
	}
	t.state = to
	s.addToCounters(from, -1)
	s.addToCounters(to, 1)
	switch to {
	case Finished:
		s.finished = append(s.finished, t)
	case Counted:
		s.counted = append(s.counted, t)
	case Ignored:
		s.ignoredFailures = append(s.ignoredFailures, t)
	case Retained:
		s.retain(t)
	case ToDelete:
		s.toDelete = append(s.toDelete, t)
	}
	switch {
	case from.holdsIndex() == to.holdsIndex():
	case to.holdsIndex():
		if !s.held.add(t.Index) {
			s.extraHolders[t.Index]++
		}
		s.pending.remove(t.Index)
	case s.extraHolders[t.Index] > 1:
		s.extraHolders[t.Index]--
	case s.extraHolders[t.Index] == 1:
		delete(s.extraHolders, t.Index)
	default:
		s.held.remove(t.Index)
		s.updatePending(t.Index)
	}
}

// addToCounters adds n to the counters of tasks in a state.
func (s *TaskSet) addToCounters(state TaskState, n int32) {
	switch state {
	case Running:
		s.ready += n
		s.active += n
	case Waiting:
		s.active += n
	case Terminating:
		s.terminating += n
	}
}

// retain adds a task to the retained failures, in the order in which they finished. The oldest ones beyond the limit
// must be deleted.
func (s *TaskSet) retain(t *TrackedTask) {
	at, _ := slices.BinarySearchFunc(s.retainedFailures, t, func(a, b *TrackedTask) int { return a.finishedAt.Compare(b.finishedAt) })
	s.retainedFailures = slices.Insert(s.retainedFailures, at, t)
	if len(s.retainedFailures) > MaxRetainedFailures {
		oldest := s.retainedFailures[0]
		s.retainedFailures = slices.Delete(s.retainedFailures, 0, 1)
		if oldest.state == Retained {
			s.transition(oldest, ToDelete)
		}
	}
}

// updatePending makes an index pending unless it is done, held or in backoff.
func (s *TaskSet) updatePending(index int) {
	if s.held.has(index) || s.isDone(index) || s.backoff.isWaiting(index) {
		s.pending.remove(index)
	} else {
		s.pending.add(index)
	}
}

// isDone reports whether an index needs no more tasks.
func (s *TaskSet) isDone(index int) bool {
	return index < 0 || index >= s.indexEnd || s.completed.has(index) || s.failedIndexes.has(index)
}
