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

// Package taskset implements the TaskSet controller. It creates a task for each index of a set, counts the tasks that
// finish and deletes those it has counted. It is an ordinary API client and may be killed at any instruction.
package taskset

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

var kind = batch.SchemeGroupVersion.WithKind("TaskSet")

const (
	// maxRequestsInFlight is how many requests that create or delete tasks the controller sends at a time, over all
	// sets.
	maxRequestsInFlight = 32
	// maxCreatesPerSync and maxDeletesPerSync bound the tasks that one sync creates and deletes, so that tasks that
	// have finished meanwhile are counted soon. Deletions must outpace creations, or finished tasks pile up.
	maxCreatesPerSync, maxDeletesPerSync = 64, 128
	// statusWriteInterval is the minimum time between two writes of a set's status, unless a condition changes.
	statusWriteInterval = time.Second
	// staleAfter is how long the known state of a set may be acted on without reading the set again. A process that was
	// paused for longer may have lost the leader election. It must be shorter than the leader's lease.
	staleAfter = 3 * time.Second
	// failureBackoffBase and failureBackoffMax are the exponentialBackoff after failed tasks, those of Job.
	failureBackoffBase, failureBackoffMax = 10 * time.Second, 10 * time.Minute
	// createBackoffBase and createBackoffMax are the exponentialBackoff after tasks could not be created.
	createBackoffBase, createBackoffMax = 500 * time.Millisecond, 15 * time.Second
)

// Options configures a Controller.
type Options struct {
	// Client sends all writes, and the reads that must be current. It should have no rate limit and must not retry
	// requests that are answered with 429: the controller backs off by itself.
	Client versioned.Interface
	// Recorder records an Event for each transition of a set. If it is nil, no Events are recorded.
	Recorder events.EventRecorder
	// CollectGarbage makes the controller act as the garbage collector for task sets, for servers that have none: it
	// deletes the tasks of deleted sets, and processes foreground deletion and orphaning.
	CollectGarbage bool
}

// Controller reconciles all task sets. Informers of sets and tasks call ObserveSet and ObserveTask, which return the
// names of the sets to reconcile. Reconcile may run concurrently for different names, but not for the same name.
type Controller struct {
	client         versioned.Interface
	recorder       events.EventRecorder
	collectGarbage bool
	clock          clock.PassiveClock
	store          *state.Store
	workers        workers
	slots          chan struct{}
}

// New returns a Controller.
func New(options Options) *Controller {
	return &Controller{
		client:         options.Client,
		recorder:       options.Recorder,
		collectGarbage: options.CollectGarbage,
		clock:          clock.RealClock{},
		store: state.NewStore(
			state.ExponentialBackoff{Base: failureBackoffBase, Max: failureBackoffMax},
			func(d time.Duration) { startDuration.Observe(d.Seconds()) }),
		slots: make(chan struct{}, maxRequestsInFlight),
	}
}

// ObserveSet records a set that was added, updated or deleted. It returns the names to reconcile: that of the set, and
// those of the sets that depend on what has changed in it.
func (c *Controller) ObserveSet(set *batch.TaskSet, deleted bool) []types.NamespacedName {
	key := types.NamespacedName{Namespace: set.Namespace, Name: set.Name}
	return append(c.store.ObserveSet(key, set, deleted), key)
}

// ObserveTask records a task that was added (old is nil), updated, or deleted (task is nil), and returns the names of
// the sets to reconcile. The events of one task must arrive in order. Of the spec, the controller reads only
// workerName, queueName, priority and indexes.
func (c *Controller) ObserveTask(old, task *batch.Task) []types.NamespacedName {
	var keys []types.NamespacedName
	var owner types.UID
	if task != nil {
		if key, uid, ok := state.OwnerOf(task); ok {
			c.store.ObserveTask(key, uid, task.UID, task, c.clock.Now())
			keys, owner = append(keys, key), uid
		}
	}
	if old != nil {
		if key, uid, ok := state.OwnerOf(old); ok && uid != owner {
			c.store.ObserveTask(key, uid, old.UID, nil, c.clock.Now())
			keys = append(keys, key)
		}
	}
	return keys
}

// ObserveWorker records a worker that was added, updated or deleted.
func (c *Controller) ObserveWorker(worker *batch.Worker, deleted bool) {
	c.workers.observe(worker, deleted)
}

// Reconcile syncs the sets of that name. It returns the time after which to reconcile again even if nothing changes,
// zero for never. After an error the caller should retry with backoff.
func (c *Controller) Reconcile(ctx context.Context, key types.NamespacedName) (requeueAfter time.Duration, err error) {
	set, current, former := c.store.Take(key)
	var errs []error
	if c.collectGarbage {
		for _, f := range former {
			errs = append(errs, c.deleteDependents(ctx, key, f))
		}
	}
	var requeueAt time.Time
	if set != nil {
		requeueAt, err = c.syncTaskSet(ctx, set, current)
		errs = append(errs, err)
	}
	if requeueAt.IsZero() {
		return 0, errors.Join(errs...)
	}
	return max(requeueAt.Sub(c.clock.Now()), time.Millisecond), errors.Join(errs...)
}

// syncTaskSet syncs one set and returns when to sync it again even if nothing changes, zero for never.
func (c *Controller) syncTaskSet(ctx context.Context, set *batch.TaskSet, state *state.TaskSet) (requeueAt time.Time, err error) {
	set = newest(&state.Sync, set)
	if set.DeletionTimestamp != nil {
		if !c.collectGarbage {
			return time.Time{}, nil
		}
		return c.finalize(ctx, set, state)
	}
	// After a failure, the next sync starts from the set as the server has it.
	succeeded := false
	defer func() {
		if !succeeded {
			state.Invalidate()
			state.Sync.Set = nil
		}
	}()
	if c.isStale(state.Sync.SyncedAt) {
		state.Sync.Set = nil
	}
	defer func() { state.Sync.SyncedAt = c.clock.Now() }()
	if state.Sync.Set == nil {
		// The observed set may be older than the status for which a former leader, or a lost request, has deleted
		// tasks.
		set, err = c.client.BatchV1alpha1().TaskSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (set.UID != state.UID || set.DeletionTimestamp != nil) {
			return time.Time{}, nil // An event will show the change.
		}
		if err != nil {
			return time.Time{}, err
		}
		state.Invalidate()
	}
	if !state.IsLoadedFor(set) {
		if err := state.Load(set); err != nil {
			return time.Time{}, err
		}
	}
	state.Sync.Set = set
	s := &syncContext{Controller: c, state: state, set: set, now: c.clock.Now()}
	err = s.sync(ctx)
	if apierrors.IsConflict(err) {
		klog.FromContext(ctx).V(4).Info("Task set has changed, will sync again", "taskset", klog.KObj(set), "err", err)
		return s.now, nil
	}
	succeeded = err == nil
	return s.requeue, err
}

// isStale reports whether state from that time must not be acted on.
func (c *Controller) isStale(at time.Time) bool { return c.clock.Since(at) > staleAfter }

// newest returns the newer of the observed set and the known one. If another client has written the counts of the
// status, the known set is discarded.
func newest(sync *state.SyncRecord, observed *batch.TaskSet) *batch.TaskSet {
	if sync.Set == nil {
		return observed
	}
	order, err := resourceversion.CompareResourceVersion(observed.ResourceVersion, sync.Set.ResourceVersion)
	if err == nil && order <= 0 {
		return sync.Set
	}
	if !equalCounts(&observed.Status, &sync.Set.Status) {
		sync.Set = nil
	}
	return observed
}

// equalCounts reports whether two statuses have the same counts, conditions and dependencies.
func equalCounts(a, b *batch.TaskSetStatus) bool {
	return a.Failed == b.Failed && equalDependencies(a, b) && a.CompletedIndexes == b.CompletedIndexes && a.IndexFailures == b.IndexFailures &&
		(a.FailedIndexes == nil) == (b.FailedIndexes == nil) && (a.FailedIndexes == nil || *a.FailedIndexes == *b.FailedIndexes) &&
		conditionSummary(a) == conditionSummary(b)
}

func isConditionTrue(set *batch.TaskSet, condition string) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, condition)
}

// parallelize calls f for 0 to n-1, concurrently within maxRequestsInFlight, until ctx is done.
func (c *Controller) parallelize(ctx context.Context, n int, f func(i int)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range n {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-c.slots }()
			f(i)
		})
	}
}
