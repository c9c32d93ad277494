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
	"github.com/leat-dev/leat/pkg/authorization/worker"
)

// Audience is that of the tokens by which pods show that they are workers. The host does not take them for itself.
const Audience = "workers." + batch.GroupName

// New returns an authenticator that makes a worker of a pod: of who shows a token for Audience that is bound to a pod, and is of a
// service account that may "register" workers in its namespace. The worker is named as the pod. Everyone else is who the delegate says;
// it must honour the audiences in a request's context, as the one that asks a host for TokenReviews does.
//
// That the service account must be allowed something keeps pods from becoming workers that nobody meant to be: a worker is given
// tasks of others to run. The authorizer is asked at each request, in the same words for all pods of a service account; it should keep answers.
func New(delegate authenticator.Request, allowed authorizer.Authorizer) authenticator.Request {
	return &pods{delegate, allowed}
}

type pods struct {
	delegate authenticator.Request
	allowed  authorizer.Authorizer
}

// AuthenticateRequest implements authenticator.Request.
func (p *pods) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if !slices.Contains(claimedAudiences(req), Audience) {
		return p.delegate.AuthenticateRequest(req)
	}
	ctx := authenticator.WithAudiences(req.Context(), authenticator.Audiences{Audience})
	response, ok, err := p.delegate.AuthenticateRequest(req.WithContext(ctx))
	if !ok || err != nil || !slices.Contains(response.Audiences, Audience) {
		return response, ok, err
	}
	namespace, _, err := serviceaccount.SplitUsername(response.User.GetName())
	names := response.User.GetExtra()[serviceaccount.PodNameKey]
	if err != nil || len(names) != 1 {
		return nil, false, errors.New("a token for " + Audience + " must be a service account's, and bound to a pod")
	}
	// Without what differs between the pods of a service account, so that one review is enough for all.
	account := &user.DefaultInfo{Name: response.User.GetName(), UID: response.User.GetUID(), Groups: response.User.GetGroups()}
	decision, reason, err := p.allowed.Authorize(ctx, authorizer.AttributesRecord{
		User: account, Verb: "register", Namespace: namespace,
		APIGroup: batch.GroupName, APIVersion: "*", Resource: "workers", ResourceRequest: true,
	})
	if decision != authorizer.DecisionAllow {
		return nil, false, errors.Join(fmt.Errorf("%s may not register workers in namespace %s: bind the role leat:worker to it there (%s)",
			response.User.GetName(), namespace, reason), err)
	}
	// The delegate may keep its response, and give it again.
	return &authenticator.Response{Audiences: response.Audiences, User: &user.DefaultInfo{
		Name:   worker.NamePrefix + namespace + ":" + names[0],
		Groups: []string{worker.Group, user.AllAuthenticated},
		Extra:  response.User.GetExtra(),
	}}, true, nil
}

// claimedAudiences are those that the request's token says it is for. Nothing of it is verified: it says whom to ask what.
func claimedAudiences(req *http.Request) []string {
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
