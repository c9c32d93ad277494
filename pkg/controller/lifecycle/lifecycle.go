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

// Package lifecycle implements the worker lifecycle controller. It
//
//   - marks and taints workers that have stopped renewing their lease, evicts their tasks and later deletes the
//     workers,
//   - evicts tasks that do not tolerate a NoExecute taint of their worker,
//   - removes tasks whose deletion waits for a worker that is lost,
//   - deletes finished tasks when their time to live is over.
//
// It is an ordinary API client. It may lose its state at any time, and two instances may run at once: each write has
// the version that was read as its precondition.
package lifecycle

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

const (
	// concurrentSyncs is how many workers, unfinished tasks and finished tasks are each synced at a time.
	concurrentSyncs = 8

	// byWorker is the informer index of tasks by worker.
	byWorker = "worker"
	// boundTasksSelector selects the unfinished tasks that are bound to a worker.
	boundTasksSelector = "spec.workerName!=,status.phase!=Succeeded,status.phase!=Failed"
)

// Options configures a Controller. Zero values select the defaults.
type Options struct {
	// LeaseInterval is the time between two lists of all leases, by default 10 s. If two lists are more than twice as
	// far apart, the controller or the server was unavailable, and the time between them counts against no worker.
	LeaseInterval time.Duration
	// FullDisruptionTimeout is how long the tasks of lost workers are not evicted while all workers of the namespace
	// are lost, by default 5 min: no worker could run the tasks, and the cause may be common to all, like the network.
	FullDisruptionTimeout time.Duration
	// RemoveAfter is how long a lost worker without tasks is kept, by default 1 h. A cordoned or denied worker is kept
	// until it is back in service: it would register again without that setting.
	RemoveAfter time.Duration
	// EvictionsPerSecond is the maximum rate of evictions, by default 50.
	EvictionsPerSecond int
}

// withDefaults returns the options with defaults in place of zero values.
func (o Options) withDefaults() Options {
	for _, d := range []struct {
		option *time.Duration
		value  time.Duration
	}{
		{&o.LeaseInterval, 10 * time.Second},
		{&o.FullDisruptionTimeout, 5 * time.Minute},
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

	health    *healthTracker
	workers   informers.WorkerIndexInformer
	tasks     informers.TaskIndexInformer // tasks that are bound and unfinished
	finished  *finishedTasks
	evictions flowcontrol.RateLimiter

	workerQueue, taskQueue reconcile.Queue[cache.ObjectName]

	mu sync.Mutex
	// taintsSeen holds, for each worker, when each of its NoExecute taints was first observed.
	taintsSeen map[cache.ObjectName]map[taint]time.Time
	// outOfService holds the workers that were out of service when last observed, including deleted workers that have
	// tasks left.
	outOfService map[cache.ObjectName]struct{}
}

// New returns a Controller. The client should have no rate limit.
func New(client versioned.Interface, options Options) *Controller {
	options = options.withDefaults()
	c := &Controller{
		client:  client,
		options: options,
		health:  newHealthTracker(2 * options.LeaseInterval),
		workers: informers.NewTypedWorkerInformer(client, metav1.NamespaceAll, 0, nil),
		tasks: informers.NewTypedFilteredTaskInformer(client, metav1.NamespaceAll, 0, informers.TaskIndexers{
			byWorker: func(t *batch.Task) ([]string, error) { return []string{workerOf(t).String()}, nil },
		}, func(o *metav1.ListOptions) { o.FieldSelector = boundTasksSelector }),
		evictions:    flowcontrol.NewTokenBucketRateLimiter(float32(options.EvictionsPerSecond), options.EvictionsPerSecond),
		workerQueue:  reconcile.NewQueue[cache.ObjectName]("leat_lifecycle_workers"),
		taskQueue:    reconcile.NewQueue[cache.ObjectName]("leat_lifecycle_tasks"),
		taintsSeen:   map[cache.ObjectName]map[taint]time.Time{},
		outOfService: map[cache.ObjectName]struct{}{},
	}
	c.finished = newFinishedTasks(client)
	return c
}

// Run runs the controller until ctx is done, and returns when all of its goroutines have. It must be called only once.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	if err := c.workers.SetTransform(cachefields.WithoutManagedFields); err != nil {
		return err
	}
	if err := c.tasks.SetTransform(cachefields.BoundTask); err != nil {
		return err
	}
	workersSynced, err := c.workers.AddTypedEventHandler(informers.WorkerHandlerFuncs{
		AddFunc:    func(w *batch.Worker) { c.observeWorker(nil, w) },
		UpdateFunc: c.observeWorker,
		DeleteFunc: func(w informers.DeletedWorker) { c.forgetWorker(w.GetObjectName()) },
	})
	if err != nil {
		return err
	}
	tasksSynced, err := c.tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
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
	if !cache.WaitFor(ctx, "", workersSynced.HasSyncedChecker(), tasksSynced.HasSyncedChecker()) {
		return nil
	}
	for range concurrentSyncs {
		wg.Go(func() { c.workerQueue.Work(ctx, c.syncWorker) })
		wg.Go(func() { c.taskQueue.Work(ctx, c.syncTask) })
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

// listLeases updates the health of all workers. The list comes from the server's watch cache and may be stale, so an
// expired lease is confirmed by a read before the worker is marked as lost.
func (c *Controller) listLeases(ctx context.Context) {
	start := time.Now()
	leases, err := request.Do(ctx, func(ctx context.Context) (*batch.WorkerLeaseList, error) {
		return c.client.BatchV1alpha1().WorkerLeases(metav1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	})
	recordLeaseList(start, err)
	if err != nil {
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to list worker leases, the health of workers is not updated")
		}
		return
	}
	var workers []*batch.Worker
	for _, obj := range c.workers.GetTypedIndexer().List() {
		workers = append(workers, obj.(*batch.Worker))
	}
	recordWorkers(workers)
	c.pruneOutOfService()
	for _, name := range c.health.observe(time.Now(), leases.Items, workers) {
		c.workerQueue.Add(name)
	}
}

// worker returns the Worker of that name from the informer, nil if there is none.
func (c *Controller) worker(name cache.ObjectName) *batch.Worker {
	obj, ok, err := c.workers.GetTypedIndexer().GetByKey(name.String())
	if err != nil || !ok {
		return nil
	}
	return obj.(*batch.Worker)
}

// tasksOf returns the unfinished tasks that are bound to a worker.
func (c *Controller) tasksOf(worker cache.ObjectName) []*batch.Task {
	tasks, err := c.tasks.GetTypedIndexer().ByTypedIndex(byWorker, worker.String())
	if err != nil {
		panic(err) // The index does not exist, which is a programming error.
	}
	return tasks
}

// enqueueTasksOf enqueues the unfinished tasks that are bound to a worker.
func (c *Controller) enqueueTasksOf(worker cache.ObjectName) {
	for _, task := range c.tasksOf(worker) {
		c.taskQueue.Add(cache.MetaObjectToName(task))
	}
}

// workerOf returns the name of the worker that a task is bound to.
func workerOf(task *batch.Task) cache.ObjectName {
	return cache.ObjectName{Namespace: task.Namespace, Name: task.Spec.WorkerName}
}
