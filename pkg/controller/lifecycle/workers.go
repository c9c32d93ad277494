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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// reasonUnknown is the reason of Ready=Unknown.
	reasonUnknown = "WorkerStatusUnknown"
	// reasonStopUnknown is the reason of Ready=Unknown of a worker that was about to stop.
	reasonStopUnknown = "WorkerStopUnknown"
	// reasonDraining and reasonStopped are the reasons of Ready=False of a worker that stops, as it says itself.
	reasonDraining, reasonStopped = "Draining", "Stopped"
)

// seeToWorker brings a Worker in line with what is known of its life.
func (c *Controller) seeToWorker(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	worker := c.worker(name)
	v, seen := c.health.verdict(time.Now(), name)
	switch {
	case worker == nil:
		return 0, c.removeLease(ctx, name, seen)
	case v == overdue:
		lease, err := bounded(ctx, func(ctx context.Context) (*batch.WorkerLease, error) {
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
		klog.FromContext(ctx).Info("A worker has stopped renewing its lease", "worker", name, "for", time.Since(seen.since).Round(time.Second))
		return 0, c.giveUp(ctx, worker, seen)
	case v == lost:
		return 0, c.giveUp(ctx, worker, seen)
	case v == alive:
		return 0, c.welcome(ctx, worker)
	}
	return 0, nil
}

// giveUp marks a lost worker, sees to its tasks, and removes it when it has been lost for long.
func (c *Controller) giveUp(ctx context.Context, worker *batch.Worker, seen observation) error {
	name := cache.MetaObjectToName(worker)
	marked, err := c.mark(ctx, worker, seen)
	if marked && err == nil {
		return nil // the informer shows it soon, and then the tasks are seen to
	}
	c.seeToTasksOf(name)
	if err != nil {
		return ignoreNotFound(err)
	}
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	if worker.Spec.Unschedulable || worker.Spec.Denied || time.Since(ready.LastTransitionTime.Time) < c.options.RemoveAfter || len(c.tasksOf(name)) > 0 {
		return nil
	}
	klog.FromContext(ctx).Info("A worker that was lost for long is removed", "worker", name)
	_, err = bounded(ctx, func(ctx context.Context) (any, error) {
		return nil, c.client.BatchV1alpha1().Workers(worker.Namespace).Delete(ctx, worker.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &worker.UID, ResourceVersion: &worker.ResourceVersion},
		})
	})
	if err == nil {
		workerTransitions.WithLabelValues(transitionRemoved).Inc()
	}
	return ignoreNotFound(err)
}

// mark makes the Worker say that it is lost, and says whether it did not before.
func (c *Controller) mark(ctx context.Context, worker *batch.Worker, seen observation) (marked bool, err error) {
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
		if worker, err = bounded(ctx, func(ctx context.Context) (*batch.Worker, error) {
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
		_, err = bounded(ctx, func(ctx context.Context) (*batch.Worker, error) {
			return workers.Update(ctx, next, metav1.UpdateOptions{})
		})
		if err == nil {
			workerTransitions.WithLabelValues(transitionLost).Inc()
		}
	}
	return marked, err
}

// welcome takes the taint from a worker that has returned. That it is ready is for itself to say.
func (c *Controller) welcome(ctx context.Context, worker *batch.Worker) error {
	if unreachableTaint(worker) == nil {
		return nil
	}
	next := worker.DeepCopy()
	next.Spec.Taints = slices.DeleteFunc(next.Spec.Taints, func(t batch.Taint) bool { return isUnreachable(&t) })
	_, err := bounded(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.client.BatchV1alpha1().Workers(worker.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	})
	if err == nil {
		workerTransitions.WithLabelValues(transitionReturned).Inc()
	}
	return ignoreNotFound(err)
}

// removeLease deletes a lease that has no Worker. A worker that lives on without its Worker learns of it by that, and registers
// again. One that registers just now makes another lease when it renews this one.
func (c *Controller) removeLease(ctx context.Context, name cache.ObjectName, seen observation) error {
	if seen.sign.uid == "" {
		return nil
	}
	if registered, err := c.registered(ctx, name); err != nil || registered {
		return err
	}
	_, err := bounded(ctx, func(ctx context.Context) (any, error) {
		return nil, c.client.BatchV1alpha1().WorkerLeases(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &seen.sign.uid},
		})
	})
	return ignoreNotFound(err)
}

// registered says whether there is a Worker of that name: not by the informer, which may be behind.
func (c *Controller) registered(ctx context.Context, name cache.ObjectName) (bool, error) {
	_, err := bounded(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.client.BatchV1alpha1().Workers(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func isUnreachable(t *batch.Taint) bool {
	return t.Key == batch.TaintWorkerUnreachable && t.Effect == batch.TaintEffectNoExecute
}

func unreachableTaint(worker *batch.Worker) *batch.Taint {
	for i := range worker.Spec.Taints {
		if isUnreachable(&worker.Spec.Taints[i]) {
			return &worker.Spec.Taints[i]
		}
	}
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
