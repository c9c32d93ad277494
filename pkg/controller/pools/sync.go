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
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

const (
	// minForbiddenRetry and maxForbiddenRetry bound the delay after the controller was not allowed to scale a pool.
	minForbiddenRetry, maxForbiddenRetry = time.Second, time.Minute
	// seenFor is how long the controller remembers what workers offer that are gone.
	seenFor = 10 * time.Minute
)

// poolMemory is what the controller remembers of a pool. All of it may be lost.
type poolMemory struct {
	uid types.UID
	// replicas is the number of replicas in the spec of that generation.
	generation int64
	replicas   int
	// written is the version of the StatefulSet on which the scale was written last. The informer is behind while it
	// shows that version.
	written string
	// writes are the versions of workers that the controller has written and the scheduler may not have seen, by name.
	// deletions are the workers that it has deleted.
	writes    map[string]string
	deletions sets.Set[types.UID]
	// uncertainUntil is until when a write may arrive whose outcome is not known. Until then, no worker is removed and no
	// cordon is undone.
	uncertainUntil time.Time
	// missing is the time since which each ordinal has no ready worker.
	missing map[int]time.Time

	// seen is what a worker of the pool was seen to offer at seenAt, when the annotation was seenWith.
	seen     *framework.WorkerState
	seenAt   time.Time
	seenWith string

	forbidden   backoff
	growth      backoff
	lastMessage string
}

// backoff is a delay that doubles.
type backoff struct {
	delay time.Duration
	until time.Time
}

// next starts the next delay.
func (b *backoff) next(now time.Time, least, most time.Duration) {
	b.delay = min(max(2*b.delay, least), most)
	b.until = now.Add(b.delay)
}

// managed is a pool that the controller scales, in one sync.
type managed struct {
	*view
	name   cache.ObjectName
	object *metav1.PartialObjectMetadata
	memory *poolMemory
	taints []batch.Taint
}

// errStale means that the informer is behind the server.
var errStale = errors.New("the informer is behind the server")

// sync scales the pools of a namespace.
func (c *Controller) sync(ctx context.Context, namespace string) (time.Duration, error) {
	memory := c.begin(namespace)
	if memory == nil {
		return 0, nil
	}
	objects, err := c.statefulSets(namespace)
	if err != nil {
		return 0, err
	}
	memory.prune(objects)
	if len(objects) == 0 {
		recordPools(namespace, nil)
		c.forget(namespace)
		return 0, nil
	}
	snapshot, known := c.options.Scheduler.Snapshot(namespace)
	if !known {
		return unsyncedRetry, nil
	}
	if err := c.limitSets(ctx, namespace, snapshot); err != nil {
		return 0, err
	}
	now := c.clock.Now()
	workers := byPool(snapshot)
	var pools []*managed
	var next time.Time
	reports := map[string]report{}
	for _, object := range objects {
		p, state, err := c.load(ctx, now, object, memory.pools[object.Name], workers[object.Name])
		switch {
		case errors.Is(err, errStale):
			return staleRetry, nil
		case err != nil:
			return 0, err
		case state == stateScaled:
			pools = append(pools, p)
		case state == stateForbidden:
			next = sooner(next, memory.pools[object.Name].forbidden.until)
		}
		reports[object.Name] = report{state: state}
	}
	decisions := decide(now, c.filters, views(pools), others(snapshot, pools), snapshot.Waiting)
	var errs []error
	for i, p := range pools {
		d := decisions[i]
		next = sooner(next, d.next)
		reports[p.name.Name] = newReport(&d, p.replicas)
		c.reportStuck(p, &d)
		at, err := c.apply(ctx, now, p, &d)
		next = sooner(next, at)
		if now.Before(p.memory.uncertainUntil) {
			next = sooner(next, p.memory.uncertainUntil)
		}
		errs = append(errs, err)
	}
	recordPools(namespace, reports)
	if next.IsZero() {
		return 0, errors.Join(errs...)
	}
	return max(time.Millisecond, next.Sub(now)), errors.Join(errs...)
}

// sooner returns the earlier time. Zero is no time.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// statefulSets returns the StatefulSets of a namespace with the label of pools, sorted by name.
func (c *Controller) statefulSets(namespace string) ([]*metav1.PartialObjectMetadata, error) {
	listed, err := c.informer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, err
	}
	objects := make([]*metav1.PartialObjectMetadata, 0, len(listed))
	for _, obj := range listed {
		objects = append(objects, obj.(*metav1.PartialObjectMetadata))
	}
	slices.SortFunc(objects, func(a, b *metav1.PartialObjectMetadata) int { return cmp.Compare(a.Name, b.Name) })
	return objects, nil
}

// prune forgets StatefulSets that are gone, and adds those that are new.
func (m *namespaceMemory) prune(objects []*metav1.PartialObjectMetadata) {
	pools := make(map[string]*poolMemory, len(objects))
	for _, object := range objects {
		memory := m.pools[object.Name]
		if memory == nil || memory.uid != object.UID {
			memory = &poolMemory{uid: object.UID, missing: map[int]time.Time{}, writes: map[string]string{}, deletions: sets.New[types.UID]()}
		}
		pools[object.Name] = memory
	}
	m.pools = pools
}

// byPool returns the workers of each pool by their ordinals.
func byPool(snapshot *framework.Snapshot) map[string]map[int]*framework.WorkerSnapshot {
	pools := map[string]map[int]*framework.WorkerSnapshot{}
	for i := range snapshot.Workers {
		w := &snapshot.Workers[i]
		ordinal, ok := framework.PoolOrdinal(w.Object)
		if !ok {
			continue
		}
		name := w.Object.Labels[batch.LabelPool]
		if pools[name] == nil {
			pools[name] = map[int]*framework.WorkerSnapshot{}
		}
		pools[name][ordinal] = w
	}
	return pools
}

// others returns the workers that belong to none of the pools.
func others(snapshot *framework.Snapshot, pools []*managed) []*framework.WorkerSnapshot {
	names := map[string]bool{}
	for _, p := range pools {
		names[p.name.Name] = true
	}
	var workers []*framework.WorkerSnapshot
	for i := range snapshot.Workers {
		w := &snapshot.Workers[i]
		if _, ok := framework.PoolOrdinal(w.Object); !ok || !names[w.Object.Labels[batch.LabelPool]] {
			workers = append(workers, w)
		}
	}
	return workers
}

func views(pools []*managed) []*view {
	all := make([]*view, len(pools))
	for i, p := range pools {
		all[i] = p.view
	}
	return all
}

// load reads a pool. Unless it returns stateScaled, the pool is not scaled.
func (c *Controller) load(
	ctx context.Context, now time.Time, object *metav1.PartialObjectMetadata, memory *poolMemory, workers map[int]*framework.WorkerSnapshot,
) (*managed, poolState, error) {
	if label := object.Labels[batch.LabelPool]; label != object.Name {
		c.warn(object, memory, reasonInvalid, fmt.Sprintf(
			"The label %s=%s must be the name of the StatefulSet, %s.", batch.LabelPool, label, object.Name))
		return nil, stateInvalid, nil
	}
	settings, err := pool.Parse(object)
	if err != nil {
		c.warn(object, memory, reasonInvalid, fmt.Sprintf("The settings of the pool are invalid: %v.", err))
		return nil, stateInvalid, nil
	}
	if memory.written == object.ResourceVersion || memory.isBehind(workers) {
		return nil, "", errStale
	}
	memory.written = ""
	if now.Before(memory.forbidden.until) {
		return nil, stateForbidden, nil
	}
	if memory.generation != object.Generation {
		err := c.readScale(ctx, object, memory)
		switch {
		case apierrors.IsForbidden(err):
			c.reportForbidden(now, object, memory)
			return nil, stateForbidden, nil
		case apierrors.IsNotFound(err):
			return nil, "", errStale
		case err != nil:
			return nil, "", err
		}
	}
	p := &managed{
		name: cache.MetaObjectToName(object), object: object, memory: memory, taints: settings.Worker.Taints,
		view: &view{
			min: int(settings.Min), max: int(settings.Max), idle: settings.Idle, replicas: memory.replicas, workers: workers,
			missing: memory.missing,
		},
	}
	memory.observeWorkers(now, object, p.view)
	p.offer = newOffer(object.Name, &settings.Worker, memory.seen)
	if manager, foreign := pool.ScaledBy(object); foreign {
		c.warn(object, memory, reasonForeign, fmt.Sprintf(
			"%q scales the StatefulSet, so Leat does not. To let Leat scale it again, run: %s", manager, pool.ResumeCommand(object)))
		return p, stateForeign, errors.Join(c.removeWorkers(ctx, now, p), c.uncordon(ctx, now, p, p.replicas))
	}
	return p, stateScaled, nil
}

// readScale reads how many replicas a StatefulSet is to have. Metadata does not have the number.
func (c *Controller) readScale(ctx context.Context, object *metav1.PartialObjectMetadata, memory *poolMemory) error {
	scale, err := c.api.getScale(ctx, cache.MetaObjectToName(object))
	if err != nil {
		return err
	}
	if scale.UID != object.UID || scale.ResourceVersion != object.ResourceVersion {
		return errStale
	}
	memory.generation, memory.replicas = object.Generation, int(scale.Spec.Replicas)
	return nil
}

// observeWorkers records which ordinals have no ready worker, and what the ready worker of the highest ordinal offers:
// an update of the StatefulSet replaces that one first.
func (m *poolMemory) observeWorkers(now time.Time, object *metav1.PartialObjectMetadata, v *view) {
	for ordinal := range m.missing {
		if ordinal >= v.replicas {
			delete(m.missing, ordinal)
		}
	}
	annotation := object.Annotations[pool.AnnotationWorker]
	if now.Sub(m.seenAt) > seenFor || annotation != m.seenWith {
		m.seen = nil
	}
	for ordinal := range v.replicas {
		w := v.workers[ordinal]
		if w == nil || !w.Ready {
			if _, known := m.missing[ordinal]; !known {
				m.missing[ordinal] = now
			}
			continue
		}
		delete(m.missing, ordinal)
		seen := w.WorkerState
		// A worker that is short of memory offers fewer tasks for a while.
		seen.Allocatable = framework.NewResources(w.Object.Status.Capacity)
		m.seen, m.seenAt, m.seenWith = &seen, now, annotation
	}
}

// forget forgets a namespace that has no pools.
func (c *Controller) forget(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if memory := c.namespaces[namespace]; memory != nil && memory.statefulSets == 0 {
		delete(c.namespaces, namespace)
	}
}
