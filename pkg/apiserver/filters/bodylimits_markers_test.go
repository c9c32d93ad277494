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

package filters

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

var maximum = regexp.MustCompile(`\+k8s:max(Items|Length|Bytes|Properties)=(\d+)`)

// maxima returns the maxima in the markers of all fields, by type and field: of the field itself, and of each item.
func maxima(t *testing.T) map[string]map[string]struct{ own, item int } {
	t.Helper()
	all := map[string]map[string]struct{ own, item int }{}
	files := must(filepath.Glob("../../../apis/batch/v1alpha1/types_*.go"))(t)
	for _, file := range files {
		tree := must(parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments))(t)
		ast.Inspect(tree, func(node ast.Node) bool {
			spec, ok := node.(*ast.TypeSpec)
			if !ok {
				return true
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				return false
			}
			all[spec.Name.Name] = map[string]struct{ own, item int }{}
			for _, field := range fields.Fields.List {
				if field.Doc == nil || len(field.Names) != 1 {
					continue
				}
				var most struct{ own, item int }
				for _, comment := range field.Doc.List {
					if found := maximum.FindStringSubmatch(comment.Text); found == nil {
						continue
					} else if n := must(strconv.Atoi(found[2]))(t); strings.Contains(comment.Text, "eachVal") {
						most.item = n
					} else {
						most.own = n
					}
				}
				all[spec.Name.Name][field.Names[0].Name] = most
			}
			return false
		})
	}
	return all
}

// TestBodyLimitsAcceptWhatTypesAccept checks that the body limits refuse nothing that the marker of a field accepts, in
// any encoding.
func TestBodyLimitsAcceptWhatTypesAccept(t *testing.T) {
	all, seen := maxima(t), 0
	bodies := []string{"Binding", "Eviction"}
	for _, kind := range kinds.All {
		bodies = append(bodies, kind.Name)
	}
	for _, kind := range bodies {
		object := must(scheme.Scheme.New(v1alpha1.SchemeGroupVersion.WithKind(kind)))(t)
		object.GetObjectKind().SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
		var walk func(value reflect.Value, path string)
		walk = func(value reflect.Value, path string) {
			of := value.Type()
			switch {
			case of == reflect.TypeFor[metav1.Time](), of == reflect.TypeFor[metav1.MicroTime]():
			case of.Kind() == reflect.Pointer && value.IsNil():
				value.Set(reflect.New(of.Elem()))
				walk(value.Elem(), path)
				value.SetZero()
			case of.Kind() == reflect.Slice:
				value.Set(reflect.MakeSlice(of, 1, 1))
				walk(value.Index(0), path+"[0]")
				value.SetZero()
			case of.Kind() == reflect.Struct:
				for i := range of.NumField() {
					field, inner := of.Field(i), value.Field(i)
					walk(inner, path+"."+field.Name)
					most := all[of.Name()][field.Name]
					if of.PkgPath() != reflect.TypeFor[v1alpha1.Task]().PkgPath() || most.own+most.item == 0 {
						continue
					}
					seen++
					for _, n := range []struct{ own, item int }{{most.own, 1}, {1, most.item}} {
						if n.own == 0 || n.item == 0 {
							continue
						}
						fill(inner, n.own, n.item)
						for mediaType, encode := range encodings {
							if err := checked(mediaType, encode(t, object)); err != nil {
								t.Errorf("%s may be %d, of %d each, and is refused in %s: %v", path+"."+field.Name, n.own, n.item, mediaType, err)
							}
						}
						inner.SetZero()
					}
				}
			}
		}
		walk(reflect.ValueOf(object).Elem(), kind)
	}
	if seen < 30 {
		t.Errorf("found only %d fields with a maximum", seen)
	}
}

// fill sets a string to n characters, and a list or map to n items. The items of a list of strings have the given
// number of characters.
func fill(value reflect.Value, n, characters int) {
	switch value.Kind() {
	case reflect.String:
		value.SetString(strings.Repeat("a", n))
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), n, n))
		if value.Type().Elem().Kind() == reflect.String {
			for i := range n {
				value.Index(i).SetString(strings.Repeat("a", characters))
			}
		}
	case reflect.Map:
		value.Set(reflect.MakeMap(value.Type()))
		for i := range n {
			value.SetMapIndex(reflect.ValueOf(strconv.Itoa(i)).Convert(value.Type().Key()), reflect.Zero(value.Type().Elem()))
		}
	}
}
