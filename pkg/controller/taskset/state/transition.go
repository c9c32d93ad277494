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
	"slices"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

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
	s.hold(t)
	s.place(t)
}

// hold updates the indexes that a task holds. Indexes that it no longer holds are pending again unless they are done.
func (s *TaskSet) hold(t *TrackedTask) {
	before, after := t.held, t.holds()
	if slices.Equal(before, after) {
		return
	}
	t.held = after
	for _, r := range indexes.Subtract(after, before) {
		for _, other := range s.held.within(r) {
			for index := other.First; index <= other.Last; index++ {
				s.extraHolders[index]++
			}
		}
		s.held.addRange(r)
		s.pending.removeRange(r)
	}
	for _, r := range indexes.Subtract(before, after) {
		if len(s.extraHolders) == 0 {
			s.held.removeRange(r)
			s.updatePending(r)
			continue
		}
		for index := r.First; index <= r.Last; index++ {
			switch {
			case s.extraHolders[index] > 1:
				s.extraHolders[index]--
			case s.extraHolders[index] == 1:
				delete(s.extraHolders, index)
			default:
				s.held.remove(index)
				s.updatePending(indexes.Range{First: index, Last: index})
			}
		}
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

// updatePending makes the indexes of a range pending unless they are done, held, in backoff or may not start yet.
func (s *TaskSet) updatePending(r indexes.Range) {
	s.pending.removeRange(r)
	open := s.open(r)
	if s.startable != nil {
		open = indexes.Intersect(open, s.startable.ranges)
	}
	for _, o := range open {
		for _, free := range indexes.Subtract([]indexes.Range{o}, s.held.within(o)) {
			s.pending.addRange(free)
		}
	}
	for index := range s.backoff.readyAt {
		if r.First <= index && index <= r.Last {
			s.pending.remove(index)
		}
	}
}

// open returns the indexes of a range that are not done.
func (s *TaskSet) open(r indexes.Range) []indexes.Range {
	r.First, r.Last = max(r.First, 0), min(r.Last, s.indexEnd-1)
	if r.First > r.Last {
		return nil
	}
	return indexes.Subtract([]indexes.Range{r}, union(s.completed.within(r), s.failedIndexes.within(r)))
}

// isDone reports whether an index needs no more tasks.
func (s *TaskSet) isDone(index int) bool {
	return index < 0 || index >= s.indexEnd || s.completed.has(index) || s.failedIndexes.has(index)
}
