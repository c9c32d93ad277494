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

package durability

import (
	"context"
	"errors"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testRestoreDeleted restores a backup that has what was deleted later: owners together with their dependents, and the
// former incarnation of a worker.
func testRestoreDeleted(t *testing.T, c *cluster) {
	documented(t, "how-to/backup.md", "kubectl patch lease kube-controller-manager")
	ctx := t.Context()
	namespace := c.Namespace(t)
	api := kit.Client(t, c.Admin(t)).BatchV1alpha1()
	tasks, sets, maps := api.Tasks(namespace), api.TaskSets(namespace), c.kube.CoreV1().ConfigMaps(namespace)
	c.StartManager(t, "two")
	c.StartWorker(t, c.Worker(t, namespace, "a"), namespace, "a", nil, "--tasks=4")
	b := c.StartWorker(t, c.Worker(t, namespace, "b"), namespace, "b", nil, "--tasks=4")
	incarnation := func() string {
		return kit.Must(api.Workers(namespace).Get(ctx, "b", metav1.GetOptions{}))(t).Status.Incarnation
	}

	ownedByMap := func(name string) metav1.OwnerReference {
		owner := kit.Must(maps.Create(ctx, newConfigMap(name), metav1.CreateOptions{}))(t)
		return kit.OwnerReference(owner, "v1", "ConfigMap")
	}
	createOwned := func(name string, owners ...metav1.OwnerReference) {
		task := newHeldTask(name)
		task.OwnerReferences = owners
		kit.Must(tasks.Create(ctx, task, metav1.CreateOptions{}))(t)
	}
	// A chain of three objects, and a task with two owners.
	root := kit.Must(sets.Create(ctx, newSuspendedSet("root"), metav1.CreateOptions{}))(t)
	middle := newSuspendedSet("middle")
	middle.OwnerReferences = []metav1.OwnerReference{ownedBySet(root)}
	middle = kit.Must(sets.Create(ctx, middle, metav1.CreateOptions{}))(t)
	createOwned("leaf", ownedBySet(middle))
	createOwned("of-two", ownedBySet(root), ownedByMap("other-owner"))
	// Owners and dependents on different API servers.
	kit.Must(maps.Create(ctx, newConfigMap("map-of-root", ownedBySet(root)), metav1.CreateOptions{}))(t)
	createOwned("of-map", ownedByMap("deleted-map"))
	const completions = 60
	deleted := startSet(t, api, namespace, "deleted", completions, 4)
	kept := startSet(t, api, namespace, "kept", completions, 4)
	for _, set := range []*recordedSet{deleted, kept} {
		set.await("some indexes are counted", succeeded(5))
	}
	snapshot, atBackup := c.store.save(t), incarnation()

	// The restore does not bring back what the host has deleted.
	for _, name := range []string{"root", "deleted"} {
		kit.Check(t, sets.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}))
	}
	kit.Check(t, maps.Delete(ctx, "other-owner", metav1.DeleteOptions{}))
	kit.Check(t, maps.Delete(ctx, "deleted-map", metav1.DeleteOptions{}))
	kit.Check(t, b.Restart(ctx))
	counted := kit.Must(sets.Get(ctx, "kept", metav1.GetOptions{}))(t).Status.Succeeded
	kit.Eventually(t, "all dependents are collected", func(ctx context.Context) error {
		var errs []error
		for _, name := range []string{"leaf", "of-two", "of-map"} {
			_, err := tasks.Get(ctx, name, metav1.GetOptions{})
			errs = append(errs, kit.Gone(err))
		}
		for _, name := range []string{"middle", "deleted"} {
			_, err := sets.Get(ctx, name, metav1.GetOptions{})
			errs = append(errs, kit.Gone(err))
		}
		_, err := maps.Get(ctx, "map-of-root", metav1.GetOptions{})
		left, listErr := tasks.List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=deleted"})
		if listErr == nil && len(left.Items) > 0 {
			listErr = fmt.Errorf("%d tasks of the deleted set are left", len(left.Items))
		}
		return errors.Join(append(errs, kit.Gone(err), listErr)...)
	})
	kept.await("the new incarnation of the worker has run some indexes", succeeded(min(counted+20, completions)))
	beforeRestore := incarnation()

	// A running collector remembers that owners are absent and would not look again. Its restart needs no change of the
	// lease here, because the test's controller manager does not use one.
	for _, m := range c.store.members {
		kit.Check(t, m.Stop())
	}
	kit.Check(t, c.Host.ControllerManager.Restart(ctx))
	c.store.restore(t, snapshot, bumpFlags...)
	kit.Check(t, c.Server.WaitReady(ctx))
	// The stored incarnation is the former one, which does not run. The worker ends because it is another one.
	kit.Eventually(t, "the worker ends", func(context.Context) error {
		if b.Err() == nil {
			return errors.New("it runs")
		}
		return nil
	})
	t.Log(b.Err())
	kit.Check(t, b.Restart(ctx))
	kit.Eventually(t, "the worker has registered with a new incarnation", func(context.Context) error {
		if now := incarnation(); now == atBackup || now == beforeRestore {
			return fmt.Errorf("the incarnation is %s, which existed before", now)
		}
		return nil
	})

	// A dependent without its owner is collected again. That shows that the collector has processed the restore.
	kit.Eventually(t, "the dependent of the deleted ConfigMap is collected again", func(ctx context.Context) error {
		_, err := tasks.Get(ctx, "of-map", metav1.GetOptions{})
		return kit.Gone(err)
	})
	kept.expectDone(completions)
	deleted.expectDone(completions)
	kit.Eventually(t, "the absent owner is removed from the task with two owners", func(ctx context.Context) error {
		task, err := tasks.Get(ctx, "of-two", metav1.GetOptions{})
		if kit.Gone(err) == nil {
			t.Fatal("the task was collected although its other owner exists")
		}
		if err == nil && len(task.OwnerReferences) != 1 {
			err = fmt.Errorf("its owners are %+v", task.OwnerReferences)
		}
		return err
	})
	for _, name := range []string{"root", "middle"} {
		if set := kit.Must(sets.Get(ctx, name, metav1.GetOptions{}))(t); set.DeletionTimestamp != nil {
			t.Errorf("the restored set %s is being deleted", name)
		}
	}
	kit.Must(tasks.Get(ctx, "leaf", metav1.GetOptions{}))(t)
	if _, err := maps.Get(ctx, "map-of-root", metav1.GetOptions{}); kit.Gone(err) != nil {
		t.Errorf("a ConfigMap on the host after the restore of its owner: got %v, want NotFound", err)
	}
}
