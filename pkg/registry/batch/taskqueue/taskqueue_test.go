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

package taskqueue

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func TestValidate(t *testing.T) {
	queue := &batch.TaskQueue{Spec: batch.TaskQueueSpec{Resources: batch.TaskQueueResources{Limits: batch.ResourceList{
		"cpu": resource.MustParse("500m"), "example.com/gpu": resource.MustParse("1"), "tasks": resource.MustParse("2"),
	}}}}
	var got []string
	for _, err := range (Rules{}).Validate(t.Context(), queue) {
		got = append(got, err.Error())
	}
	want := []string{`spec.resources.limits[tasks]: Unsupported value: "tasks": supported values: "cpu", "memory", "example.com/any-name"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestColumns(t *testing.T) {
	for _, test := range []struct {
		name        string
		spec        batch.TaskQueueSpec
		limit, stop string
	}{
		{"as it is by default", batch.TaskQueueSpec{StopPolicy: ptr.To(batch.StopPolicyNone)}, "", ""},
		{"limited", batch.TaskQueueSpec{MaxRunningTasks: ptr.To[int32](5)}, "5", ""},
		{"limited to nothing", batch.TaskQueueSpec{MaxRunningTasks: ptr.To[int32](0)}, "0", ""},
		{"held", batch.TaskQueueSpec{StopPolicy: ptr.To(batch.StopPolicyHold)}, "", "Hold"},
		{"drained", batch.TaskQueueSpec{StopPolicy: ptr.To(batch.StopPolicyHoldAndDrain)}, "", "HoldAndDrain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			queue := &batch.TaskQueue{Spec: test.spec}
			if got := LimitColumn(queue); got != test.limit {
				t.Errorf("limit: got %q, want %q", got, test.limit)
			}
			if got := StopColumn(queue); got != test.stop {
				t.Errorf("stop: got %q, want %q", got, test.stop)
			}
		})
	}
}
