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

package batch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestImmutableErrorsShowBothValues(t *testing.T) {
	stores, _, _ := open(t, newScheme())
	newSet := func() *batch.TaskSet {
		return &batch.TaskSet{
			ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", ResourceVersion: "1"},
			Spec: batch.TaskSetSpec{
				Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), CompletionMode: ptr.To(batch.NonIndexedCompletion), QueueName: "default",
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
				Template: batch.TaskTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
					Spec:       batch.TaskSpec{Command: []string{"sh", "-c", "a > b"}},
				},
			},
		}
	}
	long := strings.Repeat("é", 1000)
	for _, test := range []struct {
		name   string
		change func(*batch.TaskSetSpec)
		want   string
	}{
		{"a value", func(s *batch.TaskSetSpec) { s.CompletionMode = ptr.To(batch.IndexedCompletion) },
			`spec.completionMode: Invalid value: "Indexed": field is immutable: it must stay "NonIndexed"`},
		{"what was unset", func(s *batch.TaskSetSpec) { s.BackoffLimitPerIndex = ptr.To[int32](3) },
			`spec.backoffLimitPerIndex: Invalid value: 3: field is immutable: it must stay unset`},
		{"what is left out", func(s *batch.TaskSetSpec) { s.Selector = nil },
			`spec.selector: Invalid value: null: field is immutable: it must stay {"matchLabels":{"a":"b"}}`},
		{"an object", func(s *batch.TaskSetSpec) {
			s.SuccessPolicy = &batch.SuccessPolicy{Rules: nil}
		}, `spec.successPolicy: Invalid value: {"rules":null}: field is immutable: it must stay unset`},
		{"a dependency", func(s *batch.TaskSetSpec) {
			s.DependsOn = []batch.TaskSetDependency{{Name: "b", Condition: batch.TaskSetDependencyComplete}}
		}, `spec.dependsOn: Invalid value: [{"condition":"Complete","name":"b"}]: field is immutable: it must stay unset`},
		{"a member of the template, by two rules", func(s *batch.TaskSetSpec) { s.Template.Spec.Command = []string{"true"} },
			`spec.template.spec.command: Invalid value: ["true"]: field is immutable: it must stay ["sh","-c","a > b"]`},
		{"a member of the template, by the rule of the set", func(s *batch.TaskSetSpec) { s.Template.Spec.CrashLimit = ptr.To[int32](9) },
			`spec.template.spec.crashLimit: Invalid value: 9: field is immutable: it must stay unset`},
		{"an annotation of the template", func(s *batch.TaskSetSpec) { s.Template.Annotations = map[string]string{"note": "a"} },
			`spec.template.metadata: Invalid value: field is immutable: spec.template.metadata.annotations is {"note":"a"} and must stay unset`},
		{"a long value", func(s *batch.TaskSetSpec) { s.Template.Spec.Command = []string{long} },
			`spec.template.spec.command: Invalid value: "[\"` + strings.Repeat("é", 127) + `…": field is immutable: it must stay ["sh","-c","a > b"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := newSet()
			test.change(&set.Spec)
			ctx := genericapirequest.WithRequestInfo(t.Context(), &genericapirequest.RequestInfo{
				IsResourceRequest: true, APIGroup: batch.GroupName, APIVersion: v1alpha1.SchemeGroupVersion.Version, Resource: "tasksets",
			})
			var got []string
			for _, err := range rest.ValidateUpdate(ctx, set, newSet(), stores.TaskSets.Store.UpdateStrategy) {
				if err.Origin == "immutable" {
					got = append(got, err.Error())
				}
			}
			if diff := cmp.Diff([]string{test.want}, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}
