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

// adopt makes the set the controller of tasks that match its selector and have no controller, and releases tasks that
// no longer match, as upstream's ControllerRefManager does. A task without an index cannot be counted and is not
// adopted.
func (s *syncContext) adopt(ctx context.Context) error {
	var errs []error
	checked := false
	for uid, task := range s.orphans {
		if completionIndexOf(task) < 0 || task.DeletionTimestamp != nil {
			continue
		}
		if !checked {
			// The set may be deleted by now, or being deleted with its tasks orphaned.
			set, err := s.client.BatchV1alpha1().TaskSets(s.set.Namespace).Get(ctx, s.set.Name, metav1.GetOptions{})
			if err != nil || set.UID != s.set.UID || set.DeletionTimestamp != nil {
				errs = append(errs, ignoreNotFound(err))
				break
			}
			checked = true
		}
		owners := append(slices.Clone(task.OwnerReferences), *metav1.NewControllerRef(s.set, kind))
		if err := setOwners(ctx, s.Controller, task, owners); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.orphans, uid) // An event will show it as controlled.
	}
	for uid, task := range s.strays {
		if err := releaseTask(ctx, s.Controller, task, s.uid); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.strays, uid)
	}
	return errors.Join(errs...)
}

// releaseTask removes the owner reference to owner from the task.
func releaseTask(ctx context.Context, c *Controller, task *batch.Task, owner types.UID) error {
	return setOwners(ctx, c, task, slices.DeleteFunc(slices.Clone(task.OwnerReferences), func(r metav1.OwnerReference) bool {
		return r.UID == owner
	}))
}

// setOwners replaces the owners of a task. It does nothing if the task has changed since it was observed: an event will
// show the change.
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

// deleteDependents deletes the tasks of a set that does not exist any more.
func (c *Controller) deleteDependents(ctx context.Context, key types.NamespacedName, r *record) error {
	set, err := c.client.BatchV1alpha1().TaskSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil && set.UID == r.uid {
		return nil // The set is new. An event will show it.
	}
	if ignoreNotFound(err) != nil {
		return err
	}
	s := &syncContext{Controller: c, record: r, set: &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}}
	r.ledger.loaded = false
	var all []*trackedTask
	for _, e := range r.ledger.tasks {
		if !e.terminating {
			all = append(all, e)
		}
	}
	_, err = s.deleteTasks(ctx, all)
	return err
}

// finalize removes the finalizers of a set that is being deleted: with foreground deletion after it has deleted the
// set's tasks, with orphaning after it has removed the set from their owners.
func (c *Controller) finalize(ctx context.Context, set *batch.TaskSet, r *record) (requeueAt time.Time, err error) {
	orphan := slices.Contains(set.Finalizers, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(set.Finalizers, metav1.FinalizerDeleteDependents)
	if !orphan && !foreground {
		return time.Time{}, nil
	}
	now := c.clock.Now()
	if due := r.progress.finalizedAt.Add(statusWriteInterval); len(r.ledger.tasks) > 0 && now.Before(due) {
		return due, nil
	}
	r.progress.finalizedAt, requeueAt = now, now.Add(statusWriteInterval)
	// The informer may lag behind, and no task may be missed.
	list, err := c.client.BatchV1alpha1().Tasks(set.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string(set.UID),
	})
	if err != nil {
		return requeueAt, err
	}
	tasks := slices.DeleteFunc(list.Items, func(task batch.Task) bool { return !metav1.IsControlledBy(&task, set) })
	errs := make([]error, len(tasks))
	c.parallelize(ctx, len(tasks), func(i int) {
		task := &tasks[i]
		switch {
		case orphan:
			errs[i] = releaseTask(ctx, c, task, set.UID)
		case task.DeletionTimestamp == nil:
			errs[i] = ignoreNotFound(c.client.BatchV1alpha1().Tasks(task.Namespace).Delete(ctx, task.Name, metav1.DeleteOptions{
				Preconditions:     &metav1.Preconditions{UID: &task.UID},
				PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
			}))
		}
	})
	if err := errors.Join(append(errs, ctx.Err())...); err != nil || len(tasks) > 0 {
		return requeueAt, err
	}
	set = set.DeepCopy()
	set.Finalizers = slices.DeleteFunc(set.Finalizers, func(name string) bool {
		return name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents
	})
	_, err = c.client.BatchV1alpha1().TaskSets(set.Namespace).Update(ctx, set, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return requeueAt, nil
	}
	return requeueAt, err
}
