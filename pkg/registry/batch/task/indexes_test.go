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

package task

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

// chunk returns a task with the eight indexes 4-9,20,21 and that status, which an incarnation runs.
func chunk(completed int32, limit *int32, attempts int32) *batch.Task {
	return newTask(func(task *batch.Task) {
		task.Spec.Indexes = "4-9,20,21"
		task.Status.Incarnation, task.Status.Attempts = "i", attempts
		task.Status.CompletedCount, task.Status.IndexLimit = completed, limit
	})
}

func TestValidateIndexes(t *testing.T) {
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprint(2*i))
	}
	for _, test := range []struct {
		name string
		spec batch.TaskSpec
		want []string
	}{
		{"none", batch.TaskSpec{}, nil},
		{"some", batch.TaskSpec{Indexes: "4-9,20"}, nil},
		{"as many as there may be", batch.TaskSpec{Indexes: "0-999"}, nil},
		{"more than there may be", batch.TaskSpec{Indexes: "0-1000"}, []string{
			`spec.indexes: Invalid value: "0-1000": must be at most 1000 indexes in 64 ranges, and are 1001 in 1`,
		}},
		{"more ranges than there may be", batch.TaskSpec{Indexes: strings.Join(many, ",")}, []string{
			`spec.indexes: Invalid value: "` + strings.Join(many, ",") + `": must be at most 1000 indexes in 64 ranges, and are 65 in 65`,
		}},
		{"not ascending", batch.TaskSpec{Indexes: "4,3"}, []string{`spec.indexes: Invalid value: "4,3": "3": indexes must ascend and not overlap`}},
		{"not indexes", batch.TaskSpec{Indexes: "a"}, []string{`spec.indexes: Invalid value: "a": "a": an index must be a whole number, written in digits`}},
		{"retries in the worker", batch.TaskSpec{Indexes: "1,2", BackoffLimit: ptr.To[int32](1)}, []string{
			`spec.backoffLimit: Invalid value: 1: must be 0 with indexes: the task stops at its first failure`,
		}},
		{"items", batch.TaskSpec{Indexes: "4,5", Items: []string{"a", "b"}}, nil},
		{"another number of items", batch.TaskSpec{Indexes: "4,5", Items: []string{"a"}}, []string{
			`spec.items: Invalid value: must be unset or 2, one for each of indexes, and are 1`,
		}},
		{"an item that no process takes", batch.TaskSpec{Indexes: "4,5", Items: []string{"a", "b\x00"}}, []string{
			`spec.items[1]: Invalid value: "b\x00": must not contain a NUL character`,
		}},
		{"numbers", batch.TaskSpec{Indexes: "4,5", IndexNumbers: &batch.IndexNumbers{List: []int32{7, 8}}}, nil},
		{"another number of numbers", batch.TaskSpec{Indexes: "4,5", IndexNumbers: &batch.IndexNumbers{List: []int32{7}}}, []string{
			`spec.indexNumbers.list: Invalid value: must be unset or 2 numbers, one for each of indexes, and are 1`,
		}},
		{"items and numbers without indexes", batch.TaskSpec{Items: []string{"a"}, IndexNumbers: &batch.IndexNumbers{}}, []string{
			`spec.items: Forbidden: may be set only with indexes`, `spec.indexNumbers: Forbidden: may be set only with indexes`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spec.Command = []string{"true"}
			if diff := cmp.Diff(test.want, texts(ValidateSpec(&test.spec, field.NewPath("spec")))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestValidateIndexStatus(t *testing.T) {
	in := func(phase batch.TaskPhase, task *batch.Task) *batch.Task {
		task.Status.Phase = phase
		return task
	}
	for _, test := range []struct {
		name string
		task *batch.Task
		want string
	}{
		{"nothing has run", chunk(0, nil, 0), ""},
		{"the last index runs", chunk(7, nil, 1), ""},
		{"all indexes have succeeded", in(batch.TaskSucceeded, chunk(8, nil, 1)), ""},
		{"the rest is released", in(batch.TaskSucceeded, chunk(3, nil, 1)), ""},
		{"the last index has failed", in(batch.TaskFailed, chunk(7, nil, 1)), ""},
		{"nothing has succeeded", in(batch.TaskSucceeded, chunk(0, nil, 1)), `status.completedCount: Invalid value: 0: must be at least 1 in phase Succeeded`},
		{
			"more than there are", in(batch.TaskSucceeded, chunk(9, nil, 1)),
			`status.completedCount: Invalid value: 9: must be at most 8, the number of indexes that the task may run`,
		},
		{
			"more than it may run", in(batch.TaskSucceeded, chunk(4, ptr.To[int32](3), 1)),
			`status.completedCount: Invalid value: 4: must be at most 3, the number of indexes that the task may run`,
		},
		{
			"nothing is left to run", in(batch.TaskRunning, chunk(3, ptr.To[int32](3), 1)),
			`status.completedCount: Invalid value: 3: must be less than 3, the number of indexes that the task may run, unless the phase is Succeeded`,
		},
		{
			"nothing is left to fail", in(batch.TaskFailed, chunk(8, nil, 1)),
			`status.completedCount: Invalid value: 8: must be less than 8, the number of indexes that the task may run, unless the phase is Succeeded`,
		},
		{
			"without indexes", newTask(func(task *batch.Task) { task.Status.CompletedCount = 1 }),
			`status.completedCount: Forbidden: may be set only in a task with spec.indexes`,
		},
		{
			"a limit without indexes", newTask(func(task *batch.Task) { task.Status.IndexLimit = ptr.To[int32](1) }),
			`status.indexLimit: Forbidden: may be set only in a task with spec.indexes`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(texts(Rules{}.ValidateStatus(t.Context(), test.task)), "; "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestAnEvictionReleasesIndexes checks that an evicted task keeps the index that runs, and that others may run the
// rest.
func TestAnEvictionReleasesIndexes(t *testing.T) {
	for _, test := range []struct {
		name  string
		task  *batch.Task
		limit *int32
	}{
		{"nothing has run", chunk(0, nil, 0), ptr.To[int32](1)},
		{"some have succeeded", chunk(3, nil, 1), ptr.To[int32](4)},
		{"the last one runs", chunk(7, nil, 1), ptr.To[int32](8)},
		{"the rest is released already", chunk(3, ptr.To[int32](4), 1), ptr.To[int32](4)},
		{"without indexes", newTask(), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.task.Spec.WorkerName = "w"
			before := test.task.DeepCopy()
			if err := evict(test.task, &batch.Eviction{Reason: "WorkerLost"}, metav1.Now()); err != nil {
				t.Fatal(err)
			}
			after := test.task.Status
			if !ptr.Equal(after.IndexLimit, test.limit) || after.CompletedCount != before.Status.CompletedCount || after.Attempts != before.Status.Attempts {
				t.Errorf("got limit %v, %d completed and %d attempts; want %v, %d, %d", ptr.Deref(after.IndexLimit, -1), after.CompletedCount, after.Attempts,
					ptr.Deref(test.limit, -1), before.Status.CompletedCount, before.Status.Attempts)
			}
			if errs := (Rules{}).ValidateStatus(t.Context(), test.task); len(errs) > 0 {
				t.Error(errs)
			}
		})
	}
}

func TestIndexesColumn(t *testing.T) {
	for want, task := range map[string]*batch.Task{"": newTask(), "0/8": chunk(0, nil, 0), "3/8": chunk(3, nil, 1), "3/4": chunk(3, ptr.To[int32](4), 1)} {
		if got := IndexesColumn(task); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestLogsAreReadOnlyOfIndexesOfTheTask(t *testing.T) {
	for _, test := range []struct {
		task    *batch.Task
		indexes string
		want    string
	}{
		{chunk(0, nil, 0), "", ""},
		{chunk(0, nil, 0), "4,9,20", ""},
		{chunk(0, nil, 0), "9-11", `indexes: "9-11": task a runs the indexes 4-9,20,21, and not 10,11`},
		{chunk(0, nil, 0), "x", `indexes: "x": an index must be a whole number, written in digits`},
		{newTask(), "1", `indexes: "1": task a does not have several indexes: leave it out`},
		{newTask(), "", ""},
	} {
		got := ""
		if err := checkIndexes(test.task, test.indexes); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("indexes %q of a task with %q: got %q, want %q", test.indexes, test.task.Spec.Indexes, got, test.want)
		}
	}
}
