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

package workerrestriction

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/leat-dev/leat/apis/batch"
)

// kept lists fields that no user can change by an update: the registry sets or validates them.
var kept = []string{
	"TypeMeta", "ObjectMeta.Name", "ObjectMeta.GenerateName", "ObjectMeta.Namespace", "ObjectMeta.SelfLink", "ObjectMeta.UID", "ObjectMeta.ResourceVersion", "ObjectMeta.Generation",
	"ObjectMeta.CreationTimestamp", "ObjectMeta.DeletionTimestamp", "ObjectMeta.DeletionGracePeriodSeconds", "ObjectMeta.ManagedFields",
}

// TestEveryField changes each field of the types, one at a time. A new field must be refused to workers or listed as
// theirs.
func TestEveryField(t *testing.T) {
	for _, test := range []struct {
		resource string
		object   runtime.Object
		theirs   []string
	}{
		{"workers", workerObject("own"), []string{"ObjectMeta.Labels", "ObjectMeta.Annotations", "Status"}},
		{"workers/status", workerObject("own"), []string{"ObjectMeta.Labels", "ObjectMeta.Annotations", "Status"}},
		{"workerleases", lease("own"), []string{"ObjectMeta.Labels", "ObjectMeta.Annotations", "Spec"}},
		{"tasks/status", task("own"), []string{"Status"}},
	} {
		t.Run(test.resource, func(t *testing.T) {
			allowed, refused := 0, 0
			for _, path := range leaves(reflect.TypeOf(test.object).Elem(), nil) {
				changed := test.object.DeepCopyObject()
				change(reflect.ValueOf(changed).Elem(), path)
				if reflect.DeepEqual(changed, test.object) {
					t.Errorf("%s was not changed: extend function change", strings.Join(path, "."))
				}
				err := validateAs(admission.Update, test.resource, changed, test.object)
				switch name := strings.Join(path, "."); {
				case under(name, kept):
				case under(name, test.theirs):
					allowed++
					if err != nil {
						t.Errorf("%s belongs to workers and was refused: %v", name, err)
					}
				default:
					refused++
					if err == nil {
						t.Errorf("%s does not belong to workers and can be changed", name)
					}
				}
			}
			if allowed == 0 || refused == 0 {
				t.Errorf("%d fields were allowed, %d refused", allowed, refused)
			}
		})
	}
}

// TestEveryOperation tries every operation on every served resource and subresource.
func TestEveryOperation(t *testing.T) {
	theirs := map[string]bool{
		"CREATE workers": true, "UPDATE workers": true, "UPDATE workers/status": true,
		"CREATE workerleases": true, "UPDATE workerleases": true,
		"UPDATE tasks/status": true, "CREATE tasks/eviction": true, "DELETE tasks": true,
		"CONNECT workers/archive": true,
	}
	objects := map[string]runtime.Object{
		"workers": newWorker("own"), "workers/status": newWorker("own"), "workerleases": lease("own"),
		"tasks": task("own", deleted), "tasks/status": task("own"), "tasks/eviction": &batch.Eviction{Preconditions: &metav1.Preconditions{ResourceVersion: new("7")}},
	}
	scheme := runtime.NewScheme()
	if err := batch.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	known := scheme.KnownTypes(batch.SchemeGroupVersion)
	tried := 0
	for kind := range known {
		if known[kind+"List"] == nil {
			continue // it is not stored
		}
		for _, subresource := range []string{"", "/status", "/scale", "/log", "/records", "/archive", "/binding", "/eviction", "/finalizers", "/unknown"} {
			resource := strings.ToLower(kind) + "s" + subresource
			for _, operation := range []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect} {
				tried++
				what := string(operation) + " " + resource
				object := objects[resource]
				if object == nil {
					object = workerObject("own")
				}
				if err := validateAs(operation, resource, object, object); (err == nil) != theirs[what] {
					t.Errorf("%s: got %v, want it allowed: %t", what, err, theirs[what])
				}
			}
		}
	}
	if tried < 100 {
		t.Errorf("tried only %d", tried)
	}
}

func validateAs(operation admission.Operation, resource string, object, old runtime.Object) error {
	resource, subresource, _ := strings.Cut(resource, "/")
	attributes := admission.NewAttributesRecord(object, old, schema.GroupVersionKind{}, "ns", "own",
		schema.GroupVersionResource{Group: batch.GroupName, Resource: resource}, subresource, operation, nil, false, own)
	return New().Validate(context.Background(), attributes, nil)
}

func under(name string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if name == prefix || strings.HasPrefix(name, prefix+".") {
			return true
		}
	}
	return false
}

// leaves returns the paths of all fields without fields of their own. Times, quantities and maps are leaves.
func leaves(of reflect.Type, at []string) [][]string {
	switch {
	case of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
		return leaves(of.Elem(), at)
	case of.Kind() != reflect.Struct || strings.HasSuffix(of.PkgPath(), "/resource") || !of.Field(0).IsExported() || of.Field(0).Name == "Time":
		return [][]string{at}
	}
	var all [][]string
	for i := range of.NumField() {
		path := append(append([]string{}, at...), of.Field(i).Name)
		all = append(all, leaves(of.Field(i).Type, path)...)
	}
	return all
}

// change sets the field to another value, and allocates the structs that contain it.
func change(value reflect.Value, path []string) {
	switch value.Kind() {
	case reflect.Pointer:
		if value.IsNil() {
			value.Set(reflect.New(value.Type().Elem()))
			if len(path) == 0 {
				return
			}
		}
		change(value.Elem(), path)
		return
	case reflect.Slice:
		if value.Type().Elem().Kind() == reflect.Struct {
			if value.Len() == 0 {
				value.Set(reflect.MakeSlice(value.Type(), 1, 1))
			}
			change(value.Index(0), path)
			return
		}
	}
	if len(path) > 0 {
		change(value.FieldByName(path[0]), path[1:])
		return
	}
	switch value.Kind() {
	case reflect.String:
		value.SetString(value.String() + "x")
	case reflect.Bool:
		value.SetBool(!value.Bool())
	case reflect.Int32, reflect.Int64:
		value.SetInt(value.Int() + 1)
	case reflect.Uint8:
		value.SetUint(value.Uint() + 1)
	case reflect.Slice:
		item := reflect.New(value.Type().Elem()).Elem()
		change(item, nil)
		value.Set(reflect.Append(value, item))
	case reflect.Map:
		key, item := reflect.New(value.Type().Key()).Elem(), reflect.New(value.Type().Elem()).Elem()
		change(key, nil)
		if value.IsNil() {
			value.Set(reflect.MakeMap(value.Type()))
		}
		value.SetMapIndex(key, item)
	case reflect.Struct:
		switch value.Interface().(type) {
		case metav1.Time:
			value.Set(reflect.ValueOf(metav1.Now()))
		case metav1.MicroTime:
			value.Set(reflect.ValueOf(metav1.NowMicro()))
		case resource.Quantity:
			value.Set(reflect.ValueOf(resource.MustParse("7")))
		default:
			panic(fmt.Sprint("no way is known to change a ", value.Type()))
		}
	default:
		panic(fmt.Sprint("no way is known to change a ", value.Type()))
	}
}
