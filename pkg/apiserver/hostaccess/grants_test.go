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

package hostaccess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes/fake"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/config"
	"github.com/leat-dev/leat/pkg/apiserver/admission"
)

// grantsOf returns the grants that a server with these flags requires, as "<verb> <resource>" by role.
func grantsOf(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	options := genericoptions.NewRecommendedOptions("/leat", nil)
	if err := admission.Configure(options.Admission); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
		"contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}`
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	options.AddFlags(flags)
	args = append([]string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
	}, args...)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	grants, err := requiredGrants(options)
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

// TestRolesHoldExactlyTheGrants compares the grants with the roles in config/base/rbac. A role with less keeps the
// server unready, and one with more is a risk if the server is taken over.
func TestRolesHoldExactlyTheGrants(t *testing.T) {
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
	required := grantsOf(t)
	if got := required[ownRole]; !slices.Equal(got, granted) {
		t.Errorf("%s grants\n%s\nand the server requires\n%s", ownRole, strings.Join(granted, "\n"), strings.Join(got, "\n"))
	}
	slices.Sort(bound)
	if roles := slices.Sorted(maps.Keys(required)); !slices.Equal(roles, bound) {
		t.Errorf("the bound roles are %q, and the server requires %q", bound, roles)
	}
}

func TestGrantsFollowTheFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		gone []string
	}{
		{"disabled plugin", []string{"--disable-admission-plugins=ResourceQuota"}, []string{
			"list resourcequotas", "update resourcequotas/status", "watch resourcequotas",
		}},
		{"disabled plugins whose grants others require", []string{"--disable-admission-plugins=NamespaceLifecycle,LiveNamespace"}, nil},
		{"without priority and fairness", []string{"--enable-priority-and-fairness=false"}, []string{
			"list flowschemas.flowcontrol.apiserver.k8s.io", "list prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
			"watch flowschemas.flowcontrol.apiserver.k8s.io", "watch prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
		}},
		{"CA bundles in files", []string{"--client-ca-file=ca.crt", "--requestheader-client-ca-file=ca.crt"}, []string{
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
				t.Errorf("the server does not require %q, want %q", gone, test.gone)
			}
		})
	}
}

// reviews is a host that denies verbs, or fails.
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

func TestGrantStates(t *testing.T) {
	host := &reviews{}
	g := &grant{
		Grant: admission.Grant{Resource: schema.GroupResource{Group: "apps", Resource: "things"}, Verbs: []string{"list", "watch"}},
		role:  "Role r", reviews: host.client(),
	}
	down := errors.New("down")
	const missing = "the server's service account may not watch things.apps: apply Role r and its binding, as in config/base/rbac/apiserver.yaml"
	for i, step := range []struct {
		name     string
		host     reviews
		complete bool
		err      string
	}{
		{"unknown, host down", reviews{err: down}, false, "the host has not answered yet whether it grants list, watch of things.apps"},
		{"unknown, denied", reviews{denied: []string{"watch"}}, false, missing},
		{"missing, host down", reviews{err: down}, false, missing},
		{"missing, allowed", reviews{}, true, ""},
		{"present, host down", reviews{err: down}, false, ""},
		{"present, denied", reviews{denied: []string{"watch"}}, false, ""},
		{"unconfirmed, allowed", reviews{}, true, ""},
		{"present, denied again", reviews{denied: []string{"watch"}}, false, ""},
		{"unconfirmed, denied", reviews{denied: []string{"watch"}}, false, missing},
		{"missing, allowed again", reviews{}, true, ""},
	} {
		*host = step.host
		if got := reviewAll(context.Background(), []*grant{g}); got != step.complete {
			t.Errorf("step %d, %s: complete is %t", i, step.name, got)
		}
		if got := message(g.check()); got != step.err {
			t.Errorf("step %d, %s: the check returned %q, want %q", i, step.name, got, step.err)
		}
	}
}

func TestForbiddenAsNotFound(t *testing.T) {
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
			transport := ForbiddenAsNotFound(roundTripperFunc(func(*http.Request) (*http.Response, error) {
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
				t.Errorf("got body %q, %v", body, err)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
