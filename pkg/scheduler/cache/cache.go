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

// Package cache keeps the workers of a namespace, sorted by their score, and counts what the tasks on them take. These
// are the tasks that are bound to a worker and those that are assumed to be.
package cache

import (
	"maps"
	"time"

	"k8s.io/utils/third_party/forked/golang/btree"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// Worker is a worker in a Cache. It exists while it is registered or has tasks.
type Worker struct {
	framework.WorkerInfo
	// tree is the tree that the worker is in. It is nil if the worker accepts no tasks.
	tree  *btree.BTree[*Worker]
	score float64
	// prefetching is set while the worker is in the tree of workers that accept tasks to wait on them, and load is its
	// position there.
	prefetching bool
	load        float64

	// IdleSince is when the last task was removed from the worker, or when the worker was added.
	IdleSince time.Time
	// UncertainUntil is until when a binding to the worker may arrive at the server whose outcome is not known.
	UncertainUntil time.Time
}

// Score returns the score of the worker when it was updated last. Lower is better.
func (w *Worker) Score() float64 { return w.score }

// Cache holds the workers of a namespace. It is not safe for concurrent use.
type Cache struct {
	score   func(*framework.WorkerInfo) float64
	avoid   func(*framework.WorkerInfo) bool
	workers map[string]*Worker
	// total is the sum of what the registered workers have.
	total framework.Resources
	// preferred and avoided are the workers that accept tasks, the lowest score first.
	preferred, avoided *btree.BTree[*Worker]
	// prefetching are the workers that accept tasks to wait on them, those with the fewest tasks for their size first.
	prefetching *btree.BTree[*Worker]

	generation, workersGeneration uint64
}

// New returns an empty cache. The score of a worker is recomputed whenever its tasks or its state change. avoid reports
// whether a worker must be visited by VisitAvoided instead of VisitPreferred.
func New(score func(*framework.WorkerInfo) float64, avoid func(*framework.WorkerInfo) bool) *Cache {
	byScore := func(a, b *Worker) bool {
		if a.score != b.score {
			return a.score < b.score
		}
		return a.Name < b.Name
	}
	byLoad := func(a, b *Worker) bool {
		if a.load != b.load {
			return a.load < b.load
		}
		return a.Name < b.Name
	}
	return &Cache{
		prefetching: btree.New(16, byLoad),
		score:       score, avoid: avoid, workers: map[string]*Worker{}, total: framework.Resources{},
		preferred: btree.New(16, byScore), avoided: btree.New(16, byScore),
	}
}

// Workers returns all workers by name. The caller must not change the map.
func (c *Cache) Workers() map[string]*Worker { return c.workers }

// Len returns the number of workers.
func (c *Cache) Len() int { return len(c.workers) }

// Worker returns the worker with that name, or nil.
func (c *Cache) Worker(name string) *Worker { return c.workers[name] }

// AddWorker returns the worker with that name. It adds one that is not registered if there is none.
func (c *Cache) AddWorker(name string) *Worker {
	w := c.workers[name]
	if w == nil {
		w = &Worker{WorkerInfo: framework.WorkerInfo{Name: name, Used: framework.Resources{}}, IdleSince: time.Now()}
		c.workers[name] = w
	}
	return w
}

// SetState replaces the state of a worker.
func (c *Cache) SetState(w *Worker, state framework.WorkerState) {
	c.total.Add(w.Allocatable, -1)
	c.total.Add(state.Allocatable, 1)
	w.WorkerState = state
	c.workersGeneration++
	c.update(w)
}

// AddTask adds a task to a worker.
func (c *Cache) AddTask(t *framework.TaskInfo, w *Worker) {
	w.AddTask(t)
	c.update(w)
}

// RemoveTask undoes AddTask.
func (c *Cache) RemoveTask(t *framework.TaskInfo, w *Worker) {
	w.RemoveTask(t)
	if w.Tasks == 0 {
		w.IdleSince = time.Now()
	}
	c.update(w)
}

// Prune removes the worker if it is neither registered nor has tasks.
func (c *Cache) Prune(w *Worker) {
	if !w.Registered && w.Tasks == 0 {
		delete(c.workers, w.Name)
	}
}

// update puts a worker where it belongs after its tasks or its state have changed.
func (c *Cache) update(w *Worker) {
	c.generation++
	if w.tree != nil {
		w.tree.Delete(w)
		w.tree = nil
	}
	if w.prefetching {
		c.prefetching.Delete(w)
	}
	if w.prefetching = w.AcceptsPrefetch(); w.prefetching {
		w.load = float64(w.Tasks) / float64(w.Allocatable[batch.ResourceTasks]+w.PrefetchLimit)
		c.prefetching.ReplaceOrInsert(w)
	}
	if !w.AcceptsTasks() {
		return
	}
	w.score = c.score(&w.WorkerInfo)
	w.tree = c.preferred
	if c.avoid(&w.WorkerInfo) {
		w.tree = c.avoided
	}
	w.tree.ReplaceOrInsert(w)
}

// FirstPreferred returns the worker with the lowest score for which fits returns true, or nil. It leaves out workers to
// avoid.
func (c *Cache) FirstPreferred(fits func(*Worker) bool) *Worker { return first(c.preferred, fits) }

// FirstAvoided is like FirstPreferred for the workers to avoid.
func (c *Cache) FirstAvoided(fits func(*Worker) bool) *Worker { return first(c.avoided, fits) }

// FirstPrefetching returns the worker with the fewest tasks for its size that accepts tasks to wait on it and for which
// fits returns true, or nil.
func (c *Cache) FirstPrefetching(fits func(*Worker) bool) *Worker { return first(c.prefetching, fits) }

func first(tree *btree.BTree[*Worker], fits func(*Worker) bool) (found *Worker) {
	tree.Ascend(func(w *Worker) bool {
		if fits(w) {
			found = w
		}
		return found == nil
	})
	return found
}

// DominantShare returns the greatest part that so many tasks with these requests take of a resource of all workers.
func (c *Cache) DominantShare(tasks int64, used framework.Resources) float64 {
	share := 0.0
	if has := c.total[batch.ResourceTasks]; has > 0 {
		share = float64(tasks) / float64(has)
	}
	for name, amount := range used {
		if has := c.total[name]; has > 0 {
			share = max(share, float64(amount)/float64(has))
		}
	}
	return share
}

// Total returns the sum of what the registered workers have.
func (c *Cache) Total() framework.Resources { return maps.Clone(c.total) }

// Generation returns a number that increases whenever the tasks or the state of a worker change.
func (c *Cache) Generation() uint64 { return c.generation }

// WorkersGeneration returns a number that increases whenever the state of a worker changes.
func (c *Cache) WorkersGeneration() uint64 { return c.workersGeneration }
