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

package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/env"
)

// testQuota: the host's own ResourceQuota counts our kinds as it counts others.
func testQuota(t *testing.T, e *env.Env) {
	t.Run("each kind is counted and refused past its limit", func(t *testing.T) {
		namespace := e.Namespace(t)
		quota := newQuota(t, e, namespace, map[string]int64{"tasks": 1, "tasksets": 1, "taskqueues": 1, "workers": 1})
		admin := env.Client(t, e.Admin(t)).BatchV1alpha1()
		create := map[string]func(name string) error{
			"tasks": func(name string) error {
				_, err := admin.Tasks(namespace).Create(t.Context(), newTask(name), metav1.CreateOptions{})
				return err
			},
			"tasksets": func(name string) error {
				_, err := admin.TaskSets(namespace).Create(t.Context(), newTaskSet(name), metav1.CreateOptions{})
				return err
			},
			"taskqueues": func(name string) error {
				queue := &v1alpha1.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: name}}
				_, err := admin.TaskQueues(namespace).Create(t.Context(), queue, metav1.CreateOptions{})
				return err
			},
			"workers": func(name string) error {
				worker := &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}
				client := env.Client(t, e.Worker(t, namespace, name))
				_, err := client.BatchV1alpha1().Workers(namespace).Create(t.Context(), worker, metav1.CreateOptions{})
				return err
			},
		}
		for resource, create := range create {
			must(t, create("first"))
			refused(t, create("second"), metav1.StatusReasonForbidden,
				fmt.Sprintf("exceeded quota: quota, requested: %s=1, used: %[1]s=1, limited: %[1]s=1", counted(resource)))
		}

		must(t, admin.Tasks(namespace).Delete(t.Context(), "first", metav1.DeleteOptions{}))
		must(t, admin.TaskSets(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
		must(t, admin.TaskQueues(namespace).Delete(t.Context(), "first", metav1.DeleteOptions{}))
		quota.eventuallyUsed(map[string]int64{"tasks": 0, "tasksets": 0, "taskqueues": 0, "workers": 1})
		must(t, create["tasks"]("third"))
	})

	t.Run("a dry run is judged but not charged", func(t *testing.T) {
		namespace := e.Namespace(t)
		quota := newQuota(t, e, namespace, map[string]int64{"tasks": 1})
		tasks := env.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
		dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		for range 3 {
			get(tasks.Create(t.Context(), newTask("dry"), dryRun))(t)
		}
		if used := quota.used("tasks"); used != 0 {
			t.Errorf("dry runs were charged: used is %d", used)
		}
		get(tasks.Create(t.Context(), newTask("wet"), metav1.CreateOptions{}))(t)
		_, err := tasks.Create(t.Context(), newTask("dry"), dryRun)
		refused(t, err, metav1.StatusReasonForbidden, "exceeded quota: quota")
	})

	t.Run("parallel creates never exceed the limit and reach it", func(t *testing.T) {
		const limit, creators = 10, 50
		namespace := e.Namespace(t)
		newQuota(t, e, namespace, map[string]int64{"tasks": limit})
		tasks := env.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
		var created, refusals atomic.Int32
		var all sync.WaitGroup
		for i := range creators {
			all.Go(func() {
				// A create that lost the race for the quota says so, and may be tried again.
				for created.Load() < limit {
					_, err := tasks.Create(t.Context(), newTask(fmt.Sprintf("task-%d", i)), metav1.CreateOptions{})
					switch {
					case err == nil:
						created.Add(1)
						return
					case apierrors.IsForbidden(err) || apierrors.IsConflict(err):
						refusals.Add(1)
					default:
						t.Errorf("create: %v", err)
						return
					}
				}
			})
		}
		all.Wait()
		list := get(tasks.List(t.Context(), metav1.ListOptions{}))(t)
		if len(list.Items) != limit || created.Load() != limit {
			t.Errorf("there are %d tasks and %d creates succeeded, want %d", len(list.Items), created.Load(), limit)
		}
		t.Logf("%d creates were refused on the way", refusals.Load())
		_, err := tasks.Create(t.Context(), newTask("more"), metav1.CreateOptions{})
		refused(t, err, metav1.StatusReasonForbidden, "exceeded quota: quota")
	})
}

// quota is the ResourceQuota "quota" of a namespace.
type quota struct {
	t   testing.TB
	get func(context.Context) (*corev1.ResourceQuota, error)
}

func counted(resource string) corev1.ResourceName {
	return corev1.ResourceName("count/" + resource + "." + group)
}

// newQuota limits the counts of resources, and waits until the host has taken it up: before, nothing is refused.
func newQuota(t testing.TB, e *env.Env, namespace string, limits map[string]int64) quota {
	t.Helper()
	hard, none := corev1.ResourceList{}, map[string]int64{}
	for name, limit := range limits {
		hard[counted(name)] = *resource.NewQuantity(limit, resource.DecimalSI)
		none[name] = 0
	}
	client := hostAdmin(t, e).CoreV1().ResourceQuotas(namespace)
	get(client.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: hard},
	}, metav1.CreateOptions{}))(t)
	q := quota{t, func(ctx context.Context) (*corev1.ResourceQuota, error) {
		return client.Get(ctx, "quota", metav1.GetOptions{})
	}}
	q.eventuallyUsed(none)
	// The server hears of it a moment later.
	tasks := env.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
	eventually(t, patience, "the server knows the quota", func(ctx context.Context) error {
		_, err := tasks.Create(ctx, newTask("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
	return q
}

func (q quota) used(resource string) int64 {
	q.t.Helper()
	used := get(q.get(q.t.Context()))(q.t).Status.Used[counted(resource)]
	return used.Value()
}

func (q quota) eventuallyUsed(want map[string]int64) {
	q.t.Helper()
	eventually(q.t, patience+quotaSync, fmt.Sprintf("the host has counted %v", want), func(ctx context.Context) error {
		quota, err := q.get(ctx)
		if err != nil {
			return err
		}
		for name, want := range want {
			if used, found := quota.Status.Used[counted(name)]; !found || used.Value() != want {
				return fmt.Errorf("used is %v", quota.Status.Used)
			}
		}
		return nil
	})
}
