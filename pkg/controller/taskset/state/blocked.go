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
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Follows reports whether the indexes that may start were set for these other sets.
func (s *TaskSet) Follows(others []*batch.TaskSet) bool { return slices.Equal(s.followed, others) }

// Follow limits the indexes that may start to those of ascending ranges in all lists, one for each of other sets. All
// may start if there are none.
func (s *TaskSet) Follow(others []*batch.TaskSet, startable [][]indexes.Range) {
	s.followed, s.startable = others, nil
	if len(startable) > 0 {
		all := startable[0]
		for _, ranges := range startable[1:] {
			all = indexes.Intersect(all, ranges)
		}
		limited := newIndexSet(indexes.Below(all, s.indexEnd))
		s.startable = &limited
	}
	s.updatePending(indexes.Range{First: 0, Last: s.indexEnd - 1})
}

// MayStartAny reports whether an index may start, or has started, as far as other sets limit it.
func (s *TaskSet) MayStartAny() bool { return s.startable == nil || s.startable.size > 0 }

// openRanges returns how many ranges of indexes that may start and are not completed the completed ones are separated
// by, at most.
func (s *TaskSet) openRanges() int {
	done := s.completed.ranges
	if s.failedIndexes.size > 0 {
		done = union(done, s.failedIndexes.ranges)
	}
	if s.startable != nil {
		done = union(done, indexes.Subtract([]indexes.Range{{First: 0, Last: s.indexEnd - 1}}, s.startable.ranges))
	}
	return len(done)
}

// CancelIndexes fails the indexes of spec.cancelledIndexes that have not succeeded. Their tasks become superfluous.
func (s *TaskSet) CancelIndexes(spec *batch.TaskSetSpec) error {
	if spec.CancelledIndexes == s.cancelledText {
		return nil
	}
	ranges, err := indexes.Parse(spec.CancelledIndexes, maxIndex)
	if err != nil {
		return err
	}
	s.cancelled, s.cancelledText = newIndexSet(ranges), spec.CancelledIndexes
	s.FailIndexes(ranges, spec.MaxFailedIndexes)
	for _, t := range s.tasks {
		if t.state.Active() && s.isSuperfluous(t) {
			s.duplicates = append(s.duplicates, t)
		}
	}
	return nil
}

// FailIndexes fails the indexes of ascending ranges that are not done, without a failed task. It stops once more than
// maxFailed indexes have failed, because the set then fails, and its status has no space for more.
func (s *TaskSet) FailIndexes(ranges []indexes.Range, maxFailed *int32) {
	for _, r := range ranges {
		for _, o := range s.open(r) {
			if maxFailed != nil {
				o.Last = min(o.Last, o.First+int(*maxFailed)-s.failedIndexes.size)
			}
			if o.Last < o.First {
				return
			}
			s.failRange(o)
		}
	}
}

// failRange marks the indexes of a range as failed. None of them may be done.
func (s *TaskSet) failRange(r indexes.Range) {
	s.failedIndexes.addRange(r)
	s.pending.removeRange(r)
	s.alone.removeRange(r)
	s.failedWithoutTask = true
	if len(s.failures) == 0 && s.backoff.isEmpty() {
		return
	}
	for index := r.First; index <= r.Last; index++ {
		delete(s.failures, index)
		s.backoff.forget(index)
	}
}

// FailedWithoutTask reports whether indexes have failed without a failed task since the status was stored.
func (s *TaskSet) FailedWithoutTask() bool { return s.failedWithoutTask }
