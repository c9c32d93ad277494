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

// Package withoutname authorizes controllers by one SubjectAccessReview a resource and namespace, not by one an object.
package withoutname

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// New returns an authorizer that first asks the delegate without the name of the object, for the users that match. A
// user that is allowed without a name is allowed every name, and the delegate's cache then holds one decision for all
// objects. If that is not allowed, the authorizer asks again with the name. Users that are granted only some names thus
// cost two reviews, so match should select users that are granted whole resources, as our own controllers are. The
// delegate authorizes all other users' requests unchanged.
//
// An error of the delegate is returned as it is: a delegate that fails is not asked twice.
func New(delegate authorizer.Authorizer, match func(user.Info) bool) authorizer.Authorizer {
	return &withoutNameAuthorizer{Authorizer: delegate, match: match}
}

type withoutNameAuthorizer struct {
	authorizer.Authorizer // evaluates the conditions of its own decisions
	match                 func(user.Info) bool
}

// Authorize implements authorizer.Authorizer.
func (a *withoutNameAuthorizer) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.appliesTo(attrs) {
		decision, reason, err := a.Authorizer.Authorize(ctx, withoutName{attrs})
		if decision == authorizer.DecisionAllow || err != nil {
			return decision, reason, err
		}
	}
	return a.Authorizer.Authorize(ctx, attrs)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (a *withoutNameAuthorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	if a.appliesTo(attrs) {
		decision := a.Authorizer.ConditionsAwareAuthorize(ctx, withoutName{attrs})
		if decision.IsAllow() || decision.Error() != nil {
			return decision
		}
	}
	return a.Authorizer.ConditionsAwareAuthorize(ctx, attrs)
}

func (a *withoutNameAuthorizer) appliesTo(attrs authorizer.Attributes) bool {
	return attrs.IsResourceRequest() && attrs.GetName() != "" && attrs.GetUser() != nil && a.match(attrs.GetUser())
}

// withoutName hides the name in the attributes. The selectors stay: they only narrow the request.
type withoutName struct {
	authorizer.Attributes
}

// GetName implements authorizer.Attributes.
func (withoutName) GetName() string { return "" }
