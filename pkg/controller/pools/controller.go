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

// Package pools implements the controller of pools. It sets how many replicas the StatefulSets of pools have, by the
// tasks that wait for workers, and removes workers that have been idle.
//
// Scaling in ends no running command. The controller keeps this order:
//
//  1. It cordons the workers of the highest ordinals, with an annotation that tells its cordon from that of a person.
//     For a worker that has not registered yet it creates a Worker that is cordoned.
//  2. It waits until the scheduler has seen the cordon and has no task for the worker, bound or about to be.
//  3. It lists the tasks of the worker at the server.
//  4. It writes the replicas, with the version of the StatefulSet that it has read.
//  5. It deletes the Worker when the process has stopped. Until then it does not scale out to that ordinal again, so
//     that a cordon is undone only on workers that were never to be removed.
//
// All state that matters is in the cluster: a controller that starts again finds the cordons, and removes or undoes
// them. What it remembers besides only delays it.
package pools

import (
	"context"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
)

const (
	// DefaultTarget is the default of Options.Target.
	DefaultTarget = time.Minute
	// concurrentSyncs is how many namespaces are synced at a time.
	concurrentSyncs = 2
	// debounce is how long the controller waits after a change, so that it sees several changes at once.
	debounce = 250 * time.Millisecond
	// staleRetry is the delay of a sync that has found the informer behind the server.
	staleRetry = 100 * time.Millisecond
	// unsyncedRetry is the delay of a sync before the scheduler knows all tasks.
	unsyncedRetry = time.Second
)

// Scheduler is what the controller needs to know of the scheduler, which runs in the same process.
type Scheduler interface {
	// OnChange sets a function that is called when something in a namespace changes. The function does not block.
	OnChange(changed func(namespace string))
	// Snapshot returns the current state of a namespace, false until it is known.
	Snapshot(namespace string) (*framework.Snapshot, bool)
}

// Options configures a Controller.
type Options struct {
	// Client, Cluster and StatefulSets are clients without a rate limit. StatefulSets reads metadata of the cluster.
	Client       versioned.Interface
	Cluster      kubernetes.Interface
	StatefulSets metadata.Interface
	Scheduler    Scheduler
	// TaskSet returns a set from a cache.
	TaskSet func(ctx context.Context, name cache.ObjectName) (*batch.TaskSet, error)
	// Recorder records events of StatefulSets.
	Recorder events.EventRecorder
	// Target is how long the tasks of a set should take: a pool gets no more workers than that needs.
	Target time.Duration
}

// Controller is the controller of pools.
type Controller struct {
	options  Options
	api      api
	filters  framework.Filters
	clock    clock.PassiveClock
	informer cache.SharedIndexInformer
	queue    reconcile.Queue[string] // of namespaces

	mu sync.Mutex
	// namespaces are those that have pools.
	namespaces map[string]*namespaceMemory
}

// namespaceMemory is what the controller remembers of a namespace.
type namespaceMemory struct {
	// statefulSets is the number of StatefulSets in the informer. It is guarded by Controller.mu.
	statefulSets int
	// enqueued is set while a sync after a change is due. It is guarded by Controller.mu.
	enqueued bool
	// pools are used only by the sync of the namespace.
	pools map[string]*poolMemory
}

// New returns a Controller. It must be called before the scheduler runs.
func New(options Options) *Controller {
	c := &Controller{
		options: options, api: clients{leat: options.Client, cluster: options.Cluster}, filters: plugins.NewFilters(),
		clock: clock.RealClock{}, queue: reconcile.NewQueue[string]("leat_pools"), namespaces: map[string]*namespaceMemory{},
	}
	options.Scheduler.OnChange(c.changed)
	return c
}

// Run runs the controller until ctx is done, and returns when all of its goroutines have. It must be called only once.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	c.informer = metadatainformer.NewFilteredMetadataInformer(c.options.StatefulSets, appsv1.SchemeGroupVersion.WithResource("statefulsets"),
		metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		func(o *metav1.ListOptions) { o.LabelSelector = batch.LabelPool }).Informer()
	synced, err := c.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.observe(obj, 1) },
		UpdateFunc: func(_, obj any) { c.observe(obj, 0) },
		DeleteFunc: func(obj any) { c.observe(obj, -1) },
	})
	if err != nil {
		return err
	}
	wg.Go(func() { c.informer.RunWithContext(ctx) })
	if !cache.WaitFor(ctx, "", synced.HasSyncedChecker()) {
		return nil
	}
	for range concurrentSyncs {
		wg.Go(func() { c.queue.Work(ctx, c.sync) })
	}
	<-ctx.Done()
	c.queue.ShutDown()
	return nil
}

// observe records a StatefulSet of a pool that was added (1), updated (0) or deleted (-1).
func (c *Controller) observe(obj any, change int) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		panic(err) // The informer has delivered something else, which is a programming error.
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	memory := c.namespaces[name.Namespace]
	if memory == nil {
		memory = &namespaceMemory{pools: map[string]*poolMemory{}}
		c.namespaces[name.Namespace] = memory
	}
	memory.statefulSets += change
	c.queue.Add(name.Namespace)
}

// changed enqueues a namespace in which something has changed, if it has pools.
func (c *Controller) changed(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if memory := c.namespaces[namespace]; memory != nil && !memory.enqueued {
		memory.enqueued = true
		c.queue.AddAfter(namespace, debounce)
	}
}

// begin returns what is remembered of a namespace at the start of a sync, nil if it has no pools.
func (c *Controller) begin(namespace string) *namespaceMemory {
	c.mu.Lock()
	defer c.mu.Unlock()
	memory := c.namespaces[namespace]
	if memory != nil {
		memory.enqueued = false
	}
	return memory
}
