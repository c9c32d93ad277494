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

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// deleteRules are about objects at rest. What is particular to tasks that run is in task_test.go.
var deleteRules = []rule{
	{name: "delete is at once", check: deleteIsAtOnce},
	{name: "delete preconditions", check: deletePreconditions},
	{name: "finalizers hold deletion", check: finalizersHoldDeletion},
	{name: "propagation policies", check: propagationPolicies},
	{name: "deletecollection", check: deleteCollection},
}

func deleteIsAtOnce(s *scene) {
	s.create("a")
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](100)}))
	s.mustBeGone("a")
	refused(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}), http.StatusNotFound, `"a" not found`)

	again := s.create("a")
	mustHave(s, again, "metadata.generation", `1`)
	answer := parse[map[string]any](s, string(s.send(http.MethodDelete, s.path("a"), nil).must(s, http.StatusOK).body))
	if s.graceful {
		mustEqual(s, "the kind of the answer", answer["kind"], any(s.kind.kind))
	} else {
		mustEqual(s, "the answer", answer["status"], any(metav1.StatusSuccess))
	}
}

func deletePreconditions(s *scene) {
	old := s.create("a")
	kit.Must(s.mergePatch("a", `{"metadata": {"labels": {"a": "b"}}}`))(s)
	obj := s.get("a")
	deleteIf := func(p metav1.Preconditions) error {
		return s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{Preconditions: &p})
	}
	refused(s, deleteIf(metav1.Preconditions{UID: ptr.To[types.UID]("another")}), http.StatusConflict, "UID")
	refused(s, deleteIf(metav1.Preconditions{ResourceVersion: ptr.To(old.GetResourceVersion())}), http.StatusConflict, "ResourceVersion")
	mustEqual(s, "the stored object", s.get("a"), obj)
	kit.Check(s, deleteIf(metav1.Preconditions{UID: ptr.To(obj.GetUID()), ResourceVersion: ptr.To(obj.GetResourceVersion())}))
	s.mustBeGone("a")
}

func finalizersHoldDeletion(s *scene) {
	s.create("a", `{"metadata": {"finalizers": ["example.com/one", "example.com/two"]}}`)
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}))
	obj := s.get("a")
	if obj.GetDeletionTimestamp() == nil {
		s.Fatal("metadata.deletionTimestamp is not set")
	}
	_, err := s.mergePatch("a", `{"metadata": {"finalizers": ["example.com/one", "example.com/two", "example.com/three"]}}`)
	invalid(s, err, "metadata.finalizers")
	obj.SetDeletionTimestamp(nil)
	obj.SetFinalizers([]string{"example.com/two"})
	if obj = s.update(obj); obj.GetDeletionTimestamp() == nil {
		s.Fatal("an update has ended the deletion")
	}
	mustHave(s, obj, "metadata.finalizers", `["example.com/two"]`)
	obj.SetFinalizers(nil)
	s.update(obj)
	s.mustBeGone("a")
}

func propagationPolicies(s *scene) {
	for name, policy := range map[string]metav1.DeletionPropagation{
		metav1.FinalizerDeleteDependents: metav1.DeletePropagationForeground,
		metav1.FinalizerOrphanDependents: metav1.DeletePropagationOrphan,
	} {
		s.create("a")
		// Where no garbage collector would ever remove the finalizer, what owns nothing is deleted without one.
		if s.env.Standalone() && s.resource != "tasksets" {
			kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{PropagationPolicy: &policy}))
			s.mustBeGone("a")
			continue
		}
		// A dry run, so that no garbage collector is faster.
		got := s.send(http.MethodDelete, s.path("a")+"?dryRun=All&propagationPolicy="+string(policy), nil).must(s, http.StatusOK)
		obj := s.object("a")
		kit.Check(s, obj.UnmarshalJSON(got.body))
		mustEqual(s, "metadata.finalizers", obj.GetFinalizers(), []string{name})
		kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
		s.mustBeGone("a")
	}
}

func deleteCollection(s *scene) {
	s.create("a", `{"metadata": {"labels": {"group": "one"}}}`)
	s.create("b", `{"metadata": {"labels": {"group": "one"}, "finalizers": ["example.com/hold"]}}`)
	s.create("c", `{"metadata": {"labels": {"group": "two"}}}`)
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "group=one"}))
	s.mustBeGone("a")
	if s.get("b").GetDeletionTimestamp() == nil {
		s.Error("b is not being deleted")
	}
	if s.get("c").GetDeletionTimestamp() != nil {
		s.Error("c is being deleted: it was not selected")
	}
	kit.Must(s.mergePatch("b", `{"metadata": {"finalizers": null}}`))(s)
	s.mustBeGone("b")
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=c"}))
	s.mustBeGone("c")
}
