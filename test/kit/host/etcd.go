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
	"crypto/tls"
	"crypto/x509"
	"errors"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// EtcdOptions configure an etcd.
type EtcdOptions struct {
	// BinDir holds the program; bin/host of the repository if empty.
	BinDir string
	// Dir is the directory for data, certificates and the log. It is required, and created if it does not exist. Data in
	// it is kept; the ports are new at every start.
	Dir string
	// Args come after the arguments of StartEtcd and win ("--quota-backend-bytes=...").
	Args []string
}

// Etcd is a running etcd with one member. It syncs every write to disk, and serves only clients with a certificate of its
// own authority.
type Etcd struct {
	// Process is the server. It keeps its data and its address over Restart.
	*Process
	// Endpoint is its address, https://127.0.0.1:<port>.
	Endpoint string
	// CAFile, CertFile and KeyFile are what a client needs.
	CAFile, CertFile, KeyFile string
	// CA issues the certificates of the server and of clients.
	CA *pki.CA
}

// StartEtcd starts an etcd and waits until it serves, as StartProcess does.
func StartEtcd(ctx context.Context, options EtcdOptions) (*Etcd, error) {
	program, err := binary(options.BinDir, "etcd")
	if err != nil {
		return nil, err
	}
	certificates, err := newAuthority(filepath.Join(options.Dir, "etcd-pki"), "etcd-ca")
	if err != nil {
		return nil, err
	}
	serverCert, serverKey, err := certificates.server("server")
	if err != nil {
		return nil, err
	}
	clientCert, clientKey, err := certificates.client("client", "leat-test")
	if err != nil {
		return nil, err
	}
	clientPort, err := FreePort()
	if err != nil {
		return nil, err
	}
	peerPort, err := FreePort()
	if err != nil {
		return nil, err
	}

	etcd := &Etcd{
		Endpoint: "https://" + address(clientPort),
		CAFile:   certificates.caFile,
		CertFile: clientCert,
		KeyFile:  clientKey,
		CA:       certificates.CA,
	}
	config, err := etcd.tlsConfig()
	if err != nil {
		return nil, err
	}
	peer := "https://" + address(peerPort)
	etcd.Process, err = StartProcess(ctx, Command{
		Name: "etcd",
		Path: program,
		Dir:  options.Dir,
		Args: append([]string{
			"--name=host",
			"--data-dir=" + filepath.Join(options.Dir, "etcd-data"),
			"--listen-client-urls=" + etcd.Endpoint,
			"--advertise-client-urls=" + etcd.Endpoint,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=host=" + peer,
			"--client-cert-auth",
			"--trusted-ca-file=" + certificates.caFile,
			"--cert-file=" + serverCert,
			"--key-file=" + serverKey,
			"--peer-client-cert-auth",
			"--peer-trusted-ca-file=" + certificates.caFile,
			"--peer-cert-file=" + serverCert,
			"--peer-key-file=" + serverKey,
			// The gateway would dial etcd with the serving certificate, which is not valid for clients.
			"--enable-grpc-gateway=false",
			"--log-level=warn",
		}, options.Args...),
		Ready: answersOK(etcd.Endpoint+"/readyz", config),
	})
	if err != nil {
		return nil, err
	}
	return etcd, nil
}

// Client returns a client of etcd. The caller must close it.
func (e *Etcd) Client() (*clientv3.Client, error) {
	config, err := e.tlsConfig()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{e.Endpoint},
		DialTimeout: 10 * time.Second,
		TLS:         config,
	})
}

func (e *Etcd) tlsConfig() (*tls.Config, error) {
	return clientTLS(e.CA, e.CertFile, e.KeyFile)
}

// clientTLS returns a configuration that trusts ca and presents the certificate.
func clientTLS(ca *pki.CA, certFile, keyFile string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	config, err := trusting(ca)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// trusting returns a configuration that trusts ca and presents no certificate.
func trusting(ca *pki.CA) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.CertPEM()) {
		return nil, errors.New("the CA to trust has no certificate in its PEM")
	}
	return &tls.Config{RootCAs: roots}, nil
}
