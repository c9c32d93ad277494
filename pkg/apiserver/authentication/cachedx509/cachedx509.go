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

// Package cachedx509 caches the authentication of client certificates for a few seconds. Verifying the signature takes
// a tenth of the time of a write, and a quarter of that of a read; a connection presents the same certificate with
// every request.
package cachedx509

import (
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

const (
	// ttl is the time that upstream caches tokens and their authorization for.
	ttl = 10 * time.Second
	// maxEntries bounds the cache, at about 1 kB an entry. It is more than the number of connections that a server
	// can hold.
	maxEntries = 1 << 15
)

// Authenticator caches the responses of a delegate by client certificate. It is safe for concurrent use.
type Authenticator struct {
	delegate    authenticator.Request
	userHeaders func() []string
	clock       cache.Clock
	responses   *cache.LRUExpireCache
}

var _ dynamiccertificates.Listener = &Authenticator{}

// New returns an authenticator that caches the delegate's response to a client certificate for ten seconds, but not
// past the certificate's expiry. It caches only requests without other credentials: no token and none of userHeaders,
// with which a front proxy names users. The TLS handshake of each connection proves that the client holds the key.
//
// Register the Authenticator as a listener of the provider of the client CA bundle.
func New(delegate authenticator.Request, userHeaders func() []string, clock cache.Clock) *Authenticator {
	return &Authenticator{
		delegate: delegate, userHeaders: userHeaders, clock: clock, responses: cache.NewLRUExpireCacheWithClock(maxEntries, clock),
	}
}

// AuthenticateRequest implements authenticator.Request.
func (a *Authenticator) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if !a.hasOnlyCertificate(req) {
		return a.delegate.AuthenticateRequest(req)
	}
	key, now := digest(req.TLS.PeerCertificates), a.clock.Now()
	if response, ok := a.responses.Get(key); ok && now.Before(notAfter(req.TLS.PeerCertificates)) {
		return response.(*authenticator.Response), true, nil
	}
	response, ok, err := a.delegate.AuthenticateRequest(req)
	// Do not cache anonymous: the client's CA may simply not have been loaded yet.
	if ok && err == nil && response.User.GetName() != user.Anonymous {
		a.responses.Add(key, response, ttl)
	}
	return response, ok, err
}

// Enqueue implements dynamiccertificates.Listener. It clears the cache, since the client CA bundle may have changed.
func (a *Authenticator) Enqueue() {
	a.responses.RemoveAll(func(any) bool { return true })
}

func (a *Authenticator) hasOnlyCertificate(req *http.Request) bool {
	has := func(header string) bool { return len(req.Header.Values(header)) > 0 }
	// A WebSocket may carry a token among its protocols.
	return req.TLS != nil && len(req.TLS.PeerCertificates) > 0 &&
		!has("Authorization") && !has("Sec-WebSocket-Protocol") && !slices.ContainsFunc(a.userHeaders(), has)
}

// digest returns the cache key of a chain. It covers the whole chain because verification may depend on the
// intermediates.
func digest(chain []*x509.Certificate) (sum [sha256.Size]byte) {
	hash := sha256.New()
	for _, c := range chain {
		hash.Write(c.Raw) // DER encodes its own length
	}
	hash.Sum(sum[:0])
	return sum
}

// notAfter returns the earliest expiry of the chain.
func notAfter(chain []*x509.Certificate) time.Time {
	earliest := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(earliest) {
			earliest = c.NotAfter
		}
	}
	return earliest
}
