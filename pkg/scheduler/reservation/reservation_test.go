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

package reservation

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

func newTask(name, cpu string, mutate ...func(*batch.Task)) *framework.TaskInfo {
	obj := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}}
	obj.Spec.Resources.Requests = batch.ResourceList{"cpu": resource.MustParse(cpu)}
	for _, m := range mutate {
		m(obj)
	}
	info := framework.NewTaskInfo(obj)
	return &info
}

func urgent(t *batch.Task)  { t.Spec.Priority = 1 }
func crashed(t *batch.Task) { t.Status.WorkerCrashes = 1 }

func newWorker(name string, places int64, cpu string) *framework.WorkerInfo {
	info := framework.NewWorkerInfo(&batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: batch.WorkerStatus{Allocatable: batch.ResourceList{
			"tasks": *resource.NewQuantity(places, resource.DecimalSI), "cpu": resource.MustParse(cpu),
		}},
	})
	return &info
}

func TestAReservedWorkerAdmitsWhatLeavesRoom(t *testing.T) {
	for _, tc := range []struct {
		name   string
		large  *framework.TaskInfo
		shares []*framework.TaskInfo // placed before
		task   *framework.TaskInfo
		places int64
		want   bool
	}{
		{name: "room for both", large: newTask("a", "6"), task: newTask("b", "2"), places: 4, want: true},
		{name: "too little cpu", large: newTask("a", "6"), task: newTask("b", "3"), places: 4},
		{name: "too little cpu after another", large: newTask("a", "6"), shares: []*framework.TaskInfo{newTask("c", "1")}, task: newTask("b", "2"), places: 4},
		{name: "no place", large: newTask("a", "6"), task: newTask("b", "1"), places: 1},
		{name: "no place after another", large: newTask("a", "1"), shares: []*framework.TaskInfo{newTask("c", "1")}, task: newTask("b", "1"), places: 2},
		{name: "scheduled before", large: newTask("a", "8"), task: newTask("b", "8", urgent), places: 1, want: true},
		{name: "runs alone", large: newTask("a", "1"), task: newTask("b", "1", crashed), places: 4},
		{name: "beside one that runs alone", large: newTask("a", "1", crashed), task: newTask("b", "1"), places: 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, worker := New(), newWorker("w", tc.places, "8")
			rs.Reserve(tc.large, worker)
			for _, task := range tc.shares {
				rs.AddTask(task, worker)
			}
			if got := rs.Admits(tc.task, worker); got != tc.want {
				t.Errorf("Admits returns %v, want %v", got, tc.want)
			}
			if !rs.Admits(tc.large, worker) {
				t.Error("the task of the reservation is not admitted")
			}
			if !rs.Admits(tc.task, newWorker("other", 4, "8")) {
				t.Error("a worker without a reservation does not admit the task")
			}
			for _, task := range tc.shares {
				rs.RemoveTask(task)
			}
			if n, used := rs.OfWorker(worker).Sharing(); n != 0 || len(used) != 0 {
				t.Errorf("%d tasks with %v share the reservation after all were removed", n, used)
			}
			rs.Release(rs.OfTask(tc.large))
			if !rs.Admits(tc.task, worker) || rs.Len() != 0 || rs.OfWorker(worker) != nil {
				t.Error("the reservation is not released")
			}
		})
	}
}

func TestOnlyTasksThatAreScheduledLaterShareAReservation(t *testing.T) {
	rs, worker := New(), newWorker("w", 8, "8")
	large, before, after := newTask("m", "4"), newTask("a", "1"), newTask("z", "1")
	rs.AddTask(after, worker) // the worker is not reserved yet
	rs.Reserve(large, worker)
	for _, task := range []*framework.TaskInfo{large, before} {
		rs.AddTask(task, worker)
		if rs.OfSharing(task) != nil {
			t.Errorf("%s shares the reservation", task.Object.Name)
		}
	}
	rs.AddTask(after, worker)
	if n, used := rs.OfTask(large).Sharing(); n != 1 || used["cpu"] != 1000 {
		t.Errorf("%d tasks with %v share the reservation, want 1 with 1000", n, used)
	}
	rs.Release(rs.OfTask(large))
	rs.RemoveTask(after) // the reservation is gone meanwhile
	if rs.OfSharing(after) != nil {
		t.Error("a removed task shares a reservation")
	}
}
