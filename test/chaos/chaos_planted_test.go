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

package chaos

import (
	"math/rand/v2"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/setcheck"
)

// plantLimit bounds the search in a history with a planted fault.
const plantLimit = 20 * time.Second

// plant plants one fault after the other into the records of a run that has passed all checks. It returns the number of
// faults, and those that the checks do not detect: for these, the run proves nothing.
func plant(random *rand.Rand, calls []call, registers, work []history.Change, watchers []*watcher, sets []checkedSet) (planted int, undetected []string) {
	detect := func(fault string, detected bool) {
		planted++
		if !detected {
			undetected = append(undetected, "planted fault was not detected: "+fault)
		}
	}
	if c, i := anyOf(random, calls, func(c call) bool {
		return c.outcome == ok && (c.kind == creates || c.kind == updates || c.kind == patches)
	}); i >= 0 {
		lost := slices.DeleteFunc(slices.Clone(registers), func(change history.Change) bool { return change.Revision == c.revision })
		detect("a lost write", len(checkRegisters(about(calls, c.name), lost, plantLimit)) > 0)
	}
	histories := versions(registers)
	// before returns a version that an acknowledged update had replaced when the read started.
	before := func(read call) (version, bool) {
		for _, c := range calls {
			if c.name == read.name && c.kind == updates && c.outcome == ok && c.end < read.start && c.revision <= read.revision {
				for _, v := range histories[c.name] {
					if v.revision == c.expected {
						return v, v.present
					}
				}
			}
		}
		return version{}, false
	}
	if c, i := anyOf(random, calls, func(c call) bool {
		_, found := before(c)
		return c.kind == gets && c.outcome == ok && found
	}); i >= 0 {
		stale := slices.Clone(calls)
		old, _ := before(c)
		stale[i].value, stale[i].revision = old.value, old.revision
		detect("a stale read", len(checkRegisters(about(stale, c.name), registers, plantLimit)) > 0)
	}
	if c, i := anyOf(random, calls, func(c call) bool { return c.kind == lists && c.outcome == ok && len(c.items) > 0 }); i >= 0 {
		c.items = map[string]item{}
		detect("an empty list", len(checkLists([]call{c}, registers)) > 0)
	}
	for _, w := range watchers {
		got := w.got
		// A list repeats the event right before it.
		if _, i := anyOf(random, got, func(e history.Observation) bool { return e.Task != nil }); i >= 0 && (i+1 == len(got) || got[i+1].Type != history.Listed) {
			detect("an event missed by the watcher of "+w.name, history.CheckWatch(w.changes, w.selects, slices.Delete(slices.Clone(got), i, i+1)) != nil)
			detect("a duplicate event of the watcher of "+w.name, history.CheckWatch(w.changes, w.selects, slices.Insert(slices.Clone(got), i, got[i])) != nil)
		}
		if _, i := anyOf(random, got, func(e history.Observation) bool { return e.Type == watch.Modified }); i > 0 && got[i-1].Task != nil {
			swapped := slices.Clone(got)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			detect("two swapped events of the watcher of "+w.name, history.CheckWatch(w.changes, w.selects, swapped) != nil)
		}
	}
	undetected = append(undetected, plantInDependencies(random, work, detect)...)
	return planted, append(undetected, plantInSets(random, work, sets, detect)...)
}

// plantInSets plants faults into the records of sets. It returns the faults that it has no place for in any set, except
// for those that need more than chunks: each run must have chunks that are released and that fail.
func plantInSets(random *rand.Rand, work []history.Change, sets []checkedSet, detect func(fault string, detected bool)) (missing []string) {
	for _, fault := range []struct {
		name string
		// matches reports whether the fault can be planted after a change of a task of a set.
		matches func(before, after *batch.Task) bool
		// plant changes the task, and returns the position of an index that is started afterwards; -1 for none.
		plant func(after *batch.Task) (started int)
		// optional is set if not each run has a place for the fault.
		optional bool
	}{
		{"an index counted without success", func(before, after *batch.Task) bool {
			return after.Status.Phase == batch.TaskSucceeded && before.Status.Phase != batch.TaskSucceeded
		}, func(after *batch.Task) int {
			after.Status.Phase, after.Status.CompletedCount = batch.TaskRunning, 0
			return -1
		}, false},
		{"a report by another incarnation", func(before, after *batch.Task) bool {
			return after.Status.Phase == batch.TaskSucceeded && before.Status.Phase != batch.TaskSucceeded
		}, func(after *batch.Task) int {
			after.Status.Incarnation = "another"
			return -1
		}, false},
		{"an index started after its release was sent", func(before, after *batch.Task) bool {
			return before.Spec.WorkerName != "" && after.Spec.WorkerName != "" && before.Status.IndexLimit == nil && after.Status.IndexLimit != nil
		}, func(after *batch.Task) int { return int(*after.Status.IndexLimit) }, false},
		{"a prefix counter that goes back", func(before, after *batch.Task) bool {
			return before.Status.CompletedCount > 0 && after.Status.CompletedCount > before.Status.CompletedCount
		}, func(after *batch.Task) int {
			after.Status.CompletedCount = 0
			return -1
		}, false},
		{"a chunk continued past a failure", func(before, after *batch.Task) bool {
			return after.Status.Phase == batch.TaskFailed && before.Status.Phase != batch.TaskFailed &&
				int(after.Status.CompletedCount)+1 < indexes.Count(after.IndexRanges())
		}, func(after *batch.Task) int { return int(after.Status.CompletedCount) + 1 }, false},
		{"a prefetched task that counts a disruption", func(before, after *batch.Task) bool {
			waiting := after.Status.State.Waiting
			return waiting != nil && (waiting.Reason == batch.TaskReasonPrefetched && before.Spec.WorkerName == "" ||
				waiting.Reason == batch.TaskReasonRebalanced && before.Spec.WorkerName != "" && after.Spec.WorkerName == "")
		}, func(after *batch.Task) int {
			after.Status.Disruptions++
			return -1
		}, true},
	} {
		set := map[string]checkedSet{}
		for _, s := range sets {
			set[s.name] = s
		}
		c, i := anyOf(random, work, func(c history.Change) bool {
			return c.Before != nil && c.After != nil && set[c.After.Labels[batch.LabelTaskSetName]].Result != nil && fault.matches(c.Before, c.After)
		})
		if i < 0 && fault.optional {
			continue
		}
		if i < 0 {
			missing = append(missing, "no set has a place to plant "+fault.name+": the run proves nothing about it")
			continue
		}
		s := set[c.After.Labels[batch.LabelTaskSetName]]
		changed, marks := slices.Clone(work), s.marks
		changed[i].After = c.After.DeepCopy()
		if started := fault.plant(changed[i].After); started >= 0 {
			marks = append(slices.Clone(marks), setcheck.Mark{
				Kind: setcheck.Start, Index: indexes.At(c.After.IndexRanges(), started), Task: c.After.UID,
				Worker: c.After.Spec.WorkerName, Incarnation: c.After.Status.Incarnation, At: c.Received,
			})
		}
		detect(fault.name, len(setcheck.Check(changed, marks, s.want()).Wrong) > 0)
	}
	return missing
}

// about returns the calls on an object, and the lists.
func about(calls []call, name string) []call {
	return slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return c.name != name && c.name != "" })
}

// anyOf returns a random element that matches, and its index, which is -1 if none matches.
func anyOf[T any](random *rand.Rand, all []T, matches func(T) bool) (one T, at int) {
	var found []int
	for i := range all {
		if matches(all[i]) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return one, -1
	}
	at = found[random.IntN(len(found))]
	return all[at], at
}
