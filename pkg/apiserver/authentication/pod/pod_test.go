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

package pod

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	workerauthorizer "github.com/leat-dev/leat/pkg/apiserver/authorization/worker"
)

// token returns an unsigned token with the claims.
func token(claims string) string {
	return "x." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".x"
}

// account returns a service account of namespace ns as a TokenReview reports it for a token that is bound to the pods.
func account(pods ...string) *user.DefaultInfo {
	return &user.DefaultInfo{
		Name: "system:serviceaccount:ns:sa", UID: "1", Groups: []string{"system:serviceaccounts"},
		Extra: map[string][]string{"authentication.kubernetes.io/pod-name": pods},
	}
}

func TestAuthenticateRequest(t *testing.T) {
	ours := "Bearer " + token(`{"aud":["`+Audience+`"]}`)
	worker := &user.DefaultInfo{Name: "leat:worker:ns:pod-1", Groups: []string{"leat:workers", "system:authenticated"}, Extra: account("pod-1").Extra}
	for name, test := range map[string]struct {
		header   string
		host     *user.DefaultInfo // whom the host authenticates; nil: it refuses the token
		unaware  bool              // the host ignores audiences
		refused  bool              // the service account may not register workers
		want     *user.DefaultInfo
		wantErr  string
		reviewed bool // the host was asked to review the token for our audience
	}{
		"worker pod":                 {header: ours, host: account("pod-1"), want: worker, reviewed: true},
		"among other audiences":      {header: "bearer " + token(`{"aud":["a","`+Audience+`"]}`), host: account("pod-1"), want: worker, reviewed: true},
		"may not register workers":   {header: ours, host: account("pod-1"), refused: true, wantErr: "bind the role leat:worker", reviewed: true},
		"not bound to a pod":         {header: ours, host: account(), wantErr: "bound to a pod", reviewed: true},
		"of a person":                {header: ours, host: &user.DefaultInfo{Name: "ann", Extra: account("p").Extra}, wantErr: "service account's", reviewed: true},
		"refused by the host":        {header: ours, wantErr: "host", reviewed: true},
		"response without audiences": {header: ours, host: account("pod-1"), unaware: true, want: account("pod-1"), reviewed: true},
		"token for the host":         {header: "Bearer " + token(`{"aud":["https://kubernetes"]}`), host: account("pod-1"), want: account("pod-1")},
		"token without audiences":    {header: "Bearer " + token(`{}`), host: account("pod-1"), want: account("pod-1")},
		"no token":                   {host: account("pod-1"), want: account("pod-1")},
		"another scheme":             {header: "Basic " + token(`{"aud":["`+Audience+`"]}`), host: account("pod-1"), want: account("pod-1")},
		"claims that are not JSON":   {header: "Bearer " + token(`{"aud":`), host: account("pod-1"), want: account("pod-1")},
		"claims that are not base64": {header: "Bearer x.!.x", host: account("pod-1"), want: account("pod-1")},
		"audience with our prefix":   {header: "Bearer " + token(`{"aud":["`+Audience+`.evil"]}`), host: account("pod-1"), want: account("pod-1")},
		"host ignores the audience":  {header: ours, unaware: true, host: &user.DefaultInfo{Name: "ann"}, want: &user.DefaultInfo{Name: "ann"}, reviewed: true},
	} {
		t.Run(name, func(t *testing.T) {
			reviewed := false
			var cached *authenticator.Response // the delegate returns the same response twice, as caches do
			delegate := authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
				audiences, asked := authenticator.AudiencesFrom(req.Context())
				reviewed = asked && cmp.Equal(audiences, authenticator.Audiences{Audience})
				if test.host == nil {
					return nil, false, errors.New("the host does not know it")
				}
				if test.unaware {
					audiences = nil
				}
				if cached == nil {
					cached = &authenticator.Response{User: test.host, Audiences: audiences}
				}
				return cached, true, nil
			})
			authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				if len(a.GetUser().GetExtra()) > 0 || a.GetVerb() != "register" || a.GetResource() != "workers" || a.GetNamespace() != "ns" || a.GetAPIGroup() != "batch.leat.dev" || !a.IsResourceRequest() {
					t.Errorf("unexpected attributes %+v", a)
				}
				if test.refused {
					return authorizer.DecisionNoOpinion, "", nil
				}
				return authorizer.DecisionAllow, "", nil
			})
			pods := New(delegate, authz)
			req := httptest.NewRequest(http.MethodGet, "/", nil)
			req.Header.Set("Authorization", test.header)
			_, _, _ = pods.AuthenticateRequest(req)
			response, ok, err := pods.AuthenticateRequest(req)
			if test.wantErr != "" {
				if ok || err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got %v, %v, %v; want an error with %q", response, ok, err, test.wantErr)
				}
			} else if err != nil || !ok {
				t.Fatalf("got %v, %v", ok, err)
			} else if diff := cmp.Diff(user.Info(test.want), response.User); diff != "" {
				t.Errorf("-want +got: %s", diff)
			} else if workerauthorizer.IsWorker(response.User) {
				denied := workerauthorizer.New([]workerauthorizer.WorkerGetter{func(_ context.Context, namespace, name string) (*batch.Worker, error) {
					return &batch.Worker{Spec: batch.WorkerSpec{Denied: namespace == "ns" && name == "pod-1"}}, nil
				}}, nil)
				if decision, _, err := denied.Authorize(t.Context(), authorizer.AttributesRecord{User: response.User, Verb: "get", Path: "/version"}); decision != authorizer.DecisionDeny {
					t.Errorf("got %v, %v for a pod whose Worker is denied", decision, err)
				}
			}
			if reviewed != test.reviewed {
				t.Errorf("reviewed for our audience: %t, want %t", reviewed, test.reviewed)
			}
		})
	}
}
