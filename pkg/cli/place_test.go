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
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

func waiting(name string, priority int32, second int64, changes ...func(*batch.Task)) batch.Task {
	task := batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(second, 0)},
		Spec:       batch.TaskSpec{QueueName: "q", Priority: priority},
		Status:     batch.TaskStatus{Phase: batch.TaskPending},
	}
	for _, change := range changes {
		change(&task)
	}
	return task
}

func TestPlaceInTheQueue(t *testing.T) {
	now := metav1.Now()
	tasks := []batch.Task{
		waiting("old", 0, 1), waiting("young", 0, 3), waiting("b-same", 0, 2), waiting("a-same", 0, 2),
		waiting("urgent", 5, 9), waiting("whenever", -1, 0),
		waiting("elsewhere", 9, 0, func(t *batch.Task) { t.Spec.QueueName = "other" }),
		waiting("bound", 9, 0, func(t *batch.Task) { t.Spec.WorkerName = "w" }),
		waiting("gated", 9, 0, func(t *batch.Task) { t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "g"}} }),
		waiting("deleted", 9, 0, func(t *batch.Task) { t.DeletionTimestamp = &now }),
		waiting("done", 9, 0, func(t *batch.Task) { t.Status.Phase = batch.TaskFailed }),
	}
	var order []string
	for want := range 6 {
		for i := range tasks[:6] {
			if before, total := placeOf(&tasks[i], tasks); total != 6 {
				t.Fatalf("%d wait", total)
			} else if before == want {
				order = append(order, tasks[i].Name)
			}
		}
	}
	if want := []string{"urgent", "old", "a-same", "b-same", "young", "whenever"}; !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
}

func crashedOnce(task batch.Task) batch.Task {
	task.Status.WorkerCrashes = 1
	return task
}

func onWorker(task batch.Task) *batch.Task {
	task.Spec.WorkerName = "w"
	return &task
}

func TestUnfitReasons(t *testing.T) {
	worker := func(changes ...func(*batch.Worker)) *batch.Worker {
		w := &batch.Worker{
			ObjectMeta: metav1.ObjectMeta{Name: "w", Labels: map[string]string{"disk": "ssd"}},
			Status: batch.WorkerStatus{
				Incarnation: "i",
				Allocatable: batch.ResourceList{"tasks": resource.MustParse("4"), "cpu": resource.MustParse("2")},
				Conditions:  []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue}},
			},
		}
		for _, change := range changes {
			change(w)
		}
		return w
	}
	asks := func(name batch.ResourceName, amount string) func(*batch.Task) {
		return func(t *batch.Task) { t.Spec.Resources.Requests = batch.ResourceList{name: resource.MustParse(amount)} }
	}
	for _, test := range []struct {
		name   string
		task   batch.Task
		worker *batch.Worker
		taken  framework.WorkerInfo
		want   []string
	}{
		{"room", waiting("t", 0, 0, asks("cpu", "2")), worker(), framework.WorkerInfo{Tasks: 3}, nil},
		{"full", waiting("t", 0, 0), worker(), framework.WorkerInfo{Tasks: 4}, []string{"is full: 4 of 4 tasks"}},
		{
			"taken", waiting("t", 0, 0, asks("cpu", "1500m")), worker(),
			framework.WorkerInfo{Tasks: 1, Used: framework.Resources{"cpu": 1000}},
			[]string{"has 1 of 2 cpu free, and the task asks for 1500m"},
		},
		{"too small", waiting("t", 0, 0, asks("cpu", "3")), worker(), framework.WorkerInfo{}, []string{"has 2 cpu in all, and the task asks for 3"}},
		{"has none", waiting("t", 0, 0, asks("example.com/gpu", "1")), worker(), framework.WorkerInfo{}, []string{"has 0 example.com/gpu in all, and the task asks for 1"}},
		{"cordoned", waiting("t", 0, 0), worker(func(w *batch.Worker) { w.Spec.Unschedulable = true }), framework.WorkerInfo{}, []string{"is cordoned"}},
		{"denied", waiting("t", 0, 0), worker(func(w *batch.Worker) { w.Spec.Denied = true }), framework.WorkerInfo{}, []string{"is denied"}},
		{
			"beside one that runs alone", waiting("t", 0, 0), worker(), workerInfos([]batch.Worker{*worker()}, []batch.Task{*onWorker(crashedOnce(waiting("c", 0, 0)))})[0],
			[]string{"runs a task alone whose worker has crashed before"},
		},
		{
			"alone", crashedOnce(waiting("t", 0, 0)), worker(), framework.WorkerInfo{Tasks: 2},
			[]string{"runs 2 other tasks, and the task runs alone since its worker has crashed"},
		},
		{"alone on an empty worker", crashedOnce(waiting("t", 0, 0)), worker(), framework.WorkerInfo{}, nil},
		{
			"away", waiting("t", 0, 0), worker(func(w *batch.Worker) {
				w.Status.Conditions[0].Status, w.Status.Conditions[0].Reason = metav1.ConditionUnknown, "WorkerStatusUnknown"
				w.Spec.Taints = []batch.Taint{{Key: "k", Value: "v", Effect: batch.TaintEffectNoExecute}, {Key: "l", Effect: batch.TaintEffectPreferNoSchedule}}
			}), framework.WorkerInfo{}, []string{"is not ready (WorkerStatusUnknown)", "has the taint k=v:NoExecute, which the task does not tolerate"},
		},
		{
			"tolerated", waiting("t", 0, 0, func(t *batch.Task) { t.Spec.Tolerations = []batch.Toleration{{Operator: batch.TolerationOpExists}} }),
			worker(func(w *batch.Worker) { w.Spec.Taints = []batch.Taint{{Key: "k", Effect: batch.TaintEffectNoSchedule}} }), framework.WorkerInfo{}, nil,
		},
		{
			"labels", waiting("t", 0, 0, func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"disk": "ssd", "zone": "a"} }),
			worker(), framework.WorkerInfo{}, []string{"lacks the label zone=a"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			info := framework.NewWorkerInfo(test.worker)
			info.Tasks, info.TasksAlone, info.Used = test.taken.Tasks, test.taken.TasksAlone, test.taken.Used
			if got := unfitReasons(&test.task, &info); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 240 * time.Millisecond: "0.2s", 2 * time.Second: "2s", 9960 * time.Millisecond: "10s", 90 * time.Second: "90s", 3 * time.Hour: "3h",
	} {
		if got := age(d); got != want {
			t.Errorf("%v is written %q, expected %q", d, got, want)
		}
	}
}
