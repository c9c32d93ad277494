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
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// cluster is the scheduler's view of all unfinished tasks and all workers: what the informers showed last, and on top of
// it the bindings that were sent and not shown yet. Its methods are safe for concurrent use and do no I/O.
//
// Tasks that wait are kept by class: tasks of one namespace that ask for the same. When the first of a class fits no worker, none
// of it does, so the class is blocked as a whole until something in its namespace can have made room. An event thus costs
// one try per class, however many tasks wait.
type cluster struct {
	mu      sync.Mutex
	tasks   map[cache.ObjectName]*task
	workers map[string]map[string]*worker // by namespace and name
	classes map[string]*class
	active  queue[*class]                  // classes that are not blocked
	blocked map[string]map[*class]struct{} // by namespace
}

// task is in one of three states: waiting (class is set), on a worker (worker is set), or neither: it is not eligible, or held
// back after a binding failed.
type task struct {
	obj      *batch.Task // read only
	requests amounts
	names    []batch.ResourceName // of requests, sorted
	class    *class
	index    int
	worker   *worker
	assumed  bool // the binding to worker was sent, and the informer does not show it yet
	failures int  // bindings that failed in a row
	held     *time.Timer
	reported string // the unschedulable message that the task carries
}

func (t *task) place() *int { return &t.index }

// before is the order of scheduling: priority, then age, then name.
func (t *task) before(o *task) bool {
	if t.obj.Spec.Priority != o.obj.Spec.Priority {
		return t.obj.Spec.Priority > o.obj.Spec.Priority
	}
	if !t.obj.CreationTimestamp.Equal(&o.obj.CreationTimestamp) {
		return t.obj.CreationTimestamp.Before(&o.obj.CreationTimestamp)
	}
	return cmp.Or(cmp.Compare(t.obj.Name, o.obj.Name), cmp.Compare(t.obj.Namespace, o.obj.Namespace)) < 0
}

// class holds the waiting tasks that every worker accepts or refuses alike. It exists while it has tasks.
type class struct {
	key        string
	namespace  string
	tasks      queue[*task]
	index      int
	blocked    bool
	stuckSince time.Time // when a try failed first with none that succeeded since; zero if none failed
}

func (c *class) place() *int          { return &c.index }
func (c *class) before(o *class) bool { return c.tasks[0].before(o.tasks[0]) }

// worker is what is known of a worker, and what the tasks on it take. It exists while it is registered or has tasks.
type worker struct {
	offer
	name  cache.ObjectName
	obj   *batch.Worker // read only; nil unless registered
	tasks int64
	used  amounts
}

func (w *worker) lacks(t *task, name batch.ResourceName) bool {
	return t.requests[name] > w.allocatable[name]-w.used[name]
}

// placement is a decision: a task, and the worker that is to take it.
type placement struct {
	task   *task
	obj    *batch.Task
	target batch.BindingTarget
}

func newCluster() *cluster {
	return &cluster{
		tasks:   map[cache.ObjectName]*task{},
		workers: map[string]map[string]*worker{},
		classes: map[string]*class{},
		blocked: map[string]map[*class]struct{}{},
	}
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
		t = &task{obj: obj, requests: requestsOf(obj)}
		t.names = slices.Sorted(maps.Keys(t.requests))
		c.tasks[name] = t
	case t.assumed && obj.Spec.WorkerName == "" && obj.Status.Disruptions == t.obj.Status.Disruptions:
		// The view from before the binding. Had the task been bound and evicted since, that would have been counted.
		t.obj = obj
		return
	case t.worker != nil && t.worker.name.Name == obj.Spec.WorkerName:
		t.obj, t.assumed, t.failures = obj, false, 0
		return
	default:
		c.withdraw(t)
		t.obj = obj
	}
	c.settle(t)
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
	w := c.worker(cache.MetaObjectToName(obj))
	offer := offerOf(obj)
	changed := !reflect.DeepEqual(w.offer, offer)
	w.obj, w.offer = obj, offer
	if changed {
		c.unblock(obj.Namespace)
	}
}

// deleteWorker takes in that a worker is gone. The tasks on it stay counted until somebody evicts them.
func (c *cluster) deleteWorker(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.workers[name.Namespace][name.Name]; w != nil {
		w.obj, w.offer = nil, offer{}
		c.tidy(w)
		c.unblock(name.Namespace) // nothing fits that did not before, but the tasks that wait say something else now
	}
}

// next takes the first task that fits a worker out of those that wait, and assumes it there. The caller sends the
// binding and reports a failure with failed.
func (c *cluster) next(now time.Time) (placement, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.active) > 0 {
		cl := c.active[0]
		t := cl.tasks[0]
		if w := c.choose(t); w != nil {
			cl.stuckSince = time.Time{}
			c.dequeue(t)
			c.charge(t, w)
			t.assumed = true
			target := batch.BindingTarget{Name: w.obj.Name, UID: w.obj.UID, Incarnation: w.incarnation}
			return placement{task: t, obj: t.obj, target: target}, true
		}
		c.active.remove(cl)
		cl.blocked = true
		if cl.stuckSince.IsZero() {
			cl.stuckSince = now
		}
		if c.blocked[cl.namespace] == nil {
			c.blocked[cl.namespace] = map[*class]struct{}{}
		}
		c.blocked[cl.namespace][cl] = struct{}{}
	}
	return placement{}, false
}

// anyBlocked says whether tasks wait that no worker can take.
func (c *cluster) anyBlocked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.blocked) > 0
}

// failed takes back what next assumed. A task that has changed since is tried again at once, another when it changes, or
// after a delay, when retry is called.
func (c *cluster) failed(p placement, retry func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := p.task
	if !t.assumed {
		return // what the informer showed meanwhile counts more
	}
	c.withdraw(t)
	t.failures++
	if t.obj.ResourceVersion == p.obj.ResourceVersion {
		t.held = time.AfterFunc(holdTime(t.failures), func() {
			c.release(t)
			retry()
		})
	}
	c.settle(t)
}

// release ends the time that a task is held back.
func (c *cluster) release(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.held != nil {
		t.held = nil
		c.settle(t)
	}
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

// settle puts a task that is nowhere to where its object says.
func (c *cluster) settle(t *task) {
	switch {
	case t.obj.Spec.WorkerName != "":
		c.charge(t, c.worker(cache.ObjectName{Namespace: t.obj.Namespace, Name: t.obj.Spec.WorkerName}))
	case t.held == nil && eligible(t.obj):
		t.reported = unschedulableMessage(t.obj)
		c.enqueue(t)
	}
}

// withdraw takes a task from where it is.
func (c *cluster) withdraw(t *task) {
	if t.held != nil {
		t.held.Stop()
		t.held = nil
	}
	if t.class != nil {
		c.dequeue(t)
	}
	if t.worker != nil {
		w := t.worker
		t.worker, t.assumed = nil, false
		w.tasks--
		for name, amount := range t.requests {
			w.used[name] -= amount
		}
		c.tidy(w)
		c.unblock(w.name.Namespace)
	}
}

func (c *cluster) drop(t *task) {
	c.withdraw(t)
	delete(c.tasks, cache.MetaObjectToName(t.obj))
}

func (c *cluster) charge(t *task, w *worker) {
	t.worker = w
	w.tasks++
	for name, amount := range t.requests {
		w.used[name] += amount
	}
}

func (c *cluster) choose(t *task) *worker {
	var best *worker
	for _, w := range c.workers[t.obj.Namespace] {
		if fits(t, w) && (best == nil || better(t, w, best)) {
			best = w
		}
	}
	return best
}

// worker returns the worker of that name, a new one if need be.
func (c *cluster) worker(name cache.ObjectName) *worker {
	if w := c.workers[name.Namespace][name.Name]; w != nil {
		return w
	}
	if c.workers[name.Namespace] == nil {
		c.workers[name.Namespace] = map[string]*worker{}
	}
	w := &worker{name: name, used: amounts{}}
	c.workers[name.Namespace][name.Name] = w
	return w
}

// tidy forgets a worker that is neither registered nor has tasks.
func (c *cluster) tidy(w *worker) {
	if w.registered || w.tasks > 0 {
		return
	}
	delete(c.workers[w.name.Namespace], w.name.Name)
	if len(c.workers[w.name.Namespace]) == 0 {
		delete(c.workers, w.name.Namespace)
	}
}

func (c *cluster) enqueue(t *task) {
	key := classKey(t)
	cl := c.classes[key]
	if cl == nil {
		cl = &class{key: key, namespace: t.obj.Namespace}
		c.classes[key] = cl
	}
	t.class = cl
	cl.tasks.add(t)
	switch {
	case cl.blocked:
	case len(cl.tasks) == 1:
		c.active.add(cl)
	default:
		c.active.fix(cl)
	}
}

func (c *cluster) dequeue(t *task) {
	cl := t.class
	t.class = nil
	last := len(cl.tasks) == 1
	switch {
	case last && cl.blocked:
		delete(c.blocked[cl.namespace], cl)
		if len(c.blocked[cl.namespace]) == 0 {
			delete(c.blocked, cl.namespace)
		}
	case last:
		c.active.remove(cl)
	}
	cl.tasks.remove(t)
	switch {
	case last:
		delete(c.classes, cl.key)
	case !cl.blocked:
		c.active.fix(cl)
	}
}

// unblock has every class of the namespace tried again.
func (c *cluster) unblock(namespace string) {
	for cl := range c.blocked[namespace] {
		cl.blocked = false
		c.active.add(cl)
	}
	delete(c.blocked, namespace)
}

// classKey is the same for tasks that every worker accepts or refuses alike.
func classKey(t *task) string {
	spec := &t.obj.Spec
	if len(t.names) == 0 && len(spec.WorkerSelector) == 0 && len(spec.Tolerations) == 0 {
		return t.obj.Namespace
	}
	var b strings.Builder
	b.WriteString(t.obj.Namespace)
	for _, name := range t.names {
		fmt.Fprintf(&b, " %q=%d", name, t.requests[name])
	}
	b.WriteString(" on")
	for _, key := range slices.Sorted(maps.Keys(spec.WorkerSelector)) {
		fmt.Fprintf(&b, " %q=%q", key, spec.WorkerSelector[key])
	}
	b.WriteString(" despite")
	for _, t := range spec.Tolerations {
		fmt.Fprintf(&b, " %q %q %q %q", t.Key, t.Operator, t.Value, t.Effect)
	}
	return b.String()
}

// report is a message that a task is to carry.
type report struct {
	task    *task
	obj     *batch.Task
	message string
}

// unreported are at most limit tasks that have been waiting in vain since before, and do not say so or say why they did
// earlier. more tells that others remain, or may come to be due.
func (c *cluster) unreported(before time.Time, limit int) (due []report, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for namespace, classes := range c.blocked {
		for cl := range classes {
			if cl.stuckSince.After(before) {
				more = true
				continue
			}
			message := explain(cl.tasks[0], c.workers[namespace])
			for _, t := range cl.tasks {
				if t.reported == message {
					continue
				}
				if len(due) == limit {
					return due, true
				}
				due = append(due, report{task: t, obj: t.obj, message: message})
			}
		}
	}
	return due, more
}

// reported takes in that a task carries a message.
func (c *cluster) reported(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.task.reported = r.message
}
