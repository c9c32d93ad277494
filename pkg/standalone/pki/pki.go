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

// Package pki is the small certificate authority of a standalone server: it
// makes a CA, keeps it in two files, and issues client and serving
// certificates from it.
//
// All keys are ECDSA P-256. A CA is valid for ten years and a leaf for one (or
// until its CA ends, if that is sooner). Leaves are not revoked and not renewed
// in place: a standalone server issues them anew when it starts. Everything
// becomes valid an hour before it is made, so that a peer whose clock is behind
// accepts it.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	clockSkew    = time.Hour
)

// CA signs certificates. It is immutable and safe for concurrent use.
type CA struct {
	cert    *x509.Certificate
	key     crypto.Signer
	certPEM []byte
	keyPEM  []byte
}

// NewCA makes a self-signed authority with a fresh key, valid for ten years.
// commonName is what people see as the issuer; it must not be empty.
func NewCA(commonName string) (*CA, error) {
	if commonName == "" {
		return nil, errors.New("a CA needs a common name: its issuer would be empty otherwise")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the key of CA %q: %w", commonName, err)
	}
	now := time.Now()
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // leaves only, no intermediates
	}, nil, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing CA %q: %w", commonName, err)
	}
	return newCA(cert, key)
}

// LoadCA reads an authority from the files that CertPEM and KeyPEM were written
// to. It refuses a certificate that is no CA, is outside its validity or does
// not belong to the key. If either file is missing the error satisfies
// errors.Is(err, fs.ErrNotExist), which a caller takes as "make a new one".
func LoadCA(certFile, keyFile string) (*CA, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA key: %w", err)
	}
	certs, err := certutil.ParseCertsPEM(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: want one PEM certificate: %w", certFile, err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s: want one PEM certificate, found %d", certFile, len(certs))
	}
	cert := certs[0]
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: want a PEM private key: %w", keyFile, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T cannot sign; want an ECDSA or RSA private key", keyFile, parsed)
	}

	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s: restore the pair, or remove both to have new ones made", keyFile, certFile)
	}
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%s: %q is not a certificate authority", certFile, cert.Subject.CommonName)
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, fmt.Errorf("%s: valid from %s to %s only, and now is %s: check the clock, or remove it and %s to have new ones made",
			certFile, cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339), keyFile)
	}
	return newCA(cert, key)
}

func newCA(cert *x509.Certificate, key crypto.Signer) (*CA, error) {
	certPEM, keyPEM, err := encode(cert, key)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// CertPEM returns the CA's own certificate: the bundle peers verify against.
// The caller must not change it.
func (ca *CA) CertPEM() []byte { return ca.certPEM }

// KeyPEM returns the CA's private key, for WriteFile and LoadCA only.
// The caller must not change it.
func (ca *CA) KeyPEM() []byte { return ca.keyPEM }

// IssueClient makes a client certificate, valid for one year, that
// authenticates as user in groups (common name and organizations, as the
// Kubernetes x509 authenticator reads them). It cannot be used to serve.
func (ca *CA) IssueClient(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	if user == "" {
		return nil, nil, errors.New("a client certificate needs a user name: its holder would be nobody otherwise")
	}
	certPEM, keyPEM, err = ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a client certificate for %q: %w", user, err)
	}
	return certPEM, keyPEM, nil
}

// IssueServer makes a serving certificate, valid for one year, for the given
// DNS names (a leading "*." is allowed) and IP addresses; at least one. It
// cannot be used to authenticate as a client.
func (ca *CA) IssueServer(hosts ...string) (certPEM, keyPEM []byte, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("a serving certificate needs at least one DNS name or IP address")
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "leat-serving"}, // clients verify the alternative names only
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if problems := validation.IsDNS1123Subdomain(strings.TrimPrefix(host, "*.")); len(problems) > 0 {
			return nil, nil, fmt.Errorf("cannot serve as %q: want an IP address or a DNS name without port: %s", host, strings.Join(problems, "; "))
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	certPEM, keyPEM, err = ca.issue(template)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a serving certificate for %s: %w", strings.Join(hosts, ", "), err)
	}
	return certPEM, keyPEM, nil
}

// issue completes and signs a leaf under a fresh key.
func (ca *CA) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template.NotBefore = now.Add(-clockSkew)
	template.NotAfter = now.Add(leafLifetime)
	// A leaf that outlives its CA looks valid to people and fails to verify.
	if ca.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature // ECDSA never enciphers keys
	template.BasicConstraintsValid = true
	cert, err := sign(template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, nil, err
	}
	return encode(cert, key)
}

// sign gives template a random serial number and signs it as parent, or as
// itself if parent is nil.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	// 127 random bits: positive, and within the 20 octets of RFC 5280 section 4.1.2.2.
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(cert *x509.Certificate, key crypto.PrivateKey) (certPEM, keyPEM []byte, err error) {
	if certPEM, err = certutil.EncodeCertificates(cert); err != nil {
		return nil, nil, fmt.Errorf("encoding a certificate: %w", err)
	}
	if keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		return nil, nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return certPEM, keyPEM, nil
}
