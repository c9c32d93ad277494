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
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typedbatch "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testTasks checks binding, eviction, status and deletion of tasks, with the rights of administrators, the controller
// manager and workers.
func testTasks(t *testing.T, fx *fixture) {
	for _, c := range []struct {
		name  string
		check func(*taskSubject)
	}{
		{"binding assigns a worker", bindingAssigns},
		{"binding conflicts", bindingConflicts},
		{"binding preconditions", bindingPreconditions},
		{"binding is validated", bindingIsValidated},
		{"one of many bindings wins", oneBindingWins},
		{"eviction removes the worker", evictionUnassigns},
		{"eviction conflicts", evictionConflicts},
		{"eviction preconditions", evictionPreconditions},
		{"eviction is validated", evictionIsValidated},
		{"main resource does not assign", mainDoesNotAssign},
		{"fencing", fencing},
		{"finished phases are final", finishedPhaseIsFinal},
		{"mutable fields", mutableFields},
		{"deletion is graceful", deletionIsGraceful},
		{"deletion is only shortened", deletionIsOnlyShortened},
		{"deletion is graceful right after the binding", deletionRightAfterBinding},
		{"immediate deletion", immediateDeletion},
		{"secrets in the environment cause warnings", secretsCauseWarnings},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(newTaskSubject(t, fx)) })
	}
}

const (
	workerName  = "worker-a1b2c"
	incarnation = "i1"
)

// removeGates removes the gates of the table's task, so that it can be bound.
func removeGates(s *subject, name string) {
	s.Helper()
	kit.Must(s.mergePatch(name, `{"spec": {"schedulingGates": null}}`))(s)
}

// bindTask removes the gates of the table's task and binds it.
func bindTask(s *subject, name string) {
	s.Helper()
	removeGates(s, name)
	binding := s.subresources["binding"].payload(s, name, "binding")
	kit.Must(s.objects.Create(s.Context(), binding, metav1.CreateOptions{}, "binding"))(s)
}

// taskSubject is a namespace with a registered worker, and clients with the rights of each component.
type taskSubject struct {
	*testing.T
	config                    *rest.Config // of admin
	namespace                 string
	admin, controller, worker typedbatch.TaskInterface
}

func newTaskSubject(t *testing.T, fx *fixture) *taskSubject {
	namespace := fx.env.Namespace(t)
	worker := kit.Client(t, fx.env.Worker(t, namespace, workerName)).BatchV1alpha1()
	kit.Must(worker.Workers(namespace).Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: workerName}}, metav1.CreateOptions{}))(t)
	admin := fx.env.Admin(t)
	return &taskSubject{
		T:          t,
		config:     admin,
		namespace:  namespace,
		admin:      kit.Client(t, admin).BatchV1alpha1().Tasks(namespace),
		controller: kit.Client(t, fx.env.Controller(t)).BatchV1alpha1().Tasks(namespace),
		worker:     worker.Tasks(namespace),
	}
}

// create creates a task. Without changes, it can be bound.
func (s *taskSubject) create(name string, changes ...func(*batch.Task)) *batch.Task {
	s.Helper()
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}}}
	for _, change := range changes {
		change(task)
	}
	return kit.Must(s.admin.Create(s.Context(), task, metav1.CreateOptions{}))(s)
}

func (s *taskSubject) get(name string) *batch.Task {
	s.Helper()
	return kit.Must(s.admin.Get(s.Context(), name, metav1.GetOptions{}))(s)
}

func (s *taskSubject) expectNotFound(name string) {
	s.Helper()
	_, err := s.admin.Get(s.Context(), name, metav1.GetOptions{})
	expectError(s, err, http.StatusNotFound)
}

func newBinding(changes ...func(*batch.Binding)) *batch.Binding {
	binding := &batch.Binding{Target: batch.BindingTarget{Name: workerName, Incarnation: incarnation}}
	for _, change := range changes {
		change(binding)
	}
	return binding
}

// bind binds a task to the registered worker.
func (s *taskSubject) bind(name string, changes ...func(*batch.Binding)) error {
	_, err := s.controller.Bind(s.Context(), name, newBinding(changes...), metav1.CreateOptions{})
	return err
}

func (s *taskSubject) evict(name string, changes ...func(*batch.Eviction)) error {
	eviction := &batch.Eviction{Reason: "WorkerLost", Message: "it is gone"}
	for _, change := range changes {
		change(eviction)
	}
	_, err := s.controller.Evict(s.Context(), name, eviction, metav1.CreateOptions{})
	return err
}

// createBound creates a task and binds it to the registered worker.
func (s *taskSubject) createBound(name string, changes ...func(*batch.Task)) *batch.Task {
	s.Helper()
	s.create(name, changes...)
	kit.Check(s, s.bind(name))
	return s.get(name)
}

// updateStatus updates the status of a task as its worker does.
func (s *taskSubject) updateStatus(task *batch.Task, change func(*batch.TaskStatus)) (*batch.Task, error) {
	task = task.DeepCopy()
	change(&task.Status)
	return s.worker.UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
}

func setRunning(status *batch.TaskStatus) {
	now := metav1.Now().Rfc3339Copy()
	status.Phase, status.Attempts, status.StartTime = batch.TaskRunning, 1, &now
	status.State = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: now}}
}

func setSucceeded(status *batch.TaskStatus) {
	now := metav1.Now().Rfc3339Copy()
	status.Phase, status.CompletionTime = batch.TaskSucceeded, &now
	status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}}
}

func withFinalizer(task *batch.Task) { task.Finalizers = []string{"example.com/hold"} }
func withGate(task *batch.Task) {
	task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/gate"}}
}

// expectBound checks the worker and incarnation of a task. Both are empty for a task that is not bound.
func (s *taskSubject) expectBound(task *batch.Task, worker, incarnation string) {
	s.Helper()
	expectEqual(s, "spec.workerName", task.Spec.WorkerName, worker)
	expectEqual(s, "status.incarnation", task.Status.Incarnation, incarnation)
}

func bindingAssigns(s *taskSubject) {
	created := s.create("a")
	response := kit.Must(s.controller.Bind(s.Context(), "a", newBinding(), metav1.CreateOptions{}))(s)
	expectEqual(s, "the status of the response", response.Status, metav1.StatusSuccess)
	task := s.get("a")
	s.expectBound(task, workerName, incarnation)
	expectEqual(s, "status.phase", task.Status.Phase, batch.TaskPending)
	expectEqual(s, "status.state", task.Status.State, batch.TaskState{})
	scheduled := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled)
	if scheduled == nil || scheduled.Status != metav1.ConditionTrue || scheduled.Reason != batch.TaskReasonBound {
		s.Errorf("got condition TaskScheduled %+v, want True with reason %s", scheduled, batch.TaskReasonBound)
	}
	expectEqual(s, "metadata.generation", task.Generation, created.Generation) // a binding does not change it, as with Pods
	list := kit.Must(s.worker.List(s.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=" + workerName}))(s)
	expectEqual(s, "the worker's tasks", list.Items, []batch.Task{*task})
}

func bindingConflicts(s *taskSubject) {
	s.createBound("bound")
	task := s.createBound("finished")
	kit.Must(s.updateStatus(task, setSucceeded))(s)
	s.create("deleted", withFinalizer)
	kit.Check(s, s.admin.Delete(s.Context(), "deleted", metav1.DeleteOptions{}))
	s.create("gated", withGate)
	for name, why := range map[string]string{"bound": workerName, "finished": "Succeeded", "deleted": "being deleted", "gated": "example.com/gate"} {
		before := s.get(name)
		expectError(s, s.bind(name), http.StatusConflict, why)
		expectEqual(s, "the task", s.get(name), before)
	}
	expectError(s, s.bind("absent"), http.StatusNotFound, `"absent" not found`)
}

func bindingPreconditions(s *taskSubject) {
	task := s.create("a", withGate)
	task.Labels, task.Spec.SchedulingGates = map[string]string{"a": "b"}, nil
	task = kit.Must(s.admin.Update(s.Context(), task, metav1.UpdateOptions{}))(s)
	for _, wrong := range []func(*batch.Binding){
		func(b *batch.Binding) { b.UID = "another" },
		func(b *batch.Binding) { b.ResourceVersion = "1" },
	} {
		expectError(s, s.bind("a", wrong), http.StatusConflict)
		expectEqual(s, "spec.workerName", s.get("a").Spec.WorkerName, "")
	}
	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Name, b.UID, b.ResourceVersion = "a", task.UID, task.ResourceVersion }))
}

func bindingIsValidated(s *taskSubject) {
	s.create("a")
	for field, change := range map[string]func(*batch.Binding){
		"target.name":        func(b *batch.Binding) { b.Target.Name = "" },
		"target.incarnation": func(b *batch.Binding) { b.Target.Incarnation = "" },
	} {
		expectInvalid(s, s.bind("a", change), field)
	}
	expectInvalid(s, s.bind("a", func(b *batch.Binding) { b.Target.Name = "Not valid" }), "target.name")
	expectError(s, s.bind("a", func(b *batch.Binding) { b.Name = "b" }), http.StatusBadRequest)
	s.expectBound(s.get("a"), "", "")
	_, err := s.admin.Bind(s.Context(), "a", newBinding(), metav1.CreateOptions{})
	if err != nil && !apierrors.IsForbidden(err) { // in standalone mode, administrators may do everything
		s.Errorf("binding by an administrator: got %v, want success or 403", err)
	}
}

func oneBindingWins(s *taskSubject) {
	s.create("a")
	errs := make([]error, 10)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			errs[i] = s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = fmt.Sprint("i", i) })
		})
	}
	all.Wait()
	winner := ""
	for i, err := range errs {
		switch {
		case err == nil && winner == "":
			winner = fmt.Sprint("i", i)
		case !apierrors.IsConflict(err):
			s.Errorf("binding %d: got %v, want one success and conflicts", i, err)
		}
	}
	s.expectBound(s.get("a"), workerName, winner)
}

func evictionUnassigns(s *taskSubject) {
	task := kit.Must(s.updateStatus(s.createBound("a"), setRunning))(s)
	eviction := &batch.Eviction{Reason: "WorkerLost", Message: "it is gone"}
	response := kit.Must(s.controller.Evict(s.Context(), "a", eviction, metav1.CreateOptions{}))(s)
	expectEqual(s, "the status of the response", response.Status, metav1.StatusSuccess)
	evicted := s.get("a")
	s.expectBound(evicted, "", "")
	expectEqual(s, "status.phase", evicted.Status.Phase, batch.TaskPending)
	expectEqual(s, "status.state", evicted.Status.State, batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: "WorkerLost", Message: "it is gone"}})
	expectEqual(s, "status.disruptions", evicted.Status.Disruptions, int32(1))
	expectEqual(s, "status.attempts", evicted.Status.Attempts, task.Status.Attempts)
	expectEqual(s, "status.startTime", evicted.Status.StartTime, task.Status.StartTime)
	expectEqual(s, "metadata.generation", evicted.Generation, task.Generation)
	target := meta.FindStatusCondition(evicted.Status.Conditions, batch.DisruptionTarget)
	if target == nil || target.Status != metav1.ConditionTrue || target.Reason != "WorkerLost" || target.Message != "it is gone" {
		s.Errorf("got condition DisruptionTarget %+v, want True with reason and message of the eviction", target)
	}
	if meta.IsStatusConditionTrue(evicted.Status.Conditions, batch.TaskScheduled) {
		s.Error("got condition TaskScheduled True after the eviction")
	}

	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = "i2" }))
	bound := s.get("a")
	s.expectBound(bound, workerName, "i2")
	if meta.FindStatusCondition(bound.Status.Conditions, batch.DisruptionTarget) != nil {
		s.Error("got condition DisruptionTarget after the next binding, want none")
	}
	kit.Check(s, s.evict("a", func(e *batch.Eviction) { e.Reason = "" }))
	evicted = s.get("a")
	expectEqual(s, "status.disruptions", evicted.Status.Disruptions, int32(2))
	expectEqual(s, "the default reason", evicted.Status.State.Waiting.Reason, "Evicted")
}

func evictionConflicts(s *taskSubject) {
	s.create("unbound")
	kit.Must(s.updateStatus(s.createBound("finished"), setSucceeded))(s)
	s.createBound("deleted")
	kit.Check(s, s.admin.Delete(s.Context(), "deleted", metav1.DeleteOptions{}))
	for name, why := range map[string]string{"unbound": "not bound", "finished": "Succeeded", "deleted": "being deleted"} {
		before := s.get(name)
		expectError(s, s.evict(name), http.StatusConflict, why)
		expectEqual(s, "the task", s.get(name).Spec, before.Spec)
	}
	expectError(s, s.evict("absent"), http.StatusNotFound, `"absent" not found`)
}

func evictionPreconditions(s *taskSubject) {
	task := s.createBound("a")
	for _, wrong := range []metav1.Preconditions{
		{UID: ptr.To[types.UID]("another")}, {ResourceVersion: ptr.To("1")}, {UID: &task.UID, ResourceVersion: ptr.To("1")},
	} {
		expectError(s, s.evict("a", func(e *batch.Eviction) { e.Preconditions = &wrong }), http.StatusConflict)
	}
	expectEqual(s, "the task", s.get("a"), task)
	right := metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion}
	kit.Check(s, s.evict("a", func(e *batch.Eviction) { e.Name, e.Preconditions = "a", &right }))
}

func evictionIsValidated(s *taskSubject) {
	task := s.createBound("a")
	expectInvalid(s, s.evict("a", func(e *batch.Eviction) { e.Reason = "not one word" }), "reason")
	expectError(s, s.evict("a", func(e *batch.Eviction) { e.Name = "b" }), http.StatusBadRequest)
	expectEqual(s, "the task", s.get("a"), task)
}

func mainDoesNotAssign(s *taskSubject) {
	task := s.createBound("a")
	for _, worker := range []string{"", "worker-d3e4f"} {
		changed := task.DeepCopy()
		changed.Spec.WorkerName = worker
		expectEqual(s, "the task", kit.Must(s.admin.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), task)
	}
	changed := task.DeepCopy()
	changed.Status.Incarnation = "i2"
	expectEqual(s, "the task", kit.Must(s.admin.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), task)
	changed.Labels = map[string]string{"a": "b"}
	s.expectBound(kit.Must(s.admin.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), workerName, incarnation)
}

func fencing(s *taskSubject) {
	bound := s.createBound("a")
	task := kit.Must(s.updateStatus(bound, setRunning))(s)
	expectEqual(s, "status.phase", task.Status.Phase, batch.TaskRunning)
	task = kit.Must(s.updateStatus(task, func(status *batch.TaskStatus) { status.Attempts = 2 }))(s)

	for why, stale := range map[string]func(*batch.TaskStatus){
		`"i2"`:      func(status *batch.TaskStatus) { status.Incarnation = "i2" },
		`""`:        func(status *batch.TaskStatus) { status.Incarnation = "" },
		"attempt 2": func(status *batch.TaskStatus) { status.Attempts = 1 },
	} {
		_, err := s.updateStatus(task, stale)
		expectError(s, err, http.StatusConflict, why)
		changed := task.DeepCopy()
		stale(&changed.Status)
		_, err = s.controller.UpdateStatus(s.Context(), changed, metav1.UpdateOptions{})
		expectError(s, err, http.StatusConflict, why)
	}
	_, err := s.controller.Patch(s.Context(), "a", types.MergePatchType, []byte(`{"status": {"incarnation": "i2"}}`), metav1.PatchOptions{}, "status")
	expectError(s, err, http.StatusConflict, `"i2"`)
	_, err = s.updateStatus(bound, setRunning)
	expectError(s, err, http.StatusConflict)
	unversioned := task.DeepCopy()
	unversioned.ResourceVersion = ""
	_, err = s.worker.UpdateStatus(s.Context(), unversioned, metav1.UpdateOptions{})
	expectInvalid(s, err, "metadata.resourceVersion")
	expectEqual(s, "the task", s.get("a"), task)

	// After an eviction and another binding, updates of the first incarnation are refused, whatever their resourceVersion.
	kit.Check(s, s.evict("a"))
	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = "i2" }))
	fresh := s.get("a")
	_, err = s.updateStatus(fresh, func(status *batch.TaskStatus) { setSucceeded(status); status.Incarnation = incarnation })
	expectError(s, err, http.StatusConflict, `"i2"`, `"i1"`)
	expectEqual(s, "the task", s.get("a"), fresh)
}

func finishedPhaseIsFinal(s *taskSubject) {
	task := kit.Must(s.updateStatus(s.createBound("a"), setRunning))(s)
	_, err := s.updateStatus(task, func(status *batch.TaskStatus) { status.StartTime = nil })
	expectInvalid(s, err, "status.startTime")
	_, err = s.updateStatus(task, func(status *batch.TaskStatus) { status.Disruptions = 1 })
	expectInvalid(s, err, "status.disruptions")
	task = kit.Must(s.updateStatus(task, setSucceeded))(s)
	for _, phase := range []batch.TaskPhase{batch.TaskPending, batch.TaskRunning, batch.TaskFailed} {
		_, err = s.updateStatus(task, func(status *batch.TaskStatus) { status.Phase = phase })
		expectInvalid(s, err, "status.phase")
	}
	kit.Must(s.updateStatus(task, func(status *batch.TaskStatus) { status.Progress = "5/5" }))(s)
}

func mutableFields(s *taskSubject) {
	s.create("a", func(task *batch.Task) {
		task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/one"}, {Name: "example.com/two"}}
		task.Spec.Tolerations = []batch.Toleration{{Key: "a", Operator: batch.TolerationOpExists}}
	})
	apply := func(kind types.PatchType, text string) *batch.Task {
		s.Helper()
		return kit.Must(s.admin.Patch(s.Context(), "a", kind, []byte(text), metav1.PatchOptions{}))(s)
	}
	task := apply(types.StrategicMergePatchType, `{"spec": {"schedulingGates": [{"name": "example.com/one", "$patch": "delete"}]}}`)
	expectEqual(s, "the gates", task.Spec.SchedulingGates, []batch.TaskSchedulingGate{{Name: "example.com/two"}})
	apply(types.MergePatchType, `{"spec": {"activeDeadlineSeconds": 100}}`)
	task = apply(types.MergePatchType, `{"spec": {"activeDeadlineSeconds": 50}}`)
	expectEqual(s, "the deadline", *task.Spec.ActiveDeadlineSeconds, int64(50))
	task = apply(types.JSONPatchType, `[{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "b", "operator": "Exists"}}]`)
	expectEqual(s, "the number of tolerations", len(task.Spec.Tolerations), 2)
	expectEqual(s, "metadata.generation", task.Generation, int64(5))
}

// delete deletes a task. A negative grace period means the default.
func (s *taskSubject) delete(name string, grace int64) {
	s.Helper()
	options := metav1.DeleteOptions{}
	if grace >= 0 {
		options.GracePeriodSeconds = &grace
	}
	kit.Check(s, s.admin.Delete(s.Context(), name, options))
}

// expectTerminating checks that the task is being deleted with the grace period, in seconds, and returns it.
func (s *taskSubject) expectTerminating(name string, grace int64) *batch.Task {
	s.Helper()
	task := s.get(name)
	if task.DeletionTimestamp == nil || task.DeletionGracePeriodSeconds == nil {
		s.Fatalf("%s is not being deleted: %+v", name, task.ObjectMeta)
	}
	expectEqual(s, "metadata.deletionGracePeriodSeconds", *task.DeletionGracePeriodSeconds, grace)
	if left := time.Until(task.DeletionTimestamp.Time); left > time.Duration(grace)*time.Second || left < time.Duration(grace)*time.Second-time.Minute {
		s.Errorf("got metadata.deletionTimestamp in %s, want %d s", left, grace)
	}
	return task
}

func deletionIsGraceful(s *taskSubject) {
	s.createBound("default")
	s.delete("default", -1)
	s.expectTerminating("default", 30)

	s.createBound("own", func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300) })
	kit.Check(s, s.admin.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=own"}))
	s.expectTerminating("own", 300)

	kit.Must(s.updateStatus(s.createBound("asked"), setRunning))(s)
	if err := s.worker.Delete(s.Context(), "asked", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		s.Errorf("deletion by a worker of a task that is not being deleted: got %v, want 403", err)
	}
	s.delete("asked", 600)
	task := s.expectTerminating("asked", 600)
	s.expectBound(task, workerName, incarnation)
	// The worker stops the command, updates the status, and then deletes the task.
	kit.Must(s.updateStatus(task, setSucceeded))(s)
	s.expectTerminating("asked", 600)
	kit.Check(s, s.worker.Delete(s.Context(), "asked", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	s.expectNotFound("asked")
}

func deletionIsOnlyShortened(s *taskSubject) {
	s.createBound("a")
	s.delete("a", 600)
	first := s.expectTerminating("a", 600)
	s.delete("a", 900)
	expectEqual(s, "the task", s.get("a"), first)
	s.delete("a", -1)
	expectEqual(s, "the task", s.get("a"), first)
	s.delete("a", 300)
	s.expectTerminating("a", 300)
	changed := s.get("a")
	changed.DeletionTimestamp, changed.DeletionGracePeriodSeconds = nil, nil
	kit.Must(s.admin.Update(s.Context(), changed, metav1.UpdateOptions{}))(s)
	s.expectTerminating("a", 300)
	s.delete("a", 0)
	s.expectNotFound("a")
}

// deletionRightAfterBinding deletes tasks that may not be bound yet in the server's watch cache. The server's first
// attempt to delete then conflicts, and the next one must decide again, by the stored task.
func deletionRightAfterBinding(s *taskSubject) {
	var all sync.WaitGroup
	for i := range 10 {
		name := fmt.Sprint("a", i)
		s.create(name)
		all.Go(func() {
			if err := s.bind(name); err != nil {
				s.Error(err)
				return
			}
			options := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](600)}
			if err := s.admin.Delete(s.Context(), name, options); err != nil {
				s.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 10 {
		s.expectTerminating(fmt.Sprint("a", i), 600)
	}
}

func immediateDeletion(s *taskSubject) {
	s.create("unbound")
	kit.Must(s.updateStatus(s.createBound("finished"), setSucceeded))(s)
	s.createBound("without-grace", func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0) })
	for _, name := range []string{"unbound", "finished", "without-grace"} {
		s.delete(name, -1)
		s.expectNotFound(name)
	}
	s.createBound("forced")
	s.delete("forced", 0)
	s.expectNotFound("forced")

	// A finalizer delays an immediate deletion.
	s.create("held", withFinalizer)
	s.delete("held", -1)
	task := s.expectTerminating("held", 0)
	task.Finalizers = nil
	kit.Must(s.admin.Update(s.Context(), task, metav1.UpdateOptions{}))(s)
	s.expectNotFound("held")
}

func secretsCauseWarnings(s *taskSubject) {
	warnings := &warningRecorder{}
	config := *s.config
	config.WarningHandler = warnings
	tasks := kit.Client(s, &config).BatchV1alpha1().Tasks(s.namespace)
	kit.Must(tasks.Create(s.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{{Name: "DB_PASSWORD", Value: "x"}, {Name: "PLAIN", Value: "x"}}},
	}, metav1.CreateOptions{}))(s)
	if len(warnings.texts) != 1 {
		s.Errorf("got warnings %q, want one of DB_PASSWORD", warnings.texts)
	}
}

// warningRecorder keeps the warnings of responses.
type warningRecorder struct{ texts []string }

// HandleWarningHeader implements rest.WarningHandler.
func (c *warningRecorder) HandleWarningHeader(_ int, _, text string) { c.texts = append(c.texts, text) }
