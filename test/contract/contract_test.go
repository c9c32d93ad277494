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

// Package contract tests what Leat promises to the cluster it is installed in: that the cluster's own controllers and people's tools work on
// its kinds as on any others, and that the cluster stays well while Leat is away. docs/reference/outages.md and docs/how-to/autoscale.md name
// these tests.
package contract

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

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	pollInterval = 50 * time.Millisecond
	// patience is how long one step may take on a machine that is busy.
	patience = time.Minute
	// sweepInterval is the shortest time between two searches for orphans.
	sweepInterval = 2 * time.Second
)

// scene is one host with Leat in it and its controllers at work, which all tests share.
type scene struct {
	*kit.Env
	cluster *kubernetes.Clientset
	api     typed.BatchV1alpha1Interface
	// managerMetrics is where the controller manager serves its metrics.
	managerMetrics string
}

func TestContract(t *testing.T) {
	cp := host.ForTest(t, "--controllers=horizontal-pod-autoscaler-controller", "--horizontal-pod-autoscaler-sync-period=1s")
	e := kit.On(t, cp)
	config := kit.Must(clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig))(t)
	config.QPS = -1
	port := kit.Must(host.FreePort())(t)
	s := &scene{
		Env: e, cluster: kubernetes.NewForConfigOrDie(config), api: kit.Client(t, e.Admin(t)).BatchV1alpha1(),
		managerMetrics: "http://127.0.0.1:" + strconv.Itoa(port) + "/metrics",
	}
	e.StartManager(t, "one", "--namespace-sweep-interval="+sweepInterval.String(), "--metrics-bind-address=127.0.0.1:"+strconv.Itoa(port))
	// The garbage collector and the quota controller look for new APIs only every 30 s, and at their start.
	kit.Check(t, cp.ControllerManager.Restart(t.Context()))

	t.Run("NamespaceDeletion", func(t *testing.T) { testNamespaceDeletion(t, s) })
	t.Run("NamespaceSweep", func(t *testing.T) { testNamespaceSweep(t, s) })
	t.Run("GarbageCollection", func(t *testing.T) { testGarbageCollection(t, s) })
	t.Run("Autoscaling", func(t *testing.T) { testAutoscaling(t, s) })
	t.Run("Helm", func(t *testing.T) { testHelm(t, s) })
	t.Run("HostEtcd", func(t *testing.T) { testHostEtcd(t, s) })
	t.Run("Killed", func(t *testing.T) { testOutage(t, s, outage{e.Server.Kill, e.Server.Restart}) })
	t.Run("Hanging", func(t *testing.T) {
		testOutage(t, s, outage{
			func() error { return e.Server.Signal(syscall.SIGSTOP) },
			func(ctx context.Context) error {
				return errors.Join(e.Server.Signal(syscall.SIGCONT), e.Server.WaitReady(ctx))
			},
		})
	})
}

// newTask runs a script of sh.
func newTask(name, script string) *batch.Task {
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSpec{Command: []string{"sh", "-c", script}},
	}
}

// newTaskSet runs a script of sh for one index, or as many as completions are set to.
func newTaskSet(name, script string) *batch.TaskSet {
	return &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSetSpec{Template: batch.TaskTemplateSpec{Spec: newTask("", script).Spec}},
	}
}

func newConfigMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

func ownedBy(owner metav1.Object, apiVersion, kind string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID()}
}

// worker starts a real worker in a namespace.
func (s *scene) worker(t testing.TB, namespace, name string) *host.Process {
	t.Helper()
	return s.StartWorker(t, s.Worker(t, namespace, name), namespace, name, nil, "--tasks=4")
}

// newNamespace gives a namespace of that name, which is that of one for each test.
func (s *scene) newNamespace(t testing.TB, name string) string {
	t.Helper()
	kit.Must(s.cluster.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	return name
}

// namespaceGone says nil once the namespace is not there, and else what keeps it.
func (s *scene) namespaceGone(ctx context.Context, name string) error {
	namespace, err := s.cluster.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return kit.Gone(err)
	}
	held := []string{string(namespace.Status.Phase)}
	for _, condition := range namespace.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			held = append(held, string(condition.Type)+": "+condition.Message)
		}
	}
	return errors.New("it is " + strings.Join(held, "; "))
}

// stored gives the keys of all that our etcd holds of a namespace.
func (s *scene) stored(ctx context.Context, namespace string) ([]string, error) {
	client, err := s.Etcd.Client()
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

// orphansDeleted is how many objects of a resource the sweeper says that it has deleted.
func (s *scene) orphansDeleted(t testing.TB, resource string) float64 {
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

// person gives the kubeconfig of somebody with the host's role "admin" in a namespace, which includes ours, and in no other.
func (s *scene) person(t testing.TB, namespace string) string {
	t.Helper()
	user := "person-of-" + namespace
	kit.Must(s.cluster.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	config := s.Person(t, user)
	tasks := kit.Client(t, config).BatchV1alpha1().Tasks(namespace)
	kit.Eventually(t, "the host's role includes ours", func(ctx context.Context) error {
		_, err := tasks.List(ctx, metav1.ListOptions{})
		return err
	})
	return s.Kubeconfig(t, config, namespace)
}

// run runs kubectl or helm as people do for the first time, without anything in their caches.
func (s *scene) run(t testing.TB, kubeconfig, program string, args ...string) (output string, err error) {
	t.Helper()
	return s.runAt(t, t.TempDir(), kubeconfig, program, args...)
}

// runAt runs kubectl or helm with its caches in a directory. What it printed comes with the error, too.
func (s *scene) runAt(t testing.TB, home, kubeconfig, program string, args ...string) (output string, err error) {
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
