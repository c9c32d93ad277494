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

package state

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// SyncRecord is what one sync of a set keeps for the next.
type SyncRecord struct {
	// Set is the set as last read or written, nil if unknown.
	Set *batch.TaskSet
	// SyncedAt is when the last sync ended.
	SyncedAt time.Time
	// StatusWrittenAt is when the status was last written.
	StatusWrittenAt time.Time
	// CreateBatch is how many tasks are created at a time. It grows while creations succeed.
	CreateBatch int
	// CreateFailures counts the failed creations in a row, CreateError is the last error, and until CreateBackoffUntil
	// no tasks are created.
	CreateFailures     int
	CreateBackoffUntil time.Time
	CreateError        string
	// FinalizedAt is when the tasks of a set that is being deleted were last listed.
	FinalizedAt time.Time
}

// taskEvent is an event of a task. The task is nil if it was deleted or belongs to another set now.
type taskEvent struct {
	uid  types.UID
	task *batch.Task
	// at is when the event was observed.
	at time.Time
}

// setsOfName holds the states of the sets of one name. There may be several, because tasks of a deleted set may remain
// when another set has its name.
type setsOfName struct {
	// observed is the set of that name that exists, nil if none does.
	observed *batch.TaskSet
	// deleted is the last finished set of that name that was deleted. It is nil unless sets depend on the name.
	deleted *batch.TaskSet
	byUID   map[types.UID]*TaskSet
}

// Store keeps the state of all task sets, by name and UID. Events are queued until the next sync of their set, so a
// sync reads no cache and its cost depends on what has changed. ObserveSet, ObserveTask and Take may be called
// concurrently. What Take returns belongs to the caller until it calls Take again for the same name.
type Store struct {
	backoff ExponentialBackoff
	// observeStart is called with how long a task that the controller has created took to start.
	observeStart func(time.Duration)

	mu    sync.Mutex
	names map[types.NamespacedName]*setsOfName
	// dependents are the unfinished sets that depend on the sets of a name.
	dependents map[types.NamespacedName]map[types.NamespacedName]bool
}

// NewStore returns an empty Store. The backoff follows failed tasks. observeStart is called with the time from the
// request to create a task until the task is observed to have started.
func NewStore(backoff ExponentialBackoff, observeStart func(time.Duration)) *Store {
	return &Store{
		backoff: backoff, observeStart: observeStart, names: map[types.NamespacedName]*setsOfName{},
		dependents: map[types.NamespacedName]map[types.NamespacedName]bool{},
	}
}

// Len returns how many names of sets are known.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// CheckInvariants checks the invariants of all states that are loaded. It is for tests.
func (s *Store) CheckInvariants() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sets := range s.names {
		for _, state := range sets.byUID {
			if !state.loaded {
				continue
			}
			if err := state.CheckInvariants(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ofName returns the sets of a name. The caller must hold s.mu.
func (s *Store) ofName(name types.NamespacedName) *setsOfName {
	sets := s.names[name]
	if sets == nil {
		sets = &setsOfName{byUID: map[types.UID]*TaskSet{}}
		s.names[name] = sets
	}
	return sets
}

// withUID returns the state of the set with that UID.
func (s *Store) withUID(sets *setsOfName, uid types.UID) *TaskSet {
	set := sets.byUID[uid]
	if set == nil {
		set = newTaskSet(uid, s.backoff)
		sets.byUID[uid] = set
	}
	return set
}

// ObserveSet records an event of the set of that name. It returns the names of the other sets to sync: those that
// depend on what has changed.
func (s *Store) ObserveSet(name types.NamespacedName, set *batch.TaskSet, deleted bool) []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	sets := s.ofName(name)
	before, former := sets.observed, sets.observed
	sets.observed = set
	if deleted {
		sets.observed, former = nil, set // before may be older
	}
	if former != nil && (deleted || former.UID != set.UID) && FinishedCondition(former) != nil && len(s.dependents[name]) > 0 {
		sets.deleted = former
	}
	s.updateDependents(name, before, sets.observed)
	return s.affectedDependents(name, before, sets.observed)
}

// ObserveTask records an event of a task of the set. The task is nil if it was deleted or belongs to another set now.
// The events of one task must arrive in order.
func (s *Store) ObserveTask(name types.NamespacedName, set, uid types.UID, task *batch.Task, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.withUID(s.ofName(name), set)
	state.events = append(state.events, taskEvent{uid, task, now})
}

// Take applies all events of the sets of that name. It returns the set that exists with its state, and the states of
// former sets that have tasks left. It forgets former sets without tasks.
func (s *Store) Take(name types.NamespacedName) (set *batch.TaskSet, current *TaskSet, former []*TaskSet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sets := s.ofName(name)
	if sets.observed != nil {
		current = s.withUID(sets, sets.observed.UID)
	}
	for uid, state := range sets.byUID {
		for _, event := range state.events {
			state.apply(event, s.observeStart)
		}
		state.events = nil
		switch {
		case state == current:
		case state.HasTasks():
			former = append(former, state)
		default:
			delete(sets.byUID, uid)
		}
	}
	s.forget(name, sets)
	return sets.observed, current, former
}

// forget removes the states of a name that no set has. The caller must hold s.mu.
func (s *Store) forget(name types.NamespacedName, sets *setsOfName) {
	if sets.observed == nil && sets.deleted == nil && len(sets.byUID) == 0 {
		delete(s.names, name)
	}
}

// apply applies an event of a task.
func (s *TaskSet) apply(event taskEvent, observeStart func(time.Duration)) {
	delete(s.Orphans, event.uid)
	delete(s.NonMatching, event.uid)
	task := event.task
	switch {
	case task == nil:
	case metav1.GetControllerOfNoCopy(task) == nil:
		s.Orphans[event.uid] = task
		task = nil
	case task.Labels[batch.LabelControllerUID] != string(s.UID):
		s.NonMatching[event.uid] = task
		task = nil
	}
	s.Observe(event.uid, task)
	if t := s.tasks[event.uid]; t != nil {
		if duration, started := t.observeStart(event.at); started {
			observeStart(duration)
		}
	}
}

// OwnerOf returns the set that a task counts for: its controller or, without a controller, the set whose label it has.
// It reports false if there is none.
func OwnerOf(task *batch.Task) (types.NamespacedName, types.UID, bool) {
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
