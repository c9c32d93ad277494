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
	"net/http"
	"time"
)

// WithConnectionDrain closes connections gracefully in the second half of the shutdown delay: it serves requests and
// asks the client to send the next ones over a new connection. By then the endpoints no longer lead new connections to
// this server. Without the filter, requests over long-lived connections such as the aggregator's would be refused after
// the delay.
func WithConnectionDrain(handler http.Handler, shutdown <-chan struct{}, delay time.Duration) http.Handler {
	drain := make(chan struct{})
	go func() {
		<-shutdown
		time.AfterFunc(delay/2, func() { close(drain) })
	}()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-drain:
			// HTTP/2 turns the header into a GOAWAY frame. Requests in flight, watches included, go on.
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, req)
	})
}
