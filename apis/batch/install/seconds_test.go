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
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/leat-dev/leat/apis/batch"
)

// unboundedSeconds are the fields without a maximum, as those of the same name in Kubernetes. Code that reads them must
// use v1alpha1.Seconds or limit the value itself.
var unboundedSeconds = []string{"tolerationSeconds", "sinceSeconds"}

// TestSecondsFitIntoADuration sets each field of seconds, of every kind in every version, to increasing numbers. The
// accepted ones must fit into a time.Duration.
func TestSecondsFitIntoADuration(t *testing.T) {
	scheme := runtime.NewScheme()
	Install(scheme)
	found := map[string]bool{}
	for _, version := range scheme.PrioritizedVersionsForGroup(batch.GroupName) {
		for kind, typ := range scheme.KnownTypes(version) {
			if !strings.HasSuffix(typ.PkgPath(), "/apis/batch/"+version.Version) || strings.HasSuffix(kind, "List") {
				continue
			}
			for _, path := range secondsOf(typ, nil, nil) {
				names := jsonNames(typ, path)
				name := names[len(names)-1]
				found[name] = true
				for _, n := range []int64{1, math.MaxInt32, math.MaxInt32 + 1, math.MaxInt64/int64(time.Second) + 1, math.MaxInt64} {
					object := reflect.New(typ)
					if !set(object.Elem(), path, n) {
						continue // the field holds no such number
					}
					accepted := true
					for _, err := range scheme.Validate(t.Context(), nil, object.Interface().(runtime.Object)) {
						if strings.HasSuffix(err.Field, name) {
							accepted = false
						}
					}
					want := n <= math.MaxInt32 || slices.Contains(unboundedSeconds, name)
					if accepted != want {
						t.Errorf("%s: %d is accepted: %v, want %v", kind+"."+strings.Join(names, "."), n, accepted, want)
					}
				}
			}
		}
	}
	for _, name := range append([]string{"activeDeadlineSeconds", "ttlSecondsAfterFinished", "leaseDurationSeconds"}, unboundedSeconds...) {
		if !found[name] {
			t.Errorf("no kind has %s", name)
		}
	}
}

// secondsOf returns the paths of the fields of seconds below a type, as field indexes.
func secondsOf(typ reflect.Type, path []int, above []reflect.Type) (paths [][]int) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || slices.Contains(above, typ) || typ.PkgPath() == reflect.TypeFor[metav1.ObjectMeta]().PkgPath() {
		return nil
	}
	for i := range typ.NumField() {
		field, below := typ.Field(i), append(slices.Clone(path), i)
		if strings.Contains(field.Name, "Seconds") {
			paths = append(paths, below)
		} else {
			paths = append(paths, secondsOf(field.Type, below, append(slices.Clone(above), typ))...)
		}
	}
	return paths
}

// set sets the field to the number, and reports whether the field can hold it. It adds one element to lists on the
// path.
func set(value reflect.Value, path []int, n int64) bool {
	for {
		switch value.Kind() {
		case reflect.Pointer:
			value.Set(reflect.New(value.Type().Elem()))
			value = value.Elem()
			continue
		case reflect.Slice:
			value.Set(reflect.MakeSlice(value.Type(), 1, 1))
			value = value.Index(0)
			continue
		}
		if len(path) == 0 {
			break
		}
		value, path = value.Field(path[0]), path[1:]
	}
	if value.OverflowInt(n) {
		return false
	}
	value.SetInt(n)
	return true
}

func jsonNames(typ reflect.Type, path []int) (names []string) {
	for _, i := range path {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		names, typ = append(names, name), typ.Field(i).Type
	}
	return names
}
