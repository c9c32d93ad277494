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

// Package resources validates amounts of what workers have and tasks use.
package resources

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

// Validate checks that the list names resources as core/v1 does, a plain name for those Leat knows (among known) and a domain
// for any other, and that no amount is negative or, where halves make no sense, broken.
func Validate(list batch.ResourceList, path *field.Path, known ...batch.ResourceName) field.ErrorList {
	var errs field.ErrorList
	names := sets.New(known...)
	for _, name := range sets.List(sets.KeySet(list)) {
		quantity, at := list[name], path.Key(string(name))
		switch {
		case names.Has(name):
		case !strings.Contains(string(name), "/"):
			errs = append(errs, field.NotSupported(at, name, append(sets.List(names), "example.com/any-name")))
		default:
			for _, message := range validation.IsQualifiedName(string(name)) {
				errs = append(errs, field.Invalid(at, name, message))
			}
		}
		if quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(at, quantity.String(), "must be greater than or equal to 0"))
		}
		if name != batch.ResourceCPU && quantity.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, quantity.String(), "must be a whole number"))
		}
	}
	return errs
}
