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

// PendingTasks is the field selector of the tasks that count: unbound and not finished.
const PendingTasks = "spec.workerName=,status.phase!=Succeeded,status.phase!=Failed"

// Counts are how many tasks are pending in each queue, and how many may be. Two reflectors keep them: one of the tasks that
// PendingTasks selects, into Tasks, and one of all TaskQueues, into Queues. They are safe for concurrent use.
type Counts struct {
	mu      sync.RWMutex
	queueOf map[cache.ObjectName]cache.ObjectName // of each pending task
	pending map[cache.ObjectName]int
	limits  map[cache.ObjectName]int32

	tasksSeen, queuesSeen bool
}

// NewCounts returns counts that know nothing yet.
func NewCounts() *Counts {
	return &Counts{
		queueOf: map[cache.ObjectName]cache.ObjectName{}, pending: map[cache.ObjectName]int{}, limits: map[cache.ObjectName]int32{},
	}
}

// HasSynced says whether both reflectors have shown all that there is.
func (c *Counts) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tasksSeen && c.queuesSeen
}

// Tasks is where a reflector puts the pending tasks.
func (c *Counts) Tasks() cache.ReflectorStore {
	return store[*batch.Task]{set: c.setTask, remove: c.removeTask, replace: func() {
		c.queueOf, c.pending, c.tasksSeen = map[cache.ObjectName]cache.ObjectName{}, map[cache.ObjectName]int{}, true
	}, mu: &c.mu}
}

// Queues is where a reflector puts the TaskQueues.
func (c *Counts) Queues() cache.ReflectorStore {
	return store[*batch.TaskQueue]{set: c.setQueue, remove: c.removeQueue, replace: func() {
		c.limits, c.queuesSeen = map[cache.ObjectName]int32{}, true
	}, mu: &c.mu}
}

// full says whether a queue has as many pending tasks as it may.
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
		c.removeTask(task) // another task of the same name may be in another queue
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

// store hands what a reflector shows of one kind to functions that are called with mu locked.
type store[T any] struct {
	mu          *sync.RWMutex
	set, remove func(T)
	replace     func() // before all are set that there are
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
	s.replace()
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
