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

// Package taskset runs task sets: it creates tasks for their indexes, counts those that finish and deletes what is counted. It is a
// client of the API like any other, and may be killed at any instruction.
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
	// inFlight bounds the requests of the controller at a time that create and delete tasks, over all sets.
	inFlight = 32
	// passCreates and passDeletes bound the tasks that one pass over a set creates and deletes, so that it is soon back to see
	// what has finished meanwhile. Deletions must be able to catch up with creations, or finished tasks pile up.
	passCreates, passDeletes = 64, 128
	// flushInterval is the least time between two writes of the status of a set, but for those that a condition changes by.
	flushInterval = time.Second
	// staleAfter is how long a pass holds what it began with for true, and what the pass before has left: in a longer time this
	// process may have been paused, and another have led. It must be shorter than the lease of the leader.
	staleAfter = 3 * time.Second
	// retryBase and retryLimit are the delays after failed tasks, those of Job.
	retryBase, retryLimit = 10 * time.Second, 10 * time.Minute
	// createBase and createLimit are the delays after tasks could not be created.
	createBase, createLimit = 500 * time.Millisecond, 15 * time.Second
)

// Options are what a controller needs.
type Options struct {
	// Client is used for all writes and for reads that must be fresh. It should have no rate limit of its own, and must not repeat
	// requests that are refused with 429: the controller has better things to do meanwhile.
	Client versioned.Interface
	// Recorder gets an Event for each transition of a set. None if nil.
	Recorder events.EventRecorder
	// CollectGarbage makes the controller do for task sets what the garbage collector does, where there is none: it deletes the
	// tasks of sets that are gone, and settles foreground deletion and orphaning.
	CollectGarbage bool
}

// Controller runs all task sets. Feed it with ObserveSet and ObserveTask, by informers over all sets and tasks, and call Reconcile
// for what they return: for one set at a time, for different ones at once.
type Controller struct {
	client   versioned.Interface
	recorder events.EventRecorder
	collect  bool
	clock    clock.PassiveClock
	tracker  tracker
	slots    chan struct{}
}

// New returns a controller.
func New(options Options) *Controller {
	return &Controller{
		client:   options.Client,
		recorder: options.Recorder,
		collect:  options.CollectGarbage,
		clock:    clock.RealClock{},
		tracker:  tracker{delays: delays{retryBase, retryLimit}, families: map[types.NamespacedName]*family{}},
		slots:    make(chan struct{}, inFlight),
	}
}

// ObserveSet takes in a set that was added, changed or, if gone, deleted, and returns what to reconcile.
func (c *Controller) ObserveSet(set *batch.TaskSet, gone bool) types.NamespacedName {
	key := types.NamespacedName{Namespace: set.Namespace, Name: set.Name}
	if gone {
		set = nil
	}
	c.tracker.setChanged(key, set)
	return key
}

// ObserveTask takes in a task that was added (old is nil), changed, or deleted (task is nil), and returns what to reconcile. The
// events of a task must come in order. Of the spec the controller looks at the worker's name, the queue and the priority only.
func (c *Controller) ObserveTask(old, task *batch.Task) []types.NamespacedName {
	var keys []types.NamespacedName
	var owner types.UID
	if task != nil {
		if key, uid, ok := setOf(task); ok {
			c.tracker.taskChanged(key, uid, change{task.UID, task, c.clock.Now()})
			keys, owner = append(keys, key), uid
		}
	}
	if old != nil {
		if key, uid, ok := setOf(old); ok && uid != owner {
			c.tracker.taskChanged(key, uid, change{old.UID, nil, c.clock.Now()})
			keys = append(keys, key)
		}
	}
	return keys
}

// Reconcile takes the sets of that name further. It returns after which time to do so again even if nothing is observed, zero for
// never. After an error it should be called again with a growing delay.
func (c *Controller) Reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	set, r, former := c.tracker.take(key)
	var errs []error
	if c.collect {
		for _, f := range former {
			errs = append(errs, c.collectLeftovers(ctx, key, f))
		}
	}
	var again time.Time
	if set != nil {
		var err error
		again, err = c.reconcile(ctx, set, r)
		errs = append(errs, err)
	}
	if again.IsZero() {
		return 0, errors.Join(errs...)
	}
	return max(again.Sub(c.clock.Now()), time.Millisecond), errors.Join(errs...)
}

func (c *Controller) reconcile(ctx context.Context, set *batch.TaskSet, r *record) (again time.Time, err error) {
	set = r.progress.newest(set)
	if set.DeletionTimestamp != nil {
		if !c.collect {
			return time.Time{}, nil
		}
		return c.finalize(ctx, set, r)
	}
	// Whatever goes wrong on the way: then all is loaded anew, from the server.
	sound := false
	defer func() {
		if !sound {
			r.ledger.loaded, r.progress.set = false, nil
		}
	}()
	if c.stale(r.progress.passed) {
		r.progress.set = nil
	}
	defer func() { r.progress.passed = c.clock.Now() }()
	if r.progress.set == nil {
		// What is observed may be older than what a former process, or request, has deleted tasks for.
		set, err = c.client.BatchV1alpha1().TaskSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (set.UID != r.uid || set.DeletionTimestamp != nil) {
			return time.Time{}, nil // an event will tell
		}
		if err != nil {
			return time.Time{}, err
		}
		r.ledger.loaded = false
	}
	if !r.ledger.fits(set) {
		if err := r.ledger.load(set); err != nil {
			return time.Time{}, err
		}
	}
	r.progress.set = set
	p := &pass{Controller: c, record: r, set: set, now: c.clock.Now()}
	err = p.run(ctx)
	if apierrors.IsConflict(err) {
		klog.FromContext(ctx).V(4).Info("The task set has changed meanwhile", "taskset", klog.KObj(set), "err", err)
		return p.now, nil
	}
	sound = err == nil
	return p.again, err
}

// stale says that what was known at that time is not to be acted on.
func (c *Controller) stale(at time.Time) bool { return c.clock.Since(at) > staleAfter }

// progress is what a pass leaves to the next.
type progress struct {
	// set is as it was last read or written, nil if that is not known.
	set *batch.TaskSet
	// passed is when the last pass ended.
	passed time.Time
	// wrote is when the status was last written.
	wrote time.Time
	// window is how many tasks are created at once: it grows while all goes well.
	window int
	// createFailures, createAfter and createMessage are since when, until when and why no tasks are created.
	createFailures int
	createAfter    time.Time
	createMessage  string
	// finalized is when the tasks of a set that is being deleted were last looked at.
	finalized time.Time
}

// newest gives the newer of the set that was observed and the one known. If another has written the status, what is known is void.
func (p *progress) newest(observed *batch.TaskSet) *batch.TaskSet {
	if p.set == nil {
		return observed
	}
	order, err := resourceversion.CompareResourceVersion(observed.ResourceVersion, p.set.ResourceVersion)
	if err == nil && order <= 0 {
		return p.set
	}
	if !sameCounts(&observed.Status, &p.set.Status) {
		p.set = nil
	}
	return observed
}

func sameCounts(a, b *batch.TaskSetStatus) bool {
	return a.Failed == b.Failed && a.CompletedIndexes == b.CompletedIndexes && a.IndexFailures == b.IndexFailures &&
		(a.FailedIndexes == nil) == (b.FailedIndexes == nil) && (a.FailedIndexes == nil || *a.FailedIndexes == *b.FailedIndexes) &&
		conditionsOf(a) == conditionsOf(b)
}

func isTrue(set *batch.TaskSet, condition string) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, condition)
}

func finished(set *batch.TaskSet) *metav1.Condition {
	for i, condition := range set.Status.Conditions {
		if (condition.Type == batch.TaskSetComplete || condition.Type == batch.TaskSetFailed) && condition.Status == metav1.ConditionTrue {
			return &set.Status.Conditions[i]
		}
	}
	return nil
}

// each runs f for 0 to n-1, as many at a time as there are slots.
func (c *Controller) each(ctx context.Context, n int, f func(i int)) {
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
