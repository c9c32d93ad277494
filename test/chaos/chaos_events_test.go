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

// received is an event or a bookmark of a watch, or a list that replaced an expired watch.
type received struct {
	kind     watch.EventType // listed for a list
	revision int64
	task     *batch.Task
	list     []batch.Task
}

const listed watch.EventType = "LISTED"

func (e received) String() string {
	if e.task == nil {
		return fmt.Sprintf("%s %d", e.kind, e.revision)
	}
	return fmt.Sprintf("%s %d %s", e.kind, e.revision, e.task.Name)
}

type selector func(*batch.Task) bool

// expectedEvents returns the events of a watch with the selector. A task is added when it starts matching, and deleted
// when it stops matching.
func expectedEvents(changes []change, selects selector) []received {
	var all []received
	for _, c := range changes {
		before, after := c.before != nil && selects(c.before), c.after != nil && selects(c.after)
		switch {
		case before && after:
			all = append(all, received{kind: watch.Modified, revision: c.revision, task: c.after})
		case after:
			all = append(all, received{kind: watch.Added, revision: c.revision, task: c.after})
		case before:
			all = append(all, received{kind: watch.Deleted, revision: c.revision, task: c.before})
		}
	}
	return all
}

// checkWatch returns an error unless each event was received once, in order, and with the stored object. No earlier
// event may follow a bookmark or a list, and a list must be the state at its revision.
func checkWatch(changes []change, selects selector, got []received) error {
	want := expectedEvents(changes, selects)
	next := 0 // of want
	var position int64
	near := func(i int) []received { return got[max(0, i-3):min(len(got), i+3)] }
	for i, e := range got {
		if e.revision < position {
			return fmt.Errorf("%v after revision %d, near %v", e, position, near(i))
		}
		position = e.revision
		switch e.kind {
		case watch.Bookmark:
			if next < len(want) && want[next].revision <= e.revision {
				return fmt.Errorf("%v without %v before it, near %v", e, want[next], near(i))
			}
		case listed:
			if err := checkListed(changes, selects, e); err != nil {
				return err
			}
			for next < len(want) && want[next].revision <= e.revision {
				next++
			}
		default:
			if next == len(want) {
				return fmt.Errorf("unexpected %v after the last event, near %v", e, near(i))
			}
			if e.kind != want[next].kind || e.revision != want[next].revision {
				return fmt.Errorf("got %v, want %v, near %v", e, want[next], near(i))
			}
			if err := same(e.task, want[next].task); err != nil {
				return fmt.Errorf("%v: %w", e, err)
			}
			next++
		}
	}
	if next < len(want) {
		return fmt.Errorf("%d of %d events are missing, first %v", len(want)-next, len(want), want[next])
	}
	return nil
}

// checkListed compares a list with the state at its revision.
func checkListed(changes []change, selects selector, e received) error {
	state := map[string]*batch.Task{}
	for _, c := range changes {
		if c.revision > e.revision {
			break
		}
		if task := c.task(); task != nil {
			delete(state, task.Name)
			if c.after != nil && selects(c.after) {
				state[task.Name] = c.after
			}
		}
	}
	for i := range e.list {
		if err := same(&e.list[i], state[e.list[i].Name]); err != nil {
			return fmt.Errorf("the list at %d: %w", e.revision, err)
		}
	}
	if len(e.list) != len(state) {
		return fmt.Errorf("the list at %d has %d tasks, want %d", e.revision, len(e.list), len(state))
	}
	return nil
}

// same returns an error unless the received task equals the stored one.
func same(got, want *batch.Task) error {
	switch {
	case want == nil:
		return fmt.Errorf("%s does not exist", got.Name)
	case got.Name != want.Name || got.UID != want.UID || !apiequality.Semantic.DeepEqual(got.Labels, want.Labels) ||
		!apiequality.Semantic.DeepEqual(got.Spec, want.Spec) || !apiequality.Semantic.DeepEqual(got.Status, want.Status):
		return fmt.Errorf("got %+v, want %+v", got, want)
	}
	return nil
}

// expired is a watch that was answered 410.
type expired struct {
	from int64
	at   time.Time
}

// horizon is a moment from which a server may answer 410 to watches from before a revision: etcd was compacted, or a
// server has initialized its watch cache, which has only later changes.
type horizon struct {
	before int64
	at     time.Time
}

// checkExpired returns the watches that were answered 410 without a reason.
func checkExpired(refusals []expired, reasons []horizon) (wrong []string) {
next:
	for _, e := range refusals {
		for _, f := range reasons {
			if e.from < f.before && !f.at.After(e.at) {
				continue next
			}
		}
		wrong = append(wrong, fmt.Sprintf("a watch from revision %d was answered 410 at %s without a reason", e.from, e.at.Format(time.TimeOnly)))
	}
	return wrong
}
