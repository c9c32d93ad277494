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
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	apply "github.com/leat-dev/leat/pkg/generated/applyconfiguration/batch/v1alpha1"
	"github.com/leat-dev/leat/test/api/scenario"
	"github.com/leat-dev/leat/test/kit"
)

// testTypedClient makes every call of the typed client, and checks that it uses protobuf.
func testTypedClient(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	traffic := &scenario.Traffic{}
	admin := kit.Client(t, traffic.Wrap(e.Admin(t))).BatchV1alpha1()
	controller := kit.Client(t, traffic.Wrap(e.Controller(t))).BatchV1alpha1()
	tasks := admin.Tasks(namespace)

	task, err := tasks.Create(t.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{"app": "web"}},
		Spec: batch.TaskSpec{
			Command: []string{"sleep"}, Args: []string{"1"}, Env: []batch.EnvVar{{Name: "A", Value: "ü\n"}},
			SchedulingGates: []batch.TaskSchedulingGate{{Name: "later"}}, // the scheduler does not write to it before they are removed
		},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	if task.Status.Phase != batch.TaskPending || task.Spec.QueueName != "default" || *task.Spec.TerminationGracePeriodSeconds != 30 ||
		task.Spec.Env[0].Value != "ü\n" {
		t.Errorf("created task: got %v, want phase Pending, the values sent and defaults", task)
	}
	name := task.Name
	worker := kit.Client(t, traffic.Wrap(e.Worker(t, namespace, "w-aaaaa"))).BatchV1alpha1()
	_, err = worker.Workers(namespace).Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "w-aaaaa"}}, metav1.CreateOptions{})
	kit.Check(t, err)
	watcher, err := tasks.Watch(t.Context(), metav1.ListOptions{ResourceVersion: task.ResourceVersion, FieldSelector: "metadata.name=" + name})
	kit.Check(t, err)
	defer watcher.Stop()

	task.Labels["app"] = "api"
	_, err = tasks.Update(t.Context(), task, metav1.UpdateOptions{})
	kit.Check(t, err)
	task, err = tasks.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec": {"ttlSecondsAfterFinished": 60, "schedulingGates": null}}`), metav1.PatchOptions{})
	kit.Check(t, err)
	if task.Labels["app"] != "api" || *task.Spec.TTLSecondsAfterFinished != 60 || task.Generation != 2 {
		t.Errorf("updated and patched task: got %v, want label api, a TTL of 60 and generation 2", task)
	}

	bind := func(preconditions metav1.ObjectMeta) error {
		status, err := controller.Tasks(namespace).Bind(t.Context(), name, &batch.Binding{
			ObjectMeta: preconditions, Target: batch.BindingTarget{Name: "w-aaaaa", Incarnation: "one"},
		}, metav1.CreateOptions{})
		if err == nil && status.Status != metav1.StatusSuccess {
			t.Errorf("binding: got %v, want success", status)
		}
		return err
	}
	if err := bind(metav1.ObjectMeta{UID: "another"}); !apierrors.IsConflict(err) {
		t.Errorf("binding with another UID: got %v, want a conflict", err)
	}
	kit.Check(t, bind(metav1.ObjectMeta{UID: task.UID}))
	if err := bind(metav1.ObjectMeta{}); !apierrors.IsConflict(err) {
		t.Errorf("second binding: got %v, want a conflict", err)
	}
	task, err = tasks.Get(t.Context(), name, metav1.GetOptions{})
	kit.Check(t, err)
	if task.Spec.WorkerName != "w-aaaaa" || task.Status.Incarnation != "one" || !meta.IsStatusConditionTrue(task.Status.Conditions, batch.TaskScheduled) {
		t.Errorf("bound task: got %v, want the worker, its incarnation and TaskScheduled", task)
	}

	running := task.DeepCopy()
	running.Status.Phase, running.Status.Attempts, running.Status.StartTime = batch.TaskRunning, 1, ptr.To(metav1.Now())
	running.Status.State.Running = &batch.TaskStateRunning{StartedAt: *running.Status.StartTime}
	running, err = worker.Tasks(namespace).UpdateStatus(t.Context(), running, metav1.UpdateOptions{})
	kit.Check(t, err)
	if running.Status.Phase != batch.TaskRunning {
		t.Errorf("status updated by the worker: got %v, want phase Running", running.Status)
	}
	if _, err := worker.Tasks(namespace).UpdateStatus(t.Context(), task, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("status update with an old resourceVersion: got %v, want a conflict", err)
	}

	evict := func(preconditions *metav1.Preconditions) error {
		_, err := tasks.Evict(t.Context(), name, &batch.Eviction{Reason: "Tried", Message: "by a test", Preconditions: preconditions}, metav1.CreateOptions{})
		return err
	}
	if err := evict(&metav1.Preconditions{UID: ptr.To(types.UID("another"))}); !apierrors.IsConflict(err) {
		t.Errorf("eviction with another UID: got %v, want a conflict", err)
	}
	if err := evict(&metav1.Preconditions{ResourceVersion: &task.ResourceVersion}); !apierrors.IsConflict(err) {
		t.Errorf("eviction with an old resourceVersion: got %v, want a conflict", err)
	}
	kit.Check(t, evict(&metav1.Preconditions{UID: &task.UID, ResourceVersion: &running.ResourceVersion}))
	task, err = tasks.Get(t.Context(), name, metav1.GetOptions{})
	kit.Check(t, err)
	if task.Spec.WorkerName != "" || task.Status.Phase != batch.TaskPending || task.Status.Disruptions != 1 || task.Status.State.Waiting.Reason != "Tried" {
		t.Errorf("evicted task: got %v, want Pending without a worker, one disruption and reason Tried", task)
	}

	list, err := tasks.List(t.Context(), metav1.ListOptions{LabelSelector: "app=api", FieldSelector: "status.phase=Pending"})
	kit.Check(t, err)
	if len(list.Items) != 1 || list.Items[0].Name != name {
		t.Errorf("list by selectors: got %v, want the task", list.Items)
	}
	kit.Check(t, tasks.Delete(t.Context(), name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &task.UID}}))
	kit.Check(t, tasks.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app"}))
	expired := time.After(timeout)
	for last := watch.EventType(""); last != watch.Deleted; {
		select {
		case event := <-watcher.ResultChan():
			if seen, ok := event.Object.(*batch.Task); !ok || seen.Name != name {
				t.Fatalf("got %v, want events of the task", event)
			}
			last = event.Type
		case <-expired:
			t.Fatal("got no event of the deletion")
		}
	}

	sets := admin.TaskSets(namespace)
	set, err := sets.Create(t.Context(), &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "many"},
		Spec: batch.TaskSetSpec{
			Suspend:  ptr.To(true), // no controller creates tasks
			Template: batch.TaskTemplateSpec{Spec: batch.TaskSpec{Command: []string{"sleep"}}},
		},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	scale, err := sets.GetScale(t.Context(), set.Name, metav1.GetOptions{})
	kit.Check(t, err)
	if scale.Spec.Replicas != 1 || scale.Status.Selector != batch.LabelControllerUID+"="+string(set.UID) {
		t.Errorf("scale: got %v, want 1 replica and the generated selector", scale)
	}
	kit.Check(t, retry.RetryOnConflict(retry.DefaultRetry, func() error { // a controller may update the status
		scale, err := sets.GetScale(t.Context(), set.Name, metav1.GetOptions{})
		kit.Check(t, err)
		scale.Spec.Replicas = 4
		_, err = sets.UpdateScale(t.Context(), set.Name, scale, metav1.UpdateOptions{})
		return err
	}))
	if _, err := sets.UpdateScale(t.Context(), set.Name, &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: set.Name, Namespace: namespace, ResourceVersion: set.ResourceVersion},
		Spec:       autoscalingv1.ScaleSpec{Replicas: 5},
	}, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("scale with an old resourceVersion: got %v, want a conflict", err)
	}
	set, err = sets.Get(t.Context(), set.Name, metav1.GetOptions{})
	kit.Check(t, err)
	if *set.Spec.Parallelism != 4 || set.Generation != 2 {
		t.Errorf("scaled set: got %v, want parallelism 4 and generation 2", set)
	}
	if !e.Standalone() { // no controller writes the number of active tasks
		set.Status.Active = 4
		_, err = controller.TaskSets(namespace).UpdateStatus(t.Context(), set, metav1.UpdateOptions{})
		kit.Check(t, err)
		if scale, err = sets.GetScale(t.Context(), set.Name, metav1.GetOptions{}); err != nil || scale.Status.Replicas != 4 {
			t.Errorf("scale of a set with 4 active tasks: got %v, %v, want 4 replicas", scale, err)
		}
	}
	expectProtobuf(t, traffic, 18)
}

// testTypedApply applies with apply configurations: field managers own fields, force ownership and give up fields.
func testTypedApply(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	traffic := &scenario.Traffic{}
	queues := kit.Client(t, traffic.Wrap(e.Admin(t))).BatchV1alpha1().TaskQueues(namespace)
	alice, bob := metav1.ApplyOptions{FieldManager: "alice"}, metav1.ApplyOptions{FieldManager: "bob"}

	_, err := queues.Apply(t.Context(), apply.TaskQueue("line", namespace).
		WithSpec(apply.TaskQueueSpec().WithWeight(2).WithMaxRunningTasks(5)), alice)
	kit.Check(t, err)
	heavy := apply.TaskQueue("line", namespace).WithSpec(apply.TaskQueueSpec().WithWeight(9).WithStopPolicy(batch.StopPolicyHold))
	if _, err := queues.Apply(t.Context(), heavy, bob); !apierrors.IsConflict(err) {
		t.Errorf("apply of a field of another manager: got %v, want a conflict", err)
	}
	bob.Force = true
	queue, err := queues.Apply(t.Context(), heavy, bob)
	kit.Check(t, err)
	if *queue.Spec.Weight != 9 || *queue.Spec.MaxRunningTasks != 5 || *queue.Spec.StopPolicy != batch.StopPolicyHold {
		t.Errorf("spec applied by alice and bob: got %v", queue.Spec)
	}
	extracted, err := apply.ExtractTaskQueue(queue, "alice")
	kit.Check(t, err)
	if extracted.Spec.Weight != nil || *extracted.Spec.MaxRunningTasks != 5 {
		t.Errorf("fields of alice: got %v, want only maxRunningTasks", extracted.Spec)
	}
	queue, err = queues.Apply(t.Context(), apply.TaskQueue("line", namespace), bob)
	kit.Check(t, err)
	if *queue.Spec.Weight != 1 || *queue.Spec.StopPolicy != batch.StopPolicyNone || *queue.Spec.MaxRunningTasks != 5 {
		t.Errorf("spec after bob gave up his fields: got %v, want defaults and the fields of alice", queue.Spec)
	}

	tasks := kit.Client(t, traffic.Wrap(e.Admin(t))).BatchV1alpha1().Tasks(namespace)
	task, err := tasks.Apply(t.Context(), apply.Task("one", namespace).WithLabels(map[string]string{"app": "web"}).WithSpec(apply.TaskSpec().
		WithCommand("sleep").WithEnv(apply.EnvVar().WithName("A").WithValue("b")).
		WithSchedulingGates(apply.TaskSchedulingGate().WithName("later"))), alice)
	kit.Check(t, err)
	own, err := apply.ExtractTask(task, "alice")
	kit.Check(t, err)
	own.Spec.SchedulingGates = nil
	task, err = tasks.Apply(t.Context(), own, alice)
	kit.Check(t, err)
	if len(task.Spec.SchedulingGates) != 0 || task.Spec.Env[0].Value != "b" || task.Labels["app"] != "web" {
		t.Errorf("task extracted, changed and applied: got %v, want no gates and the other fields", task)
	}
	statuses := kit.Client(t, traffic.Wrap(e.Controller(t))).BatchV1alpha1().Tasks(namespace)
	task, err = statuses.ApplyStatus(t.Context(), apply.Task("one", namespace).WithResourceVersion(task.ResourceVersion).
		WithStatus(apply.TaskStatus().WithProgress("1/2").WithConditions(applymeta.Condition().
			WithType("example.com/Seen").WithStatus(metav1.ConditionTrue).WithReason("Looked").WithMessage("").WithLastTransitionTime(metav1.Now()))), bob)
	kit.Check(t, err)
	if task.Status.Progress != "1/2" || task.Status.Phase != batch.TaskPending || !meta.IsStatusConditionTrue(task.Status.Conditions, "example.com/Seen") {
		t.Errorf("applied status: got %v, want the progress, the condition and phase Pending", task.Status)
	}

	gated := apply.Task("two", namespace).WithSpec(apply.TaskSpec().WithCommand("sleep").WithSchedulingGates(apply.TaskSchedulingGate().WithName("later")))
	task, err = tasks.Apply(t.Context(), gated, alice)
	kit.Check(t, err)
	again, err := tasks.Apply(t.Context(), gated, alice)
	kit.Check(t, err)
	if again.ResourceVersion != task.ResourceVersion {
		t.Errorf("second apply without changes: got %v, want the old resourceVersion", again)
	}

	sets := kit.Client(t, traffic.Wrap(e.Admin(t))).BatchV1alpha1().TaskSets(namespace)
	many := apply.TaskSet("many", namespace).WithSpec(apply.TaskSetSpec().WithParallelism(0).WithTemplate(
		apply.TaskTemplateSpec().WithLabels(map[string]string{"app": "web"}).WithSpec(apply.TaskSpec().WithCommand("sleep"))))
	_, err = sets.Apply(t.Context(), many, alice)
	kit.Check(t, err)
	set, err := sets.Apply(t.Context(), many, alice)
	kit.Check(t, err)
	if set.Generation != 1 || set.Spec.Template.Labels["app"] != "web" || set.Spec.Template.Labels[batch.LabelTaskSetName] != "many" {
		t.Errorf("second apply of a set: got %v, want generation 1 and the generated labels", set)
	}
	expectProtobuf(t, traffic, 10)
}
