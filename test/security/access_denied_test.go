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

package security

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testDenied checks that a denied worker may do nothing with its credentials, and that only an administrator can lift
// the denial.
func testDenied(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	config := e.Worker(t, namespace, "stolen")
	stolen := kit.Client(t, config).BatchV1alpha1()

	worker := kit.Must(stolen.Workers(namespace).Create(t.Context(), &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: "stolen"}}, metav1.CreateOptions{}))(t)
	worker.Status.Incarnation = "stolen-1"
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: v1alpha1.WorkerReady, Status: metav1.ConditionFalse, Reason: "Starting"})
	worker = kit.Must(stolen.Workers(namespace).UpdateStatus(t.Context(), worker, metav1.UpdateOptions{}))(t)
	lease := kit.Must(stolen.WorkerLeases(namespace).Create(t.Context(), &v1alpha1.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "stolen"}}, metav1.CreateOptions{}))(t)
	kit.Must(admin.Tasks(namespace).Create(t.Context(), newTask("bound"), metav1.CreateOptions{}))(t)
	kit.Must(controller.Tasks(namespace).Bind(t.Context(), "bound", &v1alpha1.Binding{
		Target: v1alpha1.BindingTarget{Name: "stolen", Incarnation: "stolen-1"},
	}, metav1.CreateOptions{}))(t)

	deny := func(denied bool) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"spec":{"denied":%t}}`, denied)
		kit.Must(admin.Workers(namespace).Patch(t.Context(), "stolen", types.MergePatchType, patch, metav1.PatchOptions{}))(t)
	}
	requests := map[string]func(ctx context.Context) error{
		"reads its Worker": func(ctx context.Context) error {
			_, err := stolen.Workers(namespace).Get(ctx, "stolen", metav1.GetOptions{})
			return err
		},
		"registers": func(ctx context.Context) error {
			_, err := stolen.Workers(namespace).Create(ctx, &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: "stolen"}}, metav1.CreateOptions{})
			return err
		},
		"allows itself": func(ctx context.Context) error {
			allowed := worker.DeepCopy()
			allowed.ResourceVersion, allowed.Spec.Denied = "", false
			_, err := stolen.Workers(namespace).Update(ctx, allowed, metav1.UpdateOptions{})
			return err
		},
		"reports that it is ready": func(ctx context.Context) error {
			_, err := stolen.Workers(namespace).UpdateStatus(ctx, worker, metav1.UpdateOptions{})
			return err
		},
		"renews its lease": func(ctx context.Context) error {
			_, err := stolen.WorkerLeases(namespace).Update(ctx, lease, metav1.UpdateOptions{})
			return err
		},
		"lists its tasks": func(ctx context.Context) error {
			_, err := stolen.Tasks(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName=stolen"})
			return err
		},
		"reads the task that is bound to it": func(ctx context.Context) error {
			_, err := stolen.Tasks(namespace).Get(ctx, "bound", metav1.GetOptions{})
			return err
		},
		"evicts the task that is bound to it": func(ctx context.Context) error {
			_, err := stolen.Tasks(namespace).Evict(ctx, "bound", &v1alpha1.Eviction{
				Preconditions: &metav1.Preconditions{ResourceVersion: new("1")},
			}, metav1.CreateOptions{})
			return err
		},
	}
	deny(true)
	for name, request := range requests {
		kit.Eventually(t, name, func(ctx context.Context) error {
			if err := request(ctx); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "worker "+namespace+"/stolen is denied") {
				return fmt.Errorf("got error %v, want Forbidden", err)
			}
			return nil
		})
	}

	// A denied Worker cannot be deleted.
	err := admin.Workers(namespace).Delete(t.Context(), "stolen", metav1.DeleteOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "set spec.denied to false first") {
		t.Errorf("delete of a denied Worker: got error %v, want Forbidden", err)
	}
	err = admin.Workers(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("delete of a collection with a denied Worker: got error %v, want Forbidden", err)
	}
	if stored := kit.Must(admin.Workers(namespace).Get(t.Context(), "stolen", metav1.GetOptions{}))(t); stored.UID != worker.UID || !stored.Spec.Denied {
		t.Errorf("got Worker %+v, want it unchanged and denied", stored)
	}

	deny(false)
	kit.Eventually(t, "the worker has its rights again", requests["reads its Worker"])
	kit.Check(t, admin.Workers(namespace).Delete(t.Context(), "stolen", metav1.DeleteOptions{}))

	// An unregistered name can be denied as well.
	kit.Must(admin.Workers(namespace).Create(t.Context(), &v1alpha1.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: "stolen"}, Spec: v1alpha1.WorkerSpec{Denied: true},
	}, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "the name is denied", func(ctx context.Context) error {
		if err := requests["registers"](ctx); !apierrors.IsForbidden(err) {
			return fmt.Errorf("got error %v, want Forbidden", err)
		}
		return nil
	})
	if e.Standalone() {
		return
	}
	// The deletion of the namespace deletes the Worker.
	kit.Check(t, e.HostClient(t).CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
	if err := admin.Workers(namespace).Delete(t.Context(), "stolen", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := admin.Workers(namespace).Get(t.Context(), "stolen", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of the Worker after the deletion of its namespace: got error %v, want NotFound", err)
	}
}
