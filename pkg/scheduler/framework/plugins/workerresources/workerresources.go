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

// Package workerresources has the filter for places and resources of workers.
package workerresources

import (
	"fmt"
	"strconv"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// WorkerResources rejects workers that have no place left, or less of a resource than the task requests.
type WorkerResources struct{}

var _ framework.FilterPlugin = WorkerResources{}

// Name returns the name of the plugin.
func (WorkerResources) Name() string { return "WorkerResources" }

// Filter reports whether the worker has a place and all resources that the task requests.
func (WorkerResources) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	if isFull(worker) {
		return false
	}
	for _, name := range task.ResourceNames {
		if isInsufficient(task, worker, name) {
			return false
		}
	}
	return true
}

// Reasons returns a reason for each resource that the worker has too little of.
func (WorkerResources) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) (reasons []framework.Reason) {
	if isFull(worker) {
		reasons = append(reasons, framework.Reason{
			Summary: "had no room for tasks",
			Details: []string{fullDetail(worker)},
		})
	}
	for _, name := range task.ResourceNames {
		if isInsufficient(task, worker, name) {
			reasons = append(reasons, framework.Reason{
				Summary: "had insufficient " + string(name),
				Details: []string{insufficientDetail(task, worker, name)},
			})
		}
	}
	return reasons
}

// Sign appends the requests of the task.
func (WorkerResources) Sign(signature []byte, task *framework.TaskInfo) []byte {
	if len(task.ResourceNames) == 0 {
		return signature
	}
	signature = append(signature, "WorkerResources:"...)
	for _, name := range task.ResourceNames {
		signature = strconv.AppendQuote(signature, string(name))
		signature = append(signature, '=')
		signature = strconv.AppendInt(signature, task.Requests[name], 10)
		signature = append(signature, ',')
	}
	return append(signature, ';')
}

func isFull(worker *framework.WorkerInfo) bool {
	return worker.Tasks >= worker.Allocatable[batch.ResourceTasks]
}

func fullDetail(worker *framework.WorkerInfo) string {
	slots := worker.Allocatable[batch.ResourceTasks]
	if waiting := worker.Tasks - slots; waiting > 0 && waiting <= worker.PrefetchLimit {
		return fmt.Sprintf("is full: %d of %d tasks, and %d prefetched", slots, slots, waiting)
	}
	return fmt.Sprintf("is full: %d of %d tasks", worker.Tasks, slots)
}

func isInsufficient(task *framework.TaskInfo, worker *framework.WorkerInfo, name batch.ResourceName) bool {
	return task.Requests[name] > worker.Allocatable[name]-worker.Used[name]
}

// insufficientDetail formats quantities as the objects have them.
func insufficientDetail(task *framework.TaskInfo, worker *framework.WorkerInfo, name batch.ResourceName) string {
	allocatable := framework.Quantity(name, worker.Allocatable[name])
	if worker.Object != nil {
		allocatable = worker.Object.Status.Allocatable[name]
	}
	request := task.Object.Spec.Resources.Requests[name]
	if task.Requests[name] > worker.Allocatable[name] {
		return fmt.Sprintf("has %s %s in all, and the task asks for %s", allocatable.String(), name, request.String())
	}
	free := allocatable.DeepCopy()
	free.Sub(framework.Quantity(name, worker.Used[name]))
	return fmt.Sprintf("has %s of %s %s free, and the task asks for %s", free.String(), allocatable.String(), name, request.String())
}
