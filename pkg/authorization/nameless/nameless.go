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

// Package nameless spares the host's authorizer a review for each object.
package nameless

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// New returns an authorizer that asks the delegate about requests of the users that applies holds true for without the
// name of the object first: whoever is allowed without a name is allowed every name, and the delegate's cache, which is
// keyed by the whole request, then holds one answer for all objects. Only if that is not allowed it asks with the name. The
// price is a second review for those who are allowed some names only, so applies should hold for users that are granted
// whole resources, as our own controllers are. Everyone else's requests are passed on unchanged.
//
// An error is no refusal and is returned as it is, so that a delegate that does not answer is asked once.
func New(delegate authorizer.Authorizer, applies func(user.Info) bool) authorizer.Authorizer {
	return &namelessAuthorizer{Authorizer: delegate, applies: applies}
}

type namelessAuthorizer struct {
	authorizer.Authorizer // evaluates the conditions of its own decisions
	applies               func(user.Info) bool
}

func (n *namelessAuthorizer) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if n.shortens(attrs) {
		if decision, reason, err := n.Authorizer.Authorize(ctx, withoutName{attrs}); decision == authorizer.DecisionAllow || err != nil {
			return decision, reason, err
		}
	}
	return n.Authorizer.Authorize(ctx, attrs)
}

func (n *namelessAuthorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	if n.shortens(attrs) {
		if decision := n.Authorizer.ConditionsAwareAuthorize(ctx, withoutName{attrs}); decision.IsAllow() || decision.Error() != nil {
			return decision
		}
	}
	return n.Authorizer.ConditionsAwareAuthorize(ctx, attrs)
}

func (n *namelessAuthorizer) shortens(attrs authorizer.Attributes) bool {
	return attrs.IsResourceRequest() && attrs.GetName() != "" && attrs.GetUser() != nil && n.applies(attrs.GetUser())
}

// withoutName is a request with its name left out. The selectors stay: they only narrow it.
type withoutName struct {
	authorizer.Attributes
}

func (withoutName) GetName() string {
	return ""
}
