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

// Package fence keeps a process that may have lost the leader election from writing. The election alone does not: a
// process that wakes from a freeze works on for up to its renew deadline before it notices that another one leads.
package fence

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// errNotLeading is the error of a write by a process that may not lead any more.
var errNotLeading = errors.New("the lease of the leader has not been renewed in time: another process may lead")

// Fence knows when the lease was last renewed. It is safe for concurrent use.
type Fence struct {
	validFor time.Duration
	clock    clock.PassiveClock

	mu      sync.Mutex
	renewed time.Time
}

// New returns a Fence for a lease that no other process may take until validFor has passed since a renewal, for example
// the renew deadline of the election.
func New(validFor time.Duration) *Fence { return &Fence{validFor: validFor, clock: clock.RealClock{}} }

// Observe wraps the transport of the election: each write that succeeds renews the lease.
func (f *Fence) Observe(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		sent := f.clock.Now()
		response, err := next.RoundTrip(request)
		if err == nil && isWrite(request) && response.StatusCode < http.StatusMultipleChoices {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.renewed = sent
		}
		return response, err
	})
}

// Guard wraps the transport of a client that may write only while this process leads. Other writes fail.
func (f *Fence) Guard(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		if isWrite(request) && !f.leads() {
			if request.Body != nil {
				_ = request.Body.Close() // as a RoundTripper must
			}
			return nil, errNotLeading
		}
		return next.RoundTrip(request)
	})
}

// leads reports whether the lease was renewed in time, by the monotonic clock and by the wall clock: the former stands
// still while a machine sleeps.
func (f *Fence) leads() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	return !f.renewed.IsZero() && max(now.Sub(f.renewed), now.Round(0).Sub(f.renewed.Round(0))) < f.validFor
}

func isWrite(request *http.Request) bool {
	return request.Method != http.MethodGet && request.Method != http.MethodHead
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
