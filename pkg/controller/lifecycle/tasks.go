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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// reasonWorkerLost is the reason of evictions from workers that are unreachable or gone.
	reasonWorkerLost = "WorkerLost"
	// reasonWorkerDenied is the reason of evictions from workers that are denied.
	reasonWorkerDenied = "WorkerDenied"
	// reasonTaint is the reason of evictions by other NoExecute taints.
	reasonTaint = "TaintEviction"

	// informerDelay is when a task is looked at again whose worker exists and is not shown by the informer yet.
	informerDelay = time.Second
)

// fate is what is to be done with a task.
type fate struct {
	action action
	// after is when the fate is to be asked for again; zero for when something changes.
	after           time.Duration
	reason, message string
	// crashed is whether the command ran when its worker was lost.
	crashed bool
}

type action int

const (
	keep action = iota
	evict
	remove
)

// seeToTask takes a task from a worker that it must not wait for.
func (c *Controller) seeToTask(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	task, f, err := c.fateOf(ctx, name)
	if err != nil || f.action == keep {
		return f.after, err
	}
	if f.action == evict {
		if err := c.evictions.Wait(ctx); err != nil {
			return 0, err
		}
		// The worker may have returned while others were evicted.
		if task, f, err = c.fateOf(ctx, name); err != nil || f.action == keep {
			return f.after, err
		}
	}
	tasks := c.client.BatchV1alpha1().Tasks(name.Namespace)
	logger := klog.FromContext(ctx)
	_, err = bounded(ctx, func(ctx context.Context) (any, error) {
		if f.action == remove {
			logger.Info("A task is removed that its worker cannot end", "task", name, "worker", task.Spec.WorkerName)
			return nil, tasks.Delete(ctx, name.Name, metav1.DeleteOptions{
				GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &task.UID},
			})
		}
		logger.Info("A task is evicted", "task", name, "worker", task.Spec.WorkerName, "reason", f.reason)
		return tasks.Evict(ctx, name.Name, &batch.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
			Reason:     f.reason,
			Message:    f.message,
			// The server counts it, and makes the task fail that has reached its limit.
			WorkerCrashed: f.crashed,
			// The task as it was judged. Of two that evict, one does.
			Preconditions: &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion},
		}, metav1.CreateOptions{})
	})
	if err == nil {
		switch f.action {
		case evict:
			taskEvictions.WithLabelValues(f.reason).Inc()
		case remove:
			taskDeletions.WithLabelValues(deletionWorkerLost).Inc()
		}
	}
	return 0, ignoreNotFound(err)
}

// fateOf gives a task as the informer shows it, nil if it shows none, and its fate.
func (c *Controller) fateOf(ctx context.Context, name cache.ObjectName) (*batch.Task, fate, error) {
	obj, ok, err := c.tasks.GetTypedIndexer().GetByKey(name.String())
	if err != nil || !ok {
		return nil, fate{}, err
	}
	task := obj.(*batch.Task)
	if s := task.DeletionGracePeriodSeconds; s != nil && *s == 0 {
		return task, fate{}, nil // it waits for somebody else's finalizer
	}
	workerName := workerOf(task)
	worker := c.worker(workerName)
	if worker == nil {
		if registered, err := c.registered(ctx, workerName); err != nil || registered {
			return task, fate{after: informerDelay}, err
		}
	}
	now := time.Now()
	v, seen := c.health.verdict(now, workerName)
	switch {
	case task.DeletionTimestamp != nil && (worker == nil || worker.Spec.Denied || v == lost):
		if left := task.DeletionTimestamp.Sub(now); left > 0 {
			return task, fate{after: left}, nil
		}
		return task, fate{action: remove}, nil
	case task.DeletionTimestamp != nil:
		return task, fate{}, nil
	case worker == nil:
		return task, fate{
			action: evict, reason: reasonWorkerLost, message: fmt.Sprintf("Worker %s does not exist any more.", workerName.Name),
			crashed: running(task) && !c.wasLeaving(workerName),
		}, nil
	case worker.Spec.Denied:
		return task, fate{action: evict, reason: reasonWorkerDenied, message: fmt.Sprintf("Worker %s is denied (spec.denied).", workerName.Name)}, nil
	}
	return task, c.fateByTaints(now, task, worker, v, seen), nil
}

// fateByTaints evicts a task when a NoExecute taint of its worker is not tolerated any longer. A taint that the task does not
// tolerate counts at once. That the worker is unreachable counts only while it is seen to be lost, whatever the taint says, and
// not as long as the whole namespace is silent.
func (c *Controller) fateByTaints(now time.Time, task *batch.Task, worker *batch.Worker, v verdict, seen observation) fate {
	var f fate
	for i := range worker.Spec.Taints {
		taint := &worker.Spec.Taints[i]
		if taint.Effect != batch.TaintEffectNoExecute || isUnreachable(taint) && v != lost {
			continue
		}
		seconds, ever := toleration(task, taint)
		if ever {
			continue
		}
		// A task that was bound in spite of the taint is given the whole time, too: else it would go round and round.
		due := later(c.taintedSince(worker, taint), boundSince(task)).Add(seconds)
		reason := reasonTaint
		message := fmt.Sprintf("Worker %s has the taint %s, which the task does not tolerate", worker.Name, taintText(taint))
		crashed := false
		if isUnreachable(taint) {
			crashed = running(task) && !leaving(worker)
			reason = reasonWorkerLost
			message = fmt.Sprintf("Worker %s has not renewed its lease for %s", worker.Name, seen.duration)
			if since, silent := c.health.silentSince(task.Namespace); silent {
				due = later(due, since.Add(c.options.SilenceTimeout))
			}
		}
		if seconds > 0 {
			message += fmt.Sprintf(", and was tolerated for %s", seconds)
		}
		left := due.Sub(now)
		if left <= 0 {
			return fate{action: evict, reason: reason, message: message + ".", crashed: crashed}
		}
		if f.after == 0 || left < f.after {
			f.after = left
		}
	}
	return f
}

// running reports whether the command of a task has been started and has not ended, as its worker last said.
func running(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }

// toleration is for how long a task tolerates a taint: the shortest time of its tolerations that match and have one.
func toleration(task *batch.Task, taint *batch.Taint) (d time.Duration, ever bool) {
	limited := false
	for i := range task.Spec.Tolerations {
		t := &task.Spec.Tolerations[i]
		if !t.ToleratesTaint(taint) {
			continue
		}
		if t.TolerationSeconds == nil {
			ever = ever || !limited
			continue
		}
		seconds := batch.Seconds(max(0, *t.TolerationSeconds))
		if !limited || seconds < d {
			d = seconds
		}
		limited, ever = true, false
	}
	return d, ever
}

// boundSince is when a task was bound to its worker.
func boundSince(task *batch.Task) time.Time {
	if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// taint is what makes a taint the same at two looks.
type taint struct {
	key, value string
	effect     batch.TaintEffect
}

func taintText(t *batch.Taint) string {
	if t.Value == "" {
		return fmt.Sprintf("%s:%s", t.Key, t.Effect)
	}
	return fmt.Sprintf("%s=%s:%s", t.Key, t.Value, t.Effect)
}

// noteWorker takes in what decides over the tasks of a worker. old is nil for one that is new.
func (c *Controller) noteWorker(old, worker *batch.Worker) {
	c.noteTaints(worker)
	name := cache.MetaObjectToName(worker)
	c.mu.Lock()
	if leaving(worker) {
		c.leaving[name] = struct{}{}
	} else {
		delete(c.leaving, name)
	}
	c.mu.Unlock()
	if worker.Spec.Denied && (old == nil || !old.Spec.Denied) {
		c.seeToTasksOf(name)
	}
}

// leaving reports whether a worker stops, or somebody takes it out of service: what ends its commands then is not the fault of any of
// them.
func leaving(worker *batch.Worker) bool {
	if worker.Spec.Unschedulable || worker.Spec.Denied {
		return true
	}
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	return ready != nil && slices.Contains([]string{reasonDraining, reasonStopped, reasonStopUnknown}, ready.Reason)
}

// wasLeaving reports whether a worker that does not exist any more was leaving when it was seen last.
func (c *Controller) wasLeaving(name cache.ObjectName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.leaving[name]
	return ok
}

// forgetLeaving forgets workers that do not exist any more and have no tasks that it would matter to.
func (c *Controller) forgetLeaving() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.leaving {
		if c.worker(name) == nil && len(c.tasksOf(name)) == 0 {
			delete(c.leaving, name)
		}
	}
}

// noteTaints takes in the taints of a worker. When there are others than before its tasks are seen to.
func (c *Controller) noteTaints(worker *batch.Worker) {
	name, now := cache.MetaObjectToName(worker), time.Now()
	c.mu.Lock()
	before, changed := c.tainted[name], false
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
		c.tainted[name] = after
	} else {
		delete(c.tainted, name)
	}
	c.mu.Unlock()
	if changed {
		c.seeToTasksOf(name)
	}
}

func (c *Controller) forgetTaints(name cache.ObjectName) {
	c.mu.Lock()
	delete(c.tainted, name)
	c.mu.Unlock()
	c.seeToTasksOf(name)
}

// taintedSince is when the worker got the taint: as the taint says, or when it was first seen.
func (c *Controller) taintedSince(worker *batch.Worker, t *batch.Taint) time.Time {
	if t.TimeAdded != nil {
		return t.TimeAdded.Time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tainted[cache.MetaObjectToName(worker)][taint{t.Key, t.Value, t.Effect}]
}
