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

package worker

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
)

func list(pairs ...string) batch.ResourceList {
	list := batch.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[batch.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func TestValidateStatus(t *testing.T) {
	for _, test := range []struct {
		name                  string
		capacity, allocatable batch.ResourceList
		want                  []string
	}{
		{"nothing said", nil, nil, nil},
		{"all of it", list("tasks", "4", "cpu", "2", "example.com/gpu", "1"), list("tasks", "4", "cpu", "2000m", "example.com/gpu", "1"), nil},
		{"less", list("tasks", "4", "memory", "1Gi"), list("tasks", "2"), nil},
		{
			"more", list("cpu", "1"), list("cpu", "1001m", "tasks", "1"),
			[]string{
				`status.allocatable[cpu]: Invalid value: "1001m": must be less than or equal to the capacity, 1`,
				`status.allocatable[tasks]: Invalid value: "1": must be less than or equal to the capacity, 0`,
			},
		},
		{
			"unknown", list("gpu", "1"), nil,
			[]string{`status.capacity[gpu]: Unsupported value: "gpu": supported values: "cpu", "memory", "tasks", "example.com/any-name"`},
		},
		{
			"broken", list("tasks", "4"), list("tasks", "1500m"),
			[]string{`status.allocatable[tasks]: Invalid value: "1500m": must be a whole number`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			worker := &batch.Worker{Status: batch.WorkerStatus{Capacity: test.capacity, Allocatable: test.allocatable}}
			var got []string
			for _, err := range (Rules{}).ValidateStatus(t.Context(), worker) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestDenyWhileBeingDeleted(t *testing.T) {
	now := metav1.Now()
	for name, test := range map[string]struct {
		old, to *batch.Worker
		want    string
	}{
		"created denied": {nil, &batch.Worker{Spec: batch.WorkerSpec{Denied: true}}, ""},
		"denied":         {&batch.Worker{}, &batch.Worker{Spec: batch.WorkerSpec{Denied: true}}, ""},
		"denied too late": {
			&batch.Worker{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}},
			&batch.Worker{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Spec: batch.WorkerSpec{Denied: true}},
			"spec.denied: Forbidden: must not be set while the Worker is being deleted: deny its name when it is gone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if errs := (Rules{}).ValidateChange(t.Context(), test.to, test.old); len(errs) > 0 {
				got = errs[0].Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	ready := func(status metav1.ConditionStatus) []metav1.Condition {
		return []metav1.Condition{{Type: batch.WorkerReady, Status: status}}
	}
	for _, test := range []struct {
		worker        batch.Worker
		status, tasks string
	}{
		{batch.Worker{}, "Unknown", ""},
		{
			batch.Worker{Status: batch.WorkerStatus{Conditions: ready(metav1.ConditionTrue), Allocatable: list("tasks", "8"), RunningTasks: 3}},
			"Ready", "3/8",
		},
		{batch.Worker{Status: batch.WorkerStatus{Conditions: ready(metav1.ConditionFalse), Allocatable: list("cpu", "8")}}, "NotReady", ""},
		{batch.Worker{Status: batch.WorkerStatus{Conditions: ready(metav1.ConditionUnknown)}}, "Unknown", ""},
		{
			batch.Worker{Spec: batch.WorkerSpec{Unschedulable: true}, Status: batch.WorkerStatus{Conditions: ready(metav1.ConditionTrue)}},
			"Ready,SchedulingDisabled", "",
		},
		{batch.Worker{Spec: batch.WorkerSpec{Denied: true}}, "Unknown,Denied", ""},
	} {
		t.Run(test.status, func(t *testing.T) {
			if got := StatusColumn(&test.worker); got != test.status {
				t.Errorf("status: got %q", got)
			}
			if got := TasksColumn(&test.worker); got != test.tasks {
				t.Errorf("tasks: got %q, want %q", got, test.tasks)
			}
		})
	}
}
