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

	"github.com/leat-dev/leat/test/kit"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// notice is how long the host may take to see that our server is away: it looks every 30 s, and asks for what there is every minute.
	notice = 90 * time.Second
	// recovery is how long after the return of our server all is as before.
	recovery = time.Minute
)

// outage takes our server away and brings it back.
type outage struct {
	begin func() error
	end   func(context.Context) error
}

// ward is what an outage happens to: namespaces of its own, and a person who works in the first of them.
type ward struct {
	*managed
	namespace   string // with tasks in it, which stays
	with        string // with tasks in it, which is deleted while our server is away
	without     string // likewise, without any
	kubeconfig  string
	home        string // of a person who has used kubectl before
	owner       *v1alpha1.TaskSet
	adminConfig *rest.Config
}

// statement is one of the failure contract. It is told of while our server is away, and then again until it is back as before.
type statement struct {
	name string
	// prepare makes what is needed, while all is well.
	prepare func(*testing.T, *ward)
	// away is checked while our server is away, and back, if there is more to say than before, after its return: until it holds, and
	// again when all do.
	away func(*testing.T, *ward)
	back func(context.Context, *testing.T, *ward) error
}

// contract is docs/reference/outages.md, statement by statement.
var contract = []statement{
	{
		name: "other groups are read and written",
		away: func(t *testing.T, w *ward) {
			kit.Must(w.run(t, w.kubeconfig, "kubectl", "create", "configmap", "written"))(t)
			if out := kit.Must(w.run(t, w.kubeconfig, "kubectl", "get", "configmaps,deployments", "--output=name"))(t); !strings.Contains(out, "configmap/written") {
				t.Errorf("kubectl prints %q", out)
			}
		},
	},
	{
		name: "our kinds are unavailable, and said to be so",
		prepare: func(t *testing.T, w *ward) {
			// A kubectl that has been used before knows the kinds: it keeps what it has discovered.
			kit.Must(w.runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks"))(t)
		},
		away: func(t *testing.T, w *ward) {
			kit.Eventually(t, "kubectl says so", func(context.Context) error {
				if _, err := w.runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks", "--request-timeout=5s"); err == nil || !strings.Contains(err.Error(), "(ServiceUnavailable)") {
					return fmt.Errorf("it says %w", err)
				}
				return nil
			})
		},
		back: func(_ context.Context, t *testing.T, w *ward) error {
			return second(w.runAt(t, w.home, w.kubeconfig, "kubectl", "get", "tasks", "--request-timeout=5s"))
		},
	},
	{
		name: "discovery leaves our kinds out, and no others",
		away: func(t *testing.T, w *ward) {
			kit.Eventually(t, "kubectl does not know them", func(context.Context) error {
				out := kit.Must(w.run(t, w.kubeconfig, "kubectl", "api-resources", "--output=name"))(t)
				if !strings.Contains(out, "deployments.apps\n") {
					t.Fatalf("kubectl api-resources prints %q", out)
				}
				if strings.Contains(out, v1alpha1.GroupName) {
					return fmt.Errorf("it prints %q", out)
				}
				return nil
			})
		},
		back: func(_ context.Context, t *testing.T, w *ward) error {
			out, err := w.run(t, w.kubeconfig, "kubectl", "api-resources", "--api-group=batch.leat.dev", "--output=name")
			if err == nil && !strings.Contains(out, "tasksets.batch.leat.dev\n") {
				err = fmt.Errorf("kubectl api-resources prints %q", out)
			}
			return err
		},
	},
	{
		name: "garbage of other groups is collected",
		away: func(t *testing.T, w *ward) {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			owner := kit.Must(maps.Create(t.Context(), newConfigMap("owner"), metav1.CreateOptions{}))(t)
			kit.Must(maps.Create(t.Context(), newConfigMap("owned", ownedBy(owner, "v1", "ConfigMap", false)...), metav1.CreateOptions{}))(t)
			kit.Check(t, maps.Delete(t.Context(), "owner", metav1.DeleteOptions{}))
			kit.Eventually(t, "what it owned is gone", func(ctx context.Context) error {
				return kit.Gone(second(maps.Get(ctx, "owned", metav1.GetOptions{})))
			})
		},
	},
	{
		name: "a task outlives its owner until then",
		prepare: func(t *testing.T, w *ward) {
			owner := kit.Must(w.cluster.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), newConfigMap("task-owner"), metav1.CreateOptions{}))(t)
			task := newTask("owned")
			task.OwnerReferences = ownedBy(owner, "v1", "ConfigMap", false)
			kit.Must(w.api.Tasks(w.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
		},
		away: func(t *testing.T, w *ward) {
			kit.Check(t, w.cluster.CoreV1().ConfigMaps(w.namespace).Delete(t.Context(), "task-owner", metav1.DeleteOptions{}))
		},
		back: func(ctx context.Context, _ *testing.T, w *ward) error {
			return kit.Gone(second(w.api.Tasks(w.namespace).Get(ctx, "owned", metav1.GetOptions{})))
		},
	},
	{
		name: "nothing is deleted because its owner, one of ours, cannot be seen",
		prepare: func(t *testing.T, w *ward) {
			owned := newConfigMap("owned-by-set", ownedBySet(w.owner, false)...)
			kit.Must(w.cluster.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), owned, metav1.CreateOptions{}))(t)
		},
		away: func(t *testing.T, w *ward) {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			// One that the garbage collector has yet to look up the owner of, and one that it is to look at again.
			kit.Must(maps.Create(t.Context(), newConfigMap("owned-by-set-later", ownedBySet(w.owner, false)...), metav1.CreateOptions{}))(t)
			kit.Must(maps.Patch(t.Context(), "owned-by-set", types.MergePatchType, []byte(`{"data": {"touched": "yes"}}`), metav1.PatchOptions{}))(t)
		},
		back: func(ctx context.Context, _ *testing.T, w *ward) error {
			maps := w.cluster.CoreV1().ConfigMaps(w.namespace)
			return errors.Join(second(maps.Get(ctx, "owned-by-set", metav1.GetOptions{})), second(maps.Get(ctx, "owned-by-set-later", metav1.GetOptions{})))
		},
	},
	{
		name: "quotas of other kinds are kept",
		prepare: func(t *testing.T, w *ward) {
			kit.Must(w.cluster.CoreV1().ResourceQuotas(w.namespace).Create(t.Context(), &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: "quota"},
				Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/services": resource.MustParse("1"), "count/tasks." + v1alpha1.GroupName: resource.MustParse("10")}},
			}, metav1.CreateOptions{}))(t)
			kit.Eventually(t, "the host has counted", func(ctx context.Context) error { return w.counted(ctx, 0, 2) })
		},
		away: func(t *testing.T, w *ward) {
			services := w.cluster.CoreV1().Services(w.namespace)
			kit.Must(services.Create(t.Context(), newService("one"), metav1.CreateOptions{}))(t)
			_, err := services.Create(t.Context(), newService("two"), metav1.CreateOptions{})
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
				t.Errorf("past the limit: %v", err)
			}
			kit.Check(t, services.Delete(t.Context(), "one", metav1.DeleteOptions{}))
			kit.Eventually(t, "the host has counted again", func(ctx context.Context) error { return w.counted(ctx, 0, -1) })
			kit.Must(services.Create(t.Context(), newService("two"), metav1.CreateOptions{}))(t)
		},
		back: func(ctx context.Context, _ *testing.T, w *ward) error { return w.counted(ctx, 1, 1) }, // without the task that is collected
	},
	{
		name: "charts without our kinds are installed",
		away: func(t *testing.T, w *ward) {
			kit.Must(w.run(t, w.kubeconfig, "helm", "install", "plain", filepath.Join("testdata", "plain"), "--wait", "--timeout=30s"))(t)
		},
	},
	{
		name: "charts with our kinds are refused, and leave nothing",
		away: func(t *testing.T, w *ward) {
			// Once discovery lacks the kinds, Helm cannot tell whether they exist.
			kit.Eventually(t, "helm does not know the kinds", func(context.Context) error {
				_, err := w.run(t, w.kubeconfig, "helm", "install", "chart", filepath.Join("testdata", "set"))
				if err == nil {
					t.Fatal("helm install succeeds, want an error")
				}
				if !strings.Contains(err.Error(), "unable to build kubernetes objects from release manifest") {
					return fmt.Errorf("helm install: got error %w, want one about the manifest", err)
				}
				return nil
			})
			if _, err := w.run(t, w.kubeconfig, "helm", "status", "chart"); err == nil || !strings.Contains(err.Error(), "release: not found") {
				t.Errorf("helm status: got error %v, want that the release is not found", err)
			}
		},
		back: func(_ context.Context, t *testing.T, w *ward) error {
			_, err := w.run(t, w.kubeconfig, "helm", "upgrade", "--install", "chart", filepath.Join("testdata", "set"), "--set=parallelism=0")
			return err
		},
	},
	{
		name: "a namespace that is deleted waits, and says for what",
		prepare: func(t *testing.T, w *ward) {
			kit.Must(w.api.Tasks(w.with).Create(t.Context(), newTask("task"), metav1.CreateOptions{}))(t)
			for _, namespace := range []string{w.with, w.without} {
				kit.Must(w.cluster.CoreV1().ConfigMaps(namespace).Create(t.Context(), newConfigMap("map"), metav1.CreateOptions{}))(t)
			}
		},
		away: func(t *testing.T, w *ward) {
			for _, namespace := range []string{w.with, w.without} {
				kit.Check(t, w.cluster.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
			}
			for _, namespace := range []string{w.with, w.without} {
				kit.Eventually(t, "namespace "+namespace+" says what it waits for, and all else in it is gone", func(ctx context.Context) error {
					err := namespaceGone(ctx, w.cluster, namespace)
					if err == nil || !strings.Contains(err.Error(), string(corev1.NamespaceDeletionDiscoveryFailure)) || !strings.Contains(err.Error(), "batch.leat.dev/v1alpha1") {
						return fmt.Errorf("it says %w", err)
					}
					return kit.Gone(second(w.cluster.CoreV1().ConfigMaps(namespace).Get(ctx, "map", metav1.GetOptions{})))
				})
			}
		},
		back: func(ctx context.Context, _ *testing.T, w *ward) error {
			return errors.Join(namespaceGone(ctx, w.cluster, w.with), namespaceGone(ctx, w.cluster, w.without))
		},
	},
}

func newService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"},
	}
}

// counted says nil if the quota counts so many services and, unless it is negative, tasks.
func (w *ward) counted(ctx context.Context, services, tasks int64) error {
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

// testOutage holds the contract against one way in which our server may be away.
func testOutage(t *testing.T, s *managed, o outage) {
	name := strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:])
	w := &ward{
		managed: s, namespace: newNamespace(t, s.Env, name), with: newNamespace(t, s.Env, name+"-with"), without: newNamespace(t, s.Env, name+"-without"),
		adminConfig: s.Admin(t), home: t.TempDir(),
	}
	w.kubeconfig = s.person(t, w.namespace)
	set := newTaskSet("set")
	set.Spec.Suspend = new(true)
	w.owner = kit.Must(s.api.TaskSets(w.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	kit.Must(s.api.Tasks(w.namespace).Create(t.Context(), newTask("task"), metav1.CreateOptions{}))(t)
	for _, statement := range contract {
		if statement.prepare != nil {
			statement.prepare(t, w)
		}
	}

	answers := observe(t, w)
	kit.Check(t, o.begin())
	var away []subtest
	for _, statement := range contract {
		away = append(away, subtest{statement.name, func(t *testing.T) { statement.away(t, w) }})
	}
	together(t, "away", away...)
	kit.Check(t, o.end(t.Context()))
	w.recovers(t)
	t.Run("what there is is never said not to be there", func(t *testing.T) {
		for path, codes := range answers() {
			t.Logf("%s was answered with %v (0 is no answer in time)", path, codes)
			if codes[http.StatusNotFound] != 0 || codes[http.StatusOK] == 0 || codes[http.StatusServiceUnavailable] == 0 {
				t.Errorf("%s was answered with %v; want 503 while our server was away, 200 before or after, and never 404", path, codes)
			}
		}
	})
}

// recovers checks that all is as before a minute after the return of our server, and stays so.
func (w *ward) recovers(t *testing.T) {
	returned := time.Now()
	took, missing := map[string]time.Duration{}, map[string]error{}
	err := wait.PollUntilContextTimeout(t.Context(), time.Second, recovery, true, func(ctx context.Context) (bool, error) {
		for _, statement := range contract {
			if statement.back == nil || took[statement.name] > 0 {
				continue
			}
			if missing[statement.name] = statement.back(ctx, t, w); missing[statement.name] == nil {
				took[statement.name] = time.Since(returned)
				delete(missing, statement.name)
			}
		}
		return len(missing) == 0, nil
	})
	for _, statement := range contract {
		if statement.back == nil {
			continue
		}
		t.Run("back/"+statement.name, func(t *testing.T) {
			if missing[statement.name] != nil {
				t.Fatalf("%v: %v", err, missing[statement.name])
			}
			t.Logf("as before after %.1f s", took[statement.name].Seconds())
			kit.Check(t, statement.back(t.Context(), t, w))
		})
	}
}

// observe asks for what there is of ours, through the host, until it is asked for the answers: how many of each code, by path.
func observe(t *testing.T, w *ward) func() map[string]map[int]int {
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

// statusCode gives the code of an answer, 0 for none.
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
	_, _ = io.Copy(io.Discard, response.Body) // the code is the news
	return response.StatusCode
}
