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

package convert

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

// Pool is the pool of a Job.
type Pool struct {
	// Workers are the workers. It has no replicas: the controller of pools sets them.
	Workers *appsv1.StatefulSet
	// Access is the ConfigMap with which workers connect to leat-apiserver.
	Access *corev1.ConfigMap
	// WorkerBinding allows the service account of the pods to register workers.
	WorkerBinding *rbacv1.RoleBinding
	// ScalerBinding allows the controller of pools to scale the workers.
	ScalerBinding *rbacv1.RoleBinding
}

// Objects returns the objects of the pool in the order in which they are created: the workers last.
func (p *Pool) Objects() []runtime.Object {
	return []runtime.Object{p.Access, p.WorkerBinding, p.ScalerBinding, p.Workers}
}

// pool returns the pool of the Job. The Job has been checked.
func (c *jobConverter) pool() Pool {
	name, o := c.options.Pool, c.options
	template := c.spec.Template.DeepCopy()
	metadata := metav1.ObjectMeta{Labels: without(template.Labels, generatedLabels), Annotations: maps.Clone(template.Annotations)}
	if metadata.Labels == nil {
		metadata.Labels = map[string]string{}
	}
	metadata.Labels[batch.LabelPool] = name
	if _, ok := metadata.Annotations[pool.SafeToEvict]; !ok {
		if metadata.Annotations == nil {
			metadata.Annotations = map[string]string{}
		}
		metadata.Annotations[pool.SafeToEvict] = "false"
	}
	template.ObjectMeta = metadata
	const tasks = 1 // as a pod of a Job runs one command
	settings := pool.Settings{Max: c.maxWorkers(), Idle: pool.DefaultIdle, Worker: offer(&template.Spec.Containers[0], tasks)}
	annotations := must(settings.Annotations())
	annotations[pool.AnnotationInfoHash] = pool.InfoHash(o.Info)
	injectWorker(template, 0, workerOptions{Pool: name, Image: o.Info[pool.InfoImage], Access: pool.ObjectName(name), Tasks: tasks})

	account := template.Spec.ServiceAccountName
	if account == "" {
		account = template.Spec.DeprecatedServiceAccount
	}
	if account == "" {
		account = "default"
	}
	object := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: o.Namespace, Labels: map[string]string{batch.LabelPool: c.options.Pool}}
	}
	binding := func(name, role, namespace, account string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
			ObjectMeta: object(name),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		}
	}
	p := Pool{
		Workers: &appsv1.StatefulSet{
			TypeMeta:   metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "StatefulSet"},
			ObjectMeta: object(name),
			Spec: appsv1.StatefulSetSpec{
				// Clusters before 1.33 demand a name. There is no such Service: nothing connects to a worker by its name.
				ServiceName: pool.ObjectName(name),
				// Workers do not wait for each other.
				PodManagementPolicy: appsv1.ParallelPodManagement,
				// A change of the template must not end commands that run: it holds for the next workers.
				UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
				Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelPool: name}},
				Template:       *template,
			},
		},
		Access: &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: object(pool.ObjectName(name)),
			Data: map[string]string{
				"kubeconfig": kubeconfig(o.Info[pool.InfoServer], o.Namespace), "ca.crt": o.Info[pool.InfoCA], "client-ca.crt": o.Info[pool.InfoClientCA],
			},
		},
		WorkerBinding: binding(pool.ObjectName(name), pool.WorkerRole, o.Namespace, account),
		ScalerBinding: binding(pool.ScalerBinding(name), pool.ScalerRole, batch.SystemNamespace, pool.ControllerAccount),
	}
	p.Workers.Annotations = annotations
	return p
}

// maxWorkers returns the largest number of workers of the pool. Unless the options name one, that is the number of pods
// that the Job may have at a time.
func (c *jobConverter) maxWorkers() int32 {
	if c.options.Max > 0 {
		return c.options.Max
	}
	pods := ptr.Deref(c.spec.Parallelism, 1)
	if c.spec.Completions != nil {
		pods = min(pods, *c.spec.Completions)
	}
	return min(max(pods, 1), pool.MaxWorkers)
}

// kubeconfig returns the kubeconfig of the workers of a namespace. Its paths are relative to its directory.
func kubeconfig(server, namespace string) string {
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "leat",
		"clusters": []any{map[string]any{"name": "leat", "cluster": map[string]any{"server": server, "certificate-authority": "ca.crt"}}},
		"users":    []any{map[string]any{"name": "leat", "user": map[string]any{"tokenFile": "token"}}},
		"contexts": []any{map[string]any{"name": "leat", "context": map[string]any{"cluster": "leat", "user": "leat", "namespace": namespace}}},
	}
	return string(must(yaml.Marshal(config)))
}

func quantityOf(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// must returns a value that can always be encoded.
func must[T any](value T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("encoding: %v", err))
	}
	return value
}
