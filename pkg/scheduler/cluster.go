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
	"cmp"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// endTime is how long a task that was taken from a live worker is not given to another: the worker has to learn of it, and
// then kills the command at once.
const endTime = 5 * time.Second

// endedReasons are the reasons of evictions of which the command is known to have ended, or of which nobody can know: the worker
// itself has given the task back, or is lost, and fenced.
var endedReasons = []string{"WorkerStopped", "WorkerRestarted", "WorkerLost"}

// cluster is the scheduler's view of all unfinished tasks, all workers and all queues: what the informers showed last, and on top
// of it the bindings that were sent and not shown yet. Its methods are safe for concurrent use and do no I/O.
//
// Namespaces share nothing, and are decided for in turn.
type cluster struct {
	strategy Strategy
	metrics  *metrics
	// retry is called, from a goroutine of its own, when a task may be tried again that was held back.
	retry func()

	mu     sync.Mutex
	tasks  map[cache.ObjectName]*task
	spaces map[string]*space
	active []*space // those with something to decide, in turn
	// watching says that tasks that are new to the cluster are new, too.
	watching bool
}

// task is in one of three states: waiting (class is set), on a worker (worker is set), or neither: it is not eligible, or held
// back.
type task struct {
	obj      *batch.Task // read only
	requests amounts
	names    []batch.ResourceName // of requests, sorted
	queue    *taskQueue
	class    *class
	worker   *worker
	alone    bool      // whether it runs alone on its worker, or is to
	assumed  bool      // the binding to worker was sent, and the informer does not show it yet
	doubted  bool      // the binding was refused because of something that the informer does not show yet
	beside   *holdback // what the task was let in beside
	evicting bool
	since    time.Time // when it began to wait: was created, or evicted

	failures int       // bindings that failed in a row
	retryAt  time.Time // after a failed binding
	endsBy   time.Time // when its command has ended on the worker it was taken from
	held     *time.Timer
	reported string // the unschedulable message that the task carries

	index, elderIndex int
}

func (t *task) place() *int { return &t.index }

// before is the order of starting the tasks of a namespace: priority, then what share the queue has and what it was served, then
// age, then name. Within a queue it does not change.
func (t *task) before(o *task) bool {
	if t.obj.Spec.Priority != o.obj.Spec.Priority {
		return t.obj.Spec.Priority > o.obj.Spec.Priority
	}
	if a, b := t.queue, o.queue; a != b {
		if a.share != b.share {
			return a.share < b.share
		}
		if a.served != b.served {
			return a.served < b.served
		}
	}
	return t.older(o)
}

func (t *task) older(o *task) bool {
	if !t.obj.CreationTimestamp.Equal(&o.obj.CreationTimestamp) {
		return t.obj.CreationTimestamp.Before(&o.obj.CreationTimestamp)
	}
	return cmp.Compare(t.obj.Name, o.obj.Name) < 0
}

// placement is a decision: a task, and the worker that is to take it.
type placement struct {
	task   *task
	obj    *batch.Task
	target batch.BindingTarget
	since  time.Time // when the task began to wait
}

func newCluster(strategy Strategy, retry func()) *cluster {
	return &cluster{
		strategy: strategy, metrics: newMetrics(), retry: retry,
		tasks: map[cache.ObjectName]*task{}, spaces: map[string]*space{},
	}
}

// watch says that all that was there has been shown.
func (c *cluster) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = true
}

// setTask takes in what the informer shows of a task.
func (c *cluster) setTask(obj *batch.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := cache.MetaObjectToName(obj)
	t := c.tasks[name]
	if t != nil && t.obj.UID != obj.UID {
		c.drop(t)
		t = nil
	}
	if finished(obj) {
		if t != nil {
			c.drop(t)
		}
		return
	}
	switch {
	case t == nil:
		t = &task{obj: obj, requests: requestsOf(obj), queue: c.space(obj.Namespace).queue(obj.Spec.QueueName), since: obj.CreationTimestamp.Time}
		t.names = slices.Sorted(maps.Keys(t.requests))
		if c.watching {
			t.since = time.Now()
		}
		if at, reason := evicted(obj); obj.Spec.WorkerName == "" && !slices.Contains(endedReasons, reason) {
			t.endsBy = at.Add(endTime)
		}
		c.tasks[name] = t
	case t.assumed && !t.doubted && obj.Spec.WorkerName == "" && obj.Status.Disruptions == t.obj.Status.Disruptions:
		// The view from before the binding. Had the task been bound and evicted since, that would have been counted.
		t.obj = obj
		return
	case t.worker != nil && t.worker.name.Name == obj.Spec.WorkerName && t.queue.name == obj.Spec.QueueName && t.alone == runsAlone(obj):
		c.unhold(t)
		t.obj, t.assumed, t.doubted, t.failures = obj, false, false, 0
		return
	case t.worker == nil && waitsAlike(t, obj):
		c.refresh(t, obj)
		return
	default:
		if obj.Spec.WorkerName == "" && obj.Status.Disruptions > t.obj.Status.Disruptions {
			c.takenAway(t, obj)
		}
		c.withdraw(t)
		t.obj, t.retryAt = obj, time.Time{}
	}
	c.settle(t)
}

// waitsAlike reports whether an unbound task waits as it did before, for the same workers in the same queue. A status or label
// update, the scheduler's own report among them, must not cost it what it has gained by waiting: the room that is kept for it,
// how long it was stuck, and the delay after a failed binding.
func waitsAlike(t *task, obj *batch.Task) bool {
	old := t.obj
	return obj.Spec.WorkerName == "" && eligible(obj) == eligible(old) && obj.Status.Disruptions == old.Status.Disruptions &&
		obj.Spec.QueueName == old.Spec.QueueName && classKey(obj, t.requests, t.names) == classKey(old, t.requests, t.names)
}

// refresh replaces the object of a task for which waitsAlike holds.
func (c *cluster) refresh(t *task, obj *batch.Task) {
	moved := obj.Spec.Priority != t.obj.Spec.Priority
	t.obj = obj
	if t.class == nil {
		return
	}
	t.reported = unschedulableMessage(obj)
	if moved {
		t.queue.reorder(t)
	}
}

// evicted gives when and why an unbound task was taken from its worker, nothing if it was not.
func evicted(obj *batch.Task) (at time.Time, reason string) {
	if c := meta.FindStatusCondition(obj.Status.Conditions, batch.DisruptionTarget); c != nil && c.Status == metav1.ConditionTrue {
		return c.LastTransitionTime.Time, c.Reason
	}
	return time.Time{}, ""
}

// takenAway notes until when the command may still run of a task that is shown to be evicted.
func (c *cluster) takenAway(t *task, obj *batch.Task) {
	_, reason := evicted(obj)
	c.metrics.requeue(reason)
	t.since = time.Now()
	w := t.worker
	if w != nil && w.ready && (t.assumed || w.incarnation == t.obj.Status.Incarnation) && !slices.Contains(endedReasons, reason) {
		t.endsBy = t.since.Add(endTime)
	}
}

// deleteTask forgets a task that is gone or finished.
func (c *cluster) deleteTask(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tasks[name]; t != nil {
		c.drop(t)
	}
}

// setWorker takes in what the informer shows of a worker.
func (c *cluster) setWorker(obj *batch.Worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sp := c.space(obj.Namespace)
	w := sp.worker(obj.Name)
	w.obj = obj
	if o := offerOf(obj); !reflect.DeepEqual(w.offer, o) {
		sp.setOffer(w, o)
	}
}

// deleteWorker takes in that a worker is gone. The tasks on it stay counted until somebody evicts them.
func (c *cluster) deleteWorker(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sp := c.spaces[name.Namespace]; sp != nil && sp.workers[name.Name] != nil {
		w := sp.workers[name.Name]
		w.obj = nil
		sp.setOffer(w, offer{})
	}
}

// setQueue takes in what the informer shows of a queue.
func (c *cluster) setQueue(obj *batch.TaskQueue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.space(obj.Namespace).queue(obj.Name)
	if q.obj == nil || q.obj.UID != obj.UID || !older(obj, q.obj) {
		q.setRules(obj)
	}
}

// wroteQueue takes in the answer to a write of a queue, of which the informer may tell later, or has told more already.
func (c *cluster) wroteQueue(obj *batch.TaskQueue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sp := c.spaces[obj.Namespace]
	if sp == nil || sp.queues[obj.Name] == nil {
		return
	}
	if q := sp.queues[obj.Name]; q.obj != nil && q.obj.UID == obj.UID && older(q.obj, obj) {
		q.setRules(obj)
	}
}

// older says whether a is an earlier state of the same object than b.
func older(a, b *batch.TaskQueue) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

// deleteQueue takes in that the object of a queue is gone: the queue has default values then.
func (c *cluster) deleteQueue(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sp := c.spaces[name.Namespace]; sp != nil && sp.queues[name.Name] != nil {
		q := sp.queues[name.Name]
		q.setRules(nil)
		sp.tidyQueue(q)
	}
}

// next takes the first task that fits a worker out of those that wait, and assumes it there. The caller sends the
// binding and reports a failure with failed.
func (c *cluster) next(now time.Time) (placement, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.active) > 0 {
		sp := c.active[0]
		c.active = c.active[1:]
		t, w := sp.next(now)
		if t == nil {
			sp.listed = false
			continue
		}
		c.active = append(c.active, sp)
		t.queue.dequeue(t)
		c.unlist(t)
		c.charge(t, w)
		t.assumed = true
		target := batch.BindingTarget{Name: w.obj.Name, UID: w.obj.UID, Incarnation: w.incarnation}
		return placement{task: t, obj: t.obj, target: target, since: t.since}, true
	}
	c.active = nil
	return placement{}, false
}

// failed takes back what next assumed. A task that has changed since is tried again at once, another when it changes, or
// after a delay. If the task is not as it is shown, the place stays taken until the informer has caught up: another scheduler may
// have bound the task, there or elsewhere, and used up what its queue may run.
func (c *cluster) failed(p placement, stale bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := p.task
	if !t.assumed {
		return // what the informer showed meanwhile counts more
	}
	t.failures++
	unchanged := t.obj.ResourceVersion == p.obj.ResourceVersion
	if stale && unchanged {
		t.doubted = true
		c.hold(t, holdTime(t.failures))
		return
	}
	c.withdraw(t)
	if unchanged {
		t.retryAt = time.Now().Add(holdTime(t.failures))
	}
	c.settle(t)
}

// hold has a task settled anew after a time.
func (c *cluster) hold(t *task, d time.Duration) {
	t.held = time.AfterFunc(d, func() {
		c.release(t)
		c.retry()
	})
}

// release ends the time that a task is held back.
func (c *cluster) release(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.held == nil {
		return
	}
	if t.doubted {
		// Nothing was shown, so it is the task itself that cannot be bound: others come first.
		t.retryAt = time.Now().Add(holdTime(t.failures))
	}
	c.withdraw(t)
	c.settle(t)
}

// stop ends what the cluster would still do on its own.
func (c *cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tasks {
		if t.held != nil {
			t.held.Stop()
		}
	}
}

// holdTime is how long a task is held back whose binding has failed so often: one second, doubling to ten.
func holdTime(failures int) time.Duration {
	return min(time.Second<<min(failures-1, 4), 10*time.Second)
}

func (c *cluster) space(name string) *space {
	sp := c.spaces[name]
	if sp == nil {
		sp = newSpace(c, name)
		c.spaces[name] = sp
	}
	return sp
}

// settle puts a task that is nowhere to where its object says.
func (c *cluster) settle(t *task) {
	if old := t.queue; old.name != t.obj.Spec.QueueName {
		t.queue = old.space.queue(t.obj.Spec.QueueName)
		old.space.tidyQueue(old)
	}
	t.alone = runsAlone(t.obj)
	if name := t.obj.Spec.WorkerName; name != "" {
		c.charge(t, t.queue.space.worker(name))
		return
	}
	t.queue.pending.add((*elder)(t))
	until := t.endsBy
	if t.retryAt.After(until) {
		until = t.retryAt
	}
	switch wait := time.Until(until); {
	case !eligible(t.obj):
	case wait > 0:
		c.hold(t, wait)
	default:
		t.reported = unschedulableMessage(t.obj)
		t.queue.enqueue(t)
	}
}

func (c *cluster) unhold(t *task) {
	if t.held != nil {
		t.held.Stop()
		t.held = nil
	}
}

// withdraw takes a task from where it is.
func (c *cluster) withdraw(t *task) {
	c.unhold(t)
	if t.class != nil {
		t.queue.dequeue(t)
	}
	if t.worker != nil {
		c.discharge(t)
	} else {
		c.unlist(t)
	}
}

func (c *cluster) drop(t *task) {
	c.withdraw(t)
	delete(c.tasks, cache.MetaObjectToName(t.obj))
	t.queue.space.tidyQueue(t.queue)
}

// unlist takes a task from the unbound ones of its queue.
func (c *cluster) unlist(t *task) { t.queue.pending.remove((*elder)(t)) }

// charge has a task take its part of a worker and of its queue's share.
func (c *cluster) charge(t *task, w *worker) {
	q := t.queue
	t.worker = w
	w.tasks++
	if t.alone {
		w.suspects++
	}
	w.used.add(t.requests, 1)
	q.space.arrange(w)
	q.bound[t] = struct{}{}
	q.used.add(t.requests, 1)
	q.reshare()
}

// discharge is the opposite of charge.
func (c *cluster) discharge(t *task) {
	q, w := t.queue, t.worker
	t.worker, t.assumed, t.doubted, t.evicting = nil, false, false, false
	if t.beside != nil {
		t.beside.tasks--
		t.beside.used.add(t.requests, -1)
		t.beside = nil
	}
	w.tasks--
	if t.alone {
		w.suspects--
	}
	w.used.add(t.requests, -1)
	q.space.arrange(w)
	delete(q.bound, t)
	q.used.add(t.requests, -1)
	q.reshare()
	q.recheckLimits()
	q.space.roomOn(w)
	q.space.tidyWorker(w)
}

// holdBack keeps room for what was blocked since before.
func (c *cluster) holdBack(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sp := range c.spaces {
		sp.holdBack(before)
	}
}

// drained are at most limit tasks that are to be evicted for their queues, each given once until evictionFailed is called or it is
// bound anew.
func (c *cluster) drained(limit int) []*batch.Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []*batch.Task
	for _, sp := range c.spaces {
		for _, q := range sp.queues {
			if q.stop != batch.StopPolicyHoldAndDrain {
				continue
			}
			for t := range q.bound {
				if len(due) == limit {
					return due
				}
				if !t.assumed && !t.evicting && t.obj.DeletionTimestamp == nil {
					t.evicting = true
					due = append(due, t.obj)
				}
			}
		}
	}
	return due
}

// evictionFailed takes in that a task was not evicted.
func (c *cluster) evictionFailed(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tasks[name]; t != nil {
		t.evicting = false
	}
}

// statuses are the queues whose objects do not say what they should, with the status that they should have. Each is given at
// most once in so long.
func (c *cluster) statuses(now time.Time, interval time.Duration) []*batch.TaskQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []*batch.TaskQueue
	for _, sp := range c.spaces {
		for _, q := range sp.queues {
			if q.obj == nil || now.Sub(q.wrote) < interval {
				continue
			}
			status := q.status()
			if equality.Semantic.DeepEqual(status, &q.obj.Status) {
				continue
			}
			q.wrote = now
			obj := q.obj.DeepCopy()
			obj.Status = *status
			due = append(due, obj)
		}
	}
	return due
}
