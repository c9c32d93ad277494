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

package pool

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claim returns an entry of managedFields that owns spec.replicas. That of a scale subresource has no time.
func claim(manager, subresource string, operation metav1.ManagedFieldsOperationType) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: manager, Subresource: subresource, Operation: operation,
		FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{"f:replicas":{}}}`)},
	}
}

func TestScaledBy(t *testing.T) {
	const update, apply = metav1.ManagedFieldsOperationUpdate, metav1.ManagedFieldsOperationApply
	other := claim("kubectl", "", apply)
	other.FieldsV1 = &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:labels":{}},"f:spec":{"f:template":{"f:replicas":{}}}}`)}
	ours, creator, autoscaler := claim(FieldManager, "scale", apply), claim("leat", "", update), claim("kube-controller-manager", "scale", update)
	for name, test := range map[string]struct {
		entries    []metav1.ManagedFieldsEntry
		generation int64
		resume     string
		want       string
		claimed    bool
	}{
		"created without an owner":        {generation: 1},
		"the creator owns the default":    {entries: []metav1.ManagedFieldsEntry{creator}, generation: 3},
		"created by leat":                 {entries: []metav1.ManagedFieldsEntry{claim("leat", "", apply)}, generation: 1},
		"the controller":                  {entries: []metav1.ManagedFieldsEntry{ours, creator}, generation: 3, claimed: true},
		"before the controller":           {entries: []metav1.ManagedFieldsEntry{ours, claim("before-first-apply", "scale", update)}, generation: 3, claimed: true},
		"an autoscaler":                   {entries: []metav1.ManagedFieldsEntry{autoscaler}, generation: 3, want: "kube-controller-manager"},
		"an autoscaler besides":           {entries: []metav1.ManagedFieldsEntry{ours, autoscaler}, generation: 3, want: "kube-controller-manager", claimed: true},
		"server-side apply with replicas": {entries: []metav1.ManagedFieldsEntry{claim("argocd", "", apply)}, generation: 1, want: "argocd"},
		"server-side apply without":       {entries: []metav1.ManagedFieldsEntry{other, ours}, generation: 3, claimed: true},
		"an update to zero":               {entries: []metav1.ManagedFieldsEntry{other}, generation: 3, want: "unknown"},
		"no fields":                       {entries: []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: apply}, creator}, generation: 3},
		"resumed":                         {entries: []metav1.ManagedFieldsEntry{autoscaler}, generation: 3, resume: "3"},
		"resumed from an unknown manager": {generation: 3, resume: "3"},
		"changed after it was resumed":    {entries: []metav1.ManagedFieldsEntry{autoscaler}, generation: 4, resume: "3", want: "kube-controller-manager"},
		"resumed for good":                {entries: []metav1.ManagedFieldsEntry{autoscaler}, generation: 4, resume: "1000000"},
		"an annotation that is no number": {entries: []metav1.ManagedFieldsEntry{autoscaler}, generation: 3, resume: "now", want: "kube-controller-manager"},
	} {
		t.Run(name, func(t *testing.T) {
			object := &metav1.ObjectMeta{ManagedFields: test.entries, Generation: test.generation}
			if test.resume != "" {
				object.Annotations = map[string]string{AnnotationResumeAt: test.resume}
			}
			if got, foreign := ScaledBy(object); got != test.want || foreign != (test.want != "") {
				t.Errorf("got %q, %t, want %q", got, foreign, test.want)
			}
			if got := IsClaimed(object); got != test.claimed {
				t.Errorf("claimed: got %t, want %t", got, test.claimed)
			}
		})
	}
}

func TestResumeCommandGivesThePoolBack(t *testing.T) {
	object := &metav1.ObjectMeta{Namespace: "render", Name: "blender", Generation: 7}
	object.ManagedFields = []metav1.ManagedFieldsEntry{claim("kubectl", "scale", metav1.ManagedFieldsOperationUpdate)}
	got := ResumeCommand(object)
	const want = "kubectl annotate statefulset --namespace=render blender --overwrite batch.leat.dev/pool-resume-at=7"
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	_, value, _ := strings.Cut(got, AnnotationResumeAt+"=")
	object.Annotations = map[string]string{AnnotationResumeAt: value}
	if manager, foreign := ScaledBy(object); foreign {
		t.Errorf("after the command, %s scales", manager)
	}
}
