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
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

const (
	// queueActive is the condition of a queue that says whether it starts tasks, with its reasons.
	queueActive   = "Active"
	reasonReady   = "Ready"
	reasonStopped = "Stopped"
)

// taskQueue is a queue of one namespace: the tasks that name it and, if there is one, its object. It exists while it has either.
//
// Tasks that wait are kept by class. A class is active until its first task finds no place; then the class is blocked as a
// whole until something has happened that can have made room for it.
type taskQueue struct {
	namespace *namespaceState
	framework.QueueInfo
	obj *batch.TaskQueue // read only; nil if there is none
	queueSpec

	pending indexedHeap[*pendingByAge] // all unbound tasks, those included that are not to be bound yet
	bound   map[*task]struct{}
	used    framework.Resources // what the bound tasks request

	classes map[string]*equivalenceClass
	active  indexedHeap[*equivalenceClass]
	blocked map[*equivalenceClass]struct{}
	// head is the first task of the first active class, as the space has the queue sorted by.
	head     *task
	index    int
	enqueued bool
	// limitReservation is a task that the limits of the queue have blocked for long. Tasks that are scheduled after it leave it
	// the room that it needs within the limits.
	limitReservation *task

	closed        string // why it starts no tasks at all, empty if it does
	closedSince   time.Time
	statusWritten time.Time // when its status was
}

// rules are what a TaskQueue's spec says.
type queueSpec struct {
	weight     float64
	maxRunning *int32
	limits     framework.Resources
	stop       batch.StopPolicy
}

func queueSpecOf(spec *batch.TaskQueueSpec) queueSpec {
	return queueSpec{
		weight:     float64(max(1, ptr.Deref(spec.Weight, 1))),
		maxRunning: spec.MaxRunningTasks,
		limits:     framework.NewResources(spec.Resources.Limits),
		stop:       ptr.Deref(spec.StopPolicy, batch.StopPolicyNone),
	}
}

func (q *taskQueue) heapIndex() *int          { return &q.index }
func (q *taskQueue) before(o *taskQueue) bool { return q.head.before(o.head) }

// class holds the waiting tasks of a queue that every worker accepts or refuses alike. It exists while it has tasks.
type equivalenceClass struct {
	key       string
	queue     *taskQueue
	tasks     indexedHeap[*task]
	head      *task // its first task, as the queue has it sorted by
	index     int
	blockedBy blockReason
	// stuckSince is when a try failed first with none that succeeded since; zero if none failed.
	blockedSince time.Time
	// hopeless is the state of the offers by which not even an empty worker could take the first task.
	unsatisfiableAt uint64

	message           string // what the blocked tasks are told
	messageAt         time.Time
	messageGeneration uint64 // the state of the space that it is about
}

func (c *equivalenceClass) heapIndex() *int                 { return &c.index }
func (c *equivalenceClass) before(o *equivalenceClass) bool { return c.head.before(o.head) }

// obstacle is what blocks a class.
type blockReason int

const (
	notBlocked      blockReason = iota
	blockedByLimits             // of the queue
	blockedByWorkers
)

// elder is a task among the unbound ones of its queue, the oldest first.
type pendingByAge task

func (e *pendingByAge) heapIndex() *int             { return &e.ageIndex }
func (e *pendingByAge) before(o *pendingByAge) bool { return (*task)(e).Older(&(*task)(o).TaskInfo) }

// setRules takes in what the queue's object says, the defaults without one.
func (q *taskQueue) setObject(obj *batch.TaskQueue) {
	spec := &batch.TaskQueueSpec{}
	if obj != nil {
		spec = &obj.Spec
	}
	q.obj, q.queueSpec = obj, queueSpecOf(spec)
	q.updateShare()
	q.activateWithinLimits()
}

// why is why the queue starts no tasks at all, empty if it does.
func (q *taskQueue) closedReason() string {
	switch {
	case q.stop == batch.StopPolicyHold || q.stop == batch.StopPolicyHoldAndDrain:
		return fmt.Sprintf("Queue %s is held (stopPolicy %s).", q.Name, q.stop)
	case q.maxRunning != nil && len(q.bound) >= int(*q.maxRunning):
		return fmt.Sprintf("Queue %s runs %d of at most %d tasks.", q.Name, len(q.bound), *q.maxRunning)
	}
	return ""
}

// open says that the queue may start tasks. It is why without the words.
func (q *taskQueue) open() bool {
	return q.stop != batch.StopPolicyHold && q.stop != batch.StopPolicyHoldAndDrain &&
		(q.maxRunning == nil || len(q.bound) < int(*q.maxRunning))
}

// moves reports whether the queue starts tasks, or has done so after before: one that runs as many as it may starts another as
// soon as one ends.
func (q *taskQueue) startsTasks(before time.Time) bool {
	return q.closed == "" || q.stop == batch.StopPolicyNone && q.closedSince.After(before)
}

// over is a resource of which the queue's limits leave too little for t, empty if there is none.
func (q *taskQueue) exceededLimit(t *task) batch.ResourceName {
	if len(q.limits) == 0 {
		return ""
	}
	for _, name := range t.ResourceNames {
		limit, limited := q.limits[name]
		if !limited || t.Requests[name] == 0 {
			continue
		}
		if q.used[name]+t.Requests[name] > limit || q.reservedForOther(name, t) {
			return name
		}
	}
	return ""
}

// keeps says whether t must leave a resource to the class that has waited for it for long.
func (q *taskQueue) reservedForOther(name batch.ResourceName, t *task) bool {
	first := q.limitReservation
	if first == nil || first == t {
		return false
	}
	return first.Requests[name] > 0 && first.before(t) && q.used[name]+t.Requests[name]+first.Requests[name] > q.limits[name]
}

// explainLimits is what a task is told that the limits block.
func (q *taskQueue) limitMessage(t *task) string {
	name := q.exceededLimit(t)
	if name == "" {
		return ""
	}
	limit, request := framework.Quantity(name, q.limits[name]), framework.Quantity(name, t.Requests[name])
	switch {
	case t.Requests[name] > q.limits[name]:
		return fmt.Sprintf("Queue %s is limited to %s %s, and the task requests %s.", q.Name, limit.String(), name, request.String())
	case q.used[name]+t.Requests[name] > q.limits[name]:
		return fmt.Sprintf("Queue %s has less than %s %s left of its limit of %s.", q.Name, request.String(), name, limit.String())
	}
	return fmt.Sprintf("Queue %s keeps what is left of its limit of %s %s for a task that comes first.", q.Name, limit.String(), name)
}

// reshare counts anew what part of the namespace the queue has: its dominant share by its weight.
func (q *taskQueue) updateShare() {
	q.Share = int64(math.Round(q.namespace.workers.DominantShare(int64(len(q.bound)), q.used) / q.weight * framework.ShareScale))
	q.reposition()
}

// enqueue has a task wait to be placed.
func (q *taskQueue) enqueue(t *task) {
	key := q.namespace.state.filters.Sign(&t.TaskInfo)
	if len(q.classes) == 0 {
		q.VirtualTime = max(q.VirtualTime, q.namespace.virtualTime)
	}
	class := q.classes[key]
	if class == nil {
		class = &equivalenceClass{key: key, queue: q}
		q.classes[key] = class
	}
	t.class = class
	class.tasks.add(t)
	q.repositionTask(t)
}

// rank puts the class of a task where it belongs after the task got its place in it.
func (q *taskQueue) repositionTask(t *task) {
	class := t.class
	// A task that comes before the others of its class may have what those must leave alone.
	if class.blockedBy != notBlocked && class.tasks[0] == t && (q.limitReservation != nil || q.namespace.reservations.Len() > 0) {
		q.activate(class)
		return
	}
	q.repositionClass(class)
}

// reorder moves a pending task whose priority has changed. The task keeps its reservation.
func (q *taskQueue) reorder(t *task) {
	t.class.tasks.fix(t)
	q.repositionTask(t)
	// The task may now be scheduled after tasks that had to leave it room.
	if r := q.namespace.reservations.OfTask(&t.TaskInfo); r != nil {
		q.namespace.activateFitting(q.namespace.workerOf(r))
	}
	if q.limitReservation == t {
		q.activateWithinLimits()
	}
}

// dequeue removes a pending task and releases its reservation.
func (q *taskQueue) dequeue(t *task) {
	class := t.class
	class.tasks.remove(t)
	switch {
	case len(class.tasks) > 0:
		q.repositionClass(class)
	case class.blockedBy == notBlocked:
		q.active.remove(class)
		delete(q.classes, class.key)
		q.reposition()
	default:
		delete(q.blocked, class)
		delete(q.classes, class.key)
	}
	t.class = nil
	if r := q.namespace.reservations.OfTask(&t.TaskInfo); r != nil {
		q.namespace.release(r)
	}
	if q.limitReservation == t {
		q.limitReservation = nil
		q.activateWithinLimits()
	}
}

// sort puts a class where it belongs by its first task.
func (q *taskQueue) repositionClass(class *equivalenceClass) {
	if class.blockedBy != notBlocked {
		return
	}
	isNew := class.head == nil
	class.head = class.tasks[0]
	if isNew {
		q.active.add(class)
	} else {
		q.active.fix(class)
	}
	q.reposition()
}

// resort puts the queue where it belongs in its space, after whatever has changed.
func (q *taskQueue) reposition() {
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
			q.namespace.active.remove(q)
			q.enqueued, q.head = false, nil
		}
		return
	}
	q.head = q.active[0].tasks[0]
	if q.enqueued {
		q.namespace.active.fix(q)
		return
	}
	q.namespace.active.add(q)
	q.enqueued = true
	q.namespace.wake()
}

func (q *taskQueue) block(class *equivalenceClass, by blockReason, now time.Time) {
	q.active.remove(class)
	class.blockedBy, class.head = by, nil
	q.blocked[class] = struct{}{}
	if class.blockedSince.IsZero() {
		class.blockedSince = now
	}
	if r := q.namespace.reservations.OfTask(&class.tasks[0].TaskInfo); r != nil && by == blockedByLimits {
		q.namespace.release(r)
	}
	q.reposition()
}

// unblock has a class tried again.
func (q *taskQueue) activate(class *equivalenceClass) {
	if class.blockedBy == notBlocked {
		return
	}
	class.blockedBy = notBlocked
	delete(q.blocked, class)
	q.repositionClass(class)
}

// recheckLimits has the classes tried again that the limits do not block any more.
func (q *taskQueue) activateWithinLimits() {
	for class := range q.blocked {
		if class.blockedBy == blockedByLimits && q.exceededLimit(class.tasks[0]) == "" {
			q.activate(class)
		}
	}
}

// reserveWithinLimits reserves room within the limits for the first task that they have blocked since before. The reservation lasts
// until the task is placed, also while the task waits for a worker that is reserved for it.
func (q *taskQueue) reserveWithinLimits(before time.Time) {
	if t := q.limitReservation; t != nil {
		waitsInVain := t.class.blockedBy == blockedByWorkers && q.namespace.reservations.OfTask(&t.TaskInfo) == nil
		if !waitsInVain && q.everWithinLimits(t) {
			return
		}
		q.limitReservation = nil
		q.activateWithinLimits()
	}
	if len(q.limits) == 0 {
		return
	}
	for class := range q.blocked {
		t := class.tasks[0]
		if class.blockedBy == blockedByLimits && !class.blockedSince.After(before) && q.everWithinLimits(t) &&
			(q.limitReservation == nil || t.before(q.limitReservation)) {
			q.limitReservation = t
		}
	}
}

// couldEver says whether t is within the limits of the queue while nothing else runs.
func (q *taskQueue) everWithinLimits(t *task) bool {
	return !slices.ContainsFunc(t.ResourceNames, func(name batch.ResourceName) bool {
		limit, limited := q.limits[name]
		return limited && t.Requests[name] > limit
	})
}

// status is what the queue's object is to say.
func (q *taskQueue) status() *batch.TaskQueueStatus {
	s := &batch.TaskQueueStatus{Pending: int32(len(q.pending)), Running: int32(len(q.bound)), Conditions: slices.Clone(q.obj.Status.Conditions)}
	if len(q.pending) > 0 {
		s.OldestPendingTime = q.pending[0].Object.CreationTimestamp.DeepCopy()
	}
	for name, amount := range q.used {
		if s.Used == nil {
			s.Used = batch.ResourceList{}
		}
		s.Used[name] = framework.Quantity(name, amount)
	}
	condition := metav1.Condition{
		Type: queueActive, Status: metav1.ConditionTrue, Reason: reasonReady, Message: "The queue starts tasks.", ObservedGeneration: q.obj.Generation,
	}
	switch q.stop {
	case batch.StopPolicyHold:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonStopped, "The queue is held: it starts no tasks."
	case batch.StopPolicyHoldAndDrain:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonStopped, "The queue is drained: it starts no tasks and ends those that run."
	}
	meta.SetStatusCondition(&s.Conditions, condition)
	return s
}
