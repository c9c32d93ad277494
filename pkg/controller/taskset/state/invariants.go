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
	"fmt"
	"maps"
	"slices"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// CheckInvariants returns an error if the counters, sets and lists are not those that follow from the states of the
// tasks. It is for tests. No task may be reserved.
func (s *TaskSet) CheckInvariants() error {
	all := map[*TrackedTask]bool{}
	for _, t := range s.tasks {
		all[t] = true
	}
	lists := map[TaskState][]*TrackedTask{
		Finished: s.finished, Counted: s.counted, Ignored: s.ignoredFailures, Retained: s.retainedFailures, ToDelete: s.toDelete,
	}
	for _, list := range lists {
		for _, t := range list {
			all[t] = true
		}
	}
	var active, ready, terminating int32
	holders, placed := map[int]int{}, [placements]int{}
	for t := range all {
		switch t.state {
		case Waiting:
			active++
		case Running:
			active++
			ready++
		case Terminating:
			terminating++
		}
		if !slices.Equal(t.held, t.holds()) {
			return fmt.Errorf("task %s in state %s holds %v, want %v", t.UID, t.state, t.held, t.holds())
		}
		for _, r := range t.held {
			for index := r.First; index <= r.Last; index++ {
				holders[index]++
			}
		}
		placed[t.placement]++
		if want := s.placementOf(t); (t.placement <= bound || want <= bound) && t.placement != want {
			return fmt.Errorf("the placement of task %s is %d, want %d", t.UID, t.placement, want)
		}
		if completed := indexes.Slice(t.indexes, 0, t.completedCount); t.completedCount != t.countedCount ||
			len(indexes.Subtract(indexes.Below(completed, s.indexEnd), union(s.completed.ranges, s.failedIndexes.ranges))) > 0 {
			return fmt.Errorf("task %s has completed %v: %d of them are counted, and the set has completed %s", t.UID, completed, t.countedCount, &s.completed)
		}
		if list, listed := lists[t.state]; listed {
			if n := len(slices.DeleteFunc(slices.Clone(list), func(other *TrackedTask) bool { return other != t })); n != 1 {
				return fmt.Errorf("task %s in state %s is %d times in its list", t.UID, t.state, n)
			}
		}
		if (t.state == ToDelete || t.state == Ignored) && t.deletionRequested {
			return fmt.Errorf("task %s is to be deleted in state %s although its deletion was requested", t.UID, t.state)
		}
		if t.gone && t.state != Absent && t.state != Finished && t.state != Counted {
			return fmt.Errorf("task %s is gone in state %s", t.UID, t.state)
		}
	}
	if active != s.active || ready != s.ready || terminating != s.terminating {
		return fmt.Errorf("active %d, ready %d, terminating %d; want %d, %d, %d", s.active, s.ready, s.terminating, active, ready, terminating)
	}
	if placed[notActive] = s.placed[notActive]; placed != s.placed { // tasks that are gone are not active either
		return fmt.Errorf("tasks by placement are %v, want %v", s.placed, placed)
	}
	var held indexSet
	extra := map[int]int{}
	for index, n := range holders {
		held.add(index)
		if n > 1 {
			extra[index] = n - 1
		}
	}
	if held.String() != s.held.String() || !maps.Equal(extra, s.extraHolders) {
		return fmt.Errorf("held are %s with %v more, want %s with %v more", &s.held, s.extraHolders, &held, extra)
	}
	var notPending indexSet
	for _, set := range []*indexSet{&s.completed, &s.failedIndexes, &s.held} {
		notPending.ranges = union(notPending.ranges, set.ranges)
	}
	for index := range s.backoff.readyAt {
		notPending.add(index)
	}
	if s.startable != nil {
		blocked := indexes.Subtract([]indexes.Range{{First: 0, Last: s.indexEnd - 1}}, s.startable.ranges)
		notPending.ranges = union(notPending.ranges, blocked)
	}
	notPending.ranges = indexes.Below(notPending.ranges, s.indexEnd)
	if pending := remaining(s.indexEnd, &notPending, &indexSet{}); pending.String() != s.pending.String() {
		return fmt.Errorf("pending are %s, want %s", &s.pending, &pending)
	}
	if n := intersectionSize(s.completed.ranges, s.failedIndexes.ranges); n > 0 {
		return fmt.Errorf("%d indexes are completed and failed", n)
	}
	for name, set := range map[string]*indexSet{"completed": &s.completed, "failed": &s.failedIndexes, "pending": &s.pending, "held": &s.held} {
		size := 0
		for i, r := range set.ranges {
			if r.First > r.Last || i > 0 && r.First <= set.ranges[i-1].Last+1 {
				return fmt.Errorf("the ranges of %s indexes are %v", name, set.ranges)
			}
			size += r.Last - r.First + 1
		}
		if size != set.size {
			return fmt.Errorf("%d indexes are %s, want %d", set.size, name, size)
		}
	}
	return nil
}
