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

package queue

import (
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

const (
	// conditionActive is the condition of a TaskQueue that is true if the queue starts tasks.
	conditionActive = "Active"
	reasonReady     = "Ready"
	reasonStopped   = "Stopped"
)

// Queue holds the tasks of a namespace that name the same queue, and the TaskQueue object if there is one. It exists
// while it has either.
//
// Tasks to be placed are grouped in equivalence classes. A class is active until its first task cannot be placed. It
// then is blocked with all its tasks until something happens that may have made room for the first one.
type Queue struct {
	framework.QueueInfo
	queues *Queues
	object *batch.TaskQueue // read only; nil if there is none
	spec

	pending indexedHeap[*pendingByAge] // all unbound tasks, including those that are not enqueued
	bound   map[*Task]struct{}
	used    framework.Resources // what the bound tasks request

	classes map[string]*Class
	active  indexedHeap[*Class]
	blocked map[*Class]struct{}
	// limitReservation is a task that the limits of the queue have blocked for long. Tasks that are scheduled after
	// it leave it the room that it needs within the limits.
	limitReservation *Task

	// The position in queues.active. head is the first task of the first active class.
	head     *Task
	index    int32
	enqueued bool

	closed      string // why the queue starts no tasks at all; empty if it does
	closedSince time.Time
	statusDue   time.Time // earliest time of the next status update
}

func newQueue(qs *Queues, name string) *Queue {
	return &Queue{
		QueueInfo: framework.QueueInfo{Name: name}, queues: qs, spec: newSpec(&batch.TaskQueueSpec{}),
		bound: map[*Task]struct{}{}, used: framework.Resources{},
		classes: map[string]*Class{}, blocked: map[*Class]struct{}{},
	}
}

func (q *Queue) heapIndex() *int32    { return &q.index }
func (q *Queue) before(o *Queue) bool { return q.head.before(o.head) }

// pendingByAge is a task among the unbound tasks of its queue. The oldest is first.
type pendingByAge Task

func (p *pendingByAge) heapIndex() *int32 { return &p.ageIndex }
func (p *pendingByAge) before(o *pendingByAge) bool {
	return (*Task)(p).Older(&(*Task)(o).TaskInfo)
}

// Owner returns the owner in the options of the queues.
func (q *Queue) Owner() any { return q.queues.options.Owner }

// Object returns the TaskQueue object, or nil.
func (q *Queue) Object() *batch.TaskQueue { return q.object }

// SetObject replaces the TaskQueue object. A queue without one has the default spec.
func (q *Queue) SetObject(obj *batch.TaskQueue) {
	taskQueueSpec := &batch.TaskQueueSpec{}
	if obj != nil {
		taskQueueSpec = &obj.Spec
	}
	q.object, q.spec = obj, newSpec(taskQueueSpec)
	q.updateShare()
	q.activateWithinLimits()
}

// AddPending adds an unbound task.
func (q *Queue) AddPending(t *Task) { q.pending.add((*pendingByAge)(t)) }

// RemovePending removes an unbound task.
func (q *Queue) RemovePending(t *Task) { q.pending.remove((*pendingByAge)(t)) }

// Pending returns the number of unbound tasks.
func (q *Queue) Pending() int { return len(q.pending) }

// OldestPending returns the oldest unbound task, or nil.
func (q *Queue) OldestPending() *Task { return (*Task)(q.pending.first()) }

// AddBound adds a task that is bound, or assumed to be.
func (q *Queue) AddBound(t *Task) {
	q.bound[t] = struct{}{}
	q.used.Add(t.Requests, 1)
	q.updateShare()
}

// RemoveBound undoes AddBound.
func (q *Queue) RemoveBound(t *Task) {
	delete(q.bound, t)
	q.used.Add(t.Requests, -1)
	q.updateShare()
	q.activateWithinLimits()
}

// Bound returns the bound tasks. The caller must not change the map.
func (q *Queue) Bound() map[*Task]struct{} { return q.bound }

// Used returns what the bound tasks request. The caller must not change it.
func (q *Queue) Used() framework.Resources { return q.used }

// updateShare recomputes the share of the queue: its dominant resource share divided by its weight.
func (q *Queue) updateShare() {
	share := q.queues.options.DominantShare(int64(len(q.bound)), q.used) / q.weight
	q.Share = int64(math.Round(share * framework.ShareScale))
	q.reposition()
}

// reposition puts the queue where it belongs in queues.active. It must be called after every change that matters to
// that.
func (q *Queue) reposition() {
	open := q.open()
	if open {
		q.closed = ""
	} else if q.closed == "" {
		q.closedSince = time.Now()
	}
	if !open {
		q.closed = q.closedReason()
	}
	if !open || len(q.active) == 0 {
		if q.enqueued {
			q.queues.active.remove(q)
			q.enqueued, q.head = false, nil
		}
		return
	}
	q.head = q.active[0].tasks[0]
	if q.enqueued {
		q.queues.active.fix(q)
		return
	}
	q.queues.active.add(q)
	q.enqueued = true
	q.queues.options.OnActive()
}

// StatusUpdate returns the object with its current status. It returns nil if there is no object, if the object has that
// status, or if StatusUpdate has returned an object less than interval before.
func (q *Queue) StatusUpdate(now time.Time, interval time.Duration) *batch.TaskQueue {
	if q.object == nil || now.Before(q.statusDue) {
		return nil
	}
	status := q.status()
	if equality.Semantic.DeepEqual(status, &q.object.Status) {
		return nil
	}
	q.statusDue = now.Add(interval)
	obj := q.object.DeepCopy()
	obj.Status = *status
	return obj
}

func (q *Queue) status() *batch.TaskQueueStatus {
	s := &batch.TaskQueueStatus{
		Pending: int32(len(q.pending)), Running: int32(len(q.bound)), Conditions: slices.Clone(q.object.Status.Conditions),
	}
	if oldest := q.OldestPending(); oldest != nil {
		s.OldestPendingTime = oldest.Object.CreationTimestamp.DeepCopy()
	}
	for name, amount := range q.used {
		if s.Used == nil {
			s.Used = batch.ResourceList{}
		}
		s.Used[name] = framework.Quantity(name, amount)
	}
	condition := metav1.Condition{
		Type: conditionActive, Status: metav1.ConditionTrue, Reason: reasonReady,
		Message: "The queue starts tasks.", ObservedGeneration: q.object.Generation,
	}
	switch q.stopPolicy {
	case batch.StopPolicyHold:
		condition.Status, condition.Reason = metav1.ConditionFalse, reasonStopped
		condition.Message = "The queue is held: it starts no tasks."
	case batch.StopPolicyHoldAndDrain:
		condition.Status, condition.Reason = metav1.ConditionFalse, reasonStopped
		condition.Message = "The queue is drained: it starts no tasks and ends those that run."
	}
	meta.SetStatusCondition(&s.Conditions, condition)
	return s
}
