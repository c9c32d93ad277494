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

package cached

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

// kept is how long answers are.
const kept = 10 * time.Second

// slow is an authorizer that thinks until it is released.
type slow struct {
	release chan struct{}
	asked   atomic.Int32
	err     error
}

func (s *slow) Authorize(ctx context.Context, _ authorizer.Attributes) (authorizer.Decision, string, error) {
	s.asked.Add(1)
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

func TestTheSameQuestionIsAskedOnceAtATime(t *testing.T) {
	for _, want := range []error{nil, errors.New("down")} {
		synctest.Test(t, func(t *testing.T) {
			host := &slow{release: make(chan struct{}), err: want}
			a := New(host, kept, kept)
			var all sync.WaitGroup
			for n := range 10 {
				all.Go(func() {
					r := record()
					r.Path = fmt.Sprintf("/apis/batch.leat.dev/v1alpha1/namespaces/a/tasks/%d", n)
					decision, _, err := a.Authorize(t.Context(), r)
					if !errors.Is(err, want) || (decision == authorizer.DecisionAllow) != (want == nil) {
						t.Errorf("it decides %v, %v; want error %v", decision, err, want)
					}
				})
			}
			synctest.Wait()
			close(host.release)
			all.Wait()
			if n := host.asked.Load(); n != 1 {
				t.Errorf("10 at once asked %d times", n)
			}
		})
	}
}

// fixed decides all alike, and counts.
type fixed struct {
	decision authorizer.Decision
	err      error
	asked    int
}

func (f *fixed) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	f.asked++
	return f.decision, "because", f.err
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	const allowed, refused = 10 * time.Second, 3 * time.Second
	long := record()
	long.Name = strings.Repeat("n", maxQuestion)
	for name, test := range map[string]struct {
		host  fixed
		about authorizer.AttributesRecord
		keep  time.Duration
	}{
		"allowed":                        {fixed{decision: authorizer.DecisionAllow}, record(), allowed},
		"denied":                         {fixed{decision: authorizer.DecisionDeny}, record(), refused},
		"no opinion":                     {fixed{decision: authorizer.DecisionNoOpinion}, record(), refused},
		"an error":                       {fixed{err: errors.New("down")}, record(), 0},
		"allowed, and long":              {fixed{decision: authorizer.DecisionAllow}, long, 0},
		"selector that cannot be parsed": {fixed{decision: authorizer.DecisionAllow}, authorizer.AttributesRecord{FieldSelectorParsingErr: errors.New("broken")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := New(&test.host, allowed, refused)
				ask := func(want int) {
					t.Helper()
					decision, reason, err := a.Authorize(t.Context(), test.about)
					if decision != test.host.decision || reason != "because" || !errors.Is(err, test.host.err) {
						t.Errorf("it decides %v, %q, %v", decision, reason, err)
					}
					if test.host.asked != want {
						t.Errorf("the host was asked %d times, want %d", test.host.asked, want)
					}
				}
				ask(1)
				if test.keep == 0 {
					ask(2)
					return
				}
				time.Sleep(test.keep - time.Millisecond)
				ask(1)
				time.Sleep(2 * time.Millisecond)
				ask(2)
			})
		})
	}
}

func BenchmarkKept(b *testing.B) {
	a := New(&fixed{decision: authorizer.DecisionAllow}, time.Hour, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if decision, _, err := a.Authorize(b.Context(), record()); decision != authorizer.DecisionAllow || err != nil {
			b.Fatal(decision, err)
		}
	}
}

func TestQuestionsThatDifferAreAskedEach(t *testing.T) {
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
		a := New(host, kept, kept)
		var all sync.WaitGroup
		for _, change := range changes {
			r := record()
			change(&r)
			all.Go(func() { _, _, _ = a.Authorize(t.Context(), r) })
		}
		synctest.Wait()
		if n := int(host.asked.Load()); n != len(changes) {
			t.Errorf("%d different questions were asked %d times", len(changes), n)
		}
		close(host.release)
		all.Wait()
	})
}

func TestWhoLeavesDoesNotEndTheQuestionForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &slow{release: make(chan struct{})}
		a := New(host, kept, kept)
		leaving, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if decision, _, err := a.Authorize(leaving, record()); decision == authorizer.DecisionAllow || !errors.Is(err, context.Canceled) {
				t.Errorf("who leaves is told %v, %v", decision, err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if decision := a.ConditionsAwareAuthorize(t.Context(), record()); !decision.IsAllow() {
				t.Errorf("who stays is told %v", decision)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(host.release)
		all.Wait()
	})
}
