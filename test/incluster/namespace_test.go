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

package incluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testNamespaceController checks that the host's namespace controller deletes objects of all Leat's kinds, which it
// knows only from discovery. It starts five seconds after the deletion, so the test deletes both namespaces at once.
func testNamespaceController(t *testing.T, e *kit.Env) {
	host, admin := e.HostClient(t), kit.Client(t, e.Admin(t)).BatchV1alpha1()
	ctx := t.Context()
	full, held := newNamespace(t, e, "full"), newNamespace(t, e, "held")

	worker := kit.Client(t, e.Worker(t, full, "worker-1")).BatchV1alpha1()
	kit.Must(worker.Workers(full).Create(ctx, newWorker("worker-1"), metav1.CreateOptions{}))(t)
	kit.Must(worker.WorkerLeases(full).Create(ctx, newLease("worker-1"), metav1.CreateOptions{}))(t)
	kit.Must(admin.TaskQueues(full).Create(ctx, &v1alpha1.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "queue"}}, metav1.CreateOptions{}))(t)
	kit.Must(admin.TaskSets(full).Create(ctx, kit.NewTaskSet("set"), metav1.CreateOptions{}))(t)
	for i := range 10 {
		kit.Must(admin.Tasks(full).Create(ctx, kit.NewTask(fmt.Sprintf("task-%d", i)), metav1.CreateOptions{}))(t)
	}
	finished := boundTask(t, e, full, "finished", "worker-1")
	finished.Status.Phase = v1alpha1.TaskSucceeded
	kit.Must(worker.Tasks(full).UpdateStatus(ctx, finished, metav1.UpdateOptions{}))(t)
	if keys := kit.Must(storedKeys(ctx, e, full))(t); len(keys) != 15 {
		t.Fatalf("objects in the namespace: got %d, want 15: %q", len(keys), keys)
	}

	boundTask(t, e, held, "bound", "worker-that-died")
	for _, namespace := range []string{full, held} {
		deleteNamespace(t, e, namespace)
	}

	t.Run("creates are denied", func(t *testing.T) {
		late := kit.Client(t, e.Worker(t, held, "worker-1")).BatchV1alpha1()
		for what, create := range map[string]func(context.Context) error{
			"a task": func(ctx context.Context) error {
				_, err := admin.Tasks(held).Create(ctx, kit.NewTask("late"), metav1.CreateOptions{})
				return err
			},
			"a task set": func(ctx context.Context) error {
				_, err := admin.TaskSets(held).Create(ctx, kit.NewTaskSet("late"), metav1.CreateOptions{})
				return err
			},
			"a worker": func(ctx context.Context) error {
				_, err := late.Workers(held).Create(ctx, newWorker("worker-1"), metav1.CreateOptions{})
				return err
			},
		} {
			if err := create(ctx); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || !apierrors.IsForbidden(err) {
				t.Errorf("create of %s: got error %v, want that the namespace is being terminated", what, err)
			}
		}
	})

	t.Run("objects of all kinds are deleted", func(t *testing.T) {
		kit.Eventually(t, "the namespace is deleted", func(ctx context.Context) error { return namespaceGone(ctx, host, full) })
		if keys := kit.Must(storedKeys(ctx, e, full))(t); len(keys) != 0 {
			t.Errorf("keys of the namespace: got %q, want none", keys)
		}
		_, err := admin.Tasks(full).Create(ctx, kit.NewTask("late"), metav1.CreateOptions{})
		expectReason(t, err, metav1.StatusReasonNotFound, fmt.Sprintf("namespaces %q not found", full))
	})

	// A bound task is deleted like a Pod: its worker gets a grace period. If the worker is dead, the namespace waits until
	// the task is deleted with a grace period of 0, which controllers may do.
	t.Run("the namespace waits for a bound task", func(t *testing.T) {
		kit.Eventually(t, "the task has a deletion timestamp", func(ctx context.Context) error {
			task, err := admin.Tasks(held).Get(ctx, "bound", metav1.GetOptions{})
			if err == nil && task.DeletionTimestamp == nil {
				err = fmt.Errorf("it has none")
			}
			return err
		})
		kit.Eventually(t, "a condition of the namespace names the resource", func(ctx context.Context) error {
			if err := namespaceGone(ctx, host, held); err == nil || !strings.Contains(err.Error(), "tasks.batch.leat.dev has 1 resource instances") {
				return fmt.Errorf("got %w", err)
			}
			return nil
		})
		controller := kit.Client(t, e.Controller(t)).BatchV1alpha1()
		kit.Check(t, controller.Tasks(held).Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		kit.Eventually(t, "the namespace is deleted", func(ctx context.Context) error { return namespaceGone(ctx, host, held) })
	})

	t.Run("a create in a namespace that never existed is not found", func(t *testing.T) {
		_, err := admin.Tasks("never-was").Create(ctx, kit.NewTask("task"), metav1.CreateOptions{})
		expectReason(t, err, metav1.StatusReasonNotFound, `namespaces "never-was" not found`)
	})
}
