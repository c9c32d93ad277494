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

// Package controller runs the controllers of Leat in a controller-runtime manager, in a cluster and in a process with everything else
// alike.
package controller

import (
	"context"
	"errors"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
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
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/lifecycle"
	"github.com/leat-dev/leat/pkg/controller/namespace"
	"github.com/leat-dev/leat/pkg/controller/taskset"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// ofSets selects the tasks of sets.
var ofSets = labels.NewSelector().Add(*must(labels.NewRequirement(batch.LabelControllerUID, selection.Exists, nil)))

func must[T any](value T, err error) T {
	utilruntime.Must(err)
	return value
}

// firstRetry and lastRetry bound the delay after a pass over a set has failed.
const firstRetry, lastRetry = 50 * time.Millisecond, 30 * time.Second

// cacheSyncTimeout is for how long the controller waits until its kinds are served. In an installation that can be
// long: a manager that ended meanwhile would be restarted with delays of up to five minutes, and it is the manager that
// registers the API.
const cacheSyncTimeout = 30 * 24 * time.Hour

// Options say which controllers run, and how.
type Options struct {
	// ConcurrentTaskSets is how many sets are worked on at a time.
	ConcurrentTaskSets int
	// Events has an Event recorded for each transition of a set. There must be a server of events.k8s.io behind the manager's
	// configuration.
	Events bool
	// CollectGarbage has the controllers do what the garbage collector of a cluster does, where there is none.
	CollectGarbage bool
	// NamespaceSweepInterval is how often objects are looked for, and deleted, whose namespace does not exist in the cluster behind the
	// manager's configuration. Zero, as where namespaces are no objects, is never.
	NamespaceSweepInterval time.Duration
}

// NewManager returns a manager with what the controllers need: a scheme, caches that hold no more than they read, and protobuf. The
// options may ask for leader election, metrics and probes.
func NewManager(config *rest.Config, options manager.Options) (manager.Manager, error) {
	if err := apiutil.AddToProtobufScheme(batch.AddToScheme); err != nil {
		return nil, err
	}
	log.SetLogger(klog.Background())
	options.Logger = klog.Background()
	options.Scheme = newScheme()
	options.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return newMapper(), nil }
	shared := true // nobody writes to what a cache gives
	options.Cache = ctrlcache.Options{
		DefaultTransform: ctrlcache.TransformStripManagedFields(), DefaultUnsafeDisableDeepCopy: &shared,
		ByObject: map[client.Object]ctrlcache.ByObject{&batch.Task{}: {Label: ofSets, Transform: trim}},
	}
	return manager.New(config, options)
}

// newScheme has our kinds, and those of the host that leases and events need.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(batch.AddToScheme(scheme))
	return scheme
}

// newMapper knows the kinds that are watched, so that no discovery is needed to start.
func newMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{batch.SchemeGroupVersion})
	for _, kind := range []string{"Task", "TaskSet"} {
		mapper.Add(batch.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	return mapper
}

// AddToManager adds all controllers, which run while the manager leads.
func AddToManager(mgr manager.Manager, options Options) error {
	config := rest.CopyConfig(mgr.GetConfig())
	config.QPS = -1 // the server holds clients back
	config.Wrap(withoutRetries)
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	return errors.Join(
		addTaskSets(mgr, client, options),
		AddRunnable(mgr, lifecycle.New(client, lifecycle.Options{}).Run),
		addSweeper(mgr, config, options.NamespaceSweepInterval),
	)
}

// AddRunnable adds one more part that runs while the manager leads. It must return soon after its context has ended.
func AddRunnable(mgr manager.Manager, run func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(run))
}

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

func addTaskSets(mgr manager.Manager, client versioned.Interface, options Options) error {
	var recorder events.EventRecorder
	if options.Events {
		recorder = mgr.GetEventRecorder("leat.dev/taskset-controller")
	}
	sets := taskset.New(taskset.Options{Client: client, Recorder: recorder, CollectGarbage: options.CollectGarbage})
	unique := true // of a process with several managers, as in tests, the second is no mistake
	c, err := controller.New("taskset", mgr, controller.Options{
		MaxConcurrentReconciles: options.ConcurrentTaskSets,
		SkipNameValidation:      &unique,
		CacheSyncTimeout:        cacheSyncTimeout,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		Reconciler: reconcile.Func(func(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
			again, err := sets.Reconcile(ctx, request.NamespacedName)
			return reconcile.Result{RequeueAfter: again}, err
		}),
	})
	if err != nil {
		return err
	}
	return errors.Join(
		c.Watch(source.Kind(mgr.GetCache(), &batch.TaskSet{}, setHandler(sets))),
		c.Watch(source.Kind(mgr.GetCache(), &batch.Task{}, taskHandler(sets))),
	)
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func setHandler(sets *taskset.Controller) handler.TypedEventHandler[*batch.TaskSet, reconcile.Request] {
	observe := func(q queue, set *batch.TaskSet, gone bool) {
		q.Add(reconcile.Request{NamespacedName: sets.ObserveSet(set, gone)})
	}
	return handler.TypedFuncs[*batch.TaskSet, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*batch.TaskSet], q queue) {
			observe(q, e.Object, false)
		},
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*batch.TaskSet], q queue) {
			observe(q, e.ObjectNew, false)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*batch.TaskSet], q queue) { observe(q, e.Object, true) },
	}
}

func taskHandler(sets *taskset.Controller) handler.TypedEventHandler[*batch.Task, reconcile.Request] {
	observe := func(q queue, old, task *batch.Task) {
		for _, key := range sets.ObserveTask(old, task) {
			q.Add(reconcile.Request{NamespacedName: key})
		}
	}
	return handler.TypedFuncs[*batch.Task, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*batch.Task], q queue) { observe(q, nil, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*batch.Task], q queue) {
			observe(q, e.ObjectOld, e.ObjectNew)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*batch.Task], q queue) { observe(q, e.Object, nil) },
	}
}

// trim drops what is never looked at: of many tasks little is kept.
func trim(obj any) (any, error) {
	task, ok := obj.(*batch.Task)
	if !ok {
		return obj, nil
	}
	trimmed := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name: task.Name, Namespace: task.Namespace, UID: task.UID, ResourceVersion: task.ResourceVersion,
			CreationTimestamp: task.CreationTimestamp, DeletionTimestamp: task.DeletionTimestamp,
			OwnerReferences: task.OwnerReferences,
		},
		Spec:   batch.TaskSpec{WorkerName: task.Spec.WorkerName, QueueName: task.Spec.QueueName, Priority: task.Spec.Priority},
		Status: batch.TaskStatus{Phase: task.Status.Phase, CompletionTime: task.Status.CompletionTime},
	}
	for _, label := range []string{batch.LabelControllerUID, batch.LabelTaskSetName, batch.LabelCompletionIndex} {
		keep(&trimmed.Labels, task.Labels, label)
	}
	keep(&trimmed.Annotations, task.Annotations, batch.AnnotationIndexFailureCount)
	for _, condition := range task.Status.Conditions {
		trimmed.Status.Conditions = append(trimmed.Status.Conditions, metav1.Condition{Type: condition.Type, Status: condition.Status})
	}
	if terminated := task.Status.State.Terminated; terminated != nil {
		trimmed.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: terminated.ExitCode, FinishedAt: terminated.FinishedAt}
	}
	return trimmed, nil
}

func keep(to *map[string]string, from map[string]string, key string) {
	value, ok := from[key]
	if !ok {
		return
	}
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[key] = value
}

// withoutRetries keeps the client from repeating requests that were refused for now: it would do so up to ten times and hold up all
// else meanwhile. The controllers have delays of their own, and find the server's advice in the body.
func withoutRetries(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err == nil && response.StatusCode == http.StatusTooManyRequests {
			response.Header.Del("Retry-After")
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
