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

package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	certutil "k8s.io/client-go/util/cert"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

func TestCertificateExpirationFollowsRotation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tls.crt")
	var c certificateExpirationCollector
	c.certificates.Store(&map[string]func() ([]byte, error){
		"serving":     func() ([]byte, error) { return os.ReadFile(file) },
		"etcd_client": func() ([]byte, error) { return os.ReadFile(filepath.Join(t.TempDir(), "none")) },
	})
	ca, err := pki.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	leaf, _, err := ca.IssueServer("localhost")
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{leaf, ca.CertPEM()} {
		if err := pki.WriteFile(file, data); err != nil {
			t.Fatal(err)
		}
		certs, err := certutil.ParseCertsPEM(data)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`
# HELP leat_apiserver_certificate_expiration_timestamp_seconds Expiration time of a certificate that the server presents: to clients (serving), to etcd (etcd_client), to workers (worker_client).
# TYPE leat_apiserver_certificate_expiration_timestamp_seconds gauge
leat_apiserver_certificate_expiration_timestamp_seconds{certificate="serving"} %g
`, float64(certs[0].NotAfter.Unix()))
		if err := testutil.CollectAndCompare(&c, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
}
