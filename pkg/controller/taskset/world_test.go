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
	"slices"
	"strconv"
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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
)

const (
	testNamespace = "ns"
	testSet       = "set"
)

var testKey = types.NamespacedName{Namespace: testNamespace, Name: testSet}

// errDead is what all requests of a controller end in that has been killed.
var errDead = errors.New("killed")

// world is an API server, its workers and a clock, as a controller sees them: everything happens when the test says so, and the
// controller hears of it when the test delivers it.
type world struct {
	t   testing.TB
	now time.Time

	mu      sync.Mutex
	version int
	sets    map[string]*batch.TaskSet
	former  []*batch.TaskSet
	tasks   map[string]*batch.Task
	// news are what watches have not delivered yet, in order.
	news []news
	// created counts the tasks that were created of each index, by failures before them.
	created map[start]int
	// fail, if set, may refuse a request before it has an effect, or let it end in an error after it.
	fail func(verb, resource string) (before, after error)
	// admit, if set, changes tasks that are created as a webhook may.
	admit func(*batch.Task)
	// requests counts by verb and resource.
	requests map[string]int

	c *Controller
	// collect is Options.CollectGarbage.
	collect bool
	events  *recorder
	again   time.Time
}

type news struct {
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
		created: map[start]int{}, requests: map[string]int{}, events: &recorder{},
	}
	w.start()
	return w
}

// startBehind starts a controller whose first list of sets is an old one.
func (w *world) startBehind(versions int) {
	now := w.sets
	if versions = min(versions, len(w.former)-1); versions > 0 {
		old := w.former[len(w.former)-1-versions]
		w.sets = map[string]*batch.TaskSet{old.Name: old}
	}
	w.start()
	w.sets = now
	for _, set := range now {
		w.news = append(w.news, news{set: set})
	}
}

// start starts a controller, which knows nothing but what a first list gives it.
func (w *world) start() {
	client := &fake.Clientset{}
	incarnation := new(bool)
	client.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		obj, err := w.answer(action, incarnation)
		return true, obj, err
	})
	w.c = New(Options{Client: client, Recorder: w.events, CollectGarbage: w.collect})
	w.c.clock = w
	w.news = nil
	for _, set := range w.sets {
		w.news = append(w.news, news{set: set})
	}
	for _, task := range w.tasks {
		w.news = append(w.news, news{task: task})
	}
	w.deliver(len(w.news))
}

func (w *world) answer(action clienttesting.Action, dead *bool) (runtime.Object, error) {
	resource := action.GetResource().Resource
	if action.GetSubresource() != "" {
		resource += "/" + action.GetSubresource()
	}
	if *dead {
		return nil, errDead
	}
	var before, after error
	if w.fail != nil {
		before, after = w.fail(action.GetVerb(), resource)
	}
	if before != nil {
		*dead = before == errDead
		return nil, before
	}
	w.requests[action.GetVerb()+" "+resource]++
	obj, err := w.handle(action)
	if after != nil {
		*dead = after == errDead
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
		w.created[start{indexOf(task), failuresOf(task)}]++
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
			if finished(old) != nil {
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
	w.news = append(w.news, news{oldSet: w.sets[set.Name], set: set.DeepCopy()})
	w.sets[set.Name] = set.DeepCopy()
	w.former = append(w.former, w.sets[set.Name])
	if set.DeletionTimestamp != nil && len(set.Finalizers) == 0 {
		w.news = append(w.news, news{oldSet: w.sets[set.Name]})
		delete(w.sets, set.Name)
	}
	return set
}

func (w *world) putTask(task *batch.Task) *batch.Task {
	w.version++
	task.ResourceVersion = strconv.Itoa(w.version)
	w.news = append(w.news, news{oldTask: w.tasks[task.Name], task: task.DeepCopy()})
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

// deleteTask deletes as the server does: a running task first gets the time to end.
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
	w.news = append(w.news, news{oldTask: w.tasks[task.Name]})
	delete(w.tasks, task.Name)
}

// deliver tells the controller the next n news.
func (w *world) deliver(n int) {
	for _, e := range w.news[:n] {
		switch {
		case e.set != nil:
			w.c.ObserveSet(e.set, false)
		case e.oldSet != nil:
			w.c.ObserveSet(e.oldSet, true)
		default:
			w.c.ObserveTask(e.oldTask, e.task)
		}
	}
	w.news = w.news[n:]
}

// reconcile has the controller make one pass.
func (w *world) reconcile() error {
	again, err := w.c.Reconcile(context.Background(), testKey)
	w.again = time.Time{}
	if again > 0 {
		w.again = w.now.Add(again)
	}
	return err
}

// settle delivers all news and has the controller make passes until it has nothing more to do at this time.
func (w *world) settle() {
	w.t.Helper()
	for range 10_000 {
		w.deliver(len(w.news))
		err := w.reconcile()
		if err != nil {
			w.t.Fatal(err)
		}
		if len(w.news) == 0 && (w.again.IsZero() || w.again.After(w.now.Add(time.Millisecond))) {
			return
		}
	}
	w.t.Fatal("the controller does not come to rest")
}

// pass lets time pass, with passes when the controller has asked for them.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for range 10_000 {
		w.settle()
		if w.again.IsZero() || w.again.After(end) {
			w.now = end
			w.settle()
			return
		}
		w.now = w.again
	}
	w.t.Fatal("the controller asks for too many passes")
}

// create creates the set, defaulted and checked as the server does it.
func (w *world) create(spec batch.TaskSetSpec) {
	w.t.Helper()
	if len(spec.Template.Spec.Command) == 0 {
		spec.Template.Spec.Command = []string{"true"}
	}
	set, err := rules().createSet(&batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: testNamespace, Name: testSet, UID: types.UID(fmt.Sprintf("set-%d", w.version)), CreationTimestamp: metav1.Time{Time: w.now},
		},
		Spec: spec,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.putSet(set)
}

// change changes the set as a person does.
func (w *world) change(f func(*batch.TaskSet)) {
	w.t.Helper()
	if err := w.tryChange(f); err != nil {
		w.t.Fatal(err)
	}
}

// tryChange returns why the server refuses the change, if it does.
func (w *world) tryChange(f func(*batch.TaskSet)) error {
	set := w.sets[testSet].DeepCopy()
	f(set)
	set, err := rules().updateSet(set, w.sets[testSet])
	if err == nil {
		w.putSet(set)
	}
	return err
}

// changeStatus changes the status as another client does.
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

// task gives the unfinished task of an index.
func (w *world) task(index int) *batch.Task {
	w.t.Helper()
	for _, task := range w.tasks {
		if indexOf(task) == index && task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
			return task.DeepCopy()
		}
	}
	w.t.Fatalf("index %d has no task: there are %v", index, w.active())
	return nil
}

// active gives the indexes of tasks that are neither finished nor being deleted.
func (w *world) active() []int {
	active := []int{}
	for _, task := range w.tasks {
		if task.DeletionTimestamp == nil && task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
			active = append(active, indexOf(task))
		}
	}
	slices.Sort(active)
	return active
}

// phase gives the indexes of tasks in a phase.
func (w *world) phase(phase batch.TaskPhase) []int {
	found := []int{}
	for _, task := range w.tasks {
		if task.Status.Phase == phase {
			found = append(found, indexOf(task))
		}
	}
	slices.Sort(found)
	return found
}

// run has a worker run the task of an index.
func (w *world) run(indexes ...int) {
	w.t.Helper()
	for _, index := range indexes {
		task := w.task(index)
		task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskRunning
		w.putTask(task)
	}
}

// end has the task of an index end with that exit code.
func (w *world) end(exitCode int32, indexes ...int) {
	w.t.Helper()
	for _, index := range indexes {
		w.endTask(w.task(index), exitCode)
	}
}

func (w *world) endTask(task *batch.Task, exitCode int32) {
	task = task.DeepCopy()
	task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskSucceeded
	if exitCode != 0 {
		task.Status.Phase = batch.TaskFailed
	}
	task.Status.CompletionTime = &metav1.Time{Time: w.now}
	task.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: exitCode, FinishedAt: metav1.Time{Time: w.now}}
	w.putTask(task)
	if task.DeletionTimestamp != nil {
		w.removeTask(task)
	}
}

// conditions returns the conditions that are True, as type/reason, and Suspended in any case, without the one that the server derives.
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

// recorder keeps Events.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) Eventf(_, _ runtime.Object, eventtype, reason, _, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, eventtype+" "+reason+": "+fmt.Sprintf(note, args...))
}
