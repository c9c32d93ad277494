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
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
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

func TestTasksHaveTheCreatorOfTheirSet(t *testing.T) {
	template := map[string]string{"note": "mine", AnnotationCreatedBy: "forged"}
	for name, test := range map[string]struct {
		creator  string
		template map[string]string
		want     map[string]string
	}{
		"of alice":                     {"alice", nil, map[string]string{AnnotationCreatedBy: "alice"}},
		"of alice, with annotations":   {"alice", map[string]string{"note": "mine"}, map[string]string{"note": "mine", AnnotationCreatedBy: "alice"}},
		"of alice, that names another": {"alice", template, map[string]string{"note": "mine", AnnotationCreatedBy: "alice"}},
		"of nobody":                    {"", map[string]string{"note": "mine"}, map[string]string{"note": "mine"}},
		"of nobody, that names one":    {"", template, map[string]string{"note": "mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := &TaskSet{}
			label := ""
			if test.creator != "" {
				label = CreatorLabel(test.creator)
				set.Annotations = map[string]string{AnnotationCreatedBy: test.creator}
				set.Labels = map[string]string{LabelCreator: label}
			}
			set.Spec.Template.Annotations = maps.Clone(test.template)
			set.Spec.Template.Labels = map[string]string{LabelCreator: CreatorLabel("forged")}
			for _, task := range []*Task{NewTask(set, 3, 0), NewChunk(set, []indexes.Range{{First: 0, Last: 2}})} {
				if !maps.Equal(task.Annotations, test.want) || task.Labels[LabelCreator] != label {
					t.Errorf("got annotations %v and labels %v, want %v and the label %q", task.Annotations, task.Labels, test.want, label)
				}
			}
			if !maps.Equal(set.Spec.Template.Annotations, test.template) {
				t.Error("the template has changed")
			}
		})
	}
}

func TestCreatorLabelIsAValueOfLabels(t *testing.T) {
	if got := CreatorLabel("alice"); got != "2bd806c97f0e00af" {
		t.Errorf("got %q, want the start of the SHA-256", got)
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

// TestAtIndexReturnsTheTaskOfThatIndex compares each index of a chunk with a task of that index alone.
func TestAtIndexReturnsTheTaskOfThatIndex(t *testing.T) {
	list := make([]int32, 200)
	items := make([]string, 200)
	for i := range list {
		list[i], items[i] = int32(3*i+i%2), fmt.Sprintf("item $(%d) $$", i)
	}
	for name, change := range map[string]func(*TaskSet){
		"plain":             func(*TaskSet) {},
		"items":             func(set *TaskSet) { set.Spec.Items = items },
		"a first and step":  func(set *TaskSet) { set.Spec.IndexNumbers = &IndexNumbers{First: new(int32(100)), Step: new(int32(7))} },
		"listed numbers":    func(set *TaskSet) { set.Spec.IndexNumbers = &IndexNumbers{List: list} },
		"items and numbers": func(set *TaskSet) { set.Spec.Items, set.Spec.IndexNumbers = items, &IndexNumbers{List: list} },
		"its own variables": func(set *TaskSet) {
			set.Spec.Template.Spec.Env = []EnvVar{{Name: "TASK_INDEX", Value: "mine"}, {Name: "FILE", Value: "in-$(JOB_COMPLETION_INDEX)"}}
		},
		"labels of the template": func(set *TaskSet) {
			set.Spec.Template.Labels = map[string]string{LabelCompletionIndex: "5", LabelFirstCompletionIndex: "6", "team": "a"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := &TaskSet{}
			set.Name, set.Namespace, set.UID = "a-7-set", "default", "4b3e7c52-0d5f-4d3c-9a3e-123456789012"
			set.Spec.QueueName = "night"
			set.Spec.Template.Spec.Command = []string{"run", "$(TASK_INDEX)"}
			change(set)
			ranges := []indexes.Range{{First: 7, Last: 9}, {First: 100, Last: 100}, {First: 150, Last: 199}}
			chunk := NewChunk(set, ranges)
			if chunk.Labels[LabelFirstCompletionIndex] != "7" || chunk.Labels[LabelCompletionIndex] != "" || chunk.Labels[LabelTaskSetName] != set.Name {
				t.Errorf("the labels of the chunk are %v", chunk.Labels)
			}
			parsed := chunk.IndexRanges()
			if indexes.Format(parsed) != indexes.Format(ranges) {
				t.Fatalf("the indexes are %v", parsed)
			}
			for position := range indexes.Count(ranges) {
				got, want := chunk.AtIndex(parsed, position), NewTask(set, indexes.At(ranges, position), 0)
				if got.Name != want.Name {
					t.Errorf("position %d: the name is %s, want %s", position, got.Name, want.Name)
				}
				if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
					t.Errorf("position %d: want -, got +:\n%s", position, diff)
				}
			}
		})
	}
}

func TestNamesOfIndexesOfTasksThatUsersCreate(t *testing.T) {
	for name, want := range map[string]string{"mine": "mine-12", "a-7": "a-7-12", "set-7-abcde": "set-12-abcde", "set-8-abcde": "set-8-abcde-12"} {
		if got := nameAtIndex(name, 7, 12); got != want {
			t.Errorf("index 12 of task %s is named %s, want %s", name, got, want)
		}
	}
}
