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

	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/third_party/forked/golang/btree"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// space is a namespace: its workers, and its queues, which share them.
type space struct {
	cluster *cluster
	name    string
	workers map[string]*worker
	// total is what the registered workers have.
	total amounts
	// free are the workers that have a place left, the best first: those without a taint that tasks should rather avoid, and
	// those with one.
	free, avoided *btree.BTree[*worker]

	queues map[string]*taskQueue
	active heaped[*taskQueue] // those that are open and have active classes
	// clock is how far the queues have been served that were, as far as they wait.
	clock float64
	// unshared says that the total has changed since the shares were counted.
	unshared bool
	listed   bool // in the cluster's list of spaces to decide for

	keeping int    // how many workers are held back
	offers  uint64 // goes up with each change of an offer
	state   uint64 // goes up with each change that can change what tasks are told
}

// worker is what is known of a worker, and what the tasks on it take. It exists while it is registered or has tasks.
type worker struct {
	offer
	name  cache.ObjectName
	obj   *batch.Worker // read only; nil unless registered
	tasks int64
	// suspects are those of its tasks that run alone.
	suspects int64
	used     amounts
	kept     *holdback // nil unless it is held back
	// tree is the one of the space's trees that the worker is in, sorted by rank.
	tree *btree.BTree[*worker]
	rank float64
}

// open says whether the worker takes tasks and has a place left.
func (w *worker) open() bool {
	return w.inService() && w.suspects == 0 && w.tasks < w.allocatable[batch.ResourceTasks]
}

func (w *worker) lacks(t *task, name batch.ResourceName) bool {
	return t.requests[name] > w.allocatable[name]-w.used[name]
}

// load is what part of the worker is taken, over all its resources alike.
func (w *worker) load() float64 {
	sum, n := 0.0, 0
	for name, has := range w.allocatable {
		if has <= 0 {
			continue
		}
		used := w.used[name]
		if name == batch.ResourceTasks {
			used = w.tasks
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
type holdback struct {
	class  *class
	worker *worker
	// tasks and used are what tasks take that came after the class and were let in since.
	tasks int64
	used  amounts
}

// leaves says whether a task leaves the worker to the class: it comes first itself, or there is room for both.
func (h *holdback) leaves(t *task) bool {
	first := h.class.tasks[0]
	switch {
	case t.class == h.class || t.before(first):
		return true
	case t.alone || first.alone: // which takes all of the worker
		return false
	}
	has := h.worker.allocatable
	return has[batch.ResourceTasks]-h.tasks >= 2 && !slices.ContainsFunc(first.names, func(name batch.ResourceName) bool {
		return has[name]-h.used[name]-t.requests[name] < first.requests[name]
	})
}

func newSpace(c *cluster, name string) *space {
	byRank := func(a, b *worker) bool {
		if a.rank != b.rank {
			return a.rank < b.rank
		}
		return a.name.Name < b.name.Name
	}
	return &space{
		cluster: c, name: name, workers: map[string]*worker{}, total: amounts{}, queues: map[string]*taskQueue{},
		free: btree.New(16, byRank), avoided: btree.New(16, byRank),
	}
}

// wake has the cluster decide for the space.
func (sp *space) wake() {
	if !sp.listed {
		sp.listed = true
		sp.cluster.active = append(sp.cluster.active, sp)
	}
}

// dominant is the greatest part of the total that so many tasks with these requests take, over all resources.
func (sp *space) dominant(tasks int64, used amounts) float64 {
	share := 0.0
	if has := sp.total[batch.ResourceTasks]; has > 0 {
		share = float64(tasks) / float64(has)
	}
	for name, amount := range used {
		if has := sp.total[name]; has > 0 {
			share = max(share, float64(amount)/float64(has))
		}
	}
	return share
}

// worker returns the worker of that name, a new one if need be.
func (sp *space) worker(name string) *worker {
	w := sp.workers[name]
	if w == nil {
		w = &worker{name: cache.ObjectName{Namespace: sp.name, Name: name}, used: amounts{}}
		sp.workers[name] = w
	}
	return w
}

// queue returns the queue of that name, a new one if need be.
func (sp *space) queue(name string) *taskQueue {
	q := sp.queues[name]
	if q == nil {
		q = &taskQueue{
			space: sp, name: name, bound: map[*task]struct{}{}, used: amounts{}, classes: map[string]*class{}, blocked: map[*class]struct{}{},
		}
		q.rules = rulesOf(&batch.TaskQueueSpec{})
		sp.queues[name] = q
	}
	return q
}

// setOffer takes in what a worker has to offer.
func (sp *space) setOffer(w *worker, o offer) {
	sp.total.add(w.allocatable, -1)
	sp.total.add(o.allocatable, 1)
	w.offer = o
	sp.unshared = true
	sp.offers++
	if w.kept != nil && !o.suits(w.kept.class.tasks[0]) {
		sp.release(w.kept)
	}
	sp.arrange(w)
	sp.roomOn(w)
	sp.tidyWorker(w)
}

// arrange puts a worker where it belongs by its load.
func (sp *space) arrange(w *worker) {
	sp.state++
	if w.tree != nil {
		w.tree.Delete(w)
		w.tree = nil
	}
	if !w.open() {
		return
	}
	w.rank = w.load()
	if sp.cluster.strategy == Pack {
		w.rank = -w.rank
	}
	w.tree = sp.free
	if slices.ContainsFunc(w.taints, func(t batch.Taint) bool { return discourages(t.Effect) }) {
		w.tree = sp.avoided
	}
	w.tree.ReplaceOrInsert(w)
}

// tidyWorker forgets a worker that is neither registered nor has tasks.
func (sp *space) tidyWorker(w *worker) {
	if !w.registered && w.tasks == 0 {
		delete(sp.workers, w.name.Name)
		sp.tidy()
	}
}

// tidyQueue forgets a queue that has neither an object nor tasks.
func (sp *space) tidyQueue(q *taskQueue) {
	if q.obj == nil && len(q.pending) == 0 && len(q.bound) == 0 {
		delete(sp.queues, q.name)
		sp.tidy()
	}
}

func (sp *space) tidy() {
	if len(sp.workers) == 0 && len(sp.queues) == 0 {
		delete(sp.cluster.spaces, sp.name)
	}
}

// next takes the first task that fits a worker out of those that wait, and charges it to the worker.
func (sp *space) next(now time.Time) (*task, *worker) {
	if sp.unshared {
		sp.unshared = false
		for _, q := range sp.queues {
			q.reshare()
		}
	}
	for len(sp.active) > 0 {
		start := time.Now()
		q := sp.active[0]
		cl := q.active[0]
		t := cl.tasks[0]
		by := byLimits
		var w *worker
		if q.over(t) == "" {
			by, w = byWorkers, sp.choose(t)
		}
		if w == nil {
			q.block(cl, by, now)
			sp.cluster.metrics.attempt(unschedulable, start)
			continue
		}
		q.letGo(cl)
		sp.clock = max(sp.clock, q.served)
		q.served += sp.dominant(1, t.requests) / q.weight
		if h := w.kept; h != nil && !t.before(h.class.tasks[0]) {
			t.beside = h
			h.tasks++
			h.used.add(t.requests, 1)
		}
		return t, w
	}
	return nil, nil
}

// choose is the best worker that t fits, nil if it fits none. One with a taint that t should rather avoid comes last.
func (sp *space) choose(t *task) *worker {
	fitting := func(tree *btree.BTree[*worker], more func(*worker) bool) (found *worker) {
		tree.Ascend(func(w *worker) bool {
			if fits(t, w) && (more == nil || more(w)) {
				found = w
			}
			return found == nil
		})
		return found
	}
	best := fitting(sp.free, nil)
	if sp.avoided.Len() == 0 {
		return best
	}
	if len(t.obj.Spec.Tolerations) > 0 {
		tolerated := fitting(sp.avoided, func(w *worker) bool { return untolerated(t.obj.Spec.Tolerations, w.taints, discourages) == nil })
		if best == nil || tolerated != nil && tolerated.rank < best.rank {
			best = tolerated
		}
	}
	if best == nil {
		best = fitting(sp.avoided, nil)
	}
	return best
}

// roomOn has the classes tried again that a worker can have room for now.
func (sp *space) roomOn(w *worker) {
	if !w.open() {
		return
	}
	for _, q := range sp.queues {
		for cl := range q.blocked {
			if cl.by == byWorkers && fits(cl.tasks[0], w) {
				q.unblock(cl)
			}
		}
	}
}

// keepers bounds how many workers of a space are held back at a time: one in so many, but at least one.
const keepers = 4

// scans bounds how many classes a worker is looked for each time that workers are held back.
const scans = 16

// holdBack keeps workers, and room within the limits of queues, for classes that were blocked since before.
func (sp *space) holdBack(before time.Time) {
	sp.keepWorkers(before)
	for _, q := range sp.queues {
		q.keepLimits(before)
	}
}

// keepWorkers keeps workers for classes that were blocked since before, in their order. Classes that would not fit an empty worker
// get none.
func (sp *space) keepWorkers(before time.Time) {
	var stuck []*class
	var kept []*worker
	for _, q := range sp.queues {
		moves := q.moves(before)
		for cl := range q.blocked {
			switch waits := moves && cl.by == byWorkers && !cl.stuckSince.After(before); {
			case cl.kept != nil && (!waits || !cl.kept.worker.suits(cl.tasks[0])):
				sp.release(cl.kept)
			case cl.kept != nil:
				kept = append(kept, cl.kept.worker)
			case waits && cl.hopeless != sp.offers:
				stuck = append(stuck, cl)
			}
		}
	}
	// Shares change all the time, and with them which tasks of other queues come before the one that a worker is held back for.
	for _, w := range kept {
		sp.roomOn(w)
	}
	room := max(1, len(sp.workers)/keepers) - sp.keeping
	if len(stuck) == 0 || room <= 0 {
		return
	}
	slices.SortFunc(stuck, func(a, b *class) int {
		if a.tasks[0].before(b.tasks[0]) {
			return -1
		}
		return 1
	})
	for i := 0; i < len(stuck) && i < scans && room > 0; i++ {
		if sp.keepFor(stuck[i]) {
			room--
		}
	}
}

// keepFor holds back the worker with the fewest tasks that could take the class once it is empty.
func (sp *space) keepFor(cl *class) bool {
	var best *worker
	hopeless := true
	for _, w := range sp.workers {
		if !w.suits(cl.tasks[0]) {
			continue
		}
		hopeless = false
		if w.kept == nil && (best == nil || cmp.Or(cmp.Compare(w.tasks, best.tasks), cmp.Compare(w.name.Name, best.name.Name)) < 0) {
			best = w
		}
	}
	if hopeless {
		cl.hopeless = sp.offers
	}
	if best == nil {
		return false
	}
	cl.kept = &holdback{class: cl, worker: best, used: amounts{}}
	best.kept = cl.kept
	sp.keeping++
	return true
}

// release lets all tasks have a worker that was held back.
func (sp *space) release(h *holdback) {
	h.worker.kept, h.class.kept = nil, nil
	sp.keeping--
	sp.roomOn(h.worker)
}
