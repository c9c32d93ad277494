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
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// deleteCounted deletes tasks that the stored status has counted.
func (s *syncContext) deleteCounted(ctx context.Context) error {
	tasks, more := s.state.TasksToDelete(maxDeletesPerSync)
	deleted, err := s.deleteTasks(ctx, tasks)
	if more {
		s.requeueAt(s.now)
	}
	if deleted > 0 && s.state.Sync.CreateBackoffUntil.After(s.now) {
		// The deletions have freed quota.
		s.state.Sync.CreateBackoffUntil = s.now
		s.requeueAt(s.now)
	}
	return err
}

// deleteTasks deletes tasks and returns how many it has deleted. The others stay in the state, and a later sync deletes
// them.
func (s *syncContext) deleteTasks(ctx context.Context, tasks []*state.TrackedTask) (deleted int, err error) {
	var mu sync.Mutex
	client := s.client.BatchV1alpha1().Tasks(s.set.Namespace)
	done, gone := make([]bool, len(tasks)), make([]bool, len(tasks))
	s.parallelize(ctx, len(tasks), func(i int) {
		task := tasks[i]
		if !task.NeedsDeletion() {
			done[i] = true
			return
		}
		preconditions := &metav1.Preconditions{UID: &task.UID}
		if s.state.MustCount(task) {
			// A task that has finished meanwhile must be counted first.
			preconditions.ResourceVersion = &task.ResourceVersion
		}
		deleteErr := client.Delete(ctx, task.Name, metav1.DeleteOptions{
			Preconditions:     preconditions,
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		// A conflict means that another task has the name now or, with a resourceVersion, that the task has changed. An
		// event will show the change.
		conflict := apierrors.IsConflict(deleteErr)
		gone[i] = apierrors.IsNotFound(deleteErr)
		if deleteErr == nil || gone[i] || conflict && preconditions.ResourceVersion == nil {
			done[i] = true
			return
		}
		if conflict {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		err = deleteErr
	})
	for i, task := range tasks {
		if done[i] {
			deleted++
			switch {
			case gone[i]:
				s.state.Observe(task.UID, nil)
			case task.NeedsDeletion():
				s.state.DeletionRequested(task, s.now)
			}
		}
	}
	return deleted, errors.Join(err, ctx.Err())
}
