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
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	tester "k8s.io/apiserver/pkg/registry/generic/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/registry"
	registrybatch "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/test/kit/host"
)

// registryKind is the test data of a kind for upstream's suite.
type registryKind struct {
	store func(*registrybatch.Stores) *registry.Stores
	// valid has a name, and all default values.
	valid runtime.Object
	// invalid are objects that cannot be created.
	invalid []runtime.Object
	// update is a registryChange that is allowed, badUpdates are not.
	update     tester.UpdateFunc
	badUpdates []tester.UpdateFunc
	// graceful is an object whose deletion has a grace period, in seconds. Nil if the kind has none.
	graceful runtime.Object
	grace    int64
	// forget removes what two creates of the same object must not share. Nil if there is nothing.
	forget func(runtime.Object)
	// selects are field selectors that match the valid object with the name foo1. Those of ignores do not match it.
	selects, ignores []fields.Set
}

func registryChange[T runtime.Object](f func(T)) tester.UpdateFunc {
	return func(object runtime.Object) runtime.Object {
		object = object.DeepCopyObject()
		f(object.(T))
		return object
	}
}

var (
	registryMeta = metav1.ObjectMeta{Name: "foo"}
	registryTask = &batch.Task{
		ObjectMeta: registryMeta,
		Spec: batch.TaskSpec{
			QueueName: "default", Command: []string{"true"}, BackoffLimit: ptr.To[int32](0), TerminationGracePeriodSeconds: ptr.To[int64](30),
			SchedulingGates: []batch.TaskSchedulingGate{{Name: "example.com/gate"}}, CrashLimit: ptr.To[int32](5),
		},
		Status: batch.TaskStatus{Phase: batch.TaskPending},
	}
	registryTaskSet = &batch.TaskSet{ObjectMeta: registryMeta, Spec: batch.TaskSetSpec{
		Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](3), CompletionMode: ptr.To(batch.IndexedCompletion), BackoffLimit: ptr.To[int32](6),
		Suspend: ptr.To(false), QueueName: "default", Template: batch.TaskTemplateSpec{Spec: batch.TaskSpec{
			QueueName: "default", Command: []string{"true"}, BackoffLimit: ptr.To[int32](0), TerminationGracePeriodSeconds: ptr.To[int64](30),
			CrashLimit: ptr.To[int32](5),
		}},
	}}
	registryTaskQueue   = &batch.TaskQueue{ObjectMeta: registryMeta, Spec: batch.TaskQueueSpec{Weight: ptr.To[int32](1), StopPolicy: ptr.To(batch.StopPolicyNone)}}
	registryWorkerLease = &batch.WorkerLease{ObjectMeta: registryMeta, Spec: batch.WorkerLeaseSpec{HolderIdentity: "i", LeaseDurationSeconds: ptr.To[int32](40)}}
)

var registryKinds = map[string]registryKind{
	"tasks": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.Tasks },
		valid: registryTask,
		invalid: []runtime.Object{
			registryChange(func(task *batch.Task) { task.Spec.Command = nil })(registryTask),
			registryChange(func(task *batch.Task) { task.Spec.Priority = 1_000_000_001 })(registryTask),
			registryChange(func(task *batch.Task) { task.Spec.Tolerations = []batch.Toleration{{Effect: "Never"}} })(registryTask),
		},
		update: registryChange(func(task *batch.Task) { task.Spec.SchedulingGates = nil }),
		badUpdates: []tester.UpdateFunc{
			registryChange(func(task *batch.Task) { task.Spec.Command = []string{"false"} }),
			registryChange(func(task *batch.Task) { task.Spec.BackoffLimit = ptr.To[int32](3) }),
			registryChange(func(task *batch.Task) {
				task.Spec.SchedulingGates = append(task.Spec.SchedulingGates, batch.TaskSchedulingGate{Name: "example.com/other"})
			}),
		},
		graceful: registryChange(func(task *batch.Task) { task.Spec.WorkerName = "w" })(registryTask),
		grace:    30,
		selects: []fields.Set{
			{"metadata.name": "foo1"}, {"spec.workerName": ""}, {"spec.queueName": "default"}, {"status.phase": "Pending", "spec.workerName": ""},
		},
		ignores: []fields.Set{{"metadata.name": "foo2"}, {"spec.workerName": "w"}, {"status.phase": "Running"}},
	},
	"tasksets": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.TaskSets },
		valid: registryTaskSet,
		invalid: []runtime.Object{
			registryChange(func(set *batch.TaskSet) { set.Spec.Completions = nil })(registryTaskSet),
			registryChange(func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = nil })(registryTaskSet),
			registryChange(func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](-1) })(registryTaskSet),
		},
		update: registryChange(func(set *batch.TaskSet) { set.Spec.Parallelism, set.Spec.Suspend = ptr.To[int32](2), ptr.To(true) }),
		badUpdates: []tester.UpdateFunc{
			registryChange(func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = []string{"false"} }),
			registryChange(func(set *batch.TaskSet) { set.Spec.Completions = ptr.To[int32](4) }),
			registryChange(func(set *batch.TaskSet) { set.Spec.Template.Spec.TTLSecondsAfterFinished = ptr.To[int32](7) }),
		},
		// The selector holds the uid, and the condition the time.
		forget: func(object runtime.Object) {
			if set, ok := object.(*batch.TaskSet); ok {
				set.Spec.Selector, set.Spec.Template.Labels, set.Status.Conditions = nil, nil, nil
			}
		},
		selects: []fields.Set{{"metadata.name": "foo1"}, {"spec.queueName": "default"}},
		ignores: []fields.Set{{"spec.queueName": "other"}},
	},
	"taskqueues": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.TaskQueues },
		valid: registryTaskQueue,
		invalid: []runtime.Object{
			registryChange(func(queue *batch.TaskQueue) { queue.Spec.Weight = ptr.To[int32](0) })(registryTaskQueue),
			registryChange(func(queue *batch.TaskQueue) { queue.Spec.StopPolicy = ptr.To(batch.StopPolicy("Halt")) })(registryTaskQueue),
			registryChange(func(queue *batch.TaskQueue) {
				queue.Spec.Resources.Limits = batch.ResourceList{"gpu": resource.MustParse("1")}
			})(registryTaskQueue),
		},
		update:     registryChange(func(queue *batch.TaskQueue) { queue.Spec.MaxRunningTasks = ptr.To[int32](7) }),
		badUpdates: []tester.UpdateFunc{registryChange(func(queue *batch.TaskQueue) { queue.Spec.MaxRunningTasks = ptr.To[int32](-7) })},
		selects:    []fields.Set{{"metadata.name": "foo1"}},
		ignores:    []fields.Set{{"metadata.name": "foo2"}},
	},
	"workers": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.Workers },
		valid: &batch.Worker{ObjectMeta: registryMeta},
		invalid: []runtime.Object{
			&batch.Worker{ObjectMeta: registryMeta, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "a b", Effect: batch.TaintEffectNoSchedule}}}},
			&batch.Worker{ObjectMeta: registryMeta, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "a"}}}},
		},
		update:     registryChange(func(worker *batch.Worker) { worker.Spec.Unschedulable = true }),
		badUpdates: []tester.UpdateFunc{registryChange(func(worker *batch.Worker) { worker.Spec.Taints = []batch.Taint{{Effect: "Never"}} })},
		selects:    []fields.Set{{"metadata.name": "foo1"}, {"spec.unschedulable": "false"}},
		ignores:    []fields.Set{{"spec.unschedulable": "true"}},
	},
	"workerleases": {
		store:   func(s *registrybatch.Stores) *registry.Stores { return s.WorkerLeases },
		valid:   registryWorkerLease,
		invalid: []runtime.Object{registryChange(func(lease *batch.WorkerLease) { lease.Spec.LeaseDurationSeconds = ptr.To[int32](0) })(registryWorkerLease)},
		update: registryChange(func(lease *batch.WorkerLease) {
			lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(metav1.Unix(1, 5000).Time))
		}),
		badUpdates: []tester.UpdateFunc{registryChange(func(lease *batch.WorkerLease) { lease.Spec.LeaseDurationSeconds = ptr.To[int32](-1) })},
		selects:    []fields.Set{{"metadata.name": "foo1"}},
		ignores:    []fields.Set{{"metadata.name": "foo2"}},
	},
}

func TestStores(t *testing.T) {
	etcd := host.EtcdForTest(t)
	if len(registryKinds) != len(registrybatch.Kinds) {
		t.Errorf("got entries for %d kinds, want %d", len(registryKinds), len(registrybatch.Kinds))
	}
	for _, k := range registrybatch.Kinds {
		resource := k.Describe().GroupResource.Resource
		kind, ok := registryKinds[resource]
		if !ok {
			t.Errorf("%s: add an entry to registryKinds", resource)
			continue
		}
		for name, flag := range map[string]string{"cached": "--watch-cache=true", "uncached": "--watch-cache=false"} {
			t.Run(resource+"/"+name, func(t *testing.T) { kind.test(t, etcd, flag) })
		}
	}
}

func (k registryKind) test(t *testing.T, etcd *host.Etcd, flag string) {
	t.Parallel() // The suite mostly waits for events that must not come.
	// The suite changes its objects, and two tests of a kind run at a time.
	k.valid, k.invalid = k.valid.DeepCopyObject(), slices.Clone(k.invalid)
	for i := range k.invalid {
		k.invalid[i] = k.invalid[i].DeepCopyObject()
	}
	if k.graceful != nil {
		k.graceful = k.graceful.DeepCopyObject()
	}
	// Each test of the suite has stores of its own, because it leaves objects behind.
	run := func(name string, test func(*tester.Tester)) {
		t.Run(name, func(t *testing.T) {
			store := k.open(t, etcd, flag)
			if name == "create" {
				store.Decorator = k.forget
			}
			tester := tester.New(t, store)
			if k.graceful != nil {
				tester = tester.ReturnDeletedObject()
			}
			test(tester)
		})
	}
	run("create", func(tester *tester.Tester) { tester.TestCreate(k.valid, k.invalid...) })
	run("update", func(tester *tester.Tester) { tester.TestUpdate(k.valid, k.update, k.badUpdates...) })
	run("delete", func(tester *tester.Tester) { tester.TestDelete(k.valid) })
	run("get", func(tester *tester.Tester) { tester.TestGet(k.valid) })
	run("list", func(tester *tester.Tester) { tester.TestList(k.valid) })
	run("watch", func(tester *tester.Tester) {
		labelled := registryChange(func(o registryObject) {
			o.SetLabels(map[string]string{"a": "b"})
			o.SetName("foo1")
			o.SetNamespace("test")
		})(k.valid)
		tester.TestWatch(labelled, []labels.Set{{"a": "b"}}, []labels.Set{{"a": "c"}}, k.selects, k.ignores)
	})
	if k.graceful != nil {
		run("delete gracefully", func(tester *tester.Tester) { tester.TestDeleteGraceful(k.graceful, k.grace) })
	}
}

// registryObject is an object with metadata.
type registryObject interface {
	runtime.Object
	metav1.Object
}

func (k registryKind) open(t *testing.T, etcd *host.Etcd, flag string) *genericregistry.Store {
	t.Helper()
	return k.openAll(t, etcd, flag).Store
}

// openAll returns all storages of the kind.
func (k registryKind) openAll(t *testing.T, etcd *host.Etcd, flag string) *registry.Stores {
	t.Helper()
	config := newRegistryConfig(t, etcd, scheme.Scheme, flag)
	stores, err := registrybatch.NewStores(scheme.Scheme, registryWatchingFromNow(config.RESTOptionsGetter))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, kind := range registryKinds {
			kind.store(stores).Store.Destroy()
		}
	})
	own := k.store(stores)
	store := own.Store
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return store.ReadinessCheck() == nil, nil
	}); err != nil {
		t.Fatalf("the watch cache does not become ready: %v", store.ReadinessCheck())
	}
	return own
}
