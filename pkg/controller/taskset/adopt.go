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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// adopt makes the set the controller of tasks that match its selector and have no controller, and releases tasks that
// no longer match, as upstream's ControllerRefManager does. A task without an index cannot be counted and is not
// adopted.
func (s *syncContext) adopt(ctx context.Context) error {
	var errs []error
	checked := false
	for uid, task := range s.state.Orphans {
		if len(task.CompletionIndexes()) == 0 || task.DeletionTimestamp != nil {
			continue
		}
		if !checked {
			// The set may be deleted by now, or being deleted with its tasks orphaned.
			set, err := s.client.BatchV1alpha1().TaskSets(s.set.Namespace).Get(ctx, s.set.Name, metav1.GetOptions{})
			if err != nil || set.UID != s.set.UID || set.DeletionTimestamp != nil {
				errs = append(errs, client.IgnoreNotFound(err))
				break
			}
			checked = true
		}
		owners := append(slices.Clone(task.OwnerReferences), *metav1.NewControllerRef(s.set, kind))
		if err := setOwners(ctx, s.Controller, task, owners); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.state.Orphans, uid) // An event will show it as controlled.
	}
	for uid, task := range s.state.NonMatching {
		if err := releaseTask(ctx, s.Controller, task, s.state.UID); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.state.NonMatching, uid)
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
