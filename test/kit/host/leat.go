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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// LeatService is the name that the aggregator expects in the certificate of a
// Leat server: the caller of RegisterLeat issues it.
const LeatService = "leat-apiserver.leat-system.svc"

// leatVersion is the API whose answers tell that a registration has taken effect.
var leatVersion = schema.GroupVersion{Group: "batch.leat.dev", Version: "v1alpha1"}

const (
	registerTimeout = time.Minute
	// registeredLists is how many LISTs in a row must succeed: the aggregator
	// learns of a server in several places, one after the other.
	registeredLists = 5
)

// RegisterLeat installs config/base but for its workloads, and an APIService as leat-controller-manager creates it that
// leads to a server which listens on port of 127.0.0.1 with a certificate for LeatService signed by caBundle (PEM). It
// returns once the aggregator serves the group steadily: when several LISTs in a row have succeeded and discovery names
// it (WaitLeat). It may be called again, for another port.
func (cp *ControlPlane) RegisterLeat(ctx context.Context, port int, caBundle []byte) error {
	if err := cp.InstallLeat(ctx); err != nil {
		return err
	}
	registration, err := cp.writeRegistration(ctx, port, caBundle)
	if err != nil {
		return err
	}
	if err := cp.Apply(ctx, registration); err != nil {
		return err
	}
	return cp.WaitLeat(ctx)
}

// InstallLeat installs config/base but for its workloads, with a Service that leads to this machine. Nothing is
// registered.
func (cp *ControlPlane) InstallLeat(ctx context.Context) error {
	overlay, err := cp.writeOverlay()
	if err != nil {
		return err
	}
	return cp.Apply(ctx, overlay)
}

// WaitLeat returns once the aggregator serves the group steadily: after RegisterLeat,
// or after a restart of the server. That takes a few seconds; after a minute it
// gives up.
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

// writeOverlay makes a kustomization over config/base and returns its directory.
func (cp *ControlPlane) writeOverlay() (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(cp.dir) // the path to the base is relative to the real one
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "leat-overlay")
	base, err := filepath.Rel(dir, filepath.Join(root, "config", "base"))
	if err != nil {
		return "", err
	}
	return dir, pki.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `
resources: [%q]
patches:
# The programs run as processes of the test: the host has no nodes.
- target: {kind: Deployment}
  patch: |
    {apiVersion: apps/v1, kind: Deployment, metadata: {name: any}, $patch: delete}
- target: {kind: PodDisruptionBudget}
  patch: |
    {apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: any}, $patch: delete}
- target: {kind: Service, name: leat-apiserver}
  patch: |
    - {op: replace, path: /spec, value: {type: ExternalName, externalName: localhost}}
`, base))
}

// writeRegistration writes the APIService to a file and returns its path.
func (cp *ControlPlane) writeRegistration(ctx context.Context, port int, caBundle []byte) (string, error) {
	owner, err := cp.admin.RbacV1().ClusterRoles().Get(ctx, apiservice.Owner, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	file := filepath.Join(cp.dir, "apiservice.yaml")
	return file, pki.WriteFile(file, fmt.Appendf(nil, `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata:
  name: %s
  labels: {app.kubernetes.io/part-of: leat}
  ownerReferences: [{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: %q, uid: %s}]
spec:
  group: %s
  version: %s
  groupPriorityMinimum: 100
  versionPriority: 15
  service: {namespace: leat-system, name: leat-apiserver, port: %d}
  caBundle: %s
`, apiservice.Name, owner.Name, owner.UID, leatVersion.Group, leatVersion.Version, port, base64.StdEncoding.EncodeToString(caBundle)))
}
