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
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// tokenLifetime is the lifetime of the tokens in kubeconfigs, longer than any test.
const tokenLifetime = 12 * time.Hour

// UserKubeconfig writes a kubeconfig with a client certificate of user, in groups, and returns its path.
func (cp *ControlPlane) UserKubeconfig(user string, groups ...string) (path string, err error) {
	cert, key, err := cp.ClientCA.IssueClient(user, groups...)
	if err != nil {
		return "", err
	}
	return cp.writeKubeconfig(strings.Join(append([]string{user}, groups...), ","),
		&clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
}

// ServiceAccountKubeconfig writes a kubeconfig with a token of an existing service account, valid for 12 hours, and
// returns its path.
func (cp *ControlPlane) ServiceAccountKubeconfig(namespace, name string) (path string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	seconds := int64(tokenLifetime.Seconds())
	token, err := cp.ServiceAccountToken(ctx, namespace, name, authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds})
	if err != nil {
		return "", err
	}
	return cp.writeKubeconfig("system:serviceaccount:"+namespace+":"+name, &clientcmdapi.AuthInfo{Token: token})
}

// ServiceAccountToken returns a new token of an existing service account. Without an audience in spec the token is for
// the host itself.
func (cp *ControlPlane) ServiceAccountToken(
	ctx context.Context, namespace, name string, spec authenticationv1.TokenRequestSpec,
) (string, error) {
	request, err := cp.admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("requesting a token of service account %s/%s: %w", namespace, name, err)
	}
	return request.Status.Token, nil
}

func (cp *ControlPlane) writeKubeconfig(name string, user *clientcmdapi.AuthInfo) (string, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["host"] = &clientcmdapi.Cluster{Server: cp.URL, CertificateAuthorityData: cp.serving.CertPEM()}
	config.AuthInfos["user"] = user
	config.Contexts["host"] = &clientcmdapi.Context{Cluster: "host", AuthInfo: "user"}
	config.CurrentContext = "host"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(cp.dir, "kubeconfigs", url.QueryEscape(name)) // without colons: KUBECONFIG is a list
	return path, pki.WriteFile(path, data)
}

// Kubectl runs the real kubectl, with a discovery cache of this control plane, and returns its output. If it fails, err
// contains stderr.
func (cp *ControlPlane) Kubectl(ctx context.Context, kubeconfig string, args ...string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, cp.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+filepath.Join(cp.dir, "kubectl-cache"))
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), errOut.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), nil
}

// Apply runs "kubectl apply" as the administrator. manifests is a directory with a kustomization, a directory of files, or
// a file.
func (cp *ControlPlane) Apply(ctx context.Context, manifests string) error {
	flag := "--filename"
	if _, err := os.Stat(filepath.Join(manifests, "kustomization.yaml")); err == nil {
		flag = "--kustomize"
	}
	_, _, err := cp.Kubectl(ctx, cp.AdminKubeconfig, "apply", flag, manifests)
	return err
}
