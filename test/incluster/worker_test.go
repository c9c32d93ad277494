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

package incluster

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/admission/workerrestriction"
	"github.com/leat-dev/leat/test/kit"
)

func newWorker(name string) *v1alpha1.Worker {
	return &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func newLease(name string) *v1alpha1.WorkerLease {
	return &v1alpha1.WorkerLease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.WorkerLeaseSpec{HolderIdentity: incarnationOf(name), RenewTime: new(metav1.NowMicro())},
	}
}

// ofWorker returns options for the tasks of a worker.
func ofWorker(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: "spec.workerName=" + name}
}

// testWorker checks that the certificate of a worker allows its own work and nothing else.
func testWorker(t *testing.T, e *kit.Env) {
	const name, other = "worker-1", "worker-2"
	namespace := e.Namespace(t)
	ctx := t.Context()
	api := kit.Client(t, e.Worker(t, namespace, name)).BatchV1alpha1()
	workers, leases, tasks := api.Workers(namespace), api.WorkerLeases(namespace), api.Tasks(namespace)
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()

	t.Run("registers itself and renews its lease", func(t *testing.T) {
		worker := kit.Must(workers.Create(ctx, newWorker(name), metav1.CreateOptions{}))(t)
		worker.Status.Incarnation = incarnationOf(name)
		worker = kit.Must(workers.UpdateStatus(ctx, worker, metav1.UpdateOptions{}))(t)
		worker.Labels = map[string]string{"zone": "a"}
		kit.Must(workers.Update(ctx, worker, metav1.UpdateOptions{}))(t)
		lease := kit.Must(leases.Create(ctx, newLease(name), metav1.CreateOptions{}))(t)
		lease.Spec.RenewTime = new(metav1.NowMicro())
		kit.Must(leases.Update(ctx, lease, metav1.UpdateOptions{}))(t)
		kit.Must(leases.Get(ctx, name, metav1.GetOptions{}))(t)
		if worker := kit.Must(workers.Get(ctx, name, metav1.GetOptions{}))(t); worker.Status.Incarnation != incarnationOf(name) {
			t.Errorf("incarnation of the worker: got %q, want %q", worker.Status.Incarnation, incarnationOf(name))
		}
	})

	t.Run("watches its tasks and updates their status", func(t *testing.T) {
		watch := kit.Must(tasks.Watch(ctx, ofWorker(name)))(t)
		defer watch.Stop()
		boundTask(t, e, namespace, "of-the-other", other)
		boundTask(t, e, namespace, "mine", name)
		event := <-watch.ResultChan()
		if task, ok := event.Object.(*v1alpha1.Task); !ok || task.Name != "mine" {
			t.Fatalf("first event: got %s of %v, want one of task mine", event.Type, event.Object)
		}
		if list := kit.Must(tasks.List(ctx, ofWorker(name)))(t); len(list.Items) != 1 {
			t.Errorf("listed tasks: got %d, want 1", len(list.Items))
		}
		task := kit.Must(tasks.Get(ctx, "mine", metav1.GetOptions{}))(t)
		task.Status.Phase, task.Status.Attempts = v1alpha1.TaskRunning, 1
		kit.Must(tasks.UpdateStatus(ctx, task, metav1.UpdateOptions{}))(t)
	})

	t.Run("evicts its task", func(t *testing.T) {
		seen := boundTask(t, e, namespace, "evicted", name)
		kit.Must(tasks.Evict(ctx, "evicted", &v1alpha1.Eviction{
			Reason: "Draining", Preconditions: &metav1.Preconditions{ResourceVersion: &seen.ResourceVersion},
		}, metav1.CreateOptions{}))(t)
		task := kit.Must(admin.Tasks(namespace).Get(ctx, "evicted", metav1.GetOptions{}))(t)
		if task.Spec.WorkerName != "" || task.Status.Disruptions != 1 {
			t.Errorf("evicted task: got worker %q and %d disruptions, want none and 1", task.Spec.WorkerName, task.Status.Disruptions)
		}
		_, err := tasks.Get(ctx, "evicted", metav1.GetOptions{})
		expectReason(t, err, metav1.StatusReasonForbidden)
	})

	t.Run("finishes the deletion of its task", func(t *testing.T) {
		boundTask(t, e, namespace, "ending", name)
		kit.Check(t, admin.Tasks(namespace).Delete(ctx, "ending", metav1.DeleteOptions{}))
		kit.Check(t, tasks.Delete(ctx, "ending", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		_, err := admin.Tasks(namespace).Get(ctx, "ending", metav1.GetOptions{})
		kit.Check(t, kit.Gone(err))
	})

	t.Run("is denied everything else", func(t *testing.T) {
		otherAPI := kit.Client(t, e.Worker(t, namespace, other)).BatchV1alpha1()
		kit.Must(otherAPI.Workers(namespace).Create(ctx, newWorker(other), metav1.CreateOptions{}))(t)
		kit.Must(otherAPI.WorkerLeases(namespace).Create(ctx, newLease(other), metav1.CreateOptions{}))(t)
		kit.Must(admin.Tasks(namespace).Create(ctx, kit.NewTask("unbound"), metav1.CreateOptions{}))(t)
		// The objects of the other worker, so that the requests are denied and not just wrong.
		otherWorker := kit.Must(otherAPI.Workers(namespace).Get(ctx, other, metav1.GetOptions{}))(t)
		otherLease := kit.Must(otherAPI.WorkerLeases(namespace).Get(ctx, other, metav1.GetOptions{}))(t)
		otherTask := kit.Must(otherAPI.Tasks(namespace).Get(ctx, "of-the-other", metav1.GetOptions{}))(t)
		own := kit.Must(workers.Get(ctx, name, metav1.GetOptions{}))(t)
		mine := kit.Must(tasks.Get(ctx, "mine", metav1.GetOptions{}))(t)
		changed := func(change func(*v1alpha1.Worker)) error {
			worker := own.DeepCopy()
			change(worker)
			_, err := workers.Update(ctx, worker, metav1.UpdateOptions{})
			return err
		}
		now := metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}
		status := []byte(`{"status":{"phase":"Succeeded"}}`)

		for what, err := range map[string]error{
			"another's Worker: create":        second(workers.Create(ctx, newWorker("worker-3"), metav1.CreateOptions{})),
			"another's Worker: get":           second(workers.Get(ctx, other, metav1.GetOptions{})),
			"another's Worker: update":        second(workers.Update(ctx, otherWorker, metav1.UpdateOptions{})),
			"another's Worker: update status": second(workers.UpdateStatus(ctx, otherWorker, metav1.UpdateOptions{})),
			"another's Worker: delete":        workers.Delete(ctx, other, now),
			"Workers: list":                   second(workers.List(ctx, metav1.ListOptions{})),
			"another's lease: create":         second(leases.Create(ctx, newLease("worker-3"), metav1.CreateOptions{})),
			"another's lease: get":            second(leases.Get(ctx, other, metav1.GetOptions{})),
			"another's lease: update":         second(leases.Update(ctx, otherLease, metav1.UpdateOptions{})),
			"leases: list":                    second(leases.List(ctx, metav1.ListOptions{})),
			"another's task: get":             second(tasks.Get(ctx, "of-the-other", metav1.GetOptions{})),
			"another's task: update status":   second(tasks.UpdateStatus(ctx, otherTask, metav1.UpdateOptions{})),
			"another's task: evict":           second(tasks.Evict(ctx, "of-the-other", &v1alpha1.Eviction{}, metav1.CreateOptions{})),
			"another's task: delete":          tasks.Delete(ctx, "of-the-other", now),
			"its task: evict unconditionally": second(tasks.Evict(ctx, "mine", &v1alpha1.Eviction{}, metav1.CreateOptions{})),
			"an unbound task: get":            second(tasks.Get(ctx, "unbound", metav1.GetOptions{})),
			"an unbound task: bind":           second(tasks.Bind(ctx, "unbound", newBinding(name), metav1.CreateOptions{})),
			"its task: delete undeleted":      tasks.Delete(ctx, "mine", now),
			"its task: update":                second(tasks.Update(ctx, mine, metav1.UpdateOptions{})),
			"its task: patch":                 second(tasks.Patch(ctx, "mine", types.MergePatchType, status, metav1.PatchOptions{})),
			"its task: patch status":          second(tasks.Patch(ctx, "mine", types.MergePatchType, status, metav1.PatchOptions{}, "status")),
			"tasks: create":                   second(tasks.Create(ctx, kit.NewTask("new"), metav1.CreateOptions{})),
			"tasks: list":                     second(tasks.List(ctx, metav1.ListOptions{})),
			"tasks: list another's":           second(tasks.List(ctx, ofWorker(other))),
			"tasks: list unbound":             second(tasks.List(ctx, ofWorker(""))),
			"tasks: list others'":             second(tasks.List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName!=" + other})),
			"tasks: watch":                    second(tasks.Watch(ctx, metav1.ListOptions{})),
			"tasks: watch another's":          second(tasks.Watch(ctx, ofWorker(other))),
			"tasks: delete its own at once":   tasks.DeleteCollection(ctx, now, ofWorker(name)),
			"task sets: list":                 second(api.TaskSets(namespace).List(ctx, metav1.ListOptions{})),
			"task queues: list":               second(api.TaskQueues(namespace).List(ctx, metav1.ListOptions{})),
			"another namespace: watch":        second(api.Tasks("default").Watch(ctx, ofWorker(name))),
			"another namespace: create":       second(api.Workers("default").Create(ctx, newWorker(name), metav1.CreateOptions{})),
			"all namespaces: watch":           second(api.Tasks("").Watch(ctx, ofWorker(name))),
			"its Worker: delete":              workers.Delete(ctx, name, now),
			"its Worker: restricted labels": changed(func(w *v1alpha1.Worker) {
				w.Labels = map[string]string{workerrestriction.LabelPrefix + "trusted": "yes"}
			}),
			"its Worker: taints": changed(func(w *v1alpha1.Worker) {
				w.Spec.Taints = []v1alpha1.Taint{{Key: "key", Effect: v1alpha1.TaintEffectNoSchedule}}
			}),
			"its Worker: unschedulable": changed(func(w *v1alpha1.Worker) { w.Spec.Unschedulable = true }),
			"its Worker: finalizers":    changed(func(w *v1alpha1.Worker) { w.Finalizers = []string{"example.com/hold"} }),
			"its Worker: owners": changed(func(w *v1alpha1.Worker) {
				w.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "1"}}
			}),
		} {
			t.Run(what, func(t *testing.T) { expectReason(t, err, metav1.StatusReasonForbidden) })
		}
	})

	t.Run("a malformed user name is denied", func(t *testing.T) {
		for _, user := range []string{"someone", "leat:worker:" + namespace, "leat:worker::" + name, "leat:worker:" + namespace + ":" + name + ":more"} {
			client := kit.Client(t, e.Direct(t, user, "leat:workers"))
			_, err := client.BatchV1alpha1().Workers(namespace).Get(ctx, name, metav1.GetOptions{})
			expectReason(t, err, metav1.StatusReasonForbidden, "must be named leat:worker:<namespace>:<name>")
		}
	})
}

// testReviews checks that many requests of a worker and of the controllers cost the host a few reviews.
func testReviews(t *testing.T, e *kit.Env) {
	const tasks, allowed, worker = 200, 20, "worker-1"
	namespace := e.Namespace(t)
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
	controller := kit.Client(t, e.Controller(t)).BatchV1alpha1().Tasks(namespace)
	own := kit.Client(t, e.Worker(t, namespace, worker)).BatchV1alpha1().Tasks(namespace)
	name := func(i int) string { return fmt.Sprintf("task-%d", i) }
	each := func(what string, do func(ctx context.Context, i int) error) {
		t.Helper()
		before := hostReviews(t, e)
		kit.Check(t, inParallel(t.Context(), 4, tasks, do))
		after := hostReviews(t, e)
		t.Logf("%d × %s: %d host reviews", tasks, what, after-before)
		if after-before > allowed {
			t.Errorf("host reviews for %d × %s: got %d, want at most %d", tasks, what, after-before, allowed)
		}
	}
	kit.Check(t, inParallel(t.Context(), 4, tasks, func(ctx context.Context, i int) error {
		_, err := admin.Create(ctx, kit.NewTask(name(i)), metav1.CreateOptions{})
		return err
	}))
	each("binds by the controller", func(ctx context.Context, i int) error {
		_, err := controller.Bind(ctx, name(i), newBinding(worker), metav1.CreateOptions{})
		return err
	})
	bound := map[string]*v1alpha1.Task{}
	list := kit.Must(own.List(t.Context(), ofWorker(worker)))(t)
	for i := range list.Items {
		bound[list.Items[i].Name] = &list.Items[i]
	}
	each("status writes by a worker", func(ctx context.Context, i int) error {
		task := bound[name(i)]
		if task == nil {
			return fmt.Errorf("the list of the worker lacks %s", name(i))
		}
		task.Status.Phase = v1alpha1.TaskSucceeded
		_, err := own.UpdateStatus(ctx, task, metav1.UpdateOptions{})
		return err
	})
}
