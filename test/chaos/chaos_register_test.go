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
)

type kind string

const (
	creates    kind = "create"
	updates    kind = "update" // of the resourceVersion that was read
	patches    kind = "patch"  // of whatever is there
	deletes    kind = "delete" // of the resourceVersion that was read
	gets       kind = "get"
	getsCached kind = "get rv=0"
	lists      kind = "list"
	listsCache kind = "list rv=0"
	// marks is a write of nobody's that leaves the value: a delete is two, of which the first one says that the object is being deleted.
	marks kind = "mark"
)

type outcome string

const (
	ok       outcome = "ok"
	conflict outcome = "conflict"
	notFound outcome = "not found"
	exists   outcome = "exists"
	// refused is any other answer that says that nothing was done.
	refused outcome = "refused"
	// unknown is no answer, or one that does not say whether anything was done.
	unknown outcome = "unknown"
)

// call is one request of a client, with its answer.
type call struct {
	client int
	kind   kind
	name   string // empty for lists
	// value is what was to be written, or what was read. No value is written twice.
	value string
	// expected is the resourceVersion that an update or a delete was to be of.
	expected int64
	// finishes tells of a delete that it was an update or a patch of what was being deleted, with nothing left to wait for: it is not
	// stored, but ends the object, as its answer says.
	finishes bool
	// revision is the resourceVersion of the answer.
	revision        int64
	begun, ended    time.Duration // since the start of the run
	outcome         outcome
	items           map[string]item // what a list had
	answer, through string
}

// item is an object in a list.
type item struct {
	value    string
	revision int64
}

func (c call) String() string {
	return fmt.Sprintf("client %d, %s %s %q of %d from %s to %s through %s: %s %d %s", c.client, c.kind, c.name, c.value, c.expected,
		c.begun.Round(time.Millisecond), c.ended.Round(time.Millisecond), c.through, c.outcome, c.revision, c.answer)
}

// valueLabel holds the value of an object.
const valueLabel = "value"

// version is what an object was at a revision.
type version struct {
	revision, previous int64 // previous is 0 if there was none
	present, deleting  bool
	value              string
}

// versions gives the history of each task by its name.
func versions(changes []change) map[string][]version {
	all := map[string][]version{}
	for _, c := range changes {
		if c.task() == nil {
			continue
		}
		v := version{revision: c.revision}
		if c.before != nil {
			v.previous, _ = strconv.ParseInt(c.before.ResourceVersion, 10, 64)
		}
		if c.after != nil {
			v.present, v.value, v.deleting = true, c.after.Labels[valueLabel], c.after.DeletionTimestamp != nil
		}
		all[c.task().Name] = append(all[c.task().Name], v)
	}
	return all
}

// checkRegisters holds what clients were told of single objects, and by lists that must be up to date, to two things: the history that
// etcd tells, and linearizability as a compare-and-swap register by resourceVersion, which is checked without that history but for what
// became of requests whose outcome nobody was told. No search may take longer than the limit.
func checkRegisters(calls []call, changes []change, limit time.Duration) (wrong []string) {
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
			wrong = append(wrong, fmt.Sprintf("%s: its %d operations are not linearizable as a register", name, len(operations)))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Sprintf("%s: whether its %d operations are linearizable was not found out within %s", name, len(operations), limit))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// around tells whether a list was made at a time when the object was in use: lists before and after say the same again and again.
func around(list call, calls []call) bool {
	first, last := calls[0].begun, calls[len(calls)-1].ended
	for _, c := range calls {
		first, last = min(first, c.begun), max(last, c.ended)
	}
	return list.ended >= first && list.begun <= last
}

// resolve compares the calls on one object with its history, and gives them for the search: those of which nothing is known become writes
// at the revision that the history has of them, at any time after they were begun, or nothing.
func resolve(name string, calls []call, history []version) (operations []porcupine.Operation, wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, name+": "+fmt.Sprintf(format, args...)) }
	written := map[string]version{} // by value
	present := map[int64]version{}
	ends := map[int64]bool{} // deletes, by the revision that they ended
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
				say("value %q was written at revision %d and again at %d", v.value, other.revision, v.revision)
			}
			written[v.value], last = v, v.value
			continue
		}
		// Whoever began to delete it.
		begun := time.Duration(0)
		for _, c := range calls {
			if v.deleting && c.kind == deletes && c.expected == v.previous && (begun == 0 || c.begun < begun) {
				begun = c.begun
			}
		}
		marked[v.previous] = v.revision
		operations = append(operations, operation(call{kind: marks, name: name, revision: v.revision, begun: begun, outcome: unknown}))
	}
	// ended gives the revision at which what was to be deleted was, if it was.
	ended := func(expected int64) (int64, bool) {
		if ends[expected] {
			return expected, true
		}
		mark, isMarked := marked[expected]
		return mark, isMarked && ends[mark]
	}
	asked, claimed := map[int64]bool{}, map[int64]bool{}
	acknowledged := map[int64]bool{}
	for _, c := range calls {
		v, known := written[c.value]
		switch c.kind {
		case creates, updates, patches:
			switch {
			case c.outcome == ok && !known:
				say("a write that was acknowledged is lost: %s", c)
			case c.outcome == ok && v.revision != c.revision:
				say("a write was acknowledged with another revision than %d: %s", v.revision, c)
			case c.outcome == unknown && known:
				c.revision = v.revision
			case c.outcome == unknown:
				continue
			case c.outcome != ok && known:
				say("a write was refused and yet done at revision %d: %s", v.revision, c)
			}
			delete(written, c.value)
		case deletes:
			at, gone := ended(c.expected)
			asked[at] = true
			if c.outcome != ok {
				break
			}
			claimed[at] = true
			if !gone {
				say("a delete that was acknowledged is lost: %s", c)
			}
			if acknowledged[c.expected] && !c.finishes {
				say("revision %d was deleted twice: %s", c.expected, c)
			}
			acknowledged[c.expected] = acknowledged[c.expected] || !c.finishes
		case gets, getsCached:
			if v, known := present[c.revision]; c.outcome == ok && (!known || v.value != c.value) {
				say("a read of what never was, there was %q: %s", v.value, c)
			}
		}
		if c.kind == getsCached || c.outcome == refused || c.outcome == unknown && (c.kind == gets || c.kind == deletes) {
			continue
		}
		operations = append(operations, operation(c))
	}
	// What was deleted, and nobody was told so.
	for at := range ends {
		if !asked[at] {
			say("it was deleted at revision %d, and nobody asked for it", at)
		}
		if !claimed[at] {
			operations = append(operations, operation(call{kind: deletes, name: name, expected: at, outcome: unknown}))
		}
	}
	for value, v := range written {
		say("value %q at revision %d is of nobody", value, v.revision)
	}
	return operations, wrong
}

func operation(c call) porcupine.Operation {
	o := porcupine.Operation{ClientId: c.client, Input: c, Call: int64(c.begun), Return: int64(c.ended)}
	if c.outcome == unknown {
		o.Return = math.MaxInt64
	}
	return o
}

// register is an object: a value that is replaced only by who knows its revision, or by who does not ask for it.
type object struct {
	present  bool
	value    string
	revision int64
	// unmarked is what its revision was before it was marked, if that was the last write.
	unmarked int64
}

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
			// Who updates what is gone is told so, or that it is another object than the one that was read.
			return !s.present || s.revision != c.expected, s
		case c.outcome == conflict && c.kind == patches:
			return true, s // others were faster again and again
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
			// Of several that were at it at the same time, all are told that it is gone.
			before := s.unmarked != 0 && s.unmarked == c.expected
			s.present = s.present && s.revision != c.expected && !before
			return !s.present && (before || s.revision == c.expected && (was || c.finishes)), s
		}
		return false, s
	},
}

// checkLists holds each list to the state at its revision, and those that must be up to date to what was acknowledged before they were
// asked for.
func checkLists(calls []call, changes []change) (wrong []string) {
	type acknowledged struct {
		at       time.Duration
		revision int64
	}
	var known []acknowledged
	ordered := slices.Clone(calls)
	slices.SortFunc(ordered, func(a, b call) int { return int(a.ended - b.ended) })
	newest := int64(0)
	for _, c := range ordered {
		if c.outcome == ok && c.revision > newest {
			newest = c.revision
			known = append(known, acknowledged{c.ended, newest})
		}
	}
	before := func(at time.Duration) int64 {
		i, _ := slices.BinarySearchFunc(known, at, func(a acknowledged, at time.Duration) int { return int(a.at - at) })
		if i == 0 {
			return 0
		}
		return known[i-1].revision
	}
	asked := slices.DeleteFunc(ordered, func(c call) bool { return c.outcome != ok || c.kind != lists && c.kind != listsCache })
	slices.SortFunc(asked, func(a, b call) int { return int(a.revision - b.revision) })
	state, next := map[string]item{}, 0
	for _, c := range asked {
		for ; next < len(changes) && changes[next].revision <= c.revision; next++ {
			change := changes[next]
			switch task := change.task(); {
			case task == nil:
			case change.after == nil:
				delete(state, task.Name)
			default:
				state[task.Name] = item{task.Labels[valueLabel], change.revision}
			}
		}
		for name, found := range c.items {
			if state[name] != found {
				wrong = append(wrong, fmt.Sprintf("%s is %+v in a list, and was %+v: %s", name, found, state[name], c))
			}
		}
		for name, there := range state {
			if _, found := c.items[name]; !found {
				wrong = append(wrong, fmt.Sprintf("%s, %+v, is not in a list: %s", name, there, c))
			}
		}
		if c.kind == lists && c.revision < before(c.begun) {
			wrong = append(wrong, fmt.Sprintf("a list is older than what was known before it, revision %d: %s", before(c.begun), c))
		}
	}
	return wrong
}

// valueOf is the value and the revision of a task that was read.
func valueOf(task *batch.Task) (string, int64) {
	revision, _ := strconv.ParseInt(task.ResourceVersion, 10, 64) // 0 is never the revision of anything
	return task.Labels[valueLabel], revision
}
