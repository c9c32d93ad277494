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

package board

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
)

// NewToken returns the random part of the address of a page: 128 bits.
func NewToken() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	return hex.EncodeToString(random)
}

// contentSecurityPolicy lets a page load what this server serves and nothing else. Texts cannot become markup: the
// browser refuses to parse strings.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// guard answers only requests of the person who was shown the address.
//
// The token in the path is the only credential: browsers keep cookies for a host and not for a port, so another server
// on this machine would receive them. A page of another origin does not know the token, and the address reaches no
// other site, because links send no referrer.
type guard struct {
	token string
	// next gets requests whose path is the rest after the token and a slash.
	next http.Handler
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	for name, value := range map[string]string{
		"Content-Security-Policy":      contentSecurityPolicy,
		"Referrer-Policy":              "no-referrer",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cache-Control":                "no-store",
	} {
		header.Set(name, value)
	}
	token, path, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case !isLoopback(r.Host):
		// A name of another site that resolves to this machine.
		http.Error(w, "Use the address that leat board has printed.", http.StatusMisdirectedRequest)
	case r.Method != http.MethodGet:
		header.Set("Allow", http.MethodGet)
		http.Error(w, "This page only reads: use GET.", http.StatusMethodNotAllowed)
	case !found || subtle.ConstantTimeCompare([]byte(token), []byte(g.token)) != 1:
		http.NotFound(w, r)
	case fromElsewhere(r):
		http.Error(w, "Requests of other pages are not answered.", http.StatusForbidden)
	default:
		inner := r.Clone(r.Context())
		inner.URL.Path, inner.URL.RawPath = path, ""
		g.next.ServeHTTP(w, inner)
	}
}

// isLoopback reports whether the host of a request, with or without a port, is this machine.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	address := net.ParseIP(strings.Trim(host, "[]"))
	return address != nil && address.IsLoopback()
}

// fromElsewhere reports whether a page of another origin has sent the request. A person may follow a link to the page
// from anywhere.
func fromElsewhere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
}
