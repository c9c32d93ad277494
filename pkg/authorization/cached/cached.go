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

// Package cached keeps what another authorizer, such as the host's, has decided, so that it is asked seldom, and about each thing by one
// request at a time.
package cached

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const (
	// maxAnswers is how many answers are kept, those that were used last.
	maxAnswers = 8192
	// maxQuestion is how many bytes a question may have whose answer is kept: who asks decides about some.
	maxQuestion = 10_000
)

// New returns an authorizer that keeps what the delegate allows for allowed, and what it does not for refused. An error is not kept. All
// requests that come while the delegate thinks, and are the same in everything it can decide by, are one to it. Who waits no longer than his
// request does not end the question for the others; the delegate must bound it.
//
// The delegate should keep nothing itself: the times add up. One that does so by the whole request in JSON, as upstream's does, needs a
// twentieth of what a write takes to find an answer.
func New(delegate authorizer.UnconditionalAuthorizer, allowed, refused time.Duration) authorizer.Authorizer {
	return &cached{delegate: delegate, allowed: allowed, refused: refused, answers: cache.NewLRUExpireCache(maxAnswers)}
}

type cached struct {
	delegate         authorizer.UnconditionalAuthorizer
	allowed, refused time.Duration
	answers          *cache.LRUExpireCache // by question
	asked            singleflight.Group
}

type answer struct {
	decision authorizer.Decision
	reason   string
}

// Authorize implements authorizer.Authorizer.
func (c *cached) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	question, err := key(attrs)
	if err != nil {
		return c.delegate.Authorize(ctx, attrs)
	}
	if kept, ok := c.answers.Get(question); ok {
		a := kept.(answer)
		return a.decision, a.reason, nil
	}
	result := c.asked.DoChan(question, func() (any, error) {
		decision, reason, err := c.delegate.Authorize(context.WithoutCancel(ctx), attrs)
		a := answer{decision, reason}
		if err == nil && len(question) <= maxQuestion {
			c.answers.Add(question, a, c.keep(decision))
		}
		return a, err
	})
	select {
	case <-ctx.Done():
		return authorizer.DecisionNoOpinion, "", ctx.Err()
	case r := <-result:
		a := r.Val.(answer)
		return a.decision, a.reason, r.Err
	}
}

func (c *cached) keep(decision authorizer.Decision) time.Duration {
	if decision == authorizer.DecisionAllow {
		return c.allowed
	}
	return c.refused
}

// ConditionsAwareAuthorize implements authorizer.Authorizer. No host has conditions for others to evaluate.
func (c *cached) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(c.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (*cached) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// key is the same for attributes that are the same, and for no others. Selectors that cannot be parsed are an error: how they count is the
// delegate's business.
func key(attrs authorizer.Attributes) (string, error) {
	fields, err := attrs.GetFieldSelector()
	if err != nil {
		return "", err
	}
	labels, err := attrs.GetLabelSelector()
	if err != nil {
		return "", err
	}
	k := make(texts, 0, 512)
	if u := attrs.GetUser(); u == nil {
		k.count(0)
	} else {
		k.count(1)
		k.add(u.GetName(), u.GetUID())
		k.addAll(u.GetGroups())
		extra := u.GetExtra()
		k.count(len(extra))
		for _, name := range slices.Sorted(maps.Keys(extra)) {
			k.add(name)
			k.addAll(extra[name])
		}
	}
	if attrs.IsResourceRequest() {
		k.add("resource") // whose path tells the name, which may have been left out on purpose
	} else {
		k.add("path", attrs.GetPath())
	}
	k.add(attrs.GetVerb(), attrs.GetNamespace(), attrs.GetAPIGroup(), attrs.GetAPIVersion(), attrs.GetResource(), attrs.GetSubresource(), attrs.GetName())
	k.count(len(fields))
	for _, field := range fields {
		k.add(string(field.Operator), field.Field, field.Value)
	}
	k.count(len(labels))
	for i := range labels {
		k.add(labels[i].String())
	}
	return string(k), nil
}

// texts are texts one after the other, each behind its length.
type texts []byte

func (t *texts) add(all ...string) {
	for _, text := range all {
		t.count(len(text))
		*t = append(*t, text...)
	}
}

func (t *texts) addAll(all []string) {
	t.count(len(all))
	t.add(all...)
}

func (t *texts) count(n int) { *t = binary.AppendUvarint(*t, uint64(n)) }
