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

package registry

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

// kind is what upstream's suite must know of a kind.
type kind struct {
	store func(*registrybatch.Stores) *registry.Stores
	// valid has all defaults, and a name.
	valid runtime.Object
	// invalid may not be created.
	invalid []runtime.Object
	// update is a change that is allowed, badUpdates are not.
	update     tester.UpdateFunc
	badUpdates []tester.UpdateFunc
	// graceful, where there is such, is an object whose deletion takes the grace period, in seconds.
	graceful runtime.Object
	grace    int64
	// forget, where there is such, removes what two creates of the same object must not share.
	forget func(runtime.Object)
	// selects and ignores are selectors of the valid object called foo1.
	selects, ignores []fields.Set
}

func change[T runtime.Object](f func(T)) tester.UpdateFunc {
	return func(object runtime.Object) runtime.Object {
		object = object.DeepCopyObject()
		f(object.(T))
		return object
	}
}

var (
	named     = metav1.ObjectMeta{Name: "foo"}
	validTask = &batch.Task{
		ObjectMeta: named,
		Spec: batch.TaskSpec{
			QueueName: "default", Command: []string{"true"}, BackoffLimit: ptr.To[int32](0), TerminationGracePeriodSeconds: ptr.To[int64](30),
			SchedulingGates: []batch.TaskSchedulingGate{{Name: "example.com/gate"}}, CrashLimit: ptr.To[int32](5),
		},
		Status: batch.TaskStatus{Phase: batch.TaskPending},
	}
	validSet = &batch.TaskSet{ObjectMeta: named, Spec: batch.TaskSetSpec{
		Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](3), CompletionMode: ptr.To(batch.IndexedCompletion), BackoffLimit: ptr.To[int32](6),
		Suspend: ptr.To(false), QueueName: "default", Template: batch.TaskTemplateSpec{Spec: batch.TaskSpec{
			QueueName: "default", Command: []string{"true"}, BackoffLimit: ptr.To[int32](0), TerminationGracePeriodSeconds: ptr.To[int64](30),
			CrashLimit: ptr.To[int32](5),
		}},
	}}
	validQueue = &batch.TaskQueue{ObjectMeta: named, Spec: batch.TaskQueueSpec{Weight: ptr.To[int32](1), StopPolicy: ptr.To(batch.StopPolicyNone)}}
	validLease = &batch.WorkerLease{ObjectMeta: named, Spec: batch.WorkerLeaseSpec{HolderIdentity: "i", LeaseDurationSeconds: ptr.To[int32](40)}}
)

var kinds = map[string]kind{
	"tasks": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.Tasks },
		valid: validTask,
		invalid: []runtime.Object{
			change(func(task *batch.Task) { task.Spec.Command = nil })(validTask),
			change(func(task *batch.Task) { task.Spec.Priority = 1_000_000_001 })(validTask),
			change(func(task *batch.Task) { task.Spec.Tolerations = []batch.Toleration{{Effect: "Never"}} })(validTask),
		},
		update: change(func(task *batch.Task) { task.Spec.SchedulingGates = nil }),
		badUpdates: []tester.UpdateFunc{
			change(func(task *batch.Task) { task.Spec.Command = []string{"false"} }),
			change(func(task *batch.Task) { task.Spec.BackoffLimit = ptr.To[int32](3) }),
			change(func(task *batch.Task) {
				task.Spec.SchedulingGates = append(task.Spec.SchedulingGates, batch.TaskSchedulingGate{Name: "example.com/other"})
			}),
		},
		graceful: change(func(task *batch.Task) { task.Spec.WorkerName = "w" })(validTask),
		grace:    30,
		selects: []fields.Set{
			{"metadata.name": "foo1"}, {"spec.workerName": ""}, {"spec.queueName": "default"}, {"status.phase": "Pending", "spec.workerName": ""},
		},
		ignores: []fields.Set{{"metadata.name": "foo2"}, {"spec.workerName": "w"}, {"status.phase": "Running"}},
	},
	"tasksets": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.TaskSets },
		valid: validSet,
		invalid: []runtime.Object{
			change(func(set *batch.TaskSet) { set.Spec.Completions = nil })(validSet),
			change(func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = nil })(validSet),
			change(func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](-1) })(validSet),
		},
		update: change(func(set *batch.TaskSet) { set.Spec.Parallelism, set.Spec.Suspend = ptr.To[int32](2), ptr.To(true) }),
		badUpdates: []tester.UpdateFunc{
			change(func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = []string{"false"} }),
			change(func(set *batch.TaskSet) { set.Spec.Completions = ptr.To[int32](4) }),
			change(func(set *batch.TaskSet) { set.Spec.Template.Spec.TTLSecondsAfterFinished = ptr.To[int32](7) }),
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
		valid: validQueue,
		invalid: []runtime.Object{
			change(func(queue *batch.TaskQueue) { queue.Spec.Weight = ptr.To[int32](0) })(validQueue),
			change(func(queue *batch.TaskQueue) { queue.Spec.StopPolicy = ptr.To(batch.StopPolicy("Halt")) })(validQueue),
			change(func(queue *batch.TaskQueue) {
				queue.Spec.Resources.Limits = batch.ResourceList{"gpu": resource.MustParse("1")}
			})(validQueue),
		},
		update:     change(func(queue *batch.TaskQueue) { queue.Spec.MaxRunningTasks = ptr.To[int32](7) }),
		badUpdates: []tester.UpdateFunc{change(func(queue *batch.TaskQueue) { queue.Spec.MaxRunningTasks = ptr.To[int32](-7) })},
		selects:    []fields.Set{{"metadata.name": "foo1"}},
		ignores:    []fields.Set{{"metadata.name": "foo2"}},
	},
	"workers": {
		store: func(s *registrybatch.Stores) *registry.Stores { return s.Workers },
		valid: &batch.Worker{ObjectMeta: named},
		invalid: []runtime.Object{
			&batch.Worker{ObjectMeta: named, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "a b", Effect: batch.TaintEffectNoSchedule}}}},
			&batch.Worker{ObjectMeta: named, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "a"}}}},
		},
		update:     change(func(worker *batch.Worker) { worker.Spec.Unschedulable = true }),
		badUpdates: []tester.UpdateFunc{change(func(worker *batch.Worker) { worker.Spec.Taints = []batch.Taint{{Effect: "Never"}} })},
		selects:    []fields.Set{{"metadata.name": "foo1"}, {"spec.unschedulable": "false"}},
		ignores:    []fields.Set{{"spec.unschedulable": "true"}},
	},
	"workerleases": {
		store:   func(s *registrybatch.Stores) *registry.Stores { return s.WorkerLeases },
		valid:   validLease,
		invalid: []runtime.Object{change(func(lease *batch.WorkerLease) { lease.Spec.LeaseDurationSeconds = ptr.To[int32](0) })(validLease)},
		update: change(func(lease *batch.WorkerLease) {
			lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(metav1.Unix(1, 5000).Time))
		}),
		badUpdates: []tester.UpdateFunc{change(func(lease *batch.WorkerLease) { lease.Spec.LeaseDurationSeconds = ptr.To[int32](-1) })},
		selects:    []fields.Set{{"metadata.name": "foo1"}},
		ignores:    []fields.Set{{"metadata.name": "foo2"}},
	},
}

func TestStores(t *testing.T) {
	etcd := host.EtcdForTest(t)
	if len(kinds) != len(registrybatch.Kinds) {
		t.Errorf("there are %d kinds, and entries for %d", len(registrybatch.Kinds), len(kinds))
	}
	for _, k := range registrybatch.Kinds {
		resource := k.Describe().GroupResource.Resource
		kind, ok := kinds[resource]
		if !ok {
			t.Errorf("%s: add an entry to kinds", resource)
			continue
		}
		for name, flag := range map[string]string{"cached": "--watch-cache=true", "uncached": "--watch-cache=false"} {
			t.Run(resource+"/"+name, func(t *testing.T) { kind.test(t, etcd, flag) })
		}
	}
}

func (k kind) test(t *testing.T, etcd *host.Etcd, flag string) {
	t.Parallel() // most of the time is spent waiting for events that must not come
	// The suite writes to what it is given, and kinds are tested twice at the same time.
	k.valid, k.invalid = k.valid.DeepCopyObject(), slices.Clone(k.invalid)
	for i := range k.invalid {
		k.invalid[i] = k.invalid[i].DeepCopyObject()
	}
	if k.graceful != nil {
		k.graceful = k.graceful.DeepCopyObject()
	}
	// Every test of the suite has stores of its own: it leaves objects behind.
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
		labelled := change(func(o metav1Object) {
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

// metav1Object is an object with metadata.
type metav1Object interface {
	runtime.Object
	metav1.Object
}

func (k kind) open(t *testing.T, etcd *host.Etcd, flag string) *genericregistry.Store {
	t.Helper()
	return k.openAll(t, etcd, flag).Store
}

// openAll gives all storages of the kind.
func (k kind) openAll(t *testing.T, etcd *host.Etcd, flag string) *registry.Stores {
	t.Helper()
	config := newStorageConfig(t, etcd, scheme.Scheme, flag)
	stores, err := registrybatch.NewStores(scheme.Scheme, watchingFromNow(config.RESTOptionsGetter))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, kind := range kinds {
			kind.store(stores).Store.Destroy()
		}
	})
	own := k.store(stores)
	store := own.Store
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return store.ReadinessCheck() == nil, nil
	}); err != nil {
		t.Fatalf("the watch cache does not get ready: %v", store.ReadinessCheck())
	}
	return own
}
