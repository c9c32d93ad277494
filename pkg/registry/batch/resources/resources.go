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

// Package resources validates lists of resources.
package resources

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

// Validate validates a list of resources. As in core/v1, a resource is one of the known names, or a qualified name with
// a domain. Quantities must not be negative, and must be whole numbers but for cpu.
func Validate(list batch.ResourceList, path *field.Path, known ...batch.ResourceName) field.ErrorList {
	var errs field.ErrorList
	names := sets.New(known...)
	for _, name := range sets.List(sets.KeySet(list)) {
		quantity, keyPath := list[name], path.Key(string(name))
		switch {
		case names.Has(name):
		case !strings.Contains(string(name), "/"):
			errs = append(errs, field.NotSupported(keyPath, name, append(sets.List(names), "example.com/any-name")))
		default:
			for _, message := range validation.IsQualifiedName(string(name)) {
				errs = append(errs, field.Invalid(keyPath, name, message))
			}
		}
		if quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(keyPath, quantity.String(), "must be greater than or equal to 0"))
		}
		if name != batch.ResourceCPU && quantity.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(keyPath, quantity.String(), "must be a whole number"))
		}
	}
	return errs
}
