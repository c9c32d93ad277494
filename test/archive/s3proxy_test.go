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

package archive

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// fault answers a request in place of the S3 server, which forward leads to.
type fault func(w http.ResponseWriter, r *http.Request, forward http.Handler)

// s3Proxy is an HTTP proxy in front of an S3 server, which injects a fault.
type s3Proxy struct {
	url string

	mu    sync.Mutex
	fault fault
}

// newS3Proxy starts a proxy without a fault until the test ends.
func newS3Proxy(t *testing.T, s3 *host.S3) *s3Proxy {
	t.Helper()
	target := kit.Must(url.Parse(s3.Endpoint))(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(kit.Must(os.ReadFile(s3.CAFile))(t))
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	p := &s3Proxy{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		fault := p.fault
		p.mu.Unlock()
		if fault == nil {
			fault = pass
		}
		fault(w, r, forward)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// set replaces the fault. Nil means none. It does not change the answers to requests that have begun.
func (p *s3Proxy) set(fault fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// flags returns the flags of a server that uses the S3 server through the proxy.
func (p *s3Proxy) flags(s3 *host.S3) []string {
	return []string{"--archive-s3-endpoint=" + p.url, "--archive-s3-credentials-file=" + s3.CredentialsFile}
}

func pass(w http.ResponseWriter, r *http.Request, forward http.Handler) { forward.ServeHTTP(w, r) }

// refusing returns a fault that answers with an error of S3.
func refusing(status int, code string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
		}
	}
}

// cutRequest reads the first half of the body and closes the connection.
func cutRequest(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// cutAnswer sends the first half of the body of an answer and closes the connection.
func cutAnswer(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	whole := httptest.NewRecorder()
	forward.ServeHTTP(whole, r)
	for name, values := range whole.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// ofUploads applies a fault to requests that store an object only.
func ofUploads(f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if r.Method == http.MethodPut {
			f(w, r, forward)
		} else {
			forward.ServeHTTP(w, r)
		}
	}
}
