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

// Package controller runs the controllers of Leat in a controller-runtime manager, in a cluster as well as in
// standalone mode.
package controller

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlreconcile "sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/controller/lifecycle"
	"github.com/leat-dev/leat/pkg/controller/namespace"
	"github.com/leat-dev/leat/pkg/controller/pools"
	"github.com/leat-dev/leat/pkg/controller/taskset"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// controlledTasks selects the tasks of task sets.
var controlledTasks = labels.NewSelector().Add(*must(labels.NewRequirement(batch.LabelControllerUID, selection.Exists, nil)))

// must returns the value and panics on an error.
func must[T any](value T, err error) T {
	utilruntime.Must(err)
	return value
}

// cacheSyncTimeout is how long the controller waits for its kinds to be served. The wait must not end while Leat is
// being installed: the manager registers the API, and a manager that exits is restarted with delays of up to five
// minutes.
const cacheSyncTimeout = 30 * 24 * time.Hour

// Options configures the controllers.
type Options struct {
	// Config is the configuration of the controllers' clients. Defaults to that of the manager.
	Config *rest.Config
	// ConcurrentTaskSets is how many sets are reconciled at a time.
	ConcurrentTaskSets int
	// Events enables an Event for each transition of a set. The server of the manager's configuration must serve
	// events.k8s.io.
	Events bool
	// CollectGarbage makes the controllers act as the garbage collector, for servers that have none.
	CollectGarbage bool
	// NamespaceSweepInterval is the time between two sweeps for objects whose namespace does not exist in the cluster
	// of the manager's configuration. Zero disables the sweeps, for servers that have no namespace objects.
	NamespaceSweepInterval time.Duration
	// Scheduler is the scheduler of this process. If it is set, pools are scaled. The server of Config must serve apps/v1.
	Scheduler pools.Scheduler
	// PoolTarget is how long the tasks of a set should take on the workers that pools add for it.
	PoolTarget time.Duration
}

// NewManager returns a manager for the controllers, with their scheme, caches that keep only the fields they read, and
// protobuf. The options may configure leader election, metrics and probes.
func NewManager(config *rest.Config, options manager.Options) (manager.Manager, error) {
	if err := apiutil.AddToProtobufScheme(batch.AddToScheme); err != nil {
		return nil, err
	}
	log.SetLogger(klog.Background())
	options.Logger = klog.Background()
	options.Scheme = newScheme()
	options.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return newMapper(), nil }
	shared := true // The controllers do not modify cached objects.
	options.Cache = ctrlcache.Options{
		DefaultTransform: ctrlcache.TransformStripManagedFields(), DefaultUnsafeDisableDeepCopy: &shared,
		ByObject: map[client.Object]ctrlcache.ByObject{
			&batch.Task{}:   {Label: controlledTasks, Transform: cachefields.TaskSetTask},
			&batch.Worker{}: {Transform: cachefields.TaskSetWorker},
		},
	}
	return manager.New(config, options)
}

// newScheme returns a scheme with the kinds of Leat, and with those of Kubernetes for leases and events.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(batch.AddToScheme(scheme))
	return scheme
}

// newMapper returns a mapper for the watched kinds, so that the manager starts without discovery.
func newMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{batch.SchemeGroupVersion})
	for _, kind := range []string{"Task", "TaskSet", "Worker"} {
		mapper.Add(batch.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	return mapper
}

// AddToManager adds all controllers to the manager. They run while the manager is the leader.
func AddToManager(mgr manager.Manager, options Options) error {
	config := rest.CopyConfig(cmp.Or(options.Config, mgr.GetConfig()))
	config.QPS = -1 // The server limits clients by priority and fairness.
	config.Wrap(withoutRetryAfter)
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	return errors.Join(
		addTaskSets(mgr, client, options),
		AddRunnable(mgr, lifecycle.New(client, lifecycle.Options{}).Run),
		addSweeper(mgr, config, options.NamespaceSweepInterval),
		addPools(mgr, config, client, options),
	)
}

// AddRunnable adds a function that runs while the manager is the leader. It must return soon after its context is done.
func AddRunnable(mgr manager.Manager, run func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(run))
}

// addSweeper adds the namespace sweeper, unless the interval is zero.
func addSweeper(mgr manager.Manager, config *rest.Config, interval time.Duration) error {
	if interval == 0 {
		return nil
	}
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	return AddRunnable(mgr, namespace.New(cluster, objects, interval).Run)
}

// addPools adds the controller of pools, unless there is no scheduler.
func addPools(mgr manager.Manager, config *rest.Config, leat versioned.Interface, options Options) error {
	if options.Scheduler == nil {
		return nil
	}
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	return AddRunnable(mgr, pools.New(pools.Options{
		Client: leat, Cluster: cluster, StatefulSets: objects, Scheduler: options.Scheduler, Target: options.PoolTarget,
		TaskSet: func(ctx context.Context, name cache.ObjectName) (*batch.TaskSet, error) {
			set := &batch.TaskSet{}
			return set, mgr.GetCache().Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name}, set)
		},
		Recorder: mgr.GetEventRecorder("leat.dev/pool-controller"),
	}).Run)
}

// addTaskSets adds the TaskSet controller.
func addTaskSets(mgr manager.Manager, client versioned.Interface, options Options) error {
	var recorder events.EventRecorder
	if options.Events {
		recorder = mgr.GetEventRecorder("leat.dev/taskset-controller")
	}
	sets := taskset.New(taskset.Options{Client: client, Recorder: recorder, CollectGarbage: options.CollectGarbage})
	skipValidation := true // A process may have several managers, as in tests.
	c, err := controller.New("taskset", mgr, controller.Options{
		MaxConcurrentReconciles: options.ConcurrentTaskSets,
		SkipNameValidation:      &skipValidation,
		CacheSyncTimeout:        cacheSyncTimeout,
		RateLimiter:             reconcile.NewRateLimiter[ctrlreconcile.Request](),
		Reconciler:              adapt(sets.Reconcile),
	})
	if err != nil {
		return err
	}
	return errors.Join(
		c.Watch(source.Kind(mgr.GetCache(), &batch.TaskSet{}, setHandler(sets))),
		c.Watch(source.Kind(mgr.GetCache(), &batch.Task{}, taskHandler(sets))),
		c.Watch(source.Kind(mgr.GetCache(), &batch.Worker{}, workerHandler(sets))),
	)
}

// adapt returns the function as a Reconciler of controller-runtime.
func adapt(sync reconcile.Func[types.NamespacedName]) ctrlreconcile.Reconciler {
	return ctrlreconcile.Func(func(ctx context.Context, request ctrlreconcile.Request) (ctrlreconcile.Result, error) {
		requeueAfter, err := sync(ctx, request.NamespacedName)
		return ctrlreconcile.Result{RequeueAfter: requeueAfter}, err
	})
}

type queue = workqueue.TypedRateLimitingInterface[ctrlreconcile.Request]

// setHandler returns a handler that passes events of sets to the controller.
func setHandler(sets *taskset.Controller) handler.TypedEventHandler[*batch.TaskSet, ctrlreconcile.Request] {
	enqueue := func(q queue, set *batch.TaskSet, deleted bool) {
		for _, key := range sets.ObserveSet(set, deleted) {
			q.Add(ctrlreconcile.Request{NamespacedName: key})
		}
	}
	return handler.TypedFuncs[*batch.TaskSet, ctrlreconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*batch.TaskSet], q queue) {
			enqueue(q, e.Object, false)
		},
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*batch.TaskSet], q queue) {
			enqueue(q, e.ObjectNew, false)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*batch.TaskSet], q queue) { enqueue(q, e.Object, true) },
	}
}

// taskHandler returns a handler that passes events of tasks to the controller.
func taskHandler(sets *taskset.Controller) handler.TypedEventHandler[*batch.Task, ctrlreconcile.Request] {
	enqueue := func(q queue, old, task *batch.Task) {
		for _, key := range sets.ObserveTask(old, task) {
			q.Add(ctrlreconcile.Request{NamespacedName: key})
		}
	}
	return handler.TypedFuncs[*batch.Task, ctrlreconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*batch.Task], q queue) { enqueue(q, nil, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*batch.Task], q queue) {
			enqueue(q, e.ObjectOld, e.ObjectNew)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*batch.Task], q queue) { enqueue(q, e.Object, nil) },
	}
}

// workerHandler returns a handler that passes events of workers to the controller. They reconcile nothing.
func workerHandler(sets *taskset.Controller) handler.TypedEventHandler[*batch.Worker, ctrlreconcile.Request] {
	return handler.TypedFuncs[*batch.Worker, ctrlreconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*batch.Worker], _ queue) {
			sets.ObserveWorker(e.Object, false)
		},
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*batch.Worker], _ queue) {
			sets.ObserveWorker(e.ObjectNew, false)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*batch.Worker], _ queue) {
			sets.ObserveWorker(e.Object, true)
		},
	}
}

// withoutRetryAfter removes the header Retry-After from 429 responses. client-go would wait and retry up to ten times
// and block the caller meanwhile. The controllers back off by themselves and read the server's advice from the body.
func withoutRetryAfter(next http.RoundTripper) http.RoundTripper {
	return roundTripperFunc(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err == nil && response.StatusCode == http.StatusTooManyRequests {
			response.Header.Del("Retry-After")
		}
		return response, err
	})
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
