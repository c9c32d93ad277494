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
	"errors"
	"net/http"
	"time"
)

// deadlineGrace is how long after the deadline of a request the context of its handler ends.
const deadlineGrace = 500 * time.Millisecond

// WithDeadlineGrace ends the context of a handler a moment after the deadline of the request, so that the timeout
// filter around it responds with 504 first. Without the grace, when etcd hangs and every request reaches its deadline,
// the filter sometimes finds that the handler has begun to write an error, and can only reset the stream, which tells
// clients nothing. If the client disconnects, the handler's context ends at once.
func WithDeadlineGrace(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline, ok := r.Context().Deadline()
		if !ok {
			handler.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), deadline.Add(deadlineGrace))
		defer cancel()
		defer context.AfterFunc(r.Context(), func() {
			if !errors.Is(r.Context().Err(), context.DeadlineExceeded) {
				cancel()
			}
		})()
		handler.ServeHTTP(w, r.WithContext(ctx))
	})
}
