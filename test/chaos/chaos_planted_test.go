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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
)

// plantLimit bounds the search in a history with a planted fault.
const plantLimit = 20 * time.Second

// plant plants one fault after the other into the records of a run that has passed all checks. It returns the number of
// faults, and those that the checks do not detect: for these, the run proves nothing.
func plant(random *rand.Rand, calls []call, registers, work []history.Change, watchers []*watcher, effects []effect, set string) (planted int, undetected []string) {
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
	if c, i := anyOf(random, work, func(c history.Change) bool {
		return c.After != nil && c.Before != nil && c.After.Labels[batch.LabelTaskSetName] == set && c.After.Status.Phase == batch.TaskSucceeded && c.Before.Status.Phase != batch.TaskSucceeded
	}); i >= 0 {
		detect("an index counted without success", len(checkSet(slices.Delete(slices.Clone(work), i, i+1), effects, set, completions).wrong) > 0)
		other := slices.Clone(work)
		other[i].After = c.After.DeepCopy()
		other[i].After.Status.Incarnation = "another"
		detect("a report by another incarnation", len(checkSet(other, effects, set, completions).wrong) > 0)
	}
	return planted, undetected
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
