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

package task

import (
	"fmt"
	"math"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// validateIndexes validates the indexes of a task, and the fields that belong to them.
func validateIndexes(spec *batch.TaskSpec, path *field.Path) field.ErrorList {
	if spec.Indexes == "" {
		var errs field.ErrorList
		const only = "may be set only with indexes"
		if len(spec.Items) > 0 {
			errs = append(errs, field.Forbidden(path.Child("items"), only))
		}
		if spec.IndexNumbers != nil {
			errs = append(errs, field.Forbidden(path.Child("indexNumbers"), only))
		}
		return errs
	}
	ranges, err := indexes.Parse(spec.Indexes, math.MaxInt32)
	if err != nil {
		return field.ErrorList{field.Invalid(path.Child("indexes"), spec.Indexes, err.Error())}
	}
	var errs field.ErrorList
	count := indexes.Count(ranges)
	if count > v1alpha1.MaxTaskIndexes || len(ranges) > v1alpha1.MaxTaskIndexRanges {
		errs = append(errs, field.Invalid(path.Child("indexes"), spec.Indexes, fmt.Sprintf(
			"must be at most %d indexes in %d ranges, and are %d in %d", v1alpha1.MaxTaskIndexes, v1alpha1.MaxTaskIndexRanges, count, len(ranges))))
	}
	if limit := ptr.Deref(spec.BackoffLimit, 0); limit != 0 {
		errs = append(errs, field.Invalid(path.Child("backoffLimit"), limit, "must be 0 with indexes: the task stops at its first failure"))
	}
	if len(spec.Items) > 0 && len(spec.Items) != count {
		errs = append(errs, field.Invalid(path.Child("items"), field.OmitValueType{}, fmt.Sprintf(
			"must be unset or %d, one for each of indexes, and are %d", count, len(spec.Items))))
	}
	for i, item := range spec.Items {
		if strings.ContainsRune(item, 0) {
			errs = append(errs, field.Invalid(path.Child("items").Index(i), item, "must not contain a NUL character"))
		}
	}
	if numbers := spec.IndexNumbers; numbers != nil && len(numbers.List) > 0 && len(numbers.List) != count {
		errs = append(errs, field.Invalid(path.Child("indexNumbers", "list"), field.OmitValueType{}, fmt.Sprintf(
			"must be unset or %d numbers, one for each of indexes, and are %d", count, len(numbers.List))))
	}
	return errs
}

// indexCount returns the number of indexes that the task may run, 0 for a task without indexes.
func indexCount(task *batch.Task) int32 {
	ranges, err := indexes.Parse(task.Spec.Indexes, math.MaxInt32)
	if err != nil {
		return 0
	}
	count := int32(indexes.Count(ranges))
	return min(count, ptr.Deref(task.Status.IndexLimit, count))
}

// validateIndexStatus validates completedCount and indexLimit. An unfinished or failed task has an index at
// completedCount, which runs or has failed, and a succeeded task has completed at least one.
func validateIndexStatus(task *batch.Task, path *field.Path) field.ErrorList {
	status := &task.Status
	var errs field.ErrorList
	if task.Spec.Indexes == "" {
		const only = "may be set only in a task with spec.indexes"
		if status.CompletedCount != 0 {
			errs = append(errs, field.Forbidden(path.Child("completedCount"), only))
		}
		if status.IndexLimit != nil {
			errs = append(errs, field.Forbidden(path.Child("indexLimit"), only))
		}
		return errs
	}
	count := indexCount(task)
	completed := path.Child("completedCount")
	switch {
	case status.CompletedCount > count:
		errs = append(errs, field.Invalid(completed, status.CompletedCount, fmt.Sprintf("must be at most %d, the number of indexes that the task may run", count)))
	case status.Phase == batch.TaskSucceeded && status.CompletedCount == 0:
		errs = append(errs, field.Invalid(completed, status.CompletedCount, "must be at least 1 in phase Succeeded"))
	case status.Phase != batch.TaskSucceeded && status.CompletedCount == count:
		errs = append(errs, field.Invalid(completed, status.CompletedCount, fmt.Sprintf(
			"must be less than %d, the number of indexes that the task may run, unless the phase is Succeeded", count)))
	}
	return errs
}
