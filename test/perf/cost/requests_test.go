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
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	group     = "/apis/batch.leat.dev/v1alpha1"
	namespace = "cost"
	// maxBody and maxYAML are the maximum lengths of a body in any encoding and in YAML.
	maxBody, maxYAML = 3 << 20, 256 << 10
)

// The names of stored objects. They never change, because all measured requests are dry runs.
const (
	small = "small" // only required fields
	large = "large" // about half of the size that etcd accepts
	bound = "bound" // small, and bound to a worker
)

// The verbs that have a body.
const (
	create           = "create"
	update           = "update"
	patch            = "patch"
	apply            = "apply"
	deleteOne        = "delete"
	deleteCollection = "deletecollection"
)

// endpoint is a resource or subresource and the kind of the bodies that it accepts.
type endpoint struct {
	resource, subresource string
	of                    runtime.Object
	version               schema.GroupVersion
	kind                  string
	verbs                 []string
	stored                []string // the objects that are changed
	valid                 func() object
	// fields is the only top-level field whose fields grow. If it is empty, all fields grow.
	fields string
}

func (e endpoint) String() string {
	if e.subresource == "" {
		return e.resource
	}
	return e.resource + "/" + e.subresource
}

// places returns the fields that can grow.
func (e endpoint) places() []place {
	var all []place
	for _, p := range places(reflect.TypeOf(e.of).Elem(), nil) {
		// The status grows at its own subresource. Elsewhere only create decodes it, and ignores it.
		if e.fields == "" || p.path[0] == e.fields {
			all = append(all, p)
		}
	}
	return all
}

// endpoints returns all endpoints that read a body.
func endpoints() []endpoint {
	emptySpec := func() object { return object{} }
	task := func() object { return object{"spec": object{"command": []any{"true"}}} }
	var all []endpoint
	for _, kind := range []struct {
		resource  string
		of        runtime.Object
		kind      string
		valid     func() object
		hasStatus bool
	}{
		{"tasks", &batch.Task{}, "Task", task, true},
		{"tasksets", &batch.TaskSet{}, "TaskSet", func() object {
			return object{"spec": object{"completionMode": "Indexed", "completions": 1, "template": task()}}
		}, true},
		{"workers", &batch.Worker{}, "Worker", emptySpec, true},
		{"taskqueues", &batch.TaskQueue{}, "TaskQueue", emptySpec, true},
		{"workerleases", &batch.WorkerLease{}, "WorkerLease", emptySpec, false},
	} {
		e := endpoint{
			resource: kind.resource, of: kind.of, version: batch.SchemeGroupVersion, kind: kind.kind, valid: kind.valid,
			verbs: []string{create, update, patch, apply}, stored: []string{small, large},
		}
		all = append(all, e)
		if kind.hasStatus {
			e.subresource, e.verbs, e.fields = "status", []string{update, patch, apply}, "status"
			all = append(all, e)
		}
	}
	return append(all,
		endpoint{
			resource: "tasks", subresource: "binding", of: &batch.Binding{}, version: batch.SchemeGroupVersion, kind: "Binding",
			verbs: []string{create}, stored: []string{small, large},
			valid: func() object { return object{"target": object{"name": "a", "incarnation": "a"}} },
		},
		endpoint{
			resource: "tasks", subresource: "eviction", of: &batch.Eviction{}, version: batch.SchemeGroupVersion, kind: "Eviction",
			verbs: []string{create}, stored: []string{bound}, valid: emptySpec,
		},
		endpoint{
			resource: "tasksets", subresource: "scale", of: &autoscalingv1.Scale{}, version: autoscalingv1.SchemeGroupVersion, kind: "Scale",
			verbs: []string{update, patch, apply}, stored: []string{small, large},
			valid: func() object { return object{"spec": object{"replicas": 1}} },
		},
		endpoint{
			resource: "tasks", of: &metav1.DeleteOptions{}, version: schema.GroupVersion{Version: "v1"}, kind: "DeleteOptions",
			verbs: []string{deleteOne, deleteCollection}, stored: []string{small},
			valid: func() object { return object{"dryRun": []any{"All"}} },
		},
	)
}

// The encodings of bodies.
const (
	inJSON     = "JSON"
	inYAML     = "YAML"
	inProtobuf = "protobuf"
	inCBOR     = "CBOR"
)

var encodings = []string{inJSON, inYAML, inProtobuf, inCBOR}

// way is a verb, an encoding with its media type, and the stored object that the request changes.
type way struct{ verb, encoding, mediaType, stored string }

func (w way) String() string {
	return w.verb + " of " + w.stored + " as " + w.mediaType + " in " + w.encoding
}

// ways returns all ways to send a body to the endpoint, in each encoding.
func (e endpoint) ways() map[string][]way {
	all := map[string][]way{}
	for _, verb := range e.verbs {
		stored := e.stored
		if verb == create && e.subresource == "" {
			stored = stored[:1] // create changes no stored object
		}
		for _, name := range stored {
			add := func(encoding, mediaType string) {
				all[encoding] = append(all[encoding], way{verb, encoding, mediaType, name})
			}
			switch verb {
			case patch:
				for _, mediaType := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType, types.JSONPatchType} {
					add(inJSON, string(mediaType))
				}
			case apply:
				add(inJSON, string(types.ApplyYAMLPatchType))
				add(inYAML, string(types.ApplyYAMLPatchType))
				add(inCBOR, string(types.ApplyCBORPatchType))
			default:
				add(inJSON, runtime.ContentTypeJSON)
				add(inYAML, runtime.ContentTypeYAML)
				add(inProtobuf, runtime.ContentTypeProtobuf)
				add(inCBOR, runtime.ContentTypeCBOR)
			}
		}
	}
	return all
}

// spent is the cost of a request and its response.
type spent struct {
	cpu   time.Duration
	bytes uint64
	code  int
	says  string
}

// processorTime returns the CPU time that this process has used. etcd is another process.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// allocated returns the number of bytes that this process has allocated since its start.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

type server struct {
	handler http.Handler
	codecs  serializer.CodecFactory
}

// send sends a request and measures it.
func (s *server) send(method, path, contentType string, body []byte) spent {
	req := httptest.NewRequest(method, group+"/namespaces/"+namespace+"/"+path, bytes.NewReader(body))
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", runtime.ContentTypeJSON)
	w := httptest.NewRecorder()
	cpu, bytesBefore := processorTime(), allocated()
	s.handler.ServeHTTP(w, req)
	got := spent{cpu: processorTime() - cpu, bytes: allocated() - bytesBefore, code: w.Code}
	says := w.Body.String()
	got.says = says[:min(len(says), 2000)]
	return got
}

// encode returns an object, or a part of one, in the encoding. It returns nil if the encoding cannot represent it.
func (s *server) encode(e endpoint, encoding string, value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // a bug of this test
	}
	switch encoding {
	case inYAML: // JSON is valid YAML; the comment prevents that the server parses it as JSON
		return append([]byte("# YAML\n"), data...)
	case inProtobuf:
		typed := reflect.New(reflect.TypeOf(e.of).Elem()).Interface().(runtime.Object)
		if json.Unmarshal(data, typed) != nil {
			return nil // the type cannot represent the value
		}
		info, _ := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		body, err := runtime.Encode(s.codecs.EncoderForVersion(info.Serializer, e.version), typed)
		if err != nil {
			return nil
		}
		return body
	case inCBOR:
		var plain any
		if json.Unmarshal(data, &plain) != nil {
			return nil // a number that is too long
		}
		body, err := direct.Marshal(plain)
		if err != nil {
			return nil
		}
		return body
	}
	return data
}

// request returns the request whose body has the value in the field. The body is nil if the encoding cannot represent
// it.
func (s *server) request(e endpoint, w way, p place, value any) (method, path string, body []byte) {
	method, path = http.MethodPatch, e.resource+"/"+w.stored
	if e.subresource != "" {
		path += "/" + e.subresource
	}
	whole := func(name string) any {
		o := e.valid()
		o["apiVersion"], o["kind"] = e.version.String(), e.kind
		if name != "" {
			o["metadata"] = object{"name": name, "namespace": namespace}
		}
		return with(o, p.path, value)
	}
	query := "?dryRun=All"
	var content any
	switch {
	case w.verb == create && e.subresource == "":
		method, path, content = http.MethodPost, e.resource, whole("attack")
	case w.verb == create:
		method, content = http.MethodPost, whole(w.stored)
	case w.verb == update:
		method, content = http.MethodPut, whole(w.stored)
	case w.verb == deleteOne:
		method, content = http.MethodDelete, whole("")
	case w.verb == deleteCollection:
		method, path, content = http.MethodDelete, e.resource, whole("")
	case w.verb == apply:
		query += "&fieldManager=cost&force=true"
		content = with(object{"apiVersion": e.version.String(), "kind": e.kind}, p.path, value)
	case w.mediaType == string(types.JSONPatchType):
		parent := min(2, len(p.path)) // metadata, spec and status exist
		content = []any{object{"op": "add", "path": "/" + strings.Join(p.path[:parent], "/"), "value": with(nil, p.path[parent:], value)}}
	default:
		content = with(object{}, p.path, value)
	}
	return method, path + query, s.encode(e, w.encoding, content)
}
