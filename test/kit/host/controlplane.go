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
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// frontProxy is the only name whose certificates may carry another's identity.
const frontProxy = "front-proxy-client"

// serviceCIDR is where Services of type ClusterIP get addresses, which lead
// nowhere; the first is the Service kubernetes.
const serviceCIDR, kubernetesIP = "10.0.0.0/24", "10.0.0.1"

// controllers are those that an aggregated API meets, and those they need.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"resourcequota-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
}

// Options say how to start a control plane.
type Options struct {
	// BinDir holds the programs; bin/host of the repository if empty.
	BinDir string
	// Dir takes data, certificates, kubeconfigs and logs. Required; empty or yet
	// to be made.
	Dir string
	// EtcdArgs, APIServerArgs and ControllerManagerArgs come after our own and
	// win over them, but for lists, which they extend ("--controllers=*").
	EtcdArgs, APIServerArgs, ControllerManagerArgs []string
	// WithoutOracles starts kube-apiserver, and kit what runs on this control
	// plane, without Oracles, which hold every object that they have seen.
	WithoutOracles bool
}

// ControlPlane is a running control plane. Its methods are safe for concurrent
// use.
type ControlPlane struct {
	// Etcd is the host's. A Leat server may use it too, with a prefix of its own
	// (the host's is /registry).
	Etcd *Etcd
	// APIServer and ControllerManager keep their addresses over Restart.
	APIServer, ControllerManager *Process
	// URL is kube-apiserver's, https://127.0.0.1:<port>.
	URL string
	// AdminKubeconfig is for setting tests up. It is of system:masters, whom no
	// authorizer is asked about: what a test is about must not be done with it.
	AdminKubeconfig string
	// ClientCA signs people's certificates. FrontProxyCA signs the aggregator's,
	// and any other forges identity headers; the name allowed is
	// front-proxy-client.
	ClientCA, FrontProxyCA *pki.CA
	// ClientCAFile and FrontProxyCAFile hold the authorities that kube-apiserver
	// trusts; FrontProxyCertFile and FrontProxyKeyFile are what its aggregator
	// shows. It takes up what is written to them while it runs.
	ClientCAFile, FrontProxyCAFile, FrontProxyCertFile, FrontProxyKeyFile string

	dir     string
	oracles []string
	kubectl string
	serving *authority
	admin   *kubernetes.Clientset
}

// Start starts a control plane and waits until it serves. ctx bounds the start
// only. On an error nothing is left running; otherwise call Stop.
//
// Admission plugins and feature gates are upstream's defaults, authorization is
// Node and RBAC. The quota controller recounts every 5 s. The garbage collector
// and the quota controller look for new APIs every 30 s, which cannot be
// changed: restart ControllerManager to have them look at once.
func Start(ctx context.Context, options Options) (cp *ControlPlane, err error) {
	cp = &ControlPlane{dir: options.Dir, oracles: Oracles}
	if options.WithoutOracles {
		cp.oracles = nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cp.Stop())
			cp = nil
		}
	}()
	if cp.kubectl, err = binary(options.BinDir, "kubectl"); err != nil {
		return cp, err
	}
	cp.Etcd, err = StartEtcd(ctx, EtcdOptions{BinDir: options.BinDir, Dir: options.Dir, Args: options.EtcdArgs})
	if err != nil {
		return cp, err
	}
	serviceAccountKey, err := writeServiceAccountKey(options.Dir)
	if err != nil {
		return cp, err
	}
	if err := cp.startAPIServer(ctx, options, serviceAccountKey); err != nil {
		return cp, err
	}
	if err := cp.waitBootstrapped(ctx); err != nil {
		return cp, err
	}
	return cp, cp.startControllerManager(ctx, options, serviceAccountKey)
}

// Oracles returns the environment variables that servers on this control plane
// start with: the variable Oracles, or nothing.
func (cp *ControlPlane) Oracles() []string { return cp.oracles }

// Stop kills what runs. It fails if something could not be killed or had ended
// before without being asked to: with Oracles on, that is how a control plane
// reports that it found itself wrong.
func (cp *ControlPlane) Stop() error {
	processes := []*Process{cp.ControllerManager, cp.APIServer}
	if cp.Etcd != nil {
		processes = append(processes, cp.Etcd.Process)
	}
	var errs []error
	for _, process := range processes {
		if process != nil {
			errs = append(errs, process.Err(), process.Kill())
		}
	}
	return errors.Join(errs...)
}

// ForTest starts a control plane for one test, in a few seconds, and stops it at the
// test's end. What goes wrong fails the test: missing programs too, and any
// process that ended by itself. Run "go test -artifacts" to keep the logs. The
// arguments are for kube-controller-manager.
func ForTest(t testing.TB, controllerManagerArgs ...string) *ControlPlane {
	t.Helper()
	cp, err := Start(t.Context(), Options{Dir: t.ArtifactDir(), ControllerManagerArgs: controllerManagerArgs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cp.Stop(); err != nil {
			t.Error(err)
		}
	})
	return cp
}

// EtcdForTest starts an etcd for one test, as ForTest does a control plane.
func EtcdForTest(t testing.TB) *Etcd {
	t.Helper()
	etcd, err := StartEtcd(t.Context(), EtcdOptions{Dir: t.ArtifactDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(etcd.Err(), etcd.Kill()); err != nil {
			t.Error(err)
		}
	})
	return etcd
}

func (cp *ControlPlane) startAPIServer(ctx context.Context, options Options, serviceAccountKey string) error {
	program, err := binary(options.BinDir, "kube-apiserver")
	if err != nil {
		return err
	}
	pkiDir := filepath.Join(cp.dir, "pki")
	clients, err := newAuthority(filepath.Join(pkiDir, "client"), "host-client-ca")
	if err != nil {
		return err
	}
	proxies, err := newAuthority(filepath.Join(pkiDir, "front-proxy"), "host-front-proxy-ca")
	if err != nil {
		return err
	}
	cp.ClientCA, cp.FrontProxyCA = clients.CA, proxies.CA
	cp.ClientCAFile, cp.FrontProxyCAFile = clients.caFile, proxies.caFile
	if cp.serving, err = newAuthority(filepath.Join(pkiDir, "serving"), "host-serving-ca"); err != nil {
		return err
	}
	cp.FrontProxyCertFile, cp.FrontProxyKeyFile, err = proxies.client(frontProxy, frontProxy)
	if err != nil {
		return err
	}
	serverCert, serverKey, err := cp.serving.server("kube-apiserver",
		kubernetesIP, "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	cp.URL = "https://" + address(port)
	if cp.AdminKubeconfig, err = cp.UserKubeconfig("admin", "system:masters"); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // a person's limit, and the server has its own
	if cp.admin, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	health, err := trusting(cp.serving.CA)
	if err != nil {
		return err
	}

	cp.APIServer, err = StartProcess(ctx, Command{
		Name: "kube-apiserver",
		Path: program,
		Dir:  cp.dir,
		Env:  cp.oracles,
		Args: append([]string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + serverCert,
			"--tls-private-key-file=" + serverKey,
			"--etcd-servers=" + cp.Etcd.Endpoint,
			"--etcd-cafile=" + cp.Etcd.CAFile,
			"--etcd-certfile=" + cp.Etcd.CertFile,
			"--etcd-keyfile=" + cp.Etcd.KeyFile,
			"--client-ca-file=" + cp.ClientCAFile,
			"--authorization-mode=Node,RBAC",
			"--service-cluster-ip-range=" + serviceCIDR,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + serviceAccountKey,
			"--service-account-signing-key-file=" + serviceAccountKey,
			// The Service kubernetes cannot have a loopback address as endpoint.
			"--endpoint-reconciler-type=none",
			"--enable-aggregator-routing=false",
			"--requestheader-client-ca-file=" + cp.FrontProxyCAFile,
			"--requestheader-allowed-names=" + frontProxy,
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-uid-headers=X-Remote-Uid",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + cp.FrontProxyCertFile,
			"--proxy-client-key-file=" + cp.FrontProxyKeyFile,
		}, options.APIServerArgs...),
		Ready: answersOK(cp.URL+"/readyz", health),
	})
	return err
}

func (cp *ControlPlane) startControllerManager(ctx context.Context, options Options, serviceAccountKey string) error {
	program, err := binary(options.BinDir, "kube-controller-manager")
	if err != nil {
		return err
	}
	kubeconfig, err := cp.UserKubeconfig("system:kube-controller-manager")
	if err != nil {
		return err
	}
	cert, key, err := cp.serving.server("kube-controller-manager")
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	health, err := trusting(cp.serving.CA)
	if err != nil {
		return err
	}
	cp.ControllerManager, err = StartProcess(ctx, Command{
		Name: "kube-controller-manager",
		Path: program,
		Dir:  cp.dir,
		Args: append([]string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + cert,
			"--tls-private-key-file=" + key,
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--leader-elect=false",
			"--controllers=" + strings.Join(controllers, ","),
			// Each controller with the rights it has on a real cluster, not all with all.
			"--use-service-account-credentials",
			"--service-account-private-key-file=" + serviceAccountKey,
			"--root-ca-file=" + cp.serving.caFile,
			"--resource-quota-sync-period=5s",
			"--namespace-sync-period=10s",
			"--kube-api-qps=200",
			"--kube-api-burst=400",
		}, options.ControllerManagerArgs...),
		Ready: answersOK("https://"+address(port)+"/healthz", health),
	})
	return err
}

// waitBootstrapped waits for what kube-apiserver makes only after it is ready
// and an extension server cannot start without.
func (cp *ControlPlane) waitBootstrapped(ctx context.Context) error {
	const namespace, name, key = metav1.NamespaceSystem, "extension-apiserver-authentication", "requestheader-client-ca-file"
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, func(ctx context.Context) (bool, error) {
		config, err := cp.admin.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil || config.Data[key] == "" {
			return false, err
		}
		_, err = cp.admin.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return cp.APIServer.failure(fmt.Errorf("waiting for namespace default and for %s of ConfigMap %s/%s: %w", key, namespace, name, err))
	}
	return nil
}

func writeServiceAccountKey(dir string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pki", "service-account.key")
	return path, pki.WriteFile(path, data)
}
