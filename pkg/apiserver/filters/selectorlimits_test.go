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

package filters

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

func TestSelectorLimits(t *testing.T) {
	for name, test := range map[string]struct {
		selector      string
		terms, values int
		refused       bool
	}{
		"none":             {"", 1, 1, false},
		"one":              {"a=b", 1, 1, false},
		"terms and values": {"a in (b,c),!d,e notin (f,g,h)", 3, 6, false},
		"1,000 terms":      {strings.Repeat("a,", 999) + "a", 1000, 1000, false},
		"1,001 terms":      {strings.Repeat("a,", 1000) + "a", 1001, 1001, true},
		"10,000 values":    {"a in (" + strings.Repeat("a,", 9_999) + "a)", 1, 10_000, false},
		"10,001 values":    {"a in (" + strings.Repeat("a,", 10_000) + "a)", 1, 10_001, true},
		"unclosed values":  {"a in (" + strings.Repeat("a,", 10_000), 1, 10_001, true},
	} {
		for _, parameter := range []string{"labelSelector", "fieldSelector"} {
			t.Run(name+" in "+parameter, func(t *testing.T) {
				if terms, values := countTerms(test.selector); terms != test.terms || values != test.values {
					t.Errorf("got %d terms with %d values, want %d with %d", terms, values, test.terms, test.values)
				}
				served := false
				handler := WithSelectorLimits(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }), scheme.NewCodecs(scheme.Scheme))
				req := httptest.NewRequest(http.MethodGet, "/", nil)
				query := req.URL.Query()
				query.Set(parameter, test.selector)
				req.URL.RawQuery = query.Encode()
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, req)
				if served == test.refused {
					t.Errorf("served: %t, want %t", served, !test.refused)
				}
				if test.refused && (w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), parameter+" has")) {
					t.Errorf("got status %d: %.200s", w.Code, w.Body)
				}
			})
		}
	}
}
