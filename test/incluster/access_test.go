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

// testStrangers: whoever is not known gets health and no more, whatever he says of himself.
func testStrangers(t *testing.T, e *kit.Env) {
	someone := e.Direct(t, "someone")
	foreign := e.Direct(t, "someone")
	var err error
	foreign.CertData, foreign.KeyData, err = kit.Must(pki.NewCA("stranger"))(t).IssueClient("alice", "leat:admins", "system:masters")
	kit.Check(t, err)

	t.Run("anonymous gets health only", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/livez", "/readyz"} {
			if got := ask(t, anonymous(t, e), http.MethodGet, path, ""); got.code != http.StatusOK {
				t.Errorf("%s answers %s", path, got)
			}
		}
		paths := []string{"/", "/apis", groupPath, tasksPath("default"), "/openapi/v2", "/openapi/v3", "/metrics", "/debug/pprof/", "/configz", "/flagz"}
		if e.Standalone() {
			paths = append(paths, "/version") // which a host's system:public-info-viewer opens to all
		}
		for _, path := range paths {
			if got := ask(t, anonymous(t, e), http.MethodGet, path, ""); got.code != stranger(e) {
				t.Errorf("%s answers %s", path, got)
			}
		}
	})

	t.Run("a certificate of a foreign authority is refused", func(t *testing.T) {
		for _, path := range []string{"/version", tasksPath("default")} {
			if got := ask(t, foreign, http.MethodGet, path, ""); got.code != http.StatusUnauthorized {
				t.Errorf("%s answers %s", path, got)
			}
		}
	})

	t.Run("identity headers count for nothing", func(t *testing.T) {
		claim := []string{"X-Remote-User", "alice", "X-Remote-Group", "leat:admins", "X-Remote-Group", "system:masters"}
		for _, config := range []*rest.Config{anonymous(t, e), foreign} {
			got := ask(t, config, http.MethodGet, tasksPath("default"), "", claim...)
			if got.code != http.StatusUnauthorized && !(got.code == http.StatusForbidden && strings.Contains(got.body, `User \"system:anonymous\"`)) {
				t.Errorf("without a certificate that is known it answers %s", got)
			}
		}
		if got := ask(t, someone, http.MethodGet, tasksPath("default"), "", claim...); got.code != http.StatusForbidden || !strings.Contains(got.body, `User \"someone\"`) {
			t.Errorf("to someone it answers %s", got)
		}
	})

	t.Run("impersonation is for who is granted it", func(t *testing.T) {
		got := ask(t, someone, http.MethodGet, tasksPath("default"), "", "Impersonate-User", "alice", "Impersonate-Group", "leat:admins")
		if got.code != http.StatusForbidden || !strings.Contains(got.body, "impersonate") {
			t.Errorf("it answers %s", got)
		}
	})
}

// stranger is what one who shows nothing is told: with a host, whose roles decide, that anonymous may not; else that one must be
// known.
func stranger(e *kit.Env) int {
	if e.Standalone() {
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

// roles are what the shipped roles allow, as the host's own roles of their names include them.
var roles = map[string]map[string]string{
	"view": {
		"tasks": "get list watch", "tasksets": "get list watch", "taskqueues": "get list watch", "workers": "get list watch",
		"tasks/log": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get",
	},
	"edit": {
		"tasks": everyVerb, "tasksets": everyVerb, "taskqueues": "get list watch", "workers": "get list watch",
		"tasks/log": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get patch update",
	},
	"admin": {
		"tasks": everyVerb, "tasksets": everyVerb, "taskqueues": everyVerb, "workers": "create delete get list patch update watch",
		"workerleases": "get list", "tasks/eviction": "create",
		"tasks/log": "get", "tasks/status": "get", "tasksets/status": "get", "taskqueues/status": "get", "workers/status": "get",
		"tasksets/scale": "get patch update",
	},
	"none": {},
}

// testHostRoles: what the host says one may do and what our server lets one do are the same, for every verb of every resource.
func testHostRoles(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	for role, allowed := range roles {
		t.Run(role, func(t *testing.T) {
			user := "person-of-" + role
			if role != "none" {
				grant(t, e, namespace, user, role)
			}
			asker, direct := kit.Must(kubernetes.NewForConfig(e.Person(t, user)))(t), e.Direct(t, user)
			verbs := map[string]string{"tasks/log": "get"}
			for resource, facts := range served {
				verbs[resource] = facts[0]
			}
			for resource, served := range verbs {
				for verb := range strings.FieldsSeq(served) {
					want := strings.Contains(" "+allowed[resource]+" ", " "+verb+" ")
					if got := canI(t, asker, namespace, verb, resource); got != want {
						t.Errorf("the host says that %s may %s %s: %t, want %t", role, verb, resource, got, want)
					}
					got := attempt(t, direct, namespace, verb, resource)
					if (got.code != http.StatusForbidden) != want {
						t.Errorf("the server answers %s to %s %s with %s; is it allowed: %t", role, verb, resource, got, want)
					}
				}
			}
		})
	}
}

// grant binds a role of the host to a user in the namespace.
func grant(t testing.TB, e *kit.Env, namespace, user, role string) {
	t.Helper()
	kit.Must(hostAdmin(t, e).RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	asker := kit.Must(kubernetes.NewForConfig(e.Person(t, user)))(t)
	kit.Eventually(t, "role "+role+" includes ours", func(context.Context) error {
		if !canI(t, asker, namespace, "get", "tasks") {
			return fmt.Errorf("%s may not get tasks", user)
		}
		return nil
	})
}

// canI is "kubectl auth can-i".
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

// attempt does what the verb says to an object that is not there, so that nothing comes of it where it is allowed.
func attempt(t testing.TB, config *rest.Config, namespace, verb, resource string) answer {
	t.Helper()
	resource, subresource, found := strings.Cut(resource, "/")
	all := groupPath + "/namespaces/" + namespace + "/" + resource
	one := all + "/none"
	if found {
		one += "/" + subresource
	}
	switch verb {
	case "get":
		return ask(t, config, http.MethodGet, one, "")
	case "list":
		return ask(t, config, http.MethodGet, all, "")
	case "watch":
		return ask(t, config, http.MethodGet, all+"?watch=true&resourceVersion=none", "")
	case "create":
		if found {
			return ask(t, config, http.MethodPost, one, "{}")
		}
		return ask(t, config, http.MethodPost, all, "{}")
	case "update":
		return ask(t, config, http.MethodPut, one, "{}")
	case "patch":
		return ask(t, config, http.MethodPatch, one, "{}", "Content-Type", "application/merge-patch+json")
	case "delete":
		return ask(t, config, http.MethodDelete, one, "")
	case "deletecollection":
		return ask(t, config, http.MethodDelete, all+"?fieldSelector=metadata.name%3Dnone", "")
	}
	t.Fatalf("unknown verb %q", verb)
	return answer{}
}
