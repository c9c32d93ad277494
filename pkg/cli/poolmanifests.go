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

package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

const (
	// poolLogPort is where workers of a pool serve output, to leat-apiserver only. It is fixed so that a NetworkPolicy can
	// name it.
	poolLogPort = 9443
	// poolMetricsPort is where workers of a pool serve metrics, and metricsNamespace the namespace that may read them.
	poolMetricsPort  = 9090
	metricsNamespace = "monitoring"
	// poolGracePeriod is how many seconds a pod may take to end, unless the patch says otherwise: nothing but a person or
	// the end of a node ends a worker with tasks.
	poolGracePeriod = 3600
	// poolUser is the user of the processes, as in distroless images. No image needs to know it.
	poolUser = 65532

	// poolContainer is the container of the worker, which patches can name.
	poolContainer = "worker"
	poolHome      = "/home/leat"
)

// poolConfig describes a pool and the objects that it consists of.
type poolConfig struct {
	name string
	// namespace is that of the objects. "" leaves it out of them.
	namespace string
	// image has the programs for the commands of tasks.
	image    string
	settings pool.Settings
	// patch is a strategic merge patch of the StatefulSet in JSON, nil for none.
	patch []byte
	// info is the data of the ConfigMap leat-info.
	info map[string]string
}

// The resources of the objects of a pool.
var (
	serviceAccounts = corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	roleBindings    = rbacv1.SchemeGroupVersion.WithResource("rolebindings")
	configMaps      = corev1.SchemeGroupVersion.WithResource("configmaps")
	networkPolicies = networkingv1.SchemeGroupVersion.WithResource("networkpolicies")
	statefulSets    = appsv1.SchemeGroupVersion.WithResource("statefulsets")
	// poolResources is in the order of creation: a pod needs what comes before the StatefulSet.
	poolResources = []schema.GroupVersionResource{serviceAccounts, roleBindings, configMaps, networkPolicies, statefulSets}
)

// poolObject is an object of a pool.
type poolObject struct {
	resource schema.GroupVersionResource
	*unstructured.Unstructured
}

// String returns the object as in the output of kubectl.
func (o poolObject) String() string {
	return strings.ToLower(o.GroupVersionKind().GroupKind().String()) + "/" + o.GetName()
}

// objects returns the objects of the pool in the order of poolResources.
//
// replicas is nil to leave them out of the StatefulSet. kubectl, Flux and Argo CD write back what a manifest has, so
// replicas in it would be reset each time that it is applied. A StatefulSet that is created without replicas has one:
// the first worker of such a pool starts at once, and is removed when it is idle.
func (p *poolConfig) objects(replicas *int32) ([]poolObject, error) {
	set, err := p.statefulSet(replicas)
	if err != nil {
		return nil, err
	}
	account := &corev1.ServiceAccount{TypeMeta: typeMetaOf(corev1.SchemeGroupVersion, "ServiceAccount"), ObjectMeta: p.meta(pool.ObjectName(p.name))}
	// Pods with the service account may register as workers in this namespace.
	worker := p.roleBinding(account.Name, pool.WorkerRole, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: account.Name, Namespace: p.namespace})
	// The controller manager scales pools only in namespaces that permit it.
	scaler := p.roleBinding(pool.ScalerBinding(p.name), pool.ScalerRole, rbacv1.Subject{
		Kind: rbacv1.ServiceAccountKind, Name: pool.ControllerAccount, Namespace: batch.SystemNamespace,
	})
	var all []poolObject
	for _, object := range []struct {
		resource schema.GroupVersionResource
		typed    runtime.Object
	}{
		{serviceAccounts, account}, {roleBindings, worker}, {roleBindings, scaler}, {configMaps, p.configMap()}, {networkPolicies, p.networkPolicy()}, {statefulSets, set},
	} {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object.typed)
		if err != nil {
			return nil, err
		}
		delete(content, "status")
		all = append(all, poolObject{object.resource, &unstructured.Unstructured{Object: content}})
	}
	return all, nil
}

func typeMetaOf(version schema.GroupVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version.String(), Kind: kind}
}

// meta returns the metadata of an object of the pool.
func (p *poolConfig) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: p.namespace, Labels: map[string]string{batch.LabelPool: p.name}}
}

func (p *poolConfig) roleBinding(name, role string, subject rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   typeMetaOf(rbacv1.SchemeGroupVersion, "RoleBinding"),
		ObjectMeta: p.meta(name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}
}

// poolKubeconfig is the kubeconfig of workers in pods. The paths are relative to its directory. It has no namespace, so
// that the manifests of a pool fit into any.
const poolKubeconfig = `apiVersion: v1
kind: Config
clusters:
- name: leat
  cluster: {server: %q, certificate-authority: ca.crt}
users:
- name: worker
  user: {tokenFile: token}
contexts:
- name: leat
  context: {cluster: leat, user: worker}
current-context: leat
`

func (p *poolConfig) configMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: typeMetaOf(corev1.SchemeGroupVersion, "ConfigMap"), ObjectMeta: p.meta(pool.ObjectName(p.name)),
		Data: map[string]string{
			"kubeconfig":    fmt.Sprintf(poolKubeconfig, p.info[pool.InfoServer]),
			"ca.crt":        p.info[pool.InfoCA],
			"client-ca.crt": p.info[pool.InfoClientCA],
		},
	}
}

// networkPolicy returns the policy that only leat-apiserver may connect to the log server of the workers, and only the
// namespace of Prometheus to their metrics. Nobody may connect to what tasks listen on.
func (p *poolConfig) networkPolicy() *networkingv1.NetworkPolicy {
	from := func(port int, namespace string, pods *metav1.LabelSelector) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(intstr.FromInt(port))}},
			From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}, PodSelector: pods,
			}},
		}
	}
	server := &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "leat", "app.kubernetes.io/component": "apiserver"}}
	return &networkingv1.NetworkPolicy{
		TypeMeta: typeMetaOf(networkingv1.SchemeGroupVersion, "NetworkPolicy"), ObjectMeta: p.meta(pool.ObjectName(p.name)),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelPool: p.name}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				from(poolLogPort, batch.SystemNamespace, server), from(poolMetricsPort, metricsNamespace, nil),
			},
		},
	}
}

// statefulSet returns the StatefulSet, with the patch applied.
func (p *poolConfig) statefulSet(replicas *int32) (*appsv1.StatefulSet, error) {
	annotations, err := p.settings.Annotations()
	if err != nil {
		return nil, err
	}
	annotations[pool.AnnotationInfoHash] = pool.InfoHash(p.info)
	meta := p.meta(p.name)
	meta.Annotations = annotations
	podLabels := map[string]string{
		batch.LabelPool: p.name,
		// config/components/monitoring selects workers by this label.
		"app.kubernetes.io/name": "leat-worker",
	}
	set := &appsv1.StatefulSet{
		TypeMeta: typeMetaOf(appsv1.SchemeGroupVersion, "StatefulSet"), ObjectMeta: meta,
		Spec: appsv1.StatefulSetSpec{
			Replicas: replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelPool: p.name}},
			// Clusters before 1.33 demand a name. There is no such Service, because nothing connects to a worker by its name.
			ServiceName: pool.ObjectName(p.name),
			// Workers do not wait for each other.
			PodManagementPolicy: appsv1.ParallelPodManagement,
			// A change of the template must not end commands that run: it holds for the next workers.
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{
					Labels: podLabels,
					// The cluster autoscaler must not remove a node because a worker could run elsewhere: its tasks would start again.
					Annotations: map[string]string{pool.SafeToEvict: "false"},
				},
				Spec: p.podSpec(),
			},
		},
	}
	if p.patch == nil {
		return set, nil
	}
	return p.patched(set)
}

// podSpec returns the spec of the worker's pods. It complies with the restricted level of Pod Security.
func (p *poolConfig) podSpec() corev1.PodSpec {
	container := &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	amounts := corev1.ResourceList{}
	for name, quantity := range p.settings.Worker.Allocatable {
		if name != batch.ResourceTasks {
			amounts[corev1.ResourceName(name)] = quantity
		}
	}
	install := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	volume := func(name string, limit string) corev1.Volume {
		directory := &corev1.EmptyDirVolumeSource{}
		if limit != "" {
			directory.SizeLimit = ptr.To(resource.MustParse(limit))
		}
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: directory}}
	}
	return corev1.PodSpec{
		ServiceAccountName: pool.ObjectName(p.name),
		// Tasks could read this token, and it would be valid for the cluster's API server.
		AutomountServiceAccountToken:  ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To[int64](poolGracePeriod),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](poolUser),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		InitContainers: []corev1.Container{{
			Name: "install", Image: p.info[pool.InfoImage], Command: []string{"/leat-worker", "install", pool.ProgramDir},
			Resources:       corev1.ResourceRequirements{Requests: install, Limits: install},
			SecurityContext: container,
			VolumeMounts:    []corev1.VolumeMount{{Name: "program", MountPath: pool.ProgramDir}},
		}},
		Containers: []corev1.Container{{
			Name: poolContainer, Image: p.image, Command: []string{pool.ProgramDir + "/leat-worker"}, Args: p.args(),
			WorkingDir: poolHome,
			Env: []corev1.EnvVar{
				// The worker has the name of the pod, and serves output on its address.
				field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP"),
				{Name: "HOME", Value: poolHome},
			},
			Ports: []corev1.ContainerPort{
				{Name: "metrics", ContainerPort: poolMetricsPort, Protocol: corev1.ProtocolTCP},
				{Name: "logs", ContainerPort: poolLogPort, Protocol: corev1.ProtocolTCP},
			},
			Resources:       corev1.ResourceRequirements{Requests: amounts, Limits: amounts},
			SecurityContext: container,
			VolumeMounts: []corev1.VolumeMount{
				{Name: "program", MountPath: pool.ProgramDir, ReadOnly: true},
				{Name: "access", MountPath: pool.AccessDir, ReadOnly: true},
				{Name: "state", MountPath: pool.StateDir},
				{Name: "home", MountPath: poolHome},
			},
		}},
		Volumes: []corev1.Volume{
			volume("program", "200Mi"), volume("state", "2Gi"), volume("home", ""),
			{Name: "access", VolumeSource: pool.AccessVolume(pool.ObjectName(p.name))},
		},
	}
}

// args returns the arguments of leat-worker.
func (p *poolConfig) args() []string {
	worker := p.settings.Worker
	tasks := worker.Allocatable[batch.ResourceTasks]
	var capacity, labels, taints []string
	for _, name := range sortedKeys(worker.Allocatable) {
		if quantity := worker.Allocatable[name]; name != batch.ResourceTasks {
			capacity = append(capacity, string(name)+"="+quantity.String())
		}
	}
	for _, key := range sortedKeys(worker.Labels) {
		labels = append(labels, key+"="+worker.Labels[key])
	}
	for _, taint := range worker.Taints {
		taints = append(taints, formatTaint(taint))
	}
	args := []string{
		"--kubeconfig=" + pool.AccessDir + "/kubeconfig", "--namespace=$(POD_NAMESPACE)", "--pool=" + p.name,
		"--tasks=" + strconv.FormatInt(tasks.Value(), 10), "--capacity=" + strings.Join(capacity, ","),
	}
	if len(labels) > 0 {
		args = append(args, "--labels="+strings.Join(labels, ","))
	}
	if len(taints) > 0 {
		args = append(args, "--taints="+strings.Join(taints, ","))
	}
	return append(args, "--state-dir="+pool.StateDir, drainTimeoutArg(poolGracePeriod),
		"--client-ca-file="+pool.AccessDir+"/client-ca.crt", "--log-port="+strconv.Itoa(poolLogPort), "--metrics-bind-address=:"+strconv.Itoa(poolMetricsPort))
}

// drainTimeoutArg returns the argument for how long commands may take to end in a pod with the grace period. The rest
// of it is for the reports of the worker.
func drainTimeoutArg(gracePeriodSeconds int64) string {
	seconds := gracePeriodSeconds - min(30, gracePeriodSeconds/3)
	return "--drain-timeout=" + (time.Duration(max(1, seconds)) * time.Second).String()
}

// formatTaint returns a taint as KEY=VALUE:EFFECT or KEY:EFFECT.
func formatTaint(taint batch.Taint) string {
	text := taint.Key
	if taint.Value != "" {
		text += "=" + taint.Value
	}
	return text + ":" + string(taint.Effect)
}

// patched returns the StatefulSet with the patch of --from. It returns an error if the patch changes what the pool
// depends on.
func (p *poolConfig) patched(set *appsv1.StatefulSet) (*appsv1.StatefulSet, error) {
	set = set.DeepCopy()
	set.Annotations[pool.AnnotationPatch] = string(p.patch)
	original, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, p.patch, appsv1.StatefulSet{})
	if err != nil {
		return nil, usageErrorf("--from: %w: write a part of a StatefulSet, like {spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}", err)
	}
	var result appsv1.StatefulSet
	if err := yaml.UnmarshalStrict(merged, &result); err != nil {
		return nil, usageErrorf("--from: %w: write a part of a StatefulSet, like {spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}", err)
	}
	worker := slices.IndexFunc(result.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == poolContainer })
	for _, owned := range []struct {
		path   string
		kept   bool
		advice string
	}{
		{"kind", result.TypeMeta == set.TypeMeta, "leave it out, or write apiVersion apps/v1 and kind StatefulSet"},
		{"metadata.name", result.Name == set.Name && result.Namespace == set.Namespace, "leave out the name and the namespace"},
		{"spec.replicas", ptr.Equal(result.Spec.Replicas, set.Spec.Replicas), "use --min and --max"},
		{"spec.selector", maps.Equal(result.Spec.Selector.MatchLabels, set.Spec.Selector.MatchLabels) && len(result.Spec.Selector.MatchExpressions) == 0, "leave it out"},
		{"labels " + batch.LabelPool, result.Labels[batch.LabelPool] == p.name && result.Spec.Template.Labels[batch.LabelPool] == p.name, "leave them out"},
		{"spec.template.spec.containers", worker >= 0, "keep the container " + poolContainer},
		{"resources and args of the container " + poolContainer, worker >= 0 && sameWorker(&result.Spec.Template.Spec.Containers[worker], &set.Spec.Template.Spec.Containers[0]),
			"use --cpu, --memory, --gpu, --resource and --tasks: the pool is scaled by what they say"},
	} {
		if !owned.kept {
			return nil, usageErrorf("--from changes %s: %s", owned.path, owned.advice)
		}
	}
	container := &result.Spec.Template.Spec.Containers[worker]
	i := slices.Index(container.Args, drainTimeoutArg(poolGracePeriod))
	container.Args[i] = drainTimeoutArg(ptr.Deref(result.Spec.Template.Spec.TerminationGracePeriodSeconds, poolGracePeriod))
	return &result, nil
}

// sameWorker reports whether a container offers what another does.
func sameWorker(a, b *corev1.Container) bool {
	for name, quantity := range b.Resources.Limits {
		other := a.Resources.Limits[name]
		if other.Cmp(quantity) != 0 {
			return false
		}
	}
	return slices.Equal(a.Args, b.Args)
}
