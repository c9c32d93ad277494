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

package creator

import (
	"context"
	"errors"
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// metaOf returns metadata with a creator in the annotation and in the label. Each may be empty.
func metaOf(annotation, label string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: "ns", Name: "x", Annotations: map[string]string{"note": "a"}, Labels: map[string]string{"team": "b"}, OwnerReferences: owners}
	if annotation != "" {
		m.Annotations[v1alpha1.AnnotationCreatedBy] = annotation
	}
	if label != "" {
		m.Labels[v1alpha1.LabelCreator] = label
	}
	return m
}

// controllerOnly lets only the user "controller" update the status of the set "set" in the namespace "ns".
type controllerOnly struct{ asked *int }

func (c controllerOnly) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	*c.asked++
	if a.GetUser().GetName() == "away" {
		return authorizer.DecisionNoOpinion, "", errors.New("away")
	}
	if a.GetUser().GetName() == "controller" && a.GetVerb() == "update" && a.GetAPIGroup() == "batch.leat.dev" && a.GetResource() == "tasksets" &&
		a.GetSubresource() == "status" && a.GetNamespace() == "" && a.GetName() == "" && a.IsResourceRequest() {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestCreator(t *testing.T) {
	yes := true
	set := metav1.OwnerReference{APIVersion: "batch.leat.dev/v1alpha1", Kind: "TaskSet", Name: "set", UID: "1", Controller: &yes}
	job := metav1.OwnerReference{APIVersion: "batch/v1", Kind: "Job", Name: "set", UID: "1", Controller: &yes}
	owned := set
	owned.Controller = nil
	alice, bob := v1alpha1.CreatorLabel("alice"), v1alpha1.CreatorLabel("bob")
	task := func(m metav1.ObjectMeta) runtime.Object { return &batch.Task{ObjectMeta: m} }
	for _, test := range []struct {
		name, user  string
		object, old runtime.Object
		want        string // the creator in annotation and label, or "" for neither
		asked       int
	}{
		{name: "create", user: "alice", object: task(metaOf("", "")), want: "alice"},
		{name: "create a set", user: "alice", object: &batch.TaskSet{ObjectMeta: metaOf("", "")}, want: "alice"},
		{name: "create without metadata", user: "alice", object: task(metav1.ObjectMeta{}), want: "alice"},
		{name: "create with a long name", user: "system:serviceaccount:ns:a", object: task(metaOf("", "")), want: "system:serviceaccount:ns:a"},
		{name: "create in the name of another", user: "alice", object: task(metaOf("bob", bob)), want: "alice"},
		{name: "create a set in the name of another", user: "alice", object: &batch.TaskSet{ObjectMeta: metaOf("bob", bob)}, want: "alice"},
		{name: "create as a task of a set", user: "alice", object: task(metaOf("bob", bob, set)), want: "alice", asked: 1},
		{name: "the controller creates a task of a set", user: "controller", object: task(metaOf("bob", bob, set)), want: "bob", asked: 1},
		{name: "the controller creates a task of a set without a creator", user: "controller", object: task(metaOf("", "", set)), asked: 1},
		{name: "the controller creates a task of no set", user: "controller", object: task(metaOf("bob", bob)), want: "controller"},
		{name: "the controller creates a task of a Job", user: "controller", object: task(metaOf("bob", bob, job)), want: "controller"},
		{name: "the controller creates a task that no set controls", user: "controller", object: task(metaOf("bob", bob, owned)), want: "controller"},
		{name: "the controller creates a set of a set", user: "controller", object: &batch.TaskSet{ObjectMeta: metaOf("bob", bob, set)}, want: "controller"},
		{name: "the label of another", user: "controller", object: task(metaOf("bob", alice, set)), want: "controller"},
		{name: "no label", user: "controller", object: task(metaOf("bob", "", set)), want: "controller"},
		{name: "no annotation", user: "controller", object: task(metaOf("", bob, set)), want: "controller"},
		{name: "no answer of the authorizer", user: "away", object: task(metaOf("bob", bob, set)), want: "away", asked: 1},

		{name: "update", user: "alice", object: task(metaOf("bob", bob)), old: task(metaOf("bob", bob)), want: "bob"},
		{name: "remove", user: "alice", object: task(metaOf("", "")), old: task(metaOf("bob", bob)), want: "bob"},
		{name: "remove all metadata", user: "alice", object: task(metav1.ObjectMeta{}), old: task(metaOf("bob", bob)), want: "bob"},
		{name: "change", user: "alice", object: task(metaOf("alice", alice)), old: task(metaOf("bob", bob)), want: "bob"},
		{name: "the controller changes", user: "controller", object: task(metaOf("alice", alice, set)), old: task(metaOf("bob", bob, set)), want: "bob"},
		{name: "change a set", user: "alice", object: &batch.TaskSet{ObjectMeta: metaOf("alice", "")}, old: &batch.TaskSet{ObjectMeta: metaOf("bob", bob)}, want: "bob"},
		{name: "claim an old object", user: "alice", object: task(metaOf("alice", alice)), old: task(metaOf("", ""))},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := 0
			p := New()
			p.(*plugin).SetUnconditionalAuthorizer(controllerOnly{&asked})
			if err := p.(admission.InitializationValidator).ValidateInitialization(); err != nil {
				t.Fatal(err)
			}
			operation := admission.Create
			if test.old != nil {
				operation = admission.Update
			}
			before := test.object.DeepCopyObject()
			shared := metaOfObject(before).Annotations
			sharedBefore := maps.Clone(shared)
			if err := p.Admit(t.Context(), attributes(before, test.old, operation, test.user), nil); err != nil {
				t.Fatal(err)
			}
			got := metaOfObject(before)
			label := ""
			if test.want != "" {
				label = v1alpha1.CreatorLabel(test.want)
			}
			if got.Annotations[v1alpha1.AnnotationCreatedBy] != test.want || got.Labels[v1alpha1.LabelCreator] != label {
				t.Errorf("got annotations %v and labels %v, want creator %q and label %q", got.Annotations, got.Labels, test.want, label)
			}
			if note := metaOfObject(test.object).Annotations["note"]; got.Annotations["note"] != note {
				t.Errorf("other annotations: got %v", got.Annotations)
			}
			if !maps.Equal(shared, sharedBefore) {
				t.Error("the plugin changed a map that others may share")
			}
			if asked != test.asked {
				t.Errorf("the authorizer was asked %d times, want %d", asked, test.asked)
			}
		})
	}
}

func metaOfObject(object runtime.Object) *metav1.ObjectMeta {
	switch object := object.(type) {
	case *batch.Task:
		return &object.ObjectMeta
	case *batch.TaskSet:
		return &object.ObjectMeta
	}
	return nil
}

func attributes(object, old runtime.Object, operation admission.Operation, name string) admission.Attributes {
	return admission.NewAttributesRecord(object, old, v1alpha1.SchemeGroupVersion.WithKind("Task"), "ns", "x",
		v1alpha1.SchemeGroupVersion.WithResource("tasks"), "", operation, nil, false, &user.DefaultInfo{Name: name})
}

func TestOtherKindsAreNotChanged(t *testing.T) {
	worker := &batch.Worker{}
	if err := New().Admit(t.Context(), attributes(worker, nil, admission.Create, "alice"), nil); err != nil || worker.Labels != nil || worker.Annotations != nil {
		t.Errorf("got %v, %v", worker.ObjectMeta, err)
	}
	if New().Handles(admission.Delete) || New().Handles(admission.Connect) {
		t.Error("the plugin handles more than creates and updates")
	}
}

func TestAnAuthorizerIsRequired(t *testing.T) {
	if err := New().(admission.InitializationValidator).ValidateInitialization(); err == nil {
		t.Error("got no error, want that an authorizer is required")
	}
}
