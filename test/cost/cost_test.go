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

// Package cost holds the server to work that grows with the length of a request, and no faster.
package cost

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/inprocess"
)

const (
	// cpuBudget is what one request may cost, as docs/reliability.md promises, on a machine of half the speed.
	cpuBudget = 2 * time.Second
	// allocationBudget is how many bytes one request may allocate, which is more than it ever holds.
	allocationBudget = 500 << 20
	// noticeable is the cost from which growth is looked at: less is noise.
	noticeable = 100 * time.Millisecond
	// growth is by how much more than its length the cost of a request may grow: garbage is collected now and then.
	growth    = 3
	group     = "/apis/batch.leat.dev/v1alpha1"
	namespace = "cost"
)

// object is an object, or a part of one, as JSON has it.
type object = map[string]any

// kinds are the kinds with a valid object of each, to be grown.
var kinds = map[string]struct {
	of    runtime.Object
	kind  string
	valid func() object
}{
	"tasks": {&batch.Task{}, "Task", func() object { return object{"spec": object{"command": []any{"true"}}} }},
	"tasksets": {&batch.TaskSet{}, "TaskSet", func() object {
		return object{"spec": object{"completionMode": "Indexed", "completions": 1, "template": object{"spec": object{"command": []any{"true"}}}}}
	}},
	"workers":      {&batch.Worker{}, "Worker", func() object { return object{} }},
	"taskqueues":   {&batch.TaskQueue{}, "TaskQueue", func() object { return object{} }},
	"workerleases": {&batch.WorkerLease{}, "WorkerLease", func() object { return object{} }},
}

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

// item returns an item of a list of the type, which is like others or is told apart by its number.
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

// grown returns values of the type with n items or characters, by what is peculiar about them.
func grown(of reflect.Type, n int) map[string]any {
	list := func(f func(i int) any) any {
		all := make([]any, n)
		for i := range all {
			all[i] = f(i)
		}
		return all
	}
	fields := func(f func(i int) (string, any)) any {
		all := make(object, n)
		for i := range n {
			key, value := f(i)
			all[key] = value
		}
		return all
	}
	switch of {
	case reflect.TypeFor[resource.Quantity]():
		return map[string]any{"digits": strings.Repeat("1", n), "decimals": "0." + strings.Repeat("1", n), "exponent": fmt.Sprint("1e", n), "fraction": fmt.Sprint("1e-", n),
			"number": json.RawMessage(strings.Repeat("1", n))}
	case reflect.TypeFor[metav1.FieldsV1]():
		return map[string]any{
			"ascending":  fields(func(i int) (string, any) { return fmt.Sprintf("f:%07d", i), object{} }),
			"descending": json.RawMessage(descending(n)),
			"items":      fields(func(i int) (string, any) { return fmt.Sprintf(`k:{"name":"%07d"}`, i), object{} }),
		}
	case reflect.TypeFor[[]byte]():
		return map[string]any{"zeroes": base64.StdEncoding.EncodeToString(make([]byte, n/4*3)), "lines": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("-----BEGIN A-----\n"), n/26))}
	}
	switch of.Kind() {
	case reflect.Slice:
		return map[string]any{
			"empty":    list(func(int) any { return item(of.Elem(), "") }),
			"same":     list(func(int) any { return item(of.Elem(), "a") }),
			"distinct": list(func(i int) any { return item(of.Elem(), fmt.Sprintf("a%d", i)) }),
			"domains":  list(func(i int) any { return item(of.Elem(), fmt.Sprintf("example.com/%d", i)) }),
			"invalid":  list(func(i int) any { return item(of.Elem(), fmt.Sprintf("é\x00%d", i)) }),
		}
	case reflect.Map:
		return map[string]any{
			"distinct": fields(func(i int) (string, any) { return fmt.Sprintf("a%d", i), item(of.Elem(), "a") }),
			"domains":  fields(func(i int) (string, any) { return fmt.Sprintf("example.com/a%d", i), item(of.Elem(), "a") }),
			"invalid":  fields(func(i int) (string, any) { return fmt.Sprintf("é=%d", i), item(of.Elem(), "é!") }),
		}
	case reflect.String:
		return map[string]any{"letters": strings.Repeat("a", n), "accents": strings.Repeat("é", n/2), "numbers": strings.TrimSuffix(strings.Repeat("1,", n/2), ","), "dashes": strings.Repeat("-", n),
			"indexes": indexes(n), "NUL": strings.Repeat("\x00", n/6)}
	case reflect.Struct: // times
		return map[string]any{"letters": strings.Repeat("a", n), "decimals": "2026-01-01T00:00:00." + strings.Repeat("1", n) + "Z"}
	}
	return map[string]any{"digits": json.RawMessage(strings.Repeat("1", n)), "text": strings.Repeat("1", n)}
}

// indexes returns a list of indexes, none next to another.
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

// full returns how many items or characters a body may have in a field of the type.
func full(of reflect.Type) int {
	switch {
	case of == reflect.TypeFor[resource.Quantity](), of.Kind() == reflect.Struct && of != reflect.TypeFor[metav1.FieldsV1](), of == reflect.TypeFor[[]byte]():
		return 256 << 10
	case of.Kind() == reflect.Slice && (of.Elem().Kind() == reflect.Struct):
		return 10_000
	case of.Kind() == reflect.Slice:
		return 100_000
	case of.Kind() == reflect.Map, of.Kind() == reflect.Struct:
		return 10_000
	}
	return 256 << 10
}

type spent struct {
	cpu   time.Duration
	bytes uint64
	code  int
	says  string
}

func used() (time.Duration, uint64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), sample[0].Value.Uint64()
}

type server struct {
	handler http.Handler
	codecs  serializer.CodecFactory
}

func (s *server) send(method, path, contentType string, body []byte) spent {
	req := httptest.NewRequest(method, group+"/namespaces/"+namespace+"/"+path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	cpu, allocated := used()
	s.handler.ServeHTTP(w, req)
	cpu2, allocated2 := used()
	says := w.Body.String()
	return spent{cpu2 - cpu, allocated2 - allocated, w.Code, says[:min(len(says), 700)]}
}

// encode returns an object, or a part of one, as the media type: nil if that cannot be written.
func (s *server) encode(mediaType string, of runtime.Object, value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // it is our own
	}
	switch mediaType {
	case runtime.ContentTypeYAML:
		text, err := yaml.JSONToYAML(data)
		if err != nil {
			return nil
		}
		return text
	case runtime.ContentTypeProtobuf:
		typed := reflect.New(reflect.TypeOf(of).Elem()).Interface().(runtime.Object)
		if json.Unmarshal(data, typed) != nil {
			return nil // no such object can be written
		}
		info, _ := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), mediaType)
		body, err := runtime.Encode(s.codecs.EncoderForVersion(info.Serializer, batch.SchemeGroupVersion), typed)
		if err != nil {
			return nil
		}
		return body
	}
	return data
}

// ways are how an object is written: created, replaced, or patched.
var ways = []struct{ method, mediaType string }{
	{http.MethodPost, runtime.ContentTypeJSON},
	{http.MethodPut, runtime.ContentTypeProtobuf},
	{http.MethodPatch, string(types.StrategicMergePatchType)},
	{http.MethodPost, runtime.ContentTypeProtobuf},
	{http.MethodPatch, string(types.ApplyYAMLPatchType)},
	{http.MethodPut, runtime.ContentTypeJSON},
	{http.MethodPatch, string(types.JSONPatchType)},
	{http.MethodPost, runtime.ContentTypeYAML},
	{http.MethodPatch, string(types.MergePatchType)},
}

// write writes an object of the resource whose field has the value, and stores nothing.
func (s *server) write(way struct{ method, mediaType string }, resourceName string, p place, value any) (spent, bool) {
	k := kinds[resourceName]
	whole := func(name string) object {
		o := k.valid()
		o["apiVersion"], o["kind"], o["metadata"] = batch.SchemeGroupVersion.String(), k.kind, object{"name": name, "namespace": namespace}
		return with(o, p.path, value).(object)
	}
	path := resourceName + "/target"
	if p.path[0] == "status" {
		path += "/status"
	}
	path += "?dryRun=All"
	var body any
	switch way.mediaType {
	case string(types.JSONPatchType):
		root := with(nil, p.path[1:], value)
		body = []any{object{"op": "add", "path": "/" + p.path[0], "value": root}}
	case string(types.MergePatchType), string(types.StrategicMergePatchType):
		body = with(object{}, p.path, value)
	case string(types.ApplyYAMLPatchType):
		path += "&fieldManager=cost&force=true"
		body = with(object{"apiVersion": batch.SchemeGroupVersion.String(), "kind": k.kind}, p.path, value)
	default:
		body = whole("target")
		if way.method == http.MethodPost {
			path, body = resourceName+"?dryRun=All", whole("attack")
		}
	}
	data := s.encode(way.mediaType, k.of, body)
	if data == nil {
		return spent{}, false
	}
	return s.send(way.method, path, way.mediaType, data), true
}

// TestRequestsCostWhatTheirLengthDoes grows each list, map and text of each kind to what a body may hold, valid and
// invalid, and writes it in one way after the other. None may cost more than the budget, nor, where that can be told
// from noise, grow faster than its length.
func TestRequestsCostWhatTheirLengthDoes(t *testing.T) {
	handler, scheme := inprocess.Serve(t)
	s := &server{handler, serializer.NewCodecFactory(scheme)}
	requests, accepted := 0, 0
	for _, resourceName := range slices.Sorted(maps.Keys(kinds)) {
		k := kinds[resourceName]
		target := k.valid()
		target["apiVersion"], target["kind"], target["metadata"] = batch.SchemeGroupVersion.String(), k.kind, object{"name": "target", "namespace": namespace}
		if got := s.send(http.MethodPost, resourceName, runtime.ContentTypeJSON, s.encode(runtime.ContentTypeJSON, k.of, target)); got.code != http.StatusCreated {
			t.Fatalf("creating %s answers %d: %s", resourceName, got.code, got.says)
		}
		for _, p := range places(reflect.TypeOf(k.of).Elem(), nil) {
			if len(p.path) == 1 {
				continue
			}
			n := full(p.of)
			values := grown(p.of, n)
			for _, variant := range slices.Sorted(maps.Keys(values)) {
				way := ways[requests%len(ways)]
				requests++
				got, sent := s.write(way, resourceName, p, values[variant])
				if !sent {
					continue
				}
				if got.code < http.StatusBadRequest {
					accepted++
				}
				about := fmt.Sprintf("%s %s as %s: %s, %d of %s", way.method, resourceName, way.mediaType, p, n, variant)
				if got.cpu > cpuBudget || got.bytes > allocationBudget {
					t.Errorf("%s takes %v and %d MiB", about, got.cpu, got.bytes>>20)
				}
				if got.cpu < noticeable {
					continue
				}
				if part, _ := s.write(way, resourceName, p, grown(p.of, n/4)[variant]); got.cpu > 4*growth*max(part.cpu, noticeable/4) && part.code == got.code {
					t.Errorf("%s takes %v, and a quarter of it %v", about, got.cpu, part.cpu)
				}
			}
		}
	}
	t.Logf("%d requests, %d accepted", requests, accepted)
	if accepted < requests/20 {
		t.Errorf("of %d requests only %d are accepted: the objects are not what the server takes", requests, accepted)
	}
}
