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

package live

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// archiveVolume is the volume of the archive, if there is a directory for volumes.
const archiveVolume = "archive"

// archiveClaim is the claim for it.
const archiveClaim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: leat-archive, namespace: leat-system}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: leat-e2e-archive
  resources: {requests: {storage: 1Gi}}
`

// archivePatch makes both replicas of leat-apiserver use it, as docs/how-to/keep-output.md describes.
const archivePatch = `- target: {kind: Deployment, name: leat-apiserver}
  patch: |
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: "--archive=file:///var/lib/leat/archive"}
    - {op: add, path: /spec/template/spec/containers/0/volumeMounts/-, value: {name: archive, mountPath: /var/lib/leat/archive}}
    - {op: add, path: /spec/template/spec/volumes/-, value: {name: archive, persistentVolumeClaim: {claimName: leat-archive}}}
`

const deployments = "deployment/leat-apiserver deployment/leat-controller-manager statefulset/leat-etcd"

// manifests writes a kustomization of config/ for this cluster and returns its directory. A change of mark, an
// annotation of the pods, restarts them.
func (c *installation) manifests(t testing.TB, mark string) string {
	t.Helper()
	dir := t.TempDir()
	config := kit.Must(filepath.Rel(dir, filepath.Join(c.root, "config")))(t)
	var k bytes.Buffer
	fmt.Fprintf(&k, "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- %s/default\n", config)
	if c.volumes != "" {
		kit.Check(t, os.WriteFile(filepath.Join(dir, "archive.yaml"), []byte(archiveClaim), 0o600))
		k.WriteString("- archive.yaml\n")
	}
	k.WriteString("components:\n")
	fmt.Fprintf(&k, "- %s/components/%s\n", config, c.metricsComponent(t))
	if !c.hasStorage(t) {
		t.Log("no default StorageClass and no LEAT_VOLUMES: etcd keeps its data in its pod, and the backup is not tested")
		fmt.Fprintf(&k, "- %s/components/etcd-ephemeral\n", config)
	}
	fmt.Fprintf(&k, "images:\n%s", image("leat", c.image))
	if c.etcdImage != "" {
		k.WriteString(image("gcr.io/etcd-development/etcd", c.etcdImage))
	}
	fmt.Fprintf(&k, `patches:
- target: {kind: Deployment}
  patch: |
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: every}
    spec: {template: {metadata: {annotations: {leat-e2e: %s}}}}
`, mark)
	if c.volumes != "" {
		k.WriteString(archivePatch)
	}
	kit.Check(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), k.Bytes(), 0o600))
	return dir
}

// image returns an entry of the list images in a kustomization.
func image(name, by string) string {
	at := strings.LastIndex(by, ":")
	if at < strings.LastIndex(by, "/") {
		at = -1
	}
	if at < 0 {
		return fmt.Sprintf("- {name: %s, newName: %s, newTag: latest}\n", name, by)
	}
	return fmt.Sprintf("- {name: %s, newName: %s, newTag: %q}\n", name, by[:at], by[at+1:])
}

// hasStorage reports whether the cluster can bind claims for volumes.
func (c *installation) hasStorage(t testing.TB) bool {
	t.Helper()
	if c.volumes != "" {
		return true
	}
	for _, class := range kit.Must(c.admin.StorageV1().StorageClasses().List(t.Context(), metav1.ListOptions{}))(t).Items {
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			return true
		}
	}
	return false
}

// metricsComponent returns the component for the Prometheus operator, if the cluster has it, or the one without.
func (c *installation) metricsComponent(t testing.TB) string {
	t.Helper()
	if _, err := c.admin.Discovery().ServerResourcesForGroupVersion("monitoring.coreos.com/v1"); err != nil {
		return "metrics"
	}
	return "monitoring"
}

// testInstall: one command installs Leat.
func (c *installation) testInstall(t *testing.T, manifests string) {
	c.run(t, "apply", "--kustomize="+manifests)
	c.ready(t)
}

// ready waits until the API is served and all rollouts are complete.
func (c *installation) ready(t testing.TB) {
	t.Helper()
	for _, name := range strings.Fields(deployments) {
		c.run(t, "rollout", "status", name, "--namespace="+system, "--timeout="+patience.String())
	}
	// A controller manager is ready before it has registered the API.
	c.run(t, "wait", "apiservice/"+apiService, "--for=condition=Available", "--timeout="+patience.String())
}

// testUpgrade: changed manifests restart the pods. All objects stay, and a running set completes.
func (c *installation) testUpgrade(t *testing.T, pool string) {
	sets, tasks := c.client(t).BatchV1alpha1().TaskSets(pool), c.client(t).BatchV1alpha1().Tasks(pool)
	kit.Must(sets.Create(t.Context(), newSet("over-the-upgrade", 200), metav1.CreateOptions{}))(t)
	kept := kit.Must(tasks.Create(t.Context(), &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"},
		Spec:       v1alpha1.TaskSpec{Command: []string{"true"}},
	}, metav1.CreateOptions{}))(t)
	c.run(t, "apply", "--kustomize="+c.manifests(t, "second"))
	c.ready(t)
	if now := kit.Must(tasks.Get(t.Context(), "kept", metav1.GetOptions{}))(t); now.UID != kept.UID {
		t.Errorf("after the upgrade: got UID %s of the task, want %s", now.UID, kept.UID)
	}
	c.complete(t, pool, "over-the-upgrade", 200)
}

// testUninstall: one command uninstalls Leat, even though namespaces contain our objects and workers. Nothing remains.
func (c *installation) testUninstall(t *testing.T, manifests string) {
	c.run(t, "delete", "--kustomize="+manifests, "--timeout="+patience.String())
	left := c.run(t, "get", "namespaces", "--output=jsonpath={range .items[?(@.status.phase=='Terminating')]}{.metadata.name} {end}")
	if strings.Contains(left, system) {
		t.Errorf("got namespaces %sin phase Terminating, want none of Leat", left)
	}
	for _, kind := range []string{"apiservice", "clusterrole", "clusterrolebinding", "flowschema"} {
		if left := c.run(t, "get", kind, "--selector=app.kubernetes.io/part-of=leat", "--output=name"); left != "" {
			t.Errorf("after the uninstallation: got %s, want nothing", left)
		}
	}
	if left := c.run(t, "get", "rolebindings", "--namespace=kube-system", "--selector=app.kubernetes.io/part-of=leat", "--output=name"); left != "" {
		t.Errorf("after the uninstallation: got %s, want nothing", left)
	}
	// The deletion of namespaces works as before.
	name := c.namespace(t, "after")
	kit.Check(t, c.admin.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}))
	kit.Eventually(t, "a namespace is deleted without Leat", func(ctx context.Context) error {
		_, err := c.admin.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		return kit.Gone(err)
	})
}

// uninstall deletes what a failed test leaves.
func (c *installation) uninstall(t testing.TB, manifests string) {
	if _, err := c.kubectl(context.WithoutCancel(t.Context()), "delete", "--kustomize="+manifests, "--ignore-not-found", "--timeout="+patience.String()); err != nil {
		t.Error(err)
	}
}
