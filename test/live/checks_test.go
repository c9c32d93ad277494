//go:build cluster

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

package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// testUsers: a user with the cluster role admin in a namespace may use our kinds there, and only there.
func (c *installation) testUsers(t *testing.T) {
	namespace := "--namespace=" + c.namespace(t, "people")
	kit.Eventually(t, "the cluster role admin includes ours", func(ctx context.Context) error {
		_, err := c.kubectl(ctx, "--as="+testUser, "auth", "can-i", "create", "taskqueues."+group, namespace)
		return err
	})
	for verb, resource := range map[string]string{"delete": "tasksets." + group, "get": "tasks/log." + group, "update": "workers." + group} {
		c.runAsUser(t, "auth", "can-i", verb, resource, namespace)
	}
	for what, args := range map[string][]string{
		"another namespace": {"create", "tasks." + group, "--namespace=default"},
		"bind":              {"create", "tasks." + group, "--subresource=binding", namespace},
	} {
		if out, err := c.kubectl(t.Context(), append([]string{"--as=" + testUser, "auth", "can-i"}, args...)...); err == nil {
			t.Errorf("%s: got %q, want no", what, out)
		}
	}
	if out := c.runAsUser(t, "get", "tasks,tasksets,taskqueues,workers", namespace, "--output=name"); out != "" {
		t.Errorf("get in an empty namespace: got %s, want nothing", out)
	}
	out := c.runAsUser(t, "api-resources", "--api-group="+group, "--output=name")
	for _, kind := range kinds.All {
		if !strings.Contains(out, kind.Resource+"."+group+"\n") {
			t.Errorf("api-resources: got %s, want %s too", out, kind.Resource)
		}
	}
	c.runAsUser(t, "create", "--filename="+c.root+"/artifacts/examples/taskset.yaml", namespace)
	if out := c.runAsUser(t, "get", "tasksets", namespace); !strings.Contains(out, "COMPLETIONS") || !strings.Contains(out, "squares") {
		t.Errorf("get tasksets: got %s, want the column COMPLETIONS and the set squares", out)
	}
}

// testOpenAPI: the OpenAPI documents of the cluster include our kinds.
func (c *installation) testOpenAPI(t *testing.T) {
	if out := c.runAsUser(t, "explain", "tasksets.spec.completions"); !strings.Contains(out, "completions <integer>") {
		t.Errorf("explain: got %s, want the type of completions", out)
	}
	if out := c.run(t, "get", "--raw=/openapi/v3"); !strings.Contains(out, `"apis/batch.leat.dev/v1alpha1"`) {
		t.Error("OpenAPI v3 does not include our group")
	}
	kit.Eventually(t, "OpenAPI v2 includes our group", func(ctx context.Context) error {
		out, err := c.kubectl(ctx, "get", "--raw=/openapi/v2")
		if err == nil && !strings.Contains(out, "/apis/batch.leat.dev/v1alpha1/namespaces/{namespace}/tasksets") {
			err = errors.New("it does not include the path of tasksets")
		}
		return err
	})
}

// testMetrics: only service accounts with the role leat:metrics-reader may read the metrics of our programs.
func (c *installation) testMetrics(t *testing.T) {
	namespace := c.namespace(t, "metrics")
	accounts := c.admin.CoreV1().ServiceAccounts(namespace)
	token := func(account string) string {
		kit.Must(accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}))(t)
		return kit.Must(accounts.CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t).Status.Token
	}
	stranger, reader := token("stranger"), token("reader")
	binding := kit.Must(c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "leat-e2e-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "reader"}},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		kit.Check(t, c.admin.RbacV1().ClusterRoleBindings().Delete(context.WithoutCancel(t.Context()), binding.Name, metav1.DeleteOptions{}))
	})
	// Any controller manager may respond. Only the leader has metrics other than those of leader election.
	for target, metric := range map[string]string{
		"service/leat-apiserver 443":           "apiserver_request_total",
		"service/leat-controller-manager 8443": "leader_election_master_status",
	} {
		address := c.forward(t, strings.Fields(target)...)
		scrape := func(ctx context.Context, token string) error {
			client := kit.Must(rest.UnversionedRESTClientFor(&rest.Config{
				Host: address, BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
				ContentConfig: rest.ContentConfig{NegotiatedSerializer: scheme.Codecs.WithoutConversion()},
			}))(t)
			data, err := client.Get().AbsPath("/metrics").DoRaw(ctx)
			if err == nil && !strings.Contains(string(data), metric) {
				err = fmt.Errorf("the metrics do not include %s", metric)
			}
			return err
		}
		kit.Eventually(t, target+" serves its metrics", func(ctx context.Context) error { return scrape(ctx, reader) })
		if err := scrape(t.Context(), stranger); !apierrors.IsForbidden(err) {
			t.Errorf("%s without the role: got error %v, want Forbidden", target, err)
		}
	}
}

// forward forwards a local port to a port in our namespace until the test ends, and returns its URL.
func (c *installation) forward(t testing.TB, target ...string) string {
	t.Helper()
	command := c.command(t.Context(), "port-forward", "--namespace="+system, target[0], ":"+target[1])
	stdout := kit.Must(command.StdoutPipe())(t)
	kit.Check(t, command.Start())
	t.Cleanup(func() { _ = command.Wait() }) // the end of the context killed it
	line := kit.Must(bufio.NewReader(stdout).ReadString('\n'))(t)
	_, rest, _ := strings.Cut(line, "127.0.0.1:")
	port, _, _ := strings.Cut(rest, " ")
	return "https://127.0.0.1:" + port
}

// testQuota: a ResourceQuota counts our kinds.
func (c *installation) testQuota(t *testing.T) {
	const limit = 3
	namespace := c.namespace(t, "quota")
	counted := corev1.ResourceName("count/tasks." + group)
	quotas, tasks := c.admin.CoreV1().ResourceQuotas(namespace), c.client(t).BatchV1alpha1().Tasks(namespace)
	create := func(ctx context.Context) error {
		_, err := quotas.Create(ctx, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: "quota"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{counted: *resource.NewQuantity(limit, resource.DecimalSI)}},
		}, metav1.CreateOptions{})
		return err
	}
	// The quota controller discovers a new API within 30 s, but recounts a quota that it could not count only after 5
	// minutes. So create the quota again until it is counted.
	var made time.Time
	kit.Eventually(t, "the quota controller knows our kinds", func(ctx context.Context) error {
		quota, err := quotas.Get(ctx, "quota", metav1.GetOptions{})
		if err == nil && quota.Status.Used != nil {
			return nil
		}
		if err == nil && time.Since(made) > 5*time.Second {
			err = quotas.Delete(ctx, "quota", metav1.DeleteOptions{})
		}
		if apierrors.IsNotFound(err) {
			made, err = time.Now(), create(ctx)
		}
		if err == nil {
			err = errors.New("the quota has no status.used")
		}
		return err
	})
	used := func(want int64) {
		t.Helper()
		kit.Eventually(t, fmt.Sprintf("the quota counts %d", want), func(ctx context.Context) error {
			quota, err := quotas.Get(ctx, "quota", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got, ok := quota.Status.Used[counted]; !ok || got.Value() != want {
				return fmt.Errorf("got status.used %v", quota.Status.Used)
			}
			return nil
		})
	}
	used(0)
	kit.Eventually(t, "creates are refused past the limit", func(ctx context.Context) error {
		_, err := tasks.Create(ctx, newTask(""), metav1.CreateOptions{})
		if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
			return fmt.Errorf("got error %v, want Forbidden", err)
		}
		return nil
	})
	if list := kit.Must(tasks.List(t.Context(), metav1.ListOptions{}))(t); len(list.Items) != limit {
		t.Errorf("got %d tasks, want %d", len(list.Items), limit)
	}
	kit.Check(t, tasks.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	used(0)
}

// testGarbageCollection: the garbage collector of the cluster follows owner references from our kinds to its own, and
// back.
func (c *installation) testGarbageCollection(t *testing.T) {
	namespace := c.namespace(t, "garbage")
	maps, batch := c.admin.CoreV1().ConfigMaps(namespace), c.client(t).BatchV1alpha1()
	owner := kit.Must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))(t)
	owned := newTask("owned")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	kit.Must(batch.Tasks(namespace).Create(t.Context(), owned, metav1.CreateOptions{}))(t)
	set := newSet("owner", 1)
	set.Spec.Suspend = new(true)
	set = kit.Must(batch.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	kit.Must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "TaskSet", Name: set.Name, UID: set.UID},
	}}}, metav1.CreateOptions{}))(t)

	kit.Check(t, maps.Delete(t.Context(), "owner", metav1.DeleteOptions{}))
	kit.Check(t, batch.TaskSets(namespace).Delete(t.Context(), "owner", metav1.DeleteOptions{}))
	kit.Eventually(t, "the task is deleted after its ConfigMap", func(ctx context.Context) error {
		_, err := batch.Tasks(namespace).Get(ctx, "owned", metav1.GetOptions{})
		return kit.Gone(err)
	})
	kit.Eventually(t, "the ConfigMap is deleted after its set", func(ctx context.Context) error {
		_, err := maps.Get(ctx, "owned", metav1.GetOptions{})
		return kit.Gone(err)
	})
}

// testNamespaceDeletion: our objects are deleted with their namespace, and do not block its deletion.
func (c *installation) testNamespaceDeletion(t *testing.T) {
	namespace := c.namespace(t, "gone")
	batch := c.client(t).BatchV1alpha1()
	kit.Must(batch.TaskQueues(namespace).Create(t.Context(), &v1alpha1.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "queue"}}, metav1.CreateOptions{}))(t)
	kit.Must(batch.TaskSets(namespace).Create(t.Context(), newSet("set", 100), metav1.CreateOptions{}))(t)
	for range 50 {
		kit.Must(batch.Tasks(namespace).Create(t.Context(), newTask(""), metav1.CreateOptions{}))(t)
	}
	kit.Check(t, c.admin.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
	kit.Eventually(t, "the namespace is gone", func(ctx context.Context) error {
		_, err := c.admin.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return kit.Gone(err)
	})
}

// newTask returns a task whose command is in our image. If name is empty, the server generates one.
func newTask(name string) *v1alpha1.Task {
	task := &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TaskSpec{Command: []string{"/opt/leat/leat-worker", "--version"}}}
	if name == "" {
		task.GenerateName = "task-"
	}
	return task
}

// newSet returns a set of such tasks.
func newSet(name string, completions int32) *v1alpha1.TaskSet {
	return &v1alpha1.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.TaskSetSpec{
			Completions: &completions, Parallelism: new(int32(12)), CompletionMode: new(v1alpha1.IndexedCompletion),
			Template: v1alpha1.TaskTemplateSpec{Spec: newTask("").Spec},
		},
	}
}
