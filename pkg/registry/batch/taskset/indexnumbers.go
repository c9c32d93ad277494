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

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

// validateIndexNumbers validates that each index has one number, and that numbers are unique.
func validateIndexNumbers(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	numbers, completions := spec.IndexNumbers, int(*spec.Completions)
	numbersPath := path.Child("indexNumbers")
	if len(numbers.List) == 0 {
		first, step := int(ptr.Deref(numbers.First, 0)), int(ptr.Deref(numbers.Step, 1))
		switch {
		case numbers.First == nil && numbers.Step == nil:
			return field.ErrorList{field.Required(numbersPath, "first, step or list must be set")}
		case completions > 0 && first+step*(completions-1) > math.MaxInt32:
			return field.ErrorList{field.Invalid(numbersPath, fmt.Sprintf("first %d, step %d", first, step),
				fmt.Sprintf("the number of the last of %d indexes must be at most %d", completions, math.MaxInt32))}
		}
		return nil
	}
	var errs field.ErrorList
	if numbers.First != nil {
		errs = append(errs, field.Forbidden(numbersPath.Child("first"), "must be unset with list"))
	}
	if numbers.Step != nil {
		errs = append(errs, field.Forbidden(numbersPath.Child("step"), "must be unset with list"))
	}
	if completions != len(numbers.List) {
		errs = append(errs, field.Invalid(path.Child("completions"), completions,
			fmt.Sprintf("must be unset or %d, the number of numbers in indexNumbers.list", len(numbers.List))))
	}
	for i := 1; i < len(numbers.List); i++ {
		if numbers.List[i] <= numbers.List[i-1] {
			return append(errs, field.Invalid(numbersPath.Child("list").Index(i), numbers.List[i],
				fmt.Sprintf("must be greater than the number before it, %d", numbers.List[i-1])))
		}
	}
	return errs
}
