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

// Package cachefields defines which fields of tasks the caches of the controllers and the scheduler keep. A cache may
// hold hundreds of thousands of tasks, so it keeps only the fields that are read.
//
// Each cache is a row of Caches. The tests check that its transform keeps the fields of the row and no others, and that
// the files that use the cache read no other field.
package cachefields

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Cache is a cache of tasks.
type Cache struct {
	// Name is what the cache holds.
	Name string
	// Transform removes all other fields of a task.
	Transform cache.TransformFunc
	// Keeps are the paths of the fields that the transform keeps. A path includes all fields below it.
	Keeps []string
	// ReadBy are the Go files that read tasks of the cache, as patterns relative to pkg.
	ReadBy []string
}

// Caches are all caches of tasks.
var Caches = []Cache{
	{
		Name: "tasks of task sets", Transform: TaskSetTask,
		Keeps: []string{
			"metadata.name", "metadata.namespace", "metadata.uid", "metadata.resourceVersion", "metadata.creationTimestamp",
			"metadata.deletionTimestamp", "metadata.ownerReferences",
			"metadata.labels", "metadata.annotations", // only those in taskSetLabels and taskSetAnnotations
			"spec.workerName", "spec.queueName", "spec.priority", "spec.indexes",
			"status.completedCount", "status.indexLimit", "status.busyMilliseconds", "status.workerCrashes",
			"status.phase", "status.completionTime", "status.conditions.type", "status.conditions.status",
			"status.state.terminated.exitCode", "status.state.terminated.finishedAt",
		},
		ReadBy: []string{"controller/taskset/*.go", "controller/taskset/state/*.go"},
	},
	{
		Name: "bound tasks", Transform: BoundTask,
		Keeps: []string{
			"metadata.name", "metadata.namespace", "metadata.uid", "metadata.resourceVersion", "metadata.deletionTimestamp",
			"metadata.deletionGracePeriodSeconds",
			"spec.workerName", "spec.tolerations",
			"status.phase", "status.conditions", // only TaskScheduled
		},
		ReadBy: []string{
			"controller/lifecycle/lifecycle.go", "controller/lifecycle/tasks.go", "controller/lifecycle/workers.go",
			"controller/lifecycle/health.go",
		},
	},
	{
		Name: "finished tasks", Transform: FinishedTask,
		Keeps: []string{
			"metadata", // except managedFields
			"spec.ttlSecondsAfterFinished",
			"status.phase", "status.attempts", "status.disruptions", "status.startTime", "status.completionTime",
			"status.state.terminated.reason",
		},
		ReadBy: []string{"controller/lifecycle/finished.go", "controller/lifecycle/metrics.go"},
	},
	{
		Name: "unfinished tasks of the scheduler", Transform: UnfinishedTask,
		Keeps: []string{
			"metadata", // except managedFields
			"spec.queueName", "spec.workerName", "spec.priority", "spec.resources", "spec.workerSelector", "spec.tolerations",
			"spec.schedulingGates", "spec.pool",
			"spec.indexes", // only whether it is set
			"status",       // The scheduler writes it as a whole.
		},
		ReadBy: []string{
			"scheduler/*.go", "scheduler/cache/*.go", "scheduler/queue/*.go", "scheduler/reservation/*.go", "scheduler/framework/*.go",
			"scheduler/framework/plugins/*/*.go",
		},
	},
	{
		Name: "unfinished tasks of leat board", Transform: BoardTask,
		Keeps: []string{
			"metadata.name", "metadata.namespace", "metadata.uid", "metadata.resourceVersion", "metadata.creationTimestamp",
			"metadata.deletionTimestamp", "metadata.labels", // only those in taskSetLabels
			"spec.workerName", "spec.queueName", "spec.indexes",
			"status.phase", "status.completedCount", "status.indexLimit",
			"status.conditions.type", "status.conditions.status", "status.conditions.reason", "status.conditions.message", // only TaskScheduled
			"status.state.running.startedAt", "status.state.waiting.reason",
		},
		ReadBy: []string{"board/*.go"},
	},
}

var (
	// taskSetLabels and taskSetAnnotations are those that the TaskSet controller reads.
	taskSetLabels      = []string{batch.LabelControllerUID, batch.LabelTaskSetName, batch.LabelCompletionIndex}
	taskSetAnnotations = []string{batch.AnnotationIndexFailureCount}
)

// TaskSetTask keeps the fields that the TaskSet controller reads. It does not change other objects.
func TaskSetTask(obj any) (any, error) {
	task, ok := obj.(*batch.Task)
	if !ok {
		return obj, nil
	}
	trimmed := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name: task.Name, Namespace: task.Namespace, UID: task.UID, ResourceVersion: task.ResourceVersion,
			CreationTimestamp: task.CreationTimestamp, DeletionTimestamp: task.DeletionTimestamp,
			OwnerReferences: task.OwnerReferences,
			Labels:          selectKeys(task.Labels, taskSetLabels), Annotations: selectKeys(task.Annotations, taskSetAnnotations),
		},
		Spec: batch.TaskSpec{
			WorkerName: task.Spec.WorkerName, QueueName: task.Spec.QueueName, Priority: task.Spec.Priority, Indexes: task.Spec.Indexes,
		},
		Status: batch.TaskStatus{
			Phase: task.Status.Phase, CompletionTime: task.Status.CompletionTime, CompletedCount: task.Status.CompletedCount,
			IndexLimit: task.Status.IndexLimit, BusyMilliseconds: task.Status.BusyMilliseconds, WorkerCrashes: task.Status.WorkerCrashes,
		},
	}
	for _, condition := range task.Status.Conditions {
		trimmed.Status.Conditions = append(trimmed.Status.Conditions, metav1.Condition{Type: condition.Type, Status: condition.Status})
	}
	if terminated := task.Status.State.Terminated; terminated != nil {
		trimmed.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: terminated.ExitCode, FinishedAt: terminated.FinishedAt}
	}
	return trimmed, nil
}

// TaskSetWorker keeps the fields that the TaskSet controller reads of a worker. It does not change other objects.
func TaskSetWorker(obj any) (any, error) {
	worker, ok := obj.(*batch.Worker)
	if !ok {
		return obj, nil
	}
	trimmed := &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{
			Name: worker.Name, Namespace: worker.Namespace, UID: worker.UID, ResourceVersion: worker.ResourceVersion,
		},
		Status: batch.WorkerStatus{WorkerInfo: batch.WorkerInfo{Features: worker.Status.WorkerInfo.Features}},
	}
	if tasks, ok := worker.Status.Allocatable[batch.ResourceTasks]; ok {
		trimmed.Status.Allocatable = batch.ResourceList{batch.ResourceTasks: tasks}
	}
	if ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); ready != nil {
		trimmed.Status.Conditions = []metav1.Condition{{Type: ready.Type, Status: ready.Status}}
	}
	return trimmed, nil
}

// BoundTask keeps the fields that the lifecycle controller reads of an unfinished task.
func BoundTask(obj any) (any, error) {
	switch task := obj.(type) {
	case *batch.Task:
		return &batch.Task{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: task.Namespace, Name: task.Name, UID: task.UID, ResourceVersion: task.ResourceVersion,
				DeletionTimestamp: task.DeletionTimestamp, DeletionGracePeriodSeconds: task.DeletionGracePeriodSeconds,
			},
			Spec: batch.TaskSpec{WorkerName: task.Spec.WorkerName, Tolerations: task.Spec.Tolerations},
			Status: batch.TaskStatus{
				Phase:      task.Status.Phase,
				Conditions: slices.DeleteFunc(task.Status.Conditions, func(c metav1.Condition) bool { return c.Type != batch.TaskScheduled }),
			},
		}, nil
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	}
	return nil, fmt.Errorf("unexpected object %T in an informer of tasks", obj)
}

// BoardTask keeps the fields of an unfinished task that the page of leat board shows. It does not change other objects.
func BoardTask(obj any) (any, error) {
	task, ok := obj.(*batch.Task)
	if !ok {
		return obj, nil
	}
	trimmed := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name: task.Name, Namespace: task.Namespace, UID: task.UID, ResourceVersion: task.ResourceVersion,
			CreationTimestamp: task.CreationTimestamp, DeletionTimestamp: task.DeletionTimestamp,
			Labels: selectKeys(task.Labels, taskSetLabels),
		},
		Spec: batch.TaskSpec{WorkerName: task.Spec.WorkerName, QueueName: task.Spec.QueueName, Indexes: task.Spec.Indexes},
		Status: batch.TaskStatus{
			Phase: task.Status.Phase, CompletedCount: task.Status.CompletedCount, IndexLimit: task.Status.IndexLimit,
			State: batch.TaskState{Running: task.Status.State.Running},
		},
	}
	if waiting := task.Status.State.Waiting; waiting != nil {
		trimmed.Status.State.Waiting = &batch.TaskStateWaiting{Reason: waiting.Reason}
	}
	if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil {
		trimmed.Status.Conditions = []metav1.Condition{{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message}}
	}
	return trimmed, nil
}

// FinishedTask keeps the fields that the lifecycle controller reads of a finished task. It does not change other
// objects.
func FinishedTask(obj any) (any, error) {
	task, ok := obj.(*batch.Task)
	if !ok {
		return obj, nil
	}
	status := task.Status
	task.ManagedFields = nil
	task.Spec = batch.TaskSpec{TTLSecondsAfterFinished: task.Spec.TTLSecondsAfterFinished}
	task.Status = batch.TaskStatus{
		Phase: status.Phase, Attempts: status.Attempts, Disruptions: status.Disruptions,
		StartTime: status.StartTime, CompletionTime: status.CompletionTime,
	}
	if terminated := status.State.Terminated; terminated != nil {
		task.Status.State.Terminated = &batch.TaskStateTerminated{Reason: terminated.Reason}
	}
	return task, nil
}

// someIndexes stands for the indexes of every task that has some.
const someIndexes = "0"

// UnfinishedTask keeps the fields that the scheduler reads. Status updates do not write the spec, so the server keeps
// the others. The indexes of a task, which may be long, become someIndexes.
func UnfinishedTask(obj any) (any, error) {
	switch task := obj.(type) {
	case *batch.Task:
		spec := task.Spec
		task.ManagedFields = nil
		task.Spec = batch.TaskSpec{
			QueueName: spec.QueueName, WorkerName: spec.WorkerName, Priority: spec.Priority, Resources: spec.Resources,
			WorkerSelector: spec.WorkerSelector, Tolerations: spec.Tolerations, SchedulingGates: spec.SchedulingGates, Pool: spec.Pool,
		}
		if spec.Indexes != "" {
			task.Spec.Indexes = someIndexes
		}
		return task, nil
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	}
	return nil, fmt.Errorf("unexpected object %T in an informer of tasks", obj)
}

// WithoutManagedFields removes the managed fields of an object. It keeps everything else.
func WithoutManagedFields(obj any) (any, error) {
	if object, ok := obj.(metav1.Object); ok {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

// selectKeys returns the entries of a map with the given keys, nil if there are none.
func selectKeys(from map[string]string, keys []string) map[string]string {
	var selected map[string]string
	for _, key := range keys {
		if value, ok := from[key]; ok {
			if selected == nil {
				selected = make(map[string]string, len(keys))
			}
			selected[key] = value
		}
	}
	return selected
}
