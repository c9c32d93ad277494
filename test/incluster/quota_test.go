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
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// testQuota checks that a ResourceQuota of the host limits all replicas together.
func testQuota(t *testing.T, i *replicated) {
	t.Run("concurrent creates at both replicas reach the limit and never exceed it", func(t *testing.T) {
		t.Parallel()
		testQuotaRace(t, i)
	})

	t.Run("each kind is counted and denied past its limit by the other replica", func(t *testing.T) {
		t.Parallel()
		namespace := i.Namespace(t)
		ctx := t.Context()
		// All kinds but leases: the host counts what it can watch, and leases cannot be watched.
		var resources []string
		limits := map[string]int64{}
		for _, kind := range kinds.All {
			if kind.Watched {
				resources, limits[kind.Resource] = append(resources, kind.Resource), 1
			}
		}
		quota := newQuota(t, i, namespace, limits)
		create := func(e *kit.Env, kind, name string) error {
			admin := kit.Client(t, e.Direct(t, "alice", "leat:admins")).BatchV1alpha1()
			worker := kit.Client(t, e.Worker(t, namespace, name)).BatchV1alpha1()
			meta := metav1.ObjectMeta{Name: name}
			var err error
			switch kind {
			case "tasks":
				_, err = admin.Tasks(namespace).Create(ctx, kit.NewTask(name), metav1.CreateOptions{})
			case "tasksets":
				template := v1alpha1.TaskTemplateSpec{Spec: kit.NewTask("").Spec}
				_, err = admin.TaskSets(namespace).Create(ctx, &v1alpha1.TaskSet{ObjectMeta: meta, Spec: v1alpha1.TaskSetSpec{Template: template}}, metav1.CreateOptions{})
			case "taskqueues":
				_, err = admin.TaskQueues(namespace).Create(ctx, &v1alpha1.TaskQueue{ObjectMeta: meta}, metav1.CreateOptions{})
			case "workers":
				_, err = worker.Workers(namespace).Create(ctx, &v1alpha1.Worker{ObjectMeta: meta}, metav1.CreateOptions{})
			default:
				err = fmt.Errorf("add an object of %s to the test", kind)
			}
			return err
		}
		for n, kind := range resources {
			here, there := i.replicas[n%2], i.replicas[(n+1)%2]
			kit.Check(t, create(here, kind, "first"))
			want := fmt.Sprintf("exceeded quota: quota, requested: %s=1, used: %[1]s=1, limited: %[1]s=1", counted(kind))
			// The replica may have an old quota in its cache. Then its update of the quota conflicts, and it reads the new one.
			err := create(there, kind, "second")
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("second create of %s: got error %v, want %q", kind, err, want)
			}
		}
		quota.eventuallyUsed(limits)

		admin := kit.Client(t, i.Admin(t)).BatchV1alpha1()
		kit.Check(t, admin.Tasks(namespace).Delete(ctx, "first", metav1.DeleteOptions{}))
		kit.Check(t, admin.TaskSets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		kit.Check(t, admin.TaskQueues(namespace).Delete(ctx, "first", metav1.DeleteOptions{}))
		quota.eventuallyUsed(map[string]int64{"tasks": 0, "tasksets": 0, "taskqueues": 0, "workers": 1})
		kit.Check(t, create(i.replicas[0], "tasks", "third"))
	})

	t.Run("a dry run is checked but not charged", func(t *testing.T) {
		t.Parallel()
		namespace := i.Namespace(t)
		quota := newQuota(t, i, namespace, map[string]int64{"tasks": 1})
		admin := tasksOf(t, i.Admin(t), namespace)
		dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		for range 3 {
			kit.Must(admin.Create(t.Context(), kit.NewTask("dry"), dryRun))(t)
		}
		if used := quota.used("tasks"); used != 0 {
			t.Errorf("used after dry runs: got %d, want 0", used)
		}
		kit.Must(admin.Create(t.Context(), kit.NewTask("wet"), metav1.CreateOptions{}))(t)
		_, err := admin.Create(t.Context(), kit.NewTask("dry"), dryRun)
		expectReason(t, err, metav1.StatusReasonForbidden)
	})
}

// testQuotaRace runs the race again if the host recounted in the middle of it. The quota controller counts the
// objects in its cache, so it reverts a charge of admission for a task that is not in its cache yet. Then more tasks
// than the limit can be created. That is also so for Pods.
func testQuotaRace(t *testing.T, i *replicated) {
	const attempts = 5
	for attempt := range attempts {
		undisturbed := false
		// Each attempt needs a namespace of its own, which has the name of the test.
		t.Run(fmt.Sprintf("attempt %d", attempt+1), func(t *testing.T) { undisturbed = raceForQuota(t, i) })
		if undisturbed || t.Failed() {
			return
		}
	}
	t.Errorf("the host recounted in the middle of each of %d races, so the test shows nothing", attempts)
}

// raceForQuota reports whether admission alone changed the count, so that the race shows something.
func raceForQuota(t *testing.T, i *replicated) bool {
	const limit, creators, deleted = 10, 50, 4
	namespace := i.Namespace(t)
	quota := newQuota(t, i, namespace, map[string]int64{"tasks": limit})
	var clients []typed.TaskInterface
	for _, replica := range i.replicas {
		clients = append(clients, tasksOf(t, replica.Direct(t, "alice", "leat:admins"), namespace))
	}
	most := countMost(t, clients[0])

	race := func(round string, room int32) (undisturbed bool) {
		lowered := quota.watchLowered("tasks")
		var created, refusals atomic.Int32
		var all sync.WaitGroup
		for n := range creators {
			all.Go(func() {
				// A create that lost the race fails with a conflict or is denied. The retry goes to the other replica.
				err := wait.PollUntilContextTimeout(t.Context(), pollInterval, patience, true, func(ctx context.Context) (bool, error) {
					n++
					_, err := clients[n%len(clients)].Create(ctx, kit.NewTask(fmt.Sprintf("%s-%d", round, n)), metav1.CreateOptions{})
					switch {
					case err == nil:
						created.Add(1)
						return true, nil
					case apierrors.IsForbidden(err) || apierrors.IsConflict(err):
						refusals.Add(1)
						return created.Load() >= room, nil
					case apierrors.IsAlreadyExists(err):
						return false, nil
					}
					return false, err
				})
				if err != nil {
					t.Errorf("round %s: %v", round, err)
				}
			})
		}
		all.Wait()
		if lowered() {
			t.Logf("round %s: the host recounted in the middle: %d creates succeeded", round, created.Load())
			return false
		}
		list := kit.Must(clients[1].List(t.Context(), metav1.ListOptions{}))(t)
		if len(list.Items) != limit || created.Load() != room {
			t.Errorf("round %s: got %d tasks and %d successful creates, want %d and %d", round, len(list.Items), created.Load(), limit, room)
		}
		quota.eventuallyUsed(map[string]int64{"tasks": limit})
		t.Logf("%d creators for %d tasks: %d creates failed first", creators, room, refusals.Load())
		return true
	}
	if !race("first", limit) {
		most()
		return false
	}
	list := kit.Must(clients[0].List(t.Context(), metav1.ListOptions{Limit: deleted}))(t)
	for _, task := range list.Items {
		kit.Check(t, clients[1].Delete(t.Context(), task.Name, metav1.DeleteOptions{}))
	}
	quota.eventuallyUsed(map[string]int64{"tasks": limit - deleted})
	undisturbed := race("second", deleted)
	if n := most(); undisturbed && n != limit {
		t.Errorf("maximum number of tasks at a time: got %d, want %d", n, limit)
	}
	return undisturbed
}

// countMost watches the tasks of a namespace. The returned function stops the watch and returns the maximum number of
// tasks at a time.
func countMost(t *testing.T, client typed.TaskInterface) func() int {
	t.Helper()
	list := kit.Must(client.List(t.Context(), metav1.ListOptions{}))(t)
	w := kit.Must(client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}))(t)
	result := make(chan int)
	go func() {
		now, most := len(list.Items), len(list.Items)
		for event := range w.ResultChan() {
			switch event.Type {
			case watch.Added:
				now++
			case watch.Deleted:
				now--
			}
			most = max(most, now)
		}
		result <- most
	}()
	return func() int {
		w.Stop()
		return <-result
	}
}

// quota is the ResourceQuota "quota" of a namespace.
type quota struct {
	t   testing.TB
	api corev1client.ResourceQuotaInterface
}

// counted returns the name of the count of a resource in a quota.
func counted(resource string) corev1.ResourceName {
	return corev1.ResourceName("count/" + resource + ".batch.leat.dev")
}

// newQuota limits the counts of resources, and waits until the host and all replicas enforce the quota.
func newQuota(t testing.TB, i *replicated, namespace string, limits map[string]int64) quota {
	t.Helper()
	hard, none := corev1.ResourceList{}, map[string]int64{}
	for name, limit := range limits {
		hard[counted(name)] = *resource.NewQuantity(limit, resource.DecimalSI)
		none[name] = 0
	}
	client := i.Env.HostClient(t).CoreV1().ResourceQuotas(namespace)
	kit.Must(client.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: hard},
	}, metav1.CreateOptions{}))(t)
	q := quota{t, client}
	q.eventuallyUsed(none)
	// A replica knows the quota a moment later. It denies creates until it has a quota with a status.
	for _, replica := range i.replicas {
		admin := tasksOf(t, replica.Direct(t, "alice", "leat:admins"), namespace)
		kit.Eventually(t, "the replica knows the quota", func(ctx context.Context) error {
			_, err := admin.Create(ctx, kit.NewTask("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		})
	}
	return q
}

func (q quota) used(resource string) int64 {
	q.t.Helper()
	used := kit.Must(q.get(q.t.Context()))(q.t).Status.Used[counted(resource)]
	return used.Value()
}

func (q quota) get(ctx context.Context) (*corev1.ResourceQuota, error) {
	return q.api.Get(ctx, "quota", metav1.GetOptions{})
}

// watchLowered watches the count of a resource. The returned function ends the watch, and reports whether the count was
// lowered up to then.
func (q quota) watchLowered(resource string) func() bool {
	q.t.Helper()
	now := kit.Must(q.get(q.t.Context()))(q.t)
	w := kit.Must(q.api.Watch(q.t.Context(), metav1.ListOptions{ResourceVersion: now.ResourceVersion}))(q.t)
	var mu sync.Mutex
	lowered := false
	go func() {
		for event := range w.ResultChan() {
			quota, ok := event.Object.(*corev1.ResourceQuota)
			if !ok {
				continue
			}
			mu.Lock()
			before, after := now.Status.Used[counted(resource)], quota.Status.Used[counted(resource)]
			lowered = lowered || after.Cmp(before) < 0
			now = quota
			mu.Unlock()
		}
	}()
	return func() bool {
		defer w.Stop()
		final := kit.Must(q.get(q.t.Context()))(q.t)
		kit.Eventually(q.t, "the watch is up to date", func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if order, err := resourceversion.CompareResourceVersion(now.ResourceVersion, final.ResourceVersion); err != nil || order < 0 {
				return fmt.Errorf("it has resource version %s, want %s (%v)", now.ResourceVersion, final.ResourceVersion, err)
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		return lowered
	}
}

func (q quota) eventuallyUsed(want map[string]int64) {
	q.t.Helper()
	kit.Eventually(q.t, fmt.Sprintf("the quota counts %v", want), func(ctx context.Context) error {
		quota, err := q.get(ctx)
		if err != nil {
			return err
		}
		for name, want := range want {
			if used, found := quota.Status.Used[counted(name)]; !found || used.Value() != want {
				return fmt.Errorf("used: got %v", quota.Status.Used)
			}
		}
		return nil
	})
}
