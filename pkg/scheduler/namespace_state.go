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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/tainttoleration"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerresources"
	"github.com/leat-dev/leat/pkg/scheduler/reservation"
)

// namespaceState is a namespace: its workers, the queues that share them, and the reservations of workers for tasks.
type namespaceState struct {
	state *state
	name  string

	workers      *cache.Cache
	reservations *reservation.Reservations

	queues map[string]*taskQueue
	active indexedHeap[*taskQueue] // the open queues with active classes
	// virtualTime is the virtual time of the queue that started a task last.
	virtualTime float64
	// sharesStale is set when the resources of the namespace have changed since the shares of the queues were computed.
	sharesStale bool
	// enqueued is set while the namespace is in state.active.
	enqueued bool
}

func newNamespaceState(st *state, name string) *namespaceState {
	score := workerresources.LeastAllocated
	if st.strategy == Pack {
		score = workerresources.MostAllocated
	}
	return &namespaceState{
		state: st, name: name, queues: map[string]*taskQueue{}, reservations: reservation.New(),
		workers: cache.New(score, tainttoleration.HasPreferNoSchedule),
	}
}

// wake makes state.next visit the namespace.
func (ns *namespaceState) wake() {
	if !ns.enqueued {
		ns.enqueued = true
		ns.state.active = append(ns.state.active, ns)
	}
}

// queue returns the queue with that name. It adds one if there is none.
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

// setWorkerState replaces the state of a worker.
func (ns *namespaceState) setWorkerState(w *cache.Worker, workerState framework.WorkerState) {
	ns.workers.SetState(w, workerState)
	ns.sharesStale = true
	if r := ns.reservations.OfWorker(&w.WorkerInfo); r != nil && !ns.fitsEmpty(r.Task, w) {
		ns.release(r)
	}
	ns.activateFitting(w)
	ns.pruneWorker(w)
}

// pruneWorker removes a worker that is neither registered nor has tasks.
func (ns *namespaceState) pruneWorker(w *cache.Worker) {
	ns.workers.Prune(w)
	ns.prune()
}

// pruneQueue removes a queue that has neither an object nor tasks.
func (ns *namespaceState) pruneQueue(q *taskQueue) {
	if q.obj == nil && len(q.pending) == 0 && len(q.bound) == 0 {
		delete(ns.queues, q.Name)
		ns.prune()
	}
}

// prune removes the namespace if it has neither workers nor queues.
func (ns *namespaceState) prune() {
	if ns.workers.Len() == 0 && len(ns.queues) == 0 {
		delete(ns.state.namespaces, ns.name)
	}
}

// next returns the first pending task that fits a worker, and that worker. It blocks the classes whose first task fits none.
func (ns *namespaceState) next(now time.Time) (*task, *cache.Worker) {
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
		var w *cache.Worker
		if q.exceededLimit(t) == "" {
			by, w = blockedByWorkers, ns.selectWorker(t)
		}
		if w == nil {
			q.block(class, by, now)
			ns.state.metrics.attempt(unschedulable, start)
			continue
		}
		class.blockedSince, class.message = time.Time{}, ""
		ns.virtualTime = max(ns.virtualTime, q.VirtualTime)
		q.VirtualTime += ns.workers.DominantShare(1, t.Requests) / q.weight
		return t, w
	}
	return nil, nil
}

// fits reports whether the worker can run the task now.
func (ns *namespaceState) fits(t *task, w *cache.Worker) bool {
	return ns.state.filters.Filter(&t.TaskInfo, &w.WorkerInfo) && ns.reservations.Admits(&t.TaskInfo, &w.WorkerInfo)
}

// fitsEmpty reports whether the worker could run the task if it had no other tasks.
func (ns *namespaceState) fitsEmpty(t *framework.TaskInfo, w *cache.Worker) bool {
	empty := w.WithoutTasks()
	return ns.state.filters.Filter(t, &empty)
}

// selectWorker returns the worker with the best score that fits the task, or nil. A worker with a PreferNoSchedule taint that the
// task does not tolerate comes last.
func (ns *namespaceState) selectWorker(t *task) *cache.Worker {
	fits := func(w *cache.Worker) bool { return ns.fits(t, w) }
	best := ns.workers.FirstPreferred(fits)
	if len(t.Object.Spec.Tolerations) > 0 {
		tolerated := ns.workers.FirstAvoided(func(w *cache.Worker) bool {
			return ns.fits(t, w) && tainttoleration.ToleratesPreferNoSchedule(&t.TaskInfo, &w.WorkerInfo)
		})
		if best == nil || tolerated != nil && tolerated.Score() < best.Score() {
			best = tolerated
		}
	}
	if best == nil {
		best = ns.workers.FirstAvoided(fits)
	}
	return best
}

// activateFitting activates the classes that only lack a worker and whose first task fits this one.
func (ns *namespaceState) activateFitting(w *cache.Worker) {
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
	room := max(1, ns.workers.Len()/workersPerReservation) - ns.reservations.Len()
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
				class.unsatisfiableAt != ns.workers.WorkersGeneration() {
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
	var best *cache.Worker
	unsatisfiable := true
	for _, w := range ns.workers.Workers() {
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
		t.class.unsatisfiableAt = ns.workers.WorkersGeneration()
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
	return ns.state.tasks[toolscache.MetaObjectToName(r.Task.Object)]
}

func (ns *namespaceState) workerOf(r *reservation.Reservation) *cache.Worker {
	return ns.workers.Worker(r.Worker.Name)
}
