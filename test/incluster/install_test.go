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
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/certificates"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const systemNamespace = "leat-system"

// admission lets the host create pods of critical priority classes only in namespaces with a quota for them, as GKE
// does.
const admission = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes:
      - {scopeName: PriorityClass, operator: In, values: [system-node-critical, system-cluster-critical]}
`

// TestInstall applies, checks and deletes the manifests of config/, with all controllers of the host.
func TestInstall(t *testing.T) {
	t.Parallel()
	dir := t.ArtifactDir()
	file := filepath.Join(dir, "admission.yaml")
	kit.Check(t, os.WriteFile(file, []byte(admission), 0o600))
	cp, err := host.Start(t.Context(), host.Options{
		Dir: dir, APIServerArgs: []string{"--admission-control-config-file=" + file}, ControllerManagerArgs: []string{"--controllers=*"},
	})
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, cp.Stop()) })
	root, err := host.RepositoryRoot()
	kit.Check(t, err)
	all := filepath.Join(root, "config", "default")
	config, err := clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig)
	kit.Check(t, err)
	config.QPS = -1
	admin := kubernetes.NewForConfigOrDie(config)

	t.Run("strict validation and Pod Security have no warnings", func(t *testing.T) {
		_, stderr, err := cp.Kubectl(t.Context(), cp.AdminKubeconfig, "apply", "--validate=strict", "--kustomize", all)
		kit.Check(t, err)
		if stderr != "" {
			t.Errorf("warnings of kubectl apply: got %s, want none", stderr)
		}
	})
	t.Run("pods of critical priority are created", func(t *testing.T) {
		for _, component := range []string{"apiserver", "controller-manager", "etcd"} {
			kit.Eventually(t, "there is a pod of "+component, func(ctx context.Context) error {
				pods, err := admin.CoreV1().Pods(systemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
				if err == nil && len(pods.Items) == 0 {
					err = errors.New("there is no pod")
				}
				return err
			})
		}
	})
	t.Run("namespaces can be deleted before a server runs", func(t *testing.T) { createAndDeleteNamespace(t, admin, "bystander") })
	t.Run("certificates are issued by the installed service account", func(t *testing.T) {
		issue(t, cp)
		certificatesIssued(t, admin)
		// Applying the manifests again does not change them.
		before := secrets(t, admin)
		kit.Check(t, cp.Apply(t.Context(), all))
		for name, data := range secrets(t, admin) {
			if string(data["tls.crt"]) != string(before[name]["tls.crt"]) {
				t.Errorf("Secret %s changed when the manifests were applied again", name)
			}
		}

		// A lost certificate is issued again.
		secret, err := admin.CoreV1().Secrets(systemNamespace).Get(t.Context(), certificates.EtcdSecret, metav1.GetOptions{})
		kit.Check(t, err)
		delete(secret.Data, "tls.crt")
		_, err = admin.CoreV1().Secrets(systemNamespace).Update(t.Context(), secret, metav1.UpdateOptions{})
		kit.Check(t, err)
		certificatesIssued(t, admin)
	})
	release := writeRelease(t, root)
	t.Run("install.yaml of a release is accepted, and has the same objects", func(t *testing.T) {
		stdout, stderr, err := cp.Kubectl(t.Context(), cp.AdminKubeconfig, "apply", "--dry-run=server", "--validate=strict", "--filename", filepath.Join(release, "install.yaml"))
		kit.Check(t, err)
		if stderr != "" {
			t.Errorf("warnings of kubectl apply: got %s, want none", stderr)
		}
		for line := range strings.Lines(stdout) {
			if strings.Contains(line, " created (") {
				t.Errorf("kubectl apply: got %q, want no object that config/default has not", line)
			}
		}
	})
	t.Run("kubectl delete removes everything", func(t *testing.T) {
		_, _, err := cp.Kubectl(t.Context(), cp.AdminKubeconfig, "delete", "--ignore-not-found", "--timeout=90s", "--kustomize", all)
		kit.Check(t, err)
		_, err = admin.CoreV1().Namespaces().Get(t.Context(), systemNamespace, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("get the namespace: got error %v, want not found", err)
		}
	})
	t.Run("Chart", func(t *testing.T) { testChart(t, cp, admin, filepath.Join(release, "leat-"+releaseVersion+".tgz")) })
	t.Run("Registration", func(t *testing.T) { testRegistration(t, cp) })
	t.Run("Uninstall", func(t *testing.T) { testUninstall(t, kit.AggregatedOn(t, cp)) })
}

// issue runs the certificate controller with the service account of the controller manager until the test ends.
func issue(t *testing.T, cp *host.ControlPlane) {
	t.Helper()
	path, err := cp.ServiceAccountKubeconfig(systemNamespace, "leat-controller-manager")
	kit.Check(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", path)
	kit.Check(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- certificates.Run(ctx, config, systemNamespace) }()
	t.Cleanup(func() {
		stop()
		kit.Check(t, <-ended)
	})
}

// certificatesIssued waits until all certificates exist and are valid for their use.
func certificatesIssued(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	kit.Eventually(t, "all certificates are issued", func(context.Context) error {
		all := secrets(t, admin)
		server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
		return errors.Join(
			checkCertificate(all[certificates.ServerSecret], "leat-apiserver.leat-system.svc", server),
			checkCertificate(all[certificates.EtcdSecret], "leat-etcd.leat-system.svc", server, client),
			checkCertificate(all[certificates.EtcdSecret], "leat-etcd-2.leat-etcd.leat-system.svc", server, client),
			checkCertificate(all[certificates.WorkerClientSecret], batch.WorkerClientName, client),
		)
	})
}

// createAndDeleteNamespace creates a namespace, deletes it, and waits until it is gone.
func createAndDeleteNamespace(t *testing.T, admin kubernetes.Interface, name string) {
	t.Helper()
	namespaces := admin.CoreV1().Namespaces()
	_, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Check(t, namespaces.Delete(t.Context(), name, metav1.DeleteOptions{}))
	kit.Eventually(t, "namespace "+name+" is deleted", func(ctx context.Context) error {
		namespace, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the namespace exists: %v, %w", namespace.Status.Conditions, err)
	})
}

func secrets(t *testing.T, admin kubernetes.Interface) map[string]map[string][]byte {
	t.Helper()
	list, err := admin.CoreV1().Secrets(systemNamespace).List(t.Context(), metav1.ListOptions{})
	kit.Check(t, err)
	data := map[string]map[string][]byte{}
	for _, secret := range list.Items {
		data[secret.Name] = secret.Data
	}
	return data
}

// checkCertificate returns an error unless a Secret has a certificate of that name for those usages.
func checkCertificate(data map[string][]byte, name string, usages ...x509.ExtKeyUsage) error {
	pair, err := tls.X509KeyPair(data["tls.crt"], data["tls.key"])
	if err != nil {
		return fmt.Errorf("certificate for %s: %w", name, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data["ca.crt"])
	for _, usage := range usages {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return fmt.Errorf("certificate for %s: %w", name, err)
		}
	}
	if left := time.Until(pair.Leaf.NotAfter); left < 300*24*time.Hour {
		return fmt.Errorf("certificate for %s expires in %s, want at least 300 days", name, left)
	}
	return nil
}

// testUninstall checks that kubectl delete of config/base leaves nothing behind, even if the server has stopped before:
// no object waits for another that was deleted before it.
func testUninstall(t *testing.T, e *kit.Env) {
	ctx := t.Context()
	client := e.HostClient(t)
	namespace := e.Namespace(t)
	kit.Must(kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace).Create(ctx, kit.NewTask("task"), metav1.CreateOptions{}))(t)
	kit.Check(t, e.Server.Stop())
	deleteNamespace(t, e, namespace)

	base := filepath.Join(kit.Must(host.RepositoryRoot())(t), "config", "base")
	_, _, err := e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "delete", "--kustomize", base, "--timeout=60s")
	kit.Check(t, err)
	for _, name := range []string{"leat-system", namespace} {
		kit.Eventually(t, "namespace "+name+" is deleted", func(ctx context.Context) error { return namespaceGone(ctx, client, name) })
	}
	left, _, err := e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "get", "--all-namespaces", "--selector=app.kubernetes.io/part-of=leat",
		"--output=name", "apiservices,clusterroles,clusterrolebindings,roles,rolebindings,services,serviceaccounts,namespaces")
	kit.Check(t, err)
	if left != "" {
		t.Errorf("objects left behind: got %s, want none", left)
	}
	list := kit.Must(client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}))(t)
	for _, namespace := range list.Items {
		if namespace.Status.Phase == corev1.NamespaceTerminating {
			t.Errorf("namespace %s is still terminating", namespace.Name)
		}
	}
}
