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

package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/pool"
)

const (
	// reasonUnknown is the reason of Ready=Unknown of a worker that is lost.
	reasonUnknown = "WorkerStatusUnknown"
	// reasonStopUnknown is the reason of Ready=Unknown of a worker that is lost while it was draining or stopped.
	reasonStopUnknown = "WorkerStopUnknown"
	// reasonDraining and reasonStopped are the reasons of Ready=False with which a worker announces that it stops.
	reasonDraining, reasonStopped = "Draining", "Stopped"
)

// syncWorker acts on the health of a worker:
//
//	Worker    lease      action
//	missing   any        delete the lease
//	exists    unknown    none
//	exists    healthy    remove the taint
//	exists    expired    read the lease; if the read confirms it, mark the worker as lost
//	exists    lost       mark the worker as lost, evict its tasks, finally delete it
func (c *Controller) syncWorker(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	worker := c.worker(name)
	health, seen := c.health.get(time.Now(), name)
	switch {
	case worker == nil:
		return 0, c.removeLease(ctx, name, seen)
	case health == expired:
		lease, err := request.Do(ctx, func(ctx context.Context) (*batch.WorkerLease, error) {
			return c.client.BatchV1alpha1().WorkerLeases(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		})
		switch {
		case apierrors.IsNotFound(err):
			lease = nil
		case err != nil:
			return 0, err
		}
		if !c.health.confirm(time.Now(), name, lease) {
			return 0, nil
		}
		klog.FromContext(ctx).Info("Worker has stopped renewing its lease", "worker", name, "duration", time.Since(seen.unchangedSince).Round(time.Second))
		return 0, c.markLost(ctx, worker, seen)
	case health == lost:
		return 0, c.markLost(ctx, worker, seen)
	case health == healthy:
		return 0, c.removeTaint(ctx, worker)
	}
	return 0, nil
}

// markLost marks a worker as lost, enqueues its tasks for eviction, and deletes it when it has been lost for
// RemoveAfter.
func (c *Controller) markLost(ctx context.Context, worker *batch.Worker, seen observation) error {
	name := cache.MetaObjectToName(worker)
	marked, err := c.markUnreachable(ctx, worker, seen)
	if marked && err == nil {
		return nil // The informer will show the taint, and its event handler enqueues the tasks.
	}
	c.enqueueTasksOf(name)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	// A pool has cordoned the worker to remove it. If the pool is gone, nobody else deletes it.
	cordoned := worker.Spec.Unschedulable && worker.Annotations[pool.AnnotationCordoned] == ""
	if cordoned || worker.Spec.Denied || time.Since(ready.LastTransitionTime.Time) < c.options.RemoveAfter || len(c.tasksOf(name)) > 0 {
		return nil
	}
	klog.FromContext(ctx).Info("Deleting worker that has been lost for too long", "worker", name)
	_, err = request.Do(ctx, func(ctx context.Context) (any, error) {
		return nil, c.client.BatchV1alpha1().Workers(worker.Namespace).Delete(ctx, worker.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &worker.UID, ResourceVersion: &worker.ResourceVersion},
		})
	})
	if err == nil {
		workerTransitions.WithLabelValues(transitionRemoved).Inc()
	}
	return client.IgnoreNotFound(err)
}

// markUnreachable sets Ready=Unknown and the unreachable taint on a Worker. It reports whether it has changed the
// Worker.
func (c *Controller) markUnreachable(ctx context.Context, worker *batch.Worker, seen observation) (marked bool, err error) {
	workers := c.client.BatchV1alpha1().Workers(worker.Namespace)
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	if ready == nil || ready.Status != metav1.ConditionUnknown {
		reason, message := reasonUnknown, fmt.Sprintf("The worker has not renewed its lease for %s.", seen.duration)
		if ready != nil {
			if ready.Reason == reasonDraining || ready.Reason == reasonStopped {
				reason = reasonStopUnknown
			}
			message += fmt.Sprintf(" Its last word was %s=%s (%s).", ready.Type, ready.Status, ready.Reason)
		}
		next := worker.DeepCopy()
		meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
			Type: batch.WorkerReady, Status: metav1.ConditionUnknown, Reason: reason, Message: message,
		})
		marked = true
		if worker, err = request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
			return workers.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		}); err != nil {
			return marked, err
		}
	}
	if unreachableTaint(worker) == nil {
		next := worker.DeepCopy()
		next.Spec.Taints = append(next.Spec.Taints, batch.Taint{
			Key: batch.TaintWorkerUnreachable, Effect: batch.TaintEffectNoExecute, TimeAdded: new(metav1.Now()),
		})
		marked = true
		_, err = request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
			return workers.Update(ctx, next, metav1.UpdateOptions{})
		})
		if err == nil {
			workerTransitions.WithLabelValues(transitionLost).Inc()
		}
	}
	return marked, err
}

// removeTaint removes the unreachable taint from a worker that has returned. The worker sets its Ready condition
// itself.
func (c *Controller) removeTaint(ctx context.Context, worker *batch.Worker) error {
	if unreachableTaint(worker) == nil {
		return nil
	}
	next := worker.DeepCopy()
	next.Spec.Taints = slices.DeleteFunc(next.Spec.Taints, func(t batch.Taint) bool { return isUnreachable(&t) })
	_, err := request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.client.BatchV1alpha1().Workers(worker.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	})
	if err == nil {
		workerTransitions.WithLabelValues(transitionReturned).Inc()
	}
	return client.IgnoreNotFound(err)
}

// removeLease deletes a lease that has no Worker. A running worker whose Worker was deleted notices that its lease is
// gone and registers again. A worker that is just registering creates another lease when it fails to renew this one.
func (c *Controller) removeLease(ctx context.Context, name cache.ObjectName, seen observation) error {
	if seen.heartbeat.uid == "" {
		return nil
	}
	if registered, err := c.registered(ctx, name); err != nil || registered {
		return err
	}
	_, err := request.Do(ctx, func(ctx context.Context) (any, error) {
		return nil, c.client.BatchV1alpha1().WorkerLeases(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &seen.heartbeat.uid},
		})
	})
	return client.IgnoreNotFound(err)
}

// registered reports whether a Worker of that name exists. It asks the server, because the informer may lag behind.
func (c *Controller) registered(ctx context.Context, name cache.ObjectName) (bool, error) {
	_, err := request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.client.BatchV1alpha1().Workers(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// isUnreachable reports whether a taint is the one of unreachable workers.
func isUnreachable(t *batch.Taint) bool {
	return t.Key == batch.TaintWorkerUnreachable && t.Effect == batch.TaintEffectNoExecute
}

// unreachableTaint returns the unreachable taint of a worker, nil if it has none.
func unreachableTaint(worker *batch.Worker) *batch.Taint {
	for i := range worker.Spec.Taints {
		if isUnreachable(&worker.Spec.Taints[i]) {
			return &worker.Spec.Taints[i]
		}
	}
	return nil
}
