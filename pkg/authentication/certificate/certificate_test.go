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

package certificate

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
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

var _ dynamiccertificates.Listener = &Memory{}

// TestWhatIsRemembered sends two requests, with something in between, and counts how often the delegate is asked.
func TestWhatIsRemembered(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cert := func(raw string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{Raw: []byte(raw), NotAfter: now.Add(life)}
	}
	ann, bob, intermediate := cert("ann", time.Hour), cert("bob", time.Hour), cert("intermediate", time.Hour)
	one := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	ofAnn := &authenticator.Response{User: &user.DefaultInfo{Name: "ann"}}
	refused := errors.New("who")
	for name, test := range map[string]struct {
		first, second   []*x509.Certificate
		header          http.Header             // of both
		plain           bool                    // without TLS
		says            *authenticator.Response // nil: nothing, or err
		err             error
		between         time.Duration
		authoritiesMove bool
		asked           int
	}{
		"the same certificate":               {first: one(ann), second: one(ann), says: ofAnn, asked: 1},
		"the same bytes, parsed again":       {first: one(ann), second: one(cert("ann", time.Hour)), says: ofAnn, asked: 1},
		"another certificate":                {first: one(ann), second: one(bob), says: ofAnn, asked: 2},
		"another intermediate":               {first: one(ann), second: one(ann, intermediate), says: ofAnn, asked: 2},
		"until then":                         {first: one(ann), second: one(ann), between: remembered - 1, says: ofAnn, asked: 1},
		"not for longer":                     {first: one(ann), second: one(ann), between: remembered + 1, says: ofAnn, asked: 2},
		"not for longer than it is valid":    {first: one(cert("c", time.Second)), second: one(cert("c", time.Second)), between: time.Second, says: ofAnn, asked: 2},
		"nor its intermediate":               {first: one(ann, cert("i", time.Second)), second: one(ann, cert("i", time.Second)), between: time.Second, says: ofAnn, asked: 2},
		"authorities that change":            {first: one(ann), second: one(ann), authoritiesMove: true, says: ofAnn, asked: 2},
		"one that is refused":                {first: one(ann), second: one(ann), err: refused, asked: 2},
		"one that nobody knows":              {first: one(ann), second: one(ann), asked: 2},
		"one of whom there is doubt":         {first: one(ann), second: one(ann), says: ofAnn, err: refused, asked: 2},
		"one of an authority not loaded yet": {first: one(ann), second: one(ann), says: &authenticator.Response{User: &user.DefaultInfo{Name: user.Anonymous}}, asked: 2},
		"no certificate":                     {says: ofAnn, asked: 2},
		"no TLS":                             {plain: true, says: ofAnn, asked: 2},
		"a token beside it":                  {first: one(ann), second: one(ann), header: http.Header{"Authorization": {"Bearer x"}}, says: ofAnn, asked: 2},
		"an empty token beside it":           {first: one(ann), second: one(ann), header: http.Header{"Authorization": {""}}, says: ofAnn, asked: 2},
		"a token in a WebSocket":             {first: one(ann), second: one(ann), header: http.Header{"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.eA"}}, says: ofAnn, asked: 2},
		"a user of a front proxy":            {first: one(ann), second: one(ann), header: http.Header{"X-Remote-User": {"root"}}, says: ofAnn, asked: 2},
		"another header of such":             {first: one(ann), second: one(ann), header: http.Header{"X-Who": {"root"}}, says: ofAnn, asked: 2},
		"headers that do not count":          {first: one(ann), second: one(ann), header: http.Header{"X-Remote-Group": {"system:masters"}}, says: ofAnn, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			delegate := authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
				asked++
				return test.says, test.says != nil, test.err
			})
			clock := testingclock.NewFakePassiveClock(now)
			m := New(delegate, func() []string { return []string{"X-Remote-User", "X-Who"} }, clock)
			for i, chain := range [][]*x509.Certificate{test.first, test.second} {
				req := &http.Request{Header: test.header, TLS: &tls.ConnectionState{PeerCertificates: chain}}
				if test.plain {
					req.TLS = nil
				}
				response, ok, err := m.AuthenticateRequest(req)
				if response != test.says || ok != (test.says != nil) || !errors.Is(err, test.err) {
					t.Errorf("request %d: %v, %t, %v; the delegate says %v, %v", i, response, ok, err, test.says, test.err)
				}
				clock.SetTime(now.Add(test.between))
				if test.authoritiesMove {
					m.Enqueue()
				}
			}
			if asked != test.asked {
				t.Errorf("the delegate was asked %d times, want %d", asked, test.asked)
			}
		})
	}
}

// BenchmarkAuthenticate has upstream's authenticator check a certificate, and the memory in front of it remember it.
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
		"checked":    upstream,
		"remembered": New(upstream, func() []string { return []string{"X-Remote-User"} }, clock.RealClock{}),
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
