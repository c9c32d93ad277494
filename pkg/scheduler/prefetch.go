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
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
)

// Prefetching binds a short task to a worker that has no slot for it yet. The task waits on the worker and starts as
// soon as another task there has ended, without waiting for the scheduler. In all accounts it counts as a running task.
//
// The scheduler asks the worker to return a waiting task when another worker could start it now, or when it has waited
// for longer than it was expected to. Only the worker knows whether it has started the task: the worker returns it or
// ignores the request. A task that was returned is not prefetched again, so it is returned at most once.

const (
	// maxPrefetchDuration is the longest median of tasks that are prefetched.
	maxPrefetchDuration = 10 * time.Second
	// prefetchInterval is the time between two reviews of the waiting tasks. It is also how long a task waits at least
	// before it is asked for: most tasks start earlier.
	prefetchInterval = 100 * time.Millisecond
	// minPrefetchWait is how long a task may wait at least, however short its predecessors.
	minPrefetchWait = time.Second
)

// isShort reports whether a task is expected to end soon.
func (ns *namespaceState) isShort(obj *batch.Task) bool {
	median, ok := ns.durations.median(obj)
	return ok && median < maxPrefetchDuration
}

// canPrefetch reports whether the task may wait on a worker: it is short, requests nothing besides cpu and memory,
// needs no worker of its own, and no worker has returned it before.
func (ns *namespaceState) canPrefetch(t *framework.TaskInfo) bool {
	status := &t.Object.Status
	return !t.Alone && status.Bindings <= status.Disruptions && ns.isShort(t.Object) &&
		!slices.ContainsFunc(t.ResourceNames, func(name batch.ResourceName) bool {
			return name != batch.ResourceCPU && name != batch.ResourceMemory
		})
}

// fitsPrefetch reports whether a task for which canPrefetch is true may wait on the worker.
func (ns *namespaceState) fitsPrefetch(t *framework.TaskInfo, w *cache.Worker) bool {
	return w.FitsPrefetch(t) && ns.reservations.OfWorker(&w.WorkerInfo) == nil && ns.fitsEmpty(t, w)
}

// selectPrefetchWorker returns the worker on which a task that fits no worker now may wait, or nil. The task does not
// take the next slot of a worker from a task that comes first and waits for one.
func (ns *namespaceState) selectPrefetchWorker(t *queue.Task) *cache.Worker {
	if !ns.canPrefetch(&t.TaskInfo) {
		return nil
	}
	first := sync.OnceValue(func() (tasks []*queue.Task) {
		for _, q := range ns.queues.All() {
			for class := range q.Classes() {
				if class.BlockedBy() == queue.BlockedByWorkers && class.First().Before(&t.TaskInfo) {
					tasks = append(tasks, class.First())
				}
			}
		}
		return tasks
	})
	return ns.workers.FirstPrefetching(func(w *cache.Worker) bool {
		return ns.fitsPrefetch(&t.TaskInfo, w) &&
			!slices.ContainsFunc(first(), func(other *queue.Task) bool { return ns.fitsEmpty(&other.TaskInfo, w) })
	})
}

// observeBound records when the task was bound and when it ran, after its object was replaced in state Bound.
func (t *task) observeBound(now time.Time) {
	ns := t.namespace()
	if t.boundAt.IsZero() {
		t.boundAt = now
	}
	if t.runningAt.IsZero() && t.Object.Status.Phase == batch.TaskRunning {
		t.runningAt = now
	}
	if waiting := t.Object.Status.State.Waiting; t.runningAt.IsZero() && waiting != nil && waiting.Reason == batch.TaskReasonPrefetched {
		ns.prefetched[t] = struct{}{}
	} else {
		delete(ns.prefetched, t)
	}
}

// observeEnd records how long a bound task has run that has finished.
func (t *task) observeEnd(now time.Time) {
	if t.state != taskBound || t.Object.DeletionTimestamp != nil {
		return
	}
	ran := time.Duration(0)
	if !t.runningAt.IsZero() {
		ran = now.Sub(t.runningAt)
	}
	t.namespace().durations.add(t.Object, ran, now)
}

// tasksToReturn returns waiting tasks that their workers are asked to return. It returns a task again only after
// returnFailed.
func (st *state) tasksToReturn(now time.Time) []*batch.Task {
	st.mu.Lock()
	defer st.mu.Unlock()
	var due []*batch.Task
	for _, ns := range st.namespaces {
		due = append(due, ns.tasksToReturn(now)...)
	}
	return due
}

func (ns *namespaceState) tasksToReturn(now time.Time) []*batch.Task {
	var candidates []*task
	asked := int64(0)
	for t := range ns.prefetched {
		switch {
		case t.returnAsked:
			asked++
		case t.evicting || t.Object.DeletionTimestamp != nil || now.Sub(t.boundAt) < prefetchInterval:
		default:
			candidates = append(candidates, t)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	// What starts last on its worker is asked for first.
	slices.SortFunc(candidates, func(a, b *task) int {
		return cmp.Or(
			cmp.Compare(a.Object.Spec.Priority, b.Object.Spec.Priority), b.boundAt.Compare(a.boundAt), cmp.Compare(b.Object.Name, a.Object.Name))
	})
	free := -asked
	for _, w := range ns.workers.Workers() {
		if w.AcceptsTasks() {
			free += w.Allocatable[batch.ResourceTasks] - w.Tasks
		}
	}
	var due []*batch.Task
	for _, t := range candidates {
		isOther := func(w *cache.Worker) bool { return w != t.worker }
		switch {
		case free > 0 && ns.hasWorker(func(w *cache.Worker) bool { return isOther(w) && ns.fits(&t.TaskInfo, w) }):
			free--
		case now.Sub(t.boundAt) > ns.maxWait(t) && ns.hasWorker(func(w *cache.Worker) bool { return isOther(w) && ns.fitsEmpty(&t.TaskInfo, w) }):
		default:
			continue
		}
		t.returnAsked = true
		due = append(due, t.Object)
	}
	return due
}

func (ns *namespaceState) hasWorker(condition func(*cache.Worker) bool) bool {
	for _, w := range ns.workers.Workers() {
		if condition(w) {
			return true
		}
	}
	return false
}

// maxWait returns how long a task may wait on its worker. It is twice as long as its predecessors there should take.
func (ns *namespaceState) maxWait(t *task) time.Duration {
	median, _ := ns.durations.median(t.Object)
	slots := max(1, t.worker.Allocatable[batch.ResourceTasks])
	waves := (t.worker.PrefetchLimit + slots - 1) / slots
	return max(minPrefetchWait, 2*median*time.Duration(waves))
}

// returnFailed makes tasksToReturn return the task again.
func (st *state) returnFailed(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if t := st.tasks[name]; t != nil {
		t.returnAsked = false
	}
}

// returnTasks asks workers for waiting tasks that should rather start elsewhere.
func (s *Scheduler) returnTasks(ctx context.Context) {
	for sleep(ctx, prefetchInterval) {
		for tasks := range slices.Chunk(s.state.tasksToReturn(time.Now()), writers) {
			parallelize(tasks, func(task *batch.Task) bool { return s.requestReturn(ctx, task) })
		}
	}
}

// requestReturn asks the worker of a waiting task to return it. The task may have started since it was selected.
func (s *Scheduler) requestReturn(ctx context.Context, task *batch.Task) bool {
	obj := task.DeepCopy()
	meta.SetStatusCondition(&obj.Status.Conditions, metav1.Condition{
		Type: batch.TaskReturnRequested, Status: metav1.ConditionTrue, Reason: batch.TaskReasonRebalanced,
		Message: "Another worker may start the task earlier.",
	})
	if _, err := s.client.BatchV1alpha1().Tasks(obj.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{}); err != nil {
		klog.FromContext(ctx).V(4).Info("Failed to request the return of a task", "task", klog.KObj(task), "err", err)
		s.state.returnFailed(toolscache.MetaObjectToName(task))
		return false
	}
	return true
}
