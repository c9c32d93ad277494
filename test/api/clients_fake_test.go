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
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	apply "github.com/leat-dev/leat/pkg/generated/applyconfiguration/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	"github.com/leat-dev/leat/test/kit"
)

// typedClient is the generated client of a kind with objects T, lists L and apply configurations A.
type typedClient[T, L, A any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	List(context.Context, metav1.ListOptions) (L, error)
	Apply(context.Context, A, metav1.ApplyOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// TestFakeClientset checks that the fake clientset serves every kind, and tracks field ownership for server-side apply
// and Extract.
func TestFakeClientset(t *testing.T) {
	client := fake.NewClientset().BatchV1alpha1()
	labels := func(key string) map[string]string { return map[string]string{key: "x"} }

	t.Run("Task", func(t *testing.T) {
		testFake(t, client.Tasks("ns"), &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "created"}},
			apply.Task("applied", "ns").WithSpec(apply.TaskSpec().WithSchedulingGates(apply.TaskSchedulingGate().WithName("a"))),
			apply.Task("applied", "ns").WithSpec(apply.TaskSpec().WithSchedulingGates(apply.TaskSchedulingGate().WithName("b"))),
			apply.ExtractTask)
	})
	t.Run("TaskSet", func(t *testing.T) {
		config := func(variable string) *apply.TaskSetApplyConfiguration {
			return apply.TaskSet("applied", "ns").WithSpec(apply.TaskSetSpec().WithTemplate(apply.TaskTemplateSpec().WithSpec(
				apply.TaskSpec().WithEnv(apply.EnvVar().WithName(variable).WithValue("x")))))
		}
		testFake(t, client.TaskSets("ns"), &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "created"}}, config("A"), config("B"), apply.ExtractTaskSet)
	})
	t.Run("TaskQueue", func(t *testing.T) {
		config := func(condition string) *apply.TaskQueueApplyConfiguration {
			return apply.TaskQueue("applied", "ns").WithStatus(apply.TaskQueueStatus().WithConditions(applymeta.Condition().WithType(condition)))
		}
		testFake(t, client.TaskQueues("ns"), &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "created"}}, config("A"), config("B"), apply.ExtractTaskQueue)
	})
	t.Run("Worker", func(t *testing.T) {
		config := func(condition string) *apply.WorkerApplyConfiguration {
			return apply.Worker("applied", "ns").WithStatus(apply.WorkerStatus().WithConditions(applymeta.Condition().WithType(condition)))
		}
		testFake(t, client.Workers("ns"), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "created"}}, config("A"), config("B"), apply.ExtractWorker)
	})
	t.Run("WorkerLease", func(t *testing.T) {
		testFake(t, client.WorkerLeases("ns"), &batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "created"}},
			apply.WorkerLease("applied", "ns").WithLabels(labels("a")), apply.WorkerLease("applied", "ns").WithLabels(labels("b")), apply.ExtractWorkerLease)
	})
}

// testFake creates the object. As two field managers, it applies one and two, which set items of the same list, to an
// object named "applied".
func testFake[T metav1.Object, L, A any](t *testing.T, client typedClient[T, L, A], object T, one, two A, extract func(T, string) (A, error)) {
	ctx := t.Context()
	created, err := client.Create(ctx, object, metav1.CreateOptions{FieldManager: "one"})
	kit.Check(t, err)
	created.SetLabels(map[string]string{"a": "b"})
	_, err = client.Update(ctx, created, metav1.UpdateOptions{})
	kit.Check(t, err)
	got, err := client.Get(ctx, object.GetName(), metav1.GetOptions{})
	kit.Check(t, err)
	if diff := cmp.Diff(map[string]string{"a": "b"}, got.GetLabels()); diff != "" {
		t.Errorf("labels differ (- want, + got):\n%s", diff)
	}

	_, err = client.Apply(ctx, one, metav1.ApplyOptions{FieldManager: "one"})
	kit.Check(t, err)
	applied, err := client.Apply(ctx, two, metav1.ApplyOptions{FieldManager: "two"})
	kit.Check(t, err)
	for manager, want := range map[string]A{"one": one, "two": two} {
		own, err := extract(applied, manager)
		kit.Check(t, err)
		if diff := cmp.Diff(document(t, want), document(t, own)); diff != "" {
			t.Errorf("fields of %s differ (- want, + got):\n%s", manager, diff)
		}
	}
	list, err := client.List(ctx, metav1.ListOptions{})
	kit.Check(t, err)
	if items, _ := document(t, list)["items"].([]any); len(items) != 2 {
		t.Errorf("got items %v, want 2", items)
	}
	kit.Check(t, client.Delete(ctx, object.GetName(), metav1.DeleteOptions{}))
}

// document converts a value to a JSON object.
func document(t *testing.T, value any) map[string]any {
	t.Helper()
	text, err := json.Marshal(value)
	kit.Check(t, err)
	var object map[string]any
	kit.Check(t, json.Unmarshal(text, &object))
	return object
}
