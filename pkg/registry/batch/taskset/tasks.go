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
	"math"
	"strconv"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// maxVariables bounds the variables of a task, as the marker of TaskSpec.Env does.
const maxVariables = 4096

// validateTasks validates the largest of the tasks that the controller creates from a valid template. The controller
// adds variables, labels, annotations and the item to the template. The tasks of a valid set can all be created.
func validateTasks(set *batch.TaskSet, path *field.Path) field.ErrorList {
	versioned := &v1alpha1.TaskSet{}
	if err := v1alpha1.Convert_batch_TaskSet_To_v1alpha1_TaskSet(set, versioned, nil); err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	index, largest := largestTask(versioned)
	if variables, own := len(largest.Spec.Env), len(versioned.Spec.Template.Spec.Env); variables > maxVariables {
		var added []string
		for _, variable := range largest.Spec.Env[:variables-own] {
			added = append(added, variable.Name)
		}
		return field.ErrorList{field.Invalid(path.Child("spec", "env"), field.OmitValueType{}, fmt.Sprintf(
			"must have at most %d variables, and has %d: each task gets %s in addition, and may have %d",
			maxVariables-len(added), own, strings.Join(added, ", "), maxVariables))}
	}
	internal := &batch.Task{}
	if err := v1alpha1.Convert_v1alpha1_Task_To_batch_Task(largest, internal, nil); err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	errs := apivalidation.ValidateAnnotations(internal.Annotations, field.NewPath("metadata", "annotations"))
	errs = append(errs, task.ValidateSpec(&internal.Spec, field.NewPath("spec"))...)
	for i, err := range errs {
		errs[i] = field.Invalid(path, field.OmitValueType{}, fmt.Sprintf(
			"the task of index %d, with what the set adds to the template, could not be created: %v", index, err))
	}
	return errs
}

// largestTask returns the task of the set with the most text for its process, after the maximum of failures, and its
// index.
func largestTask(set *v1alpha1.TaskSet) (index int, largest *v1alpha1.Task) {
	failures := int(ptr.Deref(set.Spec.BackoffLimit, v1alpha1.DefaultBackoffLimit))
	if limit := set.Spec.BackoffLimitPerIndex; limit != nil {
		failures = min(failures, int(*limit))
	}
	candidates := []int{max(0, int(ptr.Deref(set.Spec.Completions, math.MaxInt32))-1)}
	if len(set.Spec.Items) > 0 {
		// For each number of digits, the index with the longest item.
		longest := map[int]int{}
		size := func(i int) int { return len(set.Spec.Items[i]) + strings.Count(set.Spec.Items[i], "$") }
		for i := range set.Spec.Items {
			digits := len(strconv.Itoa(i))
			if best, ok := longest[digits]; !ok || size(i) > size(best) {
				longest[digits] = i
			}
		}
		for _, i := range longest {
			candidates = append(candidates, i)
		}
	}
	most := -1
	for _, i := range candidates {
		task := v1alpha1.NewTask(set, i, failures)
		size := 0
		for _, variable := range task.Spec.Env[:len(task.Spec.Env)-len(set.Spec.Template.Spec.Env)] {
			size += len(variable.Name) + len(variable.Value)
		}
		if size > most {
			most, index, largest = size, i, task
		}
	}
	return index, largest
}
