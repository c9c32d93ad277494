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

package cache

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

func newCache() *Cache {
	tasks := func(w *framework.WorkerInfo) float64 { return float64(w.Tasks) }
	avoid := func(w *framework.WorkerInfo) bool { return len(w.Taints) > 0 }
	return New(tasks, avoid)
}

func addWorker(c *Cache, name string, places int64, taints ...batch.Taint) *Worker {
	w := c.AddWorker(name)
	c.SetState(w, framework.NewWorkerState(&batch.Worker{
		Spec: batch.WorkerSpec{Taints: taints},
		Status: batch.WorkerStatus{
			Incarnation: "i",
			Allocatable: batch.ResourceList{"tasks": *resource.NewQuantity(places, resource.DecimalSI), "cpu": resource.MustParse("2")},
			Conditions:  []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue}},
		},
	}))
	return w
}

func newTask() *framework.TaskInfo {
	info := framework.NewTaskInfo(&batch.Task{Spec: batch.TaskSpec{
		Resources: batch.TaskResources{Requests: batch.ResourceList{"cpu": resource.MustParse("500m")}},
	}})
	return &info
}

func anyWorker(*Worker) bool { return true }

func TestTheWorkerWithTheLowestScoreIsFirst(t *testing.T) {
	c := newCache()
	a, b := addWorker(c, "a", 2), addWorker(c, "b", 2)
	avoided := addWorker(c, "c", 2, batch.Taint{Key: "k"})
	if got := c.FirstPreferred(anyWorker); got != a {
		t.Errorf("got %v, want a by its name", got)
	}
	c.AddTask(newTask(), a)
	if got := c.FirstPreferred(anyWorker); got != b {
		t.Errorf("got %v, want b", got)
	}
	if got := c.FirstPreferred(func(w *Worker) bool { return w == a }); got != a {
		t.Errorf("got %v, want a because b does not fit", got)
	}
	c.AddTask(newTask(), a) // a is full
	if got := c.FirstPreferred(func(w *Worker) bool { return w == a }); got != nil {
		t.Errorf("got %v, want none because a is full", got)
	}
	if got := c.FirstAvoided(anyWorker); got != avoided {
		t.Errorf("got %v, want c", got)
	}
}

func TestAWorkerExistsWhileItIsRegisteredOrHasTasks(t *testing.T) {
	c := newCache()
	w, task := addWorker(c, "w", 2), newTask()
	c.AddTask(task, w)
	c.SetState(w, framework.WorkerState{})
	c.Prune(w)
	if c.Worker("w") != w {
		t.Error("a worker with a task is removed")
	}
	if c.FirstPreferred(anyWorker) != nil {
		t.Error("a worker that is not registered is offered")
	}
	c.RemoveTask(task, w)
	if w.Tasks != 0 || len(w.Used) != 0 {
		t.Errorf("the worker counts %d tasks with %v", w.Tasks, w.Used)
	}
	c.Prune(w)
	if c.Len() != 0 {
		t.Error("a worker without registration and tasks is kept")
	}
}

func TestDominantShare(t *testing.T) {
	c := newCache()
	addWorker(c, "a", 4)
	w := addWorker(c, "b", 4)
	for _, tc := range []struct {
		tasks int64
		used  framework.Resources
		want  float64
	}{
		{0, nil, 0},
		{2, framework.Resources{"cpu": 500}, 2. / 8},
		{1, framework.Resources{"cpu": 3000}, 3. / 4},
		{1, framework.Resources{"unknown": 5}, 1. / 8},
	} {
		if got := c.DominantShare(tc.tasks, tc.used); got != tc.want {
			t.Errorf("%d tasks with %v: got %v, want %v", tc.tasks, tc.used, got, tc.want)
		}
	}
	c.SetState(w, framework.WorkerState{})
	if got := c.DominantShare(2, nil); got != 2./4 {
		t.Errorf("after a worker is gone: got %v", got)
	}
}
