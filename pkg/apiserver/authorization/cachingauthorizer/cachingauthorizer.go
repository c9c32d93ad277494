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

// Package cachingauthorizer caches the decisions of another authorizer, such as the host cluster's, and sends it
// identical requests only once at a time.
package cachingauthorizer

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
	// maxEntries bounds the cache, which keeps the most recently used decisions.
	maxEntries = 8192
	// maxKeySize is the size of the largest key that is cached, in bytes. Users choose parts of the key, such as
	// selectors.
	maxKeySize = 10_000
)

// New returns an authorizer that caches what the delegate allows for allowTTL, and all else for denyTTL. Errors are not
// cached. Concurrent requests with the same attributes share one call of the delegate. The call does not end with the
// context of a request, so the delegate must bound it.
//
// The delegate should not cache: both times would add up. Upstream's authorizer does, by the JSON of the whole review,
// and looking up a decision there takes a twentieth of the time of a write.
func New(delegate authorizer.UnconditionalAuthorizer, allowTTL, denyTTL time.Duration) authorizer.Authorizer {
	return &cachingAuthorizer{delegate: delegate, allowTTL: allowTTL, denyTTL: denyTTL, cache: cache.NewLRUExpireCache(maxEntries)}
}

type cachingAuthorizer struct {
	delegate          authorizer.UnconditionalAuthorizer
	allowTTL, denyTTL time.Duration
	cache             *cache.LRUExpireCache // of authzResult, by cacheKey
	calls             singleflight.Group
}

// authzResult is a decision of the delegate.
type authzResult struct {
	decision authorizer.Decision
	reason   string
}

// Authorize implements authorizer.Authorizer.
func (c *cachingAuthorizer) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	key, err := cacheKey(attrs)
	if err != nil {
		return c.delegate.Authorize(ctx, attrs)
	}
	if cached, ok := c.cache.Get(key); ok {
		result := cached.(authzResult)
		return result.decision, result.reason, nil
	}
	call := c.calls.DoChan(key, func() (any, error) {
		decision, reason, err := c.delegate.Authorize(context.WithoutCancel(ctx), attrs)
		result := authzResult{decision, reason}
		if err == nil && len(key) <= maxKeySize {
			c.cache.Add(key, result, c.ttl(decision))
		}
		return result, err
	})
	select {
	case <-ctx.Done():
		return authorizer.DecisionNoOpinion, "", ctx.Err()
	case returned := <-call:
		result := returned.Val.(authzResult)
		return result.decision, result.reason, returned.Err
	}
}

func (c *cachingAuthorizer) ttl(decision authorizer.Decision) time.Duration {
	if decision == authorizer.DecisionAllow {
		return c.allowTTL
	}
	return c.denyTTL
}

// ConditionsAwareAuthorize implements authorizer.Authorizer. The decisions of a host cluster are never conditional.
func (c *cachingAuthorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(c.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (*cachingAuthorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// cacheKey returns a key that is equal for equal attributes only. It returns an error for selectors that cannot be
// parsed, which the delegate has to judge.
func cacheKey(attrs authorizer.Attributes) (string, error) {
	fields, err := attrs.GetFieldSelector()
	if err != nil {
		return "", err
	}
	labels, err := attrs.GetLabelSelector()
	if err != nil {
		return "", err
	}
	k := make(keyBuilder, 0, 512)
	if u := attrs.GetUser(); u == nil {
		k.addCount(0)
	} else {
		k.addCount(1)
		k.add(u.GetName(), u.GetUID())
		k.addList(u.GetGroups())
		extra := u.GetExtra()
		k.addCount(len(extra))
		for _, name := range slices.Sorted(maps.Keys(extra)) {
			k.add(name)
			k.addList(extra[name])
		}
	}
	if attrs.IsResourceRequest() {
		k.add("resource") // without the path, which contains the name that package withoutname hides
	} else {
		k.add("path", attrs.GetPath())
	}
	k.add(attrs.GetVerb(), attrs.GetNamespace(), attrs.GetAPIGroup(), attrs.GetAPIVersion(), attrs.GetResource(), attrs.GetSubresource(), attrs.GetName())
	k.addCount(len(fields))
	for _, field := range fields {
		k.add(string(field.Operator), field.Field, field.Value)
	}
	k.addCount(len(labels))
	for i := range labels {
		k.add(labels[i].String())
	}
	return string(k), nil
}

// keyBuilder concatenates strings, each prefixed with its length.
type keyBuilder []byte

func (k *keyBuilder) add(values ...string) {
	for _, value := range values {
		k.addCount(len(value))
		*k = append(*k, value...)
	}
}

func (k *keyBuilder) addList(values []string) {
	k.addCount(len(values))
	k.add(values...)
}

func (k *keyBuilder) addCount(n int) { *k = binary.AppendUvarint(*k, uint64(n)) }
