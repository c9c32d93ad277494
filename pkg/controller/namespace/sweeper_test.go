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

package namespace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
)

// answers are the results of successive reads of a namespace. The last one repeats.
type answers []error

var (
	there   error
	gone    = apierrors.NewNotFound(corev1.Resource("namespaces"), "ns")
	notOurs = apierrors.NewNotFound(corev1.Resource("namespaces"), "another")
	// unserved is the error of a server that does not serve namespaces.
	unserved  = apierrors.NewGenericServerResponse(http.StatusNotFound, "get", corev1.Resource("namespaces"), "ns", "404 page not found", 0, true)
	forbidden = apierrors.NewForbidden(corev1.Resource("namespaces"), "ns", errors.New("no"))
	errCut    = errors.New("connection refused")
)

func newObject(kind, namespace, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: batch.GroupVersion.String(), Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(kind + "/" + namespace + "/" + name)},
	}
}

func newObjects(t *testing.T, objects ...runtime.Object) *metadatafake.FakeMetadataClient {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return metadatafake.NewSimpleMetadataClient(scheme, objects...)
}

// deletions returns the objects whose deletion was requested, with the UID preconditions.
func deletions(client *metadatafake.FakeMetadataClient) []string {
	var all []string
	for _, action := range client.Actions() {
		if d, ok := action.(clienttesting.DeleteActionImpl); ok {
			all = append(all, fmt.Sprintf("%s %s/%s %s", d.GetResource().Resource, d.GetNamespace(), d.GetName(), *d.DeleteOptions.Preconditions.UID))
		}
	}
	slices.Sort(all)
	return all
}

func TestSweepOnlyNamespacesThatTwoReadsFindMissing(t *testing.T) {
	for name, test := range map[string]struct {
		answers answers
		swept   bool
		fails   string
	}{
		"there":                                  {answers: answers{there}},
		"gone":                                   {answers: answers{gone}, swept: true},
		"gone, then there":                       {answers: answers{gone, there}},
		"gone, then unknown":                     {answers: answers{gone, errCut}, fails: "connection refused"},
		"unknown":                                {answers: answers{errCut}, fails: "connection refused"},
		"forbidden":                              {answers: answers{forbidden}, fails: "forbidden"},
		"gone, then forbidden":                   {answers: answers{gone, forbidden}, fails: "forbidden"},
		"server serves no namespaces":            {answers: answers{unserved}, fails: "could not find the requested resource"},
		"gone, then server serves no namespaces": {answers: answers{gone, unserved}, fails: "could not find the requested resource"},
		"another one is gone":                    {answers: answers{notOurs}, fails: `"another" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, reads := fake.NewClientset(), 0
			cluster.PrependReactor("get", "namespaces", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if action.(clienttesting.GetAction).GetName() != "ns" {
					return true, &corev1.Namespace{}, nil
				}
				err := test.answers[min(reads, len(test.answers)-1)]
				reads++
				return true, &corev1.Namespace{}, err
			})
			objects := newObjects(t,
				newObject("Task", "ns", "a"), newObject("Task", "ns", "b"), newObject("TaskSet", "ns", "set"), newObject("TaskQueue", "ns", "queue"),
				newObject("Worker", "ns", "worker"), newObject("WorkerLease", "ns", "worker"), newObject("Task", "other", "stays"))
			before := testutil.ToFloat64(orphansDeleted.WithLabelValues("tasks"))
			err := New(cluster, objects, DefaultInterval).quick().sweep(t.Context())
			if test.fails == "" && err != nil || test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
				t.Errorf("the error is %v, want one that contains %q", err, test.fails)
			}
			var want []string
			counted := 0.0
			if test.swept {
				counted = 2
				want = []string{
					"taskqueues ns/queue TaskQueue/ns/queue", "tasks ns/a Task/ns/a", "tasks ns/b Task/ns/b", "tasksets ns/set TaskSet/ns/set",
					"workerleases ns/worker WorkerLease/ns/worker", "workers ns/worker Worker/ns/worker",
				}
			}
			if diff := cmp.Diff(want, deletions(objects)); diff != "" {
				t.Errorf("deleted: want -, got +:\n%s", diff)
			}
			if n := testutil.ToFloat64(orphansDeleted.WithLabelValues("tasks")) - before; n != counted {
				t.Errorf("%v tasks were counted, want %v", n, counted)
			}
		})
	}
}

// quick removes the delay between the two reads of a namespace.
func (s *Sweeper) quick() *Sweeper {
	s.confirmAfter = 0
	return s
}

// TestObjectsCreatedAfterTheFirstReadAreKept creates an object after the first read of its namespace, as happens when
// the namespace is created again.
func TestObjectsCreatedAfterTheFirstReadAreKept(t *testing.T) {
	cluster := fake.NewClientset()
	objects := newObjects(t, newObject("Task", "ns", "old"))
	reads := 0
	cluster.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
		if reads++; reads == 2 {
			if err := objects.Tracker().Add(newObject("Task", "ns", "new")); err != nil {
				t.Error(err)
			}
		}
		return true, nil, gone
	})
	if err := New(cluster, objects, DefaultInterval).quick().sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := deletions(objects); len(got) != 1 || got[0] != "tasks ns/old Task/ns/old" {
		t.Errorf("deleted: %q, want the old task only", got)
	}
}

func TestSweepOutcomes(t *testing.T) {
	cluster := fake.NewClientset()
	for name, test := range map[string]struct {
		list, del error
		fails     string
	}{
		"a list fails":                {list: errCut, fails: "listing tasks: connection refused"},
		"a delete fails":              {del: errCut, fails: "deleting tasks ns/a: connection refused"},
		"a policy hides the object":   {del: gone, fails: "deleting tasks ns/a: a policy or webhook for deletions selects by namespace"},
		"an object is gone already":   {del: apierrors.NewNotFound(batch.Resource("tasks"), "a")},
		"an object was created again": {del: apierrors.NewConflict(batch.Resource("tasks"), "a", errors.New("the UID differs"))},
	} {
		t.Run(name, func(t *testing.T) {
			objects := newObjects(t, newObject("Task", "ns", "a"))
			objects.PrependReactor("*", "tasks", func(action clienttesting.Action) (bool, runtime.Object, error) {
				switch {
				case action.GetVerb() == "list" && test.list != nil:
					return true, nil, test.list
				case action.GetVerb() == "delete" && test.del != nil:
					return true, nil, test.del
				}
				return false, nil, nil
			})
			err := New(cluster, objects, DefaultInterval).quick().sweep(t.Context())
			if test.fails == "" && err != nil || test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
				t.Errorf("the error is %v, want one that contains %q", err, test.fails)
			}
		})
	}
}

// TestAllPagesAreListed returns pages in turn, first for all namespaces and then for the missing one, because the fake
// client does not pass on continue tokens.
func TestAllPagesAreListed(t *testing.T) {
	cluster := fake.NewClientset()
	cluster.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, gone })
	objects := newObjects(t)
	pages := []string{"first", "second", "third"}
	listed := 0
	objects.PrependReactor("list", "workers", func(clienttesting.Action) (bool, runtime.Object, error) {
		list := &metav1.List{Items: []runtime.RawExtension{{Object: newObject("Worker", "ns", pages[listed%len(pages)])}}}
		if listed++; listed%len(pages) != 0 {
			list.Continue = "more"
		}
		return true, list, nil
	})
	if err := New(cluster, objects, DefaultInterval).quick().sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := deletions(objects); len(got) != 3 {
		t.Errorf("deleted: %q, want three workers", got)
	}
}

func TestRunSweepsUntilItIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	objects := newObjects(t)
	lists := 0
	objects.PrependReactor("list", "tasksets", func(clienttesting.Action) (bool, runtime.Object, error) {
		if lists++; lists == 3 {
			cancel()
		}
		return true, nil, errCut
	})
	before := testutil.ToFloat64(sweeps.WithLabelValues(metrics.Failed))
	if err := New(fake.NewClientset(), objects, 1).Run(ctx); err != nil {
		t.Errorf("Run returns %v", err)
	}
	if n := testutil.ToFloat64(sweeps.WithLabelValues(metrics.Failed)) - before; n != 2 {
		t.Errorf("%v sweeps failed before Run was stopped, want 2", n)
	}
}

// TestEveryKindIsSwept checks that resources contains each kind. All kinds are namespaced.
func TestEveryKindIsSwept(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := batch.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	kinds := scheme.KnownTypes(batch.SchemeGroupVersion)
	for list := range kinds {
		// Records are no objects: no kind has the name of one.
		kind, isList := strings.CutSuffix(list, "List")
		if _, isKind := kinds[kind]; isList && isKind {
			if resource := strings.ToLower(kind) + "s"; !slices.Contains(resources, resource) {
				t.Errorf("%s are not swept", schema.GroupResource{Group: batch.GroupName, Resource: resource})
			}
		}
	}
}
