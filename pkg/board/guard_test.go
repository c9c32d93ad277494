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
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGuardAnswersOnlyRequestsWithTheToken(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	var path string
	g := &guard{token: token, next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { path = r.URL.Path })}
	for _, test := range []struct {
		name, method, host, path string
		headers                  map[string]string
		want                     int
		inner                    string
	}{
		{name: "page", path: "/" + token + "/", want: 200},
		{name: "path below", path: "/" + token + "/board.js", want: 200, inner: "board.js"},
		{name: "deeper path", path: "/" + token + "/a/b", want: 200, inner: "a/b"},
		{name: "escaped path", path: "/" + token + "/%2e%2e/x", want: 200, inner: "../x"},
		{name: "localhost", host: "localhost:80", path: "/" + token + "/", want: 200},
		{name: "IPv6", host: "[::1]:80", path: "/" + token + "/", want: 200},
		{name: "IPv6 without port", host: "[::1]", path: "/" + token + "/", want: 200},
		{name: "no token", path: "/", want: 404},
		{name: "no slash", path: "/" + token, want: 404},
		{name: "other token", path: "/" + strings.Repeat("0", 32) + "/", want: 404},
		{name: "part of the token", path: "/" + token[:31] + "/", want: 404},
		{name: "token of capitals", path: "/" + strings.ToUpper(token) + "/", want: 404},
		{name: "token later in the path", path: "/x/" + token + "/", want: 404},
		{name: "file without token", path: "/board.js", want: 404},
		{name: "POST", method: "POST", path: "/" + token + "/", want: 405},
		{name: "HEAD", method: "HEAD", path: "/" + token + "/", want: 405},
		{name: "OPTIONS", method: "OPTIONS", path: "/" + token + "/", want: 405},
		{name: "other host", host: "evil.example", path: "/" + token + "/", want: 421},
		{name: "host that begins alike", host: "127.0.0.1.evil.example", path: "/" + token + "/", want: 421},
		{name: "host of the network", host: "192.168.0.1", path: "/" + token + "/", want: 421},
		{name: "no host", host: "-", path: "/" + token + "/", want: 421},
		{name: "own fetch", path: "/" + token + "/events", headers: map[string]string{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, want: 200, inner: "events"},
		{name: "typed address", path: "/" + token + "/", headers: map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, want: 200},
		{
			name: "followed link", path: "/" + token + "/", want: 200,
			headers: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
		},
		{
			name: "frame of another port", path: "/" + token + "/", want: 403,
			headers: map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
		},
		{name: "fetch of another port", path: "/" + token + "/events", headers: map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, want: 403},
		{name: "script of another site", path: "/" + token + "/board.js", headers: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, want: 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			path = "not called"
			if test.method == "" {
				test.method = http.MethodGet
			}
			r := httptest.NewRequest(test.method, "http://127.0.0.1:1234"+test.path, nil)
			switch test.host {
			case "":
			case "-":
				r.Host = ""
			default:
				r.Host = test.host
			}
			for name, value := range test.headers {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			if test.want != 200 {
				test.inner = "not called"
			}
			if w.Code != test.want || path != test.inner {
				t.Errorf("got status %d, path %q; want %d, %q", w.Code, path, test.want, test.inner)
			}
			for name, want := range map[string]string{
				"Content-Security-Policy": contentSecurityPolicy, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
				"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
			} {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if w.Header().Get("Set-Cookie") != "" || w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("got headers %v", w.Header())
			}
			if strings.Contains(w.Body.String(), token) {
				t.Errorf("the response has the token: %s", w.Body)
			}
		})
	}
}

func TestContentSecurityPolicyAllowsNothingInline(t *testing.T) {
	for _, refused := range []string{"unsafe", "http:", "https:", "data:", "*"} {
		if strings.Contains(contentSecurityPolicy, refused) {
			t.Errorf("the policy allows %s", refused)
		}
	}
	for _, wanted := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		if !strings.Contains(contentSecurityPolicy, wanted) {
			t.Errorf("the policy has no %s", wanted)
		}
	}
}

func TestTokensAreRandomAndHave128Bits(t *testing.T) {
	a, b := NewToken(), NewToken()
	if decoded, err := hex.DecodeString(a); err != nil || len(decoded) != 16 || a == b {
		t.Errorf("got %q and %q", a, b)
	}
}
