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

package taskrunner

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
	"github.com/leat-dev/leat/pkg/client/request"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// errLost is returned for a task that no longer belongs to this worker: it was deleted or evicted.
var errLost = errors.New("the task is no longer bound to this incarnation of the worker")

// assignment is one binding of one task to one incarnation of a worker, and the API requests that the binding allows.
// Each binding increments the bindings of a task, so a task that is bound again has a new assignment. Older servers
// count only disruptions.
type assignment struct {
	tasks       typed.TaskInterface
	name        string
	uid         types.UID
	worker      string
	incarnation string
	disruptions int32
	bindings    int32
	metrics     *Metrics
	// lost is closed once the informer no longer has the task: it is finished, or is not bound to the worker.
	lost <-chan struct{}
}

func newAssignment(tasks typed.TaskInterface, task *batch.Task, metrics *Metrics, lost <-chan struct{}) assignment {
	return assignment{
		metrics:     metrics,
		lost:        lost,
		tasks:       tasks,
		name:        task.Name,
		uid:         task.UID,
		worker:      task.Spec.WorkerName,
		incarnation: task.Status.Incarnation,
		disruptions: task.Status.Disruptions,
		bindings:    task.Status.Bindings,
	}
}

// matches reports whether task is still bound by this assignment.
func (a assignment) matches(task *batch.Task) bool {
	return task.UID == a.uid && task.Spec.WorkerName == a.worker && task.Status.Incarnation == a.incarnation &&
		a.isSameBinding(task)
}

// isSameBinding reports whether task was bound as often as when the assignment began. While servers are upgraded, those
// that are older drop status.bindings from what passes through them, so zero is no other number.
func (a assignment) isSameBinding(task *batch.Task) bool {
	return task.Status.Disruptions == a.disruptions &&
		(task.Status.Bindings == a.bindings || task.Status.Bindings == 0 || a.bindings == 0)
}

// updateStatus applies change to the status of the task and returns the task as stored. It retries as withRetry does.
func (a assignment) updateStatus(
	ctx context.Context, cancel <-chan struct{}, task *batch.Task, change func(*batch.TaskStatus),
) (*batch.Task, error) {
	return a.withRetry(ctx, cancel, task, func(ctx context.Context, task *batch.Task) (*batch.Task, error) {
		task = task.DeepCopy()
		change(&task.Status)
		stored, err := a.tasks.UpdateStatus(ctx, task, metav1.UpdateOptions{})
		a.metrics.statusWritten(err)
		return stored, err
	})
}

// evict returns the task to the scheduler, or deletes it if it is being deleted. If crashed is true, the server
// counts a worker crash and may fail the task instead.
func (a assignment) evict(ctx context.Context, task *batch.Task, crashed bool, reason, message string) error {
	return a.sendEviction(ctx, task, batch.Eviction{WorkerCrashed: crashed, Reason: reason, Message: message})
}

// returnTask returns a task that was not started to the scheduler, or deletes it if it is being deleted. The server
// counts no disruption.
func (a assignment) returnTask(ctx context.Context, task *batch.Task, reason, message string) error {
	return a.sendEviction(ctx, task, batch.Eviction{NotStarted: true, Reason: reason, Message: message})
}

func (a assignment) sendEviction(ctx context.Context, task *batch.Task, eviction batch.Eviction) error {
	_, err := a.withRetry(ctx, nil, task, func(ctx context.Context, task *batch.Task) (*batch.Task, error) {
		if task.DeletionTimestamp != nil {
			return nil, a.deleteNow(ctx)
		}
		eviction.ObjectMeta = metav1.ObjectMeta{Name: a.name, Namespace: task.Namespace}
		eviction.Preconditions = &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion}
		_, err := a.tasks.Evict(ctx, a.name, &eviction, metav1.CreateOptions{})
		return nil, err
	})
	return err
}

// forceDelete deletes the task without a grace period. Its command must have ended.
func (a assignment) forceDelete(ctx context.Context, task *batch.Task) error {
	_, err := a.withRetry(ctx, nil, task, func(ctx context.Context, _ *batch.Task) (*batch.Task, error) {
		return nil, a.deleteNow(ctx)
	})
	return err
}

// deleteNow sends one delete request with a grace period of zero.
func (a assignment) deleteNow(ctx context.Context) error {
	err := a.tasks.Delete(ctx, a.name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      &metav1.Preconditions{UID: &a.uid},
	})
	if apierrors.IsConflict(err) {
		return errLost
	}
	return err
}

// isLost reports whether lost is closed.
func (a assignment) isLost() bool {
	select {
	case <-a.lost:
		return true
	default:
		return false
	}
}

// withRetry calls send until it succeeds. It survives conflicting writes and a server that is unavailable. It returns
// errLost once the assignment no longer holds, and the last error once ctx is done or cancel is closed; a request
// that is in flight then is awaited. If the task turns out to be finished, an earlier try has succeeded, and that
// task is returned.
func (a assignment) withRetry(
	ctx context.Context, cancel <-chan struct{}, task *batch.Task, send func(context.Context, *batch.Task) (*batch.Task, error),
) (*batch.Task, error) {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
	stale := false
	for first := true; ; first = false {
		var stored *batch.Task
		var err error
		if stale {
			// Read right before the write, not before the pause: a task that others keep changing would be stale again.
			var latest *batch.Task
			latest, err = request.Do(ctx, func(ctx context.Context) (*batch.Task, error) {
				return a.tasks.Get(ctx, a.name, metav1.GetOptions{})
			})
			switch {
			case err != nil:
			case !a.matches(latest):
				return nil, errLost
			case latest.Status.Phase.Finished():
				return latest, nil
			default:
				task, stale = latest, false
			}
		}
		if err == nil {
			stored, err = request.Do(ctx, func(ctx context.Context) (*batch.Task, error) { return send(ctx, task) })
		}
		switch {
		case err == nil:
			return stored, nil
		// The server forbids a worker all tasks that are not bound to it: once the informer has lost the task, a
		// refusal means that it is gone.
		case apierrors.IsNotFound(err), errors.Is(err, errLost), apierrors.IsForbidden(err) && a.isLost():
			return nil, errLost
		case apierrors.IsConflict(err):
			if stale = true; first {
				continue
			}
		}
		klog.FromContext(ctx).V(2).Info("Retrying a failed request about the task", "task", klog.KObj(task), "err", err)
		timer := time.NewTimer(backoff.Step())
		select {
		case <-timer.C:
			continue
		case <-ctx.Done():
		case <-cancel:
		}
		timer.Stop()
		return nil, err
	}
}
