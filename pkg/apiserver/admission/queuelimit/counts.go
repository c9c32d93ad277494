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

package queuelimit

import (
	"fmt"
	"sync"

	"k8s.io/client-go/tools/cache"

	"github.com/leat-dev/leat/apis/batch"
)

// PendingTasks is the field selector of pending tasks: those that are unbound and not finished.
const PendingTasks = "spec.workerName=,status.phase!=Succeeded,status.phase!=Failed"

// Counts holds the number of pending tasks and the limit of each queue. Two reflectors fill it: one lists and watches
// the tasks that PendingTasks selects into Tasks, the other all TaskQueues into Queues. It is safe for concurrent use.
type Counts struct {
	mu      sync.RWMutex
	queueOf map[cache.ObjectName]cache.ObjectName // queue by pending task
	pending map[cache.ObjectName]int              // number of pending tasks by queue
	limits  map[cache.ObjectName]int32            // maxPendingTasks by queue, for queues that have one

	tasksSynced, queuesSynced bool
}

// NewCounts returns empty counts, which are not synced.
func NewCounts() *Counts {
	return &Counts{
		queueOf: map[cache.ObjectName]cache.ObjectName{}, pending: map[cache.ObjectName]int{}, limits: map[cache.ObjectName]int32{},
	}
}

// HasSynced reports whether both reflectors have completed their initial list.
func (c *Counts) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tasksSynced && c.queuesSynced
}

// Tasks returns the store for the reflector of pending tasks.
func (c *Counts) Tasks() cache.ReflectorStore {
	return store[*batch.Task]{set: c.setTask, remove: c.removeTask, clear: func() {
		c.queueOf, c.pending, c.tasksSynced = map[cache.ObjectName]cache.ObjectName{}, map[cache.ObjectName]int{}, true
	}, mu: &c.mu}
}

// Queues returns the store for the reflector of TaskQueues.
func (c *Counts) Queues() cache.ReflectorStore {
	return store[*batch.TaskQueue]{set: c.setQueue, remove: c.removeQueue, clear: func() {
		c.limits, c.queuesSynced = map[cache.ObjectName]int32{}, true
	}, mu: &c.mu}
}

// full reports whether a queue has reached its limit of pending tasks, and returns both numbers.
func (c *Counts) full(namespace, queue string) (pending int, limit int32, full bool) {
	name := cache.ObjectName{Namespace: namespace, Name: queue}
	c.mu.RLock()
	defer c.mu.RUnlock()
	limit, limited := c.limits[name]
	pending = c.pending[name]
	return pending, limit, limited && pending >= int(limit)
}

func (c *Counts) setTask(task *batch.Task) {
	name := cache.MetaObjectToName(task)
	if _, counted := c.queueOf[name]; counted {
		c.removeTask(task) // a task that replaces one of the same name may be in another queue
	}
	queue := cache.ObjectName{Namespace: task.Namespace, Name: task.Spec.QueueName}
	c.queueOf[name] = queue
	c.pending[queue]++
}

func (c *Counts) removeTask(task *batch.Task) {
	name := cache.MetaObjectToName(task)
	queue, counted := c.queueOf[name]
	if !counted {
		return
	}
	delete(c.queueOf, name)
	if c.pending[queue]--; c.pending[queue] == 0 {
		delete(c.pending, queue)
	}
}

func (c *Counts) setQueue(queue *batch.TaskQueue) {
	name := cache.MetaObjectToName(queue)
	if queue.Spec.MaxPendingTasks == nil {
		delete(c.limits, name)
	} else {
		c.limits[name] = *queue.Spec.MaxPendingTasks
	}
}

func (c *Counts) removeQueue(queue *batch.TaskQueue) {
	delete(c.limits, cache.MetaObjectToName(queue))
}

// store is a cache.ReflectorStore that passes the objects to functions, which it calls with mu locked.
type store[T any] struct {
	mu          *sync.RWMutex
	set, remove func(T)
	clear       func()
}

// Add implements cache.ReflectorStore.
func (s store[T]) Add(obj any) error { return s.with(obj, s.set) }

// Update implements cache.ReflectorStore.
func (s store[T]) Update(obj any) error { return s.with(obj, s.set) }

// Delete implements cache.ReflectorStore.
func (s store[T]) Delete(obj any) error { return s.with(obj, s.remove) }

// Replace implements cache.ReflectorStore.
func (s store[T]) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	for _, obj := range list {
		typed, ok := obj.(T)
		if !ok {
			return unexpected[T](obj)
		}
		s.set(typed)
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (s store[T]) Resync() error { return nil }

func (s store[T]) with(obj any, f func(T)) error {
	typed, ok := obj.(T)
	if !ok {
		return unexpected[T](obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f(typed)
	return nil
}

func unexpected[T any](obj any) error {
	var want T
	return fmt.Errorf("expected a %T, not %T", want, obj)
}
