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
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/leat-dev/leat/test/kit"
)

// testScaleSubresource checks the scale of every kind that has one.
func testScaleSubresource(t *testing.T, fx *fixture, versions []string) {
	for _, c := range []struct {
		name  string
		check func(*subject)
	}{
		{"maps the spec", scaleMapsTheSpec},
		{"checks preconditions", scaleChecksPreconditions},
		{"apply owns the field of the main resource", scaleApplyOwnsTheField},
		{"updates are tracked", scaleUpdatesAreTracked},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range conformanceKinds {
				if _, ok := conformanceKinds[i].subresources["scale"]; !ok {
					continue
				}
				for _, version := range versions {
					t.Run(conformanceKinds[i].resource+"-"+version, func(t *testing.T) { c.check(fx.newSubject(t, &conformanceKinds[i], version)) })
				}
			}
		})
	}
}

func (s *subject) scale(name string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Get(s.Context(), name, metav1.GetOptions{}, "scale"))(s)
}

// scaleTo returns a Scale to apply.
func scaleTo(name string, replicas int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "autoscaling/v1", "kind": "Scale",
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"replicas": replicas},
	}}
}

func scaleMapsTheSpec(s *subject) {
	s.create("a", nestedJSON(s.spec.path, s.spec.one))
	obj := kit.Must(s.mergePatch("a", nestedJSON(s.status.path, s.status.two), "status"))(s)
	scale := s.scale("a")
	expectField(s, scale, "spec.replicas", s.spec.one)
	expectField(s, scale, "status.replicas", s.status.two)
	for _, field := range []string{"name", "namespace", "uid", "resourceVersion", "creationTimestamp"} {
		expectEqual(s, field, fieldAt(scale, "metadata."+field), fieldAt(obj, "metadata."+field))
	}
	selector := kit.Must(metav1.LabelSelectorAsSelector(fromUnstructured[metav1.LabelSelector](s, fieldAt(obj, "spec.selector"))))(s)
	expectEqual(s, "status.selector", fieldAt(scale, "status.selector"), selector.String())

	setField(s, scale, "spec.replicas", s.spec.two)
	setField(s, scale, "status.replicas", `99`)
	applyMergePatch(s, scale, `{"metadata": {"labels": {"a": "b"}}}`)
	scale = s.update(scale, "scale")
	expectField(s, scale, "spec.replicas", s.spec.two)
	expectField(s, scale, "status.replicas", s.status.two)
	obj = s.get("a")
	expectField(s, obj, s.spec.path, s.spec.two)
	expectField(s, obj, s.status.path, s.status.two)
	expectField(s, obj, "metadata.generation", `2`)
	expectEqual(s, "metadata.labels", fieldAt(obj, "metadata.labels"), nil)
	kit.Must(s.mergePatch("a", `{"spec": {"replicas": 0}}`, "scale"))(s)
	expectField(s, s.get("a"), s.spec.path, `0`)
}

func scaleChecksPreconditions(s *subject) {
	s.create("a")
	old := s.scale("a")
	obj := kit.Must(s.mergePatch("a", nestedJSON(s.spec.path, s.spec.one)))(s)
	setField(s, old, "spec.replicas", s.spec.two)
	_, err := s.objects.Update(s.Context(), old, metav1.UpdateOptions{}, "scale")
	expectError(s, err, http.StatusConflict)
	scale := s.scale("a")
	setField(s, scale, "spec.replicas", s.spec.two)
	scale.SetUID("another")
	_, err = s.objects.Update(s.Context(), scale, metav1.UpdateOptions{}, "scale")
	expectError(s, err, http.StatusConflict)
	s.send(http.MethodPut, s.path("a", "scale"), encodeJSON(s, scaleTo("b", 1)), "Content-Type", mediaJSON).expect(s, http.StatusBadRequest)
	s.send(http.MethodPut, s.path("a", "scale"), encodeJSON(s, s.object("a")), "Content-Type", mediaJSON).expect(s, http.StatusBadRequest)
	expectEqual(s, "the stored object", s.get("a"), obj)
	// A Scale without resourceVersion overwrites, as with ReplicaSets.
	expectField(s, s.update(scaleTo("a", 7), "scale"), "spec.replicas", `7`)
}

func scaleApplyOwnsTheField(s *subject) {
	obj := s.object("a", nestedJSON(s.spec.path, s.spec.one))
	kit.Must(s.apply("owner", obj))(s)
	_, err := s.apply("scaler", scaleTo("a", 9), "scale")
	expectEqual(s, "the conflicting fields", conflictingFields(s, err), []string{".spec.replicas"})
	force := metav1.ApplyOptions{FieldManager: "scaler", Force: true}
	scale := kit.Must(s.objects.Apply(s.Context(), "a", scaleTo("a", 9), force, "scale"))(s)
	expectField(s, scale, "spec.replicas", `9`)

	stored := s.get("a")
	expectField(s, stored, s.spec.path, `9`)
	fields := managedFields(s, stored, "scaler", metav1.ManagedFieldsOperationApply, "scale")
	expectOwned(s, fields, s.spec.path, true)
	expectOwned(s, fields, "spec.replicas", false)
	expectEqual(s, "the number of fields that the scaler owns", fields.Size(), 1)
	expectOwned(s, managedFields(s, stored, "owner", metav1.ManagedFieldsOperationApply, ""), s.spec.path, false)

	_, err = s.apply("owner", obj)
	expectEqual(s, "the conflicting fields", conflictingFields(s, err), []string{"." + s.spec.path})
	without := s.object("a")
	unstructured.RemoveNestedField(without.Object, strings.Split(s.spec.path, ".")...)
	expectField(s, kit.Must(s.apply("owner", without))(s), s.spec.path, `9`)
	expectField(s, kit.Must(s.apply("scaler", scaleTo("a", 3), "scale"))(s), "spec.replicas", `3`)
}

func scaleUpdatesAreTracked(s *subject) {
	s.create("a")
	kit.Must(s.objects.Update(s.Context(), scaleTo("a", 4), metav1.UpdateOptions{FieldManager: "scaler"}, "scale"))(s)
	fields := managedFields(s, s.get("a"), "scaler", metav1.ManagedFieldsOperationUpdate, "scale")
	expectOwned(s, fields, s.spec.path, true)
	expectEqual(s, "the number of fields that the scaler owns", fields.Size(), 1)
	config := s.object("a", nestedJSON(s.spec.path, s.spec.two))
	_, err := s.apply("owner", config)
	if got := conflictingFields(s, err); got[len(got)-1] != "."+s.spec.path {
		s.Errorf("got conflicting fields %q, want .%s among them", got, s.spec.path)
	}
}

// fromUnstructured converts part of an unstructured object to its Go type.
func fromUnstructured[T any](s *subject, value any) *T {
	s.Helper()
	typed := parseJSON[T](s, string(encodeJSON(s, value)))
	return &typed
}
