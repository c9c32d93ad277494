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
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/apiserver/authentication/pod"
	"github.com/leat-dev/leat/test/kit"
)

// testWorkerPod checks that a pod is the worker with its name if its service account has the role leat:worker. Its
// token is bound to the pod and to Leat's audience.
func testWorkerPod(t *testing.T, e *kit.Env) {
	const account, name = "pool", "pool-1"
	ctx := t.Context()
	namespace := e.Namespace(t)
	admin := e.HostClient(t)
	kit.Must(admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}))(t)
	kit.Must(admin.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "worker", Image: "worker"}}},
	}, metav1.CreateOptions{}))(t)
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name}
	as := func(bound *authenticationv1.BoundObjectReference, audiences ...string) *rest.Config {
		config := e.Anonymous(t)
		config.BearerToken = kit.Must(e.Host.ServiceAccountToken(t.Context(), namespace, account,
			authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: bound}))(t)
		return config
	}
	config := as(bound, pod.Audience)
	workers := "/apis/batch.leat.dev/v1alpha1/namespaces/" + namespace + "/workers"
	register := func(config *rest.Config, name string) kit.Response {
		return kit.Do(t, config, http.MethodPost, workers, `{"metadata":{"name":"`+name+`"}}`)
	}

	if got := register(config, name); got.Code != http.StatusUnauthorized {
		t.Errorf("service account without the role: got %s, want 401", got)
	}
	kit.Must(admin.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:worker"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: account}},
	}, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "the pod can register its worker", func(context.Context) error {
		if got := register(config, name); got.Code != http.StatusCreated {
			return errors.New(got.String())
		}
		return nil
	})

	boundTask(t, e, namespace, "mine", name)
	boundTask(t, e, namespace, "of-the-other", "pool-2")
	tasks := kit.Client(t, config).BatchV1alpha1().Tasks(namespace)
	if list := kit.Must(tasks.List(ctx, ofWorker(name)))(t); len(list.Items) != 1 {
		t.Errorf("listed tasks: got %d, want 1", len(list.Items))
	}
	for what, got := range map[string]kit.Response{
		"another name":              register(config, "pool-2"),
		"the tasks of another":      kit.Do(t, config, http.MethodGet, tasksPath(namespace)+"?fieldSelector=spec.workerName=pool-2", ""),
		"the task of another":       kit.Do(t, config, http.MethodGet, tasksPath(namespace)+"/of-the-other", ""),
		"another namespace's tasks": kit.Do(t, config, http.MethodGet, tasksPath("default")+"?fieldSelector=spec.workerName="+name, ""),
	} {
		if got.Code != http.StatusForbidden {
			t.Errorf("%s: got %s, want 403", what, got)
		}
	}
	atHost := rest.AnonymousClientConfig(e.HostConfig(t))
	atHost.BearerToken = config.BearerToken
	if got := kit.Do(t, atHost, http.MethodGet, "/api", ""); got.Code != http.StatusUnauthorized {
		t.Errorf("the token at the host: got %s, want 401", got)
	}
	// A token for the host is the same service account, but no worker.
	if got := register(as(bound), name+"-b"); got.Code != http.StatusForbidden {
		t.Errorf("register with a token for the host: got %s, want 403", got)
	}
	if got := kit.Do(t, as(bound), http.MethodGet, tasksPath(namespace)+"/mine", ""); got.Code != http.StatusForbidden {
		t.Errorf("get a task with a token for the host: got %s, want 403", got)
	}
	if got := register(as(nil, pod.Audience), name+"-c"); got.Code != http.StatusUnauthorized {
		t.Errorf("token that is not bound to a pod: got %s, want 401", got)
	}

	kit.Check(t, admin.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	kit.Eventually(t, "the token is invalid after the deletion of the pod", func(context.Context) error {
		if got := kit.Do(t, config, http.MethodGet, workers+"/"+name, ""); got.Code != http.StatusUnauthorized {
			return fmt.Errorf("got %s, want 401", got)
		}
		return nil
	})
}
