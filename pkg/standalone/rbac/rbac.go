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

// Package rbac authorizes requests by RBAC manifests, for a server without a Kubernetes host. Its decisions are those
// of a host with the same manifests.
package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Authorizer allows the requests that a role bound to the user allows. It has no opinion on others. It is immutable and
// safe for concurrent use. The cost of a decision grows with the number of rules bound to the user.
type Authorizer struct {
	users  map[string]grants
	groups map[string]grants
}

// grants are the roles bound to one subject.
type grants struct {
	everywhere []grant
	// in holds the grants for requests in a single namespace, by namespace.
	in map[string][]grant
}

// grant is a role bound to a subject.
type grant struct {
	source string // the binding and its role, for the reason of a decision
	rules  []rbacv1.PolicyRule
}

var _ authorizer.Authorizer = &Authorizer{}

// Authorize implements authorizer.Authorizer. It never denies and never returns an error.
func (a *Authorizer) Authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	who := request.GetUser()
	if who == nil {
		return authorizer.DecisionNoOpinion, "RBAC: nobody is asking", nil
	}
	allowed, source := a.users[who.GetName()].allow(request)
	for i := 0; i < len(who.GetGroups()) && !allowed; i++ {
		allowed, source = a.groups[who.GetGroups()[i]].allow(request)
	}
	if allowed {
		return authorizer.DecisionAllow, "RBAC: allowed by " + source, nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; rules have no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, request authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, request))
}

// EvaluateConditions implements authorizer.Authorizer. There are no conditions to evaluate, so it denies with an error.
func (*Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// bind adds a grant to a subject, in one namespace or, if namespace is empty, everywhere.
func (a *Authorizer) bind(subject rbacv1.Subject, namespace string, g grant) error {
	if subject.Name == "" {
		return fmt.Errorf("subject of kind %s needs a name", subject.Kind)
	}
	index, name := a.users, subject.Name
	switch subject.Kind {
	case rbacv1.UserKind:
	case rbacv1.GroupKind:
		index = a.groups
	case rbacv1.ServiceAccountKind:
		home := subject.Namespace
		if home == "" {
			home = namespace
		}
		if home == "" {
			return fmt.Errorf("service account %q needs a namespace", subject.Name)
		}
		name = serviceaccount.MakeUsername(home, subject.Name)
	default:
		return fmt.Errorf("subject %q is of kind %q: want User, Group or ServiceAccount", subject.Name, subject.Kind)
	}
	held := index[name]
	if namespace == "" {
		held.everywhere = append(held.everywhere, g)
	} else {
		if held.in == nil {
			held.in = map[string][]grant{}
		}
		held.in[namespace] = append(held.in[namespace], g)
	}
	index[name] = held
	return nil
}

func (g grants) allow(request authorizer.Attributes) (allowed bool, source string) {
	for _, held := range [][]grant{g.everywhere, g.in[request.GetNamespace()]} {
		for i := range held {
			for j := range held[i].rules {
				if allows(&held[i].rules[j], request) {
					return true, held[i].source
				}
			}
		}
	}
	return false, ""
}

// allows reports whether a rule allows the request, as documented for rbac.authorization.k8s.io/v1 PolicyRule.
func allows(rule *rbacv1.PolicyRule, request authorizer.Attributes) bool {
	if !containsOr(rule.Verbs, request.GetVerb(), rbacv1.VerbAll) {
		return false
	}
	if !request.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
			prefix := strings.TrimRight(pattern, "*")
			return pattern == request.GetPath() || prefix != pattern && strings.HasPrefix(request.GetPath(), prefix)
		})
	}
	return containsOr(rule.APIGroups, request.GetAPIGroup(), rbacv1.APIGroupAll) &&
		slices.ContainsFunc(rule.Resources, func(resource string) bool { return covers(resource, request) }) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, request.GetName()))
}

// covers reports whether a rule's resource matches the requested one. It can be "tasks", "tasks/status", "*/status" or
// "*", which includes all subresources. "tasks/*" is not supported and matches nothing.
func covers(resource string, request authorizer.Attributes) bool {
	if resource == rbacv1.ResourceAll {
		return true
	}
	subresource := request.GetSubresource()
	if subresource == "" {
		return resource == request.GetResource()
	}
	parent, rest, found := strings.Cut(resource, "/")
	return found && rest == subresource && (parent == "*" || parent == request.GetResource())
}

func containsOr(values []string, value, all string) bool {
	return slices.Contains(values, value) || slices.Contains(values, all)
}
