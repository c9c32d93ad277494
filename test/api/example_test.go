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
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	apply "github.com/leat-dev/leat/pkg/generated/applyconfiguration/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
)

// docs/how-to/go.md shows these functions.

// runTask creates a task and waits until it has ended.
func runTask(ctx context.Context, clientset versioned.Interface, namespace string, command ...string) (*batch.Task, error) {
	tasks := clientset.BatchV1alpha1().Tasks(namespace)
	task, err := tasks.Create(ctx, &batch.Task{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "example-"},
		Spec:       batch.TaskSpec{Command: command},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	// From the version that was created, so that no change is missed.
	watcher, err := tasks.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, task.Name).String(), ResourceVersion: task.ResourceVersion,
	})
	if err != nil {
		return nil, err
	}
	defer watcher.Stop()
	for task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed {
		event, open := <-watcher.ResultChan()
		current, ok := event.Object.(*batch.Task)
		if !open || !ok || event.Type == watch.Deleted {
			return nil, fmt.Errorf("the watch of task %s has ended: watch again from its last version", task.Name)
		}
		task = current
	}
	return task, nil
}

// printFailures prints each task that has failed.
func printFailures(ctx context.Context, clientset versioned.Interface, namespace string) error {
	factory := externalversions.NewSharedInformerFactoryWithOptions(clientset, 0, externalversions.WithNamespace(namespace))
	tasks := factory.Batch().V1alpha1().Tasks()
	tasks.Informer() // registers it with the factory
	factory.StartWithContext(ctx)
	if err := factory.WaitForCacheSyncWithContext(ctx).AsError(); err != nil {
		return err
	}
	list, err := tasks.Lister().Tasks(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	for _, task := range list {
		if failed := meta.FindStatusCondition(task.Status.Conditions, batch.TaskFailure); failed != nil {
			fmt.Println(task.Name, failed.Message)
		}
	}
	return nil
}

// hold suspends a set, and keeps the fields of other managers.
func hold(ctx context.Context, clientset versioned.Interface, namespace, name string) error {
	set := apply.TaskSet(name, namespace).WithSpec(apply.TaskSetSpec().WithSuspend(true))
	_, err := clientset.BatchV1alpha1().TaskSets(namespace).Apply(ctx, set, metav1.ApplyOptions{FieldManager: "example", Force: true})
	return err
}

// addController adds a controller of tasks to a manager of controller-runtime.
func addController(mgr manager.Manager) error {
	if err := batch.AddToScheme(mgr.GetScheme()); err != nil {
		return err
	}
	// Without this, controller-runtime requests JSON, as it does for custom resources.
	if err := apiutil.AddToProtobufScheme(batch.AddToScheme); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).For(&batch.Task{}).Complete(reconcile.Func(
		func(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
			var task batch.Task
			if err := mgr.GetClient().Get(ctx, request.NamespacedName, &task); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			log.Printf("task %s is %s", task.Name, task.Status.Phase)
			return reconcile.Result{}, nil
		}))
}

var _ = addController // testManager runs one like it

func Example() {
	ctx := context.Background()
	clientset := fake.NewClientset(&batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nightly"}})
	tasks := clientset.BatchV1alpha1().Tasks("default")

	failed := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "resize"}, Spec: batch.TaskSpec{Command: []string{"resize"}}}
	failed.Status.Phase = batch.TaskFailed
	failed.Status.Conditions = []metav1.Condition{{Type: batch.TaskFailure, Status: metav1.ConditionTrue, Message: "Error: exit code 3"}}
	if _, err := tasks.Create(ctx, failed, metav1.CreateOptions{}); err != nil {
		log.Fatal(err)
	}
	if err := printFailures(ctx, clientset, "default"); err != nil {
		log.Fatal(err)
	}
	if err := hold(ctx, clientset, "default", "nightly"); err != nil {
		log.Fatal(err)
	}
	set, err := clientset.BatchV1alpha1().TaskSets("default").Get(ctx, "nightly", metav1.GetOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("suspended:", *set.Spec.Suspend)

	// Act as the scheduler and the worker.
	clientset.PrependReactor("create", "tasks", func(action clienttesting.Action) (bool, runtime.Object, error) {
		task := action.(clienttesting.CreateAction).GetObject().(*batch.Task)
		task.Name, task.Status.Phase = task.GenerateName+"abcde", batch.TaskSucceeded
		return false, nil, nil
	})
	task, err := runTask(ctx, clientset, "default", "true")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(task.Name, task.Status.Phase)
	// Output:
	// resize Error: exit code 3
	// suspended: true
	// example-abcde Succeeded
}

// TestPageForGoDevelopers checks that the code on the page is in this file, which is compiled and run.
func TestPageForGoDevelopers(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/go.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```go\n")[1:]
	if len(blocks) < 4 {
		t.Errorf("got %d blocks of Go on the page, want at least 4", len(blocks))
	}
	squeeze := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(squeeze(string(code)), squeeze(block)) {
			t.Errorf("got code on the page that is not in example_test.go:\n%s", block)
		}
	}
}
