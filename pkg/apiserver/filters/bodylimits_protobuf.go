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
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// subresourceKinds are the kinds of the bodies of subresources that differ from the kind of the resource.
var subresourceKinds = map[string]schema.GroupVersionKind{
	"binding":  v1alpha1.SchemeGroupVersion.WithKind("Binding"),
	"eviction": v1alpha1.SchemeGroupVersion.WithKind("Eviction"),
	"scale":    autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
}

// requestedKind returns the kind that the decoder assumes for a body that does not name its kind.
func requestedKind(req *http.Request) schema.GroupVersionKind {
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok {
		return schema.GroupVersionKind{}
	}
	if strings.HasPrefix(info.Verb, "delete") {
		return metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	}
	if kind, ok := subresourceKinds[info.Subresource]; ok {
		return kind
	}
	for _, kind := range kinds.All {
		if kind.Resource == info.Resource {
			return v1alpha1.SchemeGroupVersion.WithKind(kind.Name)
		}
	}
	return schema.GroupVersionKind{}
}

// checkProtobuf returns an error for protobuf that exceeds the limits. It counts as checkJSON does for the same object.
// Like the decoder, it takes the kind from the body, or from the request if the body does not name it.
func (l bodyLimits) checkProtobuf(body []byte, kind schema.GroupVersionKind) error {
	var unknown runtime.Unknown
	body, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	if !ok || unknown.Unmarshal(body) != nil {
		return nil
	}
	if unknown.Kind != "" {
		kind.Kind = unknown.Kind
	}
	if unknown.APIVersion != "" {
		kind.Group, kind.Version = unknown.GroupVersionKind().Group, unknown.GroupVersionKind().Version
	}
	object, err := scheme.Scheme.New(kind)
	if err != nil {
		return nil
	}
	r := l.newCounter()
	if err := r.open(true); err != nil {
		return err
	}
	return r.readMessage(unknown.Raw, reflect.TypeOf(object).Elem(), &protobufMessage{})
}

// protobufMessage is a message that is being read. If the field of a message occurs several times, a decoder merges the
// occurrences, so their lists and messages are counted together.
type protobufMessage struct {
	lists    map[uint64]*level
	messages map[uint64]*protobufMessage
}

// protobufField is a field of a Go type.
type protobufField struct {
	name []byte // in JSON
	typ  reflect.Type
}

var protobufFields sync.Map // reflect.Type → map[uint64]protobufField

// fieldsOf returns the fields of a Go type by their protobuf numbers.
func fieldsOf(typ reflect.Type) map[uint64]protobufField {
	if fields, ok := protobufFields.Load(typ); ok {
		return fields.(map[uint64]protobufField)
	}
	fields := map[uint64]protobufField{}
	for i := range typ.NumField() {
		field := typ.Field(i)
		tag := strings.Split(field.Tag.Get("protobuf"), ",")
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if len(tag) < 2 {
			continue
		}
		if number, err := strconv.ParseUint(tag[1], 10, 64); err == nil {
			fields[number] = protobufField{[]byte(name), field.Type}
		}
	}
	protobufFields.Store(typ, fields)
	return fields
}

// readMessage counts a message of the Go type as the innermost object.
func (r *bodyCounter) readMessage(data []byte, typ reflect.Type, m *protobufMessage) error {
	if typ == reflect.TypeFor[resource.Quantity]() {
		return eachField(data, func(_ uint64, value []byte) error {
			if err := v1alpha1.CheckQuantity(string(value)); err != nil {
				return fmt.Errorf("%s: %w", r.path(), err)
			}
			return nil
		})
	}
	fields := fieldsOf(typ)
	return eachField(data, func(number uint64, value []byte) error {
		field, ok := fields[number]
		if !ok {
			return nil
		}
		r.levels[len(r.levels)-1].name = field.name
		return r.readField(number, value, field.typ, m)
	})
}

// readField counts one occurrence of a field of the Go type.
func (r *bodyCounter) readField(number uint64, value []byte, typ reflect.Type, m *protobufMessage) error {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ == reflect.TypeFor[[]byte](), typ.Kind() == reflect.String:
		return r.checkText(len(value))
	case typ == reflect.TypeFor[metav1.FieldsV1](): // a message whose only field holds JSON
		return eachField(value, func(_ uint64, raw []byte) error { return r.readJSON(raw) })
	case typ.Kind() == reflect.Slice:
		return r.inRepeated(m, number, false, func() error {
			if typ.Elem().Kind() != reflect.Struct && typ.Elem().Kind() != reflect.String {
				return r.readNumbers(value)
			}
			if err := r.item(); err != nil {
				return err
			}
			return r.readItem(value, typ.Elem())
		})
	case typ.Kind() == reflect.Map:
		return r.inRepeated(m, number, true, func() error {
			if err := r.item(); err != nil {
				return err
			}
			return eachField(value, func(part uint64, value []byte) error {
				if part == mapKey {
					r.levels[len(r.levels)-1].name = value
					return r.checkText(len(value))
				}
				return r.readItem(value, typ.Elem())
			})
		})
	case typ.Kind() == reflect.Struct:
		if m.messages == nil {
			m.messages = map[uint64]*protobufMessage{}
		}
		inner, ok := m.messages[number]
		if !ok {
			inner = &protobufMessage{}
			m.messages[number] = inner
		}
		return r.inObject(func() error { return r.readMessage(value, typ, inner) })
	}
	return nil
}

// mapKey is the field number of the key in an entry of a map.
const mapKey = 1

// readItem counts an item of a list or a value of a map.
func (r *bodyCounter) readItem(value []byte, typ reflect.Type) error {
	if typ.Kind() == reflect.String {
		return r.checkText(len(value))
	}
	return r.inObject(func() error { return r.readMessage(value, typ, &protobufMessage{}) })
}

// readNumbers counts one number of a list, or several packed ones.
func (r *bodyCounter) readNumbers(packed []byte) error {
	n := 0
	for _, b := range packed {
		if b < 0x80 {
			n++
		}
	}
	for range max(1, n) {
		if err := r.item(); err != nil {
			return err
		}
	}
	return nil
}

// inRepeated calls read inside of the list or map of a repeated field, which has an occurrence for each item.
func (r *bodyCounter) inRepeated(m *protobufMessage, number uint64, object bool, read func() error) error {
	if m.lists == nil {
		m.lists = map[uint64]*level{}
	}
	list, ok := m.lists[number]
	if !ok {
		list = &level{object: object, limit: r.limitOf(object)}
		m.lists[number] = list
		if err := r.increment(); err != nil {
			return err
		}
	}
	r.levels = append(r.levels, *list)
	err := read()
	*list = r.levels[len(r.levels)-1]
	r.close()
	return err
}

// inObject calls read inside of a new object.
func (r *bodyCounter) inObject(read func() error) error {
	if err := r.open(true); err != nil {
		return err
	}
	err := read()
	r.close()
	return err
}

// eachField calls f for the fields of a message in order, with the content of those that are length-delimited and nil
// for others. It returns the first error of f. It stops at an invalid field, which the decoder refuses.
func eachField(message []byte, f func(number uint64, value []byte) error) error {
	groups := 0
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return nil
		}
		message = message[n:]
		var value []byte
		length := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(message); n <= 0 {
				return nil
			}
			length = uint64(n)
		case 1:
			length = 8
		case 2:
			if length, n = binary.Uvarint(message); n <= 0 || length > uint64(len(message)-n) {
				return nil
			}
			message = message[n:]
			value = message[:length]
		case 3:
			groups++
		case 4:
			groups--
		case 5:
			length = 4
		default:
			return nil
		}
		if length > uint64(len(message)) {
			return nil
		}
		message = message[length:]
		if groups == 0 && tag&7 != 4 {
			if err := f(tag>>3, value); err != nil {
				return err
			}
		}
	}
	return nil
}
