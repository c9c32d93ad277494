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

package cachingauthorizer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const ttl = 10 * time.Second

// slow is an authorizer that blocks until release is closed.
type slow struct {
	release chan struct{}
	calls   atomic.Int32
	err     error
}

func (s *slow) Authorize(ctx context.Context, _ authorizer.Attributes) (authorizer.Decision, string, error) {
	s.calls.Add(1)
	select {
	case <-ctx.Done():
		return authorizer.DecisionNoOpinion, "", ctx.Err()
	case <-s.release:
	}
	if s.err != nil {
		return authorizer.DecisionNoOpinion, "", s.err
	}
	return authorizer.DecisionAllow, "because", nil
}

func record() authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "jane"}, Verb: "create", APIGroup: "batch.leat.dev", Resource: "tasks", Namespace: "a", ResourceRequest: true,
	}
}

func TestConcurrentRequestsShareOneCall(t *testing.T) {
	for _, want := range []error{nil, errors.New("down")} {
		synctest.Test(t, func(t *testing.T) {
			host := &slow{release: make(chan struct{}), err: want}
			a := New(host, ttl, ttl)
			var wg sync.WaitGroup
			for n := range 10 {
				wg.Go(func() {
					r := record()
					r.Path = fmt.Sprintf("/apis/batch.leat.dev/v1alpha1/namespaces/a/tasks/%d", n)
					decision, _, err := a.Authorize(t.Context(), r)
					if !errors.Is(err, want) || (decision == authorizer.DecisionAllow) != (want == nil) {
						t.Errorf("got %v, %v; want error %v", decision, err, want)
					}
				})
			}
			synctest.Wait()
			close(host.release)
			wg.Wait()
			if n := host.calls.Load(); n != 1 {
				t.Errorf("10 concurrent requests made %d calls, want 1", n)
			}
		})
	}
}

// fixed is an authorizer that always decides the same.
type fixed struct {
	decision authorizer.Decision
	err      error
	calls    int
}

func (f *fixed) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	f.calls++
	return f.decision, "because", f.err
}

func TestDecisionsAreCachedForTheirTTL(t *testing.T) {
	const allowTTL, denyTTL = 10 * time.Second, 3 * time.Second
	long := record()
	long.Name = strings.Repeat("n", maxKeySize)
	for name, test := range map[string]struct {
		host  fixed
		attrs authorizer.AttributesRecord
		ttl   time.Duration
	}{
		"allowed":                        {fixed{decision: authorizer.DecisionAllow}, record(), allowTTL},
		"denied":                         {fixed{decision: authorizer.DecisionDeny}, record(), denyTTL},
		"no opinion":                     {fixed{decision: authorizer.DecisionNoOpinion}, record(), denyTTL},
		"error":                          {fixed{err: errors.New("down")}, record(), 0},
		"key too long":                   {fixed{decision: authorizer.DecisionAllow}, long, 0},
		"selector that cannot be parsed": {fixed{decision: authorizer.DecisionAllow}, authorizer.AttributesRecord{FieldSelectorParsingErr: errors.New("broken")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := New(&test.host, allowTTL, denyTTL)
				authorize := func(wantCalls int) {
					t.Helper()
					decision, reason, err := a.Authorize(t.Context(), test.attrs)
					if decision != test.host.decision || reason != "because" || !errors.Is(err, test.host.err) {
						t.Errorf("got %v, %q, %v", decision, reason, err)
					}
					if test.host.calls != wantCalls {
						t.Errorf("got %d calls of the delegate, want %d", test.host.calls, wantCalls)
					}
				}
				authorize(1)
				if test.ttl == 0 {
					authorize(2)
					return
				}
				time.Sleep(test.ttl - time.Millisecond)
				authorize(1)
				time.Sleep(2 * time.Millisecond)
				authorize(2)
			})
		})
	}
}

func BenchmarkCached(b *testing.B) {
	a := New(&fixed{decision: authorizer.DecisionAllow}, time.Hour, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if decision, _, err := a.Authorize(b.Context(), record()); decision != authorizer.DecisionAllow || err != nil {
			b.Fatal(decision, err)
		}
	}
}

func TestCacheKeyCoversAllAttributes(t *testing.T) {
	byLabel, err := labels.NewRequirement("zone", selection.Equals, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func(*authorizer.AttributesRecord){
		"nothing": func(*authorizer.AttributesRecord) {},
		"no user": func(r *authorizer.AttributesRecord) { r.User = nil },
		"user":    func(r *authorizer.AttributesRecord) { r.User = &user.DefaultInfo{Name: "john"} },
		"uid":     func(r *authorizer.AttributesRecord) { r.User = &user.DefaultInfo{Name: "jane", UID: "1"} },
		"groups":  func(r *authorizer.AttributesRecord) { r.User = &user.DefaultInfo{Name: "jane", Groups: []string{"g"}} },
		"extra": func(r *authorizer.AttributesRecord) {
			r.User = &user.DefaultInfo{Name: "jane", Extra: map[string][]string{"k": {"v"}}}
		},
		"verb":        func(r *authorizer.AttributesRecord) { r.Verb = "delete" },
		"namespace":   func(r *authorizer.AttributesRecord) { r.Namespace = "b" },
		"group":       func(r *authorizer.AttributesRecord) { r.APIGroup = "batch" },
		"version":     func(r *authorizer.AttributesRecord) { r.APIVersion = "v1" },
		"resource":    func(r *authorizer.AttributesRecord) { r.Resource = "workers" },
		"subresource": func(r *authorizer.AttributesRecord) { r.Subresource = "status" },
		"name":        func(r *authorizer.AttributesRecord) { r.Name = "one" },
		"path":        func(r *authorizer.AttributesRecord) { r.ResourceRequest, r.Path = false, "/metrics" },
		"no resource": func(r *authorizer.AttributesRecord) { r.ResourceRequest = false },
		"fields": func(r *authorizer.AttributesRecord) {
			r.FieldSelectorRequirements = fields.Requirements{{Field: "f", Operator: selection.Equals, Value: "v"}}
		},
		"labels":      func(r *authorizer.AttributesRecord) { r.LabelSelectorRequirements = labels.Requirements{*byLabel} },
		"broken":      func(r *authorizer.AttributesRecord) { r.FieldSelectorParsingErr = errors.New("broken") },
		"also broken": func(r *authorizer.AttributesRecord) { r.LabelSelectorParsingErr = errors.New("broken") },
	}
	synctest.Test(t, func(t *testing.T) {
		host := &slow{release: make(chan struct{})}
		a := New(host, ttl, ttl)
		var wg sync.WaitGroup
		for _, change := range changes {
			r := record()
			change(&r)
			wg.Go(func() { _, _, _ = a.Authorize(t.Context(), r) })
		}
		synctest.Wait()
		if n := int(host.calls.Load()); n != len(changes) {
			t.Errorf("%d different requests made %d calls", len(changes), n)
		}
		close(host.release)
		wg.Wait()
	})
}

func TestCancelledRequestDoesNotCancelTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &slow{release: make(chan struct{})}
		a := New(host, ttl, ttl)
		cancelled, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			decision, _, err := a.Authorize(cancelled, record())
			if decision == authorizer.DecisionAllow || !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled request: got %v, %v", decision, err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if decision := a.ConditionsAwareAuthorize(t.Context(), record()); !decision.IsAllow() {
				t.Errorf("other request: got %v", decision)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(host.release)
		wg.Wait()
	})
}
