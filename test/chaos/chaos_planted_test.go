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
)

// plantLimit bounds the search in a history that is known to be wrong.
const plantLimit = 20 * time.Second

// plant puts one bug after the other into what a run has recorded, and gives those that nobody saw: then what was seen to be right says
// nothing. It also tells how many it planted.
func plant(random *rand.Rand, calls []call, registers, work []change, watchers []*watcher, effects []effect, set string) (planted int, unseen []string) {
	see := func(bug string, wrong bool) {
		planted++
		if !wrong {
			unseen = append(unseen, "a bug that was planted was not seen: "+bug)
		}
	}
	if c, i := anyOf(random, calls, func(c call) bool {
		return c.outcome == ok && (c.kind == creates || c.kind == updates || c.kind == patches)
	}); i >= 0 {
		lost := slices.DeleteFunc(slices.Clone(registers), func(change change) bool { return change.revision == c.revision })
		see("a lost write", len(checkRegisters(about(calls, c.name), lost, plantLimit)) > 0)
	}
	histories := versions(registers)
	// before gives a version that had been replaced, and known to be, when a read began.
	before := func(read call) (version, bool) {
		for _, c := range calls {
			if c.name == read.name && c.kind == updates && c.outcome == ok && c.ended < read.begun && c.revision <= read.revision {
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
		see("a stale read", len(checkRegisters(about(stale, c.name), registers, plantLimit)) > 0)
	}
	if c, i := anyOf(random, calls, func(c call) bool { return c.kind == lists && c.outcome == ok && len(c.items) > 0 }); i >= 0 {
		c.items = map[string]item{}
		see("an empty list", len(checkLists([]call{c}, registers)) > 0)
	}
	for _, w := range watchers {
		got := w.got
		// What comes right before a list is told by the list, too.
		if _, i := anyOf(random, got, func(o told) bool { return o.task != nil }); i >= 0 && (i+1 == len(got) || got[i+1].kind != listed) {
			see("an event missed by the watcher of "+w.name, checkWatch(w.changes, w.selects, slices.Delete(slices.Clone(got), i, i+1)) != nil)
			see("an event told twice to the watcher of "+w.name, checkWatch(w.changes, w.selects, slices.Insert(slices.Clone(got), i, got[i])) != nil)
		}
		if _, i := anyOf(random, got, func(o told) bool { return o.kind == watch.Modified }); i > 0 && got[i-1].task != nil {
			swapped := slices.Clone(got)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			see("two events in the wrong order for the watcher of "+w.name, checkWatch(w.changes, w.selects, swapped) != nil)
		}
	}
	if c, i := anyOf(random, work, func(c change) bool {
		return c.after != nil && c.before != nil && c.after.Labels[batch.LabelTaskSetName] == set && c.after.Status.Phase == batch.TaskSucceeded && c.before.Status.Phase != batch.TaskSucceeded
	}); i >= 0 {
		see("an index counted that was not done", len(checkSet(slices.Delete(slices.Clone(work), i, i+1), effects, set, completions).wrong) > 0)
		other := slices.Clone(work)
		other[i].after = c.after.DeepCopy()
		other[i].after.Status.Incarnation = "another"
		see("a report by another incarnation", len(checkSet(other, effects, set, completions).wrong) > 0)
	}
	return planted, unseen
}

// about gives the calls on an object, and the lists.
func about(calls []call, name string) []call {
	return slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return c.name != name && c.name != "" })
}

// anyOf gives one at random of those that are so, and where it is; -1 if none is.
func anyOf[T any](random *rand.Rand, all []T, is func(T) bool) (one T, at int) {
	var found []int
	for i := range all {
		if is(all[i]) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return one, -1
	}
	at = found[random.IntN(len(found))]
	return all[at], at
}
