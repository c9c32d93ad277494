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

package taskset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
)

const (
	testNamespace = "ns"
	testSet       = "set"
)

var testKey = types.NamespacedName{Namespace: testNamespace, Name: testSet}

// errKilled is the error of all requests of a controller that was killed.
var errKilled = errors.New("killed")

// world is an API server, its workers and a clock, as seen by a controller. The test controls when everything happens,
// and when its events are delivered to the controller.
type world struct {
	t   testing.TB
	now time.Time

	mu      sync.Mutex
	version int
	sets    map[string]*batch.TaskSet
	history []*batch.TaskSet
	tasks   map[string]*batch.Task
	// events are the watch events that are not delivered yet, in order.
	events []event
	// created counts the tasks that were created, by their first index and failure count.
	created map[creation]int
	// chunks makes the controller create chunks from the start: the stored median is short. The worker of a chunk
	// releases all indexes but the first, so that each index is the only one of a task when the world is idle.
	chunks bool
	// inject, if set, may return errors for a request: before it has an effect, or after.
	inject func(verb, resource string) (before, after error)
	// admit, if set, mutates created tasks, as a webhook may.
	admit func(*batch.Task)
	// requests counts requests by verb and resource.
	requests map[string]int

	c *Controller
	// collect is Options.CollectGarbage of the next controller.
	collect   bool
	recorder  *recorder
	requeueAt time.Time
	// queued are the sets besides the one of testKey that must be reconciled, and when.
	queued map[types.NamespacedName]time.Time
}

// creation identifies the tasks that run an index after a number of failures.
type creation struct{ index, failures int }

// firstIndex returns the first index of a task, -1 without one.
func firstIndex(task *batch.Task) int {
	if ranges := task.CompletionIndexes(); len(ranges) > 0 {
		return ranges[0].First
	}
	return -1
}

type event struct {
	oldSet, set   *batch.TaskSet
	oldTask, task *batch.Task
}

// Now implements clock.PassiveClock.
func (w *world) Now() time.Time                  { return w.now }
func (w *world) Since(t time.Time) time.Duration { return w.now.Sub(t) }

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
		sets: map[string]*batch.TaskSet{}, tasks: map[string]*batch.Task{},
		created: map[creation]int{}, requests: map[string]int{}, recorder: &recorder{}, queued: map[types.NamespacedName]time.Time{},
	}
	w.startController()
	return w
}

// startStaleController starts a controller whose first list has the set as it was the given number of versions ago.
func (w *world) startStaleController(versions int) {
	now := w.sets
	if versions = min(versions, len(w.history)-1); versions > 0 {
		old := w.history[len(w.history)-1-versions]
		w.sets = maps.Clone(now)
		w.sets[old.Name] = old
	}
	listed := w.sets
	w.startController()
	w.sets = now
	for name, set := range listed {
		if now[name] == nil {
			w.events = append(w.events, event{oldSet: set})
		}
	}
	for _, set := range now {
		w.events = append(w.events, event{set: set})
	}
}

// startController starts a new controller and delivers a first list of all objects.
func (w *world) startController() {
	client := &fake.Clientset{}
	killed := new(bool)
	client.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		obj, err := w.react(action, killed)
		return true, obj, err
	})
	w.c = New(Options{Client: client, Recorder: w.recorder, CollectGarbage: w.collect})
	w.c.clock = w
	w.events = nil
	clear(w.queued)
	for _, set := range w.sets {
		w.events = append(w.events, event{set: set})
	}
	for _, task := range w.tasks {
		w.events = append(w.events, event{task: task})
	}
	w.deliver(len(w.events))
}

func (w *world) react(action clienttesting.Action, killed *bool) (runtime.Object, error) {
	resource := action.GetResource().Resource
	if action.GetSubresource() != "" {
		resource += "/" + action.GetSubresource()
	}
	if *killed {
		return nil, errKilled
	}
	var before, after error
	if w.inject != nil {
		before, after = w.inject(action.GetVerb(), resource)
	}
	if before != nil {
		*killed = before == errKilled
		return nil, before
	}
	w.requests[action.GetVerb()+" "+resource]++
	obj, err := w.handle(action)
	if after != nil {
		*killed = after == errKilled
		return nil, after
	}
	return obj, err
}

func (w *world) handle(action clienttesting.Action) (runtime.Object, error) {
	resource := action.GetResource().GroupResource()
	conflict := func(name string) error { return apierrors.NewConflict(resource, name, errors.New("it has changed")) }
	switch a := action.(type) {
	case clienttesting.GetActionImpl:
		if set := w.sets[a.Name]; resource.Resource == "tasksets" && set != nil {
			return set.DeepCopy(), nil
		}
		if task := w.tasks[a.Name]; resource.Resource == "tasks" && task != nil {
			return task.DeepCopy(), nil
		}
		return nil, apierrors.NewNotFound(resource, a.Name)
	case clienttesting.ListActionImpl:
		selector, err := labels.Parse(a.ListOptions.LabelSelector)
		if err != nil {
			return nil, err
		}
		list := &batch.TaskList{}
		for _, task := range w.tasks {
			if selector.Matches(labels.Set(task.Labels)) {
				list.Items = append(list.Items, *task.DeepCopy())
			}
		}
		return list, nil
	case clienttesting.CreateActionImpl:
		task := a.Object.DeepCopyObject().(*batch.Task)
		if w.tasks[task.Name] != nil {
			return nil, apierrors.NewAlreadyExists(resource, task.Name)
		}
		if w.admit != nil {
			w.admit(task)
		}
		task.UID = types.UID(fmt.Sprintf("task-%d", w.version))
		task.CreationTimestamp = metav1.Time{Time: w.now}
		task, err := rules().createTask(task)
		if err != nil {
			return nil, err
		}
		w.created[creation{firstIndex(task), state.FailureCount(task)}]++
		return w.putTask(task), nil
	case clienttesting.UpdateActionImpl:
		set := a.Object.DeepCopyObject().(*batch.TaskSet)
		old := w.sets[set.Name]
		switch {
		case old == nil:
			return nil, apierrors.NewNotFound(resource, set.Name)
		case set.ResourceVersion != old.ResourceVersion:
			return nil, conflict(set.Name)
		}
		update := rules().updateSet
		if a.Subresource == "status" {
			update = rules().updateStatus
			if state.FinishedCondition(old) != nil {
				w.t.Errorf("a finished set was written to: %+v", set.Status)
			}
		}
		set, err := update(set, old)
		if err != nil {
			w.t.Errorf("the server refuses a write of the controller: %v", err)
			return nil, err
		}
		return w.putSet(set), nil
	case clienttesting.DeleteActionImpl:
		if resource.Resource == "tasksets" {
			return nil, w.deleteSet(a.Name, ptr.Deref(a.DeleteOptions.PropagationPolicy, ""))
		}
		task := w.tasks[a.Name]
		switch {
		case task == nil:
			return nil, apierrors.NewNotFound(resource, a.Name)
		case *a.DeleteOptions.Preconditions.UID != task.UID,
			ptr.Deref(a.DeleteOptions.Preconditions.ResourceVersion, task.ResourceVersion) != task.ResourceVersion:
			return nil, conflict(a.Name)
		}
		w.deleteTask(task)
		return nil, nil
	case clienttesting.PatchActionImpl:
		task := w.tasks[a.Name]
		var patch batch.Task
		if err := json.Unmarshal(a.Patch, &patch); err != nil || task == nil {
			return nil, apierrors.NewNotFound(resource, a.Name)
		}
		if patch.ResourceVersion != task.ResourceVersion || patch.UID != task.UID {
			return nil, conflict(a.Name)
		}
		task = task.DeepCopy()
		task.OwnerReferences = patch.OwnerReferences
		return w.putTask(task), nil
	}
	return nil, fmt.Errorf("no answer to %T", action)
}

func (w *world) putSet(set *batch.TaskSet) *batch.TaskSet {
	w.version++
	set.ResourceVersion = strconv.Itoa(w.version)
	w.events = append(w.events, event{oldSet: w.sets[set.Name], set: set.DeepCopy()})
	w.sets[set.Name] = set.DeepCopy()
	w.history = append(w.history, w.sets[set.Name])
	if set.DeletionTimestamp != nil && len(set.Finalizers) == 0 {
		w.events = append(w.events, event{oldSet: w.sets[set.Name]})
		delete(w.sets, set.Name)
	}
	return set
}

func (w *world) putTask(task *batch.Task) *batch.Task {
	w.version++
	task.ResourceVersion = strconv.Itoa(w.version)
	w.events = append(w.events, event{oldTask: w.tasks[task.Name], task: task.DeepCopy()})
	w.tasks[task.Name] = task.DeepCopy()
	return task
}

func (w *world) deleteSet(name string, policy metav1.DeletionPropagation) error {
	set := w.sets[name].DeepCopy()
	set.DeletionTimestamp = &metav1.Time{Time: w.now}
	switch policy {
	case metav1.DeletePropagationForeground:
		set.Finalizers = append(set.Finalizers, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		set.Finalizers = append(set.Finalizers, metav1.FinalizerOrphanDependents)
	}
	w.putSet(set)
	return nil
}

// deleteTask deletes a task as the server does: a bound task terminates gracefully.
func (w *world) deleteTask(task *batch.Task) {
	task = task.DeepCopy()
	if task.Spec.WorkerName != "" && task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
		task.DeletionTimestamp = &metav1.Time{Time: w.now}
		w.putTask(task)
		return
	}
	w.removeTask(task)
}

func (w *world) removeTask(task *batch.Task) {
	w.version++
	w.events = append(w.events, event{oldTask: w.tasks[task.Name]})
	delete(w.tasks, task.Name)
}

// deliver delivers the next n events to the controller.
func (w *world) deliver(n int) {
	for _, e := range w.events[:n] {
		var keys []types.NamespacedName
		switch {
		case e.set != nil:
			keys = w.c.ObserveSet(e.set, false)
		case e.oldSet != nil:
			keys = w.c.ObserveSet(e.oldSet, true)
		default:
			keys = w.c.ObserveTask(w.cached(e.oldTask), w.cached(e.task))
		}
		for _, key := range keys {
			w.queued[key] = w.now
		}
	}
	w.events = w.events[n:]
}

// cached returns the task as the cache of the controller keeps it.
func (w *world) cached(task *batch.Task) *batch.Task {
	if task == nil {
		return nil
	}
	obj, err := cachefields.TaskSetTask(task)
	if err != nil {
		w.t.Fatal(err)
	}
	return obj.(*batch.Task)
}

// reconcile runs one sync of the set, and of the others that are queued, and checks the invariants of the state after
// it.
func (w *world) reconcile() error {
	w.queued[testKey] = w.now
	var errs []error
	for _, key := range slices.SortedFunc(maps.Keys(w.queued), func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) }) {
		if w.queued[key].After(w.now) {
			continue
		}
		delete(w.queued, key)
		requeueAfter, err := w.c.Reconcile(context.Background(), key)
		if err := w.c.store.CheckInvariants(); err != nil {
			w.t.Fatal(err)
		}
		if err != nil {
			w.queued[key] = w.now
		} else if requeueAfter > 0 {
			w.queued[key] = w.now.Add(requeueAfter)
		}
		errs = append(errs, err)
	}
	w.requeueAt = time.Time{}
	for _, at := range w.queued {
		if w.requeueAt.IsZero() || at.Before(w.requeueAt) {
			w.requeueAt = at
		}
	}
	return errors.Join(errs...)
}

// syncUntilIdle delivers all events and syncs until the controller has nothing to do at this time.
func (w *world) syncUntilIdle() {
	w.t.Helper()
	start := w.version
	for range 10_000 {
		w.deliver(len(w.events))
		err := w.reconcile()
		if err != nil {
			w.t.Fatal(err)
		}
		if w.splitChunks(start) {
			continue
		}
		if len(w.events) == 0 && (w.requeueAt.IsZero() || w.requeueAt.After(w.now.Add(time.Millisecond))) {
			return
		}
	}
	w.t.Fatal("the controller does not become idle")
}

// splitChunks releases all indexes of chunks but the first one, as a worker does whose command runs for long. Of the
// tasks that were created since a version, it deletes those whose index follows a released one, so that the indexes
// start in ascending order. It reports whether it has changed something.
func (w *world) splitChunks(since int) bool {
	released := math.MaxInt
	for _, task := range w.tasks {
		if w.chunks && task.Spec.Indexes != "" && task.Status.IndexLimit == nil && task.DeletionTimestamp == nil {
			task = task.DeepCopy()
			task.Status.IndexLimit = ptr.To[int32](1)
			w.putTask(task)
			released = min(released, indexes.At(task.IndexRanges(), 1))
		}
	}
	for _, task := range w.tasks {
		var version int
		if _, err := fmt.Sscanf(string(task.UID), "task-%d", &version); err == nil && version >= since && firstIndex(task) > released {
			w.removeTask(task)
		}
	}
	return released < math.MaxInt
}

// advance advances the clock and syncs whenever the controller has requested it.
func (w *world) advance(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for range 10_000 {
		w.syncUntilIdle()
		if w.requeueAt.IsZero() || w.requeueAt.After(end) {
			w.now = end
			w.syncUntilIdle()
			return
		}
		w.now = w.requeueAt
	}
	w.t.Fatal("the controller requests too many syncs")
}

// create creates the set, with the defaults and validation of the server.
func (w *world) create(spec batch.TaskSetSpec) {
	w.t.Helper()
	w.createNamed(testSet, spec)
}

// createNamed creates a set of that name.
func (w *world) createNamed(name string, spec batch.TaskSetSpec) {
	w.t.Helper()
	if len(spec.Template.Spec.Command) == 0 {
		spec.Template.Spec.Command = []string{"true"}
	}
	set, err := rules().createSet(&batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: testNamespace, Name: name, UID: types.UID(fmt.Sprintf("set-%d", w.version)), CreationTimestamp: metav1.Time{Time: w.now},
		},
		Spec: spec,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.chunks {
		set.Status.MedianMilliseconds = 10
	}
	w.putSet(set)
}

// change updates the set as a user does.
func (w *world) change(f func(*batch.TaskSet)) {
	w.t.Helper()
	if err := w.tryChange(f); err != nil {
		w.t.Fatal(err)
	}
}

// tryChange updates the set as a user does, and returns the error with which the server refuses the update.
func (w *world) tryChange(f func(*batch.TaskSet)) error {
	set := w.sets[testSet].DeepCopy()
	f(set)
	set, err := rules().updateSet(set, w.sets[testSet])
	if err == nil {
		w.putSet(set)
	}
	return err
}

// changeStatus updates the status as another client does.
func (w *world) changeStatus(f func(*batch.TaskSetStatus)) {
	w.t.Helper()
	set := w.sets[testSet].DeepCopy()
	f(&set.Status)
	set, err := rules().updateStatus(set, w.sets[testSet])
	if err != nil {
		w.t.Fatal(err)
	}
	w.putSet(set)
}

func (w *world) set() *batch.TaskSet { return w.sets[testSet] }

// task returns the unfinished task of an index.
func (w *world) task(index int) *batch.Task {
	w.t.Helper()
	for _, task := range w.tasks {
		if firstIndex(task) == index && task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
			return task.DeepCopy()
		}
	}
	w.t.Fatalf("index %d has no task: there are %v", index, w.active())
	return nil
}

// active returns the indexes of tasks that are neither finished nor being deleted.
func (w *world) active() []int {
	active := []int{}
	for _, task := range w.tasks {
		if task.DeletionTimestamp == nil && task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
			active = append(active, firstIndex(task))
		}
	}
	slices.Sort(active)
	return active
}

// phase returns the indexes of tasks in a phase.
func (w *world) phase(phase batch.TaskPhase) []int {
	found := []int{}
	for _, task := range w.tasks {
		if task.Status.Phase == phase {
			found = append(found, firstIndex(task))
		}
	}
	slices.Sort(found)
	return found
}

// run binds the tasks of indexes and starts them.
func (w *world) run(of ...int) {
	w.t.Helper()
	for _, index := range of {
		task := w.task(index)
		task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskRunning
		w.putTask(task)
	}
}

// end finishes the tasks of indexes with that exit code.
func (w *world) end(exitCode int32, of ...int) {
	w.t.Helper()
	for _, index := range of {
		w.endTask(w.task(index), exitCode)
	}
}

func (w *world) endTask(task *batch.Task, exitCode int32) {
	task = task.DeepCopy()
	task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskSucceeded
	if exitCode != 0 {
		task.Status.Phase = batch.TaskFailed
	}
	if task.Spec.Indexes != "" && exitCode == 0 {
		task.Status.CompletedCount++
	}
	task.Status.CompletionTime = &metav1.Time{Time: w.now}
	task.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: exitCode, FinishedAt: metav1.Time{Time: w.now}}
	w.putTask(task)
	if task.DeletionTimestamp != nil {
		w.removeTask(task)
	}
}

// conditions returns the conditions that are True, as type/reason, and Suspended with any status. It leaves out
// Reconciling, which the server derives.
func (w *world) conditions() []string {
	found := []string{}
	for _, c := range w.set().Status.Conditions {
		switch {
		case c.Type == batch.TaskSetReconciling:
		case c.Status == metav1.ConditionTrue:
			found = append(found, c.Type+"/"+c.Reason)
		case c.Type == batch.TaskSetSuspended:
			found = append(found, "not "+c.Type+"/"+c.Reason)
		}
	}
	return found
}

func (w *world) conditionMessage(name string) string {
	if c := meta.FindStatusCondition(w.set().Status.Conditions, name); c != nil {
		return c.Message
	}
	return ""
}

// recorder keeps the Events that were recorded.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) Eventf(_, _ runtime.Object, eventtype, reason, _, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, eventtype+" "+reason+": "+fmt.Sprintf(note, args...))
}
