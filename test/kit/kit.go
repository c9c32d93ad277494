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

// Package kit starts Leat for tests like an installation does: the real programs as processes, a real etcd, TLS
// everywhere, and clients whose rights are those of config/. There are two environments, and most tests run in both:
// Aggregated, behind the API server of a host cluster, and Standalone, "leat up".
package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// Env is a running Leat.
type Env struct {
	// Host is the host cluster. It is nil in standalone mode.
	Host *host.ControlPlane
	// Etcd is the etcd of the server. It is nil in standalone mode, where the server embeds it.
	Etcd *host.Etcd
	// Server is leat-apiserver, or "leat up".
	Server *host.Process
	// ServingCertFile and ServingKeyFile hold the serving certificate of leat-apiserver and of its replicas.
	ServingCertFile, ServingKeyFile string
	// ServingCA issued that certificate. It is nil in standalone mode.
	ServingCA *pki.CA

	dir string
	// url is the address of the API for users: the API server of the host, or the server itself.
	url string
	ca  []byte
	// directURL is the address of the API for workers: the server itself.
	directURL string
	directCA  []byte
	clientCA  *pki.CA
	// args are the arguments of leat-apiserver.
	args []string
}

// Aggregated starts a host cluster and a leat-apiserver behind it, until the test ends. The server has the arguments
// that config/base ships, except for addresses and files. args come after them and win.
func Aggregated(t testing.TB, args ...string) *Env {
	t.Helper()
	return AggregatedOn(t, host.ForTest(t), args...)
}

// AggregatedOn is Aggregated behind a host cluster that runs already.
func AggregatedOn(t testing.TB, cp *host.ControlPlane, args ...string) *Env {
	t.Helper()
	etcd := Must(host.StartEtcd(t.Context(), host.EtcdOptions{Dir: filepath.Join(t.ArtifactDir(), "leat")}))(t)
	t.Cleanup(func() {
		if err := errors.Join(etcd.Err(), etcd.Kill()); err != nil {
			t.Error(err)
		}
	})
	return AggregatedWithEtcd(t, cp, etcd, args...)
}

// AggregatedWithEtcd is AggregatedOn with an etcd that runs already. Its Endpoint may be several addresses, separated
// by commas.
func AggregatedWithEtcd(t testing.TB, cp *host.ControlPlane, etcd *host.Etcd, args ...string) *Env {
	t.Helper()
	e := &Env{Host: cp, Etcd: etcd, dir: filepath.Join(t.ArtifactDir(), "leat"), url: cp.URL, clientCA: cp.ClientCA}
	e.ca = e.HostConfig(t).CAData

	Check(t, cp.InstallLeat(t.Context()))
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

	e.BindClusterRole(t, "", "leat-admins", "leat:admin", GroupSubject(adminGroup)) // as in the installation guide
	e.AwaitGrant(t, adminUser, adminGroup)
	return e
}

// AwaitGrant waits until the host lets a user create tasks in all namespaces. The authorizer of the host sees a new
// binding only after a moment.
func (e *Env) AwaitGrant(t testing.TB, user string, groups ...string) {
	t.Helper()
	reviews := e.HostClient(t).AuthorizationV1().SubjectAccessReviews()
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

// Replica starts another leat-apiserver with the same etcd, until the test ends. It has the arguments of the first, and
// args replaces those with the same names. The aggregator does not use the replica: reach it with Direct and Worker.
func (e *Env) Replica(t testing.TB, args ...string) *Env {
	t.Helper()
	port := Must(host.FreePort())(t)
	replica := *e
	replica.dir = filepath.Join(e.dir, "replica-"+strconv.Itoa(port))
	replica.directURL = fmt.Sprintf("https://127.0.0.1:%d", port)
	replica.start(t, "leat-apiserver", slices.Concat(without(e.args, args), []string{"--secure-port=" + strconv.Itoa(port)}, args))
	return &replica
}

// Standalone starts "leat up" until the test ends. It serves the API only, unless args has --workers.
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

// start starts the server until the test ends.
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

// WaitServed waits until users reach the API and discovery has it. After a restart of the server a host needs a moment
// to notice.
func (e *Env) WaitServed(t testing.TB) {
	t.Helper()
	if e.BehindHost() {
		Check(t, e.Host.WaitLeat(t.Context()))
	}
}

// AtServer returns the same environment for users who connect to the server itself and not to the host.
func (e *Env) AtServer() *Env {
	at := *e
	at.url, at.ca = e.directURL, e.directCA
	return &at
}

const adminUser, adminGroup = "alice", "leat:admins"

// grace is terminationGracePeriodSeconds of the Deployment of leat-apiserver.
const grace = 90 * time.Second

// DataDir returns the data directory of "leat up".
func (e *Env) DataDir() string { return filepath.Join(e.dir, "data") }

// Standalone reports whether there is no host cluster.
func (e *Env) Standalone() bool { return e.Host == nil }

// BehindHost reports whether users reach the API through a host cluster, which serves other kinds too.
func (e *Env) BehindHost() bool { return !e.Standalone() && e.url != e.directURL }

// Namespace returns the name of a namespace for this test only. With a host Namespace creates it, and does not delete
// it.
func (e *Env) Namespace(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-' // "TestA/B_c#01" has characters that a namespace cannot have
	}, strings.ToLower(t.Name()))
	name = strings.Trim(name[max(0, len(name)-50):], "-") + "-" + strconv.FormatInt(int64(os.Getpid()), 36)
	if e.Standalone() {
		return name
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Must(e.HostClient(t).CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}))(t)
	return name
}

// root returns the directory of the repository.
func root(t testing.TB) string {
	t.Helper()
	return Must(host.RepositoryRoot())(t)
}
