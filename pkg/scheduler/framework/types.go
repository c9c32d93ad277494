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

package framework

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TaskInfo is a task with what scheduling computes from it.
type TaskInfo struct {
	// Object is read only.
	Object *batch.Task
	// Requests are the resources that the task takes from its worker, without the one place that every task takes.
	Requests Resources
	// ResourceNames are the keys of Requests, sorted.
	ResourceNames []batch.ResourceName
	// Alone is set if the task needs a worker of its own.
	Alone bool
	// Short is set while the task is on a worker if it was expected to end soon when it was placed there. See
	// WorkerInfo.AcceptsPrefetch.
	Short bool
	// QueueInfo is what the order depends on of the queue of the task. Nil is equal to nil.
	QueueInfo *QueueInfo
}

// QueueInfo is what the order of tasks depends on besides the tasks themselves.
type QueueInfo struct {
	Name string
	// Share is the dominant resource share of the queue divided by its weight, in units of 1/ShareScale.
	Share int64
	// VirtualTime is the sum of the shares of all tasks that the queue has started, divided by its weight. A queue
	// that becomes active continues at the virtual time of the others, so that being idle gains nothing.
	VirtualTime float64
}

// ShareScale is the resolution of shares. Shares are integers, so that shares that differ only by a floating point
// error are equal.
const ShareScale = 1e12

// NewTaskInfo returns the TaskInfo of a task, without a queue.
func NewTaskInfo(obj *batch.Task) TaskInfo {
	requests := NewResources(obj.Spec.Resources.Requests)
	delete(requests, batch.ResourceTasks)
	return TaskInfo{Object: obj, Requests: requests, ResourceNames: slices.Sorted(maps.Keys(requests)), Alone: RunsAlone(obj)}
}

// SetObject replaces the object of the task. The requests of a task never change.
func (t *TaskInfo) SetObject(obj *batch.Task) {
	t.Object, t.Alone = obj, RunsAlone(obj)
}

// Before reports whether t is scheduled before o. The order is: higher priority, lower share of the queue, lower
// virtual time of the queue, older, name. Within a queue the order changes only with the priority of a task.
func (t *TaskInfo) Before(o *TaskInfo) bool {
	if t.Object.Spec.Priority != o.Object.Spec.Priority {
		return t.Object.Spec.Priority > o.Object.Spec.Priority
	}
	if a, b := t.QueueInfo, o.QueueInfo; a != b {
		if a.Share != b.Share {
			return a.Share < b.Share
		}
		if a.VirtualTime != b.VirtualTime {
			return a.VirtualTime < b.VirtualTime
		}
	}
	return t.Older(o)
}

// Older reports whether t was created before o. The name decides between tasks of the same second: a shorter one is
// first, so that the tasks of a set are in the order of their indexes.
func (t *TaskInfo) Older(o *TaskInfo) bool {
	if !t.Object.CreationTimestamp.Equal(&o.Object.CreationTimestamp) {
		return t.Object.CreationTimestamp.Before(&o.Object.CreationTimestamp)
	}
	a, b := t.Object.Name, o.Object.Name
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) < 0
}

// RunsAlone reports whether a task must run on a worker of its own: its worker has crashed before. It may be the cause
// of that, and every other task on its worker would be counted as a possible cause, too.
func RunsAlone(obj *batch.Task) bool { return obj.Status.WorkerCrashes > 0 }

// IsEligible reports whether a task may be scheduled: it is unbound, not finished, not being deleted, and has no
// scheduling gate.
func IsEligible(obj *batch.Task) bool {
	return obj.Spec.WorkerName == "" && obj.DeletionTimestamp == nil && len(obj.Spec.SchedulingGates) == 0 && !obj.Status.Phase.Finished()
}

// WorkerState is the part of a Worker object that scheduling reads. The zero value is that of a worker without an
// object.
type WorkerState struct {
	Registered    bool
	Ready         bool
	Unschedulable bool
	Denied        bool
	Incarnation   string
	Labels        map[string]string
	Taints        []batch.Taint
	Features      []batch.WorkerFeature
	PrefetchLimit int64
	Allocatable   Resources
	// PoolRank is 1 plus the ordinal of a worker of a pool, and 0 for any other worker.
	PoolRank int64
}

// NewWorkerState returns the WorkerState of a worker.
func NewWorkerState(obj *batch.Worker) WorkerState {
	rank := int64(0)
	if ordinal, ok := PoolOrdinal(obj); ok {
		rank = 1 + int64(ordinal)
	}
	return WorkerState{
		Registered:    true,
		Ready:         meta.IsStatusConditionTrue(obj.Status.Conditions, batch.WorkerReady) && obj.Status.Incarnation != "",
		Unschedulable: obj.Spec.Unschedulable,
		Denied:        obj.Spec.Denied,
		Incarnation:   obj.Status.Incarnation,
		Labels:        obj.Labels,
		Taints:        obj.Spec.Taints,
		Features:      obj.Status.WorkerInfo.Features,
		PrefetchLimit: int64(obj.Status.PrefetchLimit),
		Allocatable:   NewResources(obj.Status.Allocatable),
		PoolRank:      rank,
	}
}

// InService reports whether the worker accepts tasks at all.
func (s *WorkerState) InService() bool {
	return s.Registered && s.Ready && !s.Unschedulable && !s.Denied
}

// WorkerInfo is a worker with what its tasks take.
type WorkerInfo struct {
	WorkerState
	Name string
	// Object is read only. It is nil if the worker is not registered.
	Object *batch.Worker
	// Tasks is the number of tasks on the worker, and TasksAlone the number of those that need a worker of their
	// own.
	Tasks, TasksAlone int64
	// TasksShort is the number of tasks that are expected to end soon.
	TasksShort int64
	// Used are the resources that the tasks request.
	Used Resources
}

// NewWorkerInfo returns the WorkerInfo of a worker without tasks.
func NewWorkerInfo(obj *batch.Worker) WorkerInfo {
	return WorkerInfo{WorkerState: NewWorkerState(obj), Name: obj.Name, Object: obj, Used: Resources{}}
}

// WithoutTasks returns the worker as it would be without tasks.
func (w *WorkerInfo) WithoutTasks() WorkerInfo {
	return WorkerInfo{WorkerState: w.WorkerState, Name: w.Name, Object: w.Object}
}

// AddTask adds a task to what the worker has.
func (w *WorkerInfo) AddTask(t *TaskInfo) { w.count(t, 1) }

// RemoveTask undoes AddTask.
func (w *WorkerInfo) RemoveTask(t *TaskInfo) { w.count(t, -1) }

func (w *WorkerInfo) count(t *TaskInfo, times int64) {
	w.Tasks += times
	if t.Alone {
		w.TasksAlone += times
	}
	if t.Short {
		w.TasksShort += times
	}
	w.Used.Add(t.Requests, times)
}

// AcceptsTasks reports whether the worker accepts tasks and has a place left. If it returns false, no task passes the
// filters.
func (w *WorkerInfo) AcceptsTasks() bool {
	return w.InService() && w.TasksAlone == 0 && w.Tasks < w.Allocatable[batch.ResourceTasks]
}

// AcceptsPrefetch reports whether the worker accepts one more short task to wait on it until another task has ended. A
// slot that runs a long task is no promise of a free slot: each of the others has prefetchLimit/slots waiting tasks. If
// it returns false, FitsPrefetch returns false for all tasks.
func (w *WorkerInfo) AcceptsPrefetch() bool {
	if w.PrefetchLimit == 0 || w.TasksAlone > 0 || !w.InService() {
		return false
	}
	slots := w.Allocatable[batch.ResourceTasks]
	if slots == 0 {
		return false
	}
	long := w.Tasks - w.TasksShort
	return (w.TasksShort+1)*slots <= (slots-long)*(slots+w.PrefetchLimit)
}

// FitsPrefetch reports whether the worker accepts the task to wait on it. The tasks that wait may request, together, as
// much of each resource for each waiting task as the running ones have. The worker does not start them before their
// resources are free. FitsPrefetch does not run the filters.
func (w *WorkerInfo) FitsPrefetch(t *TaskInfo) bool {
	if !w.AcceptsPrefetch() {
		return false
	}
	slots := w.Allocatable[batch.ResourceTasks]
	return !slices.ContainsFunc(t.ResourceNames, func(name batch.ResourceName) bool {
		return float64(w.Used[name]+t.Requests[name])*float64(slots) > float64(w.Allocatable[name])*float64(slots+w.PrefetchLimit)
	})
}
