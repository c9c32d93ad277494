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

package pools

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

const (
	// concurrentRequests is how many requests for workers of a pool are in flight at a time.
	concurrentRequests = 8
	// uncertainty is how long a write of the scale may still arrive after it has failed: longer than a server works on a
	// request.
	uncertainty = 90 * time.Second
	// drainRetry is the delay until the workers to be removed are looked at again. An event usually comes first.
	drainRetry = time.Second
	// minGrowthRetry and maxGrowthRetry bound the delay between two further workers of a pool that has workers which
	// do not register.
	minGrowthRetry, maxGrowthRetry = stuckAfter, 30 * time.Minute
)

// apply brings a pool closer to what was decided. It returns when to go on without an event, zero if there is no such
// time.
//
//	Ordinal                      Worker                    Action
//	below keep                   cordoned by us            undo the cordon; delete it if it has never registered
//	from keep to replicas        in service                cordon it
//	from keep to replicas        none                      create one that is cordoned
//	from target to replicas      all cordoned and drained  write the replicas; also once for a new pool
//	from replicas on             cordoned by us, stopped   delete it
func (c *Controller) apply(ctx context.Context, now time.Time, p *managed, d *decision) (time.Time, error) {
	if err := c.removeWorkers(ctx, now, p); err != nil {
		return time.Time{}, err
	}
	if err := c.uncordon(ctx, now, p, min(d.keep, p.replicas)); err != nil {
		return time.Time{}, err
	}
	switch {
	case d.target > p.replicas:
		return c.scaleOut(ctx, now, p, d)
	case d.keep < p.replicas:
		return c.scaleIn(ctx, now, p, d)
	case !pool.IsClaimed(p.object) && p.replicas >= p.min:
		// Otherwise, ScaledBy would not notice all writes of others.
		return c.writeScale(ctx, now, p, p.replicas)
	}
	return time.Time{}, nil
}

// scaleOut adds workers. It waits while a worker of an ordinal that it would add is being removed. A pool that has
// workers which do not register gets only one more, after a delay that grows.
func (c *Controller) scaleOut(ctx context.Context, now time.Time, p *managed, d *decision) (time.Time, error) {
	target := d.target
	for ordinal := range p.workers {
		if ordinal >= p.replicas && isCordonedByPool(p.workers[ordinal]) {
			target = min(target, ordinal)
		}
	}
	growth := &p.memory.growth
	switch {
	case d.stuck == 0 || d.target <= p.min:
		*growth = backoff{}
	case now.Before(growth.until):
		return growth.until, nil
	default:
		target = min(target, p.replicas+1)
	}
	if target <= p.replicas {
		return time.Time{}, nil // The deletion of the Worker is an event.
	}
	if d.stuck > 0 {
		growth.next(now, minGrowthRetry, maxGrowthRetry)
	}
	return c.writeScale(ctx, now, p, target)
}

// scaleIn removes workers of the highest ordinals, as many as are drained. The others are cordoned and remain until
// they are.
func (c *Controller) scaleIn(ctx context.Context, now time.Time, p *managed, d *decision) (time.Time, error) {
	if now.Before(p.memory.uncertainUntil) {
		return p.memory.uncertainUntil, nil
	}
	written, err := c.cordon(ctx, now, p, d.keep)
	if written || err != nil {
		return now.Add(drainRetry), err
	}
	target := p.replicas
	for target > d.target && isDrained(p.workers[target-1], now) {
		target--
	}
	target, err = c.confirmDrained(ctx, p, target)
	if err != nil || target == p.replicas || target > p.max {
		return now.Add(drainRetry), err
	}
	return c.writeScale(ctx, now, p, target)
}

// isDrained reports whether the scheduler has seen our cordon of a worker, has no task for it, bound or about to be,
// and so will not have one. The server may have stored a binding that the scheduler does not know.
func isDrained(w *framework.WorkerSnapshot, now time.Time) bool {
	return w != nil && isCordonedByPool(w) && w.Tasks == 0 && !w.Denied && !now.Before(w.UncertainUntil)
}

// confirmDrained asks the server whether the workers from target on have tasks. It returns the lowest number of
// replicas that removes none with tasks.
func (c *Controller) confirmDrained(ctx context.Context, p *managed, target int) (int, error) {
	busy, errs := make([]bool, p.replicas-target), make([]error, p.replicas-target)
	parallelize(len(busy), func(i int) { busy[i], errs[i] = c.api.hasTasks(ctx, p.worker(target+i)) })
	return target + 1 + lastIndex(busy), errors.Join(errs...)
}

// lastIndex returns the index of the last true value, -1 if there is none.
func lastIndex(values []bool) int {
	for i, value := range slices.Backward(values) {
		if value {
			return i
		}
	}
	return -1
}

// writeScale writes the number of replicas, on the version of the StatefulSet for which ScaledBy was asked. It returns
// when to try again if it is not allowed to.
func (c *Controller) writeScale(ctx context.Context, now time.Time, p *managed, replicas int) (time.Time, error) {
	err := c.api.applyScale(ctx, p.object, int32(replicas))
	switch {
	case err == nil:
		p.memory.written, p.memory.forbidden = p.object.ResourceVersion, backoff{}
		if replicas != p.replicas {
			c.reportScaled(ctx, p, replicas)
		}
	case apierrors.IsForbidden(err):
		c.reportForbidden(now, p.object, p.memory)
		return p.memory.forbidden.until, nil
	default:
		p.memory.observeError(now, err)
	}
	return time.Time{}, err
}

// observeError records that a write may still arrive, unless the server has refused it.
func (m *poolMemory) observeError(now time.Time, err error) {
	switch {
	case err == nil, apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsForbidden(err),
		apierrors.IsAlreadyExists(err), apierrors.IsTooManyRequests(err):
	default:
		m.uncertainUntil = now.Add(uncertainty)
	}
}

// cordon cordons the workers from keep on, except those that a person has cordoned. It reports whether it has written
// any.
func (c *Controller) cordon(ctx context.Context, now time.Time, p *managed, keep int) (written bool, err error) {
	var toWrite []*batch.Worker
	for ordinal := keep; ordinal < p.replicas; ordinal++ {
		w := p.workers[ordinal]
		switch {
		case w == nil:
			toWrite = append(toWrite, p.newCordonedWorker(ordinal, now))
		case !w.Unschedulable && !w.Denied:
			worker := w.Object.DeepCopy()
			worker.Spec.Unschedulable = true
			markCordoned(worker, now)
			toWrite = append(toWrite, worker)
		}
	}
	return len(toWrite) > 0, c.writeWorkers(ctx, now, p, toWrite)
}

// newCordonedWorker returns the Worker for a process that may register at any time, and must not get tasks.
func (p *managed) newCordonedWorker(ordinal int, now time.Time) *batch.Worker {
	name := p.worker(ordinal)
	worker := &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Labels: map[string]string{batch.LabelPool: p.name.Name}},
		Spec:       batch.WorkerSpec{Unschedulable: true, Taints: p.taints},
	}
	markCordoned(worker, now)
	return worker
}

func markCordoned(worker *batch.Worker, now time.Time) {
	metav1.SetMetaDataAnnotation(&worker.ObjectMeta, pool.AnnotationCordoned, now.UTC().Format(time.RFC3339))
}

// uncordon undoes our cordons of the workers below keep. None of them was ever to be removed, unless a write of the
// scale may still arrive.
func (c *Controller) uncordon(ctx context.Context, now time.Time, p *managed, keep int) error {
	if now.Before(p.memory.uncertainUntil) {
		return nil
	}
	var toWrite, toDelete []*batch.Worker
	for ordinal, w := range p.workers {
		switch {
		case ordinal >= keep || w.Object.Annotations[pool.AnnotationCordoned] == "":
		case w.Object.Status.Incarnation == "":
			toDelete = append(toDelete, w.Object)
		default:
			worker := w.Object.DeepCopy()
			worker.Spec.Unschedulable = false
			delete(worker.Annotations, pool.AnnotationCordoned)
			toWrite = append(toWrite, worker)
		}
	}
	return errors.Join(c.writeWorkers(ctx, now, p, toWrite), c.deleteWorkers(ctx, now, p, toDelete))
}

// writeWorkers creates workers without a UID and updates the others.
func (c *Controller) writeWorkers(ctx context.Context, now time.Time, p *managed, workers []*batch.Worker) error {
	stored, errs := make([]*batch.Worker, len(workers)), make([]error, len(workers))
	parallelize(len(workers), func(i int) {
		if workers[i].UID == "" {
			stored[i], errs[i] = c.api.createWorker(ctx, workers[i])
		} else {
			stored[i], errs[i] = c.api.updateWorker(ctx, workers[i])
		}
	})
	for i, err := range errs {
		p.memory.observeError(now, err)
		switch {
		case err == nil:
			p.memory.writes[stored[i].Name] = stored[i].ResourceVersion
		case workers[i].UID == "" && apierrors.IsAlreadyExists(err):
			errs[i] = nil // It has registered, or the scheduler has not seen that it was created.
		}
	}
	return errors.Join(errs...)
}

// deleteWorkers deletes these versions of workers.
func (c *Controller) deleteWorkers(ctx context.Context, now time.Time, p *managed, workers []*batch.Worker) error {
	errs := make([]error, len(workers))
	parallelize(len(workers), func(i int) { errs[i] = c.api.deleteWorker(ctx, workers[i]) })
	for i, err := range errs {
		p.memory.observeError(now, err)
		if apierrors.IsNotFound(err) {
			errs[i] = nil
		}
		if errs[i] == nil {
			p.memory.deletions.Insert(workers[i].UID)
		}
	}
	return errors.Join(errs...)
}

// isBehind reports whether the scheduler has not seen what the controller has written to a worker of the pool.
func (m *poolMemory) isBehind(workers map[int]*framework.WorkerSnapshot) bool {
	behind := false
	deletions := sets.New[types.UID]()
	for _, w := range workers {
		if m.deletions.Has(w.Object.UID) {
			deletions.Insert(w.Object.UID)
			behind = true
		}
		version, written := m.writes[w.Name]
		if !written {
			continue
		}
		if order, err := resourceversion.CompareResourceVersion(w.Object.ResourceVersion, version); err == nil && order < 0 {
			behind = true
		} else {
			delete(m.writes, w.Name)
		}
	}
	m.deletions = deletions
	return behind
}

// removeWorkers deletes the Workers of processes that were removed and have stopped.
func (c *Controller) removeWorkers(ctx context.Context, now time.Time, p *managed) error {
	var toDelete, neverRegistered []*batch.Worker
	for ordinal, w := range p.workers {
		switch {
		case ordinal < p.replicas || !isCordonedByPool(w):
		case w.Object.Status.Incarnation == "":
			neverRegistered = append(neverRegistered, w.Object)
		case hasStopped(w.Object):
			toDelete = append(toDelete, w.Object)
		}
	}
	if len(neverRegistered) > 0 {
		// A pod that still exists may register. The number of pods comes with an event of the StatefulSet.
		scale, err := c.api.getScale(ctx, p.name)
		if err != nil {
			return err
		}
		if scale.Status.Replicas <= scale.Spec.Replicas {
			toDelete = append(toDelete, neverRegistered...)
		}
	}
	return c.deleteWorkers(ctx, now, p, toDelete)
}

// reasonStopped is the reason of Ready=False of a worker whose process has ended.
const reasonStopped = "Stopped"

// hasStopped reports whether the process of a worker has ended, or is lost.
func hasStopped(worker *batch.Worker) bool {
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	return ready != nil && (ready.Status == metav1.ConditionUnknown || ready.Status == metav1.ConditionFalse && ready.Reason == reasonStopped)
}

// worker returns the name of the worker of an ordinal.
func (p *managed) worker(ordinal int) cache.ObjectName {
	return cache.ObjectName{Namespace: p.name.Namespace, Name: pool.WorkerName(p.name.Name, ordinal)}
}

// parallelize calls f for 0 to n-1, some at a time, and waits for all.
func parallelize(n int, f func(i int)) {
	slots := make(chan struct{}, concurrentRequests)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}
