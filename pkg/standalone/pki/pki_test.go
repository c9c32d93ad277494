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

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

func mustCA(t *testing.T, name string) *CA {
	t.Helper()
	ca, err := NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func mustPair(t *testing.T, certPEM, keyPEM []byte, err error) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := certutil.ParseCertsPEM(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair, certs[0]
}

func pool(ca *CA) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(ca.CertPEM())
	return p
}

func TestMutualTLS(t *testing.T) {
	ca := mustCA(t, "leat-test")
	certPEM, keyPEM, err := ca.IssueServer("127.0.0.1", "localhost")
	serving, _ := mustPair(t, certPEM, keyPEM, err)
	certPEM, keyPEM, err = ca.IssueClient("worker:a", "others", "leat:workers")
	client, _ := mustPair(t, certPEM, keyPEM, err)
	certPEM, keyPEM, err = mustCA(t, "leat-test").IssueClient("worker:a", "leat:workers")
	stranger, _ := mustPair(t, certPEM, keyPEM, err)

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		slices.Sort(subject.Organization) // a set: the encoding keeps no order
		_, _ = io.WriteString(w, subject.CommonName+" "+strings.Join(subject.Organization, ","))
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{serving}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool(ca)}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()

	for _, tc := range []struct {
		name   string
		host   string
		client tls.Certificate
		want   string // empty: refused
	}{
		{name: "by address", client: client, want: "worker:a leat:workers,others"},
		{name: "by name", host: "localhost", client: client, want: "worker:a leat:workers,others"},
		{name: "by a name the certificate lacks", host: "example.com", client: client},
		{name: "from another CA of the same name", client: stranger},
		{name: "with the serving certificate", client: serving},
	} {
		t.Run(tc.name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(ca), ServerName: tc.host, Certificates: []tls.Certificate{tc.client}}}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Get(server.URL)
			if tc.want == "" {
				if err == nil {
					resp.Body.Close()
					t.Fatal("accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, _ := io.ReadAll(resp.Body); string(got) != tc.want {
				t.Errorf("server saw %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCertificatePurposesAndValidity(t *testing.T) {
	ca := mustCA(t, "leat-test")
	now := time.Now()

	certPEM, keyPEM, err := ca.IssueClient("u", "g")
	_, client := mustPair(t, certPEM, keyPEM, err)
	certPEM, keyPEM, err = ca.IssueServer("::1", "*.leat.svc")
	_, serving := mustPair(t, certPEM, keyPEM, err)

	if got, want := client.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}; !reflect.DeepEqual(got, want) {
		t.Errorf("client certificate is for %v, want %v", got, want)
	}
	if got, want := serving.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}; !reflect.DeepEqual(got, want) {
		t.Errorf("serving certificate is for %v, want %v", got, want)
	}
	for _, host := range []string{"::1", "a.leat.svc"} {
		if err := serving.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for name, tc := range map[string]struct {
		cert  *x509.Certificate
		usage x509.KeyUsage
		years int
	}{
		"CA":     {ca.cert, x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, 10},
		"client": {client, x509.KeyUsageDigitalSignature, 1},
		"server": {serving, x509.KeyUsageDigitalSignature, 1},
	} {
		if tc.cert.KeyUsage != tc.usage {
			t.Errorf("%s: key usage %b, want %b", name, tc.cert.KeyUsage, tc.usage)
		}
		if tc.cert.IsCA != (name == "CA") {
			t.Errorf("%s: IsCA = %v", name, tc.cert.IsCA)
		}
		if early := now.Sub(tc.cert.NotBefore); early < 30*time.Minute {
			t.Errorf("%s: valid only %v before it was made: a clock behind refuses it", name, early)
		}
		year := 365 * 24 * time.Hour
		if left := tc.cert.NotAfter.Sub(now).Round(year); left != time.Duration(tc.years)*year {
			t.Errorf("%s: valid for %v, want %d years", name, left, tc.years)
		}
	}
}

func TestLeafEndsWithItsCA(t *testing.T) {
	ca := mustCA(t, "leat-test")
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	ca.cert.NotAfter = soon
	certPEM, keyPEM, err := ca.IssueClient("u")
	if _, client := mustPair(t, certPEM, keyPEM, err); !client.NotAfter.Equal(soon) {
		t.Errorf("leaf ends at %v, its CA at %v", client.NotAfter, soon)
	}
}

func TestNamelessCertificatesAreRefused(t *testing.T) {
	ca := mustCA(t, "leat-test")
	for name, issue := range map[string]func() error{
		"CA without name":      func() error { _, err := NewCA(""); return err },
		"client without user":  func() error { _, _, err := ca.IssueClient("", "g"); return err },
		"server without hosts": func() error { _, _, err := ca.IssueServer(); return err },
		"server on a port":     func() error { _, _, err := ca.IssueServer("localhost:443"); return err },
		"server as nothing":    func() error { _, _, err := ca.IssueServer("localhost", ""); return err },
	} {
		if issue() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLoadCA(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := WriteFile(path, data); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, other := mustCA(t, "leat-test"), mustCA(t, "leat-test")
	certFile, keyFile := write("ca.crt", ca.CertPEM()), write("ca.key", ca.KeyPEM())
	leafCert, leafKey, err := ca.IssueClient("u")
	mustPair(t, leafCert, leafKey, err)
	oldTemplate := *ca.cert
	oldTemplate.NotAfter = time.Now().Add(-time.Minute)
	old, err := sign(&oldTemplate, nil, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	oldPEM, err := certutil.EncodeCertificates(old)
	if err != nil {
		t.Fatal(err)
	}

	loaded, err := LoadCA(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := loaded.IssueClient("u")
	_, leaf := mustPair(t, certPEM, keyPEM, err)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(ca), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("a leaf of the loaded CA does not verify against the original: %v", err)
	}

	for _, tc := range []struct {
		name, cert, key string
		want            string
		missing         bool
	}{
		{name: "no certificate", cert: filepath.Join(dir, "none"), key: keyFile, want: "reading the CA certificate", missing: true},
		{name: "no key", cert: certFile, key: filepath.Join(dir, "none"), want: "reading the CA key", missing: true},
		{name: "a key as certificate", cert: keyFile, key: keyFile, want: "want one PEM certificate"},
		{name: "two certificates", cert: write("two.crt", append(append([]byte{}, ca.CertPEM()...), ca.CertPEM()...)), key: keyFile, want: "found 2"},
		{name: "a certificate as key", cert: certFile, key: certFile, want: "want a PEM private key"},
		{name: "the key of another", cert: certFile, key: write("other.key", other.KeyPEM()), want: "is not the key of"},
		{name: "a leaf", cert: write("leaf.crt", leafCert), key: write("leaf.key", leafKey), want: "not a certificate authority"},
		{name: "expired", cert: write("old.crt", oldPEM), key: keyFile, want: "valid from"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := LoadCA(tc.cert, tc.key)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			if errors.Is(err, fs.ErrNotExist) != tc.missing {
				t.Errorf("errors.Is(err, fs.ErrNotExist) = %v for %v", !tc.missing, err)
			}
		})
	}
}

func TestWriteFile(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a", "b", "key")
	for _, content := range []string{"first, and longer", "second"} {
		if err := WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Fatalf("read %q, %v; want %q", got, err, content)
		}
	}
	for p, want := range map[string]fs.FileMode{
		path:                     0o600,
		filepath.Dir(path):       fs.ModeDir | 0o700,
		filepath.Join(root, "a"): fs.ModeDir | 0o700,
	} {
		if info, err := os.Stat(p); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", p, info.Mode(), err, want)
		}
	}

	// A directory at the path makes the write fail. It must leave nothing behind.
	if err := WriteFile(filepath.Dir(path), []byte("x")); err == nil {
		t.Error("replaced a directory")
	}
	if entries, err := os.ReadDir(filepath.Join(root, "a")); err != nil || len(entries) != 1 {
		t.Errorf("left behind %v, %v; want only b", entries, err)
	}
}
