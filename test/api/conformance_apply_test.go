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

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// applyRules are about server-side apply, and about who is recorded to manage what.
var applyRules = []rule{
	{name: "apply creates and owns what it names", check: applyCreatesAndOwns},
	{name: "apply conflicts and can be forced", check: applyConflicts},
	{name: "apply removes what it no longer names", check: applyRemoves},
	{name: "apply of a stale object conflicts", check: applyChecksVersion},
	{name: "apply to main does not own status", check: applyToMainDoesNotOwnStatus, only: hasStatus},
	{name: "apply to status owns only status", check: applyToStatusOwnsOnlyStatus, only: hasStatus},
	{name: "apply to status conflicts", check: applyToStatusConflicts, only: hasStatus},
	{name: "updates are recorded per subresource", check: updatesAreRecorded},
}

func (s *scene) apply(manager string, obj *unstructured.Unstructured, subresources ...string) (*unstructured.Unstructured, error) {
	return s.objects.Apply(s.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: manager}, subresources...)
}

// managed gives the fields that a manager has through a subresource, the main resource's being "". It fails the test if it
// has none.
func managed(s *scene, obj *unstructured.Unstructured, manager string, operation metav1.ManagedFieldsOperationType, subresource string) *fieldpath.Set {
	s.Helper()
	fields := managedOrNone(s, obj, manager, operation, subresource)
	if fields == nil {
		s.Fatalf("%s has nothing by %s through %q: %v", manager, operation, subresource, obj.GetManagedFields())
	}
	return fields
}

// managedOrNone is managed that gives nil if there are none.
func managedOrNone(s *scene, obj *unstructured.Unstructured, manager string, operation metav1.ManagedFieldsOperationType, subresource string) *fieldpath.Set {
	s.Helper()
	for _, entry := range obj.GetManagedFields() {
		if entry.Manager == manager && entry.Operation == operation && entry.Subresource == subresource {
			mustEqual(s, "the version of managed fields", entry.APIVersion, s.gv.String())
			set := &fieldpath.Set{}
			kit.Check(s, set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())))
			return set
		}
	}
	return nil
}

// mustHold fails unless the set holds the field at the path, or does not if has is false.
func mustHold(s *scene, fields *fieldpath.Set, path string, has bool) {
	s.Helper()
	found := false
	fields.Iterate(func(p fieldpath.Path) {
		text := strings.TrimPrefix(p.String(), ".")
		if rest, ok := strings.CutPrefix(text, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			found = true
		}
	})
	if found != has {
		s.Errorf("the fields hold %s: %t, want %t: %s", path, found, has, fields)
	}
}

func applyCreatesAndOwns(s *scene) {
	obj := s.object("a", `{"metadata": {"labels": {"a": "b"}}}`)
	set(s, obj, s.spec.path, s.spec.one)
	created := kit.Must(s.apply("one", obj))(s)
	mustHave(s, created, "metadata.generation", `1`)
	mustHave(s, created, s.spec.path, s.spec.one)
	fields := managed(s, created, "one", metav1.ManagedFieldsOperationApply, "")
	mustHold(s, fields, s.spec.path, true)
	mustHold(s, fields, "metadata.labels.a", true)
	mustEqual(s, "the object applied twice", kit.Must(s.apply("one", obj))(s), created)
}

func applyConflicts(s *scene) {
	obj := s.object("a")
	set(s, obj, s.spec.path, s.spec.one)
	kit.Must(s.apply("one", obj))(s)
	kit.Must(s.apply("two", obj))(s) // they agree
	set(s, obj, s.spec.path, s.spec.two)
	_, err := s.apply("two", obj)
	mustEqual(s, "the conflicts", conflicting(s, err), []string{"." + s.spec.path})
	refused(s, err, http.StatusConflict, `"one"`)

	got := kit.Must(s.objects.Apply(s.Context(), "a", obj, metav1.ApplyOptions{FieldManager: "two", Force: true}))(s)
	mustHave(s, got, s.spec.path, s.spec.two)
	mustHave(s, got, "metadata.generation", `2`)
	mustHold(s, managed(s, got, "two", metav1.ManagedFieldsOperationApply, ""), s.spec.path, true)
	if fields := managedOrNone(s, got, "one", metav1.ManagedFieldsOperationApply, ""); fields != nil {
		mustHold(s, fields, s.spec.path, false)
	}
}

func applyRemoves(s *scene) {
	bare := s.create("bare")
	obj := s.object("a", `{"metadata": {"labels": {"a": "b", "c": "d"}}}`)
	set(s, obj, s.spec.path, s.spec.one)
	kit.Must(s.apply("one", obj))(s)
	got := kit.Must(s.apply("one", s.object("a", `{"metadata": {"labels": {"a": "b"}}}`)))(s)
	mustHave(s, got, "metadata.labels", `{"a": "b"}`)
	mustEqual(s, s.spec.path, at(got, s.spec.path), at(bare, s.spec.path))
}

func applyChecksVersion(s *scene) {
	created := kit.Must(s.apply("one", s.object("a")))(s)
	kit.Must(s.mergePatch("a", `{"metadata": {"labels": {"a": "b"}}}`))(s)
	obj := s.object("a")
	obj.SetResourceVersion(created.GetResourceVersion())
	set(s, obj, s.spec.path, s.spec.one)
	_, err := s.apply("one", obj)
	refused(s, err, http.StatusConflict)
}

func applyToMainDoesNotOwnStatus(s *scene) {
	plain := s.create("plain")
	obj := s.object("a")
	set(s, obj, s.spec.path, s.spec.one)
	set(s, obj, s.status.path, s.status.one)
	created := kit.Must(s.apply("one", obj))(s)
	mustEqual(s, "the status", statusWithoutTimes(created), statusWithoutTimes(plain))
	mustHold(s, managed(s, created, "one", metav1.ManagedFieldsOperationApply, ""), "status", false)

	// So it does not stand in the way of whom the status belongs to, nor they in its.
	status := s.object("a")
	delete(status.Object, "spec")
	set(s, status, s.status.path, s.status.two)
	mustHave(s, kit.Must(s.apply("two", status, "status"))(s), s.status.path, s.status.two)
	mustHave(s, kit.Must(s.apply("one", obj))(s), s.status.path, s.status.two)
}

func applyToStatusOwnsOnlyStatus(s *scene) {
	main := s.object("a")
	set(s, main, s.spec.path, s.spec.one)
	stored := kit.Must(s.apply("two", main))(s)
	obj := s.object("a", `{"metadata": {"labels": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	set(s, obj, s.spec.path, s.spec.two)
	set(s, obj, s.status.path, s.status.one)
	got := kit.Must(s.apply("one", obj, "status"))(s)
	mustHave(s, got, s.status.path, s.status.one)
	for _, field := range []string{"spec", "metadata.labels", "metadata.finalizers", "metadata.generation"} {
		mustEqual(s, field, at(got, field), at(stored, field))
	}
	fields := managed(s, got, "one", metav1.ManagedFieldsOperationApply, "status")
	mustHold(s, fields, s.status.path, true)
	mustHold(s, fields, "spec", false)
	mustHold(s, fields, "metadata", false)

	// It is not in the way of whom the spec belongs to, who can neither set nor remove the status.
	set(s, main, s.spec.path, s.spec.two)
	got = kit.Must(s.apply("two", main))(s)
	mustHave(s, got, s.spec.path, s.spec.two)
	mustHave(s, got, s.status.path, s.status.one)
	// What it no longer names goes.
	patch(s, obj, nested(s.status.path, `null`))
	got = kit.Must(s.apply("one", obj, "status"))(s)
	mustEqual(s, s.status.path, at(got, s.status.path), at(stored, s.status.path))
}

func applyToStatusConflicts(s *scene) {
	s.create("a")
	obj := s.object("a")
	delete(obj.Object, "spec")
	set(s, obj, s.status.path, s.status.one)
	kit.Must(s.apply("one", obj, "status"))(s)
	set(s, obj, s.status.path, s.status.two)
	_, err := s.apply("two", obj, "status")
	mustEqual(s, "the conflicts", conflicting(s, err), []string{"." + s.status.path})
	got := kit.Must(s.objects.ApplyStatus(s.Context(), "a", obj, metav1.ApplyOptions{FieldManager: "two", Force: true}))(s)
	mustHave(s, got, s.status.path, s.status.two)
	mustHold(s, managed(s, got, "two", metav1.ManagedFieldsOperationApply, "status"), s.status.path, true)
}

func updatesAreRecorded(s *scene) {
	obj := kit.Must(s.objects.Create(s.Context(), s.object("a"), metav1.CreateOptions{FieldManager: "creator"}))(s)
	mustHold(s, managed(s, obj, "creator", metav1.ManagedFieldsOperationUpdate, ""), "spec", true)
	set(s, obj, s.spec.path, s.spec.one)
	if s.status.path != "" {
		set(s, obj, s.status.path, s.status.one)
	}
	obj = kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{FieldManager: "editor"}))(s)
	fields := managed(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, "")
	mustHold(s, fields, s.spec.path, true)
	mustHold(s, fields, "status", false)
	if s.status.path == "" {
		return
	}

	set(s, obj, s.spec.path, s.spec.two)
	set(s, obj, s.status.path, s.status.two)
	obj = kit.Must(s.objects.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{FieldManager: "editor"}))(s)
	fields = managed(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, "status")
	mustHold(s, fields, s.status.path, true)
	mustHold(s, fields, "spec", false)
	mustHold(s, fields, "metadata", false)
	mustHold(s, managed(s, obj, "editor", metav1.ManagedFieldsOperationUpdate, ""), s.spec.path, true)
}
