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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

// broken is a body whose connection breaks.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestBodyLimits(t *testing.T) {
	const maxBytes = 3 << 20
	set := &v1alpha1.TaskSet{}
	for i := range 10_001 {
		set.Spec.Template.Finalizers = append(set.Spec.Template.Finalizers, strings.Repeat("f", i%7+1))
	}
	encoded := func(obj runtime.Object) string {
		info, _ := runtime.SerializerInfoForMediaType(scheme.NewCodecs(scheme.Scheme).SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		var b bytes.Buffer
		if err := scheme.NewCodecs(scheme.Scheme).EncoderForVersion(info.Serializer, v1alpha1.SchemeGroupVersion).Encode(obj, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	large := &v1alpha1.Task{Spec: v1alpha1.TaskSpec{Args: []string{strings.Repeat("a", 1<<20)}}}
	manyOwners := &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{OwnerReferences: make([]metav1.OwnerReference, 10_001)}}
	fields := `{` + strings.Repeat(`"a":1,`, 10_000) + `"a":1}`
	for name, test := range map[string]struct {
		contentType, encoding, resource, body string
		want                                  string // in the error; if empty, the handler reads the whole body
	}{
		"small":                  {contentType: "application/json", body: `{"a":1}`},
		"small and compressed":   {contentType: "application/json", encoding: "gzip", body: "x", want: `Content-Encoding \"gzip\"`},
		"identity encoding":      {contentType: "application/json", encoding: "identity", body: `{"a":1}`},
		"many fields":            {contentType: "application/json", body: fields, want: "more than 10000 fields"},
		"many fields in a patch": {contentType: "application/merge-patch+json", body: fields, want: "more than 10000 fields"},
		"many operations":        {contentType: "application/json-patch+json", body: "[" + strings.Repeat(`{"op":"remove","path":"/a"},`, 1_000) + "{}]", want: "a list in the body has more than 1000 items: the body"},
		"maximum of operations":  {contentType: "application/json-patch+json", body: "[" + strings.Repeat(`{"op":"remove","path":"/a"},`, 999) + "{}]"},
		"a long list in a strategic patch": {contentType: "application/strategic-merge-patch+json", body: `{"a":[{"b":[` + strings.Repeat(`"abc",`, 1_000) + `"a"]}]}`,
			want: "a list in the body has more than 1000 items: a[0].b"},
		"a long list in a merge patch":   {contentType: "application/merge-patch+json", body: `{"a":[{"b":[` + strings.Repeat(`"a",`, 99_999) + `"a"]}]}`},
		"many fields without type":       {body: fields, want: "more than 10000 fields"},
		"many fields with a charset":     {contentType: "application/json; charset=utf-8", body: fields, want: "more than 10000 fields"},
		"many fields in YAML":            {contentType: "application/yaml", body: strings.ReplaceAll(fields, `"a"`, `'"'`), want: ""}, // duplicate keys, which the decoder refuses
		"many fields in YAML that parse": {contentType: "application/yaml", body: yamlFields(10_001), want: "more than 10000 fields"},
		"JSON as YAML":                   {contentType: "application/apply-patch+yaml", body: fields, want: "more than 10000 fields"},
		"long YAML":                      {contentType: "application/apply-patch+yaml", body: "a: " + strings.Repeat("a", maxYAML), want: "YAML of more than 262144 bytes"},
		"long text":                      {contentType: "application/json", body: `["` + strings.Repeat("a", 1<<20) + `"]`},
		"longer text":                    {contentType: "application/json", body: `["` + strings.Repeat("a", 2<<20+1) + `"]`, want: "a string in the body"},
		"invalid JSON":                   {contentType: "application/json", body: strings.Repeat("}]\\\"", 2000)},
		"many owners in protobuf":        {contentType: runtime.ContentTypeProtobuf, body: encoded(manyOwners), want: "a list in the body has more than 1000 items: metadata.ownerReferences"},
		"many finalizers in a template":  {contentType: runtime.ContentTypeProtobuf, resource: "tasksets", body: encoded(set), want: "a list in the body has more than 10000 items: spec.template.metadata.finalizers"},
		"long arguments in protobuf":     {contentType: runtime.ContentTypeProtobuf, resource: "tasks", body: encoded(large)},
		"a long quantity in protobuf":    {contentType: runtime.ContentTypeProtobuf, resource: "tasks", body: string(protobufQuantity(t, "1e999999999")), want: "spec.resources.requests.cpu: the exponent"},
		"more than the maximum size":     {contentType: "application/json", body: strings.Repeat("[", maxBytes+1)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, chunked := range []bool{false, true} {
				var read []byte
				handler := WithBodyLimits(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					read, _ = io.ReadAll(req.Body)
				}), scheme.NewCodecs(scheme.Scheme), maxBytes)
				req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(test.body))
				if chunked {
					req.ContentLength = -1
				}
				req.Header.Set("Content-Type", test.contentType)
				req.Header.Set("Content-Encoding", test.encoding)
				req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{Resource: test.resource}))
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, req)
				if test.want == "" {
					if w.Code != http.StatusOK || string(read) != test.body {
						t.Errorf("got status %d with %d of %d bytes read: %.200s", w.Code, len(read), len(test.body), w.Body)
					}
				} else if w.Code/100 != 4 || !strings.Contains(w.Body.String(), test.want) {
					t.Errorf("got status %d: %.300s, want an error with %q", w.Code, w.Body, test.want)
				}
			}
		})
	}

	t.Run("the handler gets the error of a broken connection", func(t *testing.T) {
		var err error
		handler := WithBodyLimits(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			_, err = io.ReadAll(req.Body)
		}), scheme.NewCodecs(scheme.Scheme), maxBytes)
		req := httptest.NewRequest(http.MethodPost, "/", broken{strings.NewReader("{}")})
		req.ContentLength = -1
		handler.ServeHTTP(httptest.NewRecorder(), req)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
}

// encodings are the encodings of an object but YAML, which has a limit of its own.
var encodings = map[string]func(*testing.T, runtime.Object) []byte{
	runtime.ContentTypeJSON: func(t *testing.T, object runtime.Object) []byte { return must(json.Marshal(object))(t) },
	runtime.ContentTypeCBOR: func(t *testing.T, object runtime.Object) []byte { return must(direct.Marshal(object))(t) },
	runtime.ContentTypeProtobuf: func(t *testing.T, object runtime.Object) []byte {
		codecs := scheme.NewCodecs(scheme.Scheme)
		info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		return must(runtime.Encode(codecs.EncoderForVersion(info.Serializer, v1alpha1.SchemeGroupVersion), object))(t)
	},
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// checked returns the result of checkBody for a body of the media type.
func checked(mediaType string, body []byte) error {
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Header.Set("Content-Type", mediaType)
	return checkBody(req, body)
}

func TestBodyLimitsOfAllEncodings(t *testing.T) {
	task := func(grow func(*v1alpha1.Task)) *v1alpha1.Task {
		task := &v1alpha1.Task{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Task"}}
		grow(task)
		return task
	}
	raw := func(n int) metav1.ManagedFieldsEntry {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"f:%d":{},`, n-i)
		}
		return metav1.ManagedFieldsEntry{FieldsV1: &metav1.FieldsV1{Raw: []byte("{" + strings.TrimSuffix(b.String(), ",") + "}")}}
	}
	for name, test := range map[string]struct {
		limit int
		grow  func(*v1alpha1.Task, int)
		want  string
	}{
		"fields of an object": {10_000, func(task *v1alpha1.Task, n int) {
			task.Annotations = map[string]string{}
			for i := range n {
				task.Annotations[fmt.Sprint(i)] = ""
			}
		}, "an object in the body has more than 10000 fields: metadata.annotations"},
		"objects in a list": {10_000, func(task *v1alpha1.Task, n int) { task.Spec.Env = make([]v1alpha1.EnvVar, n) },
			"a list in the body has more than 10000 objects: spec.env"},
		"owners": {1_000, func(task *v1alpha1.Task, n int) { task.OwnerReferences = make([]metav1.OwnerReference, n) },
			"a list in the body has more than 1000 items: metadata.ownerReferences"},
		"items in a list": {100_000, func(task *v1alpha1.Task, n int) { task.Spec.Args = make([]string, n) },
			"a list in the body has more than 100000 items: spec.args"},
		"finalizers": {10_000, func(task *v1alpha1.Task, n int) { task.Finalizers = make([]string, n) },
			"a list in the body has more than 10000 items: metadata.finalizers"},
		"managers": {1_000, func(task *v1alpha1.Task, n int) {
			task.ManagedFields = slices.Repeat([]metav1.ManagedFieldsEntry{raw(1)}, n)
		},
			"a list in the body has more than 1000 items: metadata.managedFields"},
		"fields of a manager": {10_001, func(task *v1alpha1.Task, n int) { task.ManagedFields = []metav1.ManagedFieldsEntry{raw(1), raw(n)} },
			"an object in the body has more than 10000 fields: metadata.managedFields[1].fieldsV1"},
		"nesting": {96, func(task *v1alpha1.Task, n int) {
			task.ManagedFields = []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{
				Raw: []byte(strings.Repeat(`{"f:a":`, n-1) + "{}" + strings.Repeat("}", n-1))}}}
		}, "the body is nested more than 100 deep"},
		"a string": {2 << 20, func(task *v1alpha1.Task, n int) { task.Spec.Command = []string{strings.Repeat("a", n)} },
			"a string in the body has more than 2097152 bytes"},
		"all fields and items": {99_980, func(task *v1alpha1.Task, n int) {
			task.Spec.Args, task.Spec.Command = make([]string, 100_000), make([]string, n)
		},
			"the body has more than 200000 fields and items"},
	} {
		for mediaType, encode := range encodings {
			t.Run(name+" in "+mediaType, func(t *testing.T) {
				if err := checked(mediaType, encode(t, task(func(task *v1alpha1.Task) { test.grow(task, test.limit) }))); err != nil {
					t.Errorf("%d are refused: %v", test.limit, err)
				}
				more := test.limit + test.limit/100 + 1 // protobuf has fewer objects around the same lists
				err := checked(mediaType, encode(t, task(func(task *v1alpha1.Task) { test.grow(task, more) })))
				if err == nil || err.Error() != test.want && !strings.HasPrefix(test.want, "the body has") {
					t.Errorf("%d: got %v, want %q", more, err, test.want)
				}
			})
		}
	}
}

// protobufQuantity returns a task that requests the quantity of cpu. The quantity need not be valid.
func protobufQuantity(t *testing.T, quantity string) []byte {
	field := func(number byte, value []byte) []byte {
		return append(binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(value))), value...)
	}
	entry := append(field(1, []byte("cpu")), field(2, field(1, []byte(quantity)))...)
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "batch.leat.dev/v1alpha1", Kind: "Task"}, Raw: field(2, field(8, field(1, entry)))}
	return append([]byte("k8s\x00"), must(unknown.Marshal())(t)...)
}

// TestQuantityLimits expects quantities with large exponents to be refused: a decoder computes all their digits.
func TestQuantityLimits(t *testing.T) {
	for quantity, refused := range map[string]bool{
		"1": false, "500m": false, "1Gi": false, "1E": false, "12e6": false, "1e99": false, "1e+006": false, strings.Repeat("1", 64): false,
		"1e100": true, "1E-100": true, "1e999999999": true, strings.Repeat("1", 65): true, "0." + strings.Repeat("1", 64): true,
	} {
		t.Run(shortened(quantity), func(t *testing.T) {
			body := fmt.Sprintf(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","spec":{"resources":{"requests":{"cpu":%q}}}}`, quantity)
			decoder := scheme.NewCodecs(scheme.Scheme).UniversalDeserializer()
			if _, _, err := decoder.Decode([]byte(body), nil, nil); (err != nil) != refused || refused && !strings.Contains(err.Error(), "cpu: ") {
				t.Errorf("JSON with it: %v", err)
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(body), &fields); err != nil {
				t.Fatal(err)
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &v1alpha1.Task{}); (err != nil) != refused {
				t.Errorf("a patch with it: %v", err)
			}
			if err := direct.Unmarshal(must(direct.Marshal(fields))(t), &v1alpha1.Task{}); (err != nil) != refused {
				t.Errorf("CBOR with it: %v", err)
			}
			err := checked(runtime.ContentTypeProtobuf, protobufQuantity(t, quantity))
			if (err != nil) != refused || refused && !strings.HasPrefix(err.Error(), "spec.resources.requests.cpu: ") {
				t.Errorf("protobuf with it: %v", err)
			}
		})
	}
}

func shortened(text string) string { return text[:min(len(text), 20)] + fmt.Sprint(" of ", len(text)) }

// yamlFields returns an object of n fields in YAML that is not JSON.
func yamlFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "field-%d: 1\n", i)
	}
	return b.String()
}

// FuzzJSONLimits compares checkJSON with what a decoder finds in valid JSON.
func FuzzJSONLimits(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,2,{"b":"\"]"}]}`, `[[[[]]]]`, `[{},{},{},{}]`, `{"a":1,"b":2,"c":3,"d":4}`, `"\\"`, `["\"",[[[]]],"\""]`, `}]{[`, `["\`} {
		f.Add([]byte(seed))
	}
	limits := bodyLimits{depth: 3, fields: 3, items: 5, total: 12, text: 8}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := limits.checkJSON(body)
		if !json.Valid(body) || !utf8.Valid(body) { // a decoder lengthens invalid UTF-8
			return
		}
		seen := shape{}
		seen.read(t, json.NewDecoder(bytes.NewReader(body)), 0)
		tooMuch := seen.depth > limits.depth || seen.fields > limits.fields || seen.nested > limits.fields || seen.items > limits.items ||
			seen.total > limits.total || seen.text > limits.text
		// Escaped strings are shorter once they are decoded.
		if tooMuch && err == nil || !tooMuch && err != nil && !bytes.ContainsRune(body, '\\') {
			t.Errorf("%s has %+v: %v", body, seen, err)
		}
	})
}

// shape holds the sizes of JSON that the limits bound.
type shape struct{ depth, fields, nested, items, total, text int }

func (s *shape) read(t *testing.T, d *json.Decoder, depth int) (isNested bool) {
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := token.(string); ok {
		s.text = max(s.text, len(text))
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return false
	}
	s.depth = max(s.depth, depth+1)
	s.total++
	items, nested := 0, 0
	for ; d.More(); items++ {
		if delim == '{' {
			s.read(t, d, depth+1) // the key
		}
		if s.read(t, d, depth+1) {
			nested++
		}
	}
	s.total += max(0, items-1)
	if delim == '{' {
		s.fields = max(s.fields, items)
	} else {
		s.items, s.nested = max(s.items, items), max(s.nested, nested)
	}
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	return true
}
