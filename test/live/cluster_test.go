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

// Package live tests an installation of Leat on a real cluster, from its first day to its last. Run it with "make
// e2e-cluster": KUBECONFIG names the cluster, and the tests change it. The administrator of the kubeconfig installs
// Leat. Another user, by impersonation, uses it.
package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	system     = "leat-system"
	group      = "batch.leat.dev"
	apiService = "v1alpha1.batch.leat.dev"
	// testUser has the cluster role admin in the namespaces of the tests, and no other role.
	testUser = "leat-e2e-alice"
	// patience is the timeout for what takes seconds on an idle machine and much longer on a busy one.
	patience = 10 * time.Minute
)

// installation is Leat on the cluster of KUBECONFIG.
type installation struct {
	admin  kubernetes.Interface
	config *rest.Config
	root   string
	// image has our programs, etcdImage has etcd. An empty etcdImage means that of config/default.
	image, etcdImage string
	// volumes is a directory on the only node, for a cluster without a provisioner of volumes.
	volumes string
}

// TestCluster installs Leat, uses, restarts, upgrades and restores it, and uninstalls it.
func TestCluster(t *testing.T) {
	c := &installation{
		root:  kit.Must(host.RepositoryRoot())(t),
		image: os.Getenv("LEAT_IMAGE"), etcdImage: os.Getenv("LEAT_ETCD_IMAGE"), volumes: os.Getenv("LEAT_VOLUMES"),
	}
	file := os.Getenv("KUBECONFIG")
	if file == "" || c.image == "" {
		t.Fatal("set KUBECONFIG to a cluster without Leat, and LEAT_IMAGE to an image that its nodes can pull")
	}
	c.config = kit.Must(clientcmd.BuildConfigFromFlags("", file))(t)
	c.config.QPS = -1
	c.admin = kit.Must(kubernetes.NewForConfig(c.config))(t)
	if _, err := c.admin.CoreV1().Namespaces().Get(t.Context(), system, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("namespace %s: got error %v, want NotFound: this test installs Leat, and deletes it with all its objects", system, err)
	}
	if c.volumes != "" {
		c.makeVolumes(t, "etcd", "backup", archiveVolume)
	}
	manifests := c.manifests(t, "first")
	t.Cleanup(func() { c.uninstall(t, manifests) })
	if !t.Run("Install", func(t *testing.T) { c.testInstall(t, manifests) }) {
		c.report(t)
		return
	}
	t.Run("Users", func(t *testing.T) { c.testUsers(t) })
	t.Run("OpenAPI", func(t *testing.T) { c.testOpenAPI(t) })
	t.Run("Metrics", func(t *testing.T) { c.testMetrics(t) })
	t.Run("Quota", func(t *testing.T) { c.testQuota(t) })
	t.Run("GarbageCollection", func(t *testing.T) { c.testGarbageCollection(t) })
	t.Run("NamespaceDeletion", func(t *testing.T) { c.testNamespaceDeletion(t) })
	pool := c.namespace(t, "pool")
	if t.Run("WorkerPool", func(t *testing.T) { c.testWorkerPool(t, pool) }) {
		t.Run("Archive", func(t *testing.T) { c.testArchive(t, pool) })
		t.Run("Rollout", func(t *testing.T) { c.testRollout(t, pool) })
		t.Run("Upgrade", func(t *testing.T) { c.testUpgrade(t, pool) })
		t.Run("Restore", func(t *testing.T) { c.testRestore(t, pool) })
	}
	t.Run("PoolFromZero", func(t *testing.T) { c.testPoolFromZero(t) })
	t.Run("Job", func(t *testing.T) { c.testJob(t) })
	t.Run("OutsideWorker", func(t *testing.T) { c.testOutsideWorker(t) })
	if t.Failed() {
		c.report(t)
	}
	t.Run("Uninstall", func(t *testing.T) { c.testUninstall(t, manifests) })
}

// command returns a command that runs kubectl as the administrator.
func (c *installation) command(ctx context.Context, args ...string) *exec.Cmd {
	program, err := exec.LookPath("kubectl")
	if err != nil {
		program = filepath.Join(c.root, "bin", "host", "kubectl")
	}
	return exec.CommandContext(ctx, program, args...)
}

// kubectl runs kubectl as the administrator and returns its output.
func (c *installation) kubectl(ctx context.Context, args ...string) (string, error) {
	command := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// run is kubectl for a command that must succeed.
func (c *installation) run(t testing.TB, args ...string) string {
	t.Helper()
	return kit.Must(c.kubectl(t.Context(), args...))(t)
}

// runAsUser runs kubectl as testUser.
func (c *installation) runAsUser(t testing.TB, args ...string) string {
	t.Helper()
	return c.run(t, append([]string{"--as=" + testUser}, args...)...)
}

// client returns a client of our API for testUser. Its requests go through the API server of the cluster.
func (c *installation) client(t testing.TB) versioned.Interface {
	t.Helper()
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: testUser}
	return kit.Must(versioned.NewForConfig(config))(t)
}

// namespace creates a namespace with testUser as its admin, until the test ends.
func (c *installation) namespace(t testing.TB, purpose string) string {
	t.Helper()
	name := "leat-e2e-" + purpose + "-" + strconv.FormatInt(time.Now().UnixMilli(), 36)
	namespaces := c.admin.CoreV1().Namespaces()
	kit.Must(namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		if err := namespaces.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	kit.Must(c.admin.RbacV1().RoleBindings(name).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: testUser},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: testUser}},
	}, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "the authorizer of the cluster sees the binding", func(ctx context.Context) error {
		review, err := c.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: testUser, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: name, Verb: "create", Resource: "pods",
			}},
		}, metav1.CreateOptions{})
		if err == nil && !review.Status.Allowed {
			err = errors.New(review.Status.Reason)
		}
		return err
	})
	return name
}

// report writes the state and the logs of a failed installation to a file. In the output of the test they would hide
// the failure.
func (c *installation) report(t testing.TB) {
	file := kit.Must(os.CreateTemp("", "leat-e2e-cluster-*.txt"))(t)
	for _, args := range [][]string{
		{"get", "apiservice", apiService, "--output=yaml"},
		{"get", "tasksets,tasks,workers", "--all-namespaces"},
		{"get", "pods", "--all-namespaces", "--output=wide"},
		{"get", "events", "--namespace=" + system},
		{"logs", "--namespace=" + system, "--selector=app.kubernetes.io/name=leat", "--prefix", "--tail=1000", "--all-containers"},
	} {
		out, err := c.kubectl(context.WithoutCancel(t.Context()), args...)
		fmt.Fprintf(file, "kubectl %s: %v\n%s\n", strings.Join(args, " "), err, out)
	}
	kit.Check(t, file.Close())
	t.Logf("the state of the cluster and the logs are in %s", file.Name())
}
