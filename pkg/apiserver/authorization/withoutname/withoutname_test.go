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

package withoutname

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	controller = "system:serviceaccount:leat-system:leat-controller-manager"
	person     = "jane"
)

// host answers SubjectAccessReviews over HTTP and records them.
type host struct {
	allows func(authorizationv1.SubjectAccessReviewSpec) bool
	denies func(authorizationv1.SubjectAccessReviewSpec) bool
	down   bool

	mu      sync.Mutex
	reviews []authorizationv1.SubjectAccessReviewSpec
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review authorizationv1.SubjectAccessReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.reviews = append(h.reviews, review.Spec)
	h.mu.Unlock()
	if h.down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	review.Status.Allowed = h.allows(review.Spec)
	review.Status.Denied = h.denies != nil && h.denies(review.Spec)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

func (h *host) names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := []string{}
	for _, review := range h.reviews {
		if review.ResourceAttributes == nil {
			names = append(names, review.NonResourceAttributes.Path)
		} else {
			names = append(names, review.ResourceAttributes.Name)
		}
	}
	return names
}

// newAuthorizer returns an authorizer over upstream's delegating authorizer, with its cache, and the host.
func newAuthorizer(t *testing.T, h *host) authorizer.Authorizer {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             time.Hour,
		DenyCacheTTL:              time.Hour,
		WebhookRetryBackoff:       &wait.Backoff{Steps: 1},
	}.New()
	if err != nil {
		t.Fatal(err)
	}
	return New(delegate, func(u user.Info) bool { return u.GetName() == controller })
}

func request(userName, verb, name string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: userName}, Verb: verb, Namespace: "ns", APIGroup: "batch.leat.dev", APIVersion: "v1alpha1",
		Resource: "tasks", Subresource: "binding", Name: name, ResourceRequest: true,
	}
}

func everything(authorizationv1.SubjectAccessReviewSpec) bool { return true }

func TestOneReviewForAllNames(t *testing.T) {
	for _, test := range []struct {
		user string
		want int
	}{{controller, 1}, {person, 1000}} {
		h := &host{allows: everything}
		a := newAuthorizer(t, h)
		for i := range 1000 {
			if decision, reason, err := a.Authorize(t.Context(), request(test.user, "create", fmt.Sprintf("task-%d", i))); decision != authorizer.DecisionAllow {
				t.Fatalf("got %s (%s, %v)", decision, reason, err)
			}
		}
		if got := len(h.names()); got != test.want {
			t.Errorf("%s: got %d reviews, want %d", test.user, got, test.want)
		}
	}
}

func TestAuthorize(t *testing.T) {
	onlyMine := func(spec authorizationv1.SubjectAccessReviewSpec) bool { return spec.ResourceAttributes.Name == "mine" }
	allNames := func(spec authorizationv1.SubjectAccessReviewSpec) bool { return spec.ResourceAttributes.Name == "" }
	for name, test := range map[string]struct {
		host  *host
		attrs authorizer.AttributesRecord
		want  authorizer.Decision
		asked []string
	}{
		"all names are granted":            {&host{allows: allNames}, request(controller, "create", "mine"), authorizer.DecisionAllow, []string{""}},
		"this name is granted":             {&host{allows: onlyMine}, request(controller, "create", "mine"), authorizer.DecisionAllow, []string{"", "mine"}},
		"another name is granted":          {&host{allows: onlyMine}, request(controller, "create", "yours"), authorizer.DecisionNoOpinion, []string{"", "yours"}},
		"denied without, allowed with it":  {&host{allows: onlyMine, denies: allNames}, request(controller, "create", "mine"), authorizer.DecisionAllow, []string{"", "mine"}},
		"request without a name":           {&host{allows: onlyMine}, request(controller, "list", ""), authorizer.DecisionNoOpinion, []string{""}},
		"user that does not match":         {&host{allows: allNames}, request(person, "create", "mine"), authorizer.DecisionNoOpinion, []string{"mine"}},
		"the host does not answer":         {&host{down: true}, request(controller, "create", "mine"), authorizer.DecisionNoOpinion, []string{""}},
		"no user":                          {&host{allows: onlyMine}, authorizer.AttributesRecord{Name: "mine", ResourceRequest: true}, authorizer.DecisionAllow, []string{"mine"}},
		"a path is not a resource's name ": {&host{allows: func(authorizationv1.SubjectAccessReviewSpec) bool { return false }}, authorizer.AttributesRecord{User: &user.DefaultInfo{Name: controller}, Name: "x", Path: "/metrics"}, authorizer.DecisionNoOpinion, []string{"/metrics"}},
	} {
		for _, conditions := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/conditions=%v", name, conditions), func(t *testing.T) {
				h := &host{allows: test.host.allows, denies: test.host.denies, down: test.host.down}
				a := newAuthorizer(t, h)
				got, _, err := a.Authorize(t.Context(), test.attrs)
				if conditions {
					h.reviews = nil
					a = newAuthorizer(t, h) // an empty cache
					aware := a.ConditionsAwareAuthorize(t.Context(), test.attrs)
					got, err = authorizer.DecisionNoOpinion, aware.Error()
					if aware.IsAllow() {
						got = authorizer.DecisionAllow
					}
				}
				if got != test.want || (err != nil) != test.host.down {
					t.Errorf("got %s (%v), want %s", got, err, test.want)
				}
				if asked := h.names(); !slices.Equal(asked, test.asked) {
					t.Errorf("asked for names %q, want %q", asked, test.asked)
				}
			})
		}
	}
}

func TestSelectorsAreKept(t *testing.T) {
	h := &host{allows: func(authorizationv1.SubjectAccessReviewSpec) bool { return false }}
	attrs := request(controller, "watch", "mine")
	attrs.FieldSelectorRequirements = fields.ParseSelectorOrDie("metadata.name=mine,spec.workerName=w").Requirements()
	if _, _, err := newAuthorizer(t, h).Authorize(t.Context(), attrs); err != nil {
		t.Fatal(err)
	}
	if len(h.reviews) != 2 {
		t.Fatalf("got %d reviews, want 2", len(h.reviews))
	}
	without, with := h.reviews[0], h.reviews[1]
	if with.ResourceAttributes.FieldSelector == nil || len(with.ResourceAttributes.FieldSelector.Requirements) != 2 {
		t.Fatalf("the selectors are gone: %v", with.ResourceAttributes)
	}
	with.ResourceAttributes.Name = ""
	if got, want := without.String(), with.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRequestsWithoutNameCallDelegateOnce(t *testing.T) {
	var asked int
	a := New(authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		asked++
		return authorizer.DecisionNoOpinion, "", nil
	}), func(user.Info) bool { return true })
	for name, attrs := range map[string]authorizer.AttributesRecord{
		"list":           request(controller, "list", ""),
		"non-resource":   {User: &user.DefaultInfo{Name: controller}, Verb: "get", Path: "/metrics", Name: "x"},
		"without a user": {Verb: "get", Name: "x", ResourceRequest: true},
	} {
		asked = 0
		if _, _, err := a.Authorize(t.Context(), attrs); err != nil || asked != 1 {
			t.Errorf("%s: asked %d times (%v), want once", name, asked, err)
		}
	}
}
