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

package fence

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

func TestOnlyALeaderWrites(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	clock := testingclock.NewFakePassiveClock(time.Now())
	f := New(10 * time.Second)
	f.clock = clock
	send := func(transport http.RoundTripper, method string) error {
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	election, guarded := f.Observe(http.DefaultTransport), f.Guard(http.DefaultTransport)
	renew := func(method string, code int) func() {
		return func() {
			status = code
			if err := send(election, method); err != nil {
				t.Fatal(err)
			}
		}
	}
	pass := func(d time.Duration) func() { return func() { clock.SetTime(clock.Now().Add(d)) } }
	for _, step := range []struct {
		name  string
		do    func()
		leads bool
	}{
		{"before the election", func() {}, false},
		{"another process leads", renew(http.MethodGet, http.StatusOK), false},
		{"the lease is refused", renew(http.MethodPut, http.StatusConflict), false},
		{"the lease is created", renew(http.MethodPost, http.StatusCreated), true},
		{"a while later", pass(9 * time.Second), true},
		{"too late", pass(time.Second), false},
		{"a renewal fails", renew(http.MethodPut, http.StatusInternalServerError), false},
		{"the lease is renewed", renew(http.MethodPut, http.StatusOK), true},
		{"after a freeze", pass(time.Hour), false},
	} {
		step.do()
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if err := send(guarded, method); errors.Is(err, errNotLeading) == step.leads || err != nil && !errors.Is(err, errNotLeading) {
				t.Errorf("%s: %s: got %v, want success %t", step.name, method, err, step.leads)
			}
		}
		if err := send(guarded, http.MethodGet); err != nil {
			t.Errorf("%s: GET: %v", step.name, err)
		}
	}
}

// TestARenewalCountsFromItsRequest checks that a renewal whose response was late counts from when it was sent.
func TestARenewalCountsFromItsRequest(t *testing.T) {
	clock := testingclock.NewFakePassiveClock(time.Now())
	f := New(10 * time.Second)
	f.clock = clock
	slow := f.Observe(roundTripper(func(*http.Request) (*http.Response, error) {
		clock.SetTime(clock.Now().Add(11 * time.Second))
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}))
	response, err := slow.RoundTrip(httptest.NewRequest(http.MethodPut, "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if f.leads() {
		t.Error("the process leads, though its renewal was sent 11s ago")
	}
}
