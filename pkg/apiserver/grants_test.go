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

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/config"
	"github.com/leat-dev/leat/pkg/admission"
)

// grantsOf gives what a server with these flags asks its host for: the role, and then the verb and resource of each grant.
func grantsOf(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	applied := newFixture(t).apply(t, nil, args...)
	if applied.err != nil {
		t.Fatal(applied.err)
	}
	grants, err := applied.options.grants()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, g := range grants {
		for _, verb := range g.Verbs {
			all[g.role] = append(all[g.role], verb+" "+g.resource())
		}
	}
	for _, list := range all {
		slices.Sort(list)
	}
	return all
}

// A role that grants less keeps the server unready, and one that grants more gives it away to whoever takes the server over.
func TestWhatIsAskedForIsWhatTheRolesGrant(t *testing.T) {
	data, err := fs.ReadFile(config.RBAC(), "apiserver.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var granted []string
	var bound []string
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		var object struct {
			metav1.TypeMeta `json:",inline"`
			rbacv1.RoleRef  `json:"roleRef"`
			Rules           []rbacv1.PolicyRule `json:"rules"`
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object.RoleRef.Name != "" {
			bound = append(bound, object.RoleRef.Kind+" "+object.RoleRef.Name)
		}
		for _, rule := range object.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						granted = append(granted, strings.TrimSuffix(verb+" "+resource+"."+group, "."))
					}
				}
			}
		}
	}
	slices.Sort(granted)
	asked := grantsOf(t)
	if got := asked[ownRole]; !slices.Equal(got, granted) {
		t.Errorf("%s grants\n%s\nand the server asks for\n%s", ownRole, strings.Join(granted, "\n"), strings.Join(got, "\n"))
	}
	slices.Sort(bound)
	if roles := slices.Sorted(maps.Keys(asked)); !slices.Equal(roles, bound) {
		t.Errorf("the roles bound are %q, and the server asks for what is in %q", bound, roles)
	}
}

func TestWhatIsAskedForFollowsTheFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		gone []string
	}{
		{"a plugin that is off", []string{"--disable-admission-plugins=ResourceQuota"}, []string{
			"list resourcequotas", "update resourcequotas/status", "watch resourcequotas",
		}},
		{"what others need too", []string{"--disable-admission-plugins=NamespaceLifecycle,LiveNamespace"}, nil},
		{"no fairness", []string{"--enable-priority-and-fairness=false"}, []string{
			"list flowschemas.flowcontrol.apiserver.k8s.io", "list prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
			"watch flowschemas.flowcontrol.apiserver.k8s.io", "watch prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
		}},
		{"authorities by files", []string{"--client-ca-file=ca.crt", "--requestheader-client-ca-file=ca.crt"}, []string{
			"get configmaps/kube-system/extension-apiserver-authentication", "list configmaps/kube-system/extension-apiserver-authentication",
			"watch configmaps/kube-system/extension-apiserver-authentication",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			with := slices.Concat(slices.Collect(maps.Values(grantsOf(t, test.args...)))...)
			var gone []string
			for _, grants := range grantsOf(t) {
				for _, grant := range grants {
					if !slices.Contains(with, grant) {
						gone = append(gone, grant)
					}
				}
			}
			if slices.Sort(gone); !slices.Equal(gone, test.gone) {
				t.Errorf("it does not ask for %q, want %q", gone, test.gone)
			}
		})
	}
}

// reviews plays a host that denies verbs, or does not answer.
type reviews struct {
	denied []string
	err    error
}

func (r *reviews) client() authorizationclient.SelfSubjectAccessReviewInterface {
	client := &fake.Clientset{}
	client.AddReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		review.Status.Allowed = !slices.Contains(r.denied, review.Spec.ResourceAttributes.Verb)
		return true, review, r.err
	})
	return client.AuthorizationV1().SelfSubjectAccessReviews()
}

func TestGrantsAreReviewed(t *testing.T) {
	host := &reviews{}
	g := &grant{
		Grant: admission.Grant{Resource: schema.GroupResource{Group: "apps", Resource: "things"}, Verbs: []string{"list", "watch"}},
		role:  "Role r", reviews: host.client(),
	}
	away := errors.New("away")
	const lacks = "the server's service account may not watch things.apps: apply Role r and its binding, as in config/base/rbac/apiserver.yaml"
	for i, step := range []struct {
		why      string
		host     reviews
		complete bool
		err      string
	}{
		{"nothing is known while the host is away", reviews{err: away}, false, "the host has not said yet whether it grants list, watch of things.apps"},
		{"what is denied at first is missing", reviews{denied: []string{"watch"}}, false, lacks},
		{"it stays so while the host is away", reviews{err: away}, false, lacks},
		{"it is granted", reviews{}, true, ""},
		{"it stays so while the host is away", reviews{err: away}, false, ""},
		{"one denial is doubted", reviews{denied: []string{"watch"}}, false, ""},
		{"it was nothing", reviews{}, true, ""},
		{"one denial is doubted again", reviews{denied: []string{"watch"}}, false, ""},
		{"two are believed", reviews{denied: []string{"watch"}}, false, lacks},
		{"it is granted again", reviews{}, true, ""},
	} {
		*host = step.host
		if got := review(context.Background(), []*grant{g}); got != step.complete {
			t.Errorf("step %d, %s: complete is %t", i, step.why, got)
		}
		if got := message(g.err()); got != step.err {
			t.Errorf("step %d, %s: the check says %q, want %q", i, step.why, got, step.err)
		}
	}
}

func TestOnlyTheConfigMapOfAuthenticationIsLoadedLater(t *testing.T) {
	const path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
	for _, test := range []struct {
		method, path string
		answer, want int
	}{
		{http.MethodGet, path, http.StatusForbidden, http.StatusNotFound},
		{http.MethodGet, path, http.StatusOK, http.StatusOK},
		{http.MethodGet, path, http.StatusInternalServerError, http.StatusInternalServerError},
		{http.MethodDelete, path, http.StatusForbidden, http.StatusForbidden},
		{http.MethodGet, "/api/v1/namespaces/kube-system/configmaps", http.StatusForbidden, http.StatusForbidden},
	} {
		t.Run(fmt.Sprint(test.method, test.path, test.answer), func(t *testing.T) {
			transport := loadLater(roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: test.answer, Body: io.NopCloser(strings.NewReader("body"))}, nil
			}))
			request, err := http.NewRequestWithContext(t.Context(), test.method, "https://host"+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := transport.RoundTrip(request)
			if err != nil || response.StatusCode != test.want {
				t.Fatalf("got %v, %v, want %d", response, err, test.want)
			}
			if body, err := io.ReadAll(response.Body); err != nil || (len(body) == 0) != (test.answer != test.want) {
				t.Errorf("its body is %q, %v", body, err)
			}
		})
	}
}
