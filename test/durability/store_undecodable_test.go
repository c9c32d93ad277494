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
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
)

// testUndecodable stores bytes in etcd that no server can decode, and removes them as docs/how-to/etcd.md describes.
func testUndecodable(t *testing.T, c *cluster) {
	const option = "ignoreStoreReadErrorWithClusterBreakingPotential"
	documented(t, "how-to/etcd.md", "## An object that cannot be read", option+"=true", "unsafe-delete-ignore-read-errors", "etcdctl del /leat/tasks/")
	ctx := t.Context()
	namespace, other := c.Namespace(t), "default"
	store := startStore(t, 1)
	etcd := store.client(t)
	e := c.serve(t, store, "--storage-initialization-timeout=5s")
	admin := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, admin).BatchV1alpha1()
	tasks := api.Tasks(namespace)
	for _, name := range []string{"good", "bad"} {
		kit.Must(tasks.Create(ctx, newHeldTask(name), metav1.CreateOptions{}))(t)
	}
	kit.Must(api.Tasks(other).Create(ctx, newHeldTask("elsewhere"), metav1.CreateOptions{}))(t)
	informers := startInformers(t, admin, namespace)

	key := "/leat/tasks/" + namespace + "/bad"
	corrupt := func(t *testing.T) {
		kit.Must(etcd.Put(ctx, key, "k8s\x00 no object"))(t)
	}
	expectReadError := func(t *testing.T, what string, err error) {
		t.Helper()
		if got := status(err); got.Code != http.StatusInternalServerError || got.Reason != metav1.StatusReasonStoreReadError ||
			!strings.Contains(got.Message, key) || !strings.Contains(got.Message, option) || !strings.Contains(got.Message, "docs/how-to/etcd.md") {
			t.Errorf("%s: got %+v, want StoreReadError with the key and the repair", what, got)
		}
	}
	page := metav1.ListOptions{Limit: 500}
	root := kit.Client(t, e.Direct(t, "root")).BatchV1alpha1().Tasks(namespace)
	ignoreReadError := metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: new(true)}

	corrupt(t)
	kit.Eventually(t, "lists fail", func(ctx context.Context) error {
		_, err := tasks.List(ctx, page)
		if err == nil {
			err = errors.New("a list succeeds")
		} else if apierrors.IsInternalError(err) || apierrors.IsStoreReadError(err) {
			err = nil
		}
		return err
	})
	_, err := tasks.Get(ctx, "bad", metav1.GetOptions{})
	expectReadError(t, "a get", err)
	_, err = tasks.List(ctx, page)
	expectReadError(t, "a list in pages", err)
	expectReadError(t, "a deletion", tasks.Delete(ctx, "bad", metav1.DeleteOptions{}))
	err = api.RESTClient().Get().Namespace(namespace).Resource("tasks").MaxRetries(0).Do(ctx).Error()
	// The server answers 429 while the watch cache waits for its next initialization.
	if got := status(err); got.Code != http.StatusTooManyRequests && got.Reason != metav1.StatusReasonStoreReadError || !strings.Contains(got.Message, key) {
		t.Errorf("a list as informers make it: got %+v, want StoreReadError or 429 with the key", got)
	}
	// Other objects can be read and written.
	good := kit.Must(tasks.Get(ctx, "good", metav1.GetOptions{}))(t)
	good.Labels = map[string]string{"example.com/written": "meanwhile"}
	kit.Must(tasks.Update(ctx, good, metav1.UpdateOptions{}))(t)
	kit.Must(tasks.Create(ctx, newHeldTask("new"), metav1.CreateOptions{}))(t)
	kit.Must(api.Tasks(other).List(ctx, page))(t)
	kit.Must(api.TaskSets(namespace).List(ctx, metav1.ListOptions{}))(t)
	if err := tasks.Delete(ctx, "bad", ignoreReadError); !apierrors.IsForbidden(err) {
		t.Errorf("an unsafe deletion without its verb: got %v, want Forbidden", err)
	}
	if err := root.Delete(ctx, "good", ignoreReadError); err == nil {
		t.Error("an unsafe deletion of a readable object succeeded")
	} else {
		t.Logf("an unsafe deletion of a readable object: %v", err)
	}

	t.Run("Deleted", func(t *testing.T) {
		stdout, _, err := e.Kubectl(t, e.Kubeconfig(t, e.Direct(t, "root"), namespace), "", "delete", "--raw",
			"/apis/batch.leat.dev/v1alpha1/namespaces/"+namespace+"/tasks/bad?"+option+"=true")
		kit.Check(t, err)
		t.Log(stdout)
		informers.awaitEtcd(t, etcd, namespace)
		kit.Must(tasks.List(ctx, page))(t)
	})
	t.Run("DeletedInEtcd", func(t *testing.T) {
		corrupt(t)
		kit.Eventually(t, "lists fail", func(ctx context.Context) error {
			if _, err := tasks.List(ctx, page); err == nil {
				return errors.New("a list succeeds")
			}
			return nil
		})
		// A server that starts now serves all readable objects.
		kit.Check(t, e.Server.Restart(ctx))
		kit.Must(tasks.Get(ctx, "good", metav1.GetOptions{}))(t)
		store.etcdctl(t, []string{"del", key})
		informers.awaitEtcd(t, etcd, namespace)
		kit.Must(tasks.List(ctx, page))(t)
	})
}
