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

package taskset

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// change is what has become of a task, nil when it is gone or of another set.
type change struct {
	uid  types.UID
	task *batch.Task
	// at is when it was observed.
	at time.Time
}

// record is what is known of one set, by its uid: of sets of one name there may be several, one after the other.
type record struct {
	uid types.UID
	// changes are those that no pass has seen yet. The tracker's lock guards them; all else belongs to the pass.
	changes []change

	ledger *taskSetState
	// orphans have the label of the set and no controller, strays the set as controller and not its label.
	orphans, strays map[types.UID]*batch.Task
	progress        progress
}

// family is the sets of one name.
type family struct {
	set     *batch.TaskSet
	records map[types.UID]*record
}

// tracker takes events from informers and keeps them for the next pass over their set, so that a pass reads no cache
// and costs what has changed. Of one task the events arrive in order.
type tracker struct {
	mu       sync.Mutex
	backoff  exponentialBackoff
	families map[types.NamespacedName]*family
}

func (t *tracker) record(key types.NamespacedName, uid types.UID) *record {
	f := t.family(key)
	r := f.records[uid]
	if r == nil {
		r = &record{uid: uid, ledger: newTaskSetState(t.backoff), orphans: map[types.UID]*batch.Task{}, strays: map[types.UID]*batch.Task{}}
		f.records[uid] = r
	}
	return r
}

func (t *tracker) family(key types.NamespacedName) *family {
	f := t.families[key]
	if f == nil {
		f = &family{records: map[types.UID]*record{}}
		t.families[key] = f
	}
	return f
}

// setChanged takes in the set, nil when it is gone.
func (t *tracker) setChanged(key types.NamespacedName, set *batch.TaskSet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.family(key).set = set
}

// taskChanged takes in a change of a task of the set.
func (t *tracker) taskChanged(key types.NamespacedName, set types.UID, c change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.record(key, set)
	r.changes = append(r.changes, c)
}

// take gives the set of that name and its record, if there is one, and the records of sets that had the name before,
// with all changes in their ledgers. What is empty is forgotten.
func (t *tracker) take(key types.NamespacedName) (set *batch.TaskSet, current *record, former []*record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.family(key)
	if f.set != nil {
		current = t.record(key, f.set.UID)
	}
	for uid, r := range f.records {
		for _, c := range r.changes {
			r.observe(c)
		}
		r.changes = nil
		if r == current {
			continue
		}
		if len(r.ledger.tasks) == 0 {
			delete(f.records, uid)
			continue
		}
		former = append(former, r)
	}
	if f.set == nil && len(f.records) == 0 {
		delete(t.families, key)
	}
	return f.set, current, former
}

func (r *record) observe(c change) {
	delete(r.orphans, c.uid)
	delete(r.strays, c.uid)
	task := c.task
	switch {
	case task == nil:
	case metav1.GetControllerOfNoCopy(task) == nil:
		r.orphans[c.uid] = task
		task = nil
	case task.Labels[batch.LabelControllerUID] != string(r.uid):
		r.strays[c.uid] = task
		task = nil
	}
	r.ledger.observe(c.uid, task)
	if e := r.ledger.tasks[c.uid]; e != nil {
		e.recordStart(c.at)
	}
}

// taskSetOf gives the set that a task counts for: its controller's or, without a controller, the one whose label it
// has.
func taskSetOf(task *batch.Task) (types.NamespacedName, types.UID, bool) {
	if metav1.GetControllerOfNoCopy(task) != nil {
		owner := batch.ControllingTaskSet(task)
		if owner == nil {
			return types.NamespacedName{}, "", false
		}
		return types.NamespacedName{Namespace: task.Namespace, Name: owner.Name}, owner.UID, true
	}
	uid, name := task.Labels[batch.LabelControllerUID], task.Labels[batch.LabelTaskSetName]
	return types.NamespacedName{Namespace: task.Namespace, Name: name}, types.UID(uid), uid != "" && name != ""
}
