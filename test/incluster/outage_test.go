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
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
)

// outage makes the server unavailable and available again.
type outage struct {
	begin func() error
	end   func(context.Context) error
}

// outageEnv has the objects of one outage: namespaces of its own, and a user who works in the first of them.
type outageEnv struct {
	*managed
	namespace   string // has tasks and is kept
	with        string // has tasks and is deleted during the outage
	without     string // has no tasks and is deleted during the outage
	kubeconfig  string
	home        string // has the caches of a kubectl that has been used before
	owner       *v1alpha1.TaskSet
	adminConfig *rest.Config
	// undiscovered is closed once discovery lacks the kinds of Leat, or the test of that has failed.
	undiscovered chan struct{}
}

// outageCase is a row of docs/reference/outages.md.
type outageCase struct {
	name string
	// setup creates objects before the outage.
	setup func(*testing.T, *outageEnv)
	// during checks the cluster during the outage. The checks of all cases run in parallel.
	during func(*testing.T, *outageEnv)
	// after, if set, is called after the outage until it returns nil, and again when that holds for all cases.
	after func(context.Context, *testing.T, *outageEnv) error
}

// outageCases has the rows of docs/reference/outages.md.
var outageCases = []outageCase{
	{
		name: "other groups are read and written",
		during: func(t *testing.T, w *outageEnv) {
			kit.Must(w.run(t, w.kubeconfig, "kubectl", "create", "configmap", "written"))(t)
			if out := kit.Must(w.run(t, w.kubeconfig, "kubectl", "get", "configmaps,deployments", "--output=name"))(t); !strings.Contains(out, "configmap/written") {
				t.Errorf("kubectl prints %q", out)
			}
		},
	},
	{
		name: "kubectl get reports ServiceUnavailable",
		setup: func(t *testing.T, w *outageEnv) {
			// A kubectl that has been used before has the kinds in its discovery cache.
			kit.Must(runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks"))(t)
		},
		during: func(t *testing.T, w *outageEnv) {
			kit.Eventually(t, "kubectl reports that the server is unavailable", func(context.Context) error {
				if _, err := runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks", "--request-timeout=5s"); err == nil || !strings.Contains(err.Error(), "(ServiceUnavailable)") {
					return fmt.Errorf("kubectl get: got error %w, want ServiceUnavailable", err)
				}
				return nil
			})
		},
		after: func(_ context.Context, t *testing.T, w *outageEnv) error {
			return second(runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks", "--request-timeout=5s"))
		},
	},
	{
		name: "discovery lacks only the kinds of Leat",
		during: func(t *testing.T, w *outageEnv) {
			defer close(w.undiscovered)
			kit.Eventually(t, "kubectl does not list the kinds", func(context.Context) error {
				out := kit.Must(w.run(t, w.kubeconfig, "kubectl", "api-resources", "--output=name"))(t)
				if !strings.Contains(out, "deployments.apps\n") {
					t.Fatalf("kubectl api-resources prints %q", out)
				}
				if strings.Contains(out, v1alpha1.GroupName) {
					return fmt.Errorf("kubectl api-resources prints %q, want no kind of Leat", out)
				}
				return nil
			})
		},
		after: func(_ context.Context, t *testing.T, w *outageEnv) error {
			out, err := w.run(t, w.kubeconfig, "kubectl", "api-resources", "--api-group=batch.leat.dev", "--output=name")
			if err == nil && !strings.Contains(out, "tasksets.batch.leat.dev\n") {
				err = fmt.Errorf("kubectl api-resources prints %q", out)
			}
			return err
		},
	},
	{
		name: "dependents in other groups are garbage collected",
		during: func(t *testing.T, w *outageEnv) {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			owner := kit.Must(maps.Create(t.Context(), newConfigMap("owner"), metav1.CreateOptions{}))(t)
			kit.Must(maps.Create(t.Context(), newConfigMap("owned", ownedBy(owner, "v1", "ConfigMap", false)...), metav1.CreateOptions{}))(t)
			kit.Check(t, maps.Delete(t.Context(), "owner", metav1.DeleteOptions{}))
			kit.Eventually(t, "the dependent is deleted", func(ctx context.Context) error {
				return kit.Gone(second(maps.Get(ctx, "owned", metav1.GetOptions{})))
			})
		},
	},
	{
		name: "a task is garbage collected after the outage",
		setup: func(t *testing.T, w *outageEnv) {
			owner := kit.Must(w.cluster.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), newConfigMap("task-owner"), metav1.CreateOptions{}))(t)
			task := kit.NewTask("owned")
			task.OwnerReferences = ownedBy(owner, "v1", "ConfigMap", false)
			kit.Must(w.api.Tasks(w.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
		},
		during: func(t *testing.T, w *outageEnv) {
			kit.Check(t, w.cluster.CoreV1().ConfigMaps(w.namespace).Delete(t.Context(), "task-owner", metav1.DeleteOptions{}))
		},
		after: func(ctx context.Context, _ *testing.T, w *outageEnv) error {
			return kit.Gone(second(w.api.Tasks(w.namespace).Get(ctx, "owned", metav1.GetOptions{})))
		},
	},
	{
		name: "dependents of an unavailable owner are kept",
		setup: func(t *testing.T, w *outageEnv) {
			owned := newConfigMap("owned-by-set", ownedBySet(w.owner, false)...)
			kit.Must(w.cluster.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), owned, metav1.CreateOptions{}))(t)
		},
		during: func(t *testing.T, w *outageEnv) {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			// The garbage collector looks up the owner of a new object, and again that of a changed one.
			kit.Must(maps.Create(t.Context(), newConfigMap("owned-by-set-later", ownedBySet(w.owner, false)...), metav1.CreateOptions{}))(t)
			kit.Must(maps.Patch(t.Context(), "owned-by-set", types.MergePatchType, []byte(`{"data": {"touched": "yes"}}`), metav1.PatchOptions{}))(t)
		},
		after: func(ctx context.Context, _ *testing.T, w *outageEnv) error {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			return errors.Join(second(maps.Get(ctx, "owned-by-set", metav1.GetOptions{})), second(maps.Get(ctx, "owned-by-set-later", metav1.GetOptions{})))
		},
	},
	{
		name: "quotas of other kinds are enforced",
		setup: func(t *testing.T, w *outageEnv) {
			kit.Must(w.cluster.CoreV1().ResourceQuotas(w.namespace).Create(t.Context(), &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: "quota"},
				Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/services": resource.MustParse("1"), "count/tasks." + v1alpha1.GroupName: resource.MustParse("10")}},
			}, metav1.CreateOptions{}))(t)
			kit.Eventually(t, "the quota has its counts", func(ctx context.Context) error { return w.counted(ctx, 0, 2) })
		},
		during: func(t *testing.T, w *outageEnv) {
			services := w.cluster.CoreV1().Services(w.namespace)
			kit.Must(services.Create(t.Context(), newService("one"), metav1.CreateOptions{}))(t)
			_, err := services.Create(t.Context(), newService("two"), metav1.CreateOptions{})
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
				t.Errorf("create past the limit: got error %v, want exceeded quota", err)
			}
			kit.Check(t, services.Delete(t.Context(), "one", metav1.DeleteOptions{}))
			kit.Eventually(t, "the quota has its new counts", func(ctx context.Context) error { return w.counted(ctx, 0, -1) })
			kit.Must(services.Create(t.Context(), newService("two"), metav1.CreateOptions{}))(t)
		},
		after: func(ctx context.Context, _ *testing.T, w *outageEnv) error { return w.counted(ctx, 1, 1) }, // without the task that is garbage collected
	},
	{
		name: "charts without kinds of Leat can be installed",
		during: func(t *testing.T, w *outageEnv) {
			w.awaitUndiscovered(t) // before that, Helm waits long for a server that hangs
			kit.Must(w.run(t, w.kubeconfig, "helm", "install", "plain", filepath.Join("testdata", "plain"), "--wait", "--timeout=30s"))(t)
		},
	},
	{
		name: "charts with kinds of Leat fail and leave no release",
		during: func(t *testing.T, w *outageEnv) {
			w.awaitUndiscovered(t) // after that, Helm does not know whether the kinds exist
			if _, err := w.run(t, w.kubeconfig, "helm", "install", "chart", filepath.Join("testdata", "set")); err == nil ||
				!strings.Contains(err.Error(), "unable to build kubernetes objects from release manifest") {
				t.Errorf("helm install: got error %v, want one about the manifest", err)
			}
			if _, err := w.run(t, w.kubeconfig, "helm", "status", "chart"); err == nil || !strings.Contains(err.Error(), "release: not found") {
				t.Errorf("helm status: got error %v, want that the release is not found", err)
			}
		},
		after: func(_ context.Context, t *testing.T, w *outageEnv) error {
			_, err := w.run(t, w.kubeconfig, "helm", "upgrade", "--install", "chart", filepath.Join("testdata", "set"), "--set=parallelism=0")
			return err
		},
	},
	{
		name: "a deleted namespace waits and has a condition",
		setup: func(t *testing.T, w *outageEnv) {
			kit.Must(w.api.Tasks(w.with).Create(t.Context(), kit.NewTask("task"), metav1.CreateOptions{}))(t)
			for _, namespace := range []string{w.with, w.without} {
				kit.Must(w.cluster.CoreV1().ConfigMaps(namespace).Create(t.Context(), newConfigMap("map"), metav1.CreateOptions{}))(t)
			}
		},
		during: func(t *testing.T, w *outageEnv) {
			for _, namespace := range []string{w.with, w.without} {
				kit.Check(t, w.cluster.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
			}
			for _, namespace := range []string{w.with, w.without} {
				kit.Eventually(t, "a condition of namespace "+namespace+" names the group, and its other objects are deleted", func(ctx context.Context) error {
					err := namespaceGone(ctx, w.cluster, namespace)
					if err == nil || !strings.Contains(err.Error(), string(corev1.NamespaceDeletionDiscoveryFailure)) || !strings.Contains(err.Error(), "batch.leat.dev/v1alpha1") {
						return fmt.Errorf("got %w, want a discovery failure of the group", err)
					}
					return kit.Gone(second(w.cluster.CoreV1().ConfigMaps(namespace).Get(ctx, "map", metav1.GetOptions{})))
				})
			}
		},
		after: func(ctx context.Context, _ *testing.T, w *outageEnv) error {
			return errors.Join(namespaceGone(ctx, w.cluster, w.with), namespaceGone(ctx, w.cluster, w.without))
		},
	},
}

// awaitUndiscovered waits until discovery lacks the kinds of Leat.
func (w *outageEnv) awaitUndiscovered(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "the case about discovery has ended", func(context.Context) error {
		select {
		case <-w.undiscovered:
			return nil
		default:
			return await.ErrNotYet
		}
	})
}

func newService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"},
	}
}

// counted returns an error unless the quota counts that many services and tasks. A negative number of tasks is any.
func (w *outageEnv) counted(ctx context.Context, services, tasks int64) error {
	quota, err := w.cluster.CoreV1().ResourceQuotas(w.namespace).Get(ctx, "quota", metav1.GetOptions{})
	if err != nil {
		return err
	}
	servicesUsed, ok := quota.Status.Used["count/services"]
	tasksUsed, found := quota.Status.Used["count/tasks."+v1alpha1.GroupName]
	if !ok || !found || servicesUsed.Value() != services || tasks >= 0 && tasksUsed.Value() != tasks {
		return fmt.Errorf("used is %v, want %d services and %d tasks", quota.Status.Used, services, tasks)
	}
	return nil
}

// testOutage checks all outageCases for one kind of outage.
func testOutage(t *testing.T, s *managed, o outage) {
	name := strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:])
	w := &outageEnv{
		managed: s, namespace: newNamespace(t, s.Env, name), with: newNamespace(t, s.Env, name+"-with"), without: newNamespace(t, s.Env, name+"-without"),
		adminConfig: s.Admin(t), home: t.TempDir(), undiscovered: make(chan struct{}),
	}
	w.kubeconfig = s.person(t, w.namespace)
	set := kit.NewTaskSet("set")
	set.Spec.Suspend = new(true)
	w.owner = kit.Must(s.api.TaskSets(w.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	kit.Must(s.api.Tasks(w.namespace).Create(t.Context(), kit.NewTask("task"), metav1.CreateOptions{}))(t)
	for _, c := range outageCases {
		if c.setup != nil {
			c.setup(t, w)
		}
	}

	answers := observe(t, w)
	kit.Check(t, o.begin())
	var during []subtest
	for _, c := range outageCases {
		during = append(during, subtest{c.name, func(t *testing.T) { c.during(t, w) }})
	}
	together(t, "during", during...)
	kit.Check(t, o.end(t.Context()))
	w.checkRecovery(t)
	t.Run("existing objects are never reported as not found", func(t *testing.T) {
		for path, codes := range answers() {
			t.Logf("GET %s: answers by code: %v (0 is a timeout)", path, codes)
			if codes[http.StatusNotFound] != 0 || codes[http.StatusOK] == 0 || codes[http.StatusServiceUnavailable] == 0 {
				t.Errorf("GET %s: got answers by code %v, want 200, 503 and no 404", path, codes)
			}
		}
	})
}

// checkRecovery checks that everything is as before within a minute after the outage, and stays so.
func (w *outageEnv) checkRecovery(t *testing.T) {
	returned := time.Now()
	took, missing := map[string]time.Duration{}, map[string]error{}
	err := wait.PollUntilContextTimeout(t.Context(), time.Second, kit.Patience, true, func(ctx context.Context) (bool, error) {
		for _, c := range outageCases {
			if c.after == nil || took[c.name] > 0 {
				continue
			}
			if missing[c.name] = c.after(ctx, t, w); missing[c.name] == nil {
				took[c.name] = time.Since(returned)
				delete(missing, c.name)
			}
		}
		return len(missing) == 0, nil
	})
	for _, c := range outageCases {
		if c.after == nil {
			continue
		}
		t.Run("after/"+c.name, func(t *testing.T) {
			if missing[c.name] != nil {
				t.Fatalf("%v: %v", err, missing[c.name])
			}
			t.Logf("recovered after %.1f s", took[c.name].Seconds())
			kit.Check(t, c.after(t.Context(), t, w))
		})
	}
}

// observe gets existing objects of Leat through the host until the returned function is called. That function returns
// how many answers had each code, by path.
func observe(t *testing.T, w *outageEnv) func() map[string]map[int]int {
	const interval, timeout = 50 * time.Millisecond, 2 * time.Second
	client := &http.Client{Timeout: timeout, Transport: kit.Must(rest.TransportFor(w.adminConfig))(t)}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	group := "/apis/" + v1alpha1.GroupVersion.String()
	paths := []string{group, group + "/tasks", group + "/namespaces/" + w.namespace + "/tasks/task", group + "/namespaces/" + w.namespace + "/tasksets/set"}
	answers := make([]map[int]int, len(paths))
	var all sync.WaitGroup
	for i, path := range paths {
		answers[i] = map[int]int{}
		all.Go(func() {
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				if code := statusCode(ctx, client, w.adminConfig.Host+path); ctx.Err() == nil {
					answers[i][code]++
				}
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() map[string]map[int]int {
		cancel()
		all.Wait()
		byPath := map[string]map[int]int{}
		for i, path := range paths {
			byPath[path] = answers[i]
		}
		return byPath
	}
}

// statusCode returns the code of an answer, or 0 if there is none.
func statusCode(ctx context.Context, client *http.Client, url string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // only the code matters
	return response.StatusCode
}
