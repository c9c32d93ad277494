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
	"fmt"
	"slices"
	"time"

	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// spec is the spec of a TaskQueue with its defaults.
type spec struct {
	weight     float64
	maxRunning *int32
	limits     framework.Resources
	stopPolicy batch.StopPolicy
}

func newSpec(s *batch.TaskQueueSpec) spec {
	return spec{
		weight:     float64(max(1, ptr.Deref(s.Weight, 1))),
		maxRunning: s.MaxRunningTasks,
		limits:     framework.NewResources(s.Resources.Limits),
		stopPolicy: ptr.Deref(s.StopPolicy, batch.StopPolicyNone),
	}
}

// IsDrained reports whether the bound tasks of the queue must be evicted.
func (q *Queue) IsDrained() bool { return q.stopPolicy == batch.StopPolicyHoldAndDrain }

// open reports whether the queue may start tasks. It is closedReason without the message.
func (q *Queue) open() bool {
	return q.stopPolicy != batch.StopPolicyHold && q.stopPolicy != batch.StopPolicyHoldAndDrain &&
		(q.maxRunning == nil || len(q.bound) < int(*q.maxRunning))
}

// closedReason returns why the queue starts no tasks at all. It is empty if the queue is open.
func (q *Queue) closedReason() string {
	switch {
	case q.stopPolicy == batch.StopPolicyHold || q.stopPolicy == batch.StopPolicyHoldAndDrain:
		return fmt.Sprintf("Queue %s is held (stopPolicy %s).", q.Name, q.stopPolicy)
	case q.maxRunning != nil && len(q.bound) >= int(*q.maxRunning):
		return fmt.Sprintf("Queue %s runs %d of at most %d tasks.", q.Name, len(q.bound), *q.maxRunning)
	}
	return ""
}

// StartsTasks reports whether the queue is open, or was after before: a queue that runs as many tasks as it may starts
// another one as soon as one ends.
func (q *Queue) StartsTasks(before time.Time) bool {
	return q.closed == "" || q.stopPolicy == batch.StopPolicyNone && q.closedSince.After(before)
}

// ExceededLimit returns a resource whose limit leaves too little room for the task. It is empty if there is none.
func (q *Queue) ExceededLimit(t *Task) batch.ResourceName {
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

// reservedForOther reports whether the task must leave the rest of a resource to the task of the limit reservation.
func (q *Queue) reservedForOther(name batch.ResourceName, t *Task) bool {
	first := q.limitReservation
	if first == nil || first == t {
		return false
	}
	return first.Requests[name] > 0 && first.before(t) && q.used[name]+t.Requests[name]+first.Requests[name] > q.limits[name]
}

// limitMessage returns why the limits block a task. It is empty if they do not.
func (q *Queue) limitMessage(t *Task) string {
	name := q.ExceededLimit(t)
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

// activateWithinLimits activates the classes that the limits do not block any more.
func (q *Queue) activateWithinLimits() {
	for class := range q.blocked {
		if class.blockedBy == BlockedByLimits && q.ExceededLimit(class.tasks[0]) == "" {
			q.activate(class)
		}
	}
}

// ReserveWithinLimits reserves room within the limits for the first task that they have blocked since before. The
// reservation lasts until the task is placed, also while the task waits for the worker that is reserved for it.
func (q *Queue) ReserveWithinLimits(before time.Time, hasWorker func(*Task) bool) {
	if t := q.limitReservation; t != nil {
		waitsInVain := t.class.blockedBy == BlockedByWorkers && !hasWorker(t)
		if !waitsInVain && q.fitsEmptyLimits(t) {
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
		if class.blockedBy == BlockedByLimits && !class.blockedSince.After(before) && q.fitsEmptyLimits(t) &&
			(q.limitReservation == nil || t.before(q.limitReservation)) {
			q.limitReservation = t
		}
	}
}

// HasLimitReservation reports whether room within the limits is reserved for a task.
func (q *Queue) HasLimitReservation() bool { return q.limitReservation != nil }

// fitsEmptyLimits reports whether the task is within the limits if no other task runs.
func (q *Queue) fitsEmptyLimits(t *Task) bool {
	return !slices.ContainsFunc(t.ResourceNames, func(name batch.ResourceName) bool {
		limit, limited := q.limits[name]
		return limited && t.Requests[name] > limit
	})
}
