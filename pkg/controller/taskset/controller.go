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
	tracker        tracker
	slots          chan struct{}
}

// New returns a Controller.
func New(options Options) *Controller {
	return &Controller{
		client:         options.Client,
		recorder:       options.Recorder,
		collectGarbage: options.CollectGarbage,
		clock:          clock.RealClock{},
		tracker:        tracker{backoff: exponentialBackoff{failureBackoffBase, failureBackoffMax}, families: map[types.NamespacedName]*family{}},
		slots:          make(chan struct{}, maxRequestsInFlight),
	}
}

// ObserveSet records a set that was added, updated or deleted, and returns the name to reconcile.
func (c *Controller) ObserveSet(set *batch.TaskSet, deleted bool) types.NamespacedName {
	key := types.NamespacedName{Namespace: set.Namespace, Name: set.Name}
	if deleted {
		set = nil
	}
	c.tracker.setChanged(key, set)
	return key
}

// ObserveTask records a task that was added (old is nil), updated, or deleted (task is nil), and returns the names of
// the sets to reconcile. The events of one task must arrive in order. Of the spec, the controller reads only
// workerName, queueName and priority.
func (c *Controller) ObserveTask(old, task *batch.Task) []types.NamespacedName {
	var keys []types.NamespacedName
	var owner types.UID
	if task != nil {
		if key, uid, ok := taskSetOf(task); ok {
			c.tracker.taskChanged(key, uid, change{task.UID, task, c.clock.Now()})
			keys, owner = append(keys, key), uid
		}
	}
	if old != nil {
		if key, uid, ok := taskSetOf(old); ok && uid != owner {
			c.tracker.taskChanged(key, uid, change{old.UID, nil, c.clock.Now()})
			keys = append(keys, key)
		}
	}
	return keys
}

// Reconcile syncs the sets of that name. It returns the time after which to reconcile again even if nothing changes,
// zero for never. After an error the caller should retry with backoff.
func (c *Controller) Reconcile(ctx context.Context, key types.NamespacedName) (requeueAfter time.Duration, err error) {
	set, r, former := c.tracker.take(key)
	var errs []error
	if c.collectGarbage {
		for _, f := range former {
			errs = append(errs, c.deleteDependents(ctx, key, f))
		}
	}
	var requeueAt time.Time
	if set != nil {
		requeueAt, err = c.syncTaskSet(ctx, set, r)
		errs = append(errs, err)
	}
	if requeueAt.IsZero() {
		return 0, errors.Join(errs...)
	}
	return max(requeueAt.Sub(c.clock.Now()), time.Millisecond), errors.Join(errs...)
}

// syncTaskSet syncs one set and returns when to sync it again even if nothing changes, zero for never.
func (c *Controller) syncTaskSet(ctx context.Context, set *batch.TaskSet, r *record) (requeueAt time.Time, err error) {
	set = r.progress.newest(set)
	if set.DeletionTimestamp != nil {
		if !c.collectGarbage {
			return time.Time{}, nil
		}
		return c.finalize(ctx, set, r)
	}
	// After a failure, the next sync starts from the set as the server has it.
	succeeded := false
	defer func() {
		if !succeeded {
			r.ledger.loaded, r.progress.set = false, nil
		}
	}()
	if c.isStale(r.progress.syncedAt) {
		r.progress.set = nil
	}
	defer func() { r.progress.syncedAt = c.clock.Now() }()
	if r.progress.set == nil {
		// The observed set may be older than the status for which a former leader, or a lost request, has deleted
		// tasks.
		set, err = c.client.BatchV1alpha1().TaskSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (set.UID != r.uid || set.DeletionTimestamp != nil) {
			return time.Time{}, nil // An event will show the change.
		}
		if err != nil {
			return time.Time{}, err
		}
		r.ledger.loaded = false
	}
	if !r.ledger.matches(set) {
		if err := r.ledger.load(set); err != nil {
			return time.Time{}, err
		}
	}
	r.progress.set = set
	s := &syncContext{Controller: c, record: r, set: set, now: c.clock.Now()}
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

// progress is what one sync of a set keeps for the next.
type progress struct {
	// set is the set as last read or written, nil if unknown.
	set *batch.TaskSet
	// syncedAt is when the last sync ended.
	syncedAt time.Time
	// statusWrittenAt is when the status was last written.
	statusWrittenAt time.Time
	// createBatch is how many tasks are created at a time. It grows while creations succeed.
	createBatch int
	// createFailures counts the failed creations in a row, createError is the last error, and until createBackoffUntil
	// no tasks are created.
	createFailures     int
	createBackoffUntil time.Time
	createError        string
	// finalizedAt is when the tasks of a set that is being deleted were last listed.
	finalizedAt time.Time
}

// newest returns the newer of the observed set and the known one. If another client has written the counts of the
// status, the known set is discarded.
func (p *progress) newest(observed *batch.TaskSet) *batch.TaskSet {
	if p.set == nil {
		return observed
	}
	order, err := resourceversion.CompareResourceVersion(observed.ResourceVersion, p.set.ResourceVersion)
	if err == nil && order <= 0 {
		return p.set
	}
	if !equalCounts(&observed.Status, &p.set.Status) {
		p.set = nil
	}
	return observed
}

// equalCounts reports whether two statuses have the same counts and conditions.
func equalCounts(a, b *batch.TaskSetStatus) bool {
	return a.Failed == b.Failed && a.CompletedIndexes == b.CompletedIndexes && a.IndexFailures == b.IndexFailures &&
		(a.FailedIndexes == nil) == (b.FailedIndexes == nil) && (a.FailedIndexes == nil || *a.FailedIndexes == *b.FailedIndexes) &&
		conditionSummary(a) == conditionSummary(b)
}

func isConditionTrue(set *batch.TaskSet, condition string) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, condition)
}

// finishedCondition returns the condition Complete or Failed of a finished set, nil for an unfinished one.
func finishedCondition(set *batch.TaskSet) *metav1.Condition {
	for i, condition := range set.Status.Conditions {
		if (condition.Type == batch.TaskSetComplete || condition.Type == batch.TaskSetFailed) && condition.Status == metav1.ConditionTrue {
			return &set.Status.Conditions[i]
		}
	}
	return nil
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
