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

// Package certificate remembers for a few seconds whose a client certificate is. Checking its signature is a tenth of what the server
// does for a write, and a quarter of what it does for a read; a connection shows the same certificate with each of its requests.
package certificate

import (
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	// remembered is as long as tokens and their rights are.
	remembered = 10 * time.Second
	// size is the number of certificates at a time, of about 1 kB each: more clients than a server has connections for.
	size = 1 << 15
)

// Memory is an authenticator that keeps answers of another one. It is safe for concurrent use.
type Memory struct {
	delegate    authenticator.Request
	userHeaders func() []string
	clock       cache.Clock
	answers     *cache.LRUExpireCache
}

// New returns an authenticator that gives the delegate's answer to a certificate again for ten seconds, as long as the certificate has not
// expired. That holds for requests that show nothing else: neither a token nor any of userHeaders, which name users by a front proxy's word.
// All others are the delegate's, as are certificates that it refuses. That the client has the key is proven by each connection.
//
// The Memory is to be a listener of what holds the certificates of authorities: with Enqueue it forgets everything.
func New(delegate authenticator.Request, userHeaders func() []string, clock cache.Clock) *Memory {
	return &Memory{delegate: delegate, userHeaders: userHeaders, clock: clock, answers: cache.NewLRUExpireCacheWithClock(size, clock)}
}

// AuthenticateRequest implements authenticator.Request.
func (m *Memory) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if !m.onlyCertificate(req) {
		return m.delegate.AuthenticateRequest(req)
	}
	key, now := digest(req.TLS.PeerCertificates), m.clock.Now()
	if answer, ok := m.answers.Get(key); ok && now.Before(expiry(req.TLS.PeerCertificates)) {
		return answer.(*authenticator.Response), true, nil
	}
	response, ok, err := m.delegate.AuthenticateRequest(req)
	// Nobody is who has shown a certificate of an authority that is not known yet.
	if ok && err == nil && response.User.GetName() != user.Anonymous {
		m.answers.Add(key, response, remembered)
	}
	return response, ok, err
}

// Enqueue forgets all answers: the certificates of authorities may have changed.
func (m *Memory) Enqueue() {
	m.answers.RemoveAll(func(any) bool { return true })
}

func (m *Memory) onlyCertificate(req *http.Request) bool {
	shows := func(header string) bool { return len(req.Header.Values(header)) > 0 }
	// A WebSocket may carry a token among its protocols.
	return req.TLS != nil && len(req.TLS.PeerCertificates) > 0 &&
		!shows("Authorization") && !shows("Sec-WebSocket-Protocol") && !slices.ContainsFunc(m.userHeaders(), shows)
}

// digest is of all that was shown: whose a certificate is may depend on those that came with it.
func digest(chain []*x509.Certificate) (sum [sha256.Size]byte) {
	hash := sha256.New()
	for _, c := range chain {
		hash.Write(c.Raw) // DER tells its own length
	}
	hash.Sum(sum[:0])
	return sum
}

func expiry(chain []*x509.Certificate) time.Time {
	first := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}
