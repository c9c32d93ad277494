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

// Package lifecycle settles what workers leave behind. A worker that gives no sign of life is marked and tainted, its tasks are
// given to others, and in the end it is removed with its lease; tasks that wait for the end of a lost worker are ended without
// it; and finished tasks are deleted when their time to live is over. It is a client of the API like any other: all it knows can
// be lost at any time, and two of it do no harm, since every write is one of what was read.
package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

const (
	// parallelism is how many workers, unfinished tasks and finished tasks are each seen to at a time.
	parallelism = 8
	// requestTimeout bounds each request to the server.
	requestTimeout = 15 * time.Second
	// firstRetry and lastRetry bound the delay after a request has failed.
	firstRetry, lastRetry = 50 * time.Millisecond, 30 * time.Second

	byWorker = "worker"
	// boundTasks selects the tasks that wait for a worker to do something.
	boundTasks = "spec.workerName!=,status.phase!=Succeeded,status.phase!=Failed"
)

// Options say how patient the controller is. Zero values stand for the defaults.
type Options struct {
	// LeaseInterval is the time between two lists of all leases, by default 10 s. If two lists are more than twice as
	// long apart, the time between counts for nobody: it was the controller, or the server, that was away.
	LeaseInterval time.Duration
	// SilenceTimeout is how long the tasks of lost workers stay where they are while no other worker of the namespace
	// gives a sign of life, by default 5 min: there is nobody to give them to, and the cause may be common to all.
	SilenceTimeout time.Duration
	// RemoveAfter is how long a worker is kept that is lost and has no tasks, by default 1 h. One that is cordoned or denied is kept
	// until that is taken back: else it would return without it.
	RemoveAfter time.Duration
	// EvictionsPerSecond bounds how fast tasks are taken from workers, by default 50.
	EvictionsPerSecond int
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		option *time.Duration
		value  time.Duration
	}{
		{&o.LeaseInterval, 10 * time.Second},
		{&o.SilenceTimeout, 5 * time.Minute},
		{&o.RemoveAfter, time.Hour},
	} {
		if *d.option == 0 {
			*d.option = d.value
		}
	}
	if o.EvictionsPerSecond == 0 {
		o.EvictionsPerSecond = 50
	}
	return o
}

// Controller is the worker lifecycle controller.
type Controller struct {
	client  versioned.Interface
	options Options

	health    *health
	workers   informers.WorkerIndexInformer
	tasks     informers.TaskIndexInformer // bound and unfinished
	finished  *finishedTasks
	evictions flowcontrol.RateLimiter

	workerQueue, taskQueue queue

	mu sync.Mutex
	// tainted says since when a worker has been seen with a NoExecute taint.
	tainted map[cache.ObjectName]map[taint]time.Time
	// leaving are the workers that were leaving when they were seen last, those included that are gone and have tasks.
	leaving map[cache.ObjectName]struct{}
}

// New returns a controller. The client should have no rate limit of its own.
func New(client versioned.Interface, options Options) *Controller {
	options = options.withDefaults()
	c := &Controller{
		client:  client,
		options: options,
		health:  newHealth(2 * options.LeaseInterval),
		workers: informers.NewTypedWorkerInformer(client, metav1.NamespaceAll, 0, nil),
		tasks: informers.NewTypedFilteredTaskInformer(client, metav1.NamespaceAll, 0, informers.TaskIndexers{
			byWorker: func(t *batch.Task) ([]string, error) { return []string{workerOf(t).String()}, nil },
		}, func(o *metav1.ListOptions) { o.FieldSelector = boundTasks }),
		evictions:   flowcontrol.NewTokenBucketRateLimiter(float32(options.EvictionsPerSecond), options.EvictionsPerSecond),
		workerQueue: newQueue("leat_lifecycle_workers"),
		taskQueue:   newQueue("leat_lifecycle_tasks"),
		tainted:     map[cache.ObjectName]map[taint]time.Time{},
		leaving:     map[cache.ObjectName]struct{}{},
	}
	c.finished = newFinishedTasks(client)
	return c
}

// Run works until ctx is done, and returns when all that it started has ended. It may be called once.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	if err := c.workers.SetTransform(trim); err != nil {
		return err
	}
	if err := c.tasks.SetTransform(trim); err != nil {
		return err
	}
	workersSeen, err := c.workers.AddTypedEventHandler(informers.WorkerHandlerFuncs{
		AddFunc:    func(w *batch.Worker) { c.noteWorker(nil, w) },
		UpdateFunc: c.noteWorker,
		DeleteFunc: func(w informers.DeletedWorker) { c.forgetTaints(w.GetObjectName()) },
	})
	if err != nil {
		return err
	}
	tasksSeen, err := c.tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc: func(t *batch.Task) { c.taskQueue.Add(cache.MetaObjectToName(t)) },
		UpdateFunc: func(old, t *batch.Task) {
			if workerOf(old) != workerOf(t) || !old.DeletionTimestamp.Equal(t.DeletionTimestamp) ||
				!equality.Semantic.DeepEqual(old.Spec.Tolerations, t.Spec.Tolerations) {
				c.taskQueue.Add(cache.MetaObjectToName(t))
			}
		},
	})
	if err != nil {
		return err
	}
	wg.Go(func() { c.workers.RunWithContext(ctx) })
	wg.Go(func() { c.tasks.RunWithContext(ctx) })
	wg.Go(func() { c.finished.run(ctx) })
	if !cache.WaitFor(ctx, "", workersSeen.HasSyncedChecker(), tasksSeen.HasSyncedChecker()) {
		return nil
	}
	for range parallelism {
		wg.Go(func() { c.workerQueue.work(ctx, c.seeToWorker) })
		wg.Go(func() { c.taskQueue.work(ctx, c.seeToTask) })
	}
	ticker := time.NewTicker(c.options.LeaseInterval)
	defer ticker.Stop()
	for {
		c.listLeases(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			c.workerQueue.ShutDown()
			c.taskQueue.ShutDown()
			return nil
		}
	}
}

// listLeases looks for signs of life. The list comes from the server's cache: what it says against a worker is confirmed later.
func (c *Controller) listLeases(ctx context.Context) {
	begun := time.Now()
	leases, err := bounded(ctx, func(ctx context.Context) (*batch.WorkerLeaseList, error) {
		return c.client.BatchV1alpha1().WorkerLeases(metav1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	})
	meterLeaseList(begun, err)
	if err != nil {
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Cannot list the leases of workers; no worker is judged until it is tried again")
		}
		return
	}
	var workers []*batch.Worker
	for _, obj := range c.workers.GetTypedIndexer().List() {
		workers = append(workers, obj.(*batch.Worker))
	}
	meterWorkers(workers)
	c.forgetLeaving()
	for _, name := range c.health.observe(time.Now(), leases.Items, workers) {
		c.workerQueue.Add(name)
	}
}

// worker is the Worker of that name as the informer shows it, nil if it shows none.
func (c *Controller) worker(name cache.ObjectName) *batch.Worker {
	obj, ok, err := c.workers.GetTypedIndexer().GetByKey(name.String())
	if err != nil || !ok {
		return nil
	}
	return obj.(*batch.Worker)
}

// tasksOf are the unfinished tasks bound to a worker.
func (c *Controller) tasksOf(worker cache.ObjectName) []*batch.Task {
	tasks, err := c.tasks.GetTypedIndexer().ByTypedIndex(byWorker, worker.String())
	if err != nil {
		panic(err) // there is such an index
	}
	return tasks
}

func (c *Controller) seeToTasksOf(worker cache.ObjectName) {
	for _, task := range c.tasksOf(worker) {
		c.taskQueue.Add(cache.MetaObjectToName(task))
	}
}

func workerOf(task *batch.Task) cache.ObjectName {
	return cache.ObjectName{Namespace: task.Namespace, Name: task.Spec.WorkerName}
}

// trim drops what the controller never looks at. A Worker is kept whole, since it is updated.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *batch.Task:
		return &batch.Task{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
				DeletionTimestamp: o.DeletionTimestamp, DeletionGracePeriodSeconds: o.DeletionGracePeriodSeconds,
			},
			Spec: batch.TaskSpec{WorkerName: o.Spec.WorkerName, Tolerations: o.Spec.Tolerations},
			Status: batch.TaskStatus{Phase: o.Status.Phase, Conditions: slices.DeleteFunc(o.Status.Conditions, func(c metav1.Condition) bool {
				return c.Type != batch.TaskScheduled
			})},
		}, nil
	case *batch.Worker:
		o.ManagedFields = nil
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	}
	return nil, fmt.Errorf("unexpected object %T in an informer of tasks or workers", obj)
}

// queue holds the names of what is to be seen to.
type queue struct {
	workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

func newQueue(name string) queue {
	return queue{workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](firstRetry, lastRetry),
		workqueue.TypedRateLimitingQueueConfig[cache.ObjectName]{Name: name})}
}

// work hands one name after the other to see, until the queue is shut down. A name comes again after the time that see returns,
// unless that is zero, and soon when it fails.
func (q queue) work(ctx context.Context, see func(context.Context, cache.ObjectName) (again time.Duration, err error)) {
	for {
		name, down := q.Get()
		if down {
			return
		}
		switch again, err := see(ctx, name); {
		case err != nil:
			if !apierrors.IsConflict(err) && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "A request failed; it is tried again", "object", name)
			}
			q.AddRateLimited(name)
		default:
			q.Forget(name)
			if again > 0 {
				q.AddAfter(name, again)
			}
		}
		q.Done(name)
	}
}

// bounded sends a request that may take no longer than requestTimeout.
func bounded[T any](ctx context.Context, send func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return send(ctx)
}
