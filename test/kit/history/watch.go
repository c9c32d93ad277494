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

package history

import (
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Listed is the type of an Observation that is a list. A client lists when its watch is too old to continue.
const Listed watch.EventType = "LISTED"

// Observation is what a watcher received: an event, a bookmark or a list.
type Observation struct {
	Type     watch.EventType
	Revision int64
	// Task is set for an event, List for a list.
	Task *batch.Task
	List []batch.Task
}

// String returns the type, the revision and the name of the task.
func (o Observation) String() string {
	if o.Task == nil {
		return fmt.Sprintf("%s %d", o.Type, o.Revision)
	}
	return fmt.Sprintf("%s %d %s", o.Type, o.Revision, o.Task.Name)
}

// Receive calls receive with each event of a stream, and the resourceVersion of its object, until the stream ends. It
// returns the error that the server sent, as an API error, or that an object is not a task.
func Receive(stream watch.Interface, receive func(o Observation, resourceVersion string)) error {
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		task, ok := event.Object.(*batch.Task)
		if !ok {
			return fmt.Errorf("got a %s event with a %T, want a task", event.Type, event.Object)
		}
		o := Observation{Type: event.Type}
		if event.Type != watch.Bookmark {
			o.Task = task
		}
		receive(o, task.ResourceVersion)
	}
	return nil
}

// Selector reports whether a watch selects the task.
type Selector func(*batch.Task) bool

// All selects all tasks.
func All(*batch.Task) bool { return true }

// Events returns the events of a watch with the selector. A task that begins to match is ADDED, and a task that ceases
// to match is DELETED.
func Events(changes []Change, selects Selector) []Observation {
	var events []Observation
	for _, c := range changes {
		before, after := c.Before != nil && selects(c.Before), c.After != nil && selects(c.After)
		switch {
		case before && after:
			events = append(events, Observation{Type: watch.Modified, Revision: c.Revision, Task: c.After})
		case after:
			events = append(events, Observation{Type: watch.Added, Revision: c.Revision, Task: c.After})
		case before:
			events = append(events, Observation{Type: watch.Deleted, Revision: c.Revision, Task: c.Before})
		}
	}
	return events
}

// CheckWatch compares what a watcher received with the changes in etcd. Each event must come once, in order and with
// the stored content. No event may come after a bookmark or a list of its revision. Revisions never decrease, and a
// list is the state at its revision.
func CheckWatch(changes []Change, selects Selector, got []Observation) error {
	want := Events(changes, selects)
	next := 0 // index in want
	var position int64
	near := func(i int) []Observation { return got[max(0, i-3):min(len(got), i+3)] }
	for i, o := range got {
		if o.Revision < position {
			return fmt.Errorf("%v came after revision %d, near %v", o, position, near(i))
		}
		position = o.Revision
		switch o.Type {
		case watch.Bookmark:
			if next < len(want) && want[next].Revision <= o.Revision {
				return fmt.Errorf("%v came before %v, near %v", o, want[next], near(i))
			}
		case Listed:
			if err := checkList(changes, selects, o); err != nil {
				return err
			}
			for next < len(want) && want[next].Revision <= o.Revision {
				next++
			}
		default:
			if next == len(want) {
				return fmt.Errorf("%v came after the last event, near %v", o, near(i))
			}
			if o.Type != want[next].Type || o.Revision != want[next].Revision {
				return fmt.Errorf("got %v, want %v, near %v", o, want[next], near(i))
			}
			if err := Same(o.Task, want[next].Task); err != nil {
				return fmt.Errorf("%v: %w", o, err)
			}
			next++
		}
	}
	if next < len(want) {
		return fmt.Errorf("%d of %d events never came, the first of them %v", len(want)-next, len(want), want[next])
	}
	return nil
}

// checkList compares a list with the state at its revision.
func checkList(changes []Change, selects Selector, list Observation) error {
	state := map[string]*batch.Task{}
	for _, c := range UpTo(list.Revision, changes) {
		if task := c.Task(); task != nil {
			delete(state, task.Name)
			if c.After != nil && selects(c.After) {
				state[task.Name] = c.After
			}
		}
	}
	for i := range list.List {
		if err := Same(&list.List[i], state[list.List[i].Name]); err != nil {
			return fmt.Errorf("the list at %d: %w", list.Revision, err)
		}
	}
	if len(list.List) != len(state) {
		return fmt.Errorf("the list at %d has %d tasks, want %d", list.Revision, len(list.List), len(state))
	}
	return nil
}

// Same returns an error unless a task that a server returned is the stored task. A nil want means that none is stored.
func Same(got, want *batch.Task) error {
	switch {
	case want == nil:
		return fmt.Errorf("got %s, which does not exist", got.Name)
	case got.Name != want.Name || got.UID != want.UID || !apiequality.Semantic.DeepEqual(got.Labels, want.Labels) ||
		!apiequality.Semantic.DeepEqual(got.Spec, want.Spec) || !apiequality.Semantic.DeepEqual(got.Status, want.Status):
		return fmt.Errorf("got %+v, want %+v", got, want)
	}
	return nil
}
