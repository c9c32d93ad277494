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

// Package queue orders the pending tasks of a namespace. It knows the queues, their shares and limits, and the
// equivalence classes of their tasks. It does not know workers.
package queue

import (
	"time"

	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// Task is a task that belongs to a queue.
type Task struct {
	framework.TaskInfo
	// Queue is the queue of the task.
	Queue *Queue
	// Since is when the task was created or evicted last.
	Since time.Time
	// Reported is the unschedulable message in the status of the task.
	Reported string
	// Owner is for the user of the queue: a pointer to what the task is part of.
	Owner any

	class           *Class // nil unless the task is enqueued
	index, ageIndex int32
}

// NewTask returns a task in the queue. It is neither pending nor bound yet.
func NewTask(info framework.TaskInfo, q *Queue) Task {
	t := Task{TaskInfo: info}
	t.SetQueue(q)
	return t
}

// SetQueue moves a task that is neither pending nor bound to another queue.
func (t *Task) SetQueue(q *Queue) { t.Queue, t.QueueInfo = q, &q.QueueInfo }

// Enqueued reports whether the task waits in its queue to be placed.
func (t *Task) Enqueued() bool { return t.class != nil }

// Class returns the equivalence class of an enqueued task.
func (t *Task) Class() *Class { return t.class }

func (t *Task) heapIndex() *int32   { return &t.index }
func (t *Task) before(o *Task) bool { return t.Before(&o.TaskInfo) }

// Options are what queues need to know of the rest of the scheduler.
type Options struct {
	// DominantShare returns the dominant resource share of so many tasks with these requests.
	DominantShare func(tasks int64, used framework.Resources) float64
	// Sign returns the key of the equivalence class of a task.
	Sign func(*framework.TaskInfo) string
	// HasReservations reports whether workers are reserved for tasks.
	HasReservations func() bool
	// Owner is for the user of the queues: a pointer to what they are part of.
	Owner any
	// OnActive is called when Head may return a task after it returned nil.
	OnActive func()
}

// Queues are the queues of a namespace. It is not safe for concurrent use.
type Queues struct {
	options Options
	queues  map[string]*Queue
	active  indexedHeap[*Queue] // the open queues with active classes
	// virtualTime is the virtual time of the queue that started a task last.
	virtualTime float64
}

// New returns an empty set of queues.
func New(options Options) *Queues {
	return &Queues{options: options, queues: map[string]*Queue{}}
}

// All returns all queues by name. The caller must not change the map.
func (qs *Queues) All() map[string]*Queue { return qs.queues }

// Get returns the queue with that name, or nil.
func (qs *Queues) Get(name string) *Queue { return qs.queues[name] }

// Add returns the queue with that name. It adds one without an object if there is none.
func (qs *Queues) Add(name string) *Queue {
	q := qs.queues[name]
	if q == nil {
		q = newQueue(qs, name)
		qs.queues[name] = q
	}
	return q
}

// Prune removes the queue if it has neither an object nor tasks.
func (qs *Queues) Prune(q *Queue) {
	if q.object == nil && len(q.pending) == 0 && len(q.bound) == 0 {
		delete(qs.queues, q.Name)
	}
}

// Head returns the task to place next, or nil if all tasks are blocked. The caller places it or calls Block.
func (qs *Queues) Head() *Task {
	if len(qs.active) == 0 {
		return nil
	}
	return qs.active[0].active[0].tasks[0]
}

// Start records that the task returned by Head is placed. The caller then calls Dequeue.
func (qs *Queues) Start(t *Task) {
	q := t.Queue
	t.class.blockedSince, t.class.message = time.Time{}, ""
	qs.virtualTime = max(qs.virtualTime, q.VirtualTime)
	q.VirtualTime += qs.options.DominantShare(1, t.Requests) / q.weight
}

// ActivateFitting activates the classes that are blocked because no worker fitted, and whose first task fits now.
func (qs *Queues) ActivateFitting(fits func(*Task) bool) {
	for _, q := range qs.queues {
		for class := range q.blocked {
			if class.blockedBy == BlockedByWorkers && fits(class.tasks[0]) {
				q.activate(class)
			}
		}
	}
}

// UpdateShares recomputes the shares of all queues. It must be called after the resources of the namespace have
// changed.
func (qs *Queues) UpdateShares() {
	for _, q := range qs.queues {
		q.updateShare()
	}
}
