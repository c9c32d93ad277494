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
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// originImmutable marks the errors of fields that must not change, as upstream's declarative validation does.
const originImmutable = "immutable"

// Immutable returns the error for a change of the immutable field at path. showImmutable adds both values to it.
func Immutable(path *field.Path) *field.Error {
	return field.Invalid(path, field.OmitValueType{}, "field is immutable").WithOrigin(originImmutable)
}

// showImmutable adds the sent and the stored value to the errors of immutable fields, in the version of the request.
// Upstream's errors show neither. It drops further errors of the same field.
func (s strategy[T, L]) showImmutable(ctx context.Context, obj, old runtime.Object, errs field.ErrorList) field.ErrorList {
	isImmutable := func(err *field.Error) bool { return err.Origin == originImmutable }
	if !slices.ContainsFunc(errs, isImmutable) {
		return errs
	}
	shown := map[string]bool{}
	errs = slices.DeleteFunc(errs, func(err *field.Error) bool {
		duplicate := isImmutable(err) && shown[err.Field]
		shown[err.Field] = shown[err.Field] || isImmutable(err)
		return duplicate
	})
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok {
		return errs
	}
	version := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	sent, err := s.content(obj, version)
	if err != nil {
		return append(errs, field.InternalError(nil, err))
	}
	stored, err := s.content(old, version)
	if err != nil {
		return append(errs, field.InternalError(nil, err))
	}
	for _, err := range errs {
		if isImmutable(err) {
			showChange(err, valueAt(sent, err.Field), valueAt(stored, err.Field))
		}
	}
	return errs
}

func (s strategy[T, L]) content(obj runtime.Object, version schema.GroupVersion) (map[string]any, error) {
	versioned, err := s.Scheme.ConvertToVersion(obj, version)
	if err != nil {
		return nil, err
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(versioned)
}

// valueAt returns the value at a dotted path, or nil if there is none.
func valueAt(value any, path string) any {
	for member := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[member]
	}
	return value
}

// showChange adds both values to the error. If they differ in a single member, it names the member and shows its
// values.
func showChange(err *field.Error, sent, stored any) {
	path := err.Field
	for {
		member, from, to, ok := onlyDifference(stored, sent)
		if !ok {
			break
		}
		path, stored, sent = path+"."+member, from, to
	}
	if path == err.Field {
		err.BadValue = json.RawMessage(shortened(sent))
		err.Detail = fmt.Sprintf("field is immutable: it must stay %s", shownValue(stored))
		return
	}
	err.BadValue = field.OmitValueType{}
	err.Detail = fmt.Sprintf("field is immutable: %s is %s and must stay %s", path, shownValue(sent), shownValue(stored))
}

// onlyDifference returns the member in which two objects differ, and its values. ok is false if they differ in several
// members, or are not objects.
func onlyDifference(a, b any) (member string, inA, inB any, ok bool) {
	x, isObject := a.(map[string]any)
	y, areObjects := b.(map[string]any)
	if !isObject || !areObjects {
		return "", nil, nil, false
	}
	differ := map[string]bool{}
	for _, object := range []map[string]any{x, y} {
		for member := range object {
			if !reflect.DeepEqual(x[member], y[member]) {
				differ[member] = true
			}
		}
	}
	if len(differ) != 1 {
		return "", nil, nil, false
	}
	member = slices.Collect(maps.Keys(differ))[0]
	return member, x[member], y[member], true
}

func shownValue(value any) string {
	if value == nil {
		return "unset"
	}
	return shortened(value)
}

// maxShown bounds the value that an error shows, in bytes of JSON.
const maxShown = 256

// shortened returns the JSON of a value. If that is too long, it returns the beginning as a JSON string.
func shortened(value any) string {
	text := marshal(value)
	if len(text) > maxShown {
		text = marshal(strings.ToValidUTF8(text[:maxShown], "") + "…")
	}
	return text
}

// marshal returns the JSON of a value on one line, without escaping < and >.
func marshal(value any) string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(text.String(), "\n")
}
