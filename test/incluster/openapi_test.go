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

package incluster

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// updateOpenAPI is the environment variable that makes the test write the published documents.
const updateOpenAPI = "UPDATE_OPENAPI"

// testPublishedOpenAPI checks that the documents in artifacts/openapi, which are for generators of clients, are those
// that the server serves.
func testPublishedOpenAPI(t *testing.T, e *kit.Env) {
	published := filepath.Join(kit.Must(host.RepositoryRoot())(t), "artifacts", "openapi")
	for path, name := range map[string]string{
		"/openapi/v2": "swagger.json",
		openAPIPath:   filepath.Join("v3", "apis__batch.leat.dev__v1alpha1_openapi.json"),
	} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			answer := kit.Do(t, e.Direct(t, "reader"), http.MethodGet, path, "", "Accept", "application/json")
			if answer.Code != http.StatusOK {
				t.Fatalf("GET %s: got %s, want 200", path, answer)
			}
			served, file := unversioned(t, answer.Body), filepath.Join(published, name)
			if os.Getenv(updateOpenAPI) != "" {
				kit.Check(t, os.MkdirAll(filepath.Dir(file), 0o755))
				kit.Check(t, os.WriteFile(file, served, 0o644))
				return
			}
			if !bytes.Equal(served, kit.Must(os.ReadFile(file))(t)) {
				t.Errorf("%s differs from %s of the server: run the test with %s=true and review the change", file, path, updateOpenAPI)
			}
		})
	}
}

// unversioned returns a document as it is published: indented and without the version of the build.
func unversioned(t testing.TB, document string) []byte {
	t.Helper()
	var fields map[string]any
	kit.Check(t, json.Unmarshal([]byte(document), &fields))
	info, ok := fields["info"].(map[string]any)
	if !ok {
		t.Fatalf("the document has no info: %.200s", document)
	}
	info["version"] = "unversioned"
	indented := kit.Must(json.MarshalIndent(fields, "", "  "))(t)
	return append(indented, '\n')
}
