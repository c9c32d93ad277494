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

package registry

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Upstream formats each error of an object three times, including the value, and joins them in quadratic time. An
// object of 3 MiB can have ten thousand errors, or errors with values of megabytes, so both are bounded.
const (
	// maxErrors bounds the errors of an object.
	maxErrors = 16
	// maxErrorText bounds the field, the value and the detail of an error, in bytes each.
	maxErrorText = 1 << 10
)

// BoundErrors returns the first errors of the list, and an error with the number of the others. It truncates long
// fields and details, and omits long values.
func BoundErrors(errs field.ErrorList) field.ErrorList {
	bounded := make(field.ErrorList, 0, min(len(errs), maxErrors+1))
	for _, err := range errs[:min(len(errs), maxErrors)] {
		short := *err
		short.Field, short.Detail = shorten(err.Field), shorten(err.Detail)
		if isLong(err.BadValue) {
			short.BadValue = field.OmitValueType{}
		}
		bounded = append(bounded, &short)
	}
	if more := len(errs) - maxErrors; more > 0 {
		root, _, _ := strings.Cut(bounded[maxErrors-1].Field, ".")
		bounded = append(bounded, &field.Error{
			Type: field.ErrorTypeTooMany, Field: root, BadValue: field.OmitValueType{}, Detail: fmt.Sprintf("%d more errors are not shown: correct these first", more),
		})
	}
	return bounded
}

func shorten(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	end := maxErrorText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes)", text[:end], len(text))
}

// isLong reports whether a formatted value is too long for an error.
func isLong(value any) bool {
	switch value := value.(type) {
	case string:
		return len(value) > maxErrorText
	case nil, bool, int, int32, int64, float32, float64, field.OmitValueType:
		return false
	}
	data, err := json.Marshal(value)
	return err != nil || len(data) > maxErrorText
}

// Duplicates returns an error for each of n items that has the key of an earlier item, in linear time. It replaces the
// quadratic check of declarative validation, which the customUnique marker turns off, for lists that may be long.
func Duplicates(n int, key func(int) (*field.Path, string)) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[string]struct{}, n)
	for i := range n {
		path, name := key(i)
		if _, ok := seen[name]; ok {
			errs = append(errs, field.Duplicate(path, name))
		}
		seen[name] = struct{}{}
	}
	return errs
}
