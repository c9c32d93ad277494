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

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// deadlineGrace is how long a handler goes on past its request's deadline, unless its client is gone.
const deadlineGrace = 500 * time.Millisecond

// withDeadlineGrace has handlers learn of a request's deadline a moment later than the filter around them, which then answers 504
// for them. Were both told at once, as when etcd stands still and every request waits for its deadline, the filter would now and
// then meet an answer that the handler has just begun, and could only reset the stream: an error that tells clients nothing.
func withDeadlineGrace(handler http.Handler) http.Handler {
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
