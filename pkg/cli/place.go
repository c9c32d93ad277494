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

package cli

import (
	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
)

// placeOf returns how many eligible tasks of the task's queue are scheduled before the task, and how many there are in
// all.
func placeOf(task *batch.Task, tasks []batch.Task) (before, total int) {
	info := framework.TaskInfo{Object: task}
	for i := range tasks {
		other := framework.TaskInfo{Object: &tasks[i]}
		if !framework.IsEligible(other.Object) || other.Object.Spec.QueueName != task.Spec.QueueName {
			continue
		}
		total++
		if other.Before(&info) {
			before++
		}
	}
	return before, total
}

// unfitReasons returns why the worker cannot run the task now. It returns nothing if it can.
func unfitReasons(task *batch.Task, worker *framework.WorkerInfo) (details []string) {
	info := framework.NewTaskInfo(task)
	for _, reason := range plugins.NewFilters().Reasons(&info, worker) {
		details = append(details, reason.Details...)
	}
	return details
}

// workerInfos returns the workers, in their order, with the bound tasks that have not finished.
func workerInfos(workers []batch.Worker, tasks []batch.Task) []framework.WorkerInfo {
	infos := make([]framework.WorkerInfo, len(workers))
	byName := make(map[string]*framework.WorkerInfo, len(workers))
	for i := range workers {
		infos[i] = framework.NewWorkerInfo(&workers[i])
		byName[workers[i].Name] = &infos[i]
	}
	for i := range tasks {
		worker := byName[tasks[i].Spec.WorkerName]
		if worker == nil || tasks[i].Status.Phase.Finished() {
			continue
		}
		info := framework.NewTaskInfo(&tasks[i])
		worker.AddTask(&info)
	}
	return infos
}

// load is the sum of the requests of bound tasks.
type load struct {
	tasks    int
	requests map[batch.ResourceName]resource.Quantity
}

func (l *load) add(task *batch.Task) {
	l.tasks++
	for name, amount := range task.Spec.Resources.Requests {
		if l.requests == nil {
			l.requests = map[batch.ResourceName]resource.Quantity{}
		}
		sum := l.requests[name]
		sum.Add(amount)
		l.requests[name] = sum
	}
}

// loads returns the load of the bound tasks that have not finished, grouped by key.
func loads(tasks []batch.Task, key func(*batch.Task) string) map[string]load {
	sums := map[string]load{}
	for i := range tasks {
		task := &tasks[i]
		if task.Spec.WorkerName == "" || task.Status.Phase.Finished() {
			continue
		}
		sum := sums[key(task)]
		sum.add(task)
		sums[key(task)] = sum
	}
	return sums
}

func byWorker(task *batch.Task) string { return task.Spec.WorkerName }

func byQueue(task *batch.Task) string { return task.Spec.QueueName }
