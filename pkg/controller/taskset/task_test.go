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

package taskset

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestTasksOfASetWithNumbers(t *testing.T) {
	set := &batch.TaskSet{}
	set.Spec.Items = []string{"a", "b"}
	set.Spec.IndexNumbers = &batch.IndexNumbers{List: []int32{3, 17}}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "FILE", Value: "in-$(TASK_INDEX)"}}
	want := []batch.EnvVar{
		{Name: "TASK_ITEM", Value: "b"}, {Name: "JOB_COMPLETION_INDEX", Value: "1"}, {Name: "TASK_INDEX", Value: "17"}, {Name: "FILE", Value: "in-$(TASK_INDEX)"},
	}
	task := newTask(set, start{index: 1})
	if diff := cmp.Diff(want, task.Spec.Env); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if label := task.Labels[batch.LabelCompletionIndex]; label != "1" {
		t.Errorf("the label with the index is %q", label)
	}
}
