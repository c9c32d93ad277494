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

// Package taskqueue holds the domain rules of task queues.
package taskqueue

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/resources"
)

// Rules are the domain rules of task queues.
type Rules struct{}

// Validate implements registry.Validator.
func (Rules) Validate(_ context.Context, queue *batch.TaskQueue) field.ErrorList {
	return resources.Validate(queue.Spec.Resources.Limits, field.NewPath("spec", "resources", "limits"), batch.ResourceCPU, batch.ResourceMemory)
}

// ValidateChange implements registry.Validator. Every change is valid.
func (Rules) ValidateChange(context.Context, *batch.TaskQueue, *batch.TaskQueue) field.ErrorList {
	return nil
}

// LimitColumn returns the maximum number of running tasks.
func LimitColumn(queue *batch.TaskQueue) any {
	if queue.Spec.MaxRunningTasks == nil {
		return ""
	}
	return fmt.Sprint(*queue.Spec.MaxRunningTasks)
}

// StopColumn returns the stop policy of a queue that is stopped.
func StopColumn(queue *batch.TaskQueue) any {
	if policy := ptr.Deref(queue.Spec.StopPolicy, batch.StopPolicyNone); policy != batch.StopPolicyNone {
		return string(policy)
	}
	return ""
}
