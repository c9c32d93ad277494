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
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	pollInterval = 50 * time.Millisecond
	// patience is how long one step may take where kit.Eventually does not wait. It is long, as machines may be busy.
	patience = time.Minute
)

const (
	group     = "batch.leat.dev"
	groupPath = "/apis/batch.leat.dev/v1alpha1"
)

// tasksPath returns the path of the tasks of a namespace.
func tasksPath(namespace string) string { return groupPath + "/namespaces/" + namespace + "/tasks" }

// expectReason fails the test unless err has that reason and contains all texts.
func expectReason(t testing.TB, err error, reason metav1.StatusReason, texts ...string) {
	t.Helper()
	if err := kit.Refused(err, reason, texts...); err != nil {
		t.Error(err)
	}
}

// second returns the error of two results.
func second[T any](_ T, err error) error { return err }

// inParallel calls do n times, with that many workers.
func inParallel(ctx context.Context, workers, n int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// tasksOf returns the client of an identity for the tasks of a namespace.
func tasksOf(t testing.TB, config *rest.Config, namespace string) typed.TaskInterface {
	t.Helper()
	return kit.Client(t, config).BatchV1alpha1().Tasks(namespace)
}

func newConfigMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

func newBinding(worker string) *v1alpha1.Binding {
	return &v1alpha1.Binding{Target: v1alpha1.BindingTarget{Name: worker, Incarnation: incarnationOf(worker)}}
}

// incarnationOf returns the only incarnation that a worker has in these tests.
func incarnationOf(worker string) string { return worker + "-1" }

// boundTask creates a task and binds it to a worker, which need not exist.
func boundTask(t testing.TB, e *kit.Env, namespace, name, worker string) *v1alpha1.Task {
	t.Helper()
	tasks := tasksOf(t, e.Admin(t), namespace)
	kit.Must(tasks.Create(t.Context(), kit.NewTask(name), metav1.CreateOptions{}))(t)
	kit.Must(tasksOf(t, e.Controller(t), namespace).Bind(t.Context(), name, newBinding(worker), metav1.CreateOptions{}))(t)
	return kit.Must(tasks.Get(t.Context(), name, metav1.GetOptions{}))(t)
}

// newNamespace creates a namespace of that name, for tests that need more than the one of Env.Namespace.
func newNamespace(t testing.TB, e *kit.Env, name string) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	kit.Must(e.HostClient(t).CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}))(t)
	return name
}

// deleteNamespace starts the deletion of a namespace.
func deleteNamespace(t testing.TB, e *kit.Env, name string) {
	t.Helper()
	kit.Check(t, e.HostClient(t).CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}))
}

// namespaceGone returns nil if the namespace does not exist. Otherwise the error has the conditions that it waits for.
func namespaceGone(ctx context.Context, host kubernetes.Interface, name string) error {
	namespace, err := host.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return kit.Gone(err)
	}
	held := []string{string(namespace.Status.Phase)}
	for _, condition := range namespace.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			held = append(held, string(condition.Type)+": "+condition.Message)
		}
	}
	return fmt.Errorf("namespace %s is %s", name, strings.Join(held, "; "))
}

// storedKeys returns the keys of all objects of a namespace in Leat's etcd.
func storedKeys(ctx context.Context, e *kit.Env, namespace string) ([]string, error) {
	client, err := e.Etcd.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	response, err := client.Get(ctx, "/leat/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, kv := range response.Kvs {
		if strings.Contains(string(kv.Key), "/"+namespace+"/") {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys, nil
}

// hostReviews returns how many reviews of access and of tokens the host has answered since it started.
func hostReviews(t testing.TB, e *kit.Env) int {
	t.Helper()
	config := e.HostConfig(t)
	client := kit.Must(rest.HTTPClientFor(config))(t)
	metrics := kit.Must(measure.ReadMetrics(t.Context(), client, config.Host+"/metrics"))(t)
	const requests = "apiserver_request_total"
	return int(metrics.Sum(requests, `resource="subjectaccessreviews"`) + metrics.Sum(requests, `resource="tokenreviews"`))
}
