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
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testNamespaceDeletion checks that namespaces with running tasks and workers can be deleted, also if a worker is dead.
// The namespace controller starts five seconds after the deletion, so the test deletes all namespaces at once. On an
// idle machine each takes the grace period of its tasks and at most 10 s more; the log has the times.
func testNamespaceDeletion(t *testing.T, s *managed) {
	const grace = 2 // seconds
	namespaces := []struct {
		name                            string
		tasks, running, workers, killed int
	}{
		{name: "of-0"},
		{name: "of-1", tasks: 1, running: 1, workers: 1},
		{name: "of-1-whose-worker-dies", tasks: 1, running: 1, workers: 1, killed: 1},
		{name: "of-500", tasks: 500, running: 8, workers: 2, killed: 1},
	}
	var dying []*host.Process
	for _, p := range namespaces {
		newNamespace(t, s.Env, p.name)
		for i := range p.workers {
			worker := s.worker(t, p.name, fmt.Sprintf("worker-%d", i))
			if i < p.killed {
				dying = append(dying, worker)
			}
		}
	}
	for _, p := range namespaces {
		kit.Check(t, inParallel(t.Context(), 8, p.tasks, func(ctx context.Context, i int) error {
			// A command that ignores SIGTERM uses its whole grace period.
			task := kit.NewTask(fmt.Sprintf("task-%d", i), "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
			task.Spec.TerminationGracePeriodSeconds = new(int64(grace))
			_, err := s.api.Tasks(p.name).Create(ctx, task, metav1.CreateOptions{})
			return err
		}))
		kit.Eventually(t, fmt.Sprintf("%d tasks are running in %s", p.running, p.name), func(ctx context.Context) error {
			list, err := s.api.Tasks(p.name).List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
			if err == nil && len(list.Items) != p.running {
				err = fmt.Errorf("%d tasks are running", len(list.Items))
			}
			return err
		})
	}

	for _, worker := range dying {
		kit.Check(t, worker.Kill())
	}
	var deletions errgroup.Group
	for _, p := range namespaces {
		deletions.Go(func() error {
			begun, last := time.Now(), error(nil)
			if err := s.cluster.CoreV1().Namespaces().Delete(t.Context(), p.name, metav1.DeleteOptions{}); err != nil {
				return err
			}
			err := wait.PollUntilContextTimeout(t.Context(), pollInterval, kit.Patience, true, func(ctx context.Context) (bool, error) {
				last = namespaceGone(ctx, s.cluster, p.name)
				return last == nil, nil
			})
			if err != nil {
				return fmt.Errorf("namespace %s: %w: %w", p.name, err, last)
			}
			t.Logf("namespace %s: %d tasks, %d of them running with a grace of %d s; %d workers, %d of them killed: gone after %.1f s",
				p.name, p.tasks, p.running, grace, p.workers, p.killed, time.Since(begun).Seconds())
			return nil
		})
	}
	kit.Check(t, deletions.Wait())
	for _, p := range namespaces {
		if keys := kit.Must(storedKeys(t.Context(), s.Env, p.name))(t); len(keys) != 0 {
			t.Errorf("keys of namespace %s in etcd: got %q, want none", p.name, keys)
		}
	}
}

// testNamespaceSweep checks that the sweeper deletes the objects of a namespace that was finalized by force, before the
// namespace controller emptied it, and no other objects.
func testNamespaceSweep(t *testing.T, s *managed) {
	const forced, kept = "forced", "kept"
	before := s.orphansDeleted(t, "tasks")
	for _, namespace := range []string{newNamespace(t, s.Env, forced), newNamespace(t, s.Env, kept)} {
		ctx, api := t.Context(), s.api
		kit.Must(api.Tasks(namespace).Create(ctx, kit.NewTask("task"), metav1.CreateOptions{}))(t)
		set := kit.NewTaskSet("set")
		set.Spec.Completions, set.Spec.Parallelism = new(int32(3)), new(int32(3))
		kit.Must(api.TaskSets(namespace).Create(ctx, set, metav1.CreateOptions{}))(t)
		kit.Must(api.TaskQueues(namespace).Create(ctx, &v1alpha1.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "queue"}}, metav1.CreateOptions{}))(t)
	}
	for _, namespace := range []string{forced, kept} {
		kit.Eventually(t, "there are a task set, its tasks, another task and a queue", func(ctx context.Context) error {
			return s.holds(ctx, namespace, 6)
		})
	}
	namespaces := s.cluster.CoreV1().Namespaces()
	kit.Check(t, namespaces.Delete(t.Context(), forced, metav1.DeleteOptions{}))
	namespace := kit.Must(namespaces.Get(t.Context(), forced, metav1.GetOptions{}))(t)
	namespace.Spec.Finalizers = nil
	kit.Must(namespaces.Finalize(t.Context(), namespace, metav1.UpdateOptions{}))(t)
	kit.Check(t, kit.Gone(second(namespaces.Get(t.Context(), forced, metav1.GetOptions{}))))
	kit.Check(t, s.holds(t.Context(), forced, 6))

	kit.Eventually(t, "nothing is left of the namespace", func(ctx context.Context) error { return s.holds(ctx, forced, 0) })
	kit.Check(t, s.holds(t.Context(), kept, 6))
	// The controller of the task set may delete its tasks before the sweeper does.
	kit.Eventually(t, "the metric counts the deletions", func(context.Context) error {
		if n := s.orphansDeleted(t, "tasks") - before; n < 1 || n > 4 {
			return fmt.Errorf("it counts %v tasks, want 1 to 4", n)
		}
		return nil
	})
}

// holds returns an error unless Leat's etcd has that number of objects of a namespace.
func (s *managed) holds(ctx context.Context, namespace string, objects int) error {
	keys, err := storedKeys(ctx, s.Env, namespace)
	if err == nil && len(keys) != objects {
		err = fmt.Errorf("namespace %s has %d objects, want %d: %q", namespace, len(keys), objects, keys)
	}
	return err
}
