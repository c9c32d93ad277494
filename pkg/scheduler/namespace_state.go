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
	"github.com/leat-dev/leat/pkg/scheduler/reservation"
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

	reservations      *reservation.Reservations
	workersGeneration uint64 // goes up with each change of an offer
	generation        uint64 // goes up with each change that can change what tasks are told
}

// worker is what is known of a worker, and what the tasks on it take. It exists while it is registered or has tasks.
type worker struct {
	framework.WorkerInfo
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

func newNamespaceState(c *cache, name string) *namespaceState {
	byScore := func(a, b *worker) bool {
		if a.score != b.score {
			return a.score < b.score
		}
		return a.Name < b.Name
	}
	return &namespaceState{
		cache: c, name: name, workers: map[string]*worker{}, total: framework.Resources{}, queues: map[string]*taskQueue{},
		reservations: reservation.New(),
		free:         btree.New(16, byScore), avoided: btree.New(16, byScore),
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
		w = &worker{WorkerInfo: framework.WorkerInfo{Name: name, Used: framework.Resources{}}}
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
	if r := ns.reservations.OfWorker(&w.WorkerInfo); r != nil && !ns.fitsEmpty(r.Task, w) {
		ns.release(r)
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
		delete(ns.workers, w.Name)
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
		class.blockedSince, class.message = time.Time{}, ""
		ns.virtualTime = max(ns.virtualTime, q.VirtualTime)
		q.VirtualTime += ns.dominantShare(1, t.Requests) / q.weight
		return t, w
	}
	return nil, nil
}

// fits reports whether the worker can run the task now.
func (ns *namespaceState) fits(t *task, w *worker) bool {
	return ns.cache.filters.Filter(&t.TaskInfo, &w.WorkerInfo) && ns.reservations.Admits(&t.TaskInfo, &w.WorkerInfo)
}

// fitsEmpty reports whether the worker could run the task if it had no other tasks.
func (ns *namespaceState) fitsEmpty(t *framework.TaskInfo, w *worker) bool {
	empty := w.WithoutTasks()
	return ns.cache.filters.Filter(t, &empty)
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

// workersPerReservation bounds the reservations of a namespace: one for so many workers, but at least one.
const workersPerReservation = 4

// maxReservationAttempts bounds for how many classes reserveWorkers searches a worker.
const maxReservationAttempts = 16

// reserve reserves workers, and room within the limits of queues, for tasks of classes that have been blocked since before.
func (ns *namespaceState) reserve(before time.Time) {
	ns.reviewReservations(before)
	ns.reserveWorkers(before)
	for _, q := range ns.queues {
		q.reserveWithinLimits(before)
	}
}

// reviewReservations releases the reservations of tasks that cannot use them: their queue has started nothing since before, its
// limits block them, or their worker could not run them without other tasks either.
func (ns *namespaceState) reviewReservations(before time.Time) {
	for r := range ns.reservations.All() {
		t, w := ns.taskOf(r), ns.workerOf(r)
		if !t.queue.startsTasks(before) || t.class.blockedBy == blockedByLimits || !ns.fitsEmpty(r.Task, w) {
			ns.release(r)
			continue
		}
		// Shares change all the time, and with them which tasks are scheduled before the task of the reservation.
		ns.activateFitting(w)
	}
}

// reserveWorkers reserves a worker for the first task of each class that has been blocked since before, in the order of the tasks.
// It skips classes that have a reservation and those that no worker fits.
func (ns *namespaceState) reserveWorkers(before time.Time) {
	room := max(1, len(ns.workers)/workersPerReservation) - ns.reservations.Len()
	if room <= 0 {
		return
	}
	reserved := map[*equivalenceClass]bool{}
	for r := range ns.reservations.All() {
		reserved[ns.taskOf(r).class] = true
	}
	var starved []*task
	for _, q := range ns.queues {
		if !q.startsTasks(before) {
			continue
		}
		for class := range q.blocked {
			if class.blockedBy == blockedByWorkers && !class.blockedSince.After(before) && !reserved[class] &&
				class.unsatisfiableAt != ns.workersGeneration {
				starved = append(starved, class.tasks[0])
			}
		}
	}
	slices.SortFunc(starved, func(a, b *task) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	for i := 0; i < len(starved) && i < maxReservationAttempts && room > 0; i++ {
		if ns.reserveWorker(starved[i]) {
			room--
		}
	}
}

// reserveWorker reserves the worker with the fewest tasks that could run the task without them. It returns false if there is none.
func (ns *namespaceState) reserveWorker(t *task) bool {
	var best *worker
	unsatisfiable := true
	for _, w := range ns.workers {
		if !ns.fitsEmpty(&t.TaskInfo, w) {
			continue
		}
		unsatisfiable = false
		if ns.reservations.OfWorker(&w.WorkerInfo) == nil &&
			(best == nil || cmp.Or(cmp.Compare(w.Tasks, best.Tasks), cmp.Compare(w.Name, best.Name)) < 0) {
			best = w
		}
	}
	if unsatisfiable {
		t.class.unsatisfiableAt = ns.workersGeneration
	}
	if best == nil {
		return false
	}
	ns.reservations.Reserve(&t.TaskInfo, &best.WorkerInfo)
	return true
}

// release releases a reservation and activates the classes that may now have the worker.
func (ns *namespaceState) release(r *reservation.Reservation) {
	ns.reservations.Release(r)
	ns.activateFitting(ns.workerOf(r))
}

func (ns *namespaceState) taskOf(r *reservation.Reservation) *task {
	return ns.cache.tasks[toolscache.MetaObjectToName(r.Task.Object)]
}

func (ns *namespaceState) workerOf(r *reservation.Reservation) *worker {
	return ns.workers[r.Worker.Name]
}
