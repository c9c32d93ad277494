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

package taskset

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// adopt makes the set the controller of tasks that match its selector and have none, and gives up those that no longer match. A task
// without an index cannot be counted and is left alone.
func (p *pass) adopt(ctx context.Context) error {
	var errs []error
	checked := false
	for uid, task := range p.orphans {
		if indexOf(task) < 0 || task.DeletionTimestamp != nil {
			continue
		}
		if !checked {
			// The set may be gone, or about to go and to leave its tasks behind.
			set, err := p.client.BatchV1alpha1().TaskSets(p.set.Namespace).Get(ctx, p.set.Name, metav1.GetOptions{})
			if err != nil || set.UID != p.set.UID || set.DeletionTimestamp != nil {
				errs = append(errs, ignoreNotFound(err))
				break
			}
			checked = true
		}
		owners := append(slices.Clone(task.OwnerReferences), *metav1.NewControllerRef(p.set, kind))
		if err := setOwners(ctx, p.Controller, task, owners); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.orphans, uid) // an event brings it back as ours
	}
	for uid, task := range p.strays {
		if err := disown(ctx, p.Controller, task, p.uid); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.strays, uid)
	}
	return errors.Join(errs...)
}

func disown(ctx context.Context, c *Controller, task *batch.Task, owner types.UID) error {
	return setOwners(ctx, c, task, slices.DeleteFunc(slices.Clone(task.OwnerReferences), func(r metav1.OwnerReference) bool {
		return r.UID == owner
	}))
}

// setOwners changes the owners of a task as it was observed. If it has changed since, an event tells.
func setOwners(ctx context.Context, c *Controller, task *batch.Task, owners []metav1.OwnerReference) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": task.UID, "resourceVersion": task.ResourceVersion, "ownerReferences": owners,
	}})
	if err != nil {
		return err
	}
	_, err = c.client.BatchV1alpha1().Tasks(task.Namespace).Patch(ctx, task.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// collectLeftovers deletes the tasks of a set that is gone.
func (c *Controller) collectLeftovers(ctx context.Context, key types.NamespacedName, r *record) error {
	set, err := c.client.BatchV1alpha1().TaskSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil && set.UID == r.uid {
		return nil // it is new to us: an event will tell
	}
	if ignoreNotFound(err) != nil {
		return err
	}
	p := &pass{Controller: c, record: r, set: &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}}
	r.ledger.loaded = false
	var all []*entry
	for _, e := range r.ledger.entries {
		if !e.terminating {
			all = append(all, e)
		}
	}
	_, err = p.delete(ctx, all)
	return err
}

// finalize does what the deletion of a set waits for: with foreground deletion that its tasks are gone, with orphaning that they no
// longer name it as their owner.
func (c *Controller) finalize(ctx context.Context, set *batch.TaskSet, r *record) (again time.Time, err error) {
	orphan := slices.Contains(set.Finalizers, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(set.Finalizers, metav1.FinalizerDeleteDependents)
	if !orphan && !foreground {
		return time.Time{}, nil
	}
	now := c.clock.Now()
	if due := r.progress.finalized.Add(flushInterval); len(r.ledger.entries) > 0 && now.Before(due) {
		return due, nil
	}
	r.progress.finalized, again = now, now.Add(flushInterval)
	// Not by what was observed: nothing may be overlooked.
	list, err := c.client.BatchV1alpha1().Tasks(set.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string(set.UID),
	})
	if err != nil {
		return again, err
	}
	tasks := slices.DeleteFunc(list.Items, func(task batch.Task) bool { return !metav1.IsControlledBy(&task, set) })
	errs := make([]error, len(tasks))
	c.each(ctx, len(tasks), func(i int) {
		task := &tasks[i]
		switch {
		case orphan:
			errs[i] = disown(ctx, c, task, set.UID)
		case task.DeletionTimestamp == nil:
			errs[i] = ignoreNotFound(c.client.BatchV1alpha1().Tasks(task.Namespace).Delete(ctx, task.Name, metav1.DeleteOptions{
				Preconditions:     &metav1.Preconditions{UID: &task.UID},
				PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
			}))
		}
	})
	if err := errors.Join(append(errs, ctx.Err())...); err != nil || len(tasks) > 0 {
		return again, err
	}
	set = set.DeepCopy()
	set.Finalizers = slices.DeleteFunc(set.Finalizers, func(name string) bool {
		return name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents
	})
	_, err = c.client.BatchV1alpha1().TaskSets(set.Namespace).Update(ctx, set, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return again, nil
	}
	return again, err
}
