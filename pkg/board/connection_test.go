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

package board

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestConnectionIsLostWhileAnyInformerFails(t *testing.T) {
	c := &connection{}
	request := func(path string, status int, err error) {
		c.next = roundTripper(func(*http.Request) (*http.Response, error) {
			if err != nil {
				return nil, err
			}
			return &http.Response{StatusCode: status}, nil
		})
		_, _ = c.RoundTrip(httptest.NewRequest(http.MethodGet, path, nil))
	}
	expect := func(want string) {
		t.Helper()
		if _, cause := c.state(); (cause == "") != (want == "") || !strings.Contains(cause, want) {
			t.Errorf("got %q, want %q", cause, want)
		}
	}
	expect("")
	request("/tasks", 200, nil)
	expect("")
	request("/tasks", 0, errors.New("connection refused"))
	request("/workers", 503, nil)
	expect("connection refused")
	request("/tasks", 200, nil)
	expect("status 503")
	request("/workers", 410, nil) // the version of a watch is too old: the informer lists again
	expect("")
}
