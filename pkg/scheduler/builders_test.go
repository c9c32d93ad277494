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
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func nameOf(obj metav1.Object) toolscache.ObjectName { return toolscache.MetaObjectToName(obj) }

// newWorker returns a ready worker with so many places.
func newWorker(name string, places int64, mutate ...func(*batch.Worker)) *batch.Worker {
	w := &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid-of-" + "worker"},
		Status: batch.WorkerStatus{
			Incarnation: "first",
			Allocatable: batch.ResourceList{batch.ResourceTasks: *resource.NewQuantity(places, resource.DecimalSI)},
			Conditions:  []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "Ready"}},
		},
	}
	for _, m := range mutate {
		m(w)
	}
	return w
}

func newQueue(name string, weight int32, mutate ...func(*batch.TaskQueue)) *batch.TaskQueue {
	q := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: batch.TaskQueueSpec{Weight: &weight}}
	for _, m := range mutate {
		m(q)
	}
	return q
}

func newTask(name string, mutate ...func(*batch.Task)) *batch.Task {
	t := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       batch.TaskSpec{Command: []string{"true"}},
		Status:     batch.TaskStatus{Phase: batch.TaskPending},
	}
	for _, m := range mutate {
		m(t)
	}
	return t
}

func notReady(w *batch.Worker) { w.Status.Conditions[0].Status = metav1.ConditionFalse }
func cordoned(w *batch.Worker) { w.Spec.Unschedulable = true }
func denied(w *batch.Worker)   { w.Spec.Denied = true }

func tainted(key, value string, effect batch.TaintEffect) func(*batch.Worker) {
	return func(w *batch.Worker) {
		w.Spec.Taints = append(w.Spec.Taints, batch.Taint{Key: key, Value: value, Effect: effect})
	}
}

// disrupted sets the condition of an evicted task.
func disrupted(reason string) func(*batch.Task) {
	return func(t *batch.Task) {
		t.Status.Conditions = []metav1.Condition{{Type: batch.DisruptionTarget, Status: metav1.ConditionTrue, Reason: reason}}
	}
}

func labelled(key, value string) func(*batch.Worker) {
	return func(w *batch.Worker) { w.Labels = map[string]string{key: value} }
}

func with(name batch.ResourceName, amount string) func(*batch.Worker) {
	return func(w *batch.Worker) { w.Status.Allocatable[name] = resource.MustParse(amount) }
}

func featuring(feature batch.WorkerFeature) func(*batch.Worker) {
	return func(w *batch.Worker) { w.Status.WorkerInfo.Features = append(w.Status.WorkerInfo.Features, feature) }
}

func withIndexes(t *batch.Task) { t.Spec.Indexes = "0-3" }

// crashed sets how often the worker of a task has crashed.
func crashed(times int32) func(*batch.Task) {
	return func(t *batch.Task) { t.Status.WorkerCrashes = times }
}

func requesting(name batch.ResourceName, amount string) func(*batch.Task) {
	return func(t *batch.Task) {
		if t.Spec.Resources.Requests == nil {
			t.Spec.Resources.Requests = batch.ResourceList{}
		}
		t.Spec.Resources.Requests[name] = resource.MustParse(amount)
	}
}

func tolerating(t batch.Toleration) func(*batch.Task) {
	return func(task *batch.Task) { task.Spec.Tolerations = append(task.Spec.Tolerations, t) }
}

func selecting(key, value string) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{key: value} }
}

func inPool(name string) func(*batch.Task) { return func(t *batch.Task) { t.Spec.Pool = name } }

func inQueue(name string) func(*batch.Task) { return func(t *batch.Task) { t.Spec.QueueName = name } }

func prioritized(p int32) func(*batch.Task) { return func(t *batch.Task) { t.Spec.Priority = p } }

func created(at time.Time) func(*batch.Task) {
	return func(t *batch.Task) { t.CreationTimestamp = metav1.NewTime(at) }
}

func on(worker string) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.WorkerName, t.Status.Incarnation = worker, "first" }
}

func held(q *batch.TaskQueue)    { q.Spec.StopPolicy = ptr.To(batch.StopPolicyHold) }
func drained(q *batch.TaskQueue) { q.Spec.StopPolicy = ptr.To(batch.StopPolicyHoldAndDrain) }

func atMost(n int32) func(*batch.TaskQueue) {
	return func(q *batch.TaskQueue) { q.Spec.MaxRunningTasks = &n }
}

func limited(name batch.ResourceName, amount string) func(*batch.TaskQueue) {
	return func(q *batch.TaskQueue) {
		q.Spec.Resources.Limits = newTask("", requesting(name, amount)).Spec.Resources.Requests
	}
}

func labelledTask(t *batch.Task) { t.Labels = map[string]string{"a": "b"} }
