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
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// slowReportFactor is how many report delays pass before a task of a queue that starts tasks is reported, and before a
// message with numbers of workers is updated.
const slowReportFactor = 10

// report is an unschedulable message to write to a task.
type report struct {
	task    *task
	obj     *batch.Task
	message string
}

// tasksToReport returns at most limit tasks that have been unschedulable for delay and whose status does not carry the
// current message. Tasks of a queue that starts tasks are returned after slowReportFactor times the delay.
func (st *state) tasksToReport(now time.Time, delay time.Duration, limit int) []report {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := &reporter{now: now, delay: delay, limit: limit}
	for _, ns := range st.namespaces {
		for _, q := range ns.queues {
			r.queue(q)
		}
	}
	return r.due
}

// reported records that the message was written to the task.
func (st *state) reported(r report) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r.task.reported = r.message
}

type reporter struct {
	now      time.Time
	delay    time.Duration
	limit    int
	explains int
	due      []report
}

func (r *reporter) waitedDelay(since time.Time) bool { return r.now.Sub(since) >= r.delay }
func (r *reporter) waitedLong(since time.Time) bool {
	return r.now.Sub(since) >= slowReportFactor*r.delay
}

func (r *reporter) queue(q *taskQueue) {
	if q.closed != "" {
		long := r.waitedDelay(q.closedSince)
		for _, class := range q.classes {
			r.add(class, q.closed, func(t *task) bool { return long || r.waitedLong(t.since) })
		}
		return
	}
	for class := range q.blocked {
		switch {
		case class.blockedBy == blockedByLimits:
			long := r.waitedDelay(class.blockedSince)
			r.add(class, q.limitMessage(class.tasks[0]), func(t *task) bool { return long || r.waitedLong(t.since) })
		case r.waitedDelay(class.blockedSince):
			r.add(class, r.explain(class), func(*task) bool { return true })
		default:
			turn := fmt.Sprintf("Waits for its turn in queue %s: tasks that come first take the room there is.", q.Name)
			r.add(class, turn, func(t *task) bool { return t.reported == "" && r.waitedLong(t.since) })
		}
	}
}

// explain returns why no worker fits the tasks of a class. It computes the message at intervals only, because the numbers
// change with every binding.
func (r *reporter) explain(class *equivalenceClass) string {
	ns := class.queue.namespace
	if class.message != "" && (class.messageGeneration == ns.workers.Generation() || !r.waitedLong(class.messageAt)) || r.explains == r.limit {
		return class.message
	}
	r.explains++
	class.message, class.messageAt, class.messageGeneration = ns.unschedulableMessage(class.tasks[0]), r.now, ns.workers.Generation()
	return class.message
}

// add reports message to those tasks of a class that are due and carry another message.
func (r *reporter) add(class *equivalenceClass, message string, due func(*task) bool) {
	for _, t := range class.tasks {
		if len(r.due) == r.limit || message == "" {
			return
		}
		if t.reported != message && due(t) {
			r.due = append(r.due, report{task: t, obj: t.Object, message: message})
		}
	}
}
