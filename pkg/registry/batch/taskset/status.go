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
	"fmt"
	"math"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
)

// The status follows the rules of batch/v1 Job, so that tools that wait for Jobs can rely on it. A set that is going to
// succeed or fail has SuccessCriteriaMet or FailureTarget first. When its tasks have terminated, it has Complete or
// Failed, which are final.

// ValidateStatus implements registry.StatusValidator.
func (Rules) ValidateStatus(_ context.Context, set *batch.TaskSet) field.ErrorList {
	status, path := &set.Status, field.NewPath("status")
	errs := validateIndexLists(set, path)
	errs = append(errs, validateConditions(set, path.Child("conditions"))...)
	errs = append(errs, validateDependencies(set, path.Child("dependencies"))...)

	complete := isTrue(set, batch.TaskSetComplete)
	finished := complete || isTrue(set, batch.TaskSetFailed)
	switch {
	case status.CompletionTime == nil && complete:
		errs = append(errs, field.Required(path.Child("completionTime"), "must be set when Complete is True"))
	case status.CompletionTime != nil && !complete:
		errs = append(errs, field.Forbidden(path.Child("completionTime"), "may be set only when Complete is True"))
	case status.StartTime != nil && status.CompletionTime.Before(status.StartTime):
		errs = append(errs, field.Invalid(path.Child("completionTime"), status.CompletionTime, "must not be before startTime"))
	}
	// A suspended set with no completions is complete without a start.
	neverStarts := ptr.Deref(set.Spec.Suspend, false) && ptr.Equal(set.Spec.Completions, ptr.To[int32](0))
	if finished && status.StartTime == nil && !neverStarts {
		errs = append(errs, field.Required(path.Child("startTime"), "must be set when Complete or Failed is True"))
	}
	if finished && status.Active > 0 {
		errs = append(errs, field.Invalid(path.Child("active"), status.Active, "must be 0 when Complete or Failed is True"))
	}
	if finished && ptr.Deref(status.Terminating, 0) > 0 {
		errs = append(errs, field.Invalid(path.Child("terminating"), *status.Terminating, "must be 0 when Complete or Failed is True"))
	}
	if status.Ready != nil && *status.Ready > status.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *status.Ready,
			fmt.Sprintf("must be less than or equal to active, %d", status.Active)))
	}
	return errs
}

func validateIndexLists(set *batch.TaskSet, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	limit := int(ptr.Deref(set.Spec.Completions, 1<<31-1))
	completed, err := indexes.Parse(set.Status.CompletedIndexes, limit)
	if err != nil {
		errs = append(errs, field.Invalid(path.Child("completedIndexes"), set.Status.CompletedIndexes, err.Error()))
	}
	if _, err := indexes.ParseCounts(set.Status.IndexFailures, limit); err != nil {
		errs = append(errs, field.Invalid(path.Child("indexFailures"), set.Status.IndexFailures, err.Error()))
	}
	if set.Status.FailedIndexes == nil {
		return errs
	}
	path = path.Child("failedIndexes")
	if set.Spec.BackoffLimitPerIndex == nil {
		return append(errs, field.Forbidden(path, "may be set only when spec.backoffLimitPerIndex is"))
	}
	failed, err := indexes.Parse(*set.Status.FailedIndexes, limit)
	if err != nil {
		return append(errs, field.Invalid(path, *set.Status.FailedIndexes, err.Error()))
	}
	if index, overlap := common(completed, failed); overlap {
		errs = append(errs, field.Invalid(path, *set.Status.FailedIndexes, fmt.Sprintf("must not hold %d, which is among completedIndexes", index)))
	}
	return errs
}

// common returns the least index that both lists contain.
func common(a, b []indexes.Range) (int, bool) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Last < b[0].First:
			a = a[1:]
		case b[0].Last < a[0].First:
			b = b[1:]
		default:
			return max(a[0].First, b[0].First), true
		}
	}
	return 0, false
}

func validateConditions(set *batch.TaskSet, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range [][2]string{
		{batch.TaskSetComplete, batch.TaskSetFailed},
		{batch.TaskSetComplete, batch.TaskSetFailureTarget},
		{batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailed},
		{batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget},
	} {
		if isTrue(set, pair[0]) && isTrue(set, pair[1]) {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("%s and %s must not both be True", pair[0], pair[1])))
		}
	}
	for _, pair := range [][2]string{
		{batch.TaskSetComplete, batch.TaskSetSuccessCriteriaMet},
		{batch.TaskSetFailed, batch.TaskSetFailureTarget},
	} {
		if isTrue(set, pair[0]) && !isTrue(set, pair[1]) {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("%s may be True only when %s is", pair[0], pair[1])))
		}
	}
	return errs
}

// ValidateStatusChange implements registry.StatusValidator. Final conditions, counts, times and dependencies must not
// be reverted.
func (Rules) ValidateStatusChange(_ context.Context, set, old *batch.TaskSet) field.ErrorList {
	var errs field.ErrorList
	status, before, path := &set.Status, &old.Status, field.NewPath("status")
	for _, condition := range []string{
		batch.TaskSetComplete, batch.TaskSetFailed, batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget,
	} {
		if isTrue(old, condition) && !isTrue(set, condition) {
			errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, condition+" must stay True: it is final"))
		}
	}
	if status.Failed < before.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), status.Failed,
			fmt.Sprintf("must be greater than or equal to its former value, %d", before.Failed)))
	}
	if least := leastSucceeded(set, before); status.Succeeded < least {
		detail := fmt.Sprintf("must be greater than or equal to its former value, %d", before.Succeeded)
		if least < before.Succeeded {
			detail = fmt.Sprintf("must be greater than or equal to %d, its former value without the indexes past completions", least)
		}
		errs = append(errs, field.Invalid(path.Child("succeeded"), status.Succeeded, detail))
	}
	errs = append(errs, validateDependenciesChange(set, old, path.Child("dependencies"))...)
	if before.CompletionTime != nil && status.CompletionTime != nil &&
		!apiequality.Semantic.DeepEqual(status.CompletionTime, before.CompletionTime) {
		errs = append(errs, field.Forbidden(path.Child("completionTime"), "must not change once it is set"))
	}
	resumed := isTrue(old, batch.TaskSetSuspended) && meta.IsStatusConditionFalse(status.Conditions, batch.TaskSetSuspended)
	if before.StartTime != nil && !apiequality.Semantic.DeepEqual(status.StartTime, before.StartTime) &&
		!ptr.Deref(set.Spec.Suspend, false) && !resumed {
		errs = append(errs, field.Forbidden(path.Child("startTime"), "must not change once it is set, unless the set is suspended or resumed"))
	}
	return errs
}

// leastSucceeded returns the number of indexes that had succeeded in the former status and are below completions. An
// elastic set that was scaled down drops the other indexes.
func leastSucceeded(set *batch.TaskSet, before *batch.TaskSetStatus) int32 {
	if set.Spec.Completions == nil {
		return before.Succeeded
	}
	completed, _ := indexes.Parse(before.CompletedIndexes, math.MaxInt32) // validated when it was stored
	dropped := indexes.Count(completed) - indexes.Count(indexes.Below(completed, int(*set.Spec.Completions)))
	return before.Succeeded - int32(dropped)
}

func isTrue(set *batch.TaskSet, condition string) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, condition)
}
