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

package install

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/leat-dev/leat/apis/batch"
)

// TestListsAreConvertedByACastWhereLayoutsAreEqual checks that lists of a million tasks cost nothing to convert in a
// version with the memory layout of the internal types. zz_generated.layout.go of the version names these types.
func TestListsAreConvertedByACastWhereLayoutsAreEqual(t *testing.T) {
	scheme := newScheme()
	for _, version := range scheme.PrioritizedVersionsForGroup(batch.GroupName) {
		for kind, internal := range scheme.KnownTypes(batch.SchemeGroupVersion) {
			if !strings.HasSuffix(kind, "List") {
				continue
			}
			t.Run(version.Version+"/"+kind, func(t *testing.T) {
				from, err := scheme.New(version.WithKind(kind))
				if err != nil {
					t.Fatal(err)
				}
				items := reflect.ValueOf(from).Elem().FieldByName("Items")
				items.Set(reflect.MakeSlice(items.Type(), 1, 1))
				to, err := scheme.New(batch.SchemeGroupVersion.WithKind(kind))
				if err != nil {
					t.Fatal(err)
				}
				if err := scheme.Convert(from, to, nil); err != nil {
					t.Fatal(err)
				}
				differ := differences(kind, internal, reflect.TypeOf(from).Elem(), map[[2]reflect.Type]bool{})
				cast := reflect.ValueOf(to).Elem().FieldByName("Items").Pointer() == items.Pointer()
				if cast != (len(differ) == 0) {
					t.Errorf("converted by a cast: got %t, and the differences between the layouts are %q", cast, differ)
				}
			})
		}
	}
}

// differences returns where the memory layouts of two types differ. seen are the pairs that have been compared.
func differences(path string, internal, versioned reflect.Type, seen map[[2]reflect.Type]bool) []string {
	pair := [2]reflect.Type{internal, versioned}
	if internal == versioned || seen[pair] {
		return nil
	}
	seen[pair] = true
	if internal.Kind() != versioned.Kind() {
		return []string{fmt.Sprintf("%s is a %s, internally a %s", path, versioned, internal)}
	}
	switch internal.Kind() {
	case reflect.Struct:
		if internal.NumField() != versioned.NumField() {
			return []string{fmt.Sprintf("%s has %d fields, internally %d", path, versioned.NumField(), internal.NumField())}
		}
		var found []string
		for i := range internal.NumField() {
			a, b := internal.Field(i), versioned.Field(i)
			if a.Name != b.Name || a.Offset != b.Offset {
				found = append(found, fmt.Sprintf("%s: field %d is %s, internally %s", path, i, b.Name, a.Name))
				continue
			}
			found = append(found, differences(path+"."+a.Name, a.Type, b.Type, seen)...)
		}
		return found
	case reflect.Map:
		return append(differences(path+"[key]", internal.Key(), versioned.Key(), seen),
			differences(path+"[value]", internal.Elem(), versioned.Elem(), seen)...)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return differences(path+"[]", internal.Elem(), versioned.Elem(), seen)
	}
	return nil
}
