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
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func endedSet(condition string, completed, failed string) *batch.TaskSet {
	return &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: batch.TaskSetSpec{
			Completions: ptr.To[int32](10), Parallelism: ptr.To[int32](5), CompletionMode: ptr.To(batch.IndexedCompletion),
			BackoffLimitPerIndex: ptr.To[int32](0), MaxFailedIndexes: ptr.To[int32](9),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelControllerUID: "u"}},
			Template: batch.TaskTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"mine": "1", batch.LabelControllerUID: "u", batch.LabelTaskSetName: "s"}},
				Spec:       batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{{Name: "A", Value: "$(TASK_INDEX)"}}},
			},
		},
		Status: batch.TaskSetStatus{
			CompletedIndexes: completed, FailedIndexes: &failed, Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue}},
		},
	}
}

func TestRetryOfASet(t *testing.T) {
	o := &followOptions{factory: &factory{program: "leat"}}
	again := func(t *testing.T, set *batch.TaskSet) *batch.TaskSet {
		t.Helper()
		made, err := o.againSet(set)
		if err != nil || made == nil {
			t.Fatalf("got %v, %v", made, err)
		}
		return made.(*batch.TaskSet)
	}
	t.Run("the indexes of an array keep their numbers", func(t *testing.T) {
		got := again(t, endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8"))
		want := batch.TaskSetSpec{
			Items: []string{"1", "6", "7", "8"}, Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](4),
			CompletionMode: ptr.To(batch.IndexedCompletion), BackoffLimitPerIndex: ptr.To[int32](0), MaxFailedIndexes: ptr.To[int32](4),
			Template: batch.TaskTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"mine": "1"}},
				Spec: batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{
					{Name: "JOB_COMPLETION_INDEX", Value: "$(TASK_ITEM)"}, {Name: "TASK_INDEX", Value: "$(TASK_ITEM)"}, {Name: "A", Value: "$(TASK_INDEX)"},
				}},
			},
		}
		if diff := cmp.Diff(want, got.Spec); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	})
	t.Run("items, and what was not begun", func(t *testing.T) {
		set := endedSet(batch.TaskSetFailed, "0-7", "")
		set.Spec.Items = strings.Split("a b c d e f g h i j", " ")
		got := again(t, set)
		if diff := cmp.Diff([]string{"i", "j"}, got.Spec.Items); diff != "" || len(got.Spec.Template.Spec.Env) != 1 {
			t.Errorf("got %q, %+v", got.Spec.Items, got.Spec.Template.Spec.Env)
		}
	})
	t.Run("of a retry again", func(t *testing.T) {
		first := again(t, endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8"))
		first.Status = endedSet(batch.TaskSetFailed, "0,3", "1-2").Status
		second := again(t, first)
		if diff := cmp.Diff([]string{"6", "7"}, second.Spec.Items); diff != "" || len(second.Spec.Template.Spec.Env) != 3 {
			t.Errorf("got %q, %+v", second.Spec.Items, second.Spec.Template.Spec.Env)
		}
	})
	t.Run("nothing has failed", func(t *testing.T) {
		if made, err := o.againSet(endedSet(batch.TaskSetComplete, "0-3", "")); made != nil || err != nil {
			t.Errorf("got %v, %v", made, err)
		}
	})
	large := endedSet(batch.TaskSetFailed, "", "")
	large.Spec.Completions = ptr.To[int32](100_001)
	for name, test := range map[string]struct {
		set  *batch.TaskSet
		want string
	}{
		"runs":     {endedSet(batch.TaskSetSuspended, "", ""), "has not ended yet: wait for it with leat wait taskset/s, or cancel it"},
		"too many": {large, "100001 indexes have not succeeded, and a set of chosen indexes has at most 100000"},
		"no indexes": {func() *batch.TaskSet {
			s := endedSet(batch.TaskSetFailed, "", "")
			s.Spec.CompletionMode = nil
			return s
		}(), "has no indexes"},
	} {
		if made, err := o.againSet(test.set); made != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v", name, made, err)
		}
	}
}
