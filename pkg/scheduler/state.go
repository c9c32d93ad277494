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
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	toolscache "k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
)

// evictionGrace is how long an evicted task is not rescheduled, so that its former worker can notice the eviction and kill the
// command.
const evictionGrace = 5 * time.Second

// commandEndedReasons are the eviction reasons after which a task is rescheduled at once. Either the worker itself returned the
// task after its command ended, or the worker is lost and fenced.
var commandEndedReasons = []string{"WorkerStopped", "WorkerRestarted", "WorkerLost"}

// state is the scheduler's view of all unfinished tasks, workers and queues: the state that the informers delivered last, plus
// the tasks that are assumed bound. Its methods are safe for concurrent use and do no I/O.
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
//	State        Event                              Action
//	Pending      next                               assume the task on a worker, return its placement
//	Pending      update, scheduling unchanged       replace the object
//	Assumed      update from before the binding     replace the object
//	Assumed      update, bound to the worker        confirm: the task is Bound
//	Assumed      binding failed                     forget; pending again after a backoff, or at once if the task has changed
//	Assumed      binding refused, task unchanged    keep the place until the informer shows why, at most for a backoff
//	Unconfirmed  update, bound to the worker        confirm: the task is Bound
//	Unconfirmed  any other update                   remove and place as the object says
//	Unconfirmed  backoff over                       forget; pending again after another backoff
//	Bound        update, evicted                    remove; pending again, after evictionGrace if its command may still run
//	Bound        update                             replace the object
//	Waiting      backoff or grace over              pending again
//	any          finished or deleted                remove
//
// Waiting is every unbound task that must not be placed yet: it has scheduling gates, is being deleted, backs off, or its former
// worker may still run its command.
type state struct {
	strategy ScoringStrategy
	filters  framework.Filters
	metrics  *metrics
	// retry is called in its own goroutine when the delay of a task is over.
	retry func()

	mu         sync.Mutex
	tasks      map[toolscache.ObjectName]*task
	namespaces map[string]*namespaceState
	active     []*namespaceState // namespaces that may have schedulable tasks; they take turns
	// synced is set once the informers have delivered their lists: a task that is added later was created just now.
	synced bool
}

// task is an unfinished task. class is set while it is Pending, worker while it is Assumed, Unconfirmed or Bound, neither while
// it is Waiting.
type task struct {
	framework.TaskInfo
	queue       *taskQueue
	class       *equivalenceClass
	worker      *cache.Worker
	assumed     bool // the binding was sent, and the informer has not delivered it yet
	unconfirmed bool // the server refused the binding because of a change that the informer has not delivered yet
	evicting    bool
	since       time.Time // when it was created or evicted last

	failures         int       // consecutive failed bindings
	backoffEnd       time.Time // end of the backoff after a failed binding
	evictionGraceEnd time.Time // when its command has ended on its former worker
	delayTimer       *time.Timer
	reported         string // the unschedulable message in the status of the task

	index, ageIndex int
}

func (t *task) heapIndex() *int { return &t.index }

func (t *task) before(o *task) bool { return t.Before(&o.TaskInfo) }

func (t *task) setQueue(q *taskQueue) {
	t.queue, t.Queue = q, &q.QueueInfo
}

// placement is a task and the worker to bind it to.
type placement struct {
	task   *task
	obj    *batch.Task
	target batch.BindingTarget
	since  time.Time // when the task was created or evicted last
}

func newState(strategy ScoringStrategy, retry func()) *state {
	return &state{
		strategy: strategy, filters: plugins.NewFilters(), metrics: newMetrics(), retry: retry,
		tasks: map[toolscache.ObjectName]*task{}, namespaces: map[string]*namespaceState{},
	}
}

// markSynced records that the informers have delivered their lists.
func (st *state) markSynced() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.synced = true
}

// setTask adds or updates a task.
func (st *state) setTask(obj *batch.Task) {
	st.mu.Lock()
	defer st.mu.Unlock()
	name := toolscache.MetaObjectToName(obj)
	t := st.tasks[name]
	if t != nil && t.Object.UID != obj.UID {
		st.drop(t)
		t = nil
	}
	if framework.IsFinished(obj) {
		if t != nil {
			st.drop(t)
		}
		return
	}
	switch {
	case t == nil:
		t = &task{TaskInfo: framework.NewTaskInfo(obj), since: obj.CreationTimestamp.Time}
		t.setQueue(st.namespace(obj.Namespace).queue(obj.Spec.QueueName))
		if st.synced {
			t.since = time.Now()
		}
		if at, reason := evicted(obj); obj.Spec.WorkerName == "" && !slices.Contains(commandEndedReasons, reason) {
			t.evictionGraceEnd = at.Add(evictionGrace)
		}
		st.tasks[name] = t
	case t.assumed && !t.unconfirmed && obj.Spec.WorkerName == "" && obj.Status.Disruptions == t.Object.Status.Disruptions:
		// The event is older than the binding: a task that was bound and evicted since would count another disruption.
		t.Object = obj
		return
	case t.worker != nil && t.worker.Name == obj.Spec.WorkerName && t.queue.Name == obj.Spec.QueueName && t.Alone == framework.RunsAlone(obj):
		st.cancelDelay(t)
		t.Object, t.assumed, t.unconfirmed, t.failures = obj, false, false, 0
		return
	case t.worker == nil && st.isSchedulingUnchanged(t, obj):
		st.refresh(t, obj)
		return
	default:
		if obj.Spec.WorkerName == "" && obj.Status.Disruptions > t.Object.Status.Disruptions {
			st.observeEviction(t, obj)
		}
		st.remove(t)
		t.backoffEnd = time.Time{}
		t.SetObject(obj)
	}
	st.place(t)
}

// isSchedulingUnchanged reports whether an update of an unbound task changes nothing that decides where and when it may be
// scheduled. Such an update, for example the scheduler's own report in the status, only replaces the object. The task keeps its
// reservation, the time since when it is unschedulable, and its backoff. A change of priority counts as unchanged: it only moves
// the task within its class.
func (st *state) isSchedulingUnchanged(t *task, obj *batch.Task) bool {
	old := t.Object
	if obj.Spec.WorkerName != "" || framework.IsEligible(obj) != framework.IsEligible(old) ||
		obj.Status.Disruptions != old.Status.Disruptions || obj.Spec.QueueName != old.Spec.QueueName {
		return false
	}
	updated := t.TaskInfo
	updated.SetObject(obj)
	return st.filters.Sign(&updated) == st.filters.Sign(&t.TaskInfo)
}

// refresh replaces the object of a task for which isSchedulingUnchanged holds.
func (st *state) refresh(t *task, obj *batch.Task) {
	moved := obj.Spec.Priority != t.Object.Spec.Priority
	t.Object = obj
	if t.class == nil {
		return
	}
	t.reported = reportedMessage(obj)
	if moved {
		t.queue.reorder(t)
	}
}

// evicted returns when and why an unbound task was evicted last. It returns zero values if it was not evicted.
func evicted(obj *batch.Task) (at time.Time, reason string) {
	if c := meta.FindStatusCondition(obj.Status.Conditions, batch.DisruptionTarget); c != nil && c.Status == metav1.ConditionTrue {
		return c.LastTransitionTime.Time, c.Reason
	}
	return time.Time{}, ""
}

// observeEviction records that obj was evicted, and until when its command may still run on its former worker.
func (st *state) observeEviction(t *task, obj *batch.Task) {
	_, reason := evicted(obj)
	st.metrics.requeue(reason)
	t.since = time.Now()
	w := t.worker
	if w != nil && w.Ready && (t.assumed || w.Incarnation == t.Object.Status.Incarnation) && !slices.Contains(commandEndedReasons, reason) {
		t.evictionGraceEnd = t.since.Add(evictionGrace)
	}
}

// deleteTask removes a task that was deleted or has finished.
func (st *state) deleteTask(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if t := st.tasks[name]; t != nil {
		st.drop(t)
	}
}

// setWorker adds or updates a worker.
func (st *state) setWorker(obj *batch.Worker) {
	st.mu.Lock()
	defer st.mu.Unlock()
	ns := st.namespace(obj.Namespace)
	w := ns.workers.AddWorker(obj.Name)
	w.Object = obj
	if state := framework.NewWorkerState(obj); !reflect.DeepEqual(w.WorkerState, state) {
		ns.setWorkerState(w, state)
	}
}

// deleteWorker removes a worker. Its tasks stay bound to it until they are evicted.
func (st *state) deleteWorker(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	ns := st.namespaces[name.Namespace]
	if ns == nil {
		return
	}
	if w := ns.workers.Worker(name.Name); w != nil {
		w.Object = nil
		ns.setWorkerState(w, framework.WorkerState{})
	}
}

// setQueue adds or updates a queue.
func (st *state) setQueue(obj *batch.TaskQueue) {
	st.mu.Lock()
	defer st.mu.Unlock()
	q := st.namespace(obj.Namespace).queue(obj.Name)
	if q.obj == nil || q.obj.UID != obj.UID || !older(obj, q.obj) {
		q.setObject(obj)
	}
}

// queueStatusWritten stores the response to a status update, unless the informer has delivered a newer version.
func (st *state) queueStatusWritten(obj *batch.TaskQueue) {
	st.mu.Lock()
	defer st.mu.Unlock()
	ns := st.namespaces[obj.Namespace]
	if ns == nil || ns.queues[obj.Name] == nil {
		return
	}
	if q := ns.queues[obj.Name]; q.obj != nil && q.obj.UID == obj.UID && older(q.obj, obj) {
		q.setObject(obj)
	}
}

// older reports whether a is an earlier version of an object than b.
func older(a, b *batch.TaskQueue) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

// deleteQueue removes the object of a queue. Its tasks stay in the queue, which then has the default spec.
func (st *state) deleteQueue(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if ns := st.namespaces[name.Namespace]; ns != nil && ns.queues[name.Name] != nil {
		q := ns.queues[name.Name]
		q.setObject(nil)
		ns.pruneQueue(q)
	}
}

// next assumes the first pending task that fits a worker on that worker and returns the placement. The caller sends the binding
// and calls bindingFailed if that fails.
func (st *state) next(now time.Time) (placement, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.active) > 0 {
		ns := st.active[0]
		st.active = st.active[1:]
		t, w := ns.next(now)
		if t == nil {
			ns.enqueued = false
			continue
		}
		st.active = append(st.active, ns)
		t.queue.dequeue(t)
		st.removePending(t)
		st.assume(t, w)
		target := batch.BindingTarget{Name: w.Object.Name, UID: w.Object.UID, Incarnation: w.Incarnation}
		return placement{task: t, obj: t.Object, target: target, since: t.since}, true
	}
	st.active = nil
	return placement{}, false
}

// bindingFailed handles a failed binding of an assumed task. A task that has changed since it was placed is scheduled again at
// once, any other one after a backoff. stale means that the server has another version of the task than the informer delivered:
// the task then keeps its place until the informer has caught up, because another scheduler may have bound it and used up the
// limits of its queue.
func (st *state) bindingFailed(p placement, stale bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	t := p.task
	if !t.assumed {
		return // the informer has delivered a newer state
	}
	t.failures++
	unchanged := t.Object.ResourceVersion == p.obj.ResourceVersion
	if stale && unchanged {
		t.unconfirmed = true
		st.delay(t, backoff(t.failures))
		return
	}
	st.remove(t)
	if unchanged {
		t.backoffEnd = time.Now().Add(backoff(t.failures))
	}
	st.place(t)
}

// delay places a task again after d.
func (st *state) delay(t *task, d time.Duration) {
	t.delayTimer = time.AfterFunc(d, func() {
		st.delayOver(t)
		st.retry()
	})
}

// delayOver places a task whose delay is over.
func (st *state) delayOver(t *task) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if t.delayTimer == nil {
		return
	}
	if t.unconfirmed {
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
		if t.delayTimer != nil {
			t.delayTimer.Stop()
		}
	}
}

// backoff returns the delay after so many consecutive failed bindings: one second, doubling up to ten.
func backoff(failures int) time.Duration {
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
	if old := t.queue; old.Name != t.Object.Spec.QueueName {
		t.setQueue(old.namespace.queue(t.Object.Spec.QueueName))
		old.namespace.pruneQueue(old)
	}
	if name := t.Object.Spec.WorkerName; name != "" {
		st.addToWorker(t, t.queue.namespace.workers.AddWorker(name))
		return
	}
	t.queue.pending.add((*pendingByAge)(t))
	until := t.evictionGraceEnd
	if t.backoffEnd.After(until) {
		until = t.backoffEnd
	}
	switch wait := time.Until(until); {
	case !framework.IsEligible(t.Object):
	case wait > 0:
		st.delay(t, wait)
	default:
		t.reported = reportedMessage(t.Object)
		t.queue.enqueue(t)
	}
}

func (st *state) cancelDelay(t *task) {
	if t.delayTimer != nil {
		t.delayTimer.Stop()
		t.delayTimer = nil
	}
}

// remove undoes place.
func (st *state) remove(t *task) {
	st.cancelDelay(t)
	if t.class != nil {
		t.queue.dequeue(t)
	}
	if t.worker != nil {
		st.removeFromWorker(t)
	} else {
		st.removePending(t)
	}
}

func (st *state) drop(t *task) {
	st.remove(t)
	delete(st.tasks, toolscache.MetaObjectToName(t.Object))
	t.queue.namespace.pruneQueue(t.queue)
}

// removePending removes a task from the unbound tasks of its queue.
func (st *state) removePending(t *task) { t.queue.pending.remove((*pendingByAge)(t)) }

// addToWorker counts a task against its worker and its queue.
func (st *state) addToWorker(t *task, w *cache.Worker) {
	q := t.queue
	t.worker = w
	q.namespace.workers.AddTask(&t.TaskInfo, w)
	q.bound[t] = struct{}{}
	q.used.Add(t.Requests, 1)
	q.updateShare()
}

// assume counts a task against the worker that it is about to be bound to.
func (st *state) assume(t *task, w *cache.Worker) {
	t.queue.namespace.reservations.AddTask(&t.TaskInfo, &w.WorkerInfo) // before addToWorker changes the order of tasks
	st.addToWorker(t, w)
	t.assumed = true
}

// removeFromWorker undoes addToWorker.
func (st *state) removeFromWorker(t *task) {
	q, w := t.queue, t.worker
	t.worker, t.assumed, t.unconfirmed, t.evicting = nil, false, false, false
	q.namespace.reservations.RemoveTask(&t.TaskInfo)
	q.namespace.workers.RemoveTask(&t.TaskInfo, w)
	delete(q.bound, t)
	q.used.Add(t.Requests, -1)
	q.updateShare()
	q.activateWithinLimits()
	q.namespace.activateFitting(w)
	q.namespace.pruneWorker(w)
}

// reserve reserves room for tasks that have been unschedulable since before.
func (st *state) reserve(before time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, ns := range st.namespaces {
		ns.reserve(before)
	}
}

// tasksToEvict returns at most limit bound tasks of drained queues. It returns a task again only after evictionFailed or after
// the task was bound again.
func (st *state) tasksToEvict(limit int) []*batch.Task {
	st.mu.Lock()
	defer st.mu.Unlock()
	var due []*batch.Task
	for _, ns := range st.namespaces {
		for _, q := range ns.queues {
			if q.stop != batch.StopPolicyHoldAndDrain {
				continue
			}
			for t := range q.bound {
				if len(due) == limit {
					return due
				}
				if !t.assumed && !t.evicting && t.Object.DeletionTimestamp == nil {
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

// queueStatusesToWrite returns the queues whose status is not up to date, with the new status. It returns a queue at most once
// per interval.
func (st *state) queueStatusesToWrite(now time.Time, interval time.Duration) []*batch.TaskQueue {
	st.mu.Lock()
	defer st.mu.Unlock()
	var due []*batch.TaskQueue
	for _, ns := range st.namespaces {
		for _, q := range ns.queues {
			if q.obj == nil || now.Sub(q.statusWritten) < interval {
				continue
			}
			status := q.status()
			if equality.Semantic.DeepEqual(status, &q.obj.Status) {
				continue
			}
			q.statusWritten = now
			obj := q.obj.DeepCopy()
			obj.Status = *status
			due = append(due, obj)
		}
	}
	return due
}
