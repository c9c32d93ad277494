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
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

func TestTablesAreNotServedAsYAML(t *testing.T) {
	const table = ";as=Table;v=v1;g=meta.k8s.io"
	for accept, want := range map[string]string{
		"":                                    "",
		"application/yaml":                    "application/yaml",
		"application/yaml;q=0.5":              "application/yaml;q=0.5",
		"application/json" + table:            "application/json" + table,
		"application/yaml" + table:            "406",
		"application/yaml; as =Table;v=v1":    "406",
		"application/yaml;as=Table;;as=Table": "406",
		"application/yaml;v=v1;as=PartialObjectMetadataList;g=meta.k8s.io": "406",
		"application/yaml" + table + ",application/json" + table:           "application/json" + table,
		"application/yaml" + table + ", application/yaml":                  " application/yaml",
	} {
		t.Run(accept, func(t *testing.T) {
			handler := WithoutTransformedYAML(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.WriteString(w, req.Header.Get("Accept"))
			}), scheme.NewCodecs(scheme.Scheme))
			req := httptest.NewRequest(http.MethodGet, "/apis", nil)
			req.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			switch body := w.Body.String(); {
			case want == "406":
				if w.Code != http.StatusNotAcceptable || !strings.Contains(body, "accept JSON or protobuf") {
					t.Errorf("got %d: %s", w.Code, body)
				}
			case w.Code != http.StatusOK || body != want:
				t.Errorf("got %d, and Accept %q, want %q", w.Code, body, want)
			}
		})
	}
}
