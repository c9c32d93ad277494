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
	"slices"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/third_party/forked/golang/btree"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/tainttoleration"
)

// space is a namespace: its workers, and its queues, which share them.
type namespaceState struct {
	cache   *cache
	name    string
	workers map[string]*worker
	// total is what the registered workers have.
	total framework.Resources
	// free are the workers that have a place left, the best first: those without a taint that tasks should rather avoid, and
	// those with one.
	free, avoided *btree.BTree[*worker]

	queues map[string]*taskQueue
	active indexedHeap[*taskQueue] // those that are open and have active classes
	// clock is how far the queues have been served that were, as far as they wait.
	virtualTime float64
	// unshared says that the total has changed since the shares were counted.
	sharesStale bool
	enqueued    bool // in the cluster's list of spaces to decide for

	reservedWorkers   int    // how many workers are held back
	workersGeneration uint64 // goes up with each change of an offer
	generation        uint64 // goes up with each change that can change what tasks are told
}

// worker is what is known of a worker, and what the tasks on it take. It exists while it is registered or has tasks.
type worker struct {
	framework.WorkerInfo
	name        toolscache.ObjectName
	reservation *reservation // nil unless the worker is reserved
	// tree is the one of the space's trees that the worker is in, sorted by rank.
	tree  *btree.BTree[*worker]
	score float64
}

// load is what part of the worker is taken, over all its resources alike.
func (w *worker) utilization() float64 {
	sum, n := 0.0, 0
	for name, has := range w.Allocatable {
		if has <= 0 {
			continue
		}
		used := w.Used[name]
		if name == batch.ResourceTasks {
			used = w.Tasks
		}
		sum += float64(used) / float64(has)
		n++
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// holdback keeps a worker for a class that was blocked for long: those that come after the class leave it the room that its first
// task needs, as tasks end that were there before.
type reservation struct {
	class  *equivalenceClass
	worker *worker
	// tasks and used are what tasks take that came after the class and were let in since.
	tasks int64
	used  framework.Resources
}

// leaves says whether a task leaves the worker to the class: it comes first itself, or there is room for both.
func (h *reservation) admits(t *task) bool {
	first := h.class.tasks[0]
	switch {
	case t.class == h.class || t.before(first):
		return true
	case t.Alone || first.Alone: // which takes all of the worker
		return false
	}
	has := h.worker.Allocatable
	return has[batch.ResourceTasks]-h.tasks >= 2 && !slices.ContainsFunc(first.ResourceNames, func(name batch.ResourceName) bool {
		return has[name]-h.used[name]-t.Requests[name] < first.Requests[name]
	})
}

func newNamespaceState(c *cache, name string) *namespaceState {
	byScore := func(a, b *worker) bool {
		if a.score != b.score {
			return a.score < b.score
		}
		return a.name.Name < b.name.Name
	}
	return &namespaceState{
		cache: c, name: name, workers: map[string]*worker{}, total: framework.Resources{}, queues: map[string]*taskQueue{},
		free: btree.New(16, byScore), avoided: btree.New(16, byScore),
	}
}

// wake has the cluster decide for the space.
func (ns *namespaceState) wake() {
	if !ns.enqueued {
		ns.enqueued = true
		ns.cache.active = append(ns.cache.active, ns)
	}
}

// dominant is the greatest part of the total that so many tasks with these requests take, over all resources.
func (ns *namespaceState) dominantShare(tasks int64, used framework.Resources) float64 {
	share := 0.0
	if has := ns.total[batch.ResourceTasks]; has > 0 {
		share = float64(tasks) / float64(has)
	}
	for name, amount := range used {
		if has := ns.total[name]; has > 0 {
			share = max(share, float64(amount)/float64(has))
		}
	}
	return share
}

// worker returns the worker of that name, a new one if need be.
func (ns *namespaceState) worker(name string) *worker {
	w := ns.workers[name]
	if w == nil {
		w = &worker{name: toolscache.ObjectName{Namespace: ns.name, Name: name}}
		w.Used = framework.Resources{}
		ns.workers[name] = w
	}
	return w
}

// queue returns the queue of that name, a new one if need be.
func (ns *namespaceState) queue(name string) *taskQueue {
	q := ns.queues[name]
	if q == nil {
		q = &taskQueue{
			namespace: ns, QueueInfo: framework.QueueInfo{Name: name}, bound: map[*task]struct{}{}, used: framework.Resources{}, classes: map[string]*equivalenceClass{}, blocked: map[*equivalenceClass]struct{}{},
		}
		q.queueSpec = queueSpecOf(&batch.TaskQueueSpec{})
		ns.queues[name] = q
	}
	return q
}

// setOffer takes in what a worker has to offer.
func (ns *namespaceState) setWorkerState(w *worker, state framework.WorkerState) {
	ns.total.Add(w.Allocatable, -1)
	ns.total.Add(state.Allocatable, 1)
	w.WorkerState = state
	ns.sharesStale = true
	ns.workersGeneration++
	if w.reservation != nil && !ns.fitsEmpty(w.reservation.class.tasks[0], w) {
		ns.releaseReservation(w.reservation)
	}
	ns.updateScore(w)
	ns.activateFitting(w)
	ns.tidyWorker(w)
}

// arrange puts a worker where it belongs by its load.
func (ns *namespaceState) updateScore(w *worker) {
	ns.generation++
	if w.tree != nil {
		w.tree.Delete(w)
		w.tree = nil
	}
	if !w.AcceptsTasks() {
		return
	}
	w.score = w.utilization()
	if ns.cache.strategy == Pack {
		w.score = -w.score
	}
	w.tree = ns.free
	if tainttoleration.HasPreferNoSchedule(&w.WorkerInfo) {
		w.tree = ns.avoided
	}
	w.tree.ReplaceOrInsert(w)
}

// tidyWorker forgets a worker that is neither registered nor has tasks.
func (ns *namespaceState) tidyWorker(w *worker) {
	if !w.Registered && w.Tasks == 0 {
		delete(ns.workers, w.name.Name)
		ns.tidy()
	}
}

// tidyQueue forgets a queue that has neither an object nor tasks.
func (ns *namespaceState) tidyQueue(q *taskQueue) {
	if q.obj == nil && len(q.pending) == 0 && len(q.bound) == 0 {
		delete(ns.queues, q.Name)
		ns.tidy()
	}
}

func (ns *namespaceState) tidy() {
	if len(ns.workers) == 0 && len(ns.queues) == 0 {
		delete(ns.cache.namespaces, ns.name)
	}
}

// next takes the first task that fits a worker out of those that wait, and charges it to the worker.
func (ns *namespaceState) next(now time.Time) (*task, *worker) {
	if ns.sharesStale {
		ns.sharesStale = false
		for _, q := range ns.queues {
			q.updateShare()
		}
	}
	for len(ns.active) > 0 {
		start := time.Now()
		q := ns.active[0]
		class := q.active[0]
		t := class.tasks[0]
		by := blockedByLimits
		var w *worker
		if q.exceededLimit(t) == "" {
			by, w = blockedByWorkers, ns.selectWorker(t)
		}
		if w == nil {
			q.block(class, by, now)
			ns.cache.metrics.attempt(unschedulable, start)
			continue
		}
		q.releaseReservations(class)
		ns.virtualTime = max(ns.virtualTime, q.VirtualTime)
		q.VirtualTime += ns.dominantShare(1, t.Requests) / q.weight
		if h := w.reservation; h != nil && !t.before(h.class.tasks[0]) {
			t.admittedBeside = h
			h.tasks++
			h.used.Add(t.Requests, 1)
		}
		return t, w
	}
	return nil, nil
}

// fits reports whether the worker can run the task now.
func (ns *namespaceState) fits(t *task, w *worker) bool {
	return ns.cache.filters.Filter(&t.TaskInfo, &w.WorkerInfo) && (w.reservation == nil || w.reservation.admits(t))
}

// fitsEmpty reports whether the worker could run the task if it had no other tasks.
func (ns *namespaceState) fitsEmpty(t *task, w *worker) bool {
	empty := w.WithoutTasks()
	return ns.cache.filters.Filter(&t.TaskInfo, &empty)
}

// selectWorker returns the worker with the best score that fits the task, or nil. A worker with a PreferNoSchedule taint that the
// task does not tolerate comes last.
func (ns *namespaceState) selectWorker(t *task) *worker {
	fitting := func(tree *btree.BTree[*worker], more func(*worker) bool) (found *worker) {
		tree.Ascend(func(w *worker) bool {
			if ns.fits(t, w) && (more == nil || more(w)) {
				found = w
			}
			return found == nil
		})
		return found
	}
	best := fitting(ns.free, nil)
	if ns.avoided.Len() == 0 {
		return best
	}
	if len(t.Object.Spec.Tolerations) > 0 {
		tolerated := fitting(ns.avoided, func(w *worker) bool {
			return tainttoleration.ToleratesPreferNoSchedule(&t.TaskInfo, &w.WorkerInfo)
		})
		if best == nil || tolerated != nil && tolerated.score < best.score {
			best = tolerated
		}
	}
	if best == nil {
		best = fitting(ns.avoided, nil)
	}
	return best
}

// roomOn has the classes tried again that a worker can have room for now.
func (ns *namespaceState) activateFitting(w *worker) {
	if !w.AcceptsTasks() {
		return
	}
	for _, q := range ns.queues {
		for class := range q.blocked {
			if class.blockedBy == blockedByWorkers && ns.fits(class.tasks[0], w) {
				q.activate(class)
			}
		}
	}
}

// keepers bounds how many workers of a space are held back at a time: one in so many, but at least one.
const workersPerReservation = 4

// scans bounds how many classes a worker is looked for each time that workers are held back.
const classesPerReservation = 16

// holdBack keeps workers, and room within the limits of queues, for classes that were blocked since before.
func (ns *namespaceState) reserve(before time.Time) {
	ns.reserveWorkers(before)
	for _, q := range ns.queues {
		q.reserveWithinLimits(before)
	}
}

// keepWorkers keeps workers for classes that were blocked since before, in their order. Classes that would not fit an empty worker
// get none.
func (ns *namespaceState) reserveWorkers(before time.Time) {
	var stuck []*equivalenceClass
	var kept []*worker
	for _, q := range ns.queues {
		moves := q.startsTasks(before)
		for class := range q.blocked {
			switch waits := moves && class.blockedBy == blockedByWorkers && !class.blockedSince.After(before); {
			case class.reservation != nil && (!waits || !ns.fitsEmpty(class.tasks[0], class.reservation.worker)):
				ns.releaseReservation(class.reservation)
			case class.reservation != nil:
				kept = append(kept, class.reservation.worker)
			case waits && class.unsatisfiableAt != ns.workersGeneration:
				stuck = append(stuck, class)
			}
		}
	}
	// Shares change all the time, and with them which tasks of other queues come before the one that a worker is held back for.
	for _, w := range kept {
		ns.activateFitting(w)
	}
	room := max(1, len(ns.workers)/workersPerReservation) - ns.reservedWorkers
	if len(stuck) == 0 || room <= 0 {
		return
	}
	slices.SortFunc(stuck, func(a, b *equivalenceClass) int {
		if a.tasks[0].before(b.tasks[0]) {
			return -1
		}
		return 1
	})
	for i := 0; i < len(stuck) && i < classesPerReservation && room > 0; i++ {
		if ns.reserveWorkerFor(stuck[i]) {
			room--
		}
	}
}

// keepFor holds back the worker with the fewest tasks that could take the class once it is empty.
func (ns *namespaceState) reserveWorkerFor(class *equivalenceClass) bool {
	var best *worker
	unsatisfiable := true
	for _, w := range ns.workers {
		if !ns.fitsEmpty(class.tasks[0], w) {
			continue
		}
		unsatisfiable = false
		if w.reservation == nil && (best == nil || cmp.Or(cmp.Compare(w.Tasks, best.Tasks), cmp.Compare(w.name.Name, best.name.Name)) < 0) {
			best = w
		}
	}
	if unsatisfiable {
		class.unsatisfiableAt = ns.workersGeneration
	}
	if best == nil {
		return false
	}
	class.reservation = &reservation{class: class, worker: best, used: framework.Resources{}}
	best.reservation = class.reservation
	ns.reservedWorkers++
	return true
}

// release lets all tasks have a worker that was held back.
func (ns *namespaceState) releaseReservation(h *reservation) {
	h.worker.reservation, h.class.reservation = nil, nil
	ns.reservedWorkers--
	ns.activateFitting(h.worker)
}
