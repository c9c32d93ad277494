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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// releaseVersion is the version whose image config/default names, so that a release installs the same.
const releaseVersion = "v0.1.0"

// writeRelease writes install.yaml and the chart of a release, and returns their directory.
func writeRelease(t *testing.T, root string) string {
	t.Helper()
	dist := filepath.Join(t.TempDir(), "dist")
	command := exec.CommandContext(t.Context(), "go", "run", ".", "--manifests-only", "--version="+releaseVersion, "--dist="+dist)
	command.Dir = filepath.Join(root, "hack", "release")
	command.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("hack/release: %v: %s", err, out)
	}
	return dist
}

// testChart checks that Helm installs, upgrades and uninstalls the chart of a release, and which objects stay.
func testChart(t *testing.T, cp *host.ControlPlane, admin kubernetes.Interface, chart string) {
	helm := func(t *testing.T, args ...string) string {
		t.Helper()
		return kit.Must(runAt(t, t.TempDir(), cp.AdminKubeconfig, "helm", append(args, "--namespace="+systemNamespace)...))(t)
	}
	config := kit.Must(clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig))(t)
	services := aggregator.NewForConfigOrDie(config).ApiregistrationV1().APIServices()

	t.Run("install", func(t *testing.T) {
		output := helm(t, "install", "leat", chart, "--create-namespace")
		if !strings.Contains(output, "kubectl wait apiservice/v1alpha1.batch.leat.dev --for=condition=Available") {
			t.Errorf("the notes have no next command: %s", output)
		}
		for _, name := range []string{"leat-apiserver", "leat-controller-manager"} {
			kit.Eventually(t, "there are pods of "+name, func(ctx context.Context) error {
				deployment, err := admin.AppsV1().Deployments(systemNamespace).Get(ctx, name, metav1.GetOptions{})
				if err == nil && deployment.Status.Replicas != 2 {
					err = errors.New("the Deployment has not two pods")
				}
				return err
			})
		}
	})
	t.Run("an upgrade keeps the certificates", func(t *testing.T) {
		// As leat-controller-manager writes them.
		for name := range secrets(t, admin) {
			if strings.HasPrefix(name, "leat-") {
				kit.Must(admin.CoreV1().Secrets(systemNamespace).Patch(t.Context(), name, types.MergePatchType,
					[]byte(`{"stringData": {"tls.crt": "certificate"}}`), metav1.PatchOptions{FieldManager: "leat-controller-manager"}))(t)
			}
		}
		helm(t, "upgrade", "leat", chart, "--set=apiserver.replicas=3")
		for name, data := range secrets(t, admin) {
			if strings.HasPrefix(name, "leat-") && string(data["tls.crt"]) != "certificate" {
				t.Errorf("data of Secret %s after the upgrade: got %q, want the certificate", name, data)
			}
		}
		deployment := kit.Must(admin.AppsV1().Deployments(systemNamespace).Get(t.Context(), "leat-apiserver", metav1.GetOptions{}))(t)
		if *deployment.Spec.Replicas != 3 {
			t.Errorf("replicas after the upgrade: got %d, want 3", *deployment.Spec.Replicas)
		}
	})
	t.Run("uninstall", func(t *testing.T) {
		// As leat-controller-manager registers it: the ClusterRole owns it.
		role := kit.Must(admin.RbacV1().ClusterRoles().Get(t.Context(), "leat:apiservice", metav1.GetOptions{}))(t)
		port := int32(443)
		kit.Must(services.Create(t.Context(), &apiregistration.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: apiservice.Name, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: role.Name, UID: role.UID},
			}},
			Spec: apiregistration.APIServiceSpec{
				Group: batch.GroupName, Version: "v1alpha1", GroupPriorityMinimum: 1000, VersionPriority: 15, InsecureSkipTLSVerify: true,
				Service: &apiregistration.ServiceReference{Namespace: systemNamespace, Name: "leat-apiserver", Port: &port},
			},
		}, metav1.CreateOptions{}))(t)
		helm(t, "uninstall", "leat", "--wait", "--timeout=120s")
		kit.Eventually(t, "the APIService is deleted", func(ctx context.Context) error {
			_, err := services.Get(ctx, apiservice.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(err, errors.New("it exists"))
		})
		left, _, err := cp.Kubectl(t.Context(), cp.AdminKubeconfig, "get", "--all-namespaces", "--output=name", "--selector=app.kubernetes.io/part-of=leat",
			"deployments,statefulsets,cronjobs,clusterroles,clusterrolebindings,roles,rolebindings,services,serviceaccounts,secrets,configmaps,networkpolicies,resourcequotas,flowschemas")
		kit.Check(t, err)
		if left != "" {
			t.Errorf("objects left behind: got %s, want none", left)
		}
		// docs/how-to/install.md says so.
		var claims []string
		for _, claim := range kit.Must(admin.CoreV1().PersistentVolumeClaims(systemNamespace).List(t.Context(), metav1.ListOptions{}))(t).Items {
			claims = append(claims, claim.Name)
		}
		slices.Sort(claims)
		if want := []string{"data-leat-etcd-0", "leat-etcd-backup"}; !slices.Equal(claims, want) {
			t.Errorf("claims of volumes after the uninstallation: got %q, want %q", claims, want)
		}
		kit.Check(t, admin.CoreV1().Namespaces().Delete(t.Context(), systemNamespace, metav1.DeleteOptions{}))
		kit.Eventually(t, "the namespace is deleted", func(ctx context.Context) error { return namespaceGone(ctx, admin, systemNamespace) })
	})
}
