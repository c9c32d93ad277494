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

// Package together spares the host's authorizer the same question from many requests at once.
package together

import (
	"context"
	"encoding/json"

	"golang.org/x/sync/singleflight"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// New returns an authorizer that asks the delegate once for all requests that are the same in everything it can decide by, and come
// while it thinks. A delegate that keeps answers is not asked again until one has ended; but then all requests that are under way
// would ask at once. Who waits no longer than his request does not end the question for the others; the delegate must bound it.
func New(delegate authorizer.UnconditionalAuthorizer) authorizer.Authorizer {
	return &together{delegate: delegate}
}

type together struct {
	delegate authorizer.UnconditionalAuthorizer
	asked    singleflight.Group
}

type answer struct {
	decision authorizer.Decision
	reason   string
}

// Authorize implements authorizer.Authorizer.
func (t *together) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	question, err := key(attrs)
	if err != nil {
		return t.delegate.Authorize(ctx, attrs)
	}
	result := t.asked.DoChan(question, func() (any, error) {
		decision, reason, err := t.delegate.Authorize(context.WithoutCancel(ctx), attrs)
		return answer{decision, reason}, err
	})
	select {
	case <-ctx.Done():
		return authorizer.DecisionNoOpinion, "", ctx.Err()
	case r := <-result:
		a := r.Val.(answer)
		return a.decision, a.reason, r.Err
	}
}

// ConditionsAwareAuthorize implements authorizer.Authorizer. No host has conditions for others to evaluate.
func (t *together) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(t.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (*together) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// key is the same for attributes that are the same. Selectors that cannot be parsed are an error: how they count is the delegate's business.
func key(attrs authorizer.Attributes) (string, error) {
	fields, err := attrs.GetFieldSelector()
	if err != nil {
		return "", err
	}
	labels, err := attrs.GetLabelSelector()
	if err != nil {
		return "", err
	}
	var labelTexts []string
	for i := range labels {
		labelTexts = append(labelTexts, labels[i].String())
	}
	who := []any{}
	if u := attrs.GetUser(); u != nil {
		who = []any{u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra()}
	}
	path := ""
	if !attrs.IsResourceRequest() {
		path = attrs.GetPath() // that of an object tells its name, which may have been left out on purpose
	}
	data, err := json.Marshal([]any{
		who, attrs.GetVerb(), attrs.IsResourceRequest(), path, attrs.GetNamespace(), attrs.GetAPIGroup(), attrs.GetAPIVersion(),
		attrs.GetResource(), attrs.GetSubresource(), attrs.GetName(), fields, labelTexts,
	})
	return string(data), err
}
