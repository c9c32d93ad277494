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

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// subresourceRules are about every subresource.
var subresourceRules = []subresourceRule{
	{"do not create objects", subresourceOfNothing},
	{"dry run", subresourceDryRun},
	{"unknown fields", subresourceUnknownFields},
	{"invalid values", subresourceInvalidValues},
	{"encodings", subresourceEncodings},
}

func (sub subresource) created() bool { return sub.body != "" }

func (sub subresource) streamed() bool { return sub.badQueries != nil }

// onlyRead checks that a stream is not written, and that the object is as it was.
func onlyRead(s *scene, name string) {
	s.Helper()
	s.create("a")
	stored := s.get("a")
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		s.send(method, s.path("a", name), []byte(`{}`), "Content-Type", mediaJSON).must(s, http.StatusMethodNotAllowed)
	}
	mustEqual(s, "the stored object", s.get("a"), stored)
}

// refusesQueries checks that parameters that are wrong are named.
func (sub subresource) refusesQueries(s *scene, name string) {
	s.Helper()
	s.create("a")
	for query, parameter := range sub.badQueries {
		answer := s.send(http.MethodGet, s.path("a", name)+"?"+query, nil)
		if answer.code != http.StatusBadRequest && answer.code != http.StatusUnprocessableEntity || !strings.Contains(string(answer.body), parameter) {
			s.Errorf("%s is answered %d, want 400 or 422 and %s named: %s", query, answer.code, parameter, answer.body)
		}
	}
}

// updated gives the field that is written through the subresource.
func (sub subresource) updated(s *scene, name string) field {
	if name == "status" {
		return s.status
	}
	return sub.field
}

func (sub subresource) gvk(s *scene) schema.GroupVersionKind {
	if sub.apiVersion == "" {
		return s.gv.WithKind(sub.kind)
	}
	return schema.FromAPIVersionAndKind(sub.apiVersion, sub.kind)
}

// write gives what is written through the subresource of an object: what is created, or what is there with its field set.
func (sub subresource) write(s *scene, object, name string) *unstructured.Unstructured {
	s.Helper()
	if sub.created() {
		obj := &unstructured.Unstructured{Object: parse[map[string]any](s, sub.body)}
		obj.SetGroupVersionKind(sub.gvk(s))
		obj.SetName(object)
		return obj
	}
	obj := kit.Must(s.objects.Get(s.Context(), object, metav1.GetOptions{}, name))(s)
	mustEqual(s, "the kind", obj.GroupVersionKind(), sub.gvk(s))
	field := sub.updated(s, name)
	set(s, obj, field.path, field.one)
	return obj
}

// ready creates an object whose subresource can be written.
func (sub subresource) ready(s *scene, name string) {
	s.Helper()
	s.create(name)
	if sub.prepare != nil {
		sub.prepare(s, name)
	}
}

func subresourceOfNothing(s *scene, name string, sub subresource) {
	if sub.streamed() {
		_, err := s.objects.Get(s.Context(), "absent", metav1.GetOptions{}, name)
		refused(s, err, http.StatusNotFound)
		s.mustBeGone("absent")
		return
	}
	if sub.created() {
		_, err := s.objects.Create(s.Context(), sub.write(s, "absent", name), metav1.CreateOptions{}, name)
		refused(s, err, http.StatusNotFound)
		return
	}
	s.create("there")
	obj := sub.write(s, "there", name)
	obj.SetName("absent")
	obj.SetUID("")
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, name)
	refused(s, err, http.StatusNotFound)
	_, err = s.mergePatch("absent", nested(sub.updated(s, name).path, sub.updated(s, name).one), name)
	refused(s, err, http.StatusNotFound)
	obj.SetResourceVersion("")
	obj.SetManagedFields(nil)
	_, err = s.apply("one", obj, name)
	refused(s, err, http.StatusNotFound)
	_, err = s.objects.Get(s.Context(), "absent", metav1.GetOptions{}, name)
	refused(s, err, http.StatusNotFound)
	s.mustBeGone("absent")
}

func subresourceDryRun(s *scene, name string, sub subresource) {
	if sub.streamed() {
		onlyRead(s, name)
		return
	}
	sub.ready(s, "a")
	stored, all := s.get("a"), []string{metav1.DryRunAll}
	obj := sub.write(s, "a", name)
	if sub.created() {
		kit.Must(s.objects.Create(s.Context(), obj, metav1.CreateOptions{DryRun: all}, name))(s)
	} else {
		field := sub.updated(s, name)
		mustHave(s, kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{DryRun: all}, name))(s), field.path, field.one)
		text := []byte(nested(field.path, field.one))
		mustHave(s, kit.Must(s.objects.Patch(s.Context(), "a", types.MergePatchType, text, metav1.PatchOptions{DryRun: all}, name))(s), field.path, field.one)
		obj.SetManagedFields(nil)
		force := metav1.ApplyOptions{FieldManager: "one", Force: true, DryRun: all}
		mustHave(s, kit.Must(s.objects.Apply(s.Context(), "a", obj, force, name))(s), field.path, field.one)
	}
	mustEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceUnknownFields(s *scene, name string, sub subresource) {
	if sub.streamed() {
		return // parameters that are not known are left alone, as everywhere
	}
	sub.ready(s, "a")
	stored := s.get("a")
	obj := sub.write(s, "a", name)
	set(s, obj, sub.unknown, `1`)
	method := http.MethodPut
	if sub.created() {
		method = http.MethodPost
	}
	send := func(validation string) response {
		s.Helper()
		return s.send(method, s.path("a", name)+"?dryRun=All&fieldValidation="+validation, encode(s, obj), "Content-Type", mediaJSON)
	}
	if answer := send("Strict").must(s, http.StatusBadRequest); !strings.Contains(string(answer.body), sub.unknown) {
		s.Errorf("the answer does not name %s: %s", sub.unknown, answer.body)
	}
	if answer := send("Warn"); answer.code >= 300 || !strings.Contains(strings.Join(answer.header.Values("Warning"), "\n"), sub.unknown) {
		s.Errorf("got %d and no warning that names %s: %v", answer.code, sub.unknown, answer.header)
	}
	if answer := send("Ignore"); answer.code >= 300 || len(answer.header.Values("Warning")) > 0 {
		s.Errorf("got %d and warnings %q, want none", answer.code, answer.header.Values("Warning"))
	}
	mustEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceInvalidValues(s *scene, name string, sub subresource) {
	if sub.streamed() {
		sub.refusesQueries(s, name)
		return
	}
	sub.ready(s, "a")
	stored := s.get("a")
	obj := sub.write(s, "a", name)
	if sub.created() {
		obj.SetName("b")
		path := s.path("a", name)
		s.send(http.MethodPost, path, encode(s, obj), "Content-Type", mediaJSON).must(s, http.StatusBadRequest)
		s.send(http.MethodPost, path, []byte(`{"kind": "Pod", "apiVersion": "v1"}`), "Content-Type", mediaJSON).must(s, http.StatusBadRequest)
	} else {
		field := sub.updated(s, name)
		set(s, obj, field.path, field.refused)
		_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, name)
		invalid(s, err, field.refusedPath())
		_, err = s.mergePatch("a", nested(field.path, field.refused), name)
		invalid(s, err, field.refusedPath())
	}
	mustEqual(s, "the stored object", s.get("a"), stored)
}

func subresourceEncodings(s *scene, name string, sub subresource) {
	if sub.streamed() {
		// What cannot be read, here because nothing runs, is told as any error is.
		s.create("a")
		answer := fromYAML(s, s.send(http.MethodGet, s.path("a", name), nil, "Accept", mediaYAML).must(s, http.StatusBadRequest))
		mustEqual(s, "the kind of the answer", answer.GetKind(), "Status")
		err := s.protobuf().Get().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Do(s.Context()).Error()
		refused(s, err, http.StatusBadRequest)
		return
	}
	sub.ready(s, "a")
	client := s.protobuf()
	obj := sub.write(s, "a", name)
	text := kit.Must(yaml.Marshal(obj.Object))(s)
	if sub.created() {
		answer := fromYAML(s, s.send(http.MethodPost, s.path("a", name)+"?dryRun=All", text, "Content-Type", mediaYAML, "Accept", mediaYAML).must(s, http.StatusCreated))
		mustEqual(s, "the kind of the answer", answer.GetKind(), "Status")
		got := kit.Must(client.Post().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Body(typed(s, obj)).Do(s.Context()).Get())(s)
		status, ok := got.(*metav1.Status)
		if !ok || status.Status != metav1.StatusSuccess {
			s.Errorf("the answer is %v, want a Status of %s", got, metav1.StatusSuccess)
		}
		return
	}
	field := sub.updated(s, name)
	answer := fromYAML(s, s.send(http.MethodPut, s.path("a", name)+"?dryRun=All", text, "Content-Type", mediaYAML, "Accept", mediaYAML).must(s, http.StatusOK))
	mustHave(s, answer, field.path, field.one)
	request := client.Put().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name).Body(typed(s, obj))
	mustHave(s, untyped(s, kit.Must[runtime.Object](request.Do(s.Context()).Get())(s), sub.gvk(s)), field.path, field.one)
	request = client.Get().Namespace(s.namespace).Resource(s.resource).Name("a").SubResource(name)
	stored := kit.Must(s.objects.Get(s.Context(), "a", metav1.GetOptions{}, name))(s)
	mustHave(s, stored, field.path, field.one)
	mustEqual(s, "what GET gives", untyped(s, kit.Must[runtime.Object](request.Do(s.Context()).Get())(s), sub.gvk(s)), stored)
}
