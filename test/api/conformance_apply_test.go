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
	"bytes"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/leat-dev/leat/test/kit"
)

// applyRules are the rules of server-side apply and field ownership.
var applyRules = []rule{
	{name: "apply creates and owns its fields", check: applyCreatesAndOwns},
	{name: "apply conflicts and can be forced", check: applyConflicts},
	{name: "apply removes dropped fields", check: applyRemovesDroppedFields},
	{name: "apply of a stale object conflicts", check: applyChecksResourceVersion},
	{name: "apply to main does not own status", check: applyToMainDoesNotOwnStatus, appliesTo: hasStatus},
	{name: "apply to status owns only status", check: applyToStatusOwnsOnlyStatus, appliesTo: hasStatus},
	{name: "apply to status conflicts", check: applyToStatusConflicts, appliesTo: hasStatus},
	{name: "updates are tracked per subresource", check: updatesAreTracked},
}

func (s *subject) apply(manager string, obj *unstructured.Unstructured, subresources ...string) (*unstructured.Unstructured, error) {
	return s.objects.Apply(s.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: manager}, subresources...)
}

// managedFields returns the fields that a manager owns through a subresource, "" for the main resource. It fails the
// test if there are none.
func managedFields(s *subject, obj *unstructured.Unstructured, manager string, operation metav1.ManagedFieldsOperationType, subresource string) *fieldpath.Set {
	s.Helper()
	fields := findManagedFields(s, obj, manager, operation, subresource)
	if fields == nil {
		s.Fatalf("%s owns no fields by %s through subresource %q: %v", manager, operation, subresource, obj.GetManagedFields())
	}
	return fields
}

// findManagedFields is like managedFields, but returns nil if there are none.
func findManagedFields(s *subject, obj *unstructured.Unstructured, manager string, operation metav1.ManagedFieldsOperationType, subresource string) *fieldpath.Set {
	s.Helper()
	for _, entry := range obj.GetManagedFields() {
		if entry.Manager == manager && entry.Operation == operation && entry.Subresource == subresource {
			expectEqual(s, "apiVersion of managedFields", entry.APIVersion, s.gv.String())
			set := &fieldpath.Set{}
			kit.Check(s, set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())))
			return set
		}
	}
	return nil
}

// expectOwned checks whether the set has the field at the path, or a field below it.
func expectOwned(s *subject, fields *fieldpath.Set, path string, want bool) {
	s.Helper()
	found := false
	fields.Iterate(func(p fieldpath.Path) {
		text := strings.TrimPrefix(p.String(), ".")
		if rest, ok := strings.CutPrefix(text, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			found = true
		}
	})
	if found != want {
		s.Errorf("got %s owned: %t, want %t; the owned fields are %s", path, found, want, fields)
	}
}

func applyCreatesAndOwns(s *subject) {
	obj := s.object("a", `{"metadata": {"labels": {"a": "b"}}}`)
	setField(s, obj, s.spec.path, s.spec.one)
	created := kit.Must(s.apply("one", obj))(s)
	expectField(s, created, "metadata.generation", `1`)
	expectField(s, created, s.spec.path, s.spec.one)
	fields := managedFields(s, created, "one", metav1.ManagedFieldsOperationApply, "")
	expectOwned(s, fields, s.spec.path, true)
	expectOwned(s, fields, "metadata.labels.a", true)
	expectEqual(s, "the object after a second apply", kit.Must(s.apply("one", obj))(s), created)
}

func applyConflicts(s *subject) {
	obj := s.object("a")
	setField(s, obj, s.spec.path, s.spec.one)
	kit.Must(s.apply("one", obj))(s)
	kit.Must(s.apply("two", obj))(s) // no conflict: the values are equal
	setField(s, obj, s.spec.path, s.spec.two)
	_, err := s.apply("two", obj)
	expectEqual(s, "the conflicting fields", conflictingFields(s, err), []string{"." + s.spec.path})
	expectError(s, err, http.StatusConflict, `"one"`)

	got := kit.Must(s.objects.Apply(s.Context(), "a", obj, metav1.ApplyOptions{FieldManager: "two", Force: true}))(s)
	expectField(s, got, s.spec.path, s.spec.two)
	expectField(s, got, "metadata.generation", `2`)
	expectOwned(s, managedFields(s, got, "two", metav1.ManagedFieldsOperationApply, ""), s.spec.path, true)
	if fields := findManagedFields(s, got, "one", metav1.ManagedFieldsOperationApply, ""); fields != nil {
		expectOwned(s, fields, s.spec.path, false)
	}
}

func applyRemovesDroppedFields(s *subject) {
	bare := s.create("bare")
	obj := s.object("a", `{"metadata": {"labels": {"a": "b", "c": "d"}}}`)
	setField(s, obj, s.spec.path, s.spec.one)
	kit.Must(s.apply("one", obj))(s)
	got := kit.Must(s.apply("one", s.object("a", `{"metadata": {"labels": {"a": "b"}}}`)))(s)
	expectField(s, got, "metadata.labels", `{"a": "b"}`)
	expectEqual(s, s.spec.path, fieldAt(got, s.spec.path), fieldAt(bare, s.spec.path))
}

func applyChecksResourceVersion(s *subject) {
	created := kit.Must(s.apply("one", s.object("a")))(s)
	kit.Must(s.mergePatch("a", `{"metadata": {"labels": {"a": "b"}}}`))(s)
	obj := s.object("a")
	obj.SetResourceVersion(created.GetResourceVersion())
	setField(s, obj, s.spec.path, s.spec.one)
	_, err := s.apply("one", obj)
	expectError(s, err, http.StatusConflict)
}

func applyToMainDoesNotOwnStatus(s *subject) {
	plain := s.create("plain")
	obj := s.object("a")
	setField(s, obj, s.spec.path, s.spec.one)
	setField(s, obj, s.status.path, s.status.one)
	created := kit.Must(s.apply("one", obj))(s)
	expectEqual(s, "the status", statusWithoutTimes(created), statusWithoutTimes(plain))
	expectOwned(s, managedFields(s, created, "one", metav1.ManagedFieldsOperationApply, ""), "status", false)

	// It conflicts with no owner of the status, and none conflicts with it.
	status := s.object("a")
	delete(status.Object, "spec")
	setField(s, status, s.status.path, s.status.two)
	expectField(s, kit.Must(s.apply("two", status, "status"))(s), s.status.path, s.status.two)
	expectField(s, kit.Must(s.apply("one", obj))(s), s.status.path, s.status.two)
}

func applyToStatusOwnsOnlyStatus(s *subject) {
	main := s.object("a")
	setField(s, main, s.spec.path, s.spec.one)
	stored := kit.Must(s.apply("two", main))(s)
	obj := s.object("a", `{"metadata": {"labels": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	setField(s, obj, s.spec.path, s.spec.two)
	setField(s, obj, s.status.path, s.status.one)
	got := kit.Must(s.apply("one", obj, "status"))(s)
	expectField(s, got, s.status.path, s.status.one)
	for _, field := range []string{"spec", "metadata.labels", "metadata.finalizers", "metadata.generation"} {
		expectEqual(s, field, fieldAt(got, field), fieldAt(stored, field))
	}
	fields := managedFields(s, got, "one", metav1.ManagedFieldsOperationApply, "status")
	expectOwned(s, fields, s.status.path, true)
	expectOwned(s, fields, "spec", false)
	expectOwned(s, fields, "metadata", false)

	// It does not conflict with the owner of the spec, which can neither set nor remove the status.
	setField(s, main, s.spec.path, s.spec.two)
	got = kit.Must(s.apply("two", main))(s)
	expectField(s, got, s.spec.path, s.spec.two)
	expectField(s, got, s.status.path, s.status.one)
	// A field that it no longer names is removed.
	applyMergePatch(s, obj, nestedJSON(s.status.path, `null`))
	got = kit.Must(s.apply("one", obj, "status"))(s)
	expectEqual(s, s.status.path, fieldAt(got, s.status.path), fieldAt(stored, s.status.path))
}

func applyToStatusConflicts(s *subject) {
	s.create("a")
	obj := s.object("a")
	delete(obj.Object, "spec")
	setField(s, obj, s.status.path, s.status.one)
	kit.Must(s.apply("one", obj, "status"))(s)
	setField(s, obj, s.status.path, s.status.two)
	_, err := s.apply("two", obj, "status")
	expectEqual(s, "the conflicting fields", conflictingFields(s, err), []string{"." + s.status.path})
	got := kit.Must(s.objects.ApplyStatus(s.Context(), "a", obj, metav1.ApplyOptions{FieldManager: "two", Force: true}))(s)
	expectField(s, got, s.status.path, s.status.two)
	expectOwned(s, managedFields(s, got, "two", metav1.ManagedFieldsOperationApply, "status"), s.status.path, true)
}

func updatesAreTracked(s *subject) {
	obj := kit.Must(s.objects.Create(s.Context(), s.object("a"), metav1.CreateOptions{FieldManager: "creator"}))(s)
	expectOwned(s, managedFields(s, obj, "creator", metav1.ManagedFieldsOperationUpdate, ""), "spec", true)
	setField(s, obj, s.spec.path, s.spec.one)
	if s.status.path != "" {
		setField(s, obj, s.status.path, s.status.one)
	}
	obj = kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{FieldManager: "editor"}))(s)
	fields := managedFields(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, "")
	expectOwned(s, fields, s.spec.path, true)
	expectOwned(s, fields, "status", false)
	if s.status.path == "" {
		return
	}

	setField(s, obj, s.spec.path, s.spec.two)
	setField(s, obj, s.status.path, s.status.two)
	obj = kit.Must(s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{FieldManager: "editor"}))(s)
	fields = managedFields(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, "status")
	expectOwned(s, fields, s.status.path, true)
	expectOwned(s, fields, "spec", false)
	expectOwned(s, fields, "metadata", false)
	expectOwned(s, managedFields(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, ""), s.spec.path, true)
}
