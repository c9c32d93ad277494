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
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

// TestStatusSpaceCountsWhatGrows sets each field of the status that has no fixed size. It must be counted by
// maxListBytes, or have space in reserved.
func TestStatusSpaceCountsWhatGrows(t *testing.T) {
	inReserved := map[string]bool{"Conditions": true, "Dependencies": true}
	of := reflect.TypeFor[batch.TaskSetStatus]()
	for i := range of.NumField() {
		name, kind := of.Field(i).Name, of.Field(i).Type
		for kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		set, long := &batch.TaskSet{}, strings.Repeat("1", maxObject)
		value := reflect.ValueOf(&set.Status).Elem().Field(i)
		switch kind.Kind() {
		case reflect.Slice, reflect.Map:
			if !inReserved[name] {
				t.Errorf("status field %s is a list: count it in maxListBytes", name)
			}
			continue
		case reflect.String:
			if value.Kind() == reflect.Pointer {
				value.Set(reflect.ValueOf(&long))
			} else {
				value.SetString(long)
			}
		default:
			continue // It has a fixed size.
		}
		if len(validateStatusSpace(set, field.NewPath("spec"))) == 0 && !inReserved[name] {
			t.Errorf("status field %s is not counted: count it in maxListBytes", name)
		}
	}
}
