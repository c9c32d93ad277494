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

package kit

import (
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit/host"
)

// Admin returns the configuration of a user with the role leat:admin in all namespaces.
func (e *Env) Admin(t testing.TB) *rest.Config { return e.Person(t, adminUser, adminGroup) }

// Person returns the configuration of a user, at the host cluster if there is one.
func (e *Env) Person(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	return e.certificate(t, e.url, e.ca, user, groups...)
}

// Controller returns the configuration of leat-controller-manager, which includes the scheduler.
func (e *Env) Controller(t testing.TB) *rest.Config {
	t.Helper()
	if e.Standalone() {
		return e.Person(t, "system:serviceaccount:leat-system:leat-controller-manager")
	}
	file := Must(e.Host.ServiceAccountKubeconfig("leat-system", "leat-controller-manager"))(t)
	config := Must(clientcmd.BuildConfigFromFlags("", file))(t)
	config.Host, config.CAFile, config.CAData = e.url, "", e.ca
	config.QPS = -1
	return config
}

// Worker returns the configuration of a worker. It connects to the server itself.
func (e *Env) Worker(t testing.TB, namespace, name string) *rest.Config {
	t.Helper()
	return e.certificate(t, e.directURL, e.directCA, "leat:worker:"+namespace+":"+name, "leat:workers")
}

// Direct returns the configuration of a user at the server itself.
func (e *Env) Direct(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	return e.certificate(t, e.directURL, e.directCA, user, groups...)
}

func (e *Env) certificate(t testing.TB, url string, ca []byte, user string, groups ...string) *rest.Config {
	t.Helper()
	cert, key, err := e.clientCA.IssueClient(user, groups...)
	Check(t, err)
	return &rest.Config{Host: url, TLSClientConfig: rest.TLSClientConfig{CAData: ca, CertData: cert, KeyData: key}, QPS: -1}
}

// EtcdClient returns a client of the etcd of the server, until the test ends.
func (e *Env) EtcdClient(t testing.TB) *clientv3.Client {
	t.Helper()
	var client *clientv3.Client
	if e.Standalone() {
		socket := filepath.Join(e.dir, "data", "etcd", "run", "etcd.sock")
		if _, err := os.Stat(socket); err != nil {
			t.Fatalf("the socket of the etcd in leat up: %v: its path may be too long: set a shorter TMPDIR or -outputdir", err)
		}
		client = Must(clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}}))(t)
	} else {
		client = Must(e.Etcd.Client())(t)
	}
	t.Cleanup(func() { Check(t, client.Close()) })
	return client
}

// Client returns a typed client with config.
func Client(t testing.TB, config *rest.Config) versioned.Interface {
	t.Helper()
	return Must(versioned.NewForConfig(config))(t)
}

// Kubeconfig writes a kubeconfig with config and a default namespace, and returns its path.
func (e *Env) Kubeconfig(t testing.TB, config *rest.Config, namespace string) string {
	t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["leat"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos["user"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken}
	file.Contexts["leat"] = &clientcmdapi.Context{Cluster: "leat", AuthInfo: "user", Namespace: namespace}
	file.CurrentContext = "leat"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	Check(t, clientcmd.WriteToFile(*file, path))
	return path
}

// Kubectl runs the real kubectl with a kubeconfig and standard input, and returns its output. If it fails, err contains
// stderr.
func (e *Env) Kubectl(t testing.TB, kubeconfig, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	program := filepath.Join(root(t), "bin", "host", "kubectl")
	return host.RunKubectl(t.Context(), program, kubeconfig, filepath.Join(e.dir, "kubectl-cache"), stdin, args...)
}
