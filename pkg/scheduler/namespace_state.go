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

	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/tainttoleration"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerresources"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
	"github.com/leat-dev/leat/pkg/scheduler/reservation"
)

const (
	// workersPerReservation bounds the reservations of a namespace: one for so many workers, but at least one.
	workersPerReservation = 4
	// maxReservationAttempts bounds for how many tasks reserveWorkers searches a worker.
	maxReservationAttempts = 16
)

// namespaceState is a namespace: its workers, the queues that share them, and the reservations of workers for tasks.
type namespaceState struct {
	state        *state
	name         string
	workers      *cache.Cache
	queues       *queue.Queues
	reservations *reservation.Reservations
	// sharesStale is set when the resources of the namespace have changed since the shares of the queues were
	// computed.
	sharesStale bool
	// durations are how long the tasks of each controller run. prefetched are the bound tasks that have not started for
	// lack of a slot, as far as their status shows.
	durations  durations
	prefetched map[*task]struct{}
	// active is set while the namespace is in state.active.
	active bool
	// empty is the argument of the filters in fitsEmpty. It is kept here to save an allocation for each worker.
	empty framework.WorkerInfo
}

func newNamespaceState(st *state, name string) *namespaceState {
	score := workerresources.LeastAllocated
	if st.strategy == Pack {
		score = workerresources.MostAllocated
	}
	score = lowestOrdinal(score)
	ns := &namespaceState{
		state: st, name: name,
		workers:      cache.New(score, tainttoleration.HasPreferNoSchedule),
		reservations: reservation.New(),
		durations:    durations{},
		prefetched:   map[*task]struct{}{},
	}
	ns.queues = queue.New(queue.Options{
		Owner:           ns,
		DominantShare:   ns.workers.DominantShare,
		Sign:            st.filters.Sign,
		HasReservations: func() bool { return ns.reservations.Len() > 0 },
		OnActive:        ns.activate,
	})
	return ns
}

// lowestOrdinal returns a score that is that of other for workers outside of pools. The workers of pools come after
// them, and those with the lowest ordinals first: a pool is scaled in from the highest.
func lowestOrdinal(other func(*framework.WorkerInfo) float64) func(*framework.WorkerInfo) float64 {
	return func(w *framework.WorkerInfo) float64 {
		if w.PoolRank > 0 {
			return float64(w.PoolRank)
		}
		return other(w)
	}
}

// activate makes state.next visit the namespace.
func (ns *namespaceState) activate() {
	if !ns.active {
		ns.active = true
		ns.state.active = append(ns.state.active, ns)
	}
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
func (ns *namespaceState) pruneQueue(q *queue.Queue) {
	ns.queues.Prune(q)
	ns.prune()
}

// prune removes the namespace if it has neither workers nor queues.
func (ns *namespaceState) prune() {
	if ns.workers.Len() == 0 && len(ns.queues.All()) == 0 {
		delete(ns.state.namespaces, ns.name)
	}
}

// addToWorker counts a task against its worker and its queue.
func (ns *namespaceState) addToWorker(t *task, w *cache.Worker) {
	t.worker = w
	t.Short = ns.isShort(t.Object)
	ns.workers.AddTask(&t.TaskInfo, w)
	t.Queue.AddBound(&t.Task)
}

// removeFromWorker undoes addToWorker.
func (ns *namespaceState) removeFromWorker(t *task) {
	w := t.worker
	t.worker, t.evicting, t.returnAsked = nil, false, false
	t.boundAt, t.runningAt = time.Time{}, time.Time{}
	delete(ns.prefetched, t)
	ns.reservations.RemoveTask(&t.TaskInfo)
	ns.workers.RemoveTask(&t.TaskInfo, w)
	t.Queue.RemoveBound(&t.Task)
	ns.activateFitting(w)
	ns.pruneWorker(w)
}

// assume moves a pending task to the worker that it is about to be bound to.
func (ns *namespaceState) assume(t *task, w *cache.Worker) {
	ns.dequeue(t)
	t.Queue.RemovePending(&t.Task)
	ns.reservations.AddTask(&t.TaskInfo, &w.WorkerInfo) // before addToWorker changes the order of tasks
	ns.addToWorker(t, w)
	t.state = taskAssumed
}

// dequeue removes a pending task from its class and releases its reservation.
func (ns *namespaceState) dequeue(t *task) {
	t.Queue.Dequeue(&t.Task)
	if r := ns.reservations.OfTask(&t.TaskInfo); r != nil {
		ns.release(r)
	}
}

// reorder moves a pending task whose priority has changed. The task keeps its reservation.
func (ns *namespaceState) reorder(t *task) {
	t.Queue.Reorder(&t.Task)
	if r := ns.reservations.OfTask(&t.TaskInfo); r != nil {
		ns.activateFitting(ns.workerOf(r)) // the task may now be scheduled after tasks that had to leave it room
	}
}

// next returns the first pending task that fits a worker, or that may wait on one, and that worker. It blocks the
// classes whose first task fits none.
func (ns *namespaceState) next(now time.Time) (t *task, w *cache.Worker, prefetched bool) {
	if ns.sharesStale {
		ns.sharesStale = false
		ns.queues.UpdateShares()
	}
	for t := ns.queues.Head(); t != nil; t = ns.queues.Head() {
		start := time.Now()
		reason := queue.BlockedByLimits
		var w *cache.Worker
		prefetched := false
		if t.Queue.ExceededLimit(t) == "" {
			reason, w = queue.BlockedByWorkers, ns.selectWorker(&t.TaskInfo)
			if w == nil {
				w = ns.selectPrefetchWorker(t)
				prefetched = w != nil
			}
		}
		if w != nil {
			ns.queues.Start(t)
			return t.Owner.(*task), w, prefetched
		}
		t.Queue.Block(t, reason, now)
		if r := ns.reservations.OfTask(&t.TaskInfo); r != nil && reason == queue.BlockedByLimits {
			ns.release(r)
		}
		ns.state.metrics.attempt(unschedulable, start)
	}
	return nil, nil, false
}

// fits reports whether the worker can run the task now.
func (ns *namespaceState) fits(t *framework.TaskInfo, w *cache.Worker) bool {
	return ns.state.filters.Filter(t, &w.WorkerInfo) && ns.reservations.Admits(t, &w.WorkerInfo)
}

// fitsEmpty reports whether the worker could run the task if it had no other tasks.
func (ns *namespaceState) fitsEmpty(t *framework.TaskInfo, w *cache.Worker) bool {
	ns.empty = w.WithoutTasks()
	return ns.state.filters.Filter(t, &ns.empty)
}

// selectWorker returns the worker with the best score that fits the task, or nil. A worker with a PreferNoSchedule
// taint that the task does not tolerate comes last.
func (ns *namespaceState) selectWorker(t *framework.TaskInfo) *cache.Worker {
	fits := func(w *cache.Worker) bool { return ns.fits(t, w) }
	best := ns.workers.FirstPreferred(fits)
	if len(t.Object.Spec.Tolerations) > 0 {
		tolerated := ns.workers.FirstAvoided(func(w *cache.Worker) bool {
			return ns.fits(t, w) && tainttoleration.ToleratesPreferNoSchedule(t, &w.WorkerInfo)
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

// activateFitting activates the classes that only lack a worker and whose first task fits this one, or may wait on it.
func (ns *namespaceState) activateFitting(w *cache.Worker) {
	if w.AcceptsTasks() || w.AcceptsPrefetch() {
		ns.queues.ActivateFitting(func(t *queue.Task) bool {
			return ns.fits(&t.TaskInfo, w) || ns.canPrefetch(&t.TaskInfo) && ns.fitsPrefetch(&t.TaskInfo, w)
		})
	}
}

// reserve reserves workers, and room within the limits of queues, for tasks of classes that have been blocked since
// before.
func (ns *namespaceState) reserve(before time.Time) {
	ns.reviewReservations(before)
	ns.reserveWorkers(before)
	hasWorker := func(t *queue.Task) bool { return ns.reservations.OfTask(&t.TaskInfo) != nil }
	for _, q := range ns.queues.All() {
		q.ReserveWithinLimits(before, hasWorker)
	}
}

// reviewReservations releases the reservations of tasks that cannot use them: their queue has started nothing since
// before, its limits block them, or their worker could not run them without other tasks either.
func (ns *namespaceState) reviewReservations(before time.Time) {
	for r := range ns.reservations.All() {
		t, w := ns.state.taskOf(r.Task), ns.workerOf(r)
		if !t.Queue.StartsTasks(before) || t.Class().BlockedBy() == queue.BlockedByLimits || !ns.fitsEmpty(r.Task, w) {
			ns.release(r)
			continue
		}
		// Shares change all the time, and with them which tasks are scheduled before the task of the
		// reservation.
		ns.activateFitting(w)
	}
}

// reserveWorkers reserves a worker for the first task of each class that has been blocked since before, in the order of
// the tasks. It skips classes that have a reservation and those that no worker can satisfy.
func (ns *namespaceState) reserveWorkers(before time.Time) {
	room := max(1, ns.workers.Len()/workersPerReservation) - ns.reservations.Len()
	if room <= 0 {
		return
	}
	reserved := map[*queue.Class]bool{}
	for r := range ns.reservations.All() {
		reserved[ns.state.taskOf(r.Task).Class()] = true
	}
	var starved []*queue.Task
	for _, q := range ns.queues.All() {
		for t := range q.Starved(before, ns.workers.WorkersGeneration()) {
			if !reserved[t.Class()] {
				starved = append(starved, t)
			}
		}
	}
	slices.SortFunc(starved, func(a, b *queue.Task) int {
		if a.Before(&b.TaskInfo) {
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

// reserveWorker reserves the worker with the fewest tasks that could run the task without them. It returns false if
// there is none.
func (ns *namespaceState) reserveWorker(t *queue.Task) bool {
	var best *cache.Worker
	satisfiable := false
	for _, w := range ns.workers.Workers() {
		if !ns.fitsEmpty(&t.TaskInfo, w) {
			continue
		}
		satisfiable = true
		if ns.reservations.OfWorker(&w.WorkerInfo) == nil &&
			(best == nil || cmp.Or(cmp.Compare(w.Tasks, best.Tasks), cmp.Compare(w.Name, best.Name)) < 0) {
			best = w
		}
	}
	if !satisfiable {
		t.Class().SetUnsatisfiableAt(ns.workers.WorkersGeneration())
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

func (ns *namespaceState) workerOf(r *reservation.Reservation) *cache.Worker {
	return ns.workers.Worker(r.Worker.Name)
}
