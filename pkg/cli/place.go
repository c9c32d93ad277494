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
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// waits tells whether a task is in the queue of the scheduler.
func waits(task *batch.Task) bool {
	return task.Spec.WorkerName == "" && task.DeletionTimestamp == nil && len(task.Spec.SchedulingGates) == 0 && !finishedTask(task)
}

// placeOf gives how many of the tasks wait and go before the task, and how many wait in all: those of higher priority first,
// then the older ones, then by name, as the scheduler takes them from one queue.
func placeOf(task *batch.Task, tasks []batch.Task) (before, total int) {
	for i := range tasks {
		other := &tasks[i]
		if !waits(other) || other.Spec.QueueName != task.Spec.QueueName {
			continue
		}
		total++
		order := cmp.Or(
			cmp.Compare(task.Spec.Priority, other.Spec.Priority),
			other.CreationTimestamp.Compare(task.CreationTimestamp.Time),
			strings.Compare(other.Name, task.Name),
		)
		if order < 0 {
			before++
		}
	}
	return before, total
}

// refusals gives why a worker does not take a task now: nothing if it could. taken is what the tasks that it has ask for.
func refusals(task *batch.Task, worker *batch.Worker, taken load) []string {
	var why []string
	if !meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
		reason := "is not ready"
		if c := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); c != nil && c.Reason != "" {
			reason += " (" + c.Reason + ")"
		}
		why = append(why, reason)
	}
	if worker.Spec.Denied {
		why = append(why, "is denied")
	}
	if worker.Spec.Unschedulable {
		why = append(why, "is cordoned")
	}
	for i := range worker.Spec.Taints {
		taint := &worker.Spec.Taints[i]
		if taint.Effect == batch.TaintEffectPreferNoSchedule ||
			slices.ContainsFunc(task.Spec.Tolerations, func(t batch.Toleration) bool { return t.ToleratesTaint(taint) }) {
			continue
		}
		why = append(why, fmt.Sprintf("has the taint %s=%s:%s, which the task does not tolerate", taint.Key, taint.Value, taint.Effect))
	}
	for _, key := range sortedKeys(task.Spec.WorkerSelector) {
		want := task.Spec.WorkerSelector[key]
		if got, ok := worker.Labels[key]; !ok || got != want {
			why = append(why, "lacks the label "+labels.Set{key: want}.String())
		}
	}
	if capacity, ok := worker.Status.Allocatable[batch.ResourceTasks]; !ok || int64(taken.tasks) >= capacity.Value() {
		why = append(why, fmt.Sprintf("is full: %d of %d tasks", taken.tasks, capacity.Value()))
	}
	switch {
	case taken.alone:
		why = append(why, "runs a task alone whose worker has crashed before")
	case runsAlone(task) && taken.tasks > 0:
		why = append(why, fmt.Sprintf("runs %s, and the task runs alone since its worker has crashed", plural(taken.tasks, "other task")))
	}
	for _, name := range sortedKeys(task.Spec.Resources.Requests) {
		if name == batch.ResourceTasks {
			continue
		}
		wanted, has := task.Spec.Resources.Requests[name], worker.Status.Allocatable[name]
		free := has.DeepCopy()
		used := taken.requests[name]
		free.Sub(used)
		if free.Cmp(wanted) >= 0 {
			continue
		}
		if has.Cmp(wanted) < 0 {
			why = append(why, fmt.Sprintf("has %s %s in all, and the task asks for %s", has.String(), name, wanted.String()))
		} else {
			why = append(why, fmt.Sprintf("has %s of %s %s free, and the task asks for %s", free.String(), has.String(), name, wanted.String()))
		}
	}
	return why
}

// runsAlone reports whether the scheduler gives the task a worker of its own.
func runsAlone(task *batch.Task) bool { return task.Status.WorkerCrashes > 0 }

// load is what the tasks of a worker, or of a queue, take together.
type load struct {
	tasks    int
	alone    bool // whether one of them runs alone
	requests map[batch.ResourceName]resource.Quantity
}

func (l *load) add(task *batch.Task) {
	l.tasks++
	l.alone = l.alone || runsAlone(task)
	for name, amount := range task.Spec.Resources.Requests {
		if l.requests == nil {
			l.requests = map[batch.ResourceName]resource.Quantity{}
		}
		sum := l.requests[name]
		sum.Add(amount)
		l.requests[name] = sum
	}
}

// loads sums up what is bound, by whatever key says.
func loads(tasks []batch.Task, key func(*batch.Task) string) map[string]load {
	sums := map[string]load{}
	for i := range tasks {
		task := &tasks[i]
		if task.Spec.WorkerName == "" || finishedTask(task) {
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
