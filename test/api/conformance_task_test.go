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

// testTasks checks what is particular to tasks, by those who do it: people, the scheduler and a worker, with their own rights.
func testTasks(t *testing.T, st *stage) {
	for _, c := range []struct {
		name  string
		check func(*taskScene)
	}{
		{"binding sets the pair", bindingSetsThePair},
		{"binding conflicts", bindingConflicts},
		{"binding preconditions", bindingPreconditions},
		{"binding is validated", bindingIsValidated},
		{"one of many bindings wins", oneBindingWins},
		{"eviction clears the pair", evictionClearsThePair},
		{"eviction conflicts", evictionConflicts},
		{"eviction preconditions", evictionPreconditions},
		{"eviction is validated", evictionIsValidated},
		{"main does not write the pair", mainDoesNotWriteThePair},
		{"fencing", fencing},
		{"a final phase is final", finalPhase},
		{"what may change", whatMayChange},
		{"deletion is graceful", gracefulDeletion},
		{"deletion is only shortened", deletionIsOnlyShortened},
		{"deletion is graceful right after the binding", deletionRightAfterBinding},
		{"deletion is at once", deletionAtOnce},
		{"secrets in the environment warn", secretsWarn},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(newTaskScene(t, st)) })
	}
}

const (
	workerName  = "worker-a1b2c"
	incarnation = "i1"
)

// removeGates lets a task of the table be bound.
func removeGates(s *scene, name string) {
	s.Helper()
	kit.Must(s.mergePatch(name, `{"spec": {"schedulingGates": null}}`))(s)
}

// bindTask binds a task of the table.
func bindTask(s *scene, name string) {
	s.Helper()
	removeGates(s, name)
	binding := s.subresources["binding"].write(s, name, "binding")
	kit.Must(s.objects.Create(s.Context(), binding, metav1.CreateOptions{}, "binding"))(s)
}

// taskScene is a namespace with a registered worker, and the clients of those who deal with tasks.
type taskScene struct {
	*testing.T
	config                     *rest.Config // the person's
	namespace                  string
	person, controller, worker typedbatch.TaskInterface
}

func newTaskScene(t *testing.T, st *stage) *taskScene {
	namespace := st.env.Namespace(t)
	worker := kit.Client(t, st.env.Worker(t, namespace, workerName)).BatchV1alpha1()
	kit.Must(worker.Workers(namespace).Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: workerName}}, metav1.CreateOptions{}))(t)
	person := st.env.Admin(t)
	return &taskScene{
		T:          t,
		config:     person,
		namespace:  namespace,
		person:     kit.Client(t, person).BatchV1alpha1().Tasks(namespace),
		controller: kit.Client(t, st.env.Controller(t)).BatchV1alpha1().Tasks(namespace),
		worker:     worker.Tasks(namespace),
	}
}

// create creates a task that can be bound, but for what the changes do.
func (s *taskScene) create(name string, changes ...func(*batch.Task)) *batch.Task {
	s.Helper()
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}}}
	for _, change := range changes {
		change(task)
	}
	return kit.Must(s.person.Create(s.Context(), task, metav1.CreateOptions{}))(s)
}

func (s *taskScene) get(name string) *batch.Task {
	s.Helper()
	return kit.Must(s.person.Get(s.Context(), name, metav1.GetOptions{}))(s)
}

func (s *taskScene) mustBeGone(name string) {
	s.Helper()
	_, err := s.person.Get(s.Context(), name, metav1.GetOptions{})
	refused(s, err, http.StatusNotFound)
}

func newBinding(changes ...func(*batch.Binding)) *batch.Binding {
	binding := &batch.Binding{Target: batch.BindingTarget{Name: workerName, Incarnation: incarnation}}
	for _, change := range changes {
		change(binding)
	}
	return binding
}

// bind binds a task to the worker.
func (s *taskScene) bind(name string, changes ...func(*batch.Binding)) error {
	_, err := s.controller.Bind(s.Context(), name, newBinding(changes...), metav1.CreateOptions{})
	return err
}

func (s *taskScene) evict(name string, changes ...func(*batch.Eviction)) error {
	eviction := &batch.Eviction{Reason: "WorkerLost", Message: "it is gone"}
	for _, change := range changes {
		change(eviction)
	}
	_, err := s.controller.Evict(s.Context(), name, eviction, metav1.CreateOptions{})
	return err
}

// createBound creates a task that is bound to the worker.
func (s *taskScene) createBound(name string, changes ...func(*batch.Task)) *batch.Task {
	s.Helper()
	s.create(name, changes...)
	kit.Check(s, s.bind(name))
	return s.get(name)
}

// report writes the status of a task as its worker does.
func (s *taskScene) report(task *batch.Task, change func(*batch.TaskStatus)) (*batch.Task, error) {
	task = task.DeepCopy()
	change(&task.Status)
	return s.worker.UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
}

func running(status *batch.TaskStatus) {
	now := metav1.Now().Rfc3339Copy()
	status.Phase, status.Attempts, status.StartTime = batch.TaskRunning, 1, &now
	status.State = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: now}}
}

func succeeded(status *batch.TaskStatus) {
	now := metav1.Now().Rfc3339Copy()
	status.Phase, status.CompletionTime = batch.TaskSucceeded, &now
	status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}}
}

func held(task *batch.Task) { task.Finalizers = []string{"example.com/hold"} }
func gated(task *batch.Task) {
	task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/gate"}}
}

// mustBeBound fails unless the task has that worker and incarnation, in spec and status alike.
func (s *taskScene) mustBeBound(task *batch.Task, worker, incarnation string) {
	s.Helper()
	mustEqual(s, "spec.workerName", task.Spec.WorkerName, worker)
	mustEqual(s, "status.incarnation", task.Status.Incarnation, incarnation)
}

func bindingSetsThePair(s *taskScene) {
	created := s.create("a")
	answer := kit.Must(s.controller.Bind(s.Context(), "a", newBinding(), metav1.CreateOptions{}))(s)
	mustEqual(s, "the answer", answer.Status, metav1.StatusSuccess)
	task := s.get("a")
	s.mustBeBound(task, workerName, incarnation)
	mustEqual(s, "status.phase", task.Status.Phase, batch.TaskPending)
	mustEqual(s, "status.state", task.Status.State, batch.TaskState{})
	scheduled := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled)
	if scheduled == nil || scheduled.Status != metav1.ConditionTrue || scheduled.Reason != batch.TaskReasonBound {
		s.Errorf("TaskScheduled is %+v, want True with reason %s", scheduled, batch.TaskReasonBound)
	}
	mustEqual(s, "metadata.generation", task.Generation, created.Generation) // as for Pods, bound by no change of what is wanted
	list := kit.Must(s.worker.List(s.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=" + workerName}))(s)
	mustEqual(s, "the worker's tasks", list.Items, []batch.Task{*task})
}

func bindingConflicts(s *taskScene) {
	s.createBound("bound")
	task := s.createBound("finished")
	kit.Must(s.report(task, succeeded))(s)
	s.create("deleted", held)
	kit.Check(s, s.person.Delete(s.Context(), "deleted", metav1.DeleteOptions{}))
	s.create("gated", gated)
	for name, why := range map[string]string{"bound": workerName, "finished": "Succeeded", "deleted": "being deleted", "gated": "example.com/gate"} {
		before := s.get(name)
		refused(s, s.bind(name), http.StatusConflict, why)
		mustEqual(s, "the task", s.get(name), before)
	}
	refused(s, s.bind("absent"), http.StatusNotFound, `"absent" not found`)
}

func bindingPreconditions(s *taskScene) {
	task := s.create("a", gated)
	task.Labels, task.Spec.SchedulingGates = map[string]string{"a": "b"}, nil
	task = kit.Must(s.person.Update(s.Context(), task, metav1.UpdateOptions{}))(s)
	for _, wrong := range []func(*batch.Binding){
		func(b *batch.Binding) { b.UID = "another" },
		func(b *batch.Binding) { b.ResourceVersion = "1" },
	} {
		refused(s, s.bind("a", wrong), http.StatusConflict)
		mustEqual(s, "spec.workerName", s.get("a").Spec.WorkerName, "")
	}
	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Name, b.UID, b.ResourceVersion = "a", task.UID, task.ResourceVersion }))
}

func bindingIsValidated(s *taskScene) {
	s.create("a")
	for field, change := range map[string]func(*batch.Binding){
		"target.name":        func(b *batch.Binding) { b.Target.Name = "" },
		"target.incarnation": func(b *batch.Binding) { b.Target.Incarnation = "" },
	} {
		invalid(s, s.bind("a", change), field)
	}
	invalid(s, s.bind("a", func(b *batch.Binding) { b.Target.Name = "Not valid" }), "target.name")
	refused(s, s.bind("a", func(b *batch.Binding) { b.Name = "b" }), http.StatusBadRequest)
	s.mustBeBound(s.get("a"), "", "")
	_, err := s.person.Bind(s.Context(), "a", newBinding(), metav1.CreateOptions{})
	if err != nil && !apierrors.IsForbidden(err) { // standalone, the administrator may do all
		s.Errorf("a person who binds: %v", err)
	}
}

func oneBindingWins(s *taskScene) {
	s.create("a")
	answers := make([]error, 10)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			answers[i] = s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = fmt.Sprint("i", i) })
		})
	}
	all.Wait()
	winner := ""
	for i, err := range answers {
		switch {
		case err == nil && winner == "":
			winner = fmt.Sprint("i", i)
		case !apierrors.IsConflict(err):
			s.Errorf("binding %d: got %v, want a conflict beside one success", i, err)
		}
	}
	s.mustBeBound(s.get("a"), workerName, winner)
}

func evictionClearsThePair(s *taskScene) {
	task := kit.Must(s.report(s.createBound("a"), running))(s)
	eviction := &batch.Eviction{Reason: "WorkerLost", Message: "it is gone"}
	answer := kit.Must(s.controller.Evict(s.Context(), "a", eviction, metav1.CreateOptions{}))(s)
	mustEqual(s, "the answer", answer.Status, metav1.StatusSuccess)
	evicted := s.get("a")
	s.mustBeBound(evicted, "", "")
	mustEqual(s, "status.phase", evicted.Status.Phase, batch.TaskPending)
	mustEqual(s, "status.state", evicted.Status.State, batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: "WorkerLost", Message: "it is gone"}})
	mustEqual(s, "status.disruptions", evicted.Status.Disruptions, int32(1))
	mustEqual(s, "status.attempts", evicted.Status.Attempts, task.Status.Attempts)
	mustEqual(s, "status.startTime", evicted.Status.StartTime, task.Status.StartTime)
	mustEqual(s, "metadata.generation", evicted.Generation, task.Generation)
	target := meta.FindStatusCondition(evicted.Status.Conditions, batch.DisruptionTarget)
	if target == nil || target.Status != metav1.ConditionTrue || target.Reason != "WorkerLost" || target.Message != "it is gone" {
		s.Errorf("DisruptionTarget is %+v, want True with the eviction's reason and message", target)
	}
	if meta.IsStatusConditionTrue(evicted.Status.Conditions, batch.TaskScheduled) {
		s.Error("TaskScheduled is still True")
	}

	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = "i2" }))
	bound := s.get("a")
	s.mustBeBound(bound, workerName, "i2")
	if meta.FindStatusCondition(bound.Status.Conditions, batch.DisruptionTarget) != nil {
		s.Error("DisruptionTarget has outlived the next binding")
	}
	kit.Check(s, s.evict("a", func(e *batch.Eviction) { e.Reason = "" }))
	evicted = s.get("a")
	mustEqual(s, "status.disruptions", evicted.Status.Disruptions, int32(2))
	mustEqual(s, "the default reason", evicted.Status.State.Waiting.Reason, "Evicted")
}

func evictionConflicts(s *taskScene) {
	s.create("unbound")
	kit.Must(s.report(s.createBound("finished"), succeeded))(s)
	s.createBound("deleted")
	kit.Check(s, s.person.Delete(s.Context(), "deleted", metav1.DeleteOptions{}))
	for name, why := range map[string]string{"unbound": "not bound", "finished": "Succeeded", "deleted": "being deleted"} {
		before := s.get(name)
		refused(s, s.evict(name), http.StatusConflict, why)
		mustEqual(s, "the task", s.get(name).Spec, before.Spec)
	}
	refused(s, s.evict("absent"), http.StatusNotFound, `"absent" not found`)
}

func evictionPreconditions(s *taskScene) {
	task := s.createBound("a")
	for _, wrong := range []metav1.Preconditions{
		{UID: ptr.To[types.UID]("another")}, {ResourceVersion: ptr.To("1")}, {UID: &task.UID, ResourceVersion: ptr.To("1")},
	} {
		refused(s, s.evict("a", func(e *batch.Eviction) { e.Preconditions = &wrong }), http.StatusConflict)
	}
	mustEqual(s, "the task", s.get("a"), task)
	right := metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion}
	kit.Check(s, s.evict("a", func(e *batch.Eviction) { e.Name, e.Preconditions = "a", &right }))
}

func evictionIsValidated(s *taskScene) {
	task := s.createBound("a")
	invalid(s, s.evict("a", func(e *batch.Eviction) { e.Reason = "not one word" }), "reason")
	refused(s, s.evict("a", func(e *batch.Eviction) { e.Name = "b" }), http.StatusBadRequest)
	mustEqual(s, "the task", s.get("a"), task)
}

func mainDoesNotWriteThePair(s *taskScene) {
	task := s.createBound("a")
	for _, worker := range []string{"", "worker-d3e4f"} {
		changed := task.DeepCopy()
		changed.Spec.WorkerName = worker
		mustEqual(s, "the task", kit.Must(s.person.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), task)
	}
	changed := task.DeepCopy()
	changed.Status.Incarnation = "i2"
	mustEqual(s, "the task", kit.Must(s.person.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), task)
	changed.Labels = map[string]string{"a": "b"}
	s.mustBeBound(kit.Must(s.person.Update(s.Context(), changed, metav1.UpdateOptions{}))(s), workerName, incarnation)
}

func fencing(s *taskScene) {
	bound := s.createBound("a")
	task := kit.Must(s.report(bound, running))(s)
	mustEqual(s, "status.phase", task.Status.Phase, batch.TaskRunning)
	task = kit.Must(s.report(task, func(status *batch.TaskStatus) { status.Attempts = 2 }))(s)

	for why, stale := range map[string]func(*batch.TaskStatus){
		`"i2"`:      func(status *batch.TaskStatus) { status.Incarnation = "i2" },
		`""`:        func(status *batch.TaskStatus) { status.Incarnation = "" },
		"attempt 2": func(status *batch.TaskStatus) { status.Attempts = 1 },
	} {
		_, err := s.report(task, stale)
		refused(s, err, http.StatusConflict, why)
		changed := task.DeepCopy()
		stale(&changed.Status)
		_, err = s.controller.UpdateStatus(s.Context(), changed, metav1.UpdateOptions{})
		refused(s, err, http.StatusConflict, why)
	}
	_, err := s.controller.Patch(s.Context(), "a", types.MergePatchType, []byte(`{"status": {"incarnation": "i2"}}`), metav1.PatchOptions{}, "status")
	refused(s, err, http.StatusConflict, `"i2"`)
	_, err = s.report(bound, running)
	refused(s, err, http.StatusConflict)
	unversioned := task.DeepCopy()
	unversioned.ResourceVersion = ""
	_, err = s.worker.UpdateStatus(s.Context(), unversioned, metav1.UpdateOptions{})
	invalid(s, err, "metadata.resourceVersion")
	mustEqual(s, "the task", s.get("a"), task)

	// Once it has been evicted, and even bound again, what the first incarnation writes is refused however fresh its version.
	kit.Check(s, s.evict("a"))
	kit.Check(s, s.bind("a", func(b *batch.Binding) { b.Target.Incarnation = "i2" }))
	fresh := s.get("a")
	_, err = s.report(fresh, func(status *batch.TaskStatus) { succeeded(status); status.Incarnation = incarnation })
	refused(s, err, http.StatusConflict, `"i2"`, `"i1"`)
	mustEqual(s, "the task", s.get("a"), fresh)
}

func finalPhase(s *taskScene) {
	task := kit.Must(s.report(s.createBound("a"), running))(s)
	_, err := s.report(task, func(status *batch.TaskStatus) { status.StartTime = nil })
	invalid(s, err, "status.startTime")
	_, err = s.report(task, func(status *batch.TaskStatus) { status.Disruptions = 1 })
	invalid(s, err, "status.disruptions")
	task = kit.Must(s.report(task, succeeded))(s)
	for _, phase := range []batch.TaskPhase{batch.TaskPending, batch.TaskRunning, batch.TaskFailed} {
		_, err = s.report(task, func(status *batch.TaskStatus) { status.Phase = phase })
		invalid(s, err, "status.phase")
	}
	kit.Must(s.report(task, func(status *batch.TaskStatus) { status.Progress = "5/5" }))(s)
}

func whatMayChange(s *taskScene) {
	s.create("a", func(task *batch.Task) {
		task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/one"}, {Name: "example.com/two"}}
		task.Spec.Tolerations = []batch.Toleration{{Key: "a", Operator: batch.TolerationOpExists}}
	})
	apply := func(kind types.PatchType, text string) *batch.Task {
		s.Helper()
		return kit.Must(s.person.Patch(s.Context(), "a", kind, []byte(text), metav1.PatchOptions{}))(s)
	}
	task := apply(types.StrategicMergePatchType, `{"spec": {"schedulingGates": [{"name": "example.com/one", "$patch": "delete"}]}}`)
	mustEqual(s, "the gates", task.Spec.SchedulingGates, []batch.TaskSchedulingGate{{Name: "example.com/two"}})
	apply(types.MergePatchType, `{"spec": {"activeDeadlineSeconds": 100}}`)
	task = apply(types.MergePatchType, `{"spec": {"activeDeadlineSeconds": 50}}`)
	mustEqual(s, "the deadline", *task.Spec.ActiveDeadlineSeconds, int64(50))
	task = apply(types.JSONPatchType, `[{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "b", "operator": "Exists"}}]`)
	mustEqual(s, "how many tolerations there are", len(task.Spec.Tolerations), 2)
	mustEqual(s, "metadata.generation", task.Generation, int64(5))
}

// delete deletes a task, with a grace period unless it is negative.
func (s *taskScene) delete(name string, grace int64) {
	s.Helper()
	options := metav1.DeleteOptions{}
	if grace >= 0 {
		options.GracePeriodSeconds = &grace
	}
	kit.Check(s, s.person.Delete(s.Context(), name, options))
}

// mustEnd fails unless the task is being deleted with that grace period.
func (s *taskScene) mustEnd(name string, grace int64) *batch.Task {
	s.Helper()
	task := s.get(name)
	if task.DeletionTimestamp == nil || task.DeletionGracePeriodSeconds == nil {
		s.Fatalf("%s is not being deleted: %+v", name, task.ObjectMeta)
	}
	mustEqual(s, "metadata.deletionGracePeriodSeconds", *task.DeletionGracePeriodSeconds, grace)
	if left := time.Until(task.DeletionTimestamp.Time); left > time.Duration(grace)*time.Second || left < time.Duration(grace)*time.Second-time.Minute {
		s.Errorf("metadata.deletionTimestamp is %s ahead, want %d s", left, grace)
	}
	return task
}

func gracefulDeletion(s *taskScene) {
	s.createBound("default")
	s.delete("default", -1)
	s.mustEnd("default", 30)

	s.createBound("own", func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300) })
	kit.Check(s, s.person.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=own"}))
	s.mustEnd("own", 300)

	kit.Must(s.report(s.createBound("asked"), running))(s)
	if err := s.worker.Delete(s.Context(), "asked", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		s.Errorf("a worker that begins to delete a task: got %v, want 403", err)
	}
	s.delete("asked", 600)
	task := s.mustEnd("asked", 600)
	s.mustBeBound(task, workerName, incarnation)
	// The worker ends the command, says how it ended, and then ends the task.
	kit.Must(s.report(task, succeeded))(s)
	s.mustEnd("asked", 600)
	kit.Check(s, s.worker.Delete(s.Context(), "asked", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	s.mustBeGone("asked")
}

func deletionIsOnlyShortened(s *taskScene) {
	s.createBound("a")
	s.delete("a", 600)
	first := s.mustEnd("a", 600)
	s.delete("a", 900)
	mustEqual(s, "the task", s.get("a"), first)
	s.delete("a", -1)
	mustEqual(s, "the task", s.get("a"), first)
	s.delete("a", 300)
	s.mustEnd("a", 300)
	changed := s.get("a")
	changed.DeletionTimestamp, changed.DeletionGracePeriodSeconds = nil, nil
	kit.Must(s.person.Update(s.Context(), changed, metav1.UpdateOptions{}))(s)
	s.mustEnd("a", 300)
	s.delete("a", 0)
	s.mustBeGone("a")
}

// deletionRightAfterBinding deletes tasks that the server's watch cache may still show unbound: what it then decides, in vain,
// must not be what it does once it sees the task as it is.
func deletionRightAfterBinding(s *taskScene) {
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
			if err := s.person.Delete(s.Context(), name, options); err != nil {
				s.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 10 {
		s.mustEnd(fmt.Sprint("a", i), 600)
	}
}

func deletionAtOnce(s *taskScene) {
	s.create("unbound")
	kit.Must(s.report(s.createBound("finished"), succeeded))(s)
	s.createBound("impatient", func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0) })
	for _, name := range []string{"unbound", "finished", "impatient"} {
		s.delete(name, -1)
		s.mustBeGone(name)
	}
	s.createBound("forced")
	s.delete("forced", 0)
	s.mustBeGone("forced")

	// A finalizer holds what would go at once.
	s.create("held", held)
	s.delete("held", -1)
	task := s.mustEnd("held", 0)
	task.Finalizers = nil
	kit.Must(s.person.Update(s.Context(), task, metav1.UpdateOptions{}))(s)
	s.mustBeGone("held")
}

func secretsWarn(s *taskScene) {
	warnings := &collected{}
	config := *s.config
	config.WarningHandler = warnings
	tasks := kit.Client(s, &config).BatchV1alpha1().Tasks(s.namespace)
	kit.Must(tasks.Create(s.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{{Name: "DB_PASSWORD", Value: "x"}, {Name: "PLAIN", Value: "x"}}},
	}, metav1.CreateOptions{}))(s)
	if len(warnings.texts) != 1 {
		s.Errorf("got the warnings %q, want one, of DB_PASSWORD", warnings.texts)
	}
}

// collected keeps the warnings of an answer.
type collected struct{ texts []string }

// HandleWarningHeader implements rest.WarningHandler.
func (c *collected) HandleWarningHeader(_ int, _, text string) { c.texts = append(c.texts, text) }
