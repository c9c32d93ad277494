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
	"net/http"
	"strings"
	"testing"

	"github.com/leat-dev/leat/test/kit"
)

// testHealth checks the health endpoints and the access to metrics.
func testHealth(t *testing.T, e *kit.Env) {
	nobody := e.Anonymous(t)
	checks := map[string][]string{
		"/livez": {"ping", "etcd", "poststarthook/start-apiserver-admission-initializer", "poststarthook/generic-apiserver-start-informers"},
		"/readyz": {"ping", "etcd", "etcd-readiness", "informer-sync", "poststarthook/start-apiserver-admission-initializer",
			"poststarthook/generic-apiserver-start-informers", "poststarthook/priority-and-fairness-config-consumer",
			"poststarthook/priority-and-fairness-filter", "poststarthook/storage-object-count-tracker-hook", "shutdown"},
	}
	if !e.Standalone() {
		checks["/readyz"] = append(checks["/readyz"], "authentication-config", "grants/namespaces", "grants/resourcequotas/status",
			"grants/subjectaccessreviews.authorization.k8s.io", "grants/configmaps/kube-system/extension-apiserver-authentication")
	}
	for path, checks := range checks {
		t.Run(path+" lists its checks", func(t *testing.T) {
			got := kit.Do(t, nobody, http.MethodGet, path+"?verbose", "")
			if got.Code != http.StatusOK {
				t.Fatalf("got %s, want 200", got)
			}
			for _, check := range checks {
				if !strings.Contains(got.Body, "[+]"+check+" ok\n") {
					t.Errorf("check %s: want it ok, got\n%s", check, got.Body)
				}
			}
		})
	}

	t.Run("metrics need a grant", func(t *testing.T) {
		reader := e.Direct(t, "prometheus", "system:monitoring")
		if e.Standalone() {
			reader = e.Admin(t)
		}
		got := kit.Do(t, reader, http.MethodGet, "/metrics", "")
		if got.Code != http.StatusOK || !strings.Contains(got.Body, "\napiserver_request_total{") {
			t.Errorf("got %d with %d bytes, want 200 with metrics", got.Code, len(got.Body))
		}
		if got := kit.Do(t, e.Direct(t, "someone"), http.MethodGet, "/metrics", ""); got.Code != http.StatusForbidden {
			t.Errorf("as someone: got %s, want 403", got)
		}
	})
}
