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

package worker

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// requestTimeout bounds each request to the server.
const requestTimeout = 15 * time.Second

// errLost says that a task is not this worker's any more: it was deleted, or taken away.
var errLost = errors.New("the task is not bound to this incarnation any more")

// binding is one binding of one task to a worker, and what of the API can be done under it. An eviction counts the task's
// disruptions up, so that a task that is bound again has another binding.
type binding struct {
	tasks       typed.TaskInterface
	name        string
	uid         types.UID
	worker      string
	incarnation string
	disruptions int32
	metrics     *metrics
	// lost is closed once the task is not shown as the worker's any more: it is finished, or not bound to it.
	lost <-chan struct{}
}

func bindingOf(tasks typed.TaskInterface, task *batch.Task, metrics *metrics, lost <-chan struct{}) binding {
	return binding{
		metrics:     metrics,
		lost:        lost,
		tasks:       tasks,
		name:        task.Name,
		uid:         task.UID,
		worker:      task.Spec.WorkerName,
		incarnation: task.Status.Incarnation,
		disruptions: task.Status.Disruptions,
	}
}

// holds says whether task is still bound as it was.
func (b binding) holds(task *batch.Task) bool {
	return task.UID == b.uid && task.Spec.WorkerName == b.worker && task.Status.Incarnation == b.incarnation && task.Status.Disruptions == b.disruptions
}

// updateStatus writes what change makes of the status of task, and returns the task as stored.
func (b binding) updateStatus(ctx context.Context, giveUp <-chan struct{}, task *batch.Task, change func(*batch.TaskStatus)) (*batch.Task, error) {
	return b.persist(ctx, giveUp, task, func(ctx context.Context, task *batch.Task) (*batch.Task, error) {
		task = task.DeepCopy()
		change(&task.Status)
		stored, err := b.tasks.UpdateStatus(ctx, task, metav1.UpdateOptions{})
		b.metrics.wrote(err)
		return stored, err
	})
}

// evict gives the task back to be bound again, or deletes it if it is being deleted. An eviction with crashed may make
// the task fail instead, which is for the server to decide.
func (b binding) evict(ctx context.Context, task *batch.Task, crashed bool, reason, message string) error {
	_, err := b.persist(ctx, nil, task, func(ctx context.Context, task *batch.Task) (*batch.Task, error) {
		if task.DeletionTimestamp != nil {
			return nil, b.delete(ctx)
		}
		_, err := b.tasks.Evict(ctx, b.name, &batch.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Name: b.name, Namespace: task.Namespace},
			Reason:        reason,
			Message:       message,
			WorkerCrashed: crashed,
			Preconditions: &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion},
		}, metav1.CreateOptions{})
		return nil, err
	})
	return err
}

// remove deletes the task for good, once nothing of it runs any more.
func (b binding) remove(ctx context.Context, task *batch.Task) error {
	_, err := b.persist(ctx, nil, task, func(ctx context.Context, _ *batch.Task) (*batch.Task, error) {
		return nil, b.delete(ctx)
	})
	return err
}

func (b binding) delete(ctx context.Context) error {
	err := b.tasks.Delete(ctx, b.name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      &metav1.Preconditions{UID: &b.uid},
	})
	if apierrors.IsConflict(err) {
		return errLost
	}
	return err
}

// isLost says whether lost is closed. A worker is not told that a task is gone: whatever it is not bound to is forbidden.
func (b binding) isLost() bool {
	select {
	case <-b.lost:
		return true
	default:
		return false
	}
}

// persist sends a request about task as often as it takes: neither other writes to the task make it fail, nor a server that is
// away. It fails with errLost when the binding does not hold any more, when ctx is done, and when giveUp is closed; a request
// that is in flight then is awaited. A task that turns out to be finished is what an earlier try has achieved.
func (b binding) persist(ctx context.Context, giveUp <-chan struct{}, task *batch.Task, send func(context.Context, *batch.Task) (*batch.Task, error)) (*batch.Task, error) {
	pause := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
	stale := false
	for first := true; ; first = false {
		var stored *batch.Task
		var err error
		if stale {
			// Read right before the write, not before the pause: a task that others keep changing would be stale again.
			var fresh *batch.Task
			fresh, err = bounded(ctx, task, func(ctx context.Context, _ *batch.Task) (*batch.Task, error) {
				return b.tasks.Get(ctx, b.name, metav1.GetOptions{})
			})
			switch {
			case err != nil:
			case !b.holds(fresh):
				return nil, errLost
			case finished(fresh):
				return fresh, nil
			default:
				task, stale = fresh, false
			}
		}
		if err == nil {
			stored, err = bounded(ctx, task, send)
		}
		switch {
		case err == nil:
			return stored, nil
		case apierrors.IsNotFound(err), errors.Is(err, errLost), apierrors.IsForbidden(err) && b.isLost():
			return nil, errLost
		case apierrors.IsConflict(err):
			if stale = true; first {
				continue
			}
		}
		klog.FromContext(ctx).V(2).Info("A request about the task failed; it is sent again", "task", klog.KObj(task), "err", err)
		timer := time.NewTimer(pause.Step())
		select {
		case <-timer.C:
			continue
		case <-ctx.Done():
		case <-giveUp:
		}
		timer.Stop()
		return nil, err
	}
}

// bounded sends a request that may take no longer than requestTimeout.
func bounded[In, Out any](ctx context.Context, in In, send func(context.Context, In) (Out, error)) (Out, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return send(ctx, in)
}

func finished(task *batch.Task) bool {
	return task.Status.Phase == batch.TaskSucceeded || task.Status.Phase == batch.TaskFailed
}
