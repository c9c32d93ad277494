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
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
)

type kind string

const (
	creates    kind = "create"
	updates    kind = "update" // with the resourceVersion of the last read
	patches    kind = "patch"  // without a resourceVersion
	deletes    kind = "delete" // with the resourceVersion of the last read
	gets       kind = "get"
	getsCached kind = "get rv=0"
	lists      kind = "list"
	listsCache kind = "list rv=0"
	// marks is the first of the two writes of a delete, which sets deletionTimestamp and keeps the value.
	marks kind = "mark"
)

type outcome string

const (
	ok       outcome = "ok"
	conflict outcome = "conflict"
	notFound outcome = "not found"
	exists   outcome = "exists"
	// refused is any other answer that rules out a write.
	refused outcome = "refused"
	// unknown is no answer, or an answer that leaves open whether the write happened.
	unknown outcome = "unknown"
)

// call is a request of a client with its answer.
type call struct {
	client int
	kind   kind
	name   string // empty for lists
	// value is the value written or read. No value is written twice.
	value string
	// expected is the resourceVersion in an update or a delete.
	expected int64
	// finishes marks a delete that was an update or a patch of an object that is being deleted. Without finalizers, the
	// server deletes the object instead of storing it.
	finishes bool
	// revision is the resourceVersion of the answer.
	revision        int64
	start, end      time.Duration // since the start of the run
	outcome         outcome
	items           map[string]item // of a list
	answer, through string
}

// item is an object in a list.
type item struct {
	value    string
	revision int64
}

func (c call) String() string {
	return fmt.Sprintf("client %d, %s %s %q of %d from %s to %s through %s: %s %d %s", c.client, c.kind, c.name, c.value, c.expected,
		c.start.Round(time.Millisecond), c.end.Round(time.Millisecond), c.through, c.outcome, c.revision, c.answer)
}

// valueLabel holds the value of an object.
const valueLabel = "value"

// version is the state of an object at a revision.
type version struct {
	revision, previous int64 // previous is 0 if there was none
	present, deleting  bool
	value              string
}

// versions returns the history of each task by name.
func versions(changes []history.Change) map[string][]version {
	all := map[string][]version{}
	for _, c := range changes {
		if c.Task() == nil {
			continue
		}
		v := version{revision: c.Revision}
		if c.Before != nil {
			v.previous, _ = strconv.ParseInt(c.Before.ResourceVersion, 10, 64)
		}
		if c.After != nil {
			v.present, v.value, v.deleting = true, c.After.Labels[valueLabel], c.After.DeletionTimestamp != nil
		}
		all[c.Task().Name] = append(all[c.Task().Name], v)
	}
	return all
}

// checkRegisters checks the calls on each object, and the consistent lists, in two ways. It compares them with the
// history in etcd. It also searches for a linearization of a compare-and-swap register by resourceVersion, where the
// history only resolves unknown outcomes. The limit bounds each search.
func checkRegisters(calls []call, changes []history.Change, limit time.Duration) (wrong []string) {
	histories := versions(changes)
	byName := map[string][]call{}
	var consistent []call
	for _, c := range calls {
		switch c.kind {
		case lists:
			if c.outcome == ok {
				consistent = append(consistent, c)
			}
		case listsCache:
		default:
			byName[c.name] = append(byName[c.name], c)
		}
	}
	for name, calls := range byName {
		operations, bad := resolve(name, calls, histories[name])
		wrong = append(wrong, bad...)
		for _, list := range consistent {
			if !around(list, calls) {
				continue
			}
			read := list
			read.kind, read.name = gets, name
			read.outcome, read.value, read.revision = notFound, "", 0
			if found, ok := list.items[name]; ok {
				read.outcome, read.value, read.revision = "ok", found.value, found.revision
			}
			operations = append(operations, operation(read))
		}
		result := porcupine.CheckOperationsTimeout(register, operations, limit)
		switch result {
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s: %d operations are not linearizable as a register", name, len(operations)))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Sprintf("%s: linearizability of %d operations is unknown after %s", name, len(operations), limit))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// around reports whether a list overlaps the time in which the object was in use. Lists before and after all return the
// same.
func around(list call, calls []call) bool {
	first, last := calls[0].start, calls[len(calls)-1].end
	for _, c := range calls {
		first, last = min(first, c.start), max(last, c.end)
	}
	return list.end >= first && list.start <= last
}

// resolve compares the calls on one object with its history, and returns the operations for the search. A call with an
// unknown outcome becomes a write at its revision in the history, at any time after its start, or is left out.
func resolve(name string, calls []call, history []version) (operations []porcupine.Operation, wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, name+": "+fmt.Sprintf(format, args...)) }
	written := map[string]version{} // by value
	present := map[int64]version{}
	ends := map[int64]bool{} // revisions that a delete ended
	marked := map[int64]int64{}
	last := ""
	for _, v := range history {
		if !v.present {
			ends[v.previous], last = true, ""
			continue
		}
		present[v.revision] = v
		if v.value != last {
			if other, twice := written[v.value]; twice {
				fail("value %q was written at revision %d and again at %d", v.value, other.revision, v.revision)
			}
			written[v.value], last = v, v.value
			continue
		}
		// The mark can be no earlier than the first delete of its revision.
		start := time.Duration(0)
		for _, c := range calls {
			if v.deleting && c.kind == deletes && c.expected == v.previous && (start == 0 || c.start < start) {
				start = c.start
			}
		}
		marked[v.previous] = v.revision
		operations = append(operations, operation(call{kind: marks, name: name, revision: v.revision, start: start, outcome: unknown}))
	}
	// deletedAt returns the last revision of the object that a delete of the expected revision ended, if any.
	deletedAt := func(expected int64) (int64, bool) {
		if ends[expected] {
			return expected, true
		}
		mark, isMarked := marked[expected]
		return mark, isMarked && ends[mark]
	}
	requested, claimed := map[int64]bool{}, map[int64]bool{}
	acknowledged := map[int64]bool{}
	for _, c := range calls {
		v, known := written[c.value]
		switch c.kind {
		case creates, updates, patches:
			switch {
			case c.outcome == ok && !known:
				fail("an acknowledged write is lost: %s", c)
			case c.outcome == ok && v.revision != c.revision:
				fail("a write at revision %d was acknowledged with another revision: %s", v.revision, c)
			case c.outcome == unknown && known:
				c.revision = v.revision
			case c.outcome == unknown:
				continue
			case c.outcome != ok && known:
				fail("a refused write was stored at revision %d: %s", v.revision, c)
			}
			delete(written, c.value)
		case deletes:
			at, gone := deletedAt(c.expected)
			requested[at] = true
			if c.outcome != ok {
				break
			}
			claimed[at] = true
			if !gone {
				fail("an acknowledged delete is lost: %s", c)
			}
			if acknowledged[c.expected] && !c.finishes {
				fail("revision %d was deleted twice: %s", c.expected, c)
			}
			acknowledged[c.expected] = acknowledged[c.expected] || !c.finishes
		case gets, getsCached:
			if v, known := present[c.revision]; c.outcome == ok && (!known || v.value != c.value) {
				fail("a read of a state that never existed, the revision has %q: %s", v.value, c)
			}
		}
		if c.kind == getsCached || c.outcome == refused || c.outcome == unknown && (c.kind == gets || c.kind == deletes) {
			continue
		}
		operations = append(operations, operation(c))
	}
	// Deletes whose outcome is unknown.
	for at := range ends {
		if !requested[at] {
			fail("revision %d was deleted without a request", at)
		}
		if !claimed[at] {
			operations = append(operations, operation(call{kind: deletes, name: name, expected: at, outcome: unknown}))
		}
	}
	for value, v := range written {
		fail("value %q at revision %d was written without a request", value, v.revision)
	}
	return operations, wrong
}

// operation returns the operation of a call for the search.
func operation(c call) porcupine.Operation {
	o := porcupine.Operation{ClientId: c.client, Input: c, Call: int64(c.start), Return: int64(c.end)}
	if c.outcome == unknown {
		o.Return = math.MaxInt64
	}
	return o
}

// object is the state of a register.
type object struct {
	present  bool
	value    string
	revision int64
	// unmarked is the revision before the mark, if the last write was a mark.
	unmarked int64
}

// register is a register whose updates and deletes compare the revision.
var register = porcupine.Model{
	Init: func() any { return object{} },
	Step: func(state, input, _ any) (bool, any) {
		s, c := state.(object), input.(call)
		next := object{present: true, value: c.value, revision: c.revision}
		later := c.revision > s.revision
		done := c.outcome == ok || c.outcome == unknown
		was := s.present
		switch {
		case c.kind == marks:
			next.value, next.unmarked = s.value, s.revision
			return s.present && later, next
		case c.outcome == notFound:
			return !s.present, s
		case c.outcome == exists:
			return c.kind == creates && s.present, s
		case c.outcome == conflict && c.kind == updates:
			// An update of a deleted object is a conflict too if an object of the same name was created meanwhile.
			return !s.present || s.revision != c.expected, s
		case c.outcome == conflict && c.kind == patches:
			return true, s // the server has run out of retries
		case c.outcome == conflict && c.kind == deletes:
			return s.present && s.revision != c.expected, s
		case !done:
			return false, s
		case c.kind == gets:
			return s.present && s.value == c.value && s.revision == c.revision, s
		case c.kind == creates:
			return !s.present && later, next
		case c.kind == updates:
			return s.present && s.revision == c.expected && later, next
		case c.kind == patches:
			return s.present && later, next
		case c.kind == deletes:
			// Of several concurrent deletes, all may be acknowledged.
			before := s.unmarked != 0 && s.unmarked == c.expected
			s.present = s.present && s.revision != c.expected && !before
			return !s.present && (before || s.revision == c.expected && (was || c.finishes)), s
		}
		return false, s
	},
}

// checkLists compares each list with the state at its revision. A consistent list must also be no older than any
// revision that a client had seen before the start of the list.
func checkLists(calls []call, changes []history.Change) (wrong []string) {
	type acknowledged struct {
		at       time.Duration
		revision int64
	}
	var known []acknowledged
	ordered := slices.Clone(calls)
	slices.SortFunc(ordered, func(a, b call) int { return int(a.end - b.end) })
	newest := int64(0)
	for _, c := range ordered {
		if c.outcome == ok && c.revision > newest {
			newest = c.revision
			known = append(known, acknowledged{c.end, newest})
		}
	}
	before := func(at time.Duration) int64 {
		i, _ := slices.BinarySearchFunc(known, at, func(a acknowledged, at time.Duration) int { return int(a.at - at) })
		if i == 0 {
			return 0
		}
		return known[i-1].revision
	}
	checked := slices.DeleteFunc(ordered, func(c call) bool { return c.outcome != ok || c.kind != lists && c.kind != listsCache })
	slices.SortFunc(checked, func(a, b call) int { return int(a.revision - b.revision) })
	state, next := map[string]item{}, 0
	for _, c := range checked {
		for ; next < len(changes) && changes[next].Revision <= c.revision; next++ {
			change := changes[next]
			switch task := change.Task(); {
			case task == nil:
			case change.After == nil:
				delete(state, task.Name)
			default:
				state[task.Name] = item{task.Labels[valueLabel], change.Revision}
			}
		}
		for name, found := range c.items {
			if state[name] != found {
				wrong = append(wrong, fmt.Sprintf("list has %s as %+v, want %+v: %s", name, found, state[name], c))
			}
		}
		for name, there := range state {
			if _, found := c.items[name]; !found {
				wrong = append(wrong, fmt.Sprintf("list lacks %s, %+v: %s", name, there, c))
			}
		}
		if c.kind == lists && c.revision < before(c.start) {
			wrong = append(wrong, fmt.Sprintf("a list is older than revision %d, which a client had seen before: %s", before(c.start), c))
		}
	}
	return wrong
}

// valueOf returns the value and the revision of a task.
func valueOf(task *batch.Task) (string, int64) {
	revision, _ := strconv.ParseInt(task.ResourceVersion, 10, 64) // no object has revision 0
	return task.Labels[valueLabel], revision
}
