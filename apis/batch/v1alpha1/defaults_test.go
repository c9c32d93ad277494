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

package v1alpha1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestDefaults(t *testing.T) {
	// Each case has only the fields that it tests. The others are as in the first case of their kind.
	taskSpec := func(change func(*v1alpha1.TaskSpec)) v1alpha1.TaskSpec {
		spec := v1alpha1.TaskSpec{
			QueueName: "default", BackoffLimit: ptr.To[int32](0), TerminationGracePeriodSeconds: ptr.To[int64](30), CrashLimit: ptr.To[int32](5),
		}
		change(&spec)
		return spec
	}
	set := func(change func(*v1alpha1.TaskSet)) *v1alpha1.TaskSet {
		set := &v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{
			Parallelism:    ptr.To[int32](1),
			CompletionMode: ptr.To(v1alpha1.NonIndexedCompletion),
			BackoffLimit:   ptr.To[int32](6),
			Suspend:        ptr.To(false),
			QueueName:      "default",
			Template:       v1alpha1.TaskTemplateSpec{Spec: taskSpec(func(*v1alpha1.TaskSpec) {})},
		}}
		change(set)
		return set
	}
	queue := func(weight int32, policy v1alpha1.StopPolicy) *v1alpha1.TaskQueue {
		return &v1alpha1.TaskQueue{Spec: v1alpha1.TaskQueueSpec{Weight: &weight, StopPolicy: &policy}}
	}
	chosen := v1alpha1.TaskSpec{
		QueueName: "q", BackoffLimit: ptr.To[int32](3), TerminationGracePeriodSeconds: ptr.To[int64](0), CrashLimit: ptr.To[int32](1),
	}
	for _, test := range []struct {
		name     string
		in, want runtime.Object
	}{
		{"task", &v1alpha1.Task{}, &v1alpha1.Task{Spec: taskSpec(func(*v1alpha1.TaskSpec) {})}},
		{
			"task keeps what is set, zero too",
			&v1alpha1.Task{Spec: chosen},
			&v1alpha1.Task{Spec: chosen},
		},
		{
			"items of a list",
			&v1alpha1.TaskList{Items: []v1alpha1.Task{{}}},
			&v1alpha1.TaskList{Items: []v1alpha1.Task{{Spec: taskSpec(func(*v1alpha1.TaskSpec) {})}}},
		},
		{
			"set without parallelism and completions runs once",
			&v1alpha1.TaskSet{},
			set(func(set *v1alpha1.TaskSet) { set.Spec.Completions = ptr.To[int32](1) }),
		},
		{
			"set with parallelism alone has no completions",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Parallelism: ptr.To[int32](3)}},
			set(func(set *v1alpha1.TaskSet) { set.Spec.Parallelism = ptr.To[int32](3) }),
		},
		{
			"set with completions alone runs one at a time",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Completions: ptr.To[int32](5)}},
			set(func(set *v1alpha1.TaskSet) { set.Spec.Completions = ptr.To[int32](5) }),
		},
		{
			"completions are the number of items",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Items: []string{"a", ""}}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.Completions, set.Spec.Items = ptr.To[int32](2), []string{"a", ""}
			}),
		},
		{
			"completions are how many numbers are listed",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{IndexNumbers: &v1alpha1.IndexNumbers{List: []int32{3, 17}}}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.Completions, set.Spec.IndexNumbers = ptr.To[int32](2), &v1alpha1.IndexNumbers{List: []int32{3, 17}}
			}),
		},
		{
			"completions other than items stay, for validation to judge",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Completions: ptr.To[int32](3), Items: []string{"a", ""}}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.Completions, set.Spec.Items = ptr.To[int32](3), []string{"a", ""}
			}),
		},
		{
			"backoffLimit gives way to a limit per index",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Parallelism: ptr.To[int32](1), BackoffLimitPerIndex: ptr.To[int32](0)}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.BackoffLimitPerIndex = ptr.To[int32](0)
				set.Spec.BackoffLimit = ptr.To[int32](2147483647)
			}),
		},
		{
			"template follows the queue of the set",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Parallelism: ptr.To[int32](1), QueueName: "q"}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.QueueName, set.Spec.Template.Spec.QueueName = "q", "q"
			}),
		},
		{
			"template keeps a queue of its own, for validation to judge",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{
				Parallelism: ptr.To[int32](1), Template: v1alpha1.TaskTemplateSpec{Spec: v1alpha1.TaskSpec{QueueName: "q"}},
			}},
			set(func(set *v1alpha1.TaskSet) { set.Spec.Template.Spec.QueueName = "q" }),
		},
		{
			"pattern of a condition means True",
			&v1alpha1.TaskSet{Spec: v1alpha1.TaskSetSpec{Parallelism: ptr.To[int32](1), TaskFailurePolicy: &v1alpha1.TaskFailurePolicy{
				Rules: []v1alpha1.TaskFailurePolicyRule{{OnTaskConditions: []v1alpha1.TaskFailurePolicyOnTaskConditionsPattern{
					{Type: "DisruptionTarget"}, {Type: "DisruptionTarget", Status: "False"},
				}}},
			}}},
			set(func(set *v1alpha1.TaskSet) {
				set.Spec.TaskFailurePolicy = &v1alpha1.TaskFailurePolicy{
					Rules: []v1alpha1.TaskFailurePolicyRule{{OnTaskConditions: []v1alpha1.TaskFailurePolicyOnTaskConditionsPattern{
						{Type: "DisruptionTarget", Status: "True"}, {Type: "DisruptionTarget", Status: "False"},
					}}},
				}
			}),
		},
		{"queue", &v1alpha1.TaskQueue{}, queue(1, v1alpha1.StopPolicyNone)},
		{"queue keeps what is set", queue(7, v1alpha1.StopPolicyHold), queue(7, v1alpha1.StopPolicyHold)},
		{"lease", &v1alpha1.WorkerLease{}, &v1alpha1.WorkerLease{Spec: v1alpha1.WorkerLeaseSpec{LeaseDurationSeconds: ptr.To[int32](40)}}},
		{"worker", &v1alpha1.Worker{}, &v1alpha1.Worker{}},
		{"binding", &v1alpha1.Binding{}, &v1alpha1.Binding{}},
		{"eviction", &v1alpha1.Eviction{}, &v1alpha1.Eviction{Reason: "Evicted"}},
		{"eviction keeps its reason", &v1alpha1.Eviction{Reason: "WorkerLost"}, &v1alpha1.Eviction{Reason: "WorkerLost"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			scheme := newScheme(t)
			scheme.Default(test.in)
			if diff := cmp.Diff(test.want, test.in); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			again := test.in.DeepCopyObject()
			scheme.Default(again)
			if diff := cmp.Diff(test.in, again); diff != "" {
				t.Errorf("defaulting again changes the object:\n%s", diff)
			}
		})
	}
}
