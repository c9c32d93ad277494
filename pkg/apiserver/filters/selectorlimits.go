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
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// maxTerms and maxValues bound the terms of a selector, and the values of all its terms together. Every object
	// of a list is matched against every term, and every change against the terms of all watches.
	maxTerms, maxValues = 1_000, 10_000
)

// WithSelectorLimits refuses requests with label or field selectors of too many terms or values, before they are
// parsed.
func WithSelectorLimits(handler http.Handler, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if len(req.URL.RawQuery) > maxTerms { // a term has at least one character
			query := req.URL.Query()
			for _, name := range []string{"labelSelector", "fieldSelector"} {
				for _, selector := range query[name] {
					if terms, values := countTerms(selector); terms > maxTerms || values > maxValues {
						writeError(w, req, codecs, apierrors.NewBadRequest(fmt.Sprintf(
							"%s has %d terms with %d values: at most %d terms with %d values are accepted: send several requests, each with a part of them",
							name, terms, values, maxTerms, maxValues)))
						return
					}
				}
			}
		}
		handler.ServeHTTP(w, req)
	})
}

// countTerms returns the number of terms of a selector, and the number of values of all terms.
func countTerms(selector string) (terms, values int) {
	terms, values = 1, 1
	open := false
	for _, c := range []byte(selector) {
		switch c {
		case '(':
			open = true
		case ')':
			open = false
		case ',':
			values++
			if !open {
				terms++
			}
		}
	}
	return terms, values
}
