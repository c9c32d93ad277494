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

package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// ofSet makes a task one of a set.
func ofSet(uid types.UID) func(*batch.Task) {
	return func(t *batch.Task) {
		t.OwnerReferences = []metav1.OwnerReference{{Kind: "TaskSet", Name: string(uid), UID: uid, Controller: ptr.To(true)}}
	}
}

func gated(t *batch.Task) { t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "gate"}} }

// groupsOf formats the waiting tasks of a snapshot.
func groupsOf(s *framework.Snapshot) string {
	var groups []string
	for _, g := range s.Waiting {
		text := fmt.Sprintf("%s×%d", g.Task.Object.Name, g.Count)
		if g.Controller != nil {
			text += " of " + g.Controller.Name
		}
		groups = append(groups, text)
	}
	return strings.Join(groups, ", ")
}

func TestASnapshotHasTheTasksThatLackAWorker(t *testing.T) {
	c := newState(Spread, func() {})
	if _, known := c.snapshot("default"); known {
		t.Error("a snapshot is known before the lists are")
	}
	c.markSynced()
	if s, known := c.snapshot("default"); !known || len(s.Workers)+len(s.Waiting) > 0 {
		t.Errorf("an unknown namespace: got %+v, %t", s, known)
	}
	for _, q := range []*batch.TaskQueue{newQueue("held", 1, held), newQueue("two", 1, atMost(2)), newQueue("cpus", 1, limited("cpu", "5"))} {
		c.setQueue(q)
	}
	for i := range 3 {
		name := fmt.Sprint(i)
		c.setTask(newTask("lone-"+name, prioritized(9)))
		c.setTask(newTask("a-"+name, ofSet("a"), prioritized(8)))
		c.setTask(newTask("b-"+name, ofSet("b"), prioritized(7)))
		c.setTask(newTask("held-"+name, inQueue("held")))
		c.setTask(newTask("two-"+name, inQueue("two"), prioritized(6)))
		c.setTask(newTask("two-cpu-"+name, inQueue("two"), requesting("cpu", "1"), prioritized(5)))
		c.setTask(newTask("cpus-"+name, inQueue("cpus"), requesting("cpu", "2"), prioritized(4)))
	}
	c.setTask(newTask("two-bound", inQueue("two"), on("w")))
	c.setTask(newTask("a-bound", ofSet("a"), on("w")))
	c.setTask(newTask("gated", gated))
	s, _ := c.snapshot("default")
	const want = "lone-0×3, a-0×3 of a, b-0×3 of b, two-0×1, cpus-0×2"
	if got := groupsOf(s); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s.Bound["a"] != 1 || s.Bound["b"] != 0 {
		t.Errorf("bound tasks of sets: got %v", s.Bound)
	}
	for _, group := range s.Waiting {
		if group.Task.QueueInfo != nil {
			t.Error("a task of a snapshot shares the queue of the scheduler")
		}
	}
}

func TestASnapshotOfAWorkerIsACopy(t *testing.T) {
	c := newState(Spread, func() {})
	c.markSynced()
	c.setWorker(newWorker("w", 4, with("cpu", "4")))
	added := time.Now()
	c.setTask(newTask("task", on("w"), requesting("cpu", "1")))
	c.setTask(newTask("gone", on("unregistered")))
	s, _ := c.snapshot("default")
	if len(s.Workers) != 1 || s.Workers[0].Tasks != 1 || s.Workers[0].Used["cpu"] != 1000 {
		t.Fatalf("got %+v, want one worker with the task", s.Workers)
	}
	s.Workers[0].AddTask(&framework.TaskInfo{Requests: framework.Resources{"cpu": 1000}})
	if again, _ := c.snapshot("default"); again.Workers[0].Tasks != 1 || again.Workers[0].Used["cpu"] != 1000 {
		t.Errorf("a change of a snapshot has changed the scheduler: %+v", again.Workers[0])
	}
	c.deleteTask(nameOf(newTask("task")))
	if s, _ = c.snapshot("default"); s.Workers[0].IdleSince.Before(added) {
		t.Error("the worker is idle for longer than its last task has ended")
	}
}

func TestABindingWithoutAnAnswerMakesItsWorkerUncertain(t *testing.T) {
	c := newState(Spread, func() {})
	c.markSynced()
	c.setWorker(newWorker("w", 1))
	c.setTask(newTask("task"))
	p, ok := c.next(time.Now())
	if !ok {
		t.Fatal("the task was not placed")
	}
	now := time.Now()
	c.bindingUncertain(p, now)
	c.bindingFailed(p, false)
	s, _ := c.snapshot("default")
	if w := s.Workers[0]; w.Tasks != 0 || !w.UncertainUntil.Equal(now.Add(uncertainty)) {
		t.Errorf("got %d tasks, uncertain until %s", w.Tasks, w.UncertainUntil)
	}
}

func TestEveryChangeOfANamespaceIsNoticed(t *testing.T) {
	c := newState(Spread, func() {})
	changes := 0
	c.changed = func(namespace string) {
		if namespace != "default" {
			t.Errorf("namespace %q has changed", namespace)
		}
		changes++
	}
	steps := map[string]func(){
		"task": func() { c.setTask(newTask("task")) }, "worker": func() { c.setWorker(newWorker("w", 1)) }, "queue": func() { c.setQueue(newQueue("q", 1)) },
	}
	for what, step := range steps {
		before := changes
		if step(); changes == before {
			t.Errorf("a new %s was not noticed", what)
		}
	}
	p, ok := c.next(time.Now())
	if !ok {
		t.Fatal("the task was not placed")
	}
	for what, step := range map[string]func(){
		"failed binding": func() { c.bindingFailed(p, false) },
	} {
		before := changes
		if step(); changes == before {
			t.Errorf("a %s was not noticed", what)
		}
	}
	for what, step := range map[string]func(){
		"task": func() { c.deleteTask(nameOf(newTask("task"))) }, "worker": func() { c.deleteWorker(nameOf(newWorker("w", 1))) },
		"queue": func() { c.deleteQueue(nameOf(newQueue("q", 1))) },
	} {
		before := changes
		if step(); changes == before {
			t.Errorf("the deletion of a %s was not noticed", what)
		}
	}
}

func TestPoolsAreFilledFromTheLowestOrdinal(t *testing.T) {
	inPoolP := labelled(batch.LabelPool, "p")
	for _, strategy := range ScoringStrategies() {
		c := newState(strategy, func() {})
		for _, w := range []*batch.Worker{
			newWorker("p-10", 1, inPoolP), newWorker("p-2", 1, inPoolP), newWorker("p-0", 2, inPoolP), newWorker("outside", 1),
		} {
			c.setWorker(w)
		}
		for i := range 5 {
			c.setTask(newTask(fmt.Sprint("t", i)))
		}
		var got []string
		for p, ok := c.next(time.Now()); ok; p, ok = c.next(time.Now()) {
			got = append(got, p.target.Name)
		}
		if want := []string{"outside", "p-0", "p-0", "p-2", "p-10"}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", strategy, got, want)
		}
	}
}
