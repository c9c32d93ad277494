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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/test/kit"
)

// statusRules are the rules of the status subresource.
var statusRules = []rule{
	{name: "main resource does not write status", check: mainDoesNotWriteStatus, appliesTo: hasStatus},
	{name: "status writes only status", check: statusWritesOnlyStatus, appliesTo: hasStatus},
	{name: "status requires resourceVersion", check: statusRequiresResourceVersion, appliesTo: hasStatus},
	{name: "invalid statuses are refused", check: invalidStatusesAreRefused, appliesTo: hasStatus},
	{name: "conditions are validated", check: conditionsAreValidated, appliesTo: hasStatus},
	{name: "conditions are merged by type", check: conditionsAreMergedByType, appliesTo: hasStatus},
}

func hasStatus(k *kind) bool { return k.status.path != "" }

const condition = `{"type": "Checked", "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}`

func mainDoesNotWriteStatus(s *subject) {
	plain := s.create("plain")
	status := nestedJSON(s.status.path, s.status.one)
	created := s.create("a", status, `{"status": {"conditions": [`+condition+`]}}`)
	var types []string
	for _, c := range conditions(created) {
		types = append(types, c["type"].(string))
	}
	expectEqual(s, "the conditions after a create", types, s.serverConditions)
	withoutConditions := func(obj *unstructured.Unstructured) any {
		obj = obj.DeepCopy()
		unstructured.RemoveNestedField(obj.Object, "status", "conditions")
		return obj.Object["status"]
	}
	expectEqual(s, "the status after a create", withoutConditions(created), withoutConditions(plain))
	obj := created.DeepCopy()
	applyMergePatch(s, obj, status)
	expectEqual(s, "the object after a PUT", s.update(obj), created)
	expectEqual(s, "the object after a patch", kit.Must(s.mergePatch("a", status))(s), created)

	setField(s, created, s.status.path, s.status.one)
	stored := s.update(created, "status")
	expectField(s, stored, s.status.path, s.status.one)
	delete(created.Object, "status")
	created.SetResourceVersion("")
	created.SetLabels(map[string]string{"a": "b"})
	expectEqual(s, "the status after a PUT without one", s.update(created).Object["status"], stored.Object["status"])
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

func statusWritesOnlyStatus(s *subject) {
	stored := s.create("a", `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	obj := stored.DeepCopy()
	setField(s, obj, s.spec.path, s.spec.one)
	setField(s, obj, s.status.path, s.status.one)
	applyMergePatch(s, obj, `{"metadata": {
		"labels": {"a": "c"}, "annotations": {"a": "c"}, "finalizers": null, "generation": 5,
		"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]
	}}`)
	got := s.update(obj, "status")
	expectField(s, got, s.status.path, s.status.one)
	for _, field := range []string{"spec", "metadata.labels", "metadata.annotations", "metadata.finalizers", "metadata.ownerReferences", "metadata.generation"} {
		expectEqual(s, field, fieldAt(got, field), fieldAt(stored, field))
	}
	whole := `{"metadata": {"labels": {"a": "c"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}, ` +
		nestedJSON(s.spec.path, s.spec.two)[1:]
	expectEqual(s, "the object after a patch of everything but the status", kit.Must(s.mergePatch("a", whole, "status"))(s), got)
	expectEqual(s, "the object that GET of the status returns", kit.Must(s.objects.Get(s.Context(), "a", metav1.GetOptions{}, "status"))(s), got)
}

func statusRequiresResourceVersion(s *subject) {
	old := s.create("a")
	obj := old.DeepCopy()
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	setField(s, old, s.status.path, s.status.one)
	_, err := s.objects.UpdateStatus(s.Context(), old, metav1.UpdateOptions{})
	expectError(s, err, http.StatusConflict)
	old.SetResourceVersion("")
	_, err = s.objects.UpdateStatus(s.Context(), old, metav1.UpdateOptions{})
	expectInvalid(s, err, "metadata.resourceVersion")
	expectEqual(s, "the stored object", s.get("a"), obj)
}

func invalidStatusesAreRefused(s *subject) {
	stored := s.create("a")
	for _, bad := range append([]invalidPatch{{nestedJSON(s.status.path, s.status.invalid), s.status.errorPath()}}, s.invalidStatus...) {
		obj := stored.DeepCopy()
		applyMergePatch(s, obj, bad.patch)
		_, err := s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{})
		expectInvalid(s, err, bad.field)
		_, err = s.mergePatch("a", bad.patch, "status")
		expectInvalid(s, err, bad.field)
	}
	expectEqual(s, "the stored object", s.get("a"), stored)
}

func conditionsAreValidated(s *subject) {
	s.create("a")
	for field, bad := range map[string]string{
		"status.conditions[0].type":               `{"type": ""}`,
		"status.conditions[0].status":             `{"status": "Maybe"}`,
		"status.conditions[0].reason":             `{"reason": "not one word"}`,
		"status.conditions[0].lastTransitionTime": `{"lastTransitionTime": null}`,
		"status.conditions[0].observedGeneration": `{"observedGeneration": -1}`,
	} {
		obj := s.get("a")
		broken := parseJSON[map[string]any](s, condition)
		mergeMaps(broken, parseJSON[map[string]any](s, bad))
		applyMergePatch(s, obj, `{"status": {"conditions": [`+string(encodeJSON(s, broken))+`]}}`)
		_, err := s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{})
		expectInvalid(s, err, field)
	}
	_, err := s.mergePatch("a", `{"status": {"conditions": [`+condition+`, `+condition+`]}}`, "status")
	expectInvalid(s, err, "status.conditions[1]")
}

func conditionsAreMergedByType(s *subject) {
	s.create("a")
	obj := kit.Must(s.mergePatch("a", `{"status": {"conditions": [`+condition+`]}}`, "status"))(s)
	expectEqual(s, "status.conditions", s.clientConditions(obj), map[string]any{"Checked": parseJSON[any](s, condition)})
	other := `{"type": "Other", "status": "False", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}`
	text := `{"status": {"conditions": [` + other + `, {"type": "Checked", "message": "again"}]}}`
	obj = kit.Must(s.objects.Patch(s.Context(), "a", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, "status"))(s)
	again := parseJSON[map[string]any](s, condition)
	again["message"] = "again"
	expectEqual(s, "the conditions", s.clientConditions(obj), map[string]any{"Other": parseJSON[any](s, other), "Checked": any(again)})
}

// conditions returns the conditions of an object.
func conditions(obj *unstructured.Unstructured) []map[string]any {
	var list []map[string]any
	all, _ := fieldAt(obj, "status.conditions").([]any)
	for _, c := range all {
		list = append(list, c.(map[string]any))
	}
	return list
}

// clientConditions returns the conditions that clients have set, by type.
func (s *subject) clientConditions(obj *unstructured.Unstructured) map[string]any {
	byType := map[string]any{}
	for _, c := range conditions(obj) {
		if kind := c["type"].(string); !slices.Contains(s.serverConditions, kind) {
			byType[kind] = any(c)
		}
	}
	return byType
}
