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

package apiserver

import (
	"bytes"
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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/apihelpers"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestSelectorsAreLimited(t *testing.T) {
	for name, test := range map[string]struct {
		selector      string
		terms, values int
		refused       bool
	}{
		"none":               {"", 1, 1, false},
		"one":                {"a=b", 1, 1, false},
		"terms and values":   {"a in (b,c),!d,e notin (f,g,h)", 3, 6, false},
		"1,000 terms":        {strings.Repeat("a,", 999) + "a", 1000, 1000, false},
		"1,001 terms":        {strings.Repeat("a,", 1000) + "a", 1001, 1001, true},
		"10,000 values":      {"a in (" + strings.Repeat("a,", 9_999) + "a)", 1, 10_000, false},
		"10,001 values":      {"a in (" + strings.Repeat("a,", 10_000) + "a)", 1, 10_001, true},
		"values never ended": {"a in (" + strings.Repeat("a,", 10_000), 1, 10_001, true},
	} {
		for _, parameter := range []string{"labelSelector", "fieldSelector"} {
			t.Run(name+" in "+parameter, func(t *testing.T) {
				if terms, values := countTerms(test.selector); terms != test.terms || values != test.values {
					t.Errorf("it has %d terms with %d values, want %d with %d", terms, values, test.terms, test.values)
				}
				served := false
				handler := withSelectorLimits(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }), newCodecs(Scheme))
				req := httptest.NewRequest(http.MethodGet, "/", nil)
				query := req.URL.Query()
				query.Set(parameter, test.selector)
				req.URL.RawQuery = query.Encode()
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, req)
				if served == test.refused {
					t.Errorf("served: %t, want %t", served, !test.refused)
				}
				if test.refused && (w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), parameter+" has")) {
					t.Errorf("it is answered %d: %.200s", w.Code, w.Body)
				}
			})
		}
	}
}

// broken is a body whose connection ends.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestBodiesAreLimited(t *testing.T) {
	const maxBytes = 3 << 20
	set := &v1alpha1.TaskSet{}
	for i := range 10_001 {
		set.Spec.Template.Finalizers = append(set.Spec.Template.Finalizers, strings.Repeat("f", i%7+1))
	}
	encoded := func(obj runtime.Object) string {
		info, _ := runtime.SerializerInfoForMediaType(newCodecs(Scheme).SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		var b bytes.Buffer
		if err := info.Serializer.Encode(obj, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	large := &v1alpha1.Task{Spec: v1alpha1.TaskSpec{Args: []string{strings.Repeat("a", 1<<20)}}}
	manyOwners := &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{OwnerReferences: make([]metav1.OwnerReference, 10_001)}}
	fields := `{` + strings.Repeat(`"a":1,`, 10_000) + `"a":1}`
	for name, test := range map[string]struct {
		contentType, encoding, resource, body string
		want                                  string // none: it is served, and read whole
	}{
		"small":                          {contentType: "application/json", body: `{"a":1}`},
		"small and compressed":           {contentType: "application/json", encoding: "gzip", body: "x", want: `Content-Encoding \"gzip\"`},
		"of an encoding that is none":    {contentType: "application/json", encoding: "identity", body: `{"a":1}`},
		"many fields":                    {contentType: "application/json", body: fields, want: "more than 10000 fields"},
		"many fields in a patch":         {contentType: "application/merge-patch+json", body: fields, want: "more than 10000 fields"},
		"many fields of no type":         {body: fields, want: "more than 10000 fields"},
		"many fields with a character":   {contentType: "application/json; charset=utf-8", body: fields, want: "more than 10000 fields"},
		"many fields in YAML":            {contentType: "application/yaml", body: strings.ReplaceAll(fields, `"a"`, `'"'`), want: ""}, // it has one key often: none for a decoder
		"many fields in YAML that parse": {contentType: "application/yaml", body: yamlFields(10_001), want: "more than 10000 fields"},
		"JSON as YAML":                   {contentType: "application/apply-patch+yaml", body: fields, want: "more than 10000 fields"},
		"long YAML":                      {contentType: "application/apply-patch+yaml", body: "a: " + strings.Repeat("a", maxYAML), want: "YAML of more than 262144 bytes"},
		"long text":                      {contentType: "application/json", body: `["` + strings.Repeat("a", 1<<20) + `"]`},
		"longer text":                    {contentType: "application/json", body: `["` + strings.Repeat("a", 2<<20+1) + `"]`, want: "a string in the body"},
		"what is not JSON":               {contentType: "application/json", body: strings.Repeat("}]\\\"", 2000)},
		"many owners in protobuf":        {contentType: runtime.ContentTypeProtobuf, body: encoded(manyOwners), want: "field 13 of field 1"},
		"many finalizers in a template":  {contentType: runtime.ContentTypeProtobuf, resource: "tasksets", body: encoded(set), want: "field 14 of field 1"},
		"long arguments in protobuf":     {contentType: runtime.ContentTypeProtobuf, resource: "tasks", body: encoded(large)},
		"of more than may be sent":       {contentType: "application/json", body: strings.Repeat("[", maxBytes+1)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, chunked := range []bool{false, true} {
				var read []byte
				handler := withBodyLimits(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					read, _ = io.ReadAll(req.Body)
				}), newCodecs(Scheme), maxBytes)
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
						t.Errorf("it is answered %d, and %d of %d bytes are read: %.200s", w.Code, len(read), len(test.body), w.Body)
					}
				} else if w.Code/100 != 4 || !strings.Contains(w.Body.String(), test.want) {
					t.Errorf("it is answered %d: %.300s, want one that says %q", w.Code, w.Body, test.want)
				}
			}
		})
	}

	t.Run("a connection that ends is told to who reads", func(t *testing.T) {
		var err error
		handler := withBodyLimits(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			_, err = io.ReadAll(req.Body)
		}), newCodecs(Scheme), maxBytes)
		req := httptest.NewRequest(http.MethodPost, "/", broken{strings.NewReader("{}")})
		req.ContentLength = -1
		handler.ServeHTTP(httptest.NewRecorder(), req)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("who reads is told %v", err)
		}
	})
}

func TestLongAnswersAreNotWrittenAsYAML(t *testing.T) {
	object := v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 10_000)}}}
	list := func(n int) *v1alpha1.TaskList {
		return &v1alpha1.TaskList{Items: slices.Repeat([]v1alpha1.Task{object}, n)}
	}
	table := func(n int, of runtime.Object) *metav1.Table {
		return &metav1.Table{Rows: slices.Repeat([]metav1.TableRow{{Object: runtime.RawExtension{Object: of}}}, n)}
	}
	for name, test := range map[string]struct {
		object    runtime.Object
		mediaType string
		refused   bool
	}{
		"one object":               {&object, runtime.ContentTypeYAML, false},
		"an object":                {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1_000_000)}}}, runtime.ContentTypeYAML, false},
		"a long object":            {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1<<20)}}}, runtime.ContentTypeYAML, true},
		"a long object in JSON":    {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1<<20)}}}, runtime.ContentTypeJSON, false},
		"no objects":               {list(0), runtime.ContentTypeYAML, false},
		"a list":                   {list(50), runtime.ContentTypeYAML, false},
		"a long list":              {list(60), runtime.ContentTypeYAML, true},
		"a long list in JSON":      {list(60), runtime.ContentTypeJSON, false},
		"a table":                  {table(50, &object), runtime.ContentTypeYAML, false},
		"a long table":             {table(60, &object), runtime.ContentTypeYAML, true},
		"a long table of no more":  {table(3000, nil), runtime.ContentTypeYAML, true},
		"a long table in JSON":     {table(60, &object), runtime.ContentTypeJSON, false},
		"a long list in protobuf":  {list(60), runtime.ContentTypeProtobuf, false},
		"what an error is told by": {&metav1.Status{Message: strings.Repeat("a", 10_000)}, runtime.ContentTypeYAML, false},
	} {
		t.Run(name, func(t *testing.T) {
			var codecs runtime.NegotiatedSerializer = newCodecs(Scheme)
			limitYAML(codecs)
			limitSharedYAML()
			version := v1alpha1.SchemeGroupVersion
			if _, ok := test.object.(*metav1.Table); ok {
				codecs, version = apihelpers.GetMetaInternalVersionCodecs(), metav1.SchemeGroupVersion
			}
			info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), test.mediaType)
			if !ok {
				t.Fatal("the type is not accepted")
			}
			var out bytes.Buffer
			err := codecs.EncoderForVersion(info.Serializer, version).Encode(test.object, &out)
			switch status := apierrors.APIStatus(nil); {
			case !test.refused && err != nil:
				t.Error(err)
			case test.refused && (!errors.As(err, &status) || status.Status().Code != http.StatusNotAcceptable || out.Len() > 0):
				t.Errorf("the error is %v after %d bytes", err, out.Len())
			}
		})
	}
}

// yamlFields is an object of n fields, in YAML that is no JSON.
func yamlFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "field-%d: 1\n", i)
	}
	return b.String()
}

// FuzzJSONLimits holds the limits to what a decoder finds: what it takes is within them, and what is not JSON does no harm.
func FuzzJSONLimits(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,2,{"b":"\"]"}]}`, `[[[[]]]]`, `[{},{},{},{}]`, `{"a":1,"b":2,"c":3,"d":4}`, `"\\"`, `["\"",[[[]]],"\""]`, `}]{[`, `["\`} {
		f.Add([]byte(seed))
	}
	limits := jsonLimits{depth: 3, fields: 3, items: 5, parts: 12, text: 8}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := limits.check(body)
		if !json.Valid(body) || !utf8.Valid(body) { // what is not valid UTF-8 becomes longer
			return
		}
		seen := shape{}
		seen.read(t, json.NewDecoder(bytes.NewReader(body)), 0)
		tooMuch := seen.depth > limits.depth || seen.fields > limits.fields || seen.nested > limits.fields || seen.items > limits.items ||
			seen.parts > limits.parts || seen.text > limits.text
		// What is escaped is shorter once it is read.
		if tooMuch && err == nil || !tooMuch && err != nil && !bytes.ContainsRune(body, '\\') {
			t.Errorf("%s has %+v: %v", body, seen, err)
		}
	})
}

// shape is how large JSON is in each respect.
type shape struct{ depth, fields, nested, items, parts, text int }

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
	s.parts++
	items, nested := 0, 0
	for ; d.More(); items++ {
		if delim == '{' {
			s.read(t, d, depth+1) // the key
		}
		if s.read(t, d, depth+1) {
			nested++
		}
	}
	s.parts += max(0, items-1)
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
