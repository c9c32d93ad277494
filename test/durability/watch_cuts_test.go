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
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/history"
)

// testWatchCuts tests that watchers miss nothing and receive nothing twice when their connections are cut again and
// again.
func testWatchCuts(t *testing.T, e *kit.Env) {
	random := seeded(t)
	namespace := e.Namespace(t)
	stored := recordHistory(t, e, namespace)
	proxy, through := faultproxy.Before(t, e.Admin(t))
	client := tasks(kit.Client(t, through), namespace)

	watches := []struct {
		options metav1.ListOptions
		selects history.Selector
	}{
		{metav1.ListOptions{}, history.All},
		{metav1.ListOptions{LabelSelector: "color=red"}, func(task *batch.Task) bool { return task.Labels["color"] == "red" }},
		{metav1.ListOptions{FieldSelector: "status.phase=Running"}, func(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }},
		{metav1.ListOptions{FieldSelector: "spec.workerName=worker-1"}, func(task *batch.Task) bool { return task.Spec.WorkerName == "worker-1" }},
	}
	watchers := make([]*retryWatcher, len(watches))
	for i := range watches {
		watchers[i] = startRetryWatcher(t, client, watches[i].options, stored.Start)
	}

	person, controller := tasks(kit.Client(t, e.Admin(t)), namespace), tasks(kit.Client(t, e.Controller(t)), namespace)
	writers := make(chan error, 3)
	for i := range cap(writers) {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		go func() { writers <- churn(t.Context(), person, controller, random, fmt.Sprintf("writer-%d", i), 100) }()
	}
	cuts := 0
	// allWatch reports whether all watchers have started a watch since the last cut. Before that, there is little to cut.
	allWatch := func() bool {
		return !slices.ContainsFunc(watchers, func(f *retryWatcher) bool {
			_, watches, _ := f.received(t)
			return watches <= cuts
		})
	}
	for ended := 0; ended < cap(writers); {
		select {
		case err := <-writers:
			kit.Check(t, err)
			ended++
		case <-time.After(time.Duration(random.IntN(40)) * time.Millisecond):
			if allWatch() && proxy.Close() {
				cuts++
			}
		}
	}
	last := labelTask(t, person, createTask(t, person, newHeldTask("last")).Name, "color", "red")

	changes := stored.until(t, last.ResourceVersion)
	for i, w := range watches {
		watchers[i].expect(t, changes, w.selects)
		if _, _, lists := watchers[i].received(t); lists > 0 {
			t.Errorf("the watcher listed %d times, want none", lists)
		}
	}
	t.Logf("%d changes, %d cuts", len(changes), cuts)
	if cuts < 10 {
		t.Errorf("got %d cuts, want at least 10: this run proves little", cuts)
	}
}

// churn makes n changes of all kinds to the tasks with a prefix, and deletes the tasks.
func churn(ctx context.Context, person, controller typed.TaskInterface, random *rand.Rand, prefix string, n int) error {
	const many = 5
	at := func(i int) string { return fmt.Sprintf("%s-%d", prefix, i) }
	for range n {
		err := changeOnce(ctx, person, controller, random, at(random.IntN(many)))
		// The scheduler or another caller may write the same tasks.
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for i := range many {
		if err := person.Delete(ctx, at(i), metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func changeOnce(ctx context.Context, person, controller typed.TaskInterface, random *rand.Rand, name string) error {
	color := []string{"red", "green"}[random.IntN(2)]
	task, err := person.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		task = kit.NewTask(name)
		task.Labels = map[string]string{"color": color}
		_, err = person.Create(ctx, task, metav1.CreateOptions{})
	}
	if err != nil || task.UID == "" {
		return err
	}
	switch dice := random.IntN(10); {
	case dice < 2:
		return person.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
	case dice < 4:
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"color":%q,"n":"%d"}}}`, color, random.Uint32())
		_, err = person.Patch(ctx, name, "application/merge-patch+json", patch, metav1.PatchOptions{})
	case task.Spec.WorkerName == "":
		err = tryBindTask(ctx, controller, name, fmt.Sprintf("worker-%d", random.IntN(3)), fmt.Sprintf("incarnation-%d", random.Uint32()))
	case dice < 6:
		err = tryEvictTask(ctx, controller, name)
	default:
		task.Status.Phase = batch.TaskRunning
		task.Status.Attempts++
		_, err = controller.UpdateStatus(ctx, task, metav1.UpdateOptions{})
	}
	return err
}
