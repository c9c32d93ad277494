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

// Package env starts Leat for tests as people start it: the real programs as processes, on a real etcd, reached only over TLS
// and by identities with the rights that config/ ships. There are two environments, and most tests run in both.
package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// Env is a running Leat.
type Env struct {
	// Host is the host cluster, nil standalone.
	Host *host.ControlPlane
	// Etcd is the server's own etcd, nil standalone, where it is part of the server.
	Etcd *host.Etcd
	// Server is leat-apiserver, or "leat up".
	Server *host.Process
	// ServingCertFile and ServingKeyFile are what leat-apiserver serves with, all replicas alike.
	ServingCertFile, ServingKeyFile string
	// ServingCA has issued that certificate. It is nil standalone.
	ServingCA *pki.CA

	dir string
	// url is where people reach the API: the host's API server, or the server itself.
	url string
	ca  []byte
	// directURL is where workers reach the API: the server itself.
	directURL string
	directCA  []byte
	clientCA  *pki.CA
	// args are those of leat-apiserver.
	args []string
}

// Aggregated starts a host cluster with leat-apiserver behind it, for one test.
func Aggregated(t testing.TB, args ...string) *Env {
	t.Helper()
	return On(t, host.ForTest(t), args...)
}

// On starts leat-apiserver behind a host cluster that is there, for one test: as config/base starts it, but for addresses and files.
// The arguments come after those, and win over them.
func On(t testing.TB, cp *host.ControlPlane, args ...string) *Env {
	t.Helper()
	etcd := Must(host.StartEtcd(t.Context(), host.EtcdOptions{Dir: filepath.Join(t.ArtifactDir(), "leat")}))(t)
	t.Cleanup(func() {
		if err := errors.Join(etcd.Err(), etcd.Kill()); err != nil {
			t.Error(err)
		}
	})
	return Over(t, cp, etcd, args...)
}

// Over is On over an etcd of the caller's. Its Endpoint may be several addresses, with commas between them.
func Over(t testing.TB, cp *host.ControlPlane, etcd *host.Etcd, args ...string) *Env {
	t.Helper()
	e := &Env{Host: cp, Etcd: etcd, dir: filepath.Join(t.ArtifactDir(), "leat"), url: cp.URL, clientCA: cp.ClientCA}
	admin := Must(clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig))(t)
	e.ca = admin.CAData

	Check(t, cp.Apply(t.Context(), filepath.Join(root(t), "config", "base")))
	account := Must(cp.ServiceAccountKubeconfig("leat-system", "leat-apiserver"))(t)
	serving := Must(pki.NewCA("leat-serving"))(t)
	cert, key, err := serving.IssueServer(host.LeatService, "127.0.0.1", "localhost")
	Check(t, err)
	e.ServingCA, e.directCA = serving, serving.CertPEM()
	e.ServingCertFile, e.ServingKeyFile = filepath.Join(e.dir, "serving.crt"), filepath.Join(e.dir, "serving.key")
	Check(t, pki.WriteFile(e.ServingCertFile, cert))
	Check(t, pki.WriteFile(e.ServingKeyFile, key))
	port := Must(host.FreePort())(t)
	e.directURL = fmt.Sprintf("https://127.0.0.1:%d", port)

	workerCert, workerKey := e.workerClient(t)
	e.args = append(shipped(t, "apiserver.yaml",
		"--kubeconfig="+account, "--authentication-kubeconfig="+account, "--authorization-kubeconfig="+account,
		"--etcd-servers="+etcd.Endpoint, "--etcd-cafile="+etcd.CAFile, "--etcd-certfile="+etcd.CertFile, "--etcd-keyfile="+etcd.KeyFile,
		"--tls-cert-file="+e.ServingCertFile, "--tls-private-key-file="+e.ServingKeyFile,
		"--worker-client-certificate="+workerCert, "--worker-client-key="+workerKey,
		"--audit-policy-file="+e.auditPolicy(t),
		"--secure-port="+strconv.Itoa(port), "--bind-address=127.0.0.1", "--v=2",
	), args...)
	e.start(t, "leat-apiserver", e.args)
	Check(t, cp.RegisterLeat(t.Context(), port, serving.CertPEM()))

	// People who run Leat are those whom its role is bound to, as the installation guide has it.
	client := kubernetes.NewForConfigOrDie(admin)
	_, err = client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "leat-admins"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: adminGroup}},
	}, metav1.CreateOptions{})
	Check(t, err)
	e.AwaitGrant(t, adminUser, adminGroup)
	return e
}

// AwaitGrant waits until the host knows that a person may create tasks anywhere: it hears of bindings by a watch.
func (e *Env) AwaitGrant(t testing.TB, user string, groups ...string) {
	t.Helper()
	admin := Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	reviews := kubernetes.NewForConfigOrDie(admin).AuthorizationV1().SubjectAccessReviews()
	Check(t, await.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		review, err := reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: groups,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "create", Group: batch.GroupName, Resource: "tasks"},
		}}, metav1.CreateOptions{})
		if err == nil && !review.Status.Allowed {
			err = await.ErrNotYet
		}
		return err
	}))
}

// Replica starts one more leat-apiserver over the same etcd, for one test. The host's aggregator does not know of it: it is
// reached through Direct and Worker. The arguments take the place of those of the first of the same names.
func (e *Env) Replica(t testing.TB, args ...string) *Env {
	t.Helper()
	port := Must(host.FreePort())(t)
	replica := *e
	replica.dir = filepath.Join(e.dir, "replica-"+strconv.Itoa(port))
	replica.directURL = fmt.Sprintf("https://127.0.0.1:%d", port)
	replica.start(t, "leat-apiserver", slices.Concat(without(e.args, args), []string{"--secure-port=" + strconv.Itoa(port)}, args))
	return &replica
}

// Standalone starts "leat up" for one test: the API only, unless the arguments ask for a number of workers.
func Standalone(t testing.TB, args ...string) *Env {
	t.Helper()
	port := Must(host.FreePort())(t)
	e := &Env{dir: t.ArtifactDir(), url: fmt.Sprintf("https://127.0.0.1:%d", port)}
	e.directURL = e.url
	data := e.DataDir()
	ca := Must(pki.NewCA("leat"))(t)
	Check(t, pki.WriteFile(filepath.Join(data, "pki", "ca.crt"), ca.CertPEM()))
	Check(t, pki.WriteFile(filepath.Join(data, "pki", "ca.key"), ca.KeyPEM()))
	e.clientCA, e.ca, e.directCA = ca, ca.CertPEM(), ca.CertPEM()
	all := []string{"up", "--data-dir=" + data, "--secure-port=" + strconv.Itoa(port)}
	if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--workers=") }) {
		all = append(all, "--api-only")
	}
	e.start(t, "leat", append(all, args...))
	return e
}

// start runs one of our programs until the test ends.
func (e *Env) start(t testing.TB, name string, args []string) {
	t.Helper()
	ready := Must(kubernetes.NewForConfig(&rest.Config{Host: e.directURL, TLSClientConfig: rest.TLSClientConfig{CAData: e.directCA}}))(t)
	oracles := host.Oracles
	if e.Host != nil {
		oracles = e.Host.Oracles()
	}
	var err error
	e.Server, err = host.StartProcess(t.Context(), host.Command{
		Name: name, Path: Program(t, name), Args: args, Env: oracles, Dir: e.dir,
		Ready: func(ctx context.Context) error {
			return ready.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		},
		Grace: grace,
	})
	Check(t, err)
	t.Cleanup(func() {
		if err := e.Server.Err(); err != nil {
			t.Error(err)
		}
		Check(t, e.Server.Kill())
	})
}

// WaitServed waits until people reach the API and discovery names it: a host notices some time after a restart that the server is back.
func (e *Env) WaitServed(t testing.TB) {
	t.Helper()
	if e.BehindHost() {
		Check(t, e.Host.WaitLeat(t.Context()))
	}
}

// AtServer is the same installation to those who go past the host, to the server itself.
func (e *Env) AtServer() *Env {
	at := *e
	at.url, at.ca = e.directURL, e.directCA
	return &at
}

const adminUser, adminGroup = "alice", "leat:admins"

// grace is how long a cluster lets our server end by itself: terminationGracePeriodSeconds of its Deployment.
const grace = 90 * time.Second

// DataDir is the data directory of "leat up".
func (e *Env) DataDir() string { return filepath.Join(e.dir, "data") }

// Standalone tells whether there is no host cluster.
func (e *Env) Standalone() bool { return e.Host == nil }

// BehindHost tells whether people reach the API through a host cluster, which serves them other kinds, too.
func (e *Env) BehindHost() bool { return !e.Standalone() && e.url != e.directURL }

// Admin is a person who runs Leat: role leat:admin, in all namespaces.
func (e *Env) Admin(t testing.TB) *rest.Config { return e.Person(t, adminUser, adminGroup) }

// Person is whoever the test says, with the rights that the groups give.
func (e *Env) Person(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	return e.certificate(t, e.url, e.ca, user, groups...)
}

// Controller is the controller manager, scheduler included.
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

// Worker is the worker of that name, which reaches the server directly.
func (e *Env) Worker(t testing.TB, namespace, name string) *rest.Config {
	t.Helper()
	return e.certificate(t, e.directURL, e.directCA, "leat:worker:"+namespace+":"+name, "leat:workers")
}

// Direct gives the same identity at the server itself, past the host.
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

// EtcdClient connects to the server's own etcd, past the server: for what a test compares with, not for what it is about.
func (e *Env) EtcdClient(t testing.TB) *clientv3.Client {
	t.Helper()
	var client *clientv3.Client
	if e.Standalone() {
		socket := filepath.Join(e.dir, "data", "etcd", "run", "etcd.sock")
		if _, err := os.Stat(socket); err != nil {
			t.Fatalf("the etcd inside leat up: %v: its path may be too long for a socket: give a shorter TMPDIR or -outputdir", err)
		}
		client = Must(clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}}))(t)
	} else {
		client = Must(e.Etcd.Client())(t)
	}
	t.Cleanup(func() { Check(t, client.Close()) })
	return client
}

// Client gives the typed client of an identity.
func Client(t testing.TB, config *rest.Config) versioned.Interface {
	t.Helper()
	return Must(versioned.NewForConfig(config))(t)
}

// Namespace gives a namespace of the test's own. On a host it is a real one, and its name is free again some time after the test.
func (e *Env) Namespace(t testing.TB) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	name = strings.Trim(name[max(0, len(name)-50):], "-") + "-" + strconv.FormatInt(int64(os.Getpid()), 36)
	if e.Standalone() {
		return name
	}
	client := kubernetes.NewForConfigOrDie(Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t))
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	Check(t, err)
	return name
}

// Kubeconfig writes a kubeconfig of that identity, with the namespace as its default, and gives its path.
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

// Kubectl runs the real kubectl with that kubeconfig and standard input, and gives what it printed. The error, if it failed,
// holds its standard error.
func (e *Env) Kubectl(t testing.TB, kubeconfig, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(root(t), "bin", "host", "kubectl"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+filepath.Join(e.dir, "kubectl-cache"))
	command.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	if err = command.Run(); err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), errOut.String(), err
}

func root(t testing.TB) string {
	t.Helper()
	return Must(host.RepositoryRoot())(t)
}
