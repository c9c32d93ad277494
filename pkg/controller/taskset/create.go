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
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// errStale aborts a sync that has taken too long. The next sync starts from the set as the server has it.
var errStale = fmt.Errorf("the sync has taken longer than %s and is repeated", staleAfter)

// createTasks creates tasks in batches of growing size until all are created or one fails, as upstream's
// slowStartBatch does: a set that cannot create tasks does not flood the server with requests.
func (s *syncContext) createTasks(ctx context.Context, toCreate []state.TaskToCreate) error {
	tasks := s.client.BatchV1alpha1().Tasks(s.set.Namespace)
	for len(toCreate) > 0 {
		batchSize := max(s.state.Sync.CreateBatch, 1)
		n := min(batchSize, len(toCreate))
		created, errs, requested := make([]*batch.Task, n), make([]error, n), make([]time.Time, n)
		s.parallelize(ctx, n, func(i int) {
			if s.isStale(s.now) {
				errs[i] = errStale
				return
			}
			task := s.newTask(toCreate[i])
			requested[i] = s.clock.Now()
			created[i], errs[i] = tasks.Create(ctx, task, metav1.CreateOptions{})
			recordCreation(toCreate[i], errs[i])
			if apierrors.IsAlreadyExists(errs[i]) {
				requested[i] = time.Time{}
				created[i], errs[i] = s.getExisting(ctx, task)
			}
		})
		for i, task := range created {
			switch {
			case task != nil && errs[i] == nil:
				s.state.ObserveCreated(task, requested[i])
				s.state.Release(toCreate[i]) // a task that existed already may have fewer indexes
			case errors.Is(errs[i], errStale):
				s.state.NotRequested(toCreate[i])
			default:
				s.state.CreationFailed(toCreate[i])
			}
		}
		toCreate = toCreate[n:]
		if err := errors.Join(ctx.Err(), errors.Join(errs...)); err != nil {
			for _, task := range toCreate {
				s.state.NotRequested(task)
			}
			return s.backOffCreation(ctx, errs)
		}
		if n == batchSize {
			s.state.Sync.CreateBatch = min(2*batchSize, maxCreatesPerSync)
		}
	}
	s.state.Sync.CreateFailures, s.state.Sync.CreateBackoffUntil, s.state.Sync.CreateError = 0, time.Time{}, ""
	return nil
}

// newTask returns a task to create.
func (s *syncContext) newTask(task state.TaskToCreate) *batch.Task {
	if indexes.Count(task.Indexes) > 1 {
		return batch.NewChunk(s.set, task.Indexes)
	}
	return batch.NewTask(s.set, task.Indexes[0].First, task.FailureCount)
}

// getExisting returns a task of this set that exists already: it was created, but the informer has not shown it yet.
func (s *syncContext) getExisting(ctx context.Context, want *batch.Task) (*batch.Task, error) {
	task, err := s.client.BatchV1alpha1().Tasks(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(task, s.set) || task.Labels[batch.LabelControllerUID] != string(s.state.UID) {
		return nil, fmt.Errorf("task %s exists and is not controlled by this task set: delete it", want.Name)
	}
	return task, nil
}

// backOffCreation delays the creation of tasks after a failure, for as long as the server suggests if it does. The
// condition ReplicaFailure shows the error.
func (s *syncContext) backOffCreation(ctx context.Context, errs []error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if slices.Contains(errs, errStale) {
		return errStale
	}
	s.state.Sync.CreateBatch = 1
	s.state.Sync.CreateFailures++
	delay := state.ExponentialBackoff{Base: createBackoffBase, Max: createBackoffMax}.Delay(s.state.Sync.CreateFailures)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			delay = batch.Seconds(int64(seconds))
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			delay = createBackoffMax
		}
		s.state.Sync.CreateError = err.Error()
		klog.FromContext(ctx).V(2).Info("Failed to create task, will retry", "taskset", klog.KObj(s.set), "retryAfter", delay, "err", err)
		break
	}
	s.state.Sync.CreateBackoffUntil = s.now.Add(delay)
	s.requeueAt(s.state.Sync.CreateBackoffUntil)
	return nil
}
