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

import "k8s.io/utils/ptr"

func init() { localSchemeBuilder.Register(RegisterDefaults) }

// DefaultBackoffLimit is the default of spec.backoffLimit, as for a Job.
const DefaultBackoffLimit int32 = 6

// SetDefaults_TaskSet sets the defaults that depend on other fields: those of batch/v1 Job, and completions from the
// number of items or of indexNumbers.list.
func SetDefaults_TaskSet(set *TaskSet) {
	if set.Spec.Completions == nil && len(set.Spec.Items) > 0 {
		set.Spec.Completions = ptr.To(int32(len(set.Spec.Items)))
	}
	if numbers := set.Spec.IndexNumbers; set.Spec.Completions == nil && numbers != nil && len(numbers.List) > 0 {
		set.Spec.Completions = ptr.To(int32(len(numbers.List)))
	}
	if set.Spec.Completions == nil && set.Spec.Parallelism == nil {
		set.Spec.Completions = ptr.To[int32](1)
	}
	if set.Spec.Template.Spec.QueueName == "" {
		set.Spec.Template.Spec.QueueName = set.Spec.QueueName
	}
	if set.Spec.BackoffLimit == nil {
		limit := DefaultBackoffLimit
		if set.Spec.BackoffLimitPerIndex != nil {
			limit = 1<<31 - 1
		}
		set.Spec.BackoffLimit = &limit
	}
}
