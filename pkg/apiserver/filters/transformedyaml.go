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
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// WithoutTransformedYAML removes media types that ask for tables or partial metadata in YAML from the Accept header,
// and refuses requests that accept nothing else. Large lists in YAML cost too much, and upstream encodes tables and
// partial metadata with codecs that all servers of the process share, so LimitCodecs cannot limit them.
func WithoutTransformedYAML(handler http.Handler, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if accept := req.Header.Get("Accept"); strings.Contains(accept, "yaml") {
			clauses := strings.Split(accept, ",")
			switch served := slices.DeleteFunc(slices.Clone(clauses), isTransformedYAML); {
			case len(served) == 0:
				writeError(w, req, codecs, notAcceptable("tables and partial metadata are not encoded as YAML: accept JSON or protobuf"))
				return
			case len(served) < len(clauses):
				req.Header.Set("Accept", strings.Join(served, ","))
			}
		}
		handler.ServeHTTP(w, req)
	})
}

// isTransformedYAML reports whether a clause of an Accept header is YAML with the parameter "as".
func isTransformedYAML(clause string) bool {
	parts := strings.Split(clause, ";")
	return strings.Contains(parts[0], "yaml") && slices.ContainsFunc(parts[1:], func(parameter string) bool {
		name, _, _ := strings.Cut(parameter, "=")
		return strings.TrimSpace(name) == "as"
	})
}
