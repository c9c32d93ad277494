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
	"path/filepath"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// authority is a CA with a directory for its certificate and the certificates that it issues.
type authority struct {
	*pki.CA
	dir    string
	caFile string
}

func newAuthority(dir, commonName string) (*authority, error) {
	ca, err := pki.NewCA(commonName)
	if err != nil {
		return nil, err
	}
	a := &authority{CA: ca, dir: dir, caFile: filepath.Join(dir, "ca.crt")}
	return a, pki.WriteFile(a.caFile, ca.CertPEM())
}

// server writes a serving certificate for loopback addresses and the other names.
func (a *authority) server(file string, names ...string) (certFile, keyFile string, err error) {
	cert, key, err := a.IssueServer(append([]string{"127.0.0.1", "localhost"}, names...)...)
	if err != nil {
		return "", "", err
	}
	return a.write(file, cert, key)
}

// client writes a client certificate.
func (a *authority) client(file, user string, groups ...string) (certFile, keyFile string, err error) {
	cert, key, err := a.IssueClient(user, groups...)
	if err != nil {
		return "", "", err
	}
	return a.write(file, cert, key)
}

func (a *authority) write(file string, cert, key []byte) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(a.dir, file+".crt"), filepath.Join(a.dir, file+".key")
	if err := pki.WriteFile(certFile, cert); err != nil {
		return "", "", err
	}
	return certFile, keyFile, pki.WriteFile(keyFile, key)
}
