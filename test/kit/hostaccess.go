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

package kit

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// HostConfig returns the configuration of the administrator of the host cluster, without a client-side rate limit. The
// administrator is in system:masters, whose requests no authorizer sees: use it to prepare a test, not for what the test is
// about.
func (e *Env) HostConfig(t testing.TB) *rest.Config {
	t.Helper()
	config := Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	config.QPS = -1
	return config
}

// HostClient returns a client with HostConfig.
func (e *Env) HostClient(t testing.TB) *kubernetes.Clientset {
	t.Helper()
	return Must(kubernetes.NewForConfig(e.HostConfig(t)))(t)
}

// Anonymous returns the configuration of a client without credentials at the server itself. For another address use
// rest.AnonymousClientConfig.
func (e *Env) Anonymous(t testing.TB) *rest.Config {
	t.Helper()
	return &rest.Config{Host: e.directURL, TLSClientConfig: rest.TLSClientConfig{CAData: e.directCA}, QPS: -1}
}

// BindClusterRole creates a binding of a cluster role on the host, in one namespace, or in all if namespace is empty. It
// does not wait until the authorizers have seen it.
func (e *Env) BindClusterRole(t testing.TB, namespace, name, clusterRole string, subjects ...rbacv1.Subject) {
	t.Helper()
	rbac := e.HostClient(t).RbacV1()
	meta := metav1.ObjectMeta{Name: name}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole}
	var err error
	if namespace == "" {
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
		_, err = rbac.ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	} else {
		binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
		_, err = rbac.RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{})
	}
	Check(t, err)
}

// UserSubject returns the user as the subject of a binding.
func UserSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

// GroupSubject returns the group as the subject of a binding.
func GroupSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}
