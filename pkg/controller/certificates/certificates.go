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

// Package certificates issues and renews the certificates that the components of a Leat installation authenticate to
// each other with, for clusters without a certificate manager.
package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Names of the Secrets. Each holds ca.crt, ca.key, tls.crt and tls.key. The Secrets must exist; Run owns their data.
const (
	// ServerSecret holds the serving certificate of leat-apiserver.
	ServerSecret = "leat-apiserver-tls"
	// EtcdSecret holds the certificate of etcd's members, which leat-apiserver also uses as etcd's client.
	EtcdSecret = "leat-etcd-tls"
	// WorkerClientSecret holds the client certificate that leat-apiserver reads logs from workers with.
	WorkerClientSecret = "leat-worker-client-tls"
)

// Run keeps the certificates in the Secrets of the namespace valid until ctx is done. Certificates are valid for a year
// and renewed 90 days before they expire; CA certificates are valid for ten years. Several processes may run it: one
// whose update conflicts uses the certificate that the other has written.
func Run(ctx context.Context, config *rest.Config, namespace string) error {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	mgr, err := manager.New(config, manager.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return err
	}
	// A rotator waits until its certificate is mounted into its own pod. None of ours is, so let it find an empty
	// file.
	certDir, err := os.MkdirTemp("", "leat-certificates")
	if err != nil {
		return err
	}
	defer os.RemoveAll(certDir)
	if err := os.WriteFile(filepath.Join(certDir, corev1.TLSCertKey), nil, 0o600); err != nil {
		return err
	}
	for _, c := range []struct {
		secret string
		names  []string
		usages []x509.ExtKeyUsage
	}{
		{ServerSecret, serviceNames("leat-apiserver", namespace), []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{
			EtcdSecret, slices.Concat(serviceNames("leat-etcd", namespace), serviceNames("*.leat-etcd", namespace), []string{"localhost"}),
			[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		},
		{WorkerClientSecret, []string{batch.WorkerClientName}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		if err := rotator.AddRotator(mgr, &rotator.CertRotator{
			SecretKey:      types.NamespacedName{Namespace: namespace, Name: c.secret},
			CAName:         c.secret + "-ca",
			CAOrganization: "leat",
			DNSName:        c.names[0],
			ExtraDNSNames:  c.names[1:],
			ExtKeyUsages:   &c.usages,
			CertDir:        certDir,
			IsReady:        make(chan struct{}),
			ControllerName: c.secret,
		}); err != nil {
			return fmt.Errorf("add the rotator of Secret %s: %w", c.secret, err)
		}
	}
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serviceNames returns the DNS names of a Service.
func serviceNames(service, namespace string) []string {
	name := service + "." + namespace + ".svc"
	return []string{name, name + ".cluster.local"}
}
