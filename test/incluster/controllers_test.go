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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// sweepInterval is the minimum time between two sweeps for orphans.
const sweepInterval = 2 * time.Second

// managed is an Env with a running controller manager.
type managed struct {
	*kit.Env
	cluster *kubernetes.Clientset
	api     typed.BatchV1alpha1Interface
	// managerMetrics is where the controller manager serves its metrics.
	managerMetrics string
}

// testControllers runs the suites that need the controller manager.
func testControllers(t *testing.T, e *kit.Env) {
	port := kit.Must(host.FreePort())(t)
	s := &managed{
		Env: e, cluster: e.HostClient(t), api: kit.Client(t, e.Admin(t)).BatchV1alpha1(),
		managerMetrics: "http://127.0.0.1:" + strconv.Itoa(port) + "/metrics",
	}
	manager := e.StartManager(t, "one", "--namespace-sweep-interval="+sweepInterval.String(), "--metrics-bind-address=127.0.0.1:"+strconv.Itoa(port))
	pendingFiles := serveMetrics(t, s)
	kit.Eventually(t, "the controller manager serves its metrics", func(context.Context) error {
		_, err := s.unfinished("default")
		return err
	})
	together(t, "Together",
		subtest{"NamespaceDeletion", func(t *testing.T) { testNamespaceDeletion(t, s) }},
		subtest{"NamespaceSweep", func(t *testing.T) { testNamespaceSweep(t, s) }},
		subtest{"TaskSetAutoscaling", func(t *testing.T) { testTaskSetAutoscaling(t, s, pendingFiles) }},
		subtest{"WorkerAutoscaling", func(t *testing.T) { testWorkerAutoscaling(t, s) }},
		subtest{"Notify", func(t *testing.T) { testNotify(t, s) }},
		subtest{"PoolWork", func(t *testing.T) { testPoolWork(t, s) }},
		subtest{"PoolRollout", func(t *testing.T) { testPoolRollout(t, s) }},
		subtest{"PoolNode", func(t *testing.T) { testPoolNode(t, s) }},
		subtest{"PoolForeign", func(t *testing.T) { testPoolForeign(t, s) }},
		subtest{"PoolAttacks", func(t *testing.T) { testPoolAttacks(t, s) }},
		subtest{"PoolRights", func(t *testing.T) { testPoolRights(t, s) }},
		subtest{"Helm", func(t *testing.T) { testHelm(t, s) }},
		subtest{"HostEtcd", func(t *testing.T) { testHostEtcd(t, s) }},
		subtest{"Jobs", func(t *testing.T) { testJobs(t, s) }},
	)
	t.Run("PoolManagerKilled", func(t *testing.T) { testPoolManagerKilled(t, s, manager) })
	t.Run("Killed", func(t *testing.T) { testOutage(t, s, outage{e.Server.Kill, e.Server.Restart}) })
	t.Run("Hanging", func(t *testing.T) {
		testOutage(t, s, outage{
			func() error { return e.Server.Signal(syscall.SIGSTOP) },
			func(ctx context.Context) error {
				return errors.Join(e.Server.Signal(syscall.SIGCONT), e.Server.WaitReady(ctx))
			},
		})
	})
	kit.Check(t, manager.Stop()) // so that it releases its lease
}

// worker starts a leat-worker in a namespace.
func (s *managed) worker(t testing.TB, namespace, name string) *host.Process {
	t.Helper()
	return s.StartWorker(t, s.Worker(t, namespace, name), namespace, name, nil, "--tasks=4")
}

// orphansDeleted returns how many objects of a resource the sweeper has deleted, by its metric.
func (s *managed) orphansDeleted(t testing.TB, resource string) float64 {
	t.Helper()
	response := kit.Must(http.Get(s.managerMetrics))(t)
	defer response.Body.Close()
	for line := range strings.Lines(string(kit.Must(io.ReadAll(response.Body))(t))) {
		if value, ok := strings.CutPrefix(line, `leat_namespace_orphans_deleted_total{resource="`+resource+`"} `); ok {
			return kit.Must(strconv.ParseFloat(strings.TrimSpace(value), 64))(t)
		}
	}
	return 0
}

// person returns the kubeconfig of a user with the host's ClusterRole "admin" in one namespace. The host aggregates the
// rules of Leat into that role.
func (s *managed) person(t testing.TB, namespace string) string {
	t.Helper()
	user := "person-of-" + namespace
	kit.Must(s.cluster.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	config := s.Person(t, user)
	tasks := kit.Client(t, config).BatchV1alpha1().Tasks(namespace)
	kit.Eventually(t, "the role of the host includes the rules for tasks", func(ctx context.Context) error {
		_, err := tasks.List(ctx, metav1.ListOptions{})
		return err
	})
	return s.Kubeconfig(t, config, namespace)
}

// run runs kubectl or helm with empty caches.
func (s *managed) run(t testing.TB, kubeconfig, program string, args ...string) (output string, err error) {
	t.Helper()
	return runAt(t, t.TempDir(), kubeconfig, program, args...)
}

// runAt runs kubectl or helm with its caches in the directory home. The error contains the output, too.
func runAt(t testing.TB, home, kubeconfig, program string, args ...string) (output string, err error) {
	t.Helper()
	root := kit.Must(host.RepositoryRoot())(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(root, "bin", "host", program), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+home, "KUBECACHEDIR="+filepath.Join(home, "kubectl"),
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var all bytes.Buffer
	command.Stdout, command.Stderr = &all, &all
	if err = command.Run(); err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, all.String())
	}
	return all.String(), err
}
