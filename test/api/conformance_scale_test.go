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

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// testScaleSubresource checks what is particular to scale, for every kind that has it.
func testScaleSubresource(t *testing.T, st *stage, versions []string) {
	for _, c := range []struct {
		name  string
		check func(*scene)
	}{
		{"maps the spec", scaleMapsTheSpec},
		{"guards its writes", scaleGuardsItsWrites},
		{"applied owns the field of main", scaleAppliedOwnsTheField},
		{"updated is recorded", scaleUpdatedIsRecorded},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range kinds {
				if _, ok := kinds[i].subresources["scale"]; !ok {
					continue
				}
				for _, version := range versions {
					t.Run(kinds[i].resource+"-"+version, func(t *testing.T) { c.check(st.scene(t, &kinds[i], version)) })
				}
			}
		})
	}
}

func (s *scene) scale(name string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Get(s.Context(), name, metav1.GetOptions{}, "scale"))(s)
}

// scaleTo gives a scale to be applied.
func scaleTo(name string, replicas int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "autoscaling/v1", "kind": "Scale",
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"replicas": replicas},
	}}
}

func scaleMapsTheSpec(s *scene) {
	s.create("a", nested(s.spec.path, s.spec.one))
	obj := kit.Must(s.mergePatch("a", nested(s.status.path, s.status.two), "status"))(s)
	scale := s.scale("a")
	mustHave(s, scale, "spec.replicas", s.spec.one)
	mustHave(s, scale, "status.replicas", s.status.two)
	for _, field := range []string{"name", "namespace", "uid", "resourceVersion", "creationTimestamp"} {
		mustEqual(s, field, at(scale, "metadata."+field), at(obj, "metadata."+field))
	}
	selector := kit.Must(metav1.LabelSelectorAsSelector(fromUntyped[metav1.LabelSelector](s, at(obj, "spec.selector"))))(s)
	mustEqual(s, "status.selector", at(scale, "status.selector"), selector.String())

	set(s, scale, "spec.replicas", s.spec.two)
	set(s, scale, "status.replicas", `99`)
	patch(s, scale, `{"metadata": {"labels": {"a": "b"}}}`)
	scale = s.update(scale, "scale")
	mustHave(s, scale, "spec.replicas", s.spec.two)
	mustHave(s, scale, "status.replicas", s.status.two)
	obj = s.get("a")
	mustHave(s, obj, s.spec.path, s.spec.two)
	mustHave(s, obj, s.status.path, s.status.two)
	mustHave(s, obj, "metadata.generation", `2`)
	mustEqual(s, "metadata.labels", obj.GetLabels(), map[string]string(nil))
	kit.Must(s.mergePatch("a", `{"spec": {"replicas": 0}}`, "scale"))(s)
	mustHave(s, s.get("a"), s.spec.path, `0`)
}

func scaleGuardsItsWrites(s *scene) {
	s.create("a")
	old := s.scale("a")
	obj := kit.Must(s.mergePatch("a", nested(s.spec.path, s.spec.one)))(s)
	set(s, old, "spec.replicas", s.spec.two)
	_, err := s.objects.Update(s.Context(), old, metav1.UpdateOptions{}, "scale")
	refused(s, err, http.StatusConflict)
	scale := s.scale("a")
	set(s, scale, "spec.replicas", s.spec.two)
	scale.SetUID("another")
	_, err = s.objects.Update(s.Context(), scale, metav1.UpdateOptions{}, "scale")
	refused(s, err, http.StatusConflict)
	s.send(http.MethodPut, s.path("a", "scale"), encode(s, scaleTo("b", 1)), "Content-Type", mediaJSON).must(s, http.StatusBadRequest)
	s.send(http.MethodPut, s.path("a", "scale"), encode(s, s.object("a")), "Content-Type", mediaJSON).must(s, http.StatusBadRequest)
	mustEqual(s, "the stored object", s.get("a"), obj)
	// As for ReplicaSets, a scale without version overwrites.
	mustHave(s, s.update(scaleTo("a", 7), "scale"), "spec.replicas", `7`)
}

func scaleAppliedOwnsTheField(s *scene) {
	obj := s.object("a", nested(s.spec.path, s.spec.one))
	kit.Must(s.apply("owner", obj))(s)
	_, err := s.apply("scaler", scaleTo("a", 9), "scale")
	mustEqual(s, "the conflicts", conflicting(s, err), []string{".spec.replicas"})
	force := metav1.ApplyOptions{FieldManager: "scaler", Force: true}
	scale := kit.Must(s.objects.Apply(s.Context(), "a", scaleTo("a", 9), force, "scale"))(s)
	mustHave(s, scale, "spec.replicas", `9`)

	stored := s.get("a")
	mustHave(s, stored, s.spec.path, `9`)
	fields := managed(s, stored, "scaler", metav1.ManagedFieldsOperationApply, "scale")
	mustHold(s, fields, s.spec.path, true)
	mustHold(s, fields, "spec.replicas", false)
	mustEqual(s, "how many fields the scaler has", fields.Size(), 1)
	mustHold(s, managed(s, stored, "owner", metav1.ManagedFieldsOperationApply, ""), s.spec.path, false)

	_, err = s.apply("owner", obj)
	mustEqual(s, "the conflicts", conflicting(s, err), []string{"." + s.spec.path})
	without := s.object("a")
	unstructured.RemoveNestedField(without.Object, strings.Split(s.spec.path, ".")...)
	mustHave(s, kit.Must(s.apply("owner", without))(s), s.spec.path, `9`)
	mustHave(s, kit.Must(s.apply("scaler", scaleTo("a", 3), "scale"))(s), "spec.replicas", `3`)
}

func scaleUpdatedIsRecorded(s *scene) {
	s.create("a")
	kit.Must(s.objects.Update(s.Context(), scaleTo("a", 4), metav1.UpdateOptions{FieldManager: "scaler"}, "scale"))(s)
	fields := managed(s, s.get("a"), "scaler", metav1.ManagedFieldsOperationUpdate, "scale")
	mustHold(s, fields, s.spec.path, true)
	mustEqual(s, "how many fields the scaler has", fields.Size(), 1)
	set := s.object("a", nested(s.spec.path, s.spec.two))
	_, err := s.apply("owner", set)
	if got := conflicting(s, err); got[len(got)-1] != "."+s.spec.path {
		s.Errorf("the conflicts are %q, want .%s among them", got, s.spec.path)
	}
}

// fromUntyped gives the typed form of part of an object.
func fromUntyped[T any](s *scene, value any) *T {
	s.Helper()
	typed := parse[T](s, string(encode(s, value)))
	return &typed
}
