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

// Package pki is the certificate authority of a standalone server. It creates a CA, stores it in two files, and issues
// client and serving certificates.
//
// All keys are ECDSA P-256. A CA is valid for ten years, a leaf certificate for one year or until its CA expires. Leaf
// certificates are neither revoked nor renewed: a standalone server issues new ones at each start. Certificates are
// valid from an hour before their creation, so that peers with a slow clock accept them.
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

// NewCA returns a self-signed authority with a new key, valid for ten years. commonName becomes the issuer of its
// certificates and must not be empty.
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

// LoadCA reads an authority from the files with its CertPEM and KeyPEM. It returns an error if the certificate is not
// that of a CA, is not valid now, or does not match the key. If either file is missing, the error is fs.ErrNotExist,
// and the caller can create a new authority.
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

// CertPEM returns the certificate of the CA, with which peers verify others. The caller must not modify it.
func (ca *CA) CertPEM() []byte { return ca.certPEM }

// KeyPEM returns the private key of the CA, for storage only. The caller must not modify it.
func (ca *CA) KeyPEM() []byte { return ca.keyPEM }

// IssueClient returns a client certificate, valid for one year, that authenticates as user in groups. They are its
// common name and organizations, as the Kubernetes x509 authenticator reads them. It is not a serving certificate.
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

// IssueServer returns a serving certificate, valid for one year, for one or more DNS names and IP addresses. A DNS name
// may begin with "*.". It is not a client certificate.
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

// issue completes a leaf certificate with a new key and signs it.
func (ca *CA) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template.NotBefore = now.Add(-clockSkew)
	template.NotAfter = now.Add(leafLifetime)
	// A leaf that outlives its CA would fail to verify while it looks valid.
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

// sign sets a random serial number and signs template with parent, or self-signs it if parent is nil.
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
