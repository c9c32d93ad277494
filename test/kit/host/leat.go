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

package host

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/leat-dev/leat/pkg/controller/apiservice"
)

// LeatService is the name that the aggregator expects in the serving certificate of a Leat server. The caller of
// RegisterLeat issues that certificate.
const LeatService = "leat-apiserver.leat-system.svc"

// leatVersion is the API that WaitLeat requests.
var leatVersion = schema.GroupVersion{Group: "batch.leat.dev", Version: "v1alpha1"}

const (
	registerTimeout = time.Minute
	// registeredLists is how many LISTs in a row must succeed: several parts of the aggregator notice a server, one after
	// the other.
	registeredLists = 5
)

// InstallLeat applies config/base, whose pods never run because the host has no nodes, and points the Service to this
// machine. It registers no APIService.
func (cp *ControlPlane) InstallLeat(ctx context.Context) error {
	root, err := RepositoryRoot()
	if err != nil {
		return err
	}
	if err := cp.Apply(ctx, filepath.Join(root, "config", "base")); err != nil {
		return err
	}
	name, namespace, _ := strings.Cut(strings.TrimSuffix(LeatService, ".svc"), ".")
	_, err = cp.admin.CoreV1().Services(namespace).Patch(ctx, name, types.JSONPatchType, []byte(
		`[{"op": "replace", "path": "/spec", "value": {"type": "ExternalName", "externalName": "localhost"}}]`), metav1.PatchOptions{})
	return err
}

// RegisterLeat creates an APIService like that of leat-controller-manager. It points to a server on port of 127.0.0.1 that
// has a certificate for LeatService, signed by caBundle (PEM). RegisterLeat returns when the API is served (WaitLeat). Call
// InstallLeat first. RegisterLeat may be called again for another port.
func (cp *ControlPlane) RegisterLeat(ctx context.Context, port int, caBundle []byte) error {
	owner, err := cp.admin.RbacV1().ClusterRoles().Get(ctx, apiservice.Owner, metav1.GetOptions{})
	if err != nil {
		return err
	}
	manifest := fmt.Appendf(nil, `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata:
  name: %[1]s
  labels: {app.kubernetes.io/part-of: leat}
  ownerReferences: [{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: %[2]q, uid: %[3]s}]
spec:
  group: %[4]s
  version: %[5]s
  groupPriorityMinimum: 100
  versionPriority: 15
  service: {namespace: leat-system, name: leat-apiserver, port: %[6]d}
  caBundle: %[7]s
`, apiservice.Name, owner.Name, owner.UID, leatVersion.Group, leatVersion.Version, port, base64.StdEncoding.EncodeToString(caBundle))
	err = cp.admin.RESTClient().Patch(types.ApplyYAMLPatchType).AbsPath("/apis/apiregistration.k8s.io/v1/apiservices", apiservice.Name).
		Param("fieldManager", "leat-test").Param("force", "true").Body(manifest).Do(ctx).Error()
	if err != nil {
		return err
	}
	return cp.WaitLeat(ctx)
}

// WaitLeat waits until the aggregator serves the API: until several LISTs in a row succeed and discovery has the group.
// After a registration or a restart of the server that takes a few seconds. WaitLeat fails after a minute.
func (cp *ControlPlane) WaitLeat(ctx context.Context) error {
	var last error
	inARow := 0
	err := wait.PollUntilContextTimeout(ctx, pollInterval, registerTimeout, true, func(ctx context.Context) (bool, error) {
		inARow++
		if last = cp.leatServes(ctx); last != nil {
			inARow = 0
		}
		return inARow == registeredLists, nil
	})
	if err != nil {
		return fmt.Errorf("waiting until %s is served through the aggregator: %w; the last attempt said: %v", leatVersion, err, last)
	}
	return nil
}

func (cp *ControlPlane) leatServes(ctx context.Context) error {
	if err := cp.admin.RESTClient().Get().AbsPath("/apis", leatVersion.Group, leatVersion.Version, "tasks").
		Param("limit", "1").Do(ctx).Error(); err != nil {
		return err
	}
	_, resources, _, err := cp.admin.GroupsAndMaybeResources()
	if err != nil {
		return err
	}
	if resources[leatVersion] == nil {
		return fmt.Errorf("discovery does not name %s yet", leatVersion)
	}
	return nil
}
