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

package durability

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// TestRecovery breaks stores and repairs them as docs/how-to/etcd.md and docs/how-to/backup.md describe. The first
// two suites restore the store of the shared server. The others wait most of the time and have a store and a server
// each, so they run in parallel.
func TestRecovery(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	t.Run("Restore", func(t *testing.T) { testRestore(t, c) })
	t.Run("RestoreDeleted", func(t *testing.T) { testRestoreDeleted(t, c) })
	for _, suite := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"SlowDisk", testSlowDisk},
		{"Outage", testOutage},
		{"Full", testFull},
		{"Undecodable", testUndecodable},
		{"RestoreWithoutBump", testRestoreWithoutBump},
		{"Stored", testStored},
	} {
		t.Run(suite.name, func(t *testing.T) {
			t.Parallel()
			suite.test(t, c)
		})
	}
}

// TestAggregated needs no controller managers: they would evict the tasks that its suites bind to workers that do not
// exist.
func TestAggregated(t *testing.T) {
	t.Parallel()
	e := kit.Aggregated(t)
	testConsistency(t, e)
	t.Run("Replicas", func(t *testing.T) { testReplicas(t, e) })
	t.Run("EtcdStall", func(t *testing.T) { testEtcdStall(t, e) })
	t.Run("EtcdKilled", func(t *testing.T) { testProcessKilled(t, e, e.Etcd.Process) })
}

func TestStandalone(t *testing.T) {
	t.Parallel()
	e := kit.Standalone(t)
	testConsistency(t, e)
	t.Run("Restore", func(t *testing.T) { testRestoreStandalone(t, e) })
}

// testConsistency runs the suites that are the same in both environments.
func testConsistency(t *testing.T, e *kit.Env) {
	t.Run("CompareAndSwap", func(t *testing.T) { testCompareAndSwap(t, e) })
	t.Run("Fencing", func(t *testing.T) { testFencing(t, e) })
	t.Run("Reads", func(t *testing.T) { testReads(t, e) })
	t.Run("Watch", func(t *testing.T) { testWatch(t, e) })
	t.Run("WatchCuts", func(t *testing.T) { testWatchCuts(t, e) })
	t.Run("ManyWatchers", func(t *testing.T) { testManyWatchers(t, e) })
	t.Run("Expired", func(t *testing.T) { testExpired(t, e) })
	t.Run("ServerKilled", func(t *testing.T) { testProcessKilled(t, e, e.Server) })
}

var seed = flag.Uint64("seed", 0, "the seed of random decisions, as a former run has logged it; 0 for a new one")

// seeded returns random numbers and logs how to repeat them.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seed
	if n == 0 {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -args -seed=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// status returns the status in the error of a server. Without one, its code is 0.
func status(err error) metav1.Status {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return s.Status()
	}
	return metav1.Status{Message: fmt.Sprint(err)}
}

// roundTripper is a function that implements http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func tasks(client versioned.Interface, namespace string) typed.TaskInterface {
	return client.BatchV1alpha1().Tasks(namespace)
}

// newHeldTask returns a task with a scheduling gate, which no scheduler writes to.
func newHeldTask(name string) *batch.Task {
	task := kit.NewTask(name)
	task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/held"}}
	return task
}

func createTask(t *testing.T, client typed.TaskInterface, task *batch.Task) *batch.Task {
	t.Helper()
	return kit.Must(client.Create(t.Context(), task, metav1.CreateOptions{}))(t)
}

func getTask(t *testing.T, client typed.TaskInterface, name string) *batch.Task {
	t.Helper()
	return kit.Must(client.Get(t.Context(), name, metav1.GetOptions{}))(t)
}

// labelTask sets a label with a patch, which does not conflict with other writes.
func labelTask(t *testing.T, client typed.TaskInterface, name, key, value string) *batch.Task {
	t.Helper()
	patch := []byte(`{"metadata":{"labels":{"` + key + `":"` + value + `"}}}`)
	return kit.Must(client.Patch(t.Context(), name, "application/merge-patch+json", patch, metav1.PatchOptions{}))(t)
}

func bindTask(t *testing.T, client typed.TaskInterface, name, worker, incarnation string) {
	t.Helper()
	kit.Check(t, tryBindTask(t.Context(), client, name, worker, incarnation))
}

func tryBindTask(ctx context.Context, client typed.TaskInterface, name, worker, incarnation string) error {
	_, err := client.Bind(ctx, name, &batch.Binding{Target: batch.BindingTarget{Name: worker, Incarnation: incarnation}}, metav1.CreateOptions{})
	return err
}

func evictTask(t *testing.T, client typed.TaskInterface, name string) {
	t.Helper()
	kit.Check(t, tryEvictTask(t.Context(), client, name))
}

func tryEvictTask(ctx context.Context, client typed.TaskInterface, name string) error {
	_, err := client.Evict(ctx, name, &batch.Eviction{Reason: "Tested"}, metav1.CreateOptions{})
	return err
}

// setPhase updates the phase of a task, and retries after a conflict.
func setPhase(ctx context.Context, client typed.TaskInterface, name string, phase batch.TaskPhase) error {
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

func taskNames(list *batch.TaskList) []string {
	var all []string
	for i := range list.Items {
		all = append(all, list.Items[i].Name)
	}
	return all
}
