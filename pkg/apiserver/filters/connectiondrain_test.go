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
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectionsAreDrainedInTheSecondHalfOfTheShutdownDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shutdown := make(chan struct{})
		handler := WithConnectionDrain(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), shutdown, 10*time.Second)
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"before a shutdown", func() { time.Sleep(time.Hour) }, ""},
			{"in the first half of the delay", func() { close(shutdown); time.Sleep(4 * time.Second) }, ""},
			{"in the second half of the delay", func() { time.Sleep(2 * time.Second) }, "close"},
		} {
			step.do()
			synctest.Wait()
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/", nil))
			if got := response.Header().Get("Connection"); got != step.want || response.Code != http.StatusOK {
				t.Errorf("%s: got status %d with Connection: %q, want 200 with %q", step.what, response.Code, got, step.want)
			}
		}
	})
}
