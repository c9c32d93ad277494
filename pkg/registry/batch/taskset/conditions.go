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
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// PrepareForStatusUpdate implements registry.StatusPreparer. It derives the condition Reconciling.
func (Rules) PrepareForStatusUpdate(_ context.Context, set, old *batch.TaskSet) {
	setReconciling(&set.Status, old.Status.Conditions)
}

// setReconciling sets Reconciling to True until the set is started, and while it is suspended. kstatus then computes
// the same status as for a Job: in progress until it is started, and then current unless it fails.
func setReconciling(status *batch.TaskSetStatus, stored []metav1.Condition) {
	var derived []metav1.Condition
	if status.StartTime == nil && status.CompletionTime == nil && !meta.IsStatusConditionTrue(status.Conditions, batch.TaskSetFailed) {
		derived = []metav1.Condition{{Type: batch.TaskSetReconciling, Reason: batch.TaskSetReasonNotStarted}}
	}
	status.Conditions = registry.DeriveConditions(status.Conditions, stored, []string{batch.TaskSetReconciling}, derived...)
}
