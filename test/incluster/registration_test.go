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
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testRegistration checks when the controller manager creates the APIService, and that it does not create it again
// after the uninstallation.
func testRegistration(t *testing.T, cp *host.ControlPlane) {
	e := kit.AggregatedOn(t, cp)
	config, err := clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig)
	kit.Check(t, err)
	config.QPS = -1
	admin := kubernetes.NewForConfigOrDie(config)
	services := aggregator.NewForConfigOrDie(config).ApiregistrationV1().APIServices()
	server, err := url.Parse(e.Direct(t, "nobody").Host)
	kit.Check(t, err)

	// The state after "kubectl apply", before the first pod of leat-apiserver is ready.
	kit.Check(t, e.Server.Stop())
	kit.Check(t, services.Delete(t.Context(), apiservice.Name, metav1.DeleteOptions{}))
	_, err = admin.CoreV1().Secrets(systemNamespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: apiservice.Secret}, Data: map[string][]byte{"ca.crt": e.ServingCA.CertPEM()},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	// The manager must survive the deletion of its service account at the end, so it renews its lease rarely.
	manager := e.StartManager(t, "one", "--register-service=leat-system/leat-apiserver:"+server.Port(),
		"--leader-elect-lease-duration=10m", "--leader-elect-renew-deadline=9m")
	kit.Eventually(t, "the manager leads", func(ctx context.Context) error {
		lease, err := admin.CoordinationV1().Leases(systemNamespace).Get(ctx, "leat-controller-manager", metav1.GetOptions{})
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "") {
			err = errors.New("the lease has no holder")
		}
		return err
	})

	t.Run("not before the server is ready", func(t *testing.T) {
		createAndDeleteNamespace(t, admin, "before") // an APIService without a server would block it
		if list, err := services.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + apiservice.Name}); err != nil || len(list.Items) > 0 {
			t.Errorf("APIServices without a server: got %v and error %v, want none", list.Items, err)
		}
	})
	t.Run("once the server is ready", func(t *testing.T) {
		kit.Check(t, e.Server.Restart(t.Context()))
		kit.Eventually(t, "the APIService exists", func(ctx context.Context) error {
			_, err := services.Get(ctx, apiservice.Name, metav1.GetOptions{})
			return err
		})
		kit.Check(t, cp.WaitLeat(t.Context()))
		kit.Eventually(t, "the APIService has no annotations of a trial", func(ctx context.Context) error {
			registered, err := services.Get(ctx, apiservice.Name, metav1.GetOptions{})
			if err == nil && len(registered.Annotations) > 0 {
				err = fmt.Errorf("annotations: got %v, want none", registered.Annotations)
			}
			return err
		})
	})
	t.Run("kept while the server is down", func(t *testing.T) {
		before, err := services.Get(t.Context(), apiservice.Name, metav1.GetOptions{})
		kit.Check(t, err)
		kit.Check(t, e.Server.Kill())
		// The controller reverts a change, which shows that it has reconciled the APIService.
		_, err = services.Patch(t.Context(), apiservice.Name, types.MergePatchType, []byte(`{"spec": {"groupPriorityMinimum": 2000}}`), metav1.PatchOptions{})
		kit.Check(t, err)
		kit.Eventually(t, "the change is reverted", func(ctx context.Context) error {
			now, err := services.Get(ctx, apiservice.Name, metav1.GetOptions{})
			if err == nil && (now.UID != before.UID || now.Spec.GroupPriorityMinimum != before.Spec.GroupPriorityMinimum) {
				err = fmt.Errorf("the priority is %d, the UID %s", now.Spec.GroupPriorityMinimum, now.UID)
			}
			return err
		})
		_, _, err = cp.Kubectl(t.Context(), cp.AdminKubeconfig, "get", "--raw", "/apis/batch.leat.dev/v1alpha1/tasks")
		if err == nil || !strings.Contains(err.Error(), "ServiceUnavailable") {
			t.Errorf("kubectl without a server: got error %v, want ServiceUnavailable", err)
		}
		kit.Check(t, e.Server.Restart(t.Context()))
		kit.Check(t, cp.WaitLeat(t.Context()))
	})
	t.Run("not created again after the uninstallation", func(t *testing.T) {
		changes, err := services.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + apiservice.Name})
		kit.Check(t, err)
		defer changes.Stop()
		if event := <-changes.ResultChan(); event.Type != watch.Added {
			t.Fatalf("first event: got %v, want the APIService added", event)
		}
		root, err := host.RepositoryRoot()
		kit.Check(t, err)
		_, _, err = cp.Kubectl(t.Context(), cp.AdminKubeconfig, "delete", "--ignore-not-found", "--timeout=90s", "--kustomize", filepath.Join(root, "config", "base"))
		kit.Check(t, err)
		createAndDeleteNamespace(t, admin, "after")
		kit.Check(t, manager.Err()) // it was running all the time
		kit.Check(t, manager.Stop())
		deleted := false
		for {
			select {
			case event := <-changes.ResultChan():
				if deleted = deleted || event.Type == watch.Deleted; event.Type == watch.Added {
					t.Errorf("the APIService was created again: %v", event.Object)
				}
				continue
			default:
			}
			break
		}
		if !deleted {
			t.Error("the APIService was not deleted")
		}
	})
	// kit.On has created this binding, and does so again for the next test on this host.
	kit.Check(t, admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), "leat-admins", metav1.DeleteOptions{}))
}
