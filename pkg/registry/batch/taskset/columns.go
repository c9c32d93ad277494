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
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// StatusColumn returns the state of the set in the words that kubectl uses for Jobs, and Cancelling or Cancelled for a
// set that a user has cancelled. A set that waits for others has their names.
func StatusColumn(set *batch.TaskSet) any {
	for _, name := range []string{
		batch.TaskSetComplete, batch.TaskSetFailed, batch.TaskSetSuspended, batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget,
	} {
		condition := meta.FindStatusCondition(set.Status.Conditions, name)
		switch {
		case condition == nil || condition.Status != metav1.ConditionTrue:
		case condition.Reason != batch.TaskSetReasonCancelled:
			return name
		case name == batch.TaskSetFailed:
			return "Cancelled"
		default:
			return "Cancelling"
		}
	}
	if set.DeletionTimestamp != nil {
		return "Terminating"
	}
	if names := waitsFor(set); len(names) > 0 {
		return "Waiting for " + strings.Join(names, ", ")
	}
	return "Running"
}

// CompletionsColumn returns the number of succeeded indexes and the number of completions.
func CompletionsColumn(set *batch.TaskSet) any {
	switch {
	case set.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", set.Status.Succeeded, *set.Spec.Completions)
	case ptr.Deref(set.Spec.Parallelism, 1) > 1:
		return fmt.Sprintf("%d/1 of %d", set.Status.Succeeded, *set.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", set.Status.Succeeded)
}

// DurationColumn returns the time from the start of the set to its end, or to now for a set that runs.
func DurationColumn(set *batch.TaskSet) any {
	end := set.Status.CompletionTime
	if failed := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetFailed); failed != nil && failed.Status == metav1.ConditionTrue {
		end = &failed.LastTransitionTime
	}
	return registry.Between(set.Status.StartTime, end)
}
