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

// Package pod authenticates worker pods by their service account tokens.
package pod

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Audience is the audience of the tokens that worker pods authenticate with. The host cluster's own API server refuses
// them.
const Audience = v1alpha1.WorkerAudience

// New returns an authenticator that authenticates a pod as the worker of the same name. The request must bear a token
// for Audience that is bound to the pod, and authz must allow the token's service account to "register" workers in its
// namespace: workers run other users' tasks, so an administrator has to permit it. The delegate authenticates all other
// requests. It must honour the audiences in the context of a request, as the TokenReview authenticator does.
//
// The authenticator calls authz for every request, with the same attributes for all pods of a service account, so authz
// should cache.
func New(delegate authenticator.Request, authz authorizer.Authorizer) authenticator.Request {
	return &podAuthenticator{delegate, authz}
}

type podAuthenticator struct {
	delegate   authenticator.Request
	authorizer authorizer.Authorizer
}

// AuthenticateRequest implements authenticator.Request.
func (p *podAuthenticator) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if !slices.Contains(unverifiedAudiences(req), Audience) {
		return p.delegate.AuthenticateRequest(req)
	}
	ctx := authenticator.WithAudiences(req.Context(), authenticator.Audiences{Audience})
	response, ok, err := p.delegate.AuthenticateRequest(req.WithContext(ctx))
	if !ok || err != nil || !slices.Contains(response.Audiences, Audience) {
		return response, ok, err
	}
	namespace, _, err := serviceaccount.SplitUsername(response.User.GetName())
	podNames := response.User.GetExtra()[serviceaccount.PodNameKey]
	if err != nil || len(podNames) != 1 {
		return nil, false, errors.New("a token for " + Audience + " must be a service account's, and bound to a pod")
	}
	// Leave out the extra fields, which differ between the pods of a service account: one review serves all of
	// them.
	account := &user.DefaultInfo{Name: response.User.GetName(), UID: response.User.GetUID(), Groups: response.User.GetGroups()}
	decision, reason, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: account, Verb: "register", Namespace: namespace,
		APIGroup: batch.GroupName, APIVersion: "*", Resource: "workers", ResourceRequest: true,
	})
	if decision != authorizer.DecisionAllow {
		return nil, false, errors.Join(fmt.Errorf("%s may not register workers in namespace %s: bind the role leat:worker to it there (%s)",
			response.User.GetName(), namespace, reason), err)
	}
	// The delegate may cache its response: do not change it.
	return &authenticator.Response{Audiences: response.Audiences, User: &user.DefaultInfo{
		Name:   v1alpha1.WorkerUser(namespace, podNames[0]),
		Groups: []string{v1alpha1.WorkersGroup, user.AllAuthenticated},
		Extra:  response.User.GetExtra(),
	}}, true, nil
}

// unverifiedAudiences returns the audiences that the request's token claims. The signature is not checked: the claim
// only selects the audience to ask the delegate for.
func unverifiedAudiences(req *http.Request) []string {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	parts := strings.Split(token, ".")
	if !strings.EqualFold(scheme, "bearer") || len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims struct {
		Audiences authenticator.Audiences `json:"aud"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	return claims.Audiences
}
