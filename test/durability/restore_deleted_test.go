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

// testRestoreDeleted goes back to a backup that holds what was deleted after it, owners with all that they owned, and the former start of a
// worker that was started anew after it.
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
		return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: owner.UID}
	}
	newTask := func(name string, owners ...metav1.OwnerReference) {
		task := newHeldTask(name)
		task.OwnerReferences = owners
		kit.Must(tasks.Create(ctx, task, metav1.CreateOptions{}))(t)
	}
	// Of ours: three in a row, and one that another owns, too.
	root := kit.Must(sets.Create(ctx, suspended("root"), metav1.CreateOptions{}))(t)
	middle := suspended("middle")
	middle.OwnerReferences = []metav1.OwnerReference{ownedBySet(root)}
	middle = kit.Must(sets.Create(ctx, middle, metav1.CreateOptions{}))(t)
	newTask("leaf", ownedBySet(middle))
	newTask("of-two", ownedBySet(root), ownedByMap("other-owner"))
	// Across the two API servers.
	kit.Must(maps.Create(ctx, newConfigMap("map-of-root", ownedBySet(root)), metav1.CreateOptions{}))(t)
	newTask("of-map", ownedByMap("deleted-map"))
	const completions = 60
	deleted := newWork(t, api, namespace, "deleted", completions, 4)
	kept := newWork(t, api, namespace, "kept", completions, 4)
	for _, w := range []*work{deleted, kept} {
		w.await("some indexes are counted", func(set *batch.TaskSet) bool { return set.Status.Succeeded >= 5 })
	}
	snapshot, atBackup := c.store.save(t), incarnation()

	// All goes: what the host held for good.
	for _, name := range []string{"root", "deleted"} {
		kit.Check(t, sets.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}))
	}
	kit.Check(t, maps.Delete(ctx, "other-owner", metav1.DeleteOptions{}))
	kit.Check(t, maps.Delete(ctx, "deleted-map", metav1.DeleteOptions{}))
	kit.Check(t, b.Restart(ctx))
	counted := kit.Must(sets.Get(ctx, "kept", metav1.GetOptions{}))(t).Status.Succeeded
	kit.Eventually(t, "all that was owned is gone", func(ctx context.Context) error {
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
		rest, listErr := tasks.List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=deleted"})
		if listErr == nil && len(rest.Items) > 0 {
			listErr = fmt.Errorf("%d tasks of the deleted set are left", len(rest.Items))
		}
		return errors.Join(append(errs, kit.Gone(err), listErr)...)
	})
	kept.await("the new start of the worker has done something", func(set *batch.TaskSet) bool { return set.Status.Succeeded >= counted+20 })
	started := incarnation()

	// The collector remembers for as long as it runs who is gone, and would not look whether he is back. It has no lease here to take away.
	for _, m := range c.store.members {
		kit.Check(t, m.Stop())
	}
	kit.Check(t, c.Host.ControllerManager.Restart(ctx))
	c.store.restore(t, snapshot, bump...)
	kit.Check(t, c.Server.WaitReady(ctx))
	// The worker is told that it is another: its own past, which does not run.
	kit.Eventually(t, "the worker ends", func(context.Context) error {
		if b.Err() == nil {
			return errors.New("it runs")
		}
		return nil
	})
	t.Log(b.Err())
	kit.Check(t, b.Restart(ctx))
	kit.Eventually(t, "the worker that was started again is registered", func(context.Context) error {
		if now := incarnation(); now == atBackup || now == started {
			return fmt.Errorf("it is %s, which was there before", now)
		}
		return nil
	})

	// What goes on without an owner on the host goes again, which shows that the collector has seen all.
	kit.Eventually(t, "what a deleted ConfigMap owned is collected once more", func(ctx context.Context) error {
		_, err := tasks.Get(ctx, "of-map", metav1.GetOptions{})
		return kit.Gone(err)
	})
	kept.done(completions)
	deleted.done(completions)
	kit.Eventually(t, "the owner that is gone is no owner any more of what another owns, too", func(ctx context.Context) error {
		task, err := tasks.Get(ctx, "of-two", metav1.GetOptions{})
		if kit.Gone(err) == nil {
			t.Fatal("It was collected, though its other owner is there.")
		}
		if err == nil && len(task.OwnerReferences) != 1 {
			err = fmt.Errorf("its owners are %+v", task.OwnerReferences)
		}
		return err
	})
	for _, name := range []string{"root", "middle"} {
		if set := kit.Must(sets.Get(ctx, name, metav1.GetOptions{}))(t); set.DeletionTimestamp != nil {
			t.Errorf("Set %s, which is back, is being deleted.", name)
		}
	}
	kit.Must(tasks.Get(ctx, "leaf", metav1.GetOptions{}))(t)
	if _, err := maps.Get(ctx, "map-of-root", metav1.GetOptions{}); kit.Gone(err) != nil {
		t.Errorf("What the host held is back: %v", err)
	}
}
