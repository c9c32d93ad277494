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

// Package certificates keeps the certificates that the parts of an installed Leat show each other, where nothing else in the
// cluster does it.
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

// The Secrets, each with ca.crt, ca.key, tls.crt and tls.key. They must exist; their content is ours.
const (
	// ServerSecret is for leat-apiserver's clients, the cluster's aggregator first among them.
	ServerSecret = "leat-apiserver-tls"
	// EtcdSecret is for etcd's members and for leat-apiserver, which show it to each other.
	EtcdSecret = "leat-etcd-tls"
	// WorkerClientSecret is what leat-apiserver shows to workers when it asks for logs.
	WorkerClientSecret = "leat-worker-client-tls"
)

// Run keeps the Secrets of the namespace until ctx is done: certificates are valid for a year and renewed 90 days before their end,
// authorities last ten years. Any number of processes may run it at a time; the one whose update is refused takes what the other
// wrote.
func Run(ctx context.Context, config *rest.Config, namespace string) error {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	mgr, err := manager.New(config, manager.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return err
	}
	// A rotator also waits until the certificate is mounted where it runs itself, which none of these is.
	mounted, err := os.MkdirTemp("", "leat-certificates")
	if err != nil {
		return err
	}
	defer os.RemoveAll(mounted)
	if err := os.WriteFile(filepath.Join(mounted, corev1.TLSCertKey), nil, 0o600); err != nil {
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
			CertDir:        mounted,
			IsReady:        make(chan struct{}),
			ControllerName: c.secret,
		}); err != nil {
			return fmt.Errorf("certificates of Secret %s: %w", c.secret, err)
		}
	}
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serviceNames are the names that a Service is reached by.
func serviceNames(service, namespace string) []string {
	name := service + "." + namespace + ".svc"
	return []string{name, name + ".cluster.local"}
}
