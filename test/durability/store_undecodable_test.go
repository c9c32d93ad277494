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
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
)

// testUndecodable has bytes in etcd that no server can read.
func testUndecodable(t *testing.T, c *cluster) {
	const option = "ignoreStoreReadErrorWithClusterBreakingPotential"
	documented(t, "how-to/etcd.md", "## An object that cannot be read", option+"=true", "unsafe-delete-ignore-read-errors", "etcdctl del /leat/tasks/")
	ctx := t.Context()
	namespace, other := c.Namespace(t), "default"
	store := startStore(t, 1)
	etcd := store.client(t)
	e := c.serve(t, store, "--storage-initialization-timeout=5s")
	person := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, person).BatchV1alpha1()
	tasks := api.Tasks(namespace)
	for _, name := range []string{"good", "bad"} {
		kit.Must(tasks.Create(ctx, newHeldTask(name), metav1.CreateOptions{}))(t)
	}
	kit.Must(api.Tasks(other).Create(ctx, newHeldTask("elsewhere"), metav1.CreateOptions{}))(t)
	f := startInformers(t, person, namespace)

	key := "/leat/tasks/" + namespace + "/bad"
	broken := func(t *testing.T) {
		kit.Must(etcd.Put(ctx, key, "k8s\x00 no object"))(t)
	}
	told := func(t *testing.T, what string, err error) {
		t.Helper()
		if said := status(err); said.Code != http.StatusInternalServerError || said.Reason != metav1.StatusReasonStoreReadError ||
			!strings.Contains(said.Message, key) || !strings.Contains(said.Message, option) || !strings.Contains(said.Message, "docs/how-to/etcd.md") {
			t.Errorf("Of %s the server says %+v.", what, said)
		}
	}
	page := metav1.ListOptions{Limit: 500}
	kit.Check(t, bindClusterRole(ctx, c, "root", "cluster-admin"))
	root := kit.Client(t, e.Direct(t, "root")).BatchV1alpha1().Tasks(namespace)
	unread := metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: new(true)}

	broken(t)
	kit.Eventually(t, "the server knows of it", func(ctx context.Context) error {
		_, err := tasks.List(ctx, page)
		if err == nil {
			err = fmt.Errorf("a list is served")
		} else if apierrors.IsInternalError(err) || apierrors.IsStoreReadError(err) {
			err = nil
		}
		return err
	})
	_, err := tasks.Get(ctx, "bad", metav1.GetOptions{})
	told(t, "a get of it", err)
	_, err = tasks.List(ctx, page)
	told(t, "a list by pages", err)
	told(t, "its deletion", tasks.Delete(ctx, "bad", metav1.DeleteOptions{}))
	err = api.RESTClient().Get().Namespace(namespace).Resource("tasks").MaxRetries(0).Do(ctx).Error()
	// The watch cache may be between two attempts to read all, and says so.
	if said := status(err); said.Code != http.StatusTooManyRequests && said.Reason != metav1.StatusReasonStoreReadError || !strings.Contains(said.Message, key) {
		t.Errorf("Of a list as informers make it the server says %+v.", said)
	}
	// All else goes on.
	good := kit.Must(tasks.Get(ctx, "good", metav1.GetOptions{}))(t)
	good.Labels = map[string]string{"example.com/written": "meanwhile"}
	kit.Must(tasks.Update(ctx, good, metav1.UpdateOptions{}))(t)
	kit.Must(tasks.Create(ctx, newHeldTask("new"), metav1.CreateOptions{}))(t)
	kit.Must(api.Tasks(other).List(ctx, page))(t)
	kit.Must(api.TaskSets(namespace).List(ctx, metav1.ListOptions{}))(t)
	if err := tasks.Delete(ctx, "bad", unread); !apierrors.IsForbidden(err) {
		t.Errorf("Of a deletion unread by somebody without that right the server says: %v", err)
	}
	if err := root.Delete(ctx, "good", unread); err == nil {
		t.Error("An object that can be read was deleted unread.")
	} else {
		t.Logf("Of a deletion unread of what can be read the server says: %v", err)
	}

	t.Run("Deleted", func(t *testing.T) {
		stdout, _, err := e.Kubectl(t, e.Kubeconfig(t, e.Direct(t, "root"), namespace), "", "delete", "--raw",
			"/apis/batch.leat.dev/v1alpha1/namespaces/"+namespace+"/tasks/bad?"+option+"=true")
		kit.Check(t, err)
		t.Log(stdout)
		f.await(t, "it agrees with the server again", func() error { return f.agrees(ctx, etcd, namespace) })
		kit.Must(tasks.List(ctx, page))(t)
	})
	t.Run("DeletedInEtcd", func(t *testing.T) {
		broken(t)
		kit.Eventually(t, "the server knows of it", func(ctx context.Context) error {
			if _, err := tasks.List(ctx, page); err == nil {
				return fmt.Errorf("a list is served")
			}
			return nil
		})
		// A server that is started now is ready for all that can be read.
		kit.Check(t, e.Server.Restart(ctx))
		kit.Must(tasks.Get(ctx, "good", metav1.GetOptions{}))(t)
		store.etcdctl(t, []string{"del", key})
		f.await(t, "it agrees with the server again", func() error { return f.agrees(ctx, etcd, namespace) })
		kit.Must(tasks.List(ctx, page))(t)
	})
}

// bind gives a person a role of the host, everywhere.
func bindClusterRole(ctx context.Context, c *cluster, user, role string) error {
	_, err := c.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user + "-" + role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
