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
	"slices"

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// statusRules keep the main resource and the status apart.
var statusRules = []rule{
	{name: "main does not write the status", check: mainDoesNotWriteStatus, only: hasStatus},
	{name: "status writes only the status", check: statusWritesOnlyStatus, only: hasStatus},
	{name: "a status names its version", check: statusNamesItsVersion, only: hasStatus},
	{name: "invalid statuses are refused", check: invalidStatusesAreRefused, only: hasStatus},
	{name: "conditions are validated", check: conditionsAreValidated, only: hasStatus},
	{name: "conditions are merged by type", check: conditionsAreMergedByType, only: hasStatus},
}

func hasStatus(k *kind) bool { return k.status.path != "" }

const condition = `{"type": "Checked", "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}`

func mainDoesNotWriteStatus(s *scene) {
	plain := s.create("plain")
	status := nested(s.status.path, s.status.one)
	created := s.create("a", status, `{"status": {"conditions": [`+condition+`]}}`)
	var types []string
	for _, c := range conditions(created) {
		types = append(types, c["type"].(string))
	}
	mustEqual(s, "the conditions after a create", types, s.derived)
	withoutConditions := func(obj *unstructured.Unstructured) any {
		obj = obj.DeepCopy()
		unstructured.RemoveNestedField(obj.Object, "status", "conditions")
		return obj.Object["status"]
	}
	mustEqual(s, "the status after a create", withoutConditions(created), withoutConditions(plain))
	obj := created.DeepCopy()
	patch(s, obj, status)
	mustEqual(s, "the object after a PUT", s.update(obj), created)
	mustEqual(s, "the object after a patch", kit.Must(s.mergePatch("a", status))(s), created)

	set(s, created, s.status.path, s.status.one)
	stored := s.update(created, "status")
	mustHave(s, stored, s.status.path, s.status.one)
	delete(created.Object, "status")
	created.SetResourceVersion("")
	created.SetLabels(map[string]string{"a": "b"})
	mustEqual(s, "the status after a PUT without one", s.update(created).Object["status"], stored.Object["status"])
}

// statusWithoutTimes returns the status without the times of its conditions, which differ between objects that are
// created in different seconds.
func statusWithoutTimes(obj *unstructured.Unstructured) any {
	obj = obj.DeepCopy()
	for _, condition := range conditions(obj) {
		delete(condition, "lastTransitionTime")
	}
	return obj.Object["status"]
}

func statusWritesOnlyStatus(s *scene) {
	stored := s.create("a", `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	obj := stored.DeepCopy()
	set(s, obj, s.spec.path, s.spec.one)
	set(s, obj, s.status.path, s.status.one)
	patch(s, obj, `{"metadata": {
		"labels": {"a": "c"}, "annotations": {"a": "c"}, "finalizers": null, "generation": 5,
		"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]
	}}`)
	got := s.update(obj, "status")
	mustHave(s, got, s.status.path, s.status.one)
	for _, field := range []string{"spec", "metadata.labels", "metadata.annotations", "metadata.finalizers", "metadata.ownerReferences", "metadata.generation"} {
		mustEqual(s, field, at(got, field), at(stored, field))
	}
	whole := `{"metadata": {"labels": {"a": "c"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}, ` +
		nested(s.spec.path, s.spec.two)[1:]
	mustEqual(s, "the object after a patch of all but the status", kit.Must(s.mergePatch("a", whole, "status"))(s), got)
	mustEqual(s, "what GET of the status gives", kit.Must(s.objects.Get(s.Context(), "a", metav1.GetOptions{}, "status"))(s), got)
}

func statusNamesItsVersion(s *scene) {
	old := s.create("a")
	obj := old.DeepCopy()
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	set(s, old, s.status.path, s.status.one)
	_, err := s.objects.UpdateStatus(s.Context(), old, metav1.UpdateOptions{})
	refused(s, err, http.StatusConflict)
	old.SetResourceVersion("")
	_, err = s.objects.UpdateStatus(s.Context(), old, metav1.UpdateOptions{})
	invalid(s, err, "metadata.resourceVersion")
	mustEqual(s, "the stored object", s.get("a"), obj)
}

func invalidStatusesAreRefused(s *scene) {
	stored := s.create("a")
	for _, refusal := range append([]refusal{{nested(s.status.path, s.status.refused), s.status.refusedPath()}}, s.invalidStatus...) {
		obj := stored.DeepCopy()
		patch(s, obj, refusal.patch)
		_, err := s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{})
		invalid(s, err, refusal.names)
		_, err = s.mergePatch("a", refusal.patch, "status")
		invalid(s, err, refusal.names)
	}
	mustEqual(s, "the stored object", s.get("a"), stored)
}

func conditionsAreValidated(s *scene) {
	s.create("a")
	for field, bad := range map[string]string{
		"status.conditions[0].type":               `{"type": ""}`,
		"status.conditions[0].status":             `{"status": "Maybe"}`,
		"status.conditions[0].reason":             `{"reason": "not one word"}`,
		"status.conditions[0].lastTransitionTime": `{"lastTransitionTime": null}`,
		"status.conditions[0].observedGeneration": `{"observedGeneration": -1}`,
	} {
		obj := s.get("a")
		broken := parse[map[string]any](s, condition)
		merge(broken, parse[map[string]any](s, bad))
		patch(s, obj, `{"status": {"conditions": [`+string(encode(s, broken))+`]}}`)
		_, err := s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{})
		invalid(s, err, field)
	}
	_, err := s.mergePatch("a", `{"status": {"conditions": [`+condition+`, `+condition+`]}}`, "status")
	invalid(s, err, "status.conditions[1]")
}

func conditionsAreMergedByType(s *scene) {
	s.create("a")
	obj := kit.Must(s.mergePatch("a", `{"status": {"conditions": [`+condition+`]}}`, "status"))(s)
	mustEqual(s, "status.conditions", s.sent(obj), map[string]any{"Checked": parse[any](s, condition)})
	other := `{"type": "Other", "status": "False", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}`
	text := `{"status": {"conditions": [` + other + `, {"type": "Checked", "message": "again"}]}}`
	obj = kit.Must(s.objects.Patch(s.Context(), "a", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, "status"))(s)
	again := parse[map[string]any](s, condition)
	again["message"] = "again"
	mustEqual(s, "the conditions", s.sent(obj), map[string]any{"Other": parse[any](s, other), "Checked": any(again)})
}

// conditions returns the conditions of an object.
func conditions(obj *unstructured.Unstructured) []map[string]any {
	var list []map[string]any
	all, _ := at(obj, "status.conditions").([]any)
	for _, c := range all {
		list = append(list, c.(map[string]any))
	}
	return list
}

// sent returns the conditions that clients have sent, by type.
func (s *scene) sent(obj *unstructured.Unstructured) map[string]any {
	byType := map[string]any{}
	for _, c := range conditions(obj) {
		if kind := c["type"].(string); !slices.Contains(s.derived, kind) {
			byType[kind] = any(c)
		}
	}
	return byType
}
