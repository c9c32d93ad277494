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

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/request"
)

const (
	// reasonWorkerLost is the reason of evictions from workers that are unreachable or gone.
	reasonWorkerLost = "WorkerLost"
	// reasonWorkerDenied is the reason of evictions from workers that are denied.
	reasonWorkerDenied = "WorkerDenied"
	// reasonTaint is the reason of evictions because of other NoExecute taints.
	reasonTaint = "TaintEviction"

	// informerDelay is after what time a task is synced again whose worker exists but is not yet in the informer.
	informerDelay = time.Second
)

// decision is what the controller does with a task.
type decision struct {
	action action
	// requeueAfter is the time after which to decide again even if nothing changes, zero for never.
	requeueAfter time.Duration
	// reason and message explain an eviction.
	reason, message string
	// crashed reports whether the command was running when its worker was lost.
	crashed bool
}

// action is what to do with a task.
type action int

const (
	// keep leaves the task bound to its worker.
	keep action = iota
	// evict unbinds the task from its worker.
	evict
	// remove completes the deletion of the task without its worker.
	remove
)

// syncTask evicts a task that its worker will not run to its end, or removes it if it is being deleted.
func (c *Controller) syncTask(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	task, d, err := c.decide(ctx, name)
	if err != nil || d.action == keep {
		return d.requeueAfter, err
	}
	if d.action == evict {
		if err := c.evictions.Wait(ctx); err != nil {
			return 0, err
		}
		// The worker may have returned while this eviction waited for its turn.
		if task, d, err = c.decide(ctx, name); err != nil || d.action == keep {
			return d.requeueAfter, err
		}
	}
	tasks := c.client.BatchV1alpha1().Tasks(name.Namespace)
	logger := klog.FromContext(ctx)
	_, err = request.Do(ctx, func(ctx context.Context) (any, error) {
		if d.action == remove {
			logger.Info("Removing task whose worker cannot stop it", "task", name, "worker", task.Spec.WorkerName)
			return nil, tasks.Delete(ctx, name.Name, metav1.DeleteOptions{
				GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &task.UID},
			})
		}
		logger.Info("Evicting task", "task", name, "worker", task.Spec.WorkerName, "reason", d.reason)
		return tasks.Evict(ctx, name.Name, &batch.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
			Reason:     d.reason,
			Message:    d.message,
			// The server counts crashes and fails a task that has reached its crashLimit.
			WorkerCrashed: d.crashed,
			// The decision holds for this version of the task. If two controllers evict it, one of them fails.
			Preconditions: &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion},
		}, metav1.CreateOptions{})
	})
	if err == nil {
		switch d.action {
		case evict:
			taskEvictions.WithLabelValues(d.reason).Inc()
		case remove:
			taskDeletions.WithLabelValues(deletionWorkerLost).Inc()
		}
	}
	return 0, client.IgnoreNotFound(err)
}

// decide returns a task from the informer, nil if there is none, and what to do with it.
func (c *Controller) decide(ctx context.Context, name cache.ObjectName) (*batch.Task, decision, error) {
	obj, ok, err := c.tasks.GetTypedIndexer().GetByKey(name.String())
	if err != nil || !ok {
		return nil, decision{}, err
	}
	task := obj.(*batch.Task)
	if s := task.DeletionGracePeriodSeconds; s != nil && *s == 0 {
		return task, decision{}, nil // The task waits for a finalizer of another controller.
	}
	workerName := workerOf(task)
	worker := c.worker(workerName)
	if worker == nil {
		if registered, err := c.registered(ctx, workerName); err != nil || registered {
			return task, decision{requeueAfter: informerDelay}, err
		}
	}
	now := time.Now()
	health, seen := c.health.get(now, workerName)
	switch {
	case task.DeletionTimestamp != nil && (worker == nil || worker.Spec.Denied || health == lost):
		if left := task.DeletionTimestamp.Sub(now); left > 0 {
			return task, decision{requeueAfter: left}, nil
		}
		return task, decision{action: remove}, nil
	case task.DeletionTimestamp != nil:
		return task, decision{}, nil
	case worker == nil:
		return task, decision{
			action: evict, reason: reasonWorkerLost, message: fmt.Sprintf("Worker %s does not exist any more.", workerName.Name),
			crashed: running(task) && !c.wasOutOfService(workerName),
		}, nil
	case worker.Spec.Denied:
		return task, decision{action: evict, reason: reasonWorkerDenied, message: fmt.Sprintf("Worker %s is denied (spec.denied).", workerName.Name)}, nil
	}
	return task, c.decideByTaints(now, task, worker, health, seen), nil
}

// decideByTaints evicts a task once it no longer tolerates a NoExecute taint of its worker. The unreachable taint
// counts only while the worker is lost, and not for FullDisruptionTimeout after the namespace has lost all workers.
func (c *Controller) decideByTaints(now time.Time, task *batch.Task, worker *batch.Worker, health workerHealth, seen observation) decision {
	var d decision
	for i := range worker.Spec.Taints {
		taint := &worker.Spec.Taints[i]
		if taint.Effect != batch.TaintEffectNoExecute || isUnreachable(taint) && health != lost {
			continue
		}
		tolerated, forever := tolerationOf(task, taint)
		if forever {
			continue
		}
		// A task that was bound despite the taint gets the whole toleration, too. Otherwise it would be bound and
		// evicted in turns.
		due := latest(c.taintedSince(worker, taint), boundSince(task)).Add(tolerated)
		reason := reasonTaint
		message := fmt.Sprintf("Worker %s has the taint %s, which the task does not tolerate", worker.Name, formatTaint(taint))
		crashed := false
		if isUnreachable(taint) {
			crashed = running(task) && !isOutOfService(worker)
			reason = reasonWorkerLost
			message = fmt.Sprintf("Worker %s has not renewed its lease for %s", worker.Name, seen.duration)
			if since, disrupted := c.health.disruptedSince(task.Namespace); disrupted {
				due = latest(due, since.Add(c.options.FullDisruptionTimeout))
			}
		}
		if tolerated > 0 {
			message += fmt.Sprintf(", and was tolerated for %s", tolerated)
		}
		left := due.Sub(now)
		if left <= 0 {
			return decision{action: evict, reason: reason, message: message + ".", crashed: crashed}
		}
		if d.requeueAfter == 0 || left < d.requeueAfter {
			d.requeueAfter = left
		}
	}
	return d
}

// running reports whether the command of a task was running when its worker last reported it.
func running(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }

// tolerationOf returns for how long a task tolerates a taint: the shortest tolerationSeconds of its matching
// tolerations, or forever if none of them has any.
func tolerationOf(task *batch.Task, taint *batch.Taint) (d time.Duration, forever bool) {
	limited := false
	for i := range task.Spec.Tolerations {
		t := &task.Spec.Tolerations[i]
		if !t.ToleratesTaint(taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			forever = forever || !limited
			continue
		}
		seconds := batch.Seconds(max(0, *t.TolerationSeconds))
		if !limited || seconds < d {
			d = seconds
		}
		limited, forever = true, false
	}
	return d, forever
}

// boundSince returns when a task was bound to its worker.
func boundSince(task *batch.Task) time.Time {
	if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// taint identifies a taint over updates of its worker.
type taint struct {
	key, value string
	effect     batch.TaintEffect
}

// formatTaint returns a taint as people write it, like key=value:NoExecute.
func formatTaint(t *batch.Taint) string {
	if t.Value == "" {
		return fmt.Sprintf("%s:%s", t.Key, t.Effect)
	}
	return fmt.Sprintf("%s=%s:%s", t.Key, t.Value, t.Effect)
}

// observeWorker records the fields of a worker that decide about its tasks. old is nil for a worker that was added.
func (c *Controller) observeWorker(old, worker *batch.Worker) {
	c.observeTaints(worker)
	name := cache.MetaObjectToName(worker)
	c.mu.Lock()
	if isOutOfService(worker) {
		c.outOfService[name] = struct{}{}
	} else {
		delete(c.outOfService, name)
	}
	c.mu.Unlock()
	if worker.Spec.Denied && (old == nil || !old.Spec.Denied) {
		c.enqueueTasksOf(name)
	}
}

// isOutOfService reports whether a worker is stopping or was cordoned or denied. If its commands end then, none of them
// is to blame.
func isOutOfService(worker *batch.Worker) bool {
	if worker.Spec.Unschedulable || worker.Spec.Denied {
		return true
	}
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	return ready != nil && slices.Contains([]string{reasonDraining, reasonStopped, reasonStopUnknown}, ready.Reason)
}

// wasOutOfService reports whether a deleted worker was out of service when last observed.
func (c *Controller) wasOutOfService(name cache.ObjectName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.outOfService[name]
	return ok
}

// pruneOutOfService forgets deleted workers that have no tasks left.
func (c *Controller) pruneOutOfService() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.outOfService {
		if c.worker(name) == nil && len(c.tasksOf(name)) == 0 {
			delete(c.outOfService, name)
		}
	}
}

// observeTaints records the NoExecute taints of a worker, and enqueues its tasks if there are new ones.
func (c *Controller) observeTaints(worker *batch.Worker) {
	name, now := cache.MetaObjectToName(worker), time.Now()
	c.mu.Lock()
	before, changed := c.taintsSeen[name], false
	after := map[taint]time.Time{}
	for _, t := range worker.Spec.Taints {
		if t.Effect != batch.TaintEffectNoExecute {
			continue
		}
		key := taint{t.Key, t.Value, t.Effect}
		since, known := before[key]
		if !known {
			since, changed = now, true
		}
		after[key] = since
	}
	if len(after) > 0 {
		c.taintsSeen[name] = after
	} else {
		delete(c.taintsSeen, name)
	}
	c.mu.Unlock()
	if changed {
		c.enqueueTasksOf(name)
	}
}

// forgetWorker handles the deletion of a worker: it forgets its taints and enqueues its tasks.
func (c *Controller) forgetWorker(name cache.ObjectName) {
	c.mu.Lock()
	delete(c.taintsSeen, name)
	c.mu.Unlock()
	c.enqueueTasksOf(name)
}

// taintedSince returns when the taint was added to the worker: its timeAdded or, without one, when it was first
// observed.
func (c *Controller) taintedSince(worker *batch.Worker, t *batch.Taint) time.Time {
	if t.TimeAdded != nil {
		return t.TimeAdded.Time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taintsSeen[cache.MetaObjectToName(worker)][taint{t.Key, t.Value, t.Effect}]
}
