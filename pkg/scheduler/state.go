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
	"sync"
	"time"

	toolscache "k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
)

// state is the scheduler's view of all unfinished tasks, workers and queues: the state that the informers delivered
// last, plus the tasks that are assumed bound. Its methods are safe for concurrent use and do no I/O.
//
// Namespaces share nothing. Those with schedulable tasks take turns.
//
// State machine of a task:
//
//	           eligible            next                obj bound
//	Initial -------------> Pending -------> Assumed -------------------> Bound
//	                       |     ^          |     |                      ^   |
//	          not eligible |     | delay    |     | refused, stale       |   |
//	                       v     | over     |     v           obj bound  |   |
//	                       Waiting <--------+     Unconfirmed -----------+   |
//	                       ^       failed         |                          |
//	                       +----------------------+--------------------------+
//	                              delay over               evicted
//
//	State        Event                             Action
//	Pending      next                              assume the task on a worker and return the placement
//	Pending      update, isTaskUpdated is false    replace the object
//	Assumed      update older than the binding     replace the object
//	Assumed      update, bound to the worker       confirm: Bound
//	Assumed      binding failed                    forget: Waiting for a backoff, or Pending if the task has changed
//	Assumed      binding refused as stale          Unconfirmed: keep the place until the informer catches up
//	Unconfirmed  update, bound to the worker       confirm: Bound
//	Unconfirmed  any other update                  forget: place as the object says
//	Unconfirmed  backoff over                      forget: Waiting for another backoff
//	Bound        update                            replace the object
//	Bound        update, evicted                   remove: Pending, or Waiting for evictionGrace
//	Bound        update, returned before its start remove: Pending
//	Waiting      backoff or grace over             Pending
//	any          finished or deleted               remove for good
//
// Waiting is every unbound task that must not be placed yet: it has scheduling gates, is being deleted, backs off, or
// its former worker may still run its command.
type state struct {
	strategy ScoringStrategy
	filters  framework.Filters
	metrics  *metrics
	// retry is called in its own goroutine when the delay of a task is over.
	retry func()
	// changed is called with mu held when something in a namespace changes.
	changed func(namespace string)

	mu         sync.Mutex
	tasks      map[toolscache.ObjectName]*task
	namespaces map[string]*namespaceState
	active     []*namespaceState // namespaces that may have schedulable tasks; they take turns
	// synced is set once the informers have delivered their lists: a task that is added later was created just now.
	synced bool
}

// taskState is the state of a task in the state machine of state.
type taskState uint8

const (
	taskRemoved taskState = iota // only between remove and place
	taskWaiting
	taskPending
	taskAssumed
	taskUnconfirmed
	taskBound
)

// task is an unfinished task.
type task struct {
	queue.Task
	state    taskState
	evicting bool  // an eviction of the bound task is in flight or was successful
	failures int32 // consecutive failed bindings
	// worker is set in the states Assumed, Unconfirmed and Bound.
	worker *cache.Worker

	backoffEnd       time.Time // end of the backoff after a failed binding
	evictionGraceEnd time.Time // when its command has ended on its former worker
	delay            *delay    // set in the state Waiting if only time is missing, and in the state Unconfirmed

	// What is seen of the task in the state Bound: when it was bound, when it ran, and whether its worker was asked to
	// return it.
	boundAt, runningAt time.Time
	returnAsked        bool
}

func (t *task) namespace() *namespaceState { return t.Queue.Owner().(*namespaceState) }

// placement is a task and the worker to bind it to.
type placement struct {
	task   *task
	obj    *batch.Task
	target batch.BindingTarget
	since  time.Time // of the task
	// prefetched is set if the task waits on the worker for a slot.
	prefetched bool
}

func newState(strategy ScoringStrategy, retry func()) *state {
	return &state{
		strategy: strategy, filters: plugins.NewFilters(), metrics: newMetrics(), retry: retry, changed: func(string) {},
		tasks: map[toolscache.ObjectName]*task{}, namespaces: map[string]*namespaceState{},
	}
}

// markSynced records that the informers have delivered their lists.
func (st *state) markSynced() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.synced = true
	for name := range st.namespaces {
		st.changed(name)
	}
}

// next assumes the first pending task that fits a worker on that worker and returns the placement. The caller sends the
// binding and calls bindingFailed if that fails.
func (st *state) next(now time.Time) (placement, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.active) > 0 {
		ns := st.active[0]
		st.active = st.active[1:]
		t, w, prefetched := ns.next(now)
		if t == nil {
			ns.active = false
			continue
		}
		st.active = append(st.active, ns)
		ns.assume(t, w)
		target := batch.BindingTarget{Name: w.Object.Name, UID: w.Object.UID, Incarnation: w.Incarnation}
		return placement{task: t, obj: t.Object, target: target, prefetched: prefetched, since: t.Since}, true
	}
	st.active = nil
	return placement{}, false
}

// bindingFailed handles a failed binding of an assumed task. A task that has changed since it was placed is scheduled
// again at once, any other one after a backoff. stale means that the server has another version of the task than the
// informer delivered: the task then keeps its place until the informer has caught up, because another scheduler may
// have bound it and used up the limits of its queue.
func (st *state) bindingFailed(p placement, stale bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	t := p.task
	if t.state != taskAssumed {
		return // the informer has delivered a newer state
	}
	st.changed(p.obj.Namespace)
	t.failures++
	unchanged := t.Object.ResourceVersion == p.obj.ResourceVersion
	if stale && unchanged {
		t.state = taskUnconfirmed
		st.placeAfter(t, backoff(t.failures))
		return
	}
	st.remove(t)
	if unchanged {
		t.backoffEnd = time.Now().Add(backoff(t.failures))
	}
	st.place(t)
}

// delay is one wait of a task before it is placed again. Its address identifies it: the timer may fire before it is
// stored here, so only holders of the lock of state read it.
type delay struct {
	timer *time.Timer
}

// placeAfter places a task again after d.
func (st *state) placeAfter(t *task, d time.Duration) {
	started := &delay{}
	started.timer = time.AfterFunc(d, func() {
		st.delayOver(t, started)
		st.retry()
	})
	t.delay = started
}

// delayOver places a task whose delay is over. It does nothing if the timer has fired but was cancelled or replaced
// while it waited for the lock.
func (st *state) delayOver(t *task, ended *delay) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if t.delay != ended {
		return
	}
	st.changed(t.Object.Namespace)
	if t.state == taskUnconfirmed {
		// The informer has delivered no reason, so the task itself cannot be bound: let others go first.
		t.backoffEnd = time.Now().Add(backoff(t.failures))
	}
	st.remove(t)
	st.place(t)
}

// stop stops all timers.
func (st *state) stop() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, t := range st.tasks {
		if t.delay != nil {
			t.delay.timer.Stop()
		}
	}
}

// backoff returns the delay after so many consecutive failed bindings: one second, doubling up to ten.
func backoff(failures int32) time.Duration {
	return min(time.Second<<min(failures-1, 4), 10*time.Second)
}

func (st *state) namespace(name string) *namespaceState {
	ns := st.namespaces[name]
	if ns == nil {
		ns = newNamespaceState(st, name)
		st.namespaces[name] = ns
	}
	return ns
}

// place puts a removed task where its object belongs: on its worker, among the pending tasks, or behind a delay.
func (st *state) place(t *task) {
	ns := t.namespace()
	if old := t.Queue; old.Name != t.Object.Spec.QueueName {
		t.SetQueue(ns.queues.Add(t.Object.Spec.QueueName))
		ns.pruneQueue(old)
	}
	if name := t.Object.Spec.WorkerName; name != "" {
		ns.addToWorker(t, ns.workers.AddWorker(name))
		t.state = taskBound
		t.observeBound(time.Now())
		return
	}
	t.Queue.AddPending(&t.Task)
	t.state = taskWaiting
	until := t.evictionGraceEnd
	if t.backoffEnd.After(until) {
		until = t.backoffEnd
	}
	switch wait := time.Until(until); {
	case !framework.IsEligible(t.Object):
	case wait > 0:
		st.placeAfter(t, wait)
	default:
		t.state = taskPending
		t.Reported = reportedMessage(t.Object)
		t.Queue.Enqueue(&t.Task)
	}
}

func (t *task) cancelDelay() {
	if t.delay != nil {
		t.delay.timer.Stop()
		t.delay = nil
	}
}

// remove undoes place and assume.
func (st *state) remove(t *task) {
	t.cancelDelay()
	switch t.state {
	case taskPending:
		t.namespace().dequeue(t)
		t.Queue.RemovePending(&t.Task)
	case taskWaiting:
		t.Queue.RemovePending(&t.Task)
	case taskAssumed, taskUnconfirmed, taskBound:
		t.namespace().removeFromWorker(t)
	}
	t.state = taskRemoved
}

// drop removes a task for good.
func (st *state) drop(t *task) {
	st.remove(t)
	delete(st.tasks, toolscache.MetaObjectToName(t.Object))
	t.namespace().pruneQueue(t.Queue)
}

// taskOf returns the task with that TaskInfo.
func (st *state) taskOf(info *framework.TaskInfo) *task {
	return st.tasks[toolscache.MetaObjectToName(info.Object)]
}

// reserve reserves room for tasks that have been unschedulable since before.
func (st *state) reserve(before time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, ns := range st.namespaces {
		ns.reserve(before)
	}
}

// tasksToEvict returns at most limit bound tasks of drained queues. It returns a task again only after evictionFailed
// or after the task was bound again.
func (st *state) tasksToEvict(limit int) []*batch.Task {
	st.mu.Lock()
	defer st.mu.Unlock()
	var due []*batch.Task
	for _, ns := range st.namespaces {
		for _, q := range ns.queues.All() {
			if !q.IsDrained() {
				continue
			}
			for queued := range q.Bound() {
				if len(due) == limit {
					return due
				}
				t := queued.Owner.(*task)
				if t.state == taskBound && !t.evicting && t.Object.DeletionTimestamp == nil {
					t.evicting = true
					due = append(due, t.Object)
				}
			}
		}
	}
	return due
}

// evictionFailed makes tasksToEvict return the task again.
func (st *state) evictionFailed(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if t := st.tasks[name]; t != nil {
		t.evicting = false
	}
}

// tasksToReport returns at most limit tasks whose status does not carry the current unschedulable message. See
// queue.NewReporter.
func (st *state) tasksToReport(now time.Time, delay time.Duration, limit int) []queue.Report {
	st.mu.Lock()
	defer st.mu.Unlock()
	reporter := queue.NewReporter(now, delay, limit)
	for _, ns := range st.namespaces {
		reporter.Add(ns.queues, ns.workers.Generation(), func(t *queue.Task) string { return ns.unschedulableMessage(&t.TaskInfo) })
	}
	return reporter.Reports()
}

// reported records that the message was written to the task.
func (st *state) reported(r queue.Report) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r.Task.Reported = r.Message
}

// queueStatusesToWrite returns the queues whose status is not up to date, with the new status. It returns a queue at
// most once per interval.
func (st *state) queueStatusesToWrite(now time.Time, interval time.Duration) []*batch.TaskQueue {
	st.mu.Lock()
	defer st.mu.Unlock()
	var due []*batch.TaskQueue
	for _, ns := range st.namespaces {
		for _, q := range ns.queues.All() {
			if obj := q.StatusUpdate(now, interval); obj != nil {
				due = append(due, obj)
			}
		}
	}
	return due
}
