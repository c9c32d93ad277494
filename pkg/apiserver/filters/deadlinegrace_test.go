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

package filters

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
)

// TestTimeoutFilterRespondsFirst uses a handler that writes as soon as its context ends.
func TestTimeoutFilterRespondsFirst(t *testing.T) {
	waiting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		http.Error(w, r.Context().Err().Error(), http.StatusInternalServerError)
	})
	filtered := genericfilters.WithTimeoutForNonLongRunningRequests(WithDeadlineGrace(waiting),
		genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString()))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Millisecond)
		defer cancel()
		info := &genericapirequest.RequestInfo{IsResourceRequest: true, Verb: "get"}
		filtered.ServeHTTP(w, r.WithContext(genericapirequest.WithRequestInfo(ctx, info)))
	}))
	defer server.Close()
	for range 200 {
		response, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
		if response.StatusCode != http.StatusGatewayTimeout {
			t.Fatalf("got %s after the deadline, want 504", response.Status)
		}
	}
}

func TestHandlerContextEnds(t *testing.T) {
	for _, test := range []struct {
		name    string
		context func(context.Context) (context.Context, context.CancelFunc)
		atLeast time.Duration
		atMost  time.Duration
		want    error
	}{
		{
			name:    "client gone",
			context: func(ctx context.Context) (context.Context, context.CancelFunc) { return cancelled(ctx, time.Hour) },
			atMost:  deadlineGrace / 2,
			want:    context.Canceled,
		},
		{
			name:    "client gone, no deadline",
			context: func(ctx context.Context) (context.Context, context.CancelFunc) { return cancelled(ctx, 0) },
			atMost:  deadlineGrace / 2,
			want:    context.Canceled,
		},
		{
			name: "past the deadline",
			context: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 10*time.Millisecond)
			},
			atLeast: deadlineGrace,
			atMost:  20 * deadlineGrace,
			want:    context.DeadlineExceeded,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := test.context(t.Context())
			defer cancel()
			start := time.Now()
			WithDeadlineGrace(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				if took := time.Since(start); took < test.atLeast || took > test.atMost {
					t.Errorf("the context ended after %v, want %v to %v", took, test.atLeast, test.atMost)
				}
				if err := r.Context().Err(); err != test.want {
					t.Errorf("the context ended with %v, want %v", err, test.want)
				}
			})).ServeHTTP(nil, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		})
	}
}

// cancelled returns a cancelled context, with a deadline if timeout is positive.
func cancelled(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if timeout > 0 {
		return context.WithTimeout(ctx, timeout)
	}
	return ctx, cancel
}
