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

package security

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// testPaths checks that no spelling of a path gets more than the plain path.
func testPaths(t *testing.T, e *kit.Env) {
	var mine, others string
	t.Run("mine", func(t *testing.T) { mine = e.Namespace(t) })
	t.Run("others", func(t *testing.T) { others = e.Namespace(t) })
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	kit.Must(admin.Tasks(mine).Create(t.Context(), newTask("own"), metav1.CreateOptions{}))(t)
	created := kit.Must(admin.Tasks(others).Create(t.Context(), newTask("one"), metav1.CreateOptions{}))(t)
	e.BindClusterRole(t, mine, "insider", "leat:edit", kit.UserSubject("insider"))
	role(t, e, "inspector", rbacv1.PolicyRule{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}})
	e.BindClusterRole(t, "", "inspector", "inspector", kit.UserSubject("inspector"))

	for _, port := range ports(e) {
		t.Run("anonymous "+port.name, func(t *testing.T) { anonymousPaths(t, port) })
		t.Run("spellings "+port.name, func(t *testing.T) { spellings(t, port, mine, others) })
	}
	if one := kit.Must(admin.Tasks(others).Get(t.Context(), "one", metav1.GetOptions{}))(t); one.DeletionTimestamp != nil || !maps.Equal(one.Labels, created.Labels) {
		t.Errorf("the task in the other namespace was changed: %v", one.ObjectMeta)
	}
	if list := kit.Must(admin.Tasks(others).List(t.Context(), metav1.ListOptions{}))(t); len(list.Items) != 1 {
		t.Errorf("got %d tasks in the other namespace, want 1", len(list.Items))
	}
}

// anonymousPaths requests all paths in the index of the server, and more, with all methods and without credentials.
func anonymousPaths(t *testing.T, port port) {
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"}
	// The role system:public-info-viewer of the host allows these to everyone. Our server does not authorize health
	// checks, with any method.
	public := []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}
	open := func(method, path string) bool {
		atServer := port.name == "at the server" && path != "/version" && path != "/version/"
		return slices.Contains(public, path) && (method == "GET" || atServer)
	}
	inspector, anonymous := port.as(t, "inspector"), &persistent{config: port.anonymous(t)}
	var index struct{ Paths []string }
	kit.Eventually(t, "the inspector sees all paths", func(context.Context) error {
		got := ask(t, inspector, "GET", "/")
		if got.code != http.StatusOK {
			return errors.New(got.String())
		}
		return json.Unmarshal([]byte(got.body), &index)
	})
	for _, path := range []string{"/apis/batch.leat.dev/v1alpha1", "/metrics", "/openapi/v3"} {
		if !slices.Contains(index.Paths, path) {
			t.Errorf("got paths %q, want %s among them", index.Paths, path)
		}
	}
	more := []string{
		"/", "//", "/index.html", "/api", "/api/v1", "/apis/", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/flags/v", "/configz", "/flagz", "/statusz", "/logs",
		"/healthz/", "/healthz/ping", "/healthz/../metrics", "/healthz/%2e%2e/metrics", "/healthz%2f..%2fmetrics", "/healthz;/../metrics", "//metrics", "/./metrics", "/METRICS",
		"/metrics/", "/livez/../apis", "/version/../metrics", "/%6detrics", "/metrics%00", "/metrics;a=b", "/openapi", "/.well-known/openid-configuration",
	}
	for _, path := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(index.Paths, more)))) {
		for _, method := range methods {
			got := anonymous.ask(t, method, path)
			want := open(method, path)
			if opened := got.code != 0 && got.code < 400; opened != want || opened && strings.HasSuffix(path, "z") && method != "HEAD" && got.body != "ok" {
				t.Errorf("%s %s without credentials: got %s, want public access %t", method, path, got, want)
			}
		}
	}
}

// spellings requests objects of another namespace, as a user who may edit one namespace, and without credentials.
func spellings(t *testing.T, port port, mine, others string) {
	insider := port.as(t, "insider")
	kit.Eventually(t, "the insider may read its namespace", func(context.Context) error {
		if got := ask(t, insider, "GET", tasksPath(mine)+"/own"); got.code != http.StatusOK || !strings.Contains(got.body, marked) {
			return errors.New(got.String())
		}
		return nil
	})
	// M is the namespace of the insider, O the other one.
	paths := []string{
		"/namespaces/O/tasks", "/namespaces/O/tasks/one", "/tasks", "/watch/tasks?timeoutSeconds=1", "/watch/namespaces/O/tasks?timeoutSeconds=1", "/namespaces/O/tasks?watch=true&timeoutSeconds=1",
		"/namespaces/O/tasks/one/", "/namespaces/O//tasks/one", "//namespaces/O/tasks/one", "/namespaces//O/tasks/one", "/namespaces/O/tasks//one",
		"/namespaces/M/../O/tasks", "/namespaces/M/../O/tasks/one", "/namespaces/M/tasks/../../O/tasks/one", "/namespaces/M/./../O/tasks/one", "/namespaces/M/../../tasks",
		"/namespaces/M/%2e%2e/O/tasks/one", "/namespaces/M/%2E%2E/O/tasks/one", "/namespaces/M%2f..%2fO/tasks/one", "/namespaces/M%2F%2E%2E%2FO/tasks/one",
		"/namespaces/M/tasks/..%2f..%2fO%2ftasks%2fone", "/namespaces/M/tasks/..%2fO%2fone", "/namespaces/M/tasks/%2e%2e%2fO%2fone", "/namespaces/M/tasks/..%252fO%252fone", "/namespaces/..%2ftasks%2fO/tasks/one",
		`/namespaces/M/..\O/tasks/one`, "/namespaces/M%5c..%5cO/tasks/one",
		"/namespaces/O;x=y/tasks/one", "/namespaces/M;/../O/tasks/one", "/namespaces/O/tasks;x=y/one", "/namespaces/M;O/tasks/one",
		"/namespaces/O%00/tasks/one", "/namespaces/M%00O/tasks/one", "/namespaces/M/tasks/one%00/../../../O/tasks/one", "/namespaces/M/tasks/own%0d%0aX-Remote-User:%20alice/../../../O/tasks/one",
		"/namespaces/O%20/tasks/one", "/namespaces/%09O/tasks/one", "/namespaces/*/tasks", "/namespaces/-/tasks", "/namespaces/%2a/tasks/one", "/namespaces/M,O/tasks", "/namespaces/%2f/tasks",
		"/NAMESPACES/O/tasks/one", "/namespaces/O/TASKS/one", "/namespaces/O/Tasks", "/namespaces/O/t%61sks/one", "/n%61mespaces/O/tasks/one",
		"/namespaces/M/tasks/one?namespace=O", "/namespaces/M/tasks?fieldSelector=metadata.namespace%3DO", "/tasks?fieldSelector=metadata.namespace%3DM",
		"/proxy/namespaces/O/tasks/one", "/redirect/namespaces/O/tasks/one", "/proxy/watch/namespaces/O/tasks", "/namespaces/M/tasks/own/../../../O/tasks/one",
		"/namespaces/M/tasks/own/log/../../../../O/tasks/one", "/namespaces/O/tasks/one/log", "/namespaces/O/tasks/one/status", "/namespaces/O/tasks/one/..%2fone",
		"/namespaces/O/tasks/one?", "/namespaces/O/tasks/one%3f", "/namespaces/M?/../O/tasks/one", "/namespaces/M/tasks/own%3f/../../O/tasks/one",
		"/namespaces/" + strings.Repeat("x", 10_000) + "/../O/tasks/one", "/namespaces/M/" + strings.Repeat("../O/", 2_000) + "tasks/one",
	}
	prefixes := []string{
		groupPath, "/" + groupPath, "/healthz/.." + groupPath, "/apis/../apis/batch.leat.dev/v1alpha1", "/apis/./batch.leat.dev/v1alpha1", "/APIS/batch.leat.dev/v1alpha1", "/apis/BATCH.leat.dev/v1alpha1",
		"/apis/batch.leat.dev%2fv1alpha1", "https://other.example.com" + groupPath,
	}
	for name, config := range map[string]*rest.Config{"the insider": insider, "anonymous": port.anonymous(t)} {
		connection := &persistent{config: config}
		for i, prefix := range prefixes {
			for _, path := range paths {
				target := prefix + strings.NewReplacer("M", mine, "O", others).Replace(path)
				for _, method := range []string{"GET", "DELETE", "PATCH", "POST"} {
					// The path is parsed before the method and the identity matter.
					if i > 0 && (method != "GET" || name == "anonymous") {
						continue
					}
					var got answer
					switch method {
					case "POST":
						got = connection.post(t, target, taskJSON)
					case "PATCH":
						const patch = `{"metadata":{"labels":{"a":"b"}}}`
						got = connection.send(t, method, head(config, method, target, "Content-Type: application/merge-patch+json", "Content-Length: 33")+patch)
					default:
						got = connection.ask(t, method, target)
					}
					// A list of its namespace that selects another one is allowed, and empty.
					own := path == "/namespaces/M/tasks?fieldSelector=metadata.namespace%3DO" && name == "the insider"
					if got.code < 400 && !own {
						t.Errorf("%s %.200s by %s: got %s, want an error", method, target, name, got)
					}
					if strings.Contains(got.body, marked) {
						t.Errorf("%s %.200s by %s: the answer has the secret", method, target, name)
					}
				}
			}
		}
	}
}
