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

package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// installations are kustomizations as users write them: the resource and the components.
var installations = map[string][]string{
	"default":      {"default"},
	"monitoring":   {"default", "components/monitoring"},
	"metrics":      {"default", "components/metrics"},
	"three etcds":  {"default", "components/etcd-ha", "components/monitoring"},
	"ephemeral":    {"default", "components/etcd-ephemeral"},
	"cert-manager": {"base", "components/etcd", "components/cert-manager"},
	"own etcd":     {"base", "components/certificates", "components/etcd-external", "components/archive-s3", "components/monitoring"},
}

// manifest is an object of an installation.
type manifest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	yaml              []byte
}

func (m manifest) String() string { return m.Kind + "/" + m.Name }

// into decodes the object strictly.
func (m manifest) into(t *testing.T, object any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(m.yaml, object); err != nil {
		t.Fatalf("%s: %v", m, err)
	}
}

// build returns the objects of a kustomization.
func build(t *testing.T, paths ...string) []manifest {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" + filepath.Join(config, paths[0]) + "]\ncomponents:\n"
	for _, component := range paths[1:] {
		text += "- " + filepath.Join(config, component) + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []manifest
	for _, resource := range built.Resources() {
		m := manifest{}
		if m.yaml, err = resource.AsYAML(); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(m.yaml, &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// podTemplates returns the pod templates of an installation, by the object that has them.
func podTemplates(t *testing.T, manifests []manifest) map[string]corev1.PodTemplateSpec {
	t.Helper()
	templates := map[string]corev1.PodTemplateSpec{}
	for _, m := range manifests {
		switch m.Kind {
		case "Deployment":
			var deployment appsv1.Deployment
			m.into(t, &deployment)
			templates[m.Name] = deployment.Spec.Template
		case "StatefulSet":
			var set appsv1.StatefulSet
			m.into(t, &set)
			templates[m.Name] = set.Spec.Template
		case "CronJob":
			var job batchv1.CronJob
			m.into(t, &job)
			templates[m.Name] = job.Spec.JobTemplate.Spec.Template
		case "DaemonSet", "Job", "Pod", "ReplicaSet":
			t.Fatalf("%s: its pods are not looked at", m)
		}
	}
	return templates
}

// forEach runs a test for each installation.
func forEach(t *testing.T, test func(t *testing.T, name string, manifests []manifest)) {
	t.Helper()
	for name, paths := range installations {
		t.Run(name, func(t *testing.T) { test(t, name, build(t, paths...)) })
	}
}

func TestEveryComponentIsInAnInstallation(t *testing.T) {
	components, err := filepath.Glob("components/*")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("default/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range components {
		used := strings.Contains(string(data), "../"+component+"\n")
		for _, paths := range installations {
			used = used || slices.Contains(paths, component)
		}
		if !used {
			t.Errorf("no installation of the tests has %s", component)
		}
	}
}

// An APIService without a server blocks the deletion of every namespace, and a webhook without a server blocks its
// requests.
func TestNothingIsInstalledThatTheClusterWaitsFor(t *testing.T) {
	forEach(t, func(t *testing.T, _ string, manifests []manifest) {
		for _, m := range manifests {
			switch m.Kind {
			case "APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "CustomResourceDefinition":
				t.Errorf("%s is installed before its server is there", m)
			}
			if len(m.Finalizers) > 0 {
				t.Errorf("%s has the finalizers %v", m, m.Finalizers)
			}
		}
	})
}

// The owner of the APIService must be deleted together with the installation.
func TestTheOwnerOfTheAPIServiceIsInstalled(t *testing.T) {
	forEach(t, func(t *testing.T, _ string, manifests []manifest) {
		if !slices.ContainsFunc(manifests, func(m manifest) bool { return m.String() == "ClusterRole/leat:apiservice" }) {
			t.Error("there is no ClusterRole leat:apiservice")
		}
		manager := podTemplates(t, manifests)["leat-controller-manager"]
		if args := manager.Spec.Containers[0].Args; !slices.Contains(args, "--register-service=leat-system/leat-apiserver:443") {
			t.Errorf("the controller manager registers nothing: %q", args)
		}
	})
}

// Some clusters create pods of critical priority classes only in namespaces with a quota for the class.
func TestQuotaCoversEveryCriticalPriorityClass(t *testing.T) {
	forEach(t, func(t *testing.T, _ string, manifests []manifest) {
		covered := map[string]int64{}
		for _, m := range manifests {
			if m.Kind != "ResourceQuota" || m.Namespace != "leat-system" {
				continue
			}
			var quota corev1.ResourceQuota
			m.into(t, &quota)
			for _, requirement := range quota.Spec.ScopeSelector.MatchExpressions {
				if requirement.ScopeName == corev1.ResourceQuotaScopePriorityClass && requirement.Operator == corev1.ScopeSelectorOpIn {
					for _, class := range requirement.Values {
						covered[class] = quota.Spec.Hard.Pods().Value()
					}
				}
			}
		}
		for name, template := range podTemplates(t, manifests) {
			if class := template.Spec.PriorityClassName; class != "" && covered[class] < 10 {
				t.Errorf("%s has the priority class %s, of which the quotas allow %d pods", name, class, covered[class])
			}
		}
	})
}

// peer is the source of a connection: a component of Leat or another pod.
type peer struct {
	component string // in leat-system
	namespace string // of another pod
}

var (
	peers = map[string]peer{
		"apiserver": {component: "apiserver"}, "controller-manager": {component: "controller-manager"}, "etcd": {component: "etcd"},
		"etcd-maintenance": {component: "etcd-maintenance"}, "monitoring": {namespace: "monitoring"}, "anyone": {namespace: "default"},
	}
	everyone = slices.Sorted(maps.Keys(peers))
)

func (p peer) matches(t *testing.T, from networkingv1.NetworkPolicyPeer) bool {
	t.Helper()
	pod, namespace := labels.Set{"app": "any"}, labels.Set{corev1.LabelMetadataName: p.namespace}
	if p.component != "" {
		pod = labels.Set{"app.kubernetes.io/name": "leat", "app.kubernetes.io/component": p.component}
		namespace[corev1.LabelMetadataName] = "leat-system"
	}
	if from.IPBlock != nil {
		t.Fatal("an IP block is not looked at")
	}
	if from.NamespaceSelector == nil && p.component == "" || from.NamespaceSelector != nil && !selects(t, from.NamespaceSelector, namespace) {
		return false
	}
	return from.PodSelector == nil || selects(t, from.PodSelector, pod)
}

func selects(t *testing.T, selector *metav1.LabelSelector, set labels.Set) bool {
	t.Helper()
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Matches(set)
}

// admitted returns the peers that may connect to a port of pods with these labels.
func admitted(t *testing.T, policies []networkingv1.NetworkPolicy, pod labels.Set, port int32) []string {
	t.Helper()
	isolated, allowed := false, map[string]bool{}
	for _, policy := range policies {
		if !selects(t, &policy.Spec.PodSelector, pod) {
			continue
		}
		isolated = true
		for _, rule := range policy.Spec.Ingress {
			for _, p := range rule.Ports {
				if p.Port.IntVal != port {
					continue
				}
				for name, peer := range peers {
					if len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(from networkingv1.NetworkPolicyPeer) bool { return peer.matches(t, from) }) {
						allowed[name] = true
					}
				}
			}
		}
	}
	if !isolated {
		return everyone
	}
	return slices.Sorted(maps.Keys(allowed))
}

// TestPortsAreOpenToThoseTheyAreFor lists every port of every pod. A new port fails the test until it is listed here.
func TestPortsAreOpenToThoseTheyAreFor(t *testing.T) {
	open := map[string]map[string][]string{ // by installation, or "" for all; by pod and port
		"": {
			"leat-apiserver/https":           everyone,
			"leat-controller-manager/probes": nil,
			"leat-etcd/client":               {"apiserver", "etcd", "etcd-maintenance"},
			"leat-etcd/peer":                 {"etcd"},
		},
		"metrics":     {"leat-controller-manager/metrics": everyone},
		"monitoring":  {"leat-controller-manager/metrics": everyone, "leat-etcd/metrics": {"monitoring"}},
		"three etcds": {"leat-controller-manager/metrics": everyone, "leat-etcd/metrics": {"monitoring"}},
		"own etcd":    {"leat-controller-manager/metrics": everyone},
	}
	forEach(t, func(t *testing.T, name string, manifests []manifest) {
		var policies []networkingv1.NetworkPolicy
		for _, m := range manifests {
			if m.Kind == "NetworkPolicy" && m.Namespace == "leat-system" {
				var policy networkingv1.NetworkPolicy
				m.into(t, &policy)
				policies = append(policies, policy)
			}
		}
		for pod, template := range podTemplates(t, manifests) {
			for _, container := range template.Spec.Containers {
				for _, port := range container.Ports {
					key := pod + "/" + port.Name
					want, ok := open[""][key]
					if !ok {
						want, ok = open[name][key]
					}
					got := admitted(t, policies, template.Labels, port.ContainerPort)
					if !ok || !slices.Equal(got, want) {
						t.Errorf("%s is open to %q; want %q (known: %t)", key, got, want, ok)
					}
				}
			}
			if got := admitted(t, policies, template.Labels, 1); len(got) > 0 {
				t.Errorf("a port of %s that nothing is said of is open to %q", pod, got)
			}
		}
	})
}

func TestEtcdServesNothingWithoutTLSUnlessItIsMonitored(t *testing.T) {
	forEach(t, func(t *testing.T, name string, manifests []manifest) {
		etcd, ok := podTemplates(t, manifests)["leat-etcd"]
		if !ok {
			return
		}
		monitored := name == "monitoring" || name == "three etcds"
		plain := slices.ContainsFunc(etcd.Spec.Containers[0].Args, func(arg string) bool {
			return strings.HasPrefix(arg, "--listen-") && strings.Contains(arg, "=http://")
		})
		if plain != monitored {
			t.Errorf("etcd listens without TLS: %t, want %t: %q", plain, monitored, etcd.Spec.Containers[0].Args)
		}
	})
}

// Both issuers of certificates write the Secret of the etcd that Leat installs.
func TestAnExternalEtcdHasASecretThatNoIssuerWrites(t *testing.T) {
	for _, issuer := range []string{"components/certificates", "components/cert-manager"} {
		manifests := build(t, "base", issuer, "components/etcd-external")
		server := podTemplates(t, manifests)["leat-apiserver"]
		volume := server.Spec.Volumes[slices.IndexFunc(server.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "etcd-tls" })]
		for _, m := range manifests {
			var certificate struct{ Spec struct{ SecretName string } }
			if m.Kind == "Certificate" {
				if err := yaml.Unmarshal(m.yaml, &certificate); err != nil {
					t.Fatal(err)
				}
			}
			if m.Kind == "Secret" && m.Name == volume.Secret.SecretName || certificate.Spec.SecretName == volume.Secret.SecretName {
				t.Errorf("with %s, %s overwrites the Secret %s of the external etcd", issuer, m, volume.Secret.SecretName)
			}
		}
	}
}

func TestBackupsArePrunedBeforeTheNextOne(t *testing.T) {
	job := podTemplates(t, build(t, installations["default"]...))["leat-etcd-backup"]
	prune, save := job.Spec.InitContainers[0], job.Spec.Containers[0]
	directory := save.VolumeMounts[slices.IndexFunc(save.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "backup" })].MountPath
	if got, want := fmt.Sprint(prune.Command, prune.Args), "[/leat-controller-manager prune-backups] [--keep=11 "+directory+"]"; got != want {
		t.Errorf("the backup begins with %s, want %s", got, want)
	}
	if !slices.Contains(save.Args, directory+"/$(JOB_NAME).db") {
		t.Errorf("the snapshot is saved by %q, want the name of the Job: prune-backups goes by it", save.Args)
	}
}

// A PodMonitor that selects nothing reports no error.
func TestPodMonitorFindsTheExampleWorkers(t *testing.T) {
	var monitor struct {
		Spec struct {
			NamespaceSelector   struct{ Any bool }
			Selector            metav1.LabelSelector
			PodMetricsEndpoints []struct{ Port string }
		}
	}
	for _, m := range build(t, installations["monitoring"]...) {
		if m.Kind == "PodMonitor" {
			if err := yaml.Unmarshal(m.yaml, &monitor); err != nil {
				t.Fatal(err)
			}
		}
	}
	pool := podTemplates(t, build(t, "../artifacts/examples/worker-pool"))["worker-pool"]
	ports := pool.Spec.Containers[0].Ports
	if len(monitor.Spec.PodMetricsEndpoints) != 1 || !monitor.Spec.NamespaceSelector.Any || !selects(t, &monitor.Spec.Selector, pool.Labels) {
		t.Fatalf("the monitor %+v does not select the pods with the labels %v", monitor.Spec, pool.Labels)
	}
	i := slices.IndexFunc(ports, func(port corev1.ContainerPort) bool { return port.Name == monitor.Spec.PodMetricsEndpoints[0].Port })
	if i < 0 || !slices.Contains(pool.Spec.Containers[0].Args, fmt.Sprintf("--metrics-bind-address=:%d", ports[i].ContainerPort)) {
		t.Errorf("the monitor %+v does not find a port among %v", monitor.Spec, ports)
	}
}

// TestPoolAdmitsTheServerAndPrometheusOnly checks the NetworkPolicy of the example, which is that of every pool.
func TestPoolAdmitsTheServerAndPrometheusOnly(t *testing.T) {
	manifests := build(t, "../artifacts/examples/worker-pool")
	var policies []networkingv1.NetworkPolicy
	for _, m := range manifests {
		if m.Kind == "NetworkPolicy" {
			var policy networkingv1.NetworkPolicy
			m.into(t, &policy)
			policies = append(policies, policy)
		}
	}
	template := podTemplates(t, manifests)["worker-pool"]
	want := map[string][]string{"logs": {"apiserver"}, "metrics": {"monitoring"}}
	for _, port := range template.Spec.Containers[0].Ports {
		if got := admitted(t, policies, template.Labels, port.ContainerPort); !slices.Equal(got, want[port.Name]) {
			t.Errorf("port %s is open to %q, want %q", port.Name, got, want[port.Name])
		}
	}
	if got := admitted(t, policies, template.Labels, 8080); len(got) > 0 {
		t.Errorf("what a task listens on is open to %q", got)
	}
}

// TestHookWaitsForItsCommand checks that Helm and Argo CD wait for the hook's command.
func TestHookWaitsForItsCommand(t *testing.T) {
	data, err := os.ReadFile("../artifacts/examples/hook/hook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		m := manifest{yaml: []byte(document)}
		if err := yaml.Unmarshal(m.yaml, &m); err != nil {
			t.Fatal(err)
		}
		if m.Annotations["helm.sh/hook"] == "" || m.Annotations["argocd.argoproj.io/hook"] == "" {
			t.Errorf("%s is no hook: %v", m, m.Annotations)
		}
		switch m.Kind {
		case "ServiceAccount":
			m.into(t, &corev1.ServiceAccount{})
		case "RoleBinding":
			m.into(t, &rbacv1.RoleBinding{})
		case "Job":
			var job batchv1.Job
			m.into(t, &job)
			spec := job.Spec.Template.Spec
			if command := spec.Containers[0].Command; !slices.Contains(command, "--wait") || spec.RestartPolicy != corev1.RestartPolicyNever || *job.Spec.BackoffLimit != 0 {
				t.Errorf("the Job runs %q, restarts %s, %d times", command, spec.RestartPolicy, *job.Spec.BackoffLimit)
			}
		default:
			t.Errorf("%s is not looked at", m)
		}
	}
}
