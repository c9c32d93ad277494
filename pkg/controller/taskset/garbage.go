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
	"errors"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// deleteDependents deletes the tasks of a set that does not exist any more.
func (c *Controller) deleteDependents(ctx context.Context, key types.NamespacedName, former *state.TaskSet) error {
	set, err := c.client.BatchV1alpha1().TaskSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil && set.UID == former.UID {
		return nil // The set is new. An event will show it.
	}
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	s := &syncContext{Controller: c, state: former, set: &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}}
	former.Invalidate()
	_, err = s.deleteTasks(ctx, slices.DeleteFunc(former.Tasks(), (*state.TrackedTask).HasDeletionTimestamp))
	return err
}

// finalize removes the finalizers of a set that is being deleted: with foreground deletion after it has deleted the
// set's tasks, with orphaning after it has removed the set from their owners.
func (c *Controller) finalize(ctx context.Context, set *batch.TaskSet, state *state.TaskSet) (requeueAt time.Time, err error) {
	orphan := slices.Contains(set.Finalizers, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(set.Finalizers, metav1.FinalizerDeleteDependents)
	if !orphan && !foreground {
		return time.Time{}, nil
	}
	now := c.clock.Now()
	if due := state.Sync.FinalizedAt.Add(statusWriteInterval); state.HasTasks() && now.Before(due) {
		return due, nil
	}
	state.Sync.FinalizedAt, requeueAt = now, now.Add(statusWriteInterval)
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
			errs[i] = client.IgnoreNotFound(c.client.BatchV1alpha1().Tasks(task.Namespace).Delete(ctx, task.Name, metav1.DeleteOptions{
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
