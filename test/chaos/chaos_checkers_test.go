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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
)

// expect fails the test unless a message contains want. An empty want means that there must be no message.
func expect(t *testing.T, wrong []string, want string) {
	t.Helper()
	got := strings.Join(wrong, "\n")
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// task returns a task with a value at a revision.
func task(name, value string, revision int64, set ...func(*batch.Task)) *batch.Task {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: strconv.FormatInt(revision, 10), Labels: map[string]string{valueLabel: value}}}
	for _, set := range set {
		set(task)
	}
	return task
}

func deleting(task *batch.Task) { task.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

// A faulty answer of a server is detected by the search, by the comparison with etcd, or by both.
func TestCheckRegistersDetectsFaults(t *testing.T) {
	at := func(start, end int, c call) call {
		c.name, c.start, c.end = "a", time.Duration(start), time.Duration(end)
		return c
	}
	recorded := []history.Change{
		{Revision: 5, After: task("a", "v1", 5)},
		{Revision: 7, Before: task("a", "v1", 5), After: task("a", "v2", 7)},
		{Revision: 9, Before: task("a", "v2", 7), After: task("a", "v2", 9, deleting)},
		{Revision: 10, Before: task("a", "v2", 9, deleting)},
		{Revision: 12, After: task("a", "v3", 12)},
	}
	right := []call{
		at(1, 4, call{kind: creates, value: "v1", revision: 5, outcome: ok}),
		at(5, 8, call{kind: gets, value: "v1", revision: 5, outcome: ok}),
		at(6, 12, call{kind: updates, value: "v2", expected: 5, outcome: unknown}), // and it was stored after the timeout
		at(9, 11, call{kind: gets, value: "v1", revision: 5, outcome: ok}),
		at(13, 15, call{kind: updates, value: "v2b", expected: 5, outcome: conflict}),
		at(16, 17, call{kind: gets, value: "v2", revision: 7, outcome: ok}),
		at(18, 20, call{kind: deletes, expected: 7, outcome: ok}),
		at(19, 20, call{kind: deletes, expected: 7, outcome: unknown}), // of another client
		at(21, 22, call{kind: gets, outcome: notFound}),
		at(21, 22, call{kind: getsCached, value: "v1", revision: 5, outcome: ok}), // a cached read may be old
		at(23, 25, call{kind: creates, value: "v3", revision: 12, outcome: ok}),
		at(26, 27, call{kind: creates, value: "v4", outcome: exists}),
		at(28, 29, call{kind: patches, value: "v5", outcome: unknown}), // and it was not stored
	}
	edit := func(i int, f func(*call)) func([]call, []history.Change) ([]call, []history.Change) {
		return func(calls []call, changes []history.Change) ([]call, []history.Change) {
			f(&calls[i])
			return calls, changes
		}
	}
	add := func(c call) func([]call, []history.Change) ([]call, []history.Change) {
		return func(calls []call, changes []history.Change) ([]call, []history.Change) {
			return append(calls, c), changes
		}
	}
	const search = "not linearizable"
	for _, test := range []struct {
		name, want string
		plant      func([]call, []history.Change) ([]call, []history.Change)
	}{
		{"nothing", "", func(calls []call, changes []history.Change) ([]call, []history.Change) { return calls, changes }},
		{"a lost write", "an acknowledged write is lost", func(calls []call, changes []history.Change) ([]call, []history.Change) { return calls, changes[:4] }},
		{"a lost write that the recorded has", search, add(at(30, 31, call{kind: gets, outcome: notFound}))},
		{"a lost delete", "an acknowledged delete is lost", add(at(30, 31, call{kind: deletes, expected: 12, outcome: ok}))},
		{"a delete acknowledged twice", "was deleted twice", edit(7, func(c *call) { c.outcome = ok })},
		{"a stale read", search, edit(5, func(c *call) { c.value, c.revision = "v1", 5 })},
		{"a stale read after a delete", search, edit(8, func(c *call) { c.outcome, c.value, c.revision = ok, "v2", 7 })},
		{"a stale list", search, add(call{kind: lists, start: 21, end: 22, revision: 11, outcome: ok, items: map[string]item{"a": {"v2", 7}}})},
		{"a current list", "", add(call{kind: lists, start: 21, end: 22, revision: 11, outcome: ok})},
		{"a read of the future", search, edit(1, func(c *call) { c.value, c.revision = "v3", 12 })},
		{"a read of a state that never existed", "a read of a state that never existed", edit(5, func(c *call) { c.value = "v9" })},
		{"a cached read of a state that never existed", "a read of a state that never existed", edit(9, func(c *call) { c.value = "v9" })},
		{"two updates of a revision", search, edit(4, func(c *call) { c.outcome, c.revision = ok, 8 })},
		{"two updates of a revision, which the recorded has", search, func(calls []call, changes []history.Change) ([]call, []history.Change) {
			calls[4].outcome, calls[4].revision = ok, 8
			changes[2].Before = task("a", "v2b", 8)
			return calls, slices.Insert(changes, 2, changed(8, task("a", "v2", 7), task("a", "v2b", 8)))
		}},
		{"a conflict without a concurrent write", search, add(at(30, 31, call{kind: updates, value: "v6", expected: 12, outcome: conflict}))},
		{"a refused write that was stored", "a refused write was stored", edit(10, func(c *call) { c.outcome, c.revision = exists, 0 })},
		{"a write with another's revision", "with another revision", edit(10, func(c *call) { c.revision = 13 })},
		{"a not-found answer to a create", search, edit(11, func(c *call) { c.outcome = notFound })},
		{"a write that completes a delete", "", add(at(20, 21, call{kind: deletes, expected: 9, finishes: true, outcome: ok}))},
		{"a delete without a request", "revision 12 was deleted without a request", func(calls []call, changes []history.Change) ([]call, []history.Change) {
			return calls, append(changes, changed(14, task("a", "v3", 12), nil))
		}},
		{"a write without a request", "was written without a request", func(calls []call, changes []history.Change) ([]call, []history.Change) {
			return calls, append(changes, changed(14, task("a", "v3", 12), task("a", "w", 14)))
		}},
		{"a write stored twice", "was written at revision", func(calls []call, changes []history.Change) ([]call, []history.Change) {
			return calls, append(changes, changed(14, task("a", "v3", 12), task("a", "v1", 14)))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls, changes := test.plant(slices.Clone(right), slices.Clone(recorded))
			expect(t, checkRegisters(calls, changes, time.Minute), test.want)
		})
	}
}

func changed(revision int64, before, after *batch.Task) history.Change {
	return history.Change{Revision: revision, Before: before, After: after}
}

func TestCheckListsDetectsFaults(t *testing.T) {
	recorded := []history.Change{
		{Revision: 5, After: task("a", "v1", 5)},
		{Revision: 6, After: task("b", "v2", 6)},
		{Revision: 8, Before: task("a", "v1", 5)},
	}
	write := call{kind: creates, name: "b", value: "v2", revision: 6, outcome: ok, start: 3, end: 6}
	both := map[string]item{"a": {"v1", 5}, "b": {"v2", 6}}
	for _, test := range []struct {
		name, want string
		list       call
	}{
		{"a current list", "", call{kind: lists, revision: 9, items: map[string]item{"b": {"v2", 6}}}},
		{"an old list from the cache", "", call{kind: listsCache, revision: 5, items: map[string]item{"a": {"v1", 5}}}},
		{"an old consistent list", "older than revision 6", call{kind: lists, revision: 5, items: map[string]item{"a": {"v1", 5}}}},
		{"a deleted object", "list has a as", call{kind: lists, revision: 8, items: both}},
		{"a missing object", "list lacks a", call{kind: listsCache, revision: 7, items: map[string]item{"b": {"v2", 6}}}},
		{"a state that never existed", "list has b as", call{kind: lists, revision: 8, items: map[string]item{"b": {"v3", 6}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.list.outcome, test.list.start, test.list.end = ok, 7, 8
			expect(t, checkLists([]call{test.list, write}, recorded), test.want)
		})
	}
}

func TestCheckExpiredDetectsFaults(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	reasons := []horizon{{before: 10, at: at(5)}}
	expect(t, checkExpired([]expired{{from: 9, at: at(6)}}, reasons), "")
	expect(t, checkExpired([]expired{{from: 9, at: at(4)}}, reasons), "without a reason")
	expect(t, checkExpired([]expired{{from: 10, at: at(6)}}, reasons), "without a reason")

	// A cache that was initialized at 60 has the changes that were observed up to 75, and answers 410 from 45 on.
	changes := []history.Change{{Revision: 20, Received: at(40)}, {Revision: 30, Received: at(70)}, {Revision: 40, Received: at(80)}, {Revision: 50, Received: at(90)}}
	reasons = []horizon{filled(changes, at(60))}
	expect(t, checkExpired([]expired{{from: 39, at: at(61)}}, reasons), "")
	expect(t, checkExpired([]expired{{from: 39, at: at(44)}}, reasons), "without a reason")
	expect(t, checkExpired([]expired{{from: 40, at: at(95)}}, reasons), "without a reason")
}
