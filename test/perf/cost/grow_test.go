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

package cost

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// object is a JSON object.
type object = map[string]any

// place is a field that can grow.
type place struct {
	path []string // JSON names; "[]" is the first item of a list, "{}" the entry "a" of a map
	of   reflect.Type
}

func (p place) String() string { return strings.Join(p.path, ".") }

// places returns the fields of a type that can grow, at all depths.
func places(of reflect.Type, path []string) []place {
	path = slices.Clip(path)
	switch of {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](), reflect.TypeFor[metav1.FieldsV1](),
		reflect.TypeFor[[]byte]():
		return []place{{path, of}}
	}
	switch of.Kind() {
	case reflect.Pointer:
		return places(of.Elem(), path)
	case reflect.Slice:
		return append([]place{{path, of}}, places(of.Elem(), append(path, "[]"))...)
	case reflect.Map:
		return append([]place{{path, of}}, places(of.Elem(), append(path, "{}"))...)
	case reflect.Struct:
		var all []place
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if name != "" {
				all = append(all, places(of.Field(i).Type, append(path, name))...)
			}
		}
		return all
	}
	return []place{{path, of}}
}

// with sets the value at the path in an object.
func with(in any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch path[0] {
	case "[]":
		list, _ := in.([]any)
		if len(list) == 0 {
			list = []any{nil}
		}
		list[0] = with(list[0], path[1:], value)
		return list
	case "{}":
		path = append([]string{"a"}, path[1:]...)
	}
	fields, _ := in.(object)
	if fields == nil {
		fields = object{}
	}
	fields[path[0]] = with(fields[path[0]], path[1:], value)
	return fields
}

// item returns an item of a list of the type. text is its key or one of its fields, if it has a string.
func item(of reflect.Type, text string) any {
	switch of {
	case reflect.TypeFor[metav1.Condition]():
		return object{"type": text, "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
	case reflect.TypeFor[metav1.OwnerReference]():
		return object{"apiVersion": "v1", "kind": "A", "name": text, "uid": text}
	case reflect.TypeFor[metav1.ManagedFieldsEntry]():
		return object{"manager": text, "operation": "Update", "apiVersion": "batch.leat.dev/v1alpha1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
			"fieldsV1": object{"f:metadata": object{"f:labels": object{"f:" + text: object{}}}}}
	case reflect.TypeFor[batch.Taint]():
		return object{"key": text, "effect": "NoSchedule"}
	case reflect.TypeFor[batch.Toleration]():
		return object{"key": text, "operator": "Exists"}
	case reflect.TypeFor[resource.Quantity]():
		return "1"
	}
	switch of.Kind() {
	case reflect.String:
		return text
	case reflect.Int32, reflect.Int64:
		return len(text)
	case reflect.Struct:
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if of.Field(i).Type.Kind() == reflect.String {
				return object{name: text}
			}
		}
	}
	return object{}
}

// variants returns functions that make a value of the type with n items or characters. The keys describe the values.
func variants(of reflect.Type) map[string]func(n int) any {
	list := func(f func(i int) any) func(int) any {
		return func(n int) any {
			all := make([]any, n)
			for i := range all {
				all[i] = f(i)
			}
			return all
		}
	}
	fields := func(f func(i int) (string, any)) func(int) any {
		return func(n int) any {
			all := make(object, n)
			for i := range n {
				key, value := f(i)
				all[key] = value
			}
			return all
		}
	}
	repeat := func(format, text string) func(int) any {
		return func(n int) any { return fmt.Sprintf(format, strings.Repeat(text, n/len(text))) }
	}
	number := func(n int) any { return json.RawMessage(strings.Repeat("1", n)) }
	switch of {
	case reflect.TypeFor[resource.Quantity]():
		return map[string]func(int) any{"digits": repeat("%s", "1"), "decimals": repeat("0.%s", "1"), "number": number,
			"exponent": func(n int) any { return fmt.Sprint("1e", n) }, "fraction": func(n int) any { return fmt.Sprint("1e-", n) }}
	case reflect.TypeFor[metav1.FieldsV1]():
		return map[string]func(int) any{
			"ascending":  fields(func(i int) (string, any) { return fmt.Sprintf("f:%07d", i), object{} }),
			"descending": func(n int) any { return json.RawMessage(descending(n)) },
			"items":      fields(func(i int) (string, any) { return fmt.Sprintf(`k:{"name":"%07d"}`, i), object{} }),
		}
	case reflect.TypeFor[[]byte]():
		return map[string]func(int) any{
			"zeroes": func(n int) any { return base64.StdEncoding.EncodeToString(make([]byte, n/4*3)) },
			"lines": func(n int) any {
				return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("-----BEGIN A-----\n"), n/26))
			},
		}
	}
	switch of.Kind() {
	case reflect.Slice:
		return map[string]func(int) any{
			"empty":    list(func(int) any { return item(of.Elem(), "") }),
			"same":     list(func(int) any { return item(of.Elem(), "a") }),
			"distinct": list(func(i int) any { return item(of.Elem(), fmt.Sprintf("a%d", i)) }),
			"domains":  list(func(i int) any { return item(of.Elem(), fmt.Sprintf("example.com/%d", i)) }),
			"invalid":  list(func(i int) any { return item(of.Elem(), fmt.Sprintf("é\x00%d", i)) }),
		}
	case reflect.Map:
		return map[string]func(int) any{
			"distinct": fields(func(i int) (string, any) { return fmt.Sprintf("a%d", i), item(of.Elem(), "a") }),
			"domains":  fields(func(i int) (string, any) { return fmt.Sprintf("example.com/a%d", i), item(of.Elem(), "a") }),
			"invalid":  fields(func(i int) (string, any) { return fmt.Sprintf("é=%d", i), item(of.Elem(), "é!") }),
		}
	case reflect.String:
		return map[string]func(int) any{"letters": repeat("%s", "a"), "accents": repeat("%s", "é"), "numbers": repeat("%s1", "1,"), "dashes": repeat("%s", "-"),
			"indexes": func(n int) any { return indexes(n) }, "NUL": func(n int) any { return strings.Repeat("\x00", n/6) }} // six characters in JSON
	case reflect.Struct: // times
		return map[string]func(int) any{"letters": repeat("%s", "a"), "decimals": repeat("2026-01-01T00:00:00.%sZ", "1")}
	}
	return map[string]func(int) any{"digits": number, "text": repeat("%s", "1")}
}

// indexes returns a list of indexes without two that are adjacent.
func indexes(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i += 2 {
		fmt.Fprintf(&b, "%d,", i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

func descending(n int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := range n {
		fmt.Fprintf(&b, `"f:%07d":{},`, n-i)
	}
	return strings.TrimSuffix(b.String(), ",") + "}"
}

// isText reports whether the field grows in characters and not in items.
func (p place) isText() bool {
	switch p.of {
	case reflect.TypeFor[metav1.FieldsV1]():
		return false
	case reflect.TypeFor[[]byte]():
		return true
	}
	return p.of.Kind() != reflect.Slice && p.of.Kind() != reflect.Map
}

// most returns how many items or characters of a field the limits on bodies accept with the media type.
func (p place) most(mediaType string) int {
	switch {
	case p.isText():
		return 2<<20 - 64 // leaves room for the rest of the body
	case p.of.Kind() != reflect.Slice:
		return 10_000
	case mediaType == string(types.StrategicMergePatchType):
		return 1_000
	}
	switch p.path[len(p.path)-1] {
	case "managedFields", "ownerReferences":
		return 1_000
	case "finalizers":
		return 10_000
	}
	if p.of.Elem().Kind() == reflect.Struct {
		return 10_000
	}
	return 100_000
}
