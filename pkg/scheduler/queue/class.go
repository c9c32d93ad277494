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
	"iter"
	"maps"
	"time"
)

// Class is an equivalence class: the enqueued tasks of a queue that each worker accepts or rejects alike. It exists
// while it has tasks.
//
//	State    Event                                             Next state
//	active   its first task is placed                          active
//	active   the limits of the queue or all workers block it   blocked
//	blocked  something may have made room for its first task   active
//	any      its last task is dequeued                         removed
type Class struct {
	key       string
	tasks     indexedHeap[*Task]
	blockedBy BlockReason
	// blockedSince is when its first task could not be placed first, with none placed since. It is zero if there is
	// none.
	blockedSince time.Time
	// unsatisfiableAt is the generation of the workers when none of them could run the tasks, not even without other
	// tasks.
	unsatisfiableAt uint64

	// The position among the active classes. head is the first task.
	head  *Task
	index int32

	// The message of workers to the tasks of a blocked class.
	message           string
	messageAt         time.Time
	messageGeneration uint64
}

func (c *Class) heapIndex() *int32    { return &c.index }
func (c *Class) before(o *Class) bool { return c.head.before(o.head) }

// BlockReason is why a class is blocked.
type BlockReason int

const (
	notBlocked BlockReason = iota
	// BlockedByLimits means that the limits of the queue leave no room for the tasks.
	BlockedByLimits
	// BlockedByWorkers means that no worker fits the tasks.
	BlockedByWorkers
)

// BlockedBy returns why the class is blocked. It returns zero if it is active.
func (c *Class) BlockedBy() BlockReason { return c.blockedBy }

// Len returns the number of tasks.
func (c *Class) Len() int { return len(c.tasks) }

// First returns the task that is scheduled first.
func (c *Class) First() *Task { return c.tasks[0] }

// SetUnsatisfiableAt records that no worker could run the tasks as of a generation of the workers, not even without
// other tasks.
func (c *Class) SetUnsatisfiableAt(generation uint64) { c.unsatisfiableAt = generation }

// Classes returns all classes in no particular order.
func (q *Queue) Classes() iter.Seq[*Class] { return maps.Values(q.classes) }

// Enqueue makes an unbound task wait to be placed.
func (q *Queue) Enqueue(t *Task) {
	if len(q.classes) == 0 {
		q.VirtualTime = max(q.VirtualTime, q.queues.virtualTime)
	}
	key := q.queues.options.Sign(&t.TaskInfo)
	class := q.classes[key]
	if class == nil {
		class = &Class{key: key}
		q.classes[key] = class
	}
	t.class = class
	class.tasks.add(t)
	q.repositionTask(t)
}

// Dequeue undoes Enqueue. It releases the room within the limits that is reserved for the task.
func (q *Queue) Dequeue(t *Task) {
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
	if q.limitReservation == t {
		q.limitReservation = nil
		q.activateWithinLimits()
	}
}

// Reorder moves an enqueued task whose priority has changed. The task keeps the room that is reserved for it.
func (q *Queue) Reorder(t *Task) {
	t.class.tasks.fix(t)
	q.repositionTask(t)
	if q.limitReservation == t {
		q.activateWithinLimits() // the task may now be scheduled after tasks that had to leave it room
	}
}

// repositionTask updates the class of a task after the task has moved within it.
func (q *Queue) repositionTask(t *Task) {
	class := t.class
	if class.blockedBy != notBlocked && class.tasks[0] == t && (q.limitReservation != nil || q.queues.options.HasReservations()) {
		q.activate(class) // the new first task may be admitted to reserved room
		return
	}
	q.repositionClass(class)
}

// repositionClass puts an active class where it belongs among the active ones after its first task may have changed.
func (q *Queue) repositionClass(class *Class) {
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

// Block blocks the class of a task that cannot be placed. The task is the first one of its class.
func (q *Queue) Block(t *Task, reason BlockReason, now time.Time) {
	class := t.class
	q.active.remove(class)
	class.blockedBy, class.head = reason, nil
	q.blocked[class] = struct{}{}
	if class.blockedSince.IsZero() {
		class.blockedSince = now
	}
	q.reposition()
}

func (q *Queue) activate(class *Class) {
	if class.blockedBy == notBlocked {
		return
	}
	class.blockedBy = notBlocked
	delete(q.blocked, class)
	q.repositionClass(class)
}

// Starved returns the first task of each class that has been blocked since before because no worker fits. It leaves out
// classes that workers of this generation cannot satisfy, and all classes of a queue that starts no tasks.
func (q *Queue) Starved(before time.Time, workersGeneration uint64) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		if !q.StartsTasks(before) {
			return
		}
		for class := range q.blocked {
			if class.blockedBy == BlockedByWorkers && !class.blockedSince.After(before) && class.unsatisfiableAt != workersGeneration &&
				!yield(class.tasks[0]) {
				return
			}
		}
	}
}
