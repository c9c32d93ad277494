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
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/controller/certificates"
	"github.com/leat-dev/leat/pkg/controller/info"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// testPools checks what people with the host's own roles can do with "leat pool", and what that makes in the cluster.
// The controller manager does not run: nothing scales the pools.
func testPools(t *testing.T, e *kit.Env) {
	managerPod := publishInfo(t, e)
	t.Run("Info", func(t *testing.T) { testPoolInfo(t, e) })
	together(t, "Roles",
		subtest{"Edit", func(t *testing.T) {
			testPoolRefused(t, e, "edit", `
  get rolebindings.rbac.authorization.k8s.io
  create rolebindings.rbac.authorization.k8s.io
  patch rolebindings.rbac.authorization.k8s.io
  bind clusterroles.rbac.authorization.k8s.io/leat:worker
  bind clusterroles.rbac.authorization.k8s.io/leat:pool-scaler
`)
		}},
		subtest{"View", func(t *testing.T) {
			testPoolRefused(t, e, "view", `
  create serviceaccounts
  patch serviceaccounts
  get rolebindings.rbac.authorization.k8s.io
  create rolebindings.rbac.authorization.k8s.io
  patch rolebindings.rbac.authorization.k8s.io
  create configmaps
  patch configmaps
  create networkpolicies.networking.k8s.io
  patch networkpolicies.networking.k8s.io
  create statefulsets.apps
  patch statefulsets.apps
  delete pods
  bind clusterroles.rbac.authorization.k8s.io/leat:worker
  bind clusterroles.rbac.authorization.k8s.io/leat:pool-scaler
`)
		}},
		subtest{"Admin", func(t *testing.T) { testPoolOfAdmin(t, e, managerPod) }},
		subtest{"Quota", func(t *testing.T) { testPoolOverQuota(t, e) }},
	)
}

// poolPerson is a user with a role of the host in one namespace.
type poolPerson struct {
	kubeconfig, namespace string
}

func newPoolPerson(t *testing.T, e *kit.Env, role string) poolPerson {
	t.Helper()
	namespace := e.Namespace(t)
	user := "person-of-" + namespace
	grant(t, e, namespace, user, role)
	return poolPerson{kubeconfig: e.Kubeconfig(t, e.Person(t, user), namespace), namespace: namespace}
}

// leat runs leat. The error has standard error.
func (p poolPerson) leat(t *testing.T, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), kit.Program(t, "leat"), append(args, "--kubeconfig="+p.kubeconfig)...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("leat %s: %w:\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// expect runs leat, and fails the test unless it succeeds with that output.
func (p poolPerson) expect(t *testing.T, want string, args ...string) {
	t.Helper()
	if got, err := p.leat(t, args...); err != nil || got != want {
		t.Fatalf("leat %s: got %q and %v, want %q", strings.Join(args, " "), got, err, want)
	}
}

// publishInfo runs the controller of the ConfigMap leat-info with the service account of the controller manager until
// the test ends. It returns the name of the pod that the controller takes for its own.
func publishInfo(t *testing.T, e *kit.Env) string {
	t.Helper()
	client := e.HostClient(t)
	for _, name := range []string{certificates.ServerSecret, certificates.WorkerClientSecret} {
		ca := kit.Must(pki.NewCA(name + "-ca"))(t)
		kit.Must(client.CoreV1().Secrets(systemNamespace).Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"ca.crt": ca.CertPEM(), "tls.key": []byte("a secret")},
		}, metav1.CreateOptions{}))(t)
	}
	deployment := kit.Must(client.AppsV1().Deployments(systemNamespace).Get(t.Context(), "leat-controller-manager", metav1.GetOptions{}))(t)
	manager := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "leat-controller-manager-test"}, Spec: deployment.Spec.Template.Spec}
	manager.Spec.Containers[0].Image = "registry.example.com/leat:v1"
	kit.Must(client.CoreV1().Pods(systemNamespace).Create(t.Context(), manager, metav1.CreateOptions{}))(t)

	config := kit.Must(clientcmd.BuildConfigFromFlags("", kit.Must(e.Host.ServiceAccountKubeconfig(systemNamespace, "leat-controller-manager"))(t)))(t)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	controller := info.New(kit.Must(kubernetes.NewForConfig(config))(t), apiservice.DefaultService, systemNamespace, manager.Name)
	go func() { ended <- controller.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		ctx := context.WithoutCancel(t.Context())
		kit.Check(t, errors.Join(<-ended,
			client.CoreV1().ConfigMaps(systemNamespace).Delete(ctx, pool.InfoConfigMap, metav1.DeleteOptions{}),
			client.CoreV1().Pods(systemNamespace).Delete(ctx, manager.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}),
			client.CoreV1().Secrets(systemNamespace).Delete(ctx, certificates.ServerSecret, metav1.DeleteOptions{}),
			client.CoreV1().Secrets(systemNamespace).Delete(ctx, certificates.WorkerClientSecret, metav1.DeleteOptions{}),
		))
	})
	return manager.Name
}

// testPoolInfo checks that every user can read the ConfigMap, and nothing beside it.
func testPoolInfo(t *testing.T, e *kit.Env) {
	stranger := kit.Must(kubernetes.NewForConfig(e.Person(t, "stranger")))(t).CoreV1()
	var published *corev1.ConfigMap
	kit.Eventually(t, "ConfigMap leat-info exists, and a user without roles can read it", func(ctx context.Context) (err error) {
		published, err = stranger.ConfigMaps(systemNamespace).Get(ctx, pool.InfoConfigMap, metav1.GetOptions{})
		return err
	})
	if got := published.Data[pool.InfoServer] + " " + published.Data[pool.InfoImage]; got != "https://leat-apiserver.leat-system.svc registry.example.com/leat:v1" {
		t.Errorf("server and image: got %s", got)
	}
	for _, key := range []string{pool.InfoCA, pool.InfoClientCA} {
		if !strings.HasPrefix(published.Data[key], "-----BEGIN CERTIFICATE-----") {
			t.Errorf("%s: got %q, want a certificate", key, published.Data[key])
		}
	}
	_, errList := stranger.ConfigMaps(systemNamespace).List(t.Context(), metav1.ListOptions{})
	expectReason(t, errList, metav1.StatusReasonForbidden)
	expectReason(t, second(stranger.Secrets(systemNamespace).Get(t.Context(), certificates.ServerSecret, metav1.GetOptions{})), metav1.StatusReasonForbidden)
	anonymous := e.HostConfig(t)
	anonymous.CertFile, anonymous.KeyFile, anonymous.CertData, anonymous.KeyData = "", "", nil, nil
	_, err := kit.Must(kubernetes.NewForConfig(anonymous))(t).CoreV1().ConfigMaps(systemNamespace).Get(t.Context(), pool.InfoConfigMap, metav1.GetOptions{})
	if !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		t.Errorf("without credentials: got error %v, want Forbidden or Unauthorized", err)
	}
}

// testPoolRefused checks the error for users who lack rights, and that they can list pools nevertheless.
func testPoolRefused(t *testing.T, e *kit.Env, role, missing string) {
	p := newPoolPerson(t, e, role)
	_, err := p.leat(t, "pool", "create", "render", "--image=debian:13")
	want := "error: nothing was changed: to create a pool in namespace " + p.namespace + " you need rights that you do not have:" + missing +
		"The ClusterRole admin has these rights: ask an administrator of the namespace to run this command, or to bind the role to you.\n"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("pool create: got error %v\nwant %s", err, want)
	}
	if names := poolObjects(t, e, p.namespace); len(names) > 0 {
		t.Errorf("made nevertheless: %v", names)
	}
	p.expect(t, "", "pool", "list")
	if out, err := p.leat(t, "pool", "create", "render", "--image=debian:13", "--dry-run=client", "-o=name"); err != nil || strings.Count(out, "\n") != 6 {
		t.Errorf("manifests for somebody else to apply: got %q and %v, want six", out, err)
	}
}

// poolObjects returns the objects of all pools in a namespace, and their pods and Worker objects, as RESOURCE/NAME.
func poolObjects(t *testing.T, e *kit.Env, namespace string) []string {
	t.Helper()
	out, _, err := e.Host.Kubectl(t.Context(), e.Host.AdminKubeconfig, "get", "--namespace="+namespace, "--selector="+v1alpha1.LabelPool, "--output=name",
		"serviceaccounts,rolebindings,configmaps,networkpolicies,statefulsets,pods,workers.batch.leat.dev")
	kit.Check(t, err)
	return strings.Fields(out)
}

// testPoolOfAdmin takes a pool through its life as an administrator of a namespace that enforces the restricted level
// of Pod Security.
func testPoolOfAdmin(t *testing.T, e *kit.Env, managerPod string) {
	p := newPoolPerson(t, e, "admin")
	client, ctx := e.HostClient(t), t.Context()
	kit.Must(client.CoreV1().Namespaces().Patch(ctx, p.namespace, types.MergePatchType,
		[]byte(`{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}`), metav1.PatchOptions{}))(t)
	sets := client.AppsV1().StatefulSets(p.namespace)

	kit.Must(client.CoreV1().ServiceAccounts(p.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "leat-pool-taken"}}, metav1.CreateOptions{}))(t)
	_, err := p.leat(t, "pool", "create", "taken", "--image=debian:13")
	if want := "serviceaccount/leat-pool-taken exist and do not have the label batch.leat.dev/pool=taken"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("pool with objects of somebody else: got error %v, want one with %q", err, want)
	}
	if names := poolObjects(t, e, p.namespace); len(names) > 0 {
		t.Errorf("made nevertheless: %v", names)
	}

	create := []string{"pool", "create", "render", "--image=debian:13", "--cpu=4", "--memory=8Gi", "--gpu=2", "--max=20", "--label=disk=ssd", "--taint=gpu=yes:NoSchedule"}
	p.expect(t, "pool/render created (server dry run)\n", append(create, "--dry-run=server")...)
	p.expect(t, "pool/render created\n", create...)
	p.expect(t, "pool/render unchanged\n", create...)
	want := []string{
		"serviceaccount/leat-pool-render", "rolebinding.rbac.authorization.k8s.io/leat-pool-render", "rolebinding.rbac.authorization.k8s.io/leat-pool-render-scaler",
		"configmap/leat-pool-render", "networkpolicy.networking.k8s.io/leat-pool-render", "statefulset.apps/render",
	}
	if got := poolObjects(t, e, p.namespace); !slices.Equal(got, want) {
		t.Errorf("objects: got %v, want %v", got, want)
	}
	set := kit.Must(sets.Get(ctx, "render", metav1.GetOptions{}))(t)
	if *set.Spec.Replicas != 0 {
		t.Errorf("replicas at creation: got %d, want 0", *set.Spec.Replicas)
	}
	if settings, err := pool.Parse(set); err != nil || settings.Max != 20 {
		t.Errorf("settings: got %+v and %v", settings, err)
	}
	p.expect(t, poolTable("render   0     20    0         0        0       0         Idle"), "pool", "list")

	for _, entry := range set.ManagedFields {
		if entry.Manager == "leat" && strings.Contains(string(entry.FieldsV1.GetRawBytes()), "f:replicas") {
			t.Errorf("leat owns the replicas, so the controller would leave them alone: %s", entry.FieldsV1.GetRawBytes())
		}
	}
	// Nobody has scaled yet: the replicas must survive an update, and not become the default of one.
	p.expect(t, "pool/render configured\n", "pool", "update", "render", "--max=30")
	if set = kit.Must(sets.Get(ctx, "render", metav1.GetOptions{}))(t); *set.Spec.Replicas != 0 {
		t.Errorf("replicas after an update: got %d, want 0", *set.Spec.Replicas)
	}
	// Pods pass Pod Security, with all that a pool can have.
	scale(t, client, p.namespace, "render", 2)
	kit.Eventually(t, "the cluster creates the pods", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelPool + "=render"})
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("there are %d pods", len(pods.Items))
		}
		return err
	})
	p.expect(t, poolTable("render   0     30    0         2        0       0         Scaling out"), "pool", "list")
	p.expect(t, "pool/render configured\n", "pool", "update", "render", "--max=40")
	if set = kit.Must(sets.Get(ctx, "render", metav1.GetOptions{}))(t); *set.Spec.Replicas != 2 {
		t.Errorf("replicas after the controller has scaled and an update: got %d, want 2", *set.Spec.Replicas)
	}

	// An upgrade of Leat makes the pool stale.
	kit.Must(client.CoreV1().Pods(systemNamespace).Patch(ctx, managerPod, types.StrategicMergePatchType,
		[]byte(`{"spec": {"containers": [{"name": "leat-controller-manager", "image": "registry.example.com/leat:v2"}]}}`), metav1.PatchOptions{}))(t)
	kit.Eventually(t, "the pool is stale", func(context.Context) error {
		out, err := p.leat(t, "pool", "list")
		if err == nil && !strings.Contains(out, "; Stale: leat pool update render\n") {
			err = errors.New(out)
		}
		return err
	})
	p.expect(t, "pool/render configured\n", "pool", "update", "--all")
	p.expect(t, "", "pool", "update", "--all")
	set = kit.Must(sets.Get(ctx, "render", metav1.GetOptions{}))(t)
	if image := set.Spec.Template.Spec.InitContainers[0].Image; image != "registry.example.com/leat:v2" || *set.Spec.Replicas != 2 {
		t.Errorf("after the update: got image %s and %d replicas, want that of the upgrade and 2", image, *set.Spec.Replicas)
	}

	// Its pods have not started, as there are no nodes: they are replaced.
	kit.Eventually(t, "the pods have the new image", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelPool + "=render"})
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("there are %d pods", len(pods.Items))
		}
		for i := range pods.Items {
			if image := pods.Items[i].Spec.InitContainers[0].Image; image != "registry.example.com/leat:v2" {
				err = errors.Join(err, fmt.Errorf("%s has the image %s", pods.Items[i].Name, image))
			}
		}
		return err
	})

	testExplainOfPools(t, e, p)

	kit.Must(kit.Client(t, e.Worker(t, p.namespace, "render-0")).BatchV1alpha1().Workers(p.namespace).Create(ctx, &v1alpha1.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: "render-0", Labels: map[string]string{v1alpha1.LabelPool: "render"}},
	}, metav1.CreateOptions{}))(t)
	p.expect(t, "pool/render deleted\n", "pool", "delete", "render")
	if names := poolObjects(t, e, p.namespace); len(names) > 0 {
		t.Errorf("left after the deletion: %v", names)
	}
	if _, err := client.CoreV1().ServiceAccounts(p.namespace).Get(ctx, "leat-pool-taken", metav1.GetOptions{}); err != nil {
		t.Errorf("the service account of somebody else: %v", err)
	}
}

// testExplainOfPools checks the explanations of tasks that wait for a pool.
func testExplainOfPools(t *testing.T, e *kit.Env, p poolPerson) {
	t.Helper()
	tasks := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(p.namespace)
	for name, test := range map[string]struct{ pool, cpu, want string }{
		"for-nothing": {"rendr", "1", "rendr: there is no such pool in namespace " + p.namespace},
		"too-large":   {"render", "5", "render: none of its workers could run it: it requests 5 cpu, and each worker offers 4"},
		"waits":       {"render", "1", "render: coming up: 0 of 2 workers ready"},
	} {
		task := kit.NewTask(name)
		task.Spec.Pool = test.pool
		task.Spec.Resources.Requests = v1alpha1.ResourceList{v1alpha1.ResourceCPU: resource.MustParse(test.cpu)}
		kit.Must(tasks.Create(t.Context(), task, metav1.CreateOptions{}))(t)
		if out, err := p.leat(t, "explain", "task/"+name); err != nil || !strings.Contains(out, test.want) {
			t.Errorf("explain %s: got %s and %v, want %q", name, out, err, test.want)
		}
		kit.Check(t, tasks.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
}

// testPoolOverQuota checks that "pool list" has the reason why pods cannot be created.
func testPoolOverQuota(t *testing.T, e *kit.Env) {
	p := newPoolPerson(t, e, "admin")
	client := e.HostClient(t)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}}
	kit.Must(client.CoreV1().ResourceQuotas(p.namespace).Create(t.Context(), quota, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "the quota is in effect", func(ctx context.Context) error {
		found, err := client.CoreV1().ResourceQuotas(p.namespace).Get(ctx, quota.Name, metav1.GetOptions{})
		if err == nil && len(found.Status.Hard) == 0 {
			err = errors.New("it has no status")
		}
		return err
	})
	// The pool has its smallest number of workers at once.
	p.expect(t, "pool/fixed created\n", "pool", "create", "fixed", "--image=debian:13", "--min=2", "--max=2")
	kit.Eventually(t, "the list names the quota", func(context.Context) error {
		out, err := p.leat(t, "pool", "list")
		if err == nil && !strings.Contains(out, "exceeded quota: none") {
			err = errors.New(out)
		}
		return err
	})
	p.expect(t, "pool/fixed deleted\n", "pool", "delete", "fixed")
}

// scale sets the replicas of a StatefulSet as the controller of pools does, in its name.
func scale(t *testing.T, client kubernetes.Interface, namespace, name string, replicas int32) {
	t.Helper()
	kit.Must(client.AppsV1().StatefulSets(namespace).Patch(t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, replicas),
		metav1.PatchOptions{FieldManager: pool.FieldManager}, "scale"))(t)
}

// poolTable returns the output of "pool list" with these rows.
func poolTable(rows ...string) string {
	return "NAME     MIN   MAX   WORKERS   COMING   TASKS   PENDING   STATE\n" + strings.Join(rows, "\n") + "\n"
}
