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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/test/kit"
)

// deleteRules are the rules of deletion. Those of bound tasks are in conformance_task_test.go.
var deleteRules = []rule{
	{name: "delete is immediate", check: deleteIsImmediate},
	{name: "delete preconditions", check: deletePreconditions},
	{name: "finalizers hold deletion", check: finalizersHoldDeletion},
	{name: "propagation policies", check: propagationPolicies},
	{name: "deletecollection", check: deleteCollection},
}

func deleteIsImmediate(s *subject) {
	s.create("a")
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](100)}))
	s.expectNotFound("a")
	expectError(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}), http.StatusNotFound, `"a" not found`)

	recreated := s.create("a")
	expectField(s, recreated, "metadata.generation", `1`)
	response := parseJSON[map[string]any](s, string(s.send(http.MethodDelete, s.path("a"), nil).expect(s, http.StatusOK).body))
	if s.graceful {
		expectEqual(s, "the kind of the response", response["kind"], any(s.kind.kind))
	} else {
		expectEqual(s, "status of the response", response["status"], any(metav1.StatusSuccess))
	}
}

func deletePreconditions(s *subject) {
	old := s.create("a")
	kit.Must(s.mergePatch("a", `{"metadata": {"labels": {"a": "b"}}}`))(s)
	obj := s.get("a")
	deleteIf := func(p metav1.Preconditions) error {
		return s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{Preconditions: &p})
	}
	expectError(s, deleteIf(metav1.Preconditions{UID: ptr.To[types.UID]("another")}), http.StatusConflict, "UID")
	expectError(s, deleteIf(metav1.Preconditions{ResourceVersion: ptr.To(old.GetResourceVersion())}), http.StatusConflict, "ResourceVersion")
	expectEqual(s, "the stored object", s.get("a"), obj)
	kit.Check(s, deleteIf(metav1.Preconditions{UID: ptr.To(obj.GetUID()), ResourceVersion: ptr.To(obj.GetResourceVersion())}))
	s.expectNotFound("a")
}

func finalizersHoldDeletion(s *subject) {
	s.create("a", `{"metadata": {"finalizers": ["example.com/one", "example.com/two"]}}`)
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}))
	obj := s.get("a")
	if obj.GetDeletionTimestamp() == nil {
		s.Fatal("got no metadata.deletionTimestamp after the deletion")
	}
	_, err := s.mergePatch("a", `{"metadata": {"finalizers": ["example.com/one", "example.com/two", "example.com/three"]}}`)
	expectInvalid(s, err, "metadata.finalizers")
	obj.SetDeletionTimestamp(nil)
	obj.SetFinalizers([]string{"example.com/two"})
	if obj = s.update(obj); obj.GetDeletionTimestamp() == nil {
		s.Fatal("an update has removed metadata.deletionTimestamp")
	}
	expectField(s, obj, "metadata.finalizers", `["example.com/two"]`)
	obj.SetFinalizers(nil)
	s.update(obj)
	s.expectNotFound("a")
}

func propagationPolicies(s *subject) {
	for name, policy := range map[string]metav1.DeletionPropagation{
		metav1.FinalizerDeleteDependents: metav1.DeletePropagationForeground,
		metav1.FinalizerOrphanDependents: metav1.DeletePropagationOrphan,
	} {
		s.create("a")
		// Standalone mode has no garbage collector to remove the finalizer: kinds that own nothing do not get it.
		if s.env.Standalone() && s.resource != "tasksets" {
			kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{PropagationPolicy: &policy}))
			s.expectNotFound("a")
			continue
		}
		// Use a dry run: a garbage collector could delete the object first.
		got := s.send(http.MethodDelete, s.path("a")+"?dryRun=All&propagationPolicy="+string(policy), nil).expect(s, http.StatusOK)
		obj := s.object("a")
		kit.Check(s, obj.UnmarshalJSON(got.body))
		expectEqual(s, "metadata.finalizers", obj.GetFinalizers(), []string{name})
		kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
		s.expectNotFound("a")
	}
}

func deleteCollection(s *subject) {
	s.create("a", `{"metadata": {"labels": {"group": "one"}}}`)
	s.create("b", `{"metadata": {"labels": {"group": "one"}, "finalizers": ["example.com/hold"]}}`)
	s.create("c", `{"metadata": {"labels": {"group": "two"}}}`)
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "group=one"}))
	s.expectNotFound("a")
	if s.get("b").GetDeletionTimestamp() == nil {
		s.Error("b is selected and is not being deleted")
	}
	if s.get("c").GetDeletionTimestamp() != nil {
		s.Error("c is not selected and is being deleted")
	}
	kit.Must(s.mergePatch("b", `{"metadata": {"finalizers": null}}`))(s)
	s.expectNotFound("b")
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=c"}))
	s.expectNotFound("c")
}
