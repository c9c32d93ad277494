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

// Package consistency holds the server to its promises: an acknowledged write is never lost, every object is a compare-and-swap
// register by resourceVersion, and a watch delivers every change once and in order, or says 410. What the server says is compared
// with what its etcd holds.
package consistency

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// patience is how long anything that must happen may take, on a machine that is busy with other tests.
const patience = 30 * time.Second

func TestAggregated(t *testing.T) {
	e := kit.Aggregated(t)
	suite(t, e)
	t.Run("Replicas", func(t *testing.T) { testReplicas(t, e) })
	t.Run("EtcdStall", func(t *testing.T) { testEtcdStall(t, e) })
	t.Run("EtcdKilled", func(t *testing.T) { testKilled(t, e, e.Etcd.Process) })
}

func TestStandalone(t *testing.T) {
	suite(t, kit.Standalone(t))
}

func suite(t *testing.T, e *kit.Env) {
	t.Run("CompareAndSwap", func(t *testing.T) { testCompareAndSwap(t, e) })
	t.Run("Fencing", func(t *testing.T) { testFencing(t, e) })
	t.Run("Reads", func(t *testing.T) { testReads(t, e) })
	t.Run("Watch", func(t *testing.T) { testWatch(t, e) })
	t.Run("WatchCuts", func(t *testing.T) { testWatchCuts(t, e) })
	t.Run("ManyWatchers", func(t *testing.T) { testManyWatchers(t, e) })
	t.Run("Expired", func(t *testing.T) { testExpired(t, e) })
	t.Run("ServerKilled", func(t *testing.T) { testKilled(t, e, e.Server) })
}

// tasks gives the tasks of a namespace as an identity sees them.
func tasks(client versioned.Interface, namespace string) typed.TaskInterface {
	return client.BatchV1alpha1().Tasks(namespace)
}

// newTask gives a task that can be bound.
func newTask(name string) *v1alpha1.Task {
	return &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.TaskSpec{Command: []string{"true"}},
	}
}

// newHeldTask gives a task that no scheduler looks at, so that nobody but the test writes it.
func newHeldTask(name string) *v1alpha1.Task {
	task := newTask(name)
	task.Spec.SchedulingGates = []v1alpha1.TaskSchedulingGate{{Name: "example.com/held"}}
	return task
}

func create(t *testing.T, client typed.TaskInterface, task *v1alpha1.Task) *v1alpha1.Task {
	t.Helper()
	return kit.Must(client.Create(t.Context(), task, metav1.CreateOptions{}))(t)
}

func get(t *testing.T, client typed.TaskInterface, name string) *v1alpha1.Task {
	t.Helper()
	return kit.Must(client.Get(t.Context(), name, metav1.GetOptions{}))(t)
}

// label sets a label of a task, whatever else is written meanwhile.
func label(t *testing.T, client typed.TaskInterface, name, key, value string) *v1alpha1.Task {
	t.Helper()
	patch := []byte(`{"metadata":{"labels":{"` + key + `":"` + value + `"}}}`)
	return kit.Must(client.Patch(t.Context(), name, "application/merge-patch+json", patch, metav1.PatchOptions{}))(t)
}

func bind(t *testing.T, client typed.TaskInterface, name, worker, incarnation string) {
	t.Helper()
	kit.Check(t, tryBind(t.Context(), client, name, worker, incarnation))
}

func tryBind(ctx context.Context, client typed.TaskInterface, name, worker, incarnation string) error {
	_, err := client.Bind(ctx, name, &v1alpha1.Binding{Target: v1alpha1.BindingTarget{Name: worker, Incarnation: incarnation}}, metav1.CreateOptions{})
	return err
}

func evict(t *testing.T, client typed.TaskInterface, name string) {
	t.Helper()
	kit.Check(t, tryEvict(t.Context(), client, name))
}

func tryEvict(ctx context.Context, client typed.TaskInterface, name string) error {
	_, err := client.Evict(ctx, name, &v1alpha1.Eviction{Reason: "Tested"}, metav1.CreateOptions{})
	return err
}

// setPhase writes the status of a task, as its worker does, against whoever else writes it.
func setPhase(ctx context.Context, client typed.TaskInterface, name string, phase v1alpha1.TaskPhase) error {
	for {
		task, err := client.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		task.Status.Phase = phase
		if _, err = client.UpdateStatus(ctx, task, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			return err
		}
	}
}

// eventually waits until the condition is nil, and fails the test with what it said last if that takes too long.
func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v; the last attempt said: %v", err, last)
	}
}

// seeded gives random numbers that a failed test's log tells how to repeat.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("The seed is %d.", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
