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

package consistency

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/test/kit"
)

// history is what etcd itself tells of the tasks of a namespace, past every server: the truth that servers are compared with.
type history struct {
	start int64 // the revision before the first change

	mu      sync.Mutex
	changes []change
	err     error
}

// change is one revision of one task.
type change struct {
	revision int64
	before   *v1alpha1.Task // nil if it was created
	after    *v1alpha1.Task // nil if it was deleted
}

// watchEtcd records the history of a namespace that has no tasks yet, until the test ends.
func watchEtcd(t *testing.T, e *kit.Env, namespace string) *history {
	t.Helper()
	client := e.EtcdClient(t)
	prefix := "/leat/tasks/" + namespace + "/"
	start := kit.Must(client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly()))(t)
	if start.Count > 0 {
		t.Fatalf("etcd holds %d tasks of namespace %s already", start.Count, namespace)
	}
	h := &history{start: start.Header.Revision}
	responses := client.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(h.start+1))
	go func() {
		for response := range responses {
			h.record(response)
		}
	}()
	return h
}

func (h *history) record(response clientv3.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = response.Err()
	for _, event := range response.Events {
		c := change{revision: event.Kv.ModRevision}
		var err error
		if event.PrevKv != nil {
			if c.before, err = decode(event.PrevKv.Value, event.PrevKv.ModRevision); err != nil {
				h.err = err
			}
		}
		if event.Type == clientv3.EventTypePut {
			if c.after, err = decode(event.Kv.Value, c.revision); err != nil {
				h.err = err
			}
		}
		h.changes = append(h.changes, c)
	}
}

func decode(data []byte, revision int64) (*v1alpha1.Task, error) {
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	task, ok := obj.(*v1alpha1.Task)
	if !ok {
		return nil, fmt.Errorf("etcd holds a %T where tasks are", obj)
	}
	task.ResourceVersion = strconv.FormatInt(revision, 10)
	return task, nil
}

// until gives the changes up to a revision that is a change of this namespace.
func (h *history) until(t *testing.T, revision string) []change {
	t.Helper()
	last := parse(t, revision)
	var changes []change
	eventually(t, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.err != nil {
			t.Fatal(h.err)
		}
		i := slices.IndexFunc(h.changes, func(c change) bool { return c.revision == last })
		if i < 0 {
			return fmt.Errorf("etcd has not told of revision %d, %d changes so far", last, len(h.changes))
		}
		changes = slices.Clone(h.changes[:i+1])
		return nil
	})
	return changes
}

// stateAt gives the tasks as they were at a revision, by name.
func stateAt(changes []change, revision int64) map[string]*v1alpha1.Task {
	state := map[string]*v1alpha1.Task{}
	for _, c := range changes {
		switch {
		case c.revision > revision:
			return state
		case c.after == nil:
			delete(state, c.before.Name)
		default:
			state[c.after.Name] = c.after
		}
	}
	return state
}

// observed is one thing that a watcher was told: an event, a bookmark, or the list that it had to begin again with.
type observed struct {
	kind     watch.EventType // or listed
	revision int64
	task     *v1alpha1.Task
	list     []v1alpha1.Task
}

const listed watch.EventType = "LISTED"

func (o observed) String() string {
	if o.task == nil {
		return fmt.Sprintf("%s %d", o.kind, o.revision)
	}
	return fmt.Sprintf("%s %d %s", o.kind, o.revision, o.task.Name)
}

type selector func(*v1alpha1.Task) bool

func all(*v1alpha1.Task) bool { return true }

// events gives what a watcher with that selector must be told of the changes: a task is added when it begins to match and
// deleted when it ceases to.
func events(changes []change, selects selector) []observed {
	var told []observed
	for _, c := range changes {
		before, after := c.before != nil && selects(c.before), c.after != nil && selects(c.after)
		switch {
		case before && after:
			told = append(told, observed{kind: watch.Modified, revision: c.revision, task: c.after})
		case after:
			told = append(told, observed{kind: watch.Added, revision: c.revision, task: c.after})
		case before:
			told = append(told, observed{kind: watch.Deleted, revision: c.revision, task: c.before})
		}
	}
	return told
}

// compare says what is wrong with what a watcher was told: each event must come once, in order, as it was; a bookmark or a list
// leaves nothing before it untold; and a list is the state at its revision.
func compare(changes []change, selects selector, got []observed) error {
	want := events(changes, selects)
	next := 0 // of want
	var position int64
	for i, o := range got {
		if o.revision < position {
			return fmt.Errorf("%v came after revision %d, around %v", o, position, around(got, i))
		}
		position = o.revision
		switch o.kind {
		case watch.Bookmark:
			if next < len(want) && want[next].revision <= o.revision {
				return fmt.Errorf("%v came and %v had not, around %v", o, want[next], around(got, i))
			}
		case listed:
			state := stateAt(changes, o.revision)
			matching := 0
			for _, task := range state {
				if selects(task) {
					matching++
				}
			}
			for i := range o.list {
				if err := same(&o.list[i], state[o.list[i].Name]); err != nil {
					return fmt.Errorf("the list at %d: %w", o.revision, err)
				}
			}
			if len(o.list) != matching {
				return fmt.Errorf("the list at %d has %d tasks, want %d", o.revision, len(o.list), matching)
			}
			for next < len(want) && want[next].revision <= o.revision {
				next++
			}
		default:
			if next == len(want) {
				return fmt.Errorf("%v came, and nothing more should have, around %v", o, around(got, i))
			}
			if o.kind != want[next].kind || o.revision != want[next].revision {
				return fmt.Errorf("%v came instead of %v, around %v", o, want[next], around(got, i))
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

func around(got []observed, i int) []observed {
	return got[max(0, i-3):min(len(got), i+3)]
}

// same compares what was told of a task with what is stored.
func same(got, want *v1alpha1.Task) error {
	switch {
	case want == nil:
		return fmt.Errorf("%s was told of, and there is none", got.Name)
	case got.Name != want.Name || got.UID != want.UID || !apiequality.Semantic.DeepEqual(got.Labels, want.Labels) ||
		!apiequality.Semantic.DeepEqual(got.Spec, want.Spec) || !apiequality.Semantic.DeepEqual(got.Status, want.Status):
		return fmt.Errorf("was told as %+v, and is %+v", got, want)
	}
	return nil
}

func parse(t *testing.T, resourceVersion string) int64 {
	t.Helper()
	return kit.Must(strconv.ParseInt(resourceVersion, 10, 64))(t)
}
