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

package api

import (
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/test/kit"
)

// subresourceRules are the rules of all subresources.
var subresourceRules = []subresourceRule{
	{"do not create objects", subresourceDoesNotCreate},
	{"dry run", subresourceDryRun},
	{"unknown fields", subresourceUnknownFields},
	{"invalid values", subresourceInvalidValues},
	{"encodings", subresourceEncodings},
}

func (sub subresource) createOnly() bool { return sub.body != "" }

func (sub subresource) isStream() bool { return sub.invalidQueries != nil }

// expectRefused checks that a subresource for workers refuses the administrator, who may do everything else, and
// creates nothing.
func (sub subresource) expectRefused(s *subject, name string) {
	s.Helper()
	s.create("a")
	stored := s.get("a")
	resp := s.send(http.MethodPost, s.path("a", name), []byte("{}"), "Content-Type", "application/zip").expect(s, http.StatusForbidden)
	if !strings.Contains(string(resp.body), "only worker") {
		s.Errorf("got an error that does not say who may: %s", resp.body)
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		s.send(method, s.path("a", name), []byte(`{}`), "Content-Type", mediaJSON).expect(s, http.StatusMethodNotAllowed)
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

// expectReadOnly checks that a stream has only GET, and that other methods do not change the object.
func expectReadOnly(s *subject, name string) {
	s.Helper()
	s.create("a")
	stored := s.get("a")
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		s.send(method, s.path("a", name), []byte(`{}`), "Content-Type", mediaJSON).expect(s, http.StatusMethodNotAllowed)
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

// expectQueriesRejected checks that errors name the invalid parameter.
func (sub subresource) expectQueriesRejected(s *subject, name string) {
	s.Helper()
	s.create("a")
	for query, parameter := range sub.invalidQueries {
		resp := s.send(http.MethodGet, s.path("a", name)+"?"+query, nil)
		if resp.code != http.StatusBadRequest && resp.code != http.StatusUnprocessableEntity || !strings.Contains(string(resp.body), parameter) {
			s.Errorf("%s: got %d, want 400 or 422 and an error that names %s: %s", query, resp.code, parameter, resp.body)
		}
	}
}

// writableField returns the field that the subresource updates.
func (sub subresource) writableField(s *subject, name string) field {
	if name == "status" {
		return s.status
	}
	return sub.field
}

func (sub subresource) gvk(s *subject) schema.GroupVersionKind {
	if sub.apiVersion == "" {
		return s.gv.WithKind(sub.kind)
	}
	return schema.FromAPIVersionAndKind(sub.apiVersion, sub.kind)
}

// payload returns an object to send to the subresource: the body to POST, or the current object with its field set.
func (sub subresource) payload(s *subject, object, name string) *unstructured.Unstructured {
	s.Helper()
	if sub.createOnly() {
		obj := &unstructured.Unstructured{Object: parseJSON[map[string]any](s, sub.body)}
		obj.SetGroupVersionKind(sub.gvk(s))
		obj.SetName(object)
		return obj
	}
	obj := kit.Must(s.objects.Get(s.Context(), object, metav1.GetOptions{}, name))(s)
	expectEqual(s, "the kind", obj.GroupVersionKind(), sub.gvk(s))
	field := sub.writableField(s, name)
	setField(s, obj, field.path, field.one)
	return obj
}

// createReady creates an object whose subresource accepts a payload.
func (sub subresource) createReady(s *subject, name string) {
	s.Helper()
	s.create(name)
	if sub.prepare != nil {
		sub.prepare(s, name)
	}
}

func subresourceDoesNotCreate(s *subject, name string, sub subresource) {
	if sub.connects {
		sub.expectRefused(s, name)
		return
	}
	if sub.isStream() {
		_, err := s.objects.Get(s.Context(), "absent", metav1.GetOptions{}, name)
		expectError(s, err, http.StatusNotFound)
		s.expectNotFound("absent")
		return
	}
	if sub.createOnly() {
		_, err := s.objects.Create(s.Context(), sub.payload(s, "absent", name), metav1.CreateOptions{}, name)
		expectError(s, err, http.StatusNotFound)
		return
	}
	s.create("there")
	obj := sub.payload(s, "there", name)
	obj.SetName("absent")
	obj.SetUID("")
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, name)
	expectError(s, err, http.StatusNotFound)
	_, err = s.mergePatch("absent", nestedJSON(sub.writableField(s, name).path, sub.writableField(s, name).one), name)
	expectError(s, err, http.StatusNotFound)
	obj.SetResourceVersion("")
	obj.SetManagedFields(nil)
	_, err = s.apply("one", obj, name)
	expectError(s, err, http.StatusNotFound)
	_, err = s.objects.Get(s.Context(), "absent", metav1.GetOptions{}, name)
	expectError(s, err, http.StatusNotFound)
	s.expectNotFound("absent")
}

func subresourceDryRun(s *subject, name string, sub subresource) {
	if sub.connects {
		return // its body is no object
	}
	if sub.isStream() {
		expectReadOnly(s, name)
		return
	}
	sub.createReady(s, "a")
	stored, all := s.get("a"), []string{metav1.DryRunAll}
	obj := sub.payload(s, "a", name)
	if sub.createOnly() {
		kit.Must(s.objects.Create(s.Context(), obj, metav1.CreateOptions{DryRun: all}, name))(s)
	} else {
		field := sub.writableField(s, name)
		expectField(s, kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{DryRun: all}, name))(s), field.path, field.one)
		text := []byte(nestedJSON(field.path, field.one))
		expectField(s, kit.Must(s.objects.Patch(s.Context(), "a", types.MergePatchType, text, metav1.PatchOptions{DryRun: all}, name))(s), field.path, field.one)
		obj.SetManagedFields(nil)
		force := metav1.ApplyOptions{FieldManager: "one", Force: true, DryRun: all}
		expectField(s, kit.Must(s.objects.Apply(s.Context(), "a", obj, force, name))(s), field.path, field.one)
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceUnknownFields(s *subject, name string, sub subresource) {
	if sub.connects {
		return // its body is no object
	}
	if sub.isStream() {
		return // unknown query parameters are ignored, as upstream does
	}
	sub.createReady(s, "a")
	stored := s.get("a")
	obj := sub.payload(s, "a", name)
	setField(s, obj, sub.unknownField, `1`)
	method := http.MethodPut
	if sub.createOnly() {
		method = http.MethodPost
	}
	send := func(validation string) response {
		s.Helper()
		return s.send(method, s.path("a", name)+"?dryRun=All&fieldValidation="+validation, encodeJSON(s, obj), "Content-Type", mediaJSON)
	}
	if resp := send("Strict").expect(s, http.StatusBadRequest); !strings.Contains(string(resp.body), sub.unknownField) {
		s.Errorf("got an error that does not name %s: %s", sub.unknownField, resp.body)
	}
	if resp := send("Warn"); resp.code >= 300 || !strings.Contains(strings.Join(resp.header.Values("Warning"), "\n"), sub.unknownField) {
		s.Errorf("got %d without a warning that names %s: %v", resp.code, sub.unknownField, resp.header)
	}
	if resp := send("Ignore"); resp.code >= 300 || len(resp.header.Values("Warning")) > 0 {
		s.Errorf("got %d and warnings %q, want success and none", resp.code, resp.header.Values("Warning"))
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceInvalidValues(s *subject, name string, sub subresource) {
	if sub.connects {
		return // its body is no object
	}
	if sub.isStream() {
		sub.expectQueriesRejected(s, name)
		return
	}
	sub.createReady(s, "a")
	stored := s.get("a")
	obj := sub.payload(s, "a", name)
	if sub.createOnly() {
		obj.SetName("b")
		path := s.path("a", name)
		s.send(http.MethodPost, path, encodeJSON(s, obj), "Content-Type", mediaJSON).expect(s, http.StatusBadRequest)
		s.send(http.MethodPost, path, []byte(`{"kind": "Pod", "apiVersion": "v1"}`), "Content-Type", mediaJSON).expect(s, http.StatusBadRequest)
	} else {
		field := sub.writableField(s, name)
		setField(s, obj, field.path, field.invalid)
		_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, name)
		expectInvalid(s, err, field.errorPath())
		_, err = s.mergePatch("a", nestedJSON(field.path, field.invalid), name)
		expectInvalid(s, err, field.errorPath())
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceEncodings(s *subject, name string, sub subresource) {
	if sub.connects {
		return // its body is no object
	}
	if sub.isStream() {
		s.create("a")
		if sub.answers {
			resp := parseYAML(s, s.send(http.MethodGet, s.path("a", name), nil, "Accept", mediaYAML).expect(s, http.StatusOK))
			expectEqual(s, "the kind of the response", resp.GetKind(), sub.kind)
			kit.Must(s.protobuf().Get().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Do(s.Context()).Get())(s)
			return
		}
		// The task is not bound, so there is no log: the error is encoded as any other.
		resp := parseYAML(s, s.send(http.MethodGet, s.path("a", name), nil, "Accept", mediaYAML).expect(s, http.StatusBadRequest))
		expectEqual(s, "the kind of the response", resp.GetKind(), "Status")
		err := s.protobuf().Get().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Do(s.Context()).Error()
		expectError(s, err, http.StatusBadRequest)
		return
	}
	sub.createReady(s, "a")
	client := s.protobuf()
	obj := sub.payload(s, "a", name)
	text := kit.Must(yaml.Marshal(obj.Object))(s)
	if sub.createOnly() {
		resp := parseYAML(s, s.send(http.MethodPost, s.path("a", name)+"?dryRun=All", text, "Content-Type", mediaYAML, "Accept", mediaYAML).expect(s, http.StatusCreated))
		expectEqual(s, "the kind of the response", resp.GetKind(), "Status")
		got := kit.Must(client.Post().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Body(toTyped(s, obj)).Do(s.Context()).Get())(s)
		status, ok := got.(*metav1.Status)
		if !ok || status.Status != metav1.StatusSuccess {
			s.Errorf("got %v, want a Status of %s", got, metav1.StatusSuccess)
		}
		return
	}
	field := sub.writableField(s, name)
	resp := parseYAML(s, s.send(http.MethodPut, s.path("a", name)+"?dryRun=All", text, "Content-Type", mediaYAML, "Accept", mediaYAML).expect(s, http.StatusOK))
	expectField(s, resp, field.path, field.one)
	request := client.Put().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Body(toTyped(s, obj))
	expectField(s, toUnstructured(s, kit.Must[runtime.Object](request.Do(s.Context()).Get())(s), sub.gvk(s)), field.path, field.one)
	request = client.Get().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name)
	stored := kit.Must(s.objects.Get(s.Context(), "a", metav1.GetOptions{}, name))(s)
	expectField(s, stored, field.path, field.one)
	expectEqual(s, "the object that GET returns", toUnstructured(s, kit.Must[runtime.Object](request.Do(s.Context()).Get())(s), sub.gvk(s)), stored)
}
