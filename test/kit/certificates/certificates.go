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

// Package certificates issues client certificates that Leat's own authorities would not issue, for tests of
// authentication.
package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// Expired returns a client certificate of the authority that expired a minute ago, and its key, in PEM.
func Expired(ca *pki.CA, name string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return Issue(ca, private, client(name, time.Now().Add(-time.Minute)))
}

// SelfSigned returns a self-signed client certificate and its key, in PEM.
func SelfSigned(name string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := client(name, time.Now().Add(time.Hour))
	return sign(template, template, private, private)
}

// Issue signs the template with the key of the authority, and returns the certificate and its key, in PEM. It sets the
// serial number and the key usage.
func Issue(ca *pki.CA, private crypto.Signer, template *x509.Certificate) (cert, key []byte, err error) {
	signer, err := keyutil.ParsePrivateKeyPEM(ca.KeyPEM())
	if err != nil {
		return nil, nil, err
	}
	parents, err := certutil.ParseCertsPEM(ca.CertPEM())
	if err != nil {
		return nil, nil, err
	}
	return sign(template, parents[0], private, signer.(crypto.Signer))
}

func client(name string, end time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotBefore:   end.Add(-2 * time.Hour),
		NotAfter:    end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func sign(template, parent *x509.Certificate, private, signer crypto.Signer) (cert, key []byte, err error) {
	template.SerialNumber, template.KeyUsage = big.NewInt(1), x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyutil.MarshalPrivateKeyToPEM(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}
