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
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// slowReportFactor is how many report delays pass before a task of a queue that starts tasks is reported, and before a
// message with numbers of workers is updated.
const slowReportFactor = 10

// Report is an unschedulable message to write to the status of a task.
type Report struct {
	Task    *Task
	Object  *batch.Task
	Message string
}

// Reporter collects the reports of tasks whose status does not carry the current message.
type Reporter struct {
	now       time.Time
	delay     time.Duration
	limit     int
	explained int
	reports   []Report
}

// NewReporter returns a reporter of at most limit tasks. It reports tasks that have been unschedulable for delay, and
// those of queues that start tasks after a multiple of it.
func NewReporter(now time.Time, delay time.Duration, limit int) *Reporter {
	return &Reporter{now: now, delay: delay, limit: limit}
}

// Reports returns the collected reports.
func (r *Reporter) Reports() []Report { return r.reports }

// Add collects the reports of all queues of a namespace. explain returns why no worker fits a task. It is called when
// generation has changed, but not more often than the numbers in the messages are worth.
func (r *Reporter) Add(qs *Queues, generation uint64, explain func(*Task) string) {
	for _, q := range qs.queues {
		r.addQueue(q, generation, explain)
	}
}

func (r *Reporter) addQueue(q *Queue, generation uint64, explain func(*Task) string) {
	if q.closed != "" {
		delayPassed := r.delayPassed(q.closedSince)
		for _, class := range q.classes {
			r.addClass(class, q.closed, func(t *Task) bool { return delayPassed || r.slowDelayPassed(t.Since) })
		}
		return
	}
	for class := range q.blocked {
		switch {
		case class.blockedBy == BlockedByLimits:
			delayPassed := r.delayPassed(class.blockedSince)
			r.addClass(class, q.limitMessage(class.tasks[0]), func(t *Task) bool { return delayPassed || r.slowDelayPassed(t.Since) })
		case r.delayPassed(class.blockedSince):
			r.addClass(class, r.workersMessage(class, generation, explain), func(*Task) bool { return true })
		default:
			message := fmt.Sprintf("Waits for its turn in queue %s: tasks that come first take the room there is.", q.Name)
			r.addClass(class, message, func(t *Task) bool { return t.Reported == "" && r.slowDelayPassed(t.Since) })
		}
	}
}

func (r *Reporter) delayPassed(since time.Time) bool { return r.now.Sub(since) >= r.delay }

func (r *Reporter) slowDelayPassed(since time.Time) bool {
	return r.now.Sub(since) >= slowReportFactor*r.delay
}

// workersMessage returns why no worker fits the tasks of a class.
func (r *Reporter) workersMessage(class *Class, generation uint64, explain func(*Task) string) string {
	isCurrent := class.messageGeneration == generation || !r.slowDelayPassed(class.messageAt)
	if class.message != "" && isCurrent || r.explained == r.limit {
		return class.message
	}
	r.explained++
	class.message, class.messageAt, class.messageGeneration = explain(class.tasks[0]), r.now, generation
	return class.message
}

// addClass reports message to the tasks of a class that are due and carry another one.
func (r *Reporter) addClass(class *Class, message string, due func(*Task) bool) {
	for _, t := range class.tasks {
		if len(r.reports) == r.limit || message == "" {
			return
		}
		if t.Reported != message && due(t) {
			r.reports = append(r.reports, Report{Task: t, Object: t.Object, Message: message})
		}
	}
}
