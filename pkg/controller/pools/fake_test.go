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

package pools

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
)

const (
	testNamespace = "render"
	testPool      = "blender"
)

// errKilled is the error of a request during which the controller is killed.
var errKilled = errors.New("killed")

// world is a cluster with one pool: the API server, the StatefulSet controller, pods with workers, and the scheduler,
// which knows of workers only what deliver has shown it. Nothing happens by itself.
type world struct {
	t          *testing.T
	now        time.Time
	controller *Controller
	recorder   *events.FakeRecorder
	// inject returns errors of a request, before and after its effect.
	inject func(verb string) (before, after error)

	mu       sync.Mutex // for parallel requests of the controller
	version  int
	requests []string

	object   *metav1.PartialObjectMetadata
	replicas int
	written  []int // all changes of replicas
	pods     map[int]*pod
	workers  map[string]*batch.Worker

	// waiting tasks, and the worker of each bound task as the server has it. assumed are bindings in flight.
	waiting int
	bound   map[int]string
	assumed map[int]string
	nextID  int
	// seen are the workers as the scheduler has seen them, and idleSince is when it saw the last task of each end.
	seen      map[string]*batch.Worker
	idleSince map[string]time.Time
	set       *batch.TaskSet
}

// pod is a pod of the StatefulSet.
type pod struct {
	registered, terminating bool
	incarnation             string
}

func newWorld(t *testing.T, least, most, replicas int) *world {
	w := &world{
		t: t, now: start, replicas: replicas, pods: map[int]*pod{}, workers: map[string]*batch.Worker{}, bound: map[int]string{},
		assumed: map[int]string{}, seen: map[string]*batch.Worker{}, idleSince: map[string]time.Time{},
	}
	settings := pool.Settings{Min: int32(least), Max: int32(most), Idle: time.Minute, Worker: pool.Worker{
		Allocatable: batch.ResourceList{"tasks": resource.MustParse("2")},
	}}
	annotations, err := settings.Annotations()
	if err != nil {
		t.Fatal(err)
	}
	w.object = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: testNamespace, Name: testPool, UID: "pool", Generation: 1, ResourceVersion: w.newVersion(),
		Labels: map[string]string{batch.LabelPool: testPool}, Annotations: annotations,
	}}
	w.restart()
	return w
}

func (w *world) newVersion() string {
	w.version++
	return strconv.Itoa(w.version)
}

// restart replaces the controller and the scheduler by new ones that have seen everything.
func (w *world) restart() {
	w.recorder = events.NewFakeRecorder(1000)
	w.controller = &Controller{
		options: Options{
			Scheduler: w, Recorder: w.recorder, Target: time.Minute,
			TaskSet: func(context.Context, cache.ObjectName) (*batch.TaskSet, error) { return w.set, nil },
		},
		api: w, filters: plugins.NewFilters(), queue: reconcile.NewQueue[string](""), namespaces: map[string]*namespaceMemory{},
		informer: cache.NewSharedIndexInformer(nil, &metav1.PartialObjectMetadata{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
	}
	w.deliverStatefulSet()
	w.controller.observe(w.object, 1)
	w.assumed = map[int]string{}
	w.deliver()
	for name := range w.seen {
		w.idleSince[name] = w.now
	}
}

// deliverStatefulSet shows the controller the StatefulSet.
func (w *world) deliverStatefulSet() {
	if err := w.controller.informer.GetIndexer().Add(w.object.DeepCopy()); err != nil {
		w.t.Fatal(err)
	}
}

// deliver shows the scheduler all workers.
func (w *world) deliver() {
	for name := range w.workers {
		if w.seen[name] == nil {
			w.idleSince[name] = w.now
		}
	}
	w.seen = maps.Clone(w.workers)
}

// sync runs the controller once. It returns the error of the sync.
func (w *world) sync() (time.Duration, error) {
	w.controller.clock = testingclock.NewFakePassiveClock(w.now)
	return w.controller.sync(w.t.Context(), testNamespace)
}

// settle lets everything happen until nothing does, without time.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		before := w.version
		w.deliverStatefulSet()
		w.deliver()
		w.schedule()
		w.bindAll()
		if _, err := w.sync(); err != nil {
			w.t.Fatal(err)
		}
		w.reconcilePods()
		for ordinal := range w.pods {
			w.advancePod(ordinal)
		}
		if w.version == before {
			return
		}
	}
	w.t.Fatal("the pool does not settle")
}

// reconcilePods does what the StatefulSet controller does. It must not remove a pod whose worker has tasks.
func (w *world) reconcilePods() {
	for ordinal := range w.replicas {
		if w.pods[ordinal] == nil {
			w.pods[ordinal] = &pod{}
			w.change()
		}
	}
	for ordinal, p := range w.pods {
		if ordinal < w.replicas || p.terminating {
			continue
		}
		if tasks := w.tasksOf(pool.WorkerName(testPool, ordinal)); tasks > 0 {
			w.t.Errorf("the pod of worker %d is removed with %d tasks", ordinal, tasks)
		}
		p.terminating = true
		w.change()
	}
}

// change sets a new version of the StatefulSet, as its controller does when it writes the status.
func (w *world) change() { w.object.ResourceVersion = w.newVersion() }

// advancePod registers the worker of a pod, or ends a pod that is terminating.
func (w *world) advancePod(ordinal int) {
	p, name := w.pods[ordinal], pool.WorkerName(testPool, ordinal)
	switch {
	case p == nil || p.registered && !p.terminating:
	case !p.terminating:
		p.registered, p.incarnation = true, w.newVersion()
		worker := w.workers[name]
		if worker == nil {
			worker = &batch.Worker{ObjectMeta: metav1.ObjectMeta{
				Namespace: testNamespace, Name: name, UID: types.UID(w.newVersion()), Labels: map[string]string{batch.LabelPool: testPool},
			}}
		}
		w.setStatus(worker, p.incarnation, metav1.ConditionTrue, "WorkerReady")
	default:
		if worker := w.workers[name]; worker != nil && p.registered {
			w.setStatus(worker, p.incarnation, metav1.ConditionFalse, reasonStopped)
		}
		delete(w.pods, ordinal)
		w.change()
	}
}

func (w *world) setStatus(worker *batch.Worker, incarnation string, ready metav1.ConditionStatus, reason string) {
	worker = worker.DeepCopy()
	worker.Status.Incarnation = incarnation
	worker.Status.Capacity = batch.ResourceList{"tasks": resource.MustParse("2")}
	worker.Status.Allocatable = worker.Status.Capacity
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: ready, Reason: reason})
	worker.ResourceVersion = w.newVersion()
	w.workers[worker.Name] = worker
}

// tasksOf returns the number of tasks that the server has on a worker.
func (w *world) tasksOf(worker string) int {
	n := 0
	for _, name := range w.bound {
		if name == worker {
			n++
		}
	}
	return n
}

// schedule assumes waiting tasks on the workers that the scheduler has seen, the lowest ordinals first.
func (w *world) schedule() {
	names := slices.SortedFunc(maps.Keys(w.seen), func(a, b string) int { return w.rank(a) - w.rank(b) })
	for _, name := range names {
		state := framework.NewWorkerState(w.seen[name])
		for state.InService() && w.waiting > 0 && w.schedulerTasks(name) < 2 {
			w.waiting--
			w.nextID++
			w.assumed[w.nextID] = name
		}
	}
}

func (w *world) rank(name string) int {
	ordinal, _ := framework.PoolOrdinal(w.seen[name])
	return ordinal
}

// bindAll stores all bindings in flight.
func (w *world) bindAll() {
	for id := range w.assumed {
		w.bind(id)
	}
}

func (w *world) bind(id int) {
	w.bound[id] = w.assumed[id]
	delete(w.assumed, id)
	w.version++
}

// finish ends a bound task.
func (w *world) finish(id int) {
	name := w.bound[id]
	delete(w.bound, id)
	w.version++
	if w.schedulerTasks(name) == 0 {
		w.idleSince[name] = w.now
	}
}

// schedulerTasks returns how many tasks the scheduler has on a worker.
func (w *world) schedulerTasks(worker string) int {
	n := w.tasksOf(worker)
	for _, name := range w.assumed {
		if name == worker {
			n++
		}
	}
	return n
}

// OnChange implements Scheduler.
func (w *world) OnChange(func(string)) {}

// Snapshot implements Scheduler.
func (w *world) Snapshot(string) (*framework.Snapshot, bool) {
	s := &framework.Snapshot{Bound: map[types.UID]int{}}
	for name, worker := range w.seen {
		info := framework.NewWorkerInfo(worker)
		info.Tasks = int64(w.schedulerTasks(name))
		s.Workers = append(s.Workers, framework.WorkerSnapshot{WorkerInfo: info, IdleSince: w.idleSince[name]})
	}
	if w.waiting > 0 {
		group := framework.TaskGroup{Task: framework.NewTaskInfo(&batch.Task{Spec: batch.TaskSpec{Pool: testPool}}), Count: w.waiting}
		if w.set != nil {
			group.Controller = metav1.NewControllerRef(w.set, batch.SchemeGroupVersion.WithKind("TaskSet"))
			s.Bound[w.set.UID] = len(w.bound) + len(w.assumed)
		}
		s.Waiting = append(s.Waiting, group)
	}
	return s, true
}

// do runs the effect of a request.
func (w *world) do(ctx context.Context, verb string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, verb)
	var before, after error
	if w.inject != nil {
		before, after = w.inject(verb)
	}
	if err := errors.Join(ctx.Err(), before); err != nil {
		return err
	}
	return errors.Join(effect(), after)
}

func conflict() error {
	return apierrors.NewConflict(schema.GroupResource{Resource: "any"}, "", errors.New("another version"))
}

func notFound() error { return apierrors.NewNotFound(schema.GroupResource{Resource: "any"}, "") }

func (w *world) getScale(ctx context.Context, _ cache.ObjectName) (scale *autoscalingv1.Scale, err error) {
	err = w.do(ctx, "get scale", func() error {
		scale = &autoscalingv1.Scale{ObjectMeta: w.object.ObjectMeta, Spec: autoscalingv1.ScaleSpec{Replicas: int32(w.replicas)}}
		scale.Status.Replicas = int32(len(w.pods))
		return nil
	})
	return scale, err
}

func (w *world) applyScale(ctx context.Context, object *metav1.PartialObjectMetadata, replicas int32) error {
	return w.do(ctx, "apply scale", func() error {
		if object.ResourceVersion != w.object.ResourceVersion {
			return conflict()
		}
		settings, err := pool.Parse(w.object)
		if err != nil {
			return err
		}
		if replicas < settings.Min || replicas > settings.Max {
			w.t.Errorf("wrote %d replicas, outside of %d to %d", replicas, settings.Min, settings.Max)
		}
		w.own(pool.FieldManager, metav1.ManagedFieldsOperationApply)
		w.setReplicas(int(replicas))
		return nil
	})
}

// own makes a manager the owner of spec.replicas.
func (w *world) own(manager string, operation metav1.ManagedFieldsOperationType) {
	w.object.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: operation, Subresource: "scale", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{"f:replicas":{}}}`)},
	}}
}

// setReplicas changes the spec of the StatefulSet.
func (w *world) setReplicas(replicas int) {
	if replicas != w.replicas {
		w.replicas = replicas
		w.object.Generation++
		w.written = append(w.written, replicas)
	}
	w.change()
}

func (w *world) createWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error) {
	worker = worker.DeepCopy()
	return worker, w.do(ctx, "create worker", func() error {
		if w.workers[worker.Name] != nil {
			return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "workers"}, worker.Name)
		}
		worker.ResourceVersion = w.newVersion()
		worker.UID = types.UID("worker-" + worker.ResourceVersion)
		w.workers[worker.Name] = worker
		return nil
	})
}

func (w *world) updateWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error) {
	worker = worker.DeepCopy()
	return worker, w.do(ctx, "update worker", func() error {
		if err := w.precondition(worker); err != nil {
			return err
		}
		worker.ResourceVersion = w.newVersion()
		w.workers[worker.Name] = worker
		return nil
	})
}

func (w *world) deleteWorker(ctx context.Context, worker *batch.Worker) error {
	return w.do(ctx, "delete worker", func() error {
		if err := w.precondition(worker); err != nil {
			return err
		}
		w.version++
		delete(w.workers, worker.Name)
		return nil
	})
}

func (w *world) precondition(worker *batch.Worker) error {
	switch stored := w.workers[worker.Name]; {
	case stored == nil || stored.UID != worker.UID:
		return notFound()
	case stored.ResourceVersion != worker.ResourceVersion:
		return conflict()
	}
	return nil
}

func (w *world) hasTasks(ctx context.Context, worker cache.ObjectName) (has bool, err error) {
	return has, w.do(ctx, "list tasks", func() error {
		has = w.tasksOf(worker.Name) > 0
		return nil
	})
}

// cordoned returns the workers that are cordoned by the controller.
func (w *world) cordoned() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(w.workers)) {
		if w.workers[name].Annotations[pool.AnnotationCordoned] != "" {
			names = append(names, name)
		}
	}
	return names
}

// expect fails the test unless the pool has so many replicas.
func (w *world) expect(replicas int) {
	w.t.Helper()
	if w.replicas != replicas {
		w.t.Fatalf("got %d replicas, want %d; written: %v", w.replicas, replicas, w.written)
	}
}

// noted returns the events since the last call.
func (w *world) noted() string {
	all := ""
	for {
		select {
		case event := <-w.recorder.Events:
			all += fmt.Sprintln(event)
		default:
			return all
		}
	}
}
