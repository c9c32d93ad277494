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

// patience is how many report delays a task waits in a queue that moves before it is told so, and how many pass before tasks
// that were told the numbers of workers are told new ones.
const patience = 10

// report is a message that a task is to carry.
type report struct {
	task    *task
	obj     *batch.Task
	message string
}

// unreported are at most limit tasks that have been waiting for delay, and do not say so or do not say why. Those of queues that move
// are told after a multiple of it.
func (c *cluster) unreported(now time.Time, delay time.Duration, limit int) []report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &reporter{now: now, delay: delay, limit: limit}
	for _, sp := range c.spaces {
		for _, q := range sp.queues {
			r.queue(q)
		}
	}
	return r.due
}

// reported takes in that a task carries a message.
func (c *cluster) reported(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.task.reported = r.message
}

type reporter struct {
	now      time.Time
	delay    time.Duration
	limit    int
	explains int
	due      []report
}

func (r *reporter) long(since time.Time) bool { return r.now.Sub(since) >= r.delay }
func (r *reporter) very(since time.Time) bool { return r.now.Sub(since) >= patience*r.delay }

func (r *reporter) queue(q *taskQueue) {
	if q.closed != "" {
		long := r.long(q.closedSince)
		for _, cl := range q.classes {
			r.tell(cl, q.closed, func(t *task) bool { return long || r.very(t.since) })
		}
		return
	}
	for cl := range q.blocked {
		switch {
		case cl.by == byLimits:
			long := r.long(cl.stuckSince)
			r.tell(cl, q.explainLimits(cl.tasks[0]), func(t *task) bool { return long || r.very(t.since) })
		case r.long(cl.stuckSince):
			r.tell(cl, r.explain(cl), func(*task) bool { return true })
		default:
			turn := fmt.Sprintf("Waits for its turn in queue %s: tasks that come first take the room there is.", q.name)
			r.tell(cl, turn, func(t *task) bool { return t.reported == "" && r.very(t.since) })
		}
	}
}

// explain is what the workers have against a class. It is found out anew at times only: the numbers change all the time.
func (r *reporter) explain(cl *class) string {
	sp := cl.queue.space
	if cl.message != "" && (cl.messageOf == sp.state || !r.very(cl.messageAt)) || r.explains == r.limit {
		return cl.message
	}
	r.explains++
	cl.message, cl.messageAt, cl.messageOf = explain(cl.tasks[0], sp.workers), r.now, sp.state
	return cl.message
}

// tell has the tasks of a class told a message that are due and carry another.
func (r *reporter) tell(cl *class, message string, due func(*task) bool) {
	for _, t := range cl.tasks {
		if len(r.due) == r.limit || message == "" {
			return
		}
		if t.reported != message && due(t) {
			r.due = append(r.due, report{task: t, obj: t.obj, message: message})
		}
	}
}
