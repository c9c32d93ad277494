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

package ownerreferences

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// granted allows the listed requests, in the form "<verb> <resource>.<group> <namespace>/<name>", and records all
// requests.
type granted struct {
	authorizer.Authorizer
	list, asked []string
}

func (g *granted) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	resource := a.GetResource()
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	request := fmt.Sprintf("%s %s.%s %s/%s", a.GetVerb(), resource, a.GetAPIGroup(), a.GetNamespace(), a.GetName())
	g.asked = append(g.asked, request)
	if slices.Contains(g.list, request) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no role grants it", nil
}

func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	return m
}

func ref(apiVersion, kind string, blocks bool) metav1.OwnerReference {
	r := metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: "owner", UID: "1"}
	if blocks {
		r.BlockOwnerDeletion = &blocks
	}
	return r
}

func task(refs ...metav1.OwnerReference) *batch.Task {
	return &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "task", OwnerReferences: refs}}
}

func TestOwnerReferencesNeedPermission(t *testing.T) {
	const (
		deleteTask     = "delete tasks.batch.leat.dev ns/task"
		finalizeSet    = "update tasksets/finalizers.batch.leat.dev ns/owner"
		finalizeDeploy = "update deployments/finalizers.apps ns/owner"
		finalizeNode   = "update nodes/finalizers. /owner"
		finalizeAny    = "update */finalizers.* /*"
	)
	ours := v1alpha1.SchemeGroupVersion.String()
	for name, test := range map[string]struct {
		object, old runtime.Object // an update if there is an old one
		granted     []string
		asked       []string
		forbidden   string
	}{
		"created without owners":                                {object: task()},
		"created with owners":                                   {object: task(ref(ours, "TaskSet", false))},
		"created blocking a set":                                {object: task(ref(ours, "TaskSet", true)), granted: []string{finalizeSet}, asked: []string{finalizeSet}},
		"created blocking a set of any version":                 {object: task(ref("batch.leat.dev/v9", "TaskSet", true)), granted: []string{finalizeSet}, asked: []string{finalizeSet}},
		"created blocking a set, ungranted":                     {object: task(ref(ours, "TaskSet", true)), asked: []string{finalizeSet}, forbidden: "TaskSet owner: update of tasksets/finalizers.batch.leat.dev: no role grants it"},
		"created blocking a deployment":                         {object: task(ref("apps/v1", "Deployment", true)), granted: []string{finalizeDeploy}, asked: []string{finalizeAny, finalizeDeploy}},
		"created blocking a node":                               {object: task(ref("v1", "Node", true)), granted: []string{finalizeNode}, asked: []string{finalizeAny, finalizeNode}},
		"created blocking one of two":                           {object: task(ref(ours, "TaskSet", true), ref("v1", "Node", true)), granted: []string{finalizeSet}, asked: []string{finalizeSet, finalizeAny, finalizeNode}, forbidden: "Node owner"},
		"created blocking an unknown kind":                      {object: task(ref("example.com/v1", "Thing", true)), asked: []string{finalizeAny}, forbidden: "no matches for kind"},
		"created blocking an unknown kind with all permissions": {object: task(ref("example.com/v1", "Thing", true)), granted: []string{finalizeAny}, asked: []string{finalizeAny}},
		"created with a broken apiVersion":                      {object: task(ref("a/b/c", "Thing", true)), forbidden: "a/b/c"},

		"updated with the same owners":                         {object: task(ref(ours, "TaskSet", true)), old: task(ref(ours, "TaskSet", true))},
		"given an owner":                                       {object: task(ref(ours, "TaskSet", false)), old: task(), granted: []string{deleteTask}, asked: []string{deleteTask}},
		"given an owner, ungranted":                            {object: task(ref(ours, "TaskSet", false)), old: task(), asked: []string{deleteTask}, forbidden: "metadata.ownerReferences may only be changed"},
		"disowned, ungranted":                                  {object: task(), old: task(ref(ours, "TaskSet", true)), asked: []string{deleteTask}, forbidden: "delete of tasks.batch.leat.dev"},
		"made to block":                                        {object: task(ref(ours, "TaskSet", true)), old: task(ref(ours, "TaskSet", false)), granted: []string{deleteTask, finalizeSet}, asked: []string{deleteTask, finalizeSet}},
		"made to block, ungranted":                             {object: task(ref(ours, "TaskSet", true)), old: task(ref(ours, "TaskSet", false)), granted: []string{deleteTask}, asked: []string{deleteTask, finalizeSet}, forbidden: "blockOwnerDeletion"},
		"made not to block":                                    {object: task(ref(ours, "TaskSet", false)), old: task(ref(ours, "TaskSet", true)), granted: []string{deleteTask}, asked: []string{deleteTask}},
		"given an owner beside a blocking one":                 {object: task(ref(ours, "TaskSet", true), ref("v1", "Node", false)), old: task(ref(ours, "TaskSet", true)), granted: []string{deleteTask}, asked: []string{deleteTask}},
		"a blocking owner is exchanged for another of its UID": {object: task(ref(ours, "TaskSet", true)), old: task(ref(ours, "Worker", true)), granted: []string{deleteTask}, asked: []string{deleteTask, finalizeSet}, forbidden: "blockOwnerDeletion"},
		"no metadata":                                          {object: &metav1.Status{}},
	} {
		t.Run(name, func(t *testing.T) {
			plugin, g := New(), &granted{list: test.granted}
			plugin.(initializer.WantsUnconditionalAuthorizer).SetUnconditionalAuthorizer(g)
			plugin.(initializer.WantsRESTMapper).SetRESTMapper(mapper())
			if err := plugin.(admission.InitializationValidator).ValidateInitialization(); err != nil {
				t.Fatal(err)
			}
			operation := admission.Create
			if test.old != nil {
				operation = admission.Update
			}
			if !plugin.Handles(operation) {
				t.Fatalf("%s is not handled", operation)
			}
			err := plugin.Validate(t.Context(), admission.NewAttributesRecord(test.object, test.old, v1alpha1.SchemeGroupVersion.WithKind("Task"), "ns", "task",
				v1alpha1.SchemeGroupVersion.WithResource("tasks"), "", operation, nil, false, &user.DefaultInfo{Name: "someone"}), nil)
			switch {
			case test.forbidden == "" && err != nil:
				t.Errorf("got %v, want it to be allowed", err)
			case test.forbidden != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.forbidden)):
				t.Errorf("got %v, want it to be forbidden for %q", err, test.forbidden)
			}
			if !slices.Equal(g.asked, test.asked) {
				t.Errorf("asked %q, want %q", g.asked, test.asked)
			}
		})
	}
}

func TestValidateInitialization(t *testing.T) {
	for name, p := range map[string]*plugin{
		"without an authorizer":  {mapper: mapper()},
		"without a REST mapper":  {authorizer: &granted{}},
		"without either of them": {},
	} {
		if p.ValidateInitialization() == nil {
			t.Error(name)
		}
	}
}

func TestMappingsOfOurKinds(t *testing.T) {
	want := map[string]string{"Unknown": "unknowns"}
	for _, kind := range kinds.All {
		want[kind.Name] = kind.Resource
	}
	for kind, want := range want {
		mappings, err := (&plugin{}).mappings(t.Context(), nil, ref(v1alpha1.SchemeGroupVersion.String(), kind, true))
		if err != nil || len(mappings) != 1 || mappings[0].Resource != v1alpha1.SchemeGroupVersion.WithResource(want) {
			t.Errorf("%s: got %v (%v), want %s", kind, mappings, err, want)
		}
	}
}
