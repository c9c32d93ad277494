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
	"net/http"
	"time"
)

// withHandover asks clients, in the second half of the shutdown delay, to send what comes next over another connection, and serves them
// meanwhile. By then no new connection leads here. Otherwise a connection that stays, as the aggregator's does, would find out by
// being refused, reads included, once the delay is over.
func withHandover(handler http.Handler, shutdown <-chan struct{}, delay time.Duration) http.Handler {
	handover := make(chan struct{})
	go func() {
		<-shutdown
		time.AfterFunc(delay/2, func() { close(handover) })
	}()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-handover:
			// Over HTTP/2 this becomes a GOAWAY, and what is under way, watches too, goes on.
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, req)
	})
}
