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

// frontProxy is the only common name whose client may send the identity of another user in headers.
const frontProxy = "front-proxy-client"

// serviceCIDR has the addresses of Services of type ClusterIP. Nothing listens on them. The first is that of the
// Service kubernetes.
const serviceCIDR, kubernetesIP = "10.0.0.0/24", "10.0.0.1"

// controllers are the controllers that handle objects of an aggregated API, and those that they need.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"resourcequota-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
}

// Options configure a control plane.
type Options struct {
	// BinDir holds the programs; bin/host of the repository if empty.
	BinDir string
	// Dir is the directory for data, certificates, kubeconfigs and logs. It is required, and must be empty or not exist.
	Dir string
	// EtcdArgs, APIServerArgs and ControllerManagerArgs come after the arguments of Start and win. Lists are extended
	// ("--controllers=*").
	EtcdArgs, APIServerArgs, ControllerManagerArgs []string
	// WithoutOracles starts kube-apiserver without Oracles, which keep every object forever. The package kit starts
	// servers on this control plane without them as well.
	WithoutOracles bool
}

// ControlPlane is a running control plane. Its methods are safe for concurrent use.
type ControlPlane struct {
	// Etcd is the etcd of kube-apiserver, which uses the prefix /registry. A Leat server may use it with another prefix.
	Etcd *Etcd
	// APIServer and ControllerManager are the processes. They keep their addresses over Restart.
	APIServer, ControllerManager *Process
	// URL is the address of kube-apiserver, https://127.0.0.1:<port>.
	URL string
	// AdminKubeconfig is the kubeconfig of a user in system:masters, whose requests no authorizer sees. Use it to prepare
	// a test, not for what the test is about.
	AdminKubeconfig string
	// ClientCA signs the certificates of users. FrontProxyCA signs the client certificate of the aggregator, whose common
	// name is front-proxy-client.
	ClientCA, FrontProxyCA *pki.CA
	// ClientCAFile and FrontProxyCAFile hold the authorities that kube-apiserver trusts. FrontProxyCertFile and
	// FrontProxyKeyFile hold the client certificate of its aggregator. kube-apiserver reloads these files.
	ClientCAFile, FrontProxyCAFile, FrontProxyCertFile, FrontProxyKeyFile string

	dir     string
	oracles []string
	kubectl string
	serving *authority
	admin   *kubernetes.Clientset
}

// Start starts a control plane and waits until it is ready. ctx limits the start only. After an error nothing runs.
// Otherwise the caller must call Stop.
//
// Admission plugins and feature gates have their defaults. The authorizers are Node and RBAC. The quota controller
// recounts every 5 s. The garbage collector and the quota controller look for new APIs every 30 s, which no flag
// changes: restart ControllerManager if they must look at once.
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

// Oracles returns the environment variables with which servers on this control plane start: Oracles, or none.
func (cp *ControlPlane) Oracles() []string { return cp.oracles }

// Stop kills all processes. It returns an error if one could not be killed or had ended before: with Oracles, a program
// that finds a violation in itself ends.
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

// ForTest starts a control plane until the test ends. Every failure fails the test, also missing programs and processes
// that end by themselves. Its etcd does not sync writes to disk. "go test -artifacts" keeps the logs. The arguments are
// for kube-controller-manager.
func ForTest(t testing.TB, controllerManagerArgs ...string) *ControlPlane {
	t.Helper()
	// Processes are killed, but the machine keeps its power: what the host's etcd has written is not lost without fsync.
	cp, err := Start(t.Context(), Options{
		Dir: t.ArtifactDir(), EtcdArgs: []string{"--unsafe-no-fsync"}, ControllerManagerArgs: controllerManagerArgs,
	})
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

// EtcdForTest starts an etcd until the test ends, like ForTest.
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
	config.QPS = -1
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
			// Each controller has only the rights that it has in a real cluster.
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

// waitBootstrapped waits for the objects that kube-apiserver creates after it is ready and that an extension server
// needs to start.
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
