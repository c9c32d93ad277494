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

package api

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	apply "github.com/leat-dev/leat/pkg/generated/applyconfiguration/batch/v1alpha1"
	"github.com/leat-dev/leat/test/api/scenario"
	"github.com/leat-dev/leat/test/kit"
)

// testControllerRuntime uses the client, a manager with a controller, and caches of controller-runtime.
func testControllerRuntime(t *testing.T, e *kit.Env) {
	log.SetLogger(klog.Background())
	scheme := runtime.NewScheme()
	kit.Check(t, clientgoscheme.AddToScheme(scheme))
	kit.Check(t, batch.AddToScheme(scheme))
	// The library requests unknown types in JSON, because custom resources have no protobuf.
	kit.Check(t, apiutil.AddToProtobufScheme(batch.AddToScheme))
	t.Run("Client", func(t *testing.T) { testRuntimeClient(t, e, scheme) })
	t.Run("Manager", func(t *testing.T) { testManager(t, e, scheme) })
	t.Run("Caches", func(t *testing.T) { testCaches(t, e, scheme) })
}

// testRuntimeClient uses all methods of the client.
func testRuntimeClient(t *testing.T, e *kit.Env, scheme *runtime.Scheme) {
	namespace := e.Namespace(t)
	traffic := &scenario.Traffic{}
	admin, controller := newRuntimeClient(t, traffic.Wrap(e.Admin(t)), scheme), newRuntimeClient(t, traffic.Wrap(e.Controller(t)), scheme)

	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "one"},
		Spec: batch.TaskSpec{
			Command:         []string{"sleep"},
			SchedulingGates: []batch.TaskSchedulingGate{{Name: "later"}}, // the scheduler does not write to it before they are removed
		},
	}
	kit.Check(t, admin.Create(t.Context(), task))
	if task.Status.Phase != batch.TaskPending || task.Spec.QueueName != "default" {
		t.Errorf("created task: got %v, want phase Pending and defaults", task)
	}
	if err := admin.Create(t.Context(), &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bad"}}); !apierrors.IsInvalid(err) {
		t.Errorf("create of a task without a command: got %v, want 422", err)
	}
	before := task.DeepCopy()
	task.Labels, task.Spec.SchedulingGates = map[string]string{"app": "web"}, nil
	kit.Check(t, admin.Patch(t.Context(), task, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
	if err := admin.Patch(t.Context(), task, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); !apierrors.IsConflict(err) {
		t.Errorf("patch with an old resourceVersion: got %v, want a conflict", err)
	}

	worker := &batch.Worker{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "w-aaaaa"}}
	kit.Check(t, newRuntimeClient(t, traffic.Wrap(e.Worker(t, namespace, worker.Name)), scheme).Create(t.Context(), worker))
	kit.Check(t, controller.SubResource("binding").Create(t.Context(), task, &batch.Binding{Target: batch.BindingTarget{Name: "w-aaaaa", Incarnation: "one"}}))
	kit.Check(t, admin.Get(t.Context(), client.ObjectKeyFromObject(task), task))
	before = task.DeepCopy()
	task.Status.Progress = "1/2"
	kit.Check(t, controller.Status().Patch(t.Context(), task, client.MergeFrom(before)))
	task.Status.Phase = batch.TaskRunning
	kit.Check(t, controller.Status().Update(t.Context(), task))
	if task.Spec.WorkerName != "w-aaaaa" || task.Status.Progress != "1/2" || task.Status.Phase != batch.TaskRunning {
		t.Errorf("bound task with a patched and updated status: got %v", task)
	}
	kit.Check(t, admin.SubResource("eviction").Create(t.Context(), task, &batch.Eviction{Reason: "Tried"}))
	kit.Check(t, admin.Get(t.Context(), client.ObjectKeyFromObject(task), task))
	if task.Spec.WorkerName != "" || task.Status.Disruptions != 1 {
		t.Errorf("evicted task: got %v, want no worker and one disruption", task)
	}

	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "many"}}
	kit.Check(t, admin.Apply(t.Context(), apply.TaskSet(set.Name, namespace).WithSpec(apply.TaskSetSpec().WithSuspend(true).WithTemplate(
		apply.TaskTemplateSpec().WithSpec(apply.TaskSpec().WithCommand("sleep")))), client.FieldOwner("alice")))
	scale := &autoscalingv1.Scale{}
	kit.Check(t, retry.RetryOnConflict(retry.DefaultRetry, func() error { // a controller may update the status
		kit.Check(t, admin.SubResource("scale").Get(t.Context(), set, scale))
		scale.Spec.Replicas = 4
		return admin.SubResource("scale").Update(t.Context(), set, client.WithSubResourceBody(scale))
	}))
	kit.Check(t, admin.Get(t.Context(), client.ObjectKeyFromObject(set), set))
	if *set.Spec.Parallelism != 4 {
		t.Errorf("scaled set: got %v, want parallelism 4", set.Spec)
	}

	var list batch.TaskList
	kit.Check(t, admin.List(t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{"app": "web"}, client.MatchingFields{"spec.queueName": "default"}, client.Limit(1)))
	if len(list.Items) != 1 || list.Items[0].UID != task.UID {
		t.Errorf("list by selectors: got %v, want the task", list.Items)
	}
	kit.Check(t, admin.Delete(t.Context(), task, client.Preconditions{UID: &task.UID}))
	kit.Check(t, admin.DeleteAllOf(t.Context(), &batch.TaskSet{}, client.InNamespace(namespace)))
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(set), set); !apierrors.IsNotFound(err) {
		t.Errorf("get after DeleteAllOf: got %v, want 404", err)
	}

	for _, exchange := range traffic.Exchanges() {
		sent, received := []string{"", runtime.ContentTypeProtobuf}, runtime.ContentTypeProtobuf
		switch exchange.Sent {
		case "application/apply-patch+yaml":
			sent, received = []string{exchange.Sent}, runtime.ContentTypeJSON // the library requests it
		case "application/merge-patch+json":
			sent = []string{exchange.Sent}
		}
		if !slices.Contains(sent, exchange.Sent) || exchange.Received != received {
			t.Errorf("%s %s: sent %q and received %q, want %q and %q", exchange.Method, exchange.Path, exchange.Sent, exchange.Received, sent, received)
		}
	}
}

// testManager runs a controller that labels each task, and restarts the server.
func testManager(t *testing.T, e *kit.Env, scheme *runtime.Scheme) {
	namespace := e.Namespace(t)
	manager, err := ctrl.NewManager(e.Admin(t), ctrl.Options{
		Scheme:  scheme,
		Cache:   cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		Metrics: server.Options{BindAddress: "0"},
	})
	kit.Check(t, err)
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	kit.Check(t, ctrl.NewControllerManagedBy(manager).Named(name).For(&batch.Task{}).Complete(reconcile.Func(
		func(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
			var task batch.Task
			if err := manager.GetClient().Get(ctx, request.NamespacedName, &task); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			if task.Labels[scenario.Step] != "" {
				return reconcile.Result{}, nil
			}
			before := task.DeepCopy()
			task.Labels = map[string]string{scenario.Step: "reconciled"}
			return reconcile.Result{}, manager.GetClient().Patch(ctx, &task, client.MergeFrom(before))
		})))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(ctx) }()

	direct := newRuntimeClient(t, e.Direct(t, "alice", "leat:admins"), scheme)
	reconciled := func(name string) {
		t.Helper()
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: batch.TaskSpec{Command: []string{"sleep"}}}
		kit.Check(t, direct.Create(t.Context(), task))
		err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			err := direct.Get(ctx, client.ObjectKeyFromObject(task), task)
			return task.Labels[scenario.Step] == "reconciled", err
		})
		if err != nil {
			t.Fatalf("task %s was not reconciled: %v", name, err)
		}
	}
	reconciled("before")
	kit.Check(t, e.Server.Restart(t.Context()))
	reconciled("after")
	stop()
	kit.Check(t, <-ended)
	e.WaitServed(t)
}

// testCaches runs the scenario with caches of typed, unstructured and metadata-only objects.
func testCaches(t *testing.T, e *kit.Env, scheme *runtime.Scheme) {
	namespace := e.Namespace(t)
	kind := batch.SchemeGroupVersion.WithKind("Task")
	generic, partial := &unstructured.Unstructured{}, &metav1.PartialObjectMetadata{}
	generic.SetGroupVersionKind(kind)
	partial.SetGroupVersionKind(kind)
	forms := []struct {
		name, mediaType string
		object          client.Object
	}{
		{"typed", runtime.ContentTypeProtobuf, &batch.Task{}},
		{"unstructured", runtime.ContentTypeJSON, generic},
		{"metadata", runtime.ContentTypeProtobuf, partial},
	}

	var all, bound []*scenario.Observer
	var start []func()
	traffic := map[string]*scenario.Traffic{}
	for _, form := range forms {
		traffic[form.name] = &scenario.Traffic{}
		add := func(config *rest.Config, objects *scenario.Observer, options cache.Options) {
			options.Scheme, options.DefaultNamespaces = scheme, map[string]cache.Config{namespace: {}}
			informers, err := cache.New(traffic[form.name].Wrap(config), options)
			kit.Check(t, err)
			start = append(start, func() {
				go func() { _ = informers.Start(t.Context()) }() // until the test ends
				informer, err := informers.GetInformer(t.Context(), form.object)
				kit.Check(t, err)
				_, err = informer.AddEventHandler(objects.Handler())
				kit.Check(t, err)
			})
		}
		allObserver, boundObserver := &scenario.Observer{Name: form.name}, &scenario.Observer{Name: form.name + " of a worker"}
		all, bound = append(all, allObserver), append(bound, boundObserver)
		add(e.Admin(t), allObserver, cache.Options{})
		add(e.Worker(t, namespace, scenario.Worker), boundObserver, cache.Options{
			DefaultFieldSelector: fields.OneTermEqualSelector("spec.workerName", scenario.Worker),
		})
	}
	scenario.Run(t, e, namespace, all, bound, func() {
		for _, start := range start {
			start()
		}
	})
	for _, form := range forms {
		watches := 0
		for _, exchange := range traffic[form.name].Exchanges() {
			if exchange.Query.Get("watch") != "" {
				watches++
			}
			if received := strings.TrimSuffix(exchange.Received, ";stream=watch"); received != form.mediaType {
				t.Errorf("%s: %s %s?%s: got %s, want %s", form.name, exchange.Method, exchange.Path, exchange.Query.Encode(), received, form.mediaType)
			}
		}
		if watches < 4 {
			t.Errorf("%s: got %d watches, want at least two before and two after the restart", form.name, watches)
		}
	}
}

func newRuntimeClient(t *testing.T, config *rest.Config, scheme *runtime.Scheme) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: scheme})
	kit.Check(t, err)
	return c
}
