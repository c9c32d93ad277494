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

package cachedx509

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// TestAuthenticateRequest sends two requests and counts the calls of the delegate.
func TestAuthenticateRequest(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cert := func(raw string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{Raw: []byte(raw), NotAfter: now.Add(life)}
	}
	ann, bob, intermediate := cert("ann", time.Hour), cert("bob", time.Hour), cert("intermediate", time.Hour)
	chain := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	isAnn := &authenticator.Response{User: &user.DefaultInfo{Name: "ann"}}
	isAnonymous := &authenticator.Response{User: &user.DefaultInfo{Name: user.Anonymous}}
	refused := errors.New("unknown authority")
	for name, test := range map[string]struct {
		first, second []*x509.Certificate
		header        http.Header // of both requests
		withoutTLS    bool
		response      *authenticator.Response // of the delegate
		err           error                   // of the delegate
		elapsed       time.Duration           // between the requests
		caChanged     bool                    // between the requests
		calls         int
	}{
		"same certificate":                {first: chain(ann), second: chain(ann), response: isAnn, calls: 1},
		"same bytes, parsed again":        {first: chain(ann), second: chain(cert("ann", time.Hour)), response: isAnn, calls: 1},
		"different certificate":           {first: chain(ann), second: chain(bob), response: isAnn, calls: 2},
		"different intermediate":          {first: chain(ann), second: chain(ann, intermediate), response: isAnn, calls: 2},
		"before the TTL":                  {first: chain(ann), second: chain(ann), elapsed: ttl - 1, response: isAnn, calls: 1},
		"after the TTL":                   {first: chain(ann), second: chain(ann), elapsed: ttl + 1, response: isAnn, calls: 2},
		"after the certificate's expiry":  {first: chain(cert("c", time.Second)), second: chain(cert("c", time.Second)), elapsed: time.Second, response: isAnn, calls: 2},
		"after the intermediate's expiry": {first: chain(ann, cert("i", time.Second)), second: chain(ann, cert("i", time.Second)), elapsed: time.Second, response: isAnn, calls: 2},
		"CA bundle changed":               {first: chain(ann), second: chain(ann), caChanged: true, response: isAnn, calls: 2},
		"refused":                         {first: chain(ann), second: chain(ann), err: refused, calls: 2},
		"unknown":                         {first: chain(ann), second: chain(ann), calls: 2},
		"response and error":              {first: chain(ann), second: chain(ann), response: isAnn, err: refused, calls: 2},
		"anonymous":                       {first: chain(ann), second: chain(ann), response: isAnonymous, calls: 2},
		"no certificate":                  {response: isAnn, calls: 2},
		"no TLS":                          {withoutTLS: true, response: isAnn, calls: 2},
		"with a token":                    {first: chain(ann), second: chain(ann), header: http.Header{"Authorization": {"Bearer x"}}, response: isAnn, calls: 2},
		"with an empty token":             {first: chain(ann), second: chain(ann), header: http.Header{"Authorization": {""}}, response: isAnn, calls: 2},
		"with a token in a WebSocket":     {first: chain(ann), second: chain(ann), header: http.Header{"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.eA"}}, response: isAnn, calls: 2},
		"with a front proxy's user":       {first: chain(ann), second: chain(ann), header: http.Header{"X-Remote-User": {"root"}}, response: isAnn, calls: 2},
		"with another user header":        {first: chain(ann), second: chain(ann), header: http.Header{"X-Who": {"root"}}, response: isAnn, calls: 2},
		"with headers that name no user":  {first: chain(ann), second: chain(ann), header: http.Header{"X-Remote-Group": {"system:masters"}}, response: isAnn, calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			delegate := authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
				calls++
				return test.response, test.response != nil, test.err
			})
			clock := testingclock.NewFakePassiveClock(now)
			a := New(delegate, func() []string { return []string{"X-Remote-User", "X-Who"} }, clock)
			for i, chain := range [][]*x509.Certificate{test.first, test.second} {
				req := &http.Request{Header: test.header, TLS: &tls.ConnectionState{PeerCertificates: chain}}
				if test.withoutTLS {
					req.TLS = nil
				}
				response, ok, err := a.AuthenticateRequest(req)
				if response != test.response || ok != (test.response != nil) || !errors.Is(err, test.err) {
					t.Errorf("request %d: got %v, %t, %v; want %v, %v", i, response, ok, err, test.response, test.err)
				}
				clock.SetTime(now.Add(test.elapsed))
				if test.caChanged {
					a.Enqueue()
				}
			}
			if calls != test.calls {
				t.Errorf("got %d calls of the delegate, want %d", calls, test.calls)
			}
		})
	}
}

// BenchmarkAuthenticate compares upstream's authenticator with the cache in front of it.
func BenchmarkAuthenticate(b *testing.B) {
	ca, err := pki.NewCA("bench")
	if err != nil {
		b.Fatal(err)
	}
	data, _, err := ca.IssueClient("ann", "people")
	if err != nil {
		b.Fatal(err)
	}
	block, _ := pem.Decode(data)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	options := x509request.DefaultVerifyOptions()
	options.Roots = x509.NewCertPool()
	options.Roots.AppendCertsFromPEM(ca.CertPEM())
	upstream := x509request.New(options, x509request.CommonNameUserConversion)
	req := (&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}).WithContext(b.Context())
	for name, a := range map[string]authenticator.Request{
		"upstream": upstream,
		"cached":   New(upstream, func() []string { return []string{"X-Remote-User"} }, clock.RealClock{}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, err := a.AuthenticateRequest(req); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
