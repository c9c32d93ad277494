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
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// told is one thing that a watcher was told: an event, a bookmark, or the list that it had to begin again with.
type told struct {
	kind     watch.EventType // or listed
	revision int64
	task     *batch.Task
	list     []batch.Task
}

const listed watch.EventType = "LISTED"

func (o told) String() string {
	if o.task == nil {
		return fmt.Sprintf("%s %d", o.kind, o.revision)
	}
	return fmt.Sprintf("%s %d %s", o.kind, o.revision, o.task.Name)
}

type selector func(*batch.Task) bool

// due gives what a watcher with that selector must be told: a task is added when it begins to match and deleted when it ceases to.
func due(changes []change, selects selector) []told {
	var all []told
	for _, c := range changes {
		before, after := c.before != nil && selects(c.before), c.after != nil && selects(c.after)
		switch {
		case before && after:
			all = append(all, told{kind: watch.Modified, revision: c.revision, task: c.after})
		case after:
			all = append(all, told{kind: watch.Added, revision: c.revision, task: c.after})
		case before:
			all = append(all, told{kind: watch.Deleted, revision: c.revision, task: c.before})
		}
	}
	return all
}

// checkWatch says what is wrong with what a watcher was told: each event must come once, in order, as it was; a bookmark or a list leaves
// nothing before it untold and never goes back; and a list is the state at its revision.
func checkWatch(changes []change, selects selector, got []told) error {
	want := due(changes, selects)
	next := 0 // of want
	var position int64
	near := func(i int) []told { return got[max(0, i-3):min(len(got), i+3)] }
	for i, o := range got {
		if o.revision < position {
			return fmt.Errorf("%v came after revision %d, near %v", o, position, near(i))
		}
		position = o.revision
		switch o.kind {
		case watch.Bookmark:
			if next < len(want) && want[next].revision <= o.revision {
				return fmt.Errorf("%v came and %v had not, near %v", o, want[next], near(i))
			}
		case listed:
			if err := checkListed(changes, selects, o); err != nil {
				return err
			}
			for next < len(want) && want[next].revision <= o.revision {
				next++
			}
		default:
			if next == len(want) {
				return fmt.Errorf("%v came, and nothing more should have, near %v", o, near(i))
			}
			if o.kind != want[next].kind || o.revision != want[next].revision {
				return fmt.Errorf("%v came instead of %v, near %v", o, want[next], near(i))
			}
			if err := same(o.task, want[next].task); err != nil {
				return fmt.Errorf("%v: %w", o, err)
			}
			next++
		}
	}
	if next < len(want) {
		return fmt.Errorf("%d of %d events never came, first of them %v", len(want)-next, len(want), want[next])
	}
	return nil
}

func checkListed(changes []change, selects selector, o told) error {
	state := map[string]*batch.Task{}
	for _, c := range changes {
		if c.revision > o.revision {
			break
		}
		if task := c.task(); task != nil {
			delete(state, task.Name)
			if c.after != nil && selects(c.after) {
				state[task.Name] = c.after
			}
		}
	}
	for i := range o.list {
		if err := same(&o.list[i], state[o.list[i].Name]); err != nil {
			return fmt.Errorf("the list at %d: %w", o.revision, err)
		}
	}
	if len(o.list) != len(state) {
		return fmt.Errorf("the list at %d has %d tasks, want %d", o.revision, len(o.list), len(state))
	}
	return nil
}

// same compares what was told of a task with what is stored.
func same(got, want *batch.Task) error {
	switch {
	case want == nil:
		return fmt.Errorf("%s was told of, and there is none", got.Name)
	case got.Name != want.Name || got.UID != want.UID || !apiequality.Semantic.DeepEqual(got.Labels, want.Labels) ||
		!apiequality.Semantic.DeepEqual(got.Spec, want.Spec) || !apiequality.Semantic.DeepEqual(got.Status, want.Status):
		return fmt.Errorf("was told as %+v, and is %+v", got, want)
	}
	return nil
}

// expired is a watch that was refused because what it asked for is too old.
type expired struct {
	from int64
	at   time.Time
}

// forgotten is a moment from which on a server need not know anything before a revision: etcd was compacted, or a server has filled its
// watch cache, which knows only what came since.
type forgotten struct {
	before int64
	at     time.Time
}

// checkExpired says which watches were told that they were too old without a reason.
func checkExpired(refusals []expired, reasons []forgotten) (wrong []string) {
next:
	for _, e := range refusals {
		for _, f := range reasons {
			if e.from < f.before && !f.at.After(e.at) {
				continue next
			}
		}
		wrong = append(wrong, fmt.Sprintf("a watch from revision %d was told at %s that it is too old, and nothing was forgotten", e.from, e.at.Format(time.TimeOnly)))
	}
	return wrong
}
