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

package v1alpha1

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestNamesOfTasksDoNotRepeat(t *testing.T) {
	seen := map[string]bool{}
	for _, uid := range []types.UID{"a", "b"} {
		for index := range 50 {
			for failures := range 50 {
				name := taskName("set", uid, index, failures)
				if seen[name] {
					t.Fatalf("%q comes twice", name)
				}
				seen[name] = true
			}
		}
	}
}

func TestTasksCarryNoFailuresOfTheTemplate(t *testing.T) {
	set := &TaskSet{}
	set.Spec.Template.Annotations = map[string]string{"note": "mine", AnnotationIndexFailureCount: "7"}
	for failures, want := range []map[string]string{{"note": "mine"}, {"note": "mine", AnnotationIndexFailureCount: "1"}} {
		if got := NewTask(set, 3, failures).Annotations; !maps.Equal(got, want) {
			t.Errorf("after %d failures the annotations are %v, want %v", failures, got, want)
		}
	}
	if set.Spec.Template.Annotations[AnnotationIndexFailureCount] != "7" {
		t.Error("the template has changed")
	}
}

func TestTasksOfASetWithNumbers(t *testing.T) {
	set := &TaskSet{}
	set.Spec.Items = []string{"a", "b"}
	set.Spec.IndexNumbers = &IndexNumbers{List: []int32{3, 17}}
	set.Spec.Template.Spec.Env = []EnvVar{{Name: "FILE", Value: "in-$(TASK_INDEX)"}}
	want := []EnvVar{
		{Name: "TASK_ITEM", Value: "b"}, {Name: "JOB_COMPLETION_INDEX", Value: "1"}, {Name: "TASK_INDEX", Value: "17"}, {Name: "FILE", Value: "in-$(TASK_INDEX)"},
	}
	task := NewTask(set, 1, 0)
	if diff := cmp.Diff(want, task.Spec.Env); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if label := task.Labels[LabelCompletionIndex]; label != "1" {
		t.Errorf("the label with the index is %q", label)
	}
}
