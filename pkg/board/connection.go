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
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// connection knows whether the informers reach the server, from the results of their requests. Informers retry forever
// and report only errors.
type connection struct {
	next http.RoundTripper

	mu     sync.Mutex
	failed map[string]error // the last errors, by path
	since  time.Time        // when the first of them came
}

// RoundTrip implements http.RoundTripper.
func (c *connection) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if r.Context().Err() != nil {
		return response, err
	}
	failure := err
	if err == nil && response.StatusCode >= http.StatusBadRequest && response.StatusCode != http.StatusGone {
		failure = fmt.Errorf("the server answers with status %d", response.StatusCode)
	}
	c.note(r.URL.Path, failure)
	return response, err
}

func (c *connection) note(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.failed, path)
		return
	}
	if len(c.failed) == 0 {
		c.since = time.Now()
		c.failed = map[string]error{}
	}
	c.failed[path] = err
}

// state returns the time of the disconnection and its cause. The cause is empty while the server is reached.
func (c *connection) state() (since time.Time, cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.failed {
		if request, ok := errors.AsType[*url.Error](err); ok {
			err = request.Err
		}
		if text := strings.TrimSpace(err.Error()); cause == "" || text < cause {
			cause = text
		}
	}
	return c.since, cause
}
