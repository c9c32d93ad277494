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

package security

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/certificates"
	"github.com/leat-dev/leat/test/kit/host"
)

// weak has the cipher suites without forward secrecy or with broken ciphers.
var weak = []uint16{
	tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
}

// listener is a TLS port of one of our programs.
type listener struct {
	name, address string
	// minVersion is the oldest version that it accepts.
	minVersion uint16
	// protocols has the application protocols that it accepts, in order of preference.
	protocols []string
	// client is the certificate for connections to it.
	client *tls.Certificate
}

// testTLS checks that all our ports refuse old versions and weak ciphers.
func testTLS(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	e.StartWorker(t, e.Worker(t, namespace, "one"), namespace, "one", nil, "--state-dir="+t.TempDir(), "--client-ca-file="+e.Host.ClientCAFile, "--log-address=127.0.0.1")
	one := kit.Must(kit.Client(t, e.Admin(t)).BatchV1alpha1().Workers(namespace).Get(t.Context(), "one", metav1.GetOptions{}))(t)
	if one.Status.Endpoint == nil {
		t.Fatal("the worker has no endpoint for logs")
	}
	metrics := "127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t))
	// The manager serves metrics by TLS unless the address is a loopback address.
	_, port, err := net.SplitHostPort(metrics)
	kit.Check(t, err)
	e.StartManager(t, "tls", "--leader-elect=false", "--metrics-bind-address=0.0.0.0:"+port)
	kit.Eventually(t, "metrics are served", func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", metrics)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	// Most weak suites need an RSA key, which users may configure.
	certFile, keyFile := filepath.Join(t.TempDir(), "rsa.crt"), filepath.Join(t.TempDir(), "rsa.key")
	cert, key, err := certificates.Issue(e.ServingCA, kit.Must(rsa.GenerateKey(rand.Reader, 2048))(t), &x509.Certificate{
		Subject: pkix.Name{CommonName: "leat-serving"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	kit.Check(t, errors.Join(err, pki.WriteFile(certFile, cert), pki.WriteFile(keyFile, key)))
	withRSA := e.Replica(t, "--tls-cert-file="+certFile, "--tls-private-key-file="+keyFile)
	cert, key, err = e.Host.ClientCA.IssueClient("leat-apiserver")
	kit.Check(t, err)
	pair := kit.Must(tls.X509KeyPair(cert, key))(t)

	both := []string{"h2", "http/1.1"}
	for _, l := range []listener{
		{"leat-apiserver", strings.TrimPrefix(e.Direct(t, "x").Host, "https://"), tls.VersionTLS12, both, nil},
		{"leat-apiserver with RSA", strings.TrimPrefix(withRSA.Direct(t, "x").Host, "https://"), tls.VersionTLS12, both, nil},
		{"the logs of leat-worker", net.JoinHostPort(one.Status.Endpoint.Host, strconv.Itoa(int(one.Status.Endpoint.Port))), tls.VersionTLS13, []string{"http/1.1"}, &pair},
		{"the metrics of leat-controller-manager", metrics, tls.VersionTLS12, []string{"h2"}, nil},
	} {
		t.Run(l.name, func(t *testing.T) { l.test(t) })
	}
	t.Run("both protocols authorize alike", func(t *testing.T) { protocols(t, e.Direct(t, "nobody")) })
}

// test checks versions, cipher suites and application protocols.
func (l listener) test(t *testing.T) {
	versions := []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13}
	for _, version := range versions {
		state, err := l.handshake(t, &tls.Config{MinVersion: version, MaxVersion: version})
		if want := version >= l.minVersion; (err == nil) != want {
			t.Errorf("%s: got accepted %t, want %t: %v", tls.VersionName(version), err == nil, want, err)
		} else if want && state.Version != version {
			t.Errorf("%s: got version %s", tls.VersionName(version), tls.VersionName(state.Version))
		}
	}
	for _, suite := range weak {
		if _, err := l.handshake(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}}); err == nil {
			t.Errorf("accepted weak cipher suite %s", tls.CipherSuiteName(suite))
		}
	}
	for _, protocol := range []string{"h2", "http/1.1"} {
		state, err := l.handshake(t, &tls.Config{NextProtos: []string{protocol}})
		if want := slices.Contains(l.protocols, protocol); want && (err != nil || state.NegotiatedProtocol != protocol) || !want && err == nil && state.NegotiatedProtocol == protocol {
			t.Errorf("requested %s: got protocol %q, %v", protocol, state.NegotiatedProtocol, err)
		}
	}
	if state, err := l.handshake(t, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}); err != nil || state.NegotiatedProtocol != l.protocols[0] {
		t.Errorf("got preferred protocol %q, %v", state.NegotiatedProtocol, err)
	}
}

// handshake connects without verifying the server certificate, so that only the parameters under test can fail.
func (l listener) handshake(t *testing.T, config *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	config.InsecureSkipVerify = true
	if l.client != nil {
		config.Certificates = []tls.Certificate{*l.client}
	}
	connection, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", l.address)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer connection.Close()
	return connection.(*tls.Conn).ConnectionState(), nil
}

// protocols checks that forged identity headers are refused over HTTP/1.1 and over HTTP/2.
func protocols(t *testing.T, config *rest.Config) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		settings := kit.Must(rest.TLSConfigFor(config))(t)
		settings.NextProtos = []string{protocol}
		transport := &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: protocol == "h2", DisableKeepAlives: true}
		request := kit.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+tasksPath("default"), nil))(t)
		request.Header.Set("X-Remote-User", "alice")
		request.Header.Set("X-Remote-Group", "leat:admins")
		response := kit.Must(transport.RoundTrip(request))(t)
		response.Body.Close()
		if got := fmt.Sprint(response.ProtoMajor, " ", response.StatusCode); got != map[string]string{"http/1.1": "1 403", "h2": "2 403"}[protocol] {
			t.Errorf("%s: got %s, want 403", protocol, got)
		}
	}
}
