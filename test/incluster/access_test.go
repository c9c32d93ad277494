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
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// testStrangers checks that a client without valid credentials reaches the health endpoints and nothing else, whatever
// identity its headers claim.
func testStrangers(t *testing.T, e *kit.Env) {
	someone := e.Direct(t, "someone")
	foreign := e.Direct(t, "someone")
	var err error
	foreign.CertData, foreign.KeyData, err = kit.Must(pki.NewCA("stranger"))(t).IssueClient("alice", "leat:admins", "system:masters")
	kit.Check(t, err)

	t.Run("anonymous requests reach health endpoints only", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/livez", "/readyz"} {
			if got := kit.Do(t, e.Anonymous(t), http.MethodGet, path, ""); got.Code != http.StatusOK {
				t.Errorf("GET %s: got %s, want 200", path, got)
			}
		}
		paths := []string{"/", "/apis", groupPath, tasksPath("default"), "/openapi/v2", "/openapi/v3", "/metrics", "/debug/pprof/", "/configz", "/flagz"}
		if e.Standalone() {
			paths = append(paths, "/version") // on a host, system:public-info-viewer allows it
		}
		for _, path := range paths {
			if got := kit.Do(t, e.Anonymous(t), http.MethodGet, path, ""); got.Code != deniedCode(e) {
				t.Errorf("GET %s: got %s, want %d", path, got, deniedCode(e))
			}
		}
	})

	t.Run("a certificate of another CA is rejected", func(t *testing.T) {
		for _, path := range []string{"/version", tasksPath("default")} {
			if got := kit.Do(t, foreign, http.MethodGet, path, ""); got.Code != http.StatusUnauthorized {
				t.Errorf("GET %s: got %s, want 401", path, got)
			}
		}
	})

	t.Run("identity headers are ignored", func(t *testing.T) {
		claim := []string{"X-Remote-User", "alice", "X-Remote-Group", "leat:admins", "X-Remote-Group", "system:masters"}
		for _, config := range []*rest.Config{e.Anonymous(t), foreign} {
			got := kit.Do(t, config, http.MethodGet, tasksPath("default"), "", claim...)
			if got.Code != http.StatusUnauthorized && !(got.Code == http.StatusForbidden && strings.Contains(got.Body, `User \"system:anonymous\"`)) {
				t.Errorf("without a valid certificate: got %s, want 401, or 403 for system:anonymous", got)
			}
		}
		if got := kit.Do(t, someone, http.MethodGet, tasksPath("default"), "", claim...); got.Code != http.StatusForbidden || !strings.Contains(got.Body, `User \"someone\"`) {
			t.Errorf("as someone: got %s, want 403 for someone", got)
		}
	})

	t.Run("impersonation needs a grant", func(t *testing.T) {
		got := kit.Do(t, someone, http.MethodGet, tasksPath("default"), "", "Impersonate-User", "alice", "Impersonate-Group", "leat:admins")
		if got.Code != http.StatusForbidden || !strings.Contains(got.Body, "impersonate") {
			t.Errorf("got %s, want 403 that names the verb impersonate", got)
		}
	})
}

// deniedCode returns the status of a denied request without credentials. On a host, system:anonymous is a user that the
// host's roles deny; standalone, the request is not authenticated.
func deniedCode(e *kit.Env) int {
	if e.Standalone() {
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

// roles has the verbs that the shipped roles allow, by resource. The host aggregates each into its own role of that
// name.
var roles = map[string]map[string]string{
	"view": {
		"tasks": "get list watch", "tasksets": "get list watch", "taskqueues": "get list watch", "workers": "get list watch",
		"tasks/log": "get", "tasks/records": "get", "tasksets/log": "get", "tasksets/records": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get",
	},
	"edit": {
		"tasks": everyVerb, "tasksets": everyVerb, "taskqueues": "get list watch", "workers": "get list watch",
		"tasks/log": "get", "tasks/records": "get", "tasksets/log": "get", "tasksets/records": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get patch update",
	},
	"admin": {
		"tasks": everyVerb, "tasksets": everyVerb, "taskqueues": everyVerb, "workers": "create delete get list patch update watch",
		"workerleases": "get list", "tasks/eviction": "create",
		"tasks/log": "get", "tasks/records": "get", "tasksets/log": "get", "tasksets/records": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get patch update",
	},
	"none": {},
}

// testHostRoles checks that an access review of the host and the server itself agree, for every verb of every resource.
func testHostRoles(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	for role, allowed := range roles {
		t.Run(role, func(t *testing.T) {
			user := "person-of-" + role
			if role != "none" {
				grant(t, e, namespace, user, role)
			}
			asker, direct := kit.Must(kubernetes.NewForConfig(e.Person(t, user)))(t), e.Direct(t, user)
			verbs := map[string]string{"tasks/log": "get", "tasks/records": "get", "tasksets/log": "get", "tasksets/records": "get", "workers/archive": "create"}
			for resource, facts := range served {
				verbs[resource] = facts[0]
			}
			for resource, served := range verbs {
				for verb := range strings.FieldsSeq(served) {
					want := strings.Contains(" "+allowed[resource]+" ", " "+verb+" ")
					if got := canI(t, asker, namespace, verb, resource); got != want {
						t.Errorf("access review of the host: %s may %s %s: got %t, want %t", role, verb, resource, got, want)
					}
					got := attempt(t, direct, namespace, verb, resource)
					if (got.Code != http.StatusForbidden) != want {
						t.Errorf("%s: %s %s at the server: got %s, want allowed: %t", role, verb, resource, got, want)
					}
				}
			}
		})
	}
}

// grant binds a ClusterRole of the host to a user in the namespace, and waits until it includes Leat's rules.
func grant(t testing.TB, e *kit.Env, namespace, user, role string) {
	t.Helper()
	kit.Must(e.HostClient(t).RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	asker := kit.Must(kubernetes.NewForConfig(e.Person(t, user)))(t)
	kit.Eventually(t, "ClusterRole "+role+" includes the rules for tasks", func(context.Context) error {
		if !canI(t, asker, namespace, "get", "tasks") {
			return fmt.Errorf("%s may not get tasks yet", user)
		}
		return nil
	})
}

// canI returns what "kubectl auth can-i" prints.
func canI(t testing.TB, client kubernetes.Interface, namespace, verb, resource string) bool {
	t.Helper()
	resource, subresource, _ := strings.Cut(resource, "/")
	review := kit.Must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Subresource: subresource, Namespace: namespace,
		}},
	}, metav1.CreateOptions{}))(t)
	return review.Status.Allowed
}

// attempt sends a request with the verb for an object that does not exist, so that an allowed request changes nothing.
func attempt(t testing.TB, config *rest.Config, namespace, verb, resource string) kit.Response {
	t.Helper()
	resource, subresource, found := strings.Cut(resource, "/")
	all := groupPath + "/namespaces/" + namespace + "/" + resource
	one := all + "/none"
	if found {
		one += "/" + subresource
	}
	switch verb {
	case "get":
		return kit.Do(t, config, http.MethodGet, one, "")
	case "list":
		return kit.Do(t, config, http.MethodGet, all, "")
	case "watch":
		return kit.Do(t, config, http.MethodGet, all+"?watch=true&resourceVersion=none", "")
	case "create":
		if found {
			return kit.Do(t, config, http.MethodPost, one, "{}")
		}
		return kit.Do(t, config, http.MethodPost, all, "{}")
	case "update":
		return kit.Do(t, config, http.MethodPut, one, "{}")
	case "patch":
		return kit.Do(t, config, http.MethodPatch, one, "{}", "Content-Type", "application/merge-patch+json")
	case "delete":
		return kit.Do(t, config, http.MethodDelete, one, "")
	case "deletecollection":
		return kit.Do(t, config, http.MethodDelete, all+"?fieldSelector=metadata.name%3Dnone", "")
	}
	t.Fatalf("unknown verb %q", verb)
	return kit.Response{}
}
