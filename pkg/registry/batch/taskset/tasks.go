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

// validateTasks checks the tasks that the controller makes from a valid template: they have more variables, labels and annotations than the
// template, and each has its item. What is accepted here can be created.
func validateTasks(set *batch.TaskSet, path *field.Path) field.ErrorList {
	versioned := &v1alpha1.TaskSet{}
	if err := v1alpha1.Convert_batch_TaskSet_To_v1alpha1_TaskSet(set, versioned, nil); err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	index, made := largestTask(versioned)
	if variables, own := len(made.Spec.Env), len(versioned.Spec.Template.Spec.Env); variables > maxVariables {
		var added []string
		for _, variable := range made.Spec.Env[:variables-own] {
			added = append(added, variable.Name)
		}
		return field.ErrorList{field.Invalid(path.Child("spec", "env"), field.OmitValueType{}, fmt.Sprintf(
			"must have at most %d variables, and has %d: each task gets %s besides, and may have %d",
			maxVariables-len(added), own, strings.Join(added, ", "), maxVariables))}
	}
	internal := &batch.Task{}
	if err := v1alpha1.Convert_v1alpha1_Task_To_batch_Task(made, internal, nil); err != nil {
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

// largestTask returns the task of the set that hands most to its process, after as many failures as there can be, and its index.
func largestTask(set *v1alpha1.TaskSet) (index int, largest *v1alpha1.Task) {
	failures := int(ptr.Deref(set.Spec.BackoffLimit, v1alpha1.DefaultBackoffLimit))
	if limit := set.Spec.BackoffLimitPerIndex; limit != nil {
		failures = min(failures, int(*limit))
	}
	candidates := []int{max(0, int(ptr.Deref(set.Spec.Completions, math.MaxInt32))-1)}
	if len(set.Spec.Items) > 0 {
		// Of the indexes with so many digits the one with the longest item.
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
		made := v1alpha1.NewTask(set, i, failures)
		size := 0
		for _, variable := range made.Spec.Env[:len(made.Spec.Env)-len(set.Spec.Template.Spec.Env)] {
			size += len(variable.Name) + len(variable.Value)
		}
		if size > most {
			most, index, largest = size, i, made
		}
	}
	return index, largest
}
