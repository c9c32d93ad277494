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

package logserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// FuzzReadOptions checks that decoded options are valid, whatever the query is.
func FuzzReadOptions(f *testing.F) {
	for _, query := range []string{"", "follow=true&previous=1", "tailLines=10&limitBytes=5", "sinceSeconds=3", "sinceSeconds=9223372036854775807", "sinceTime=2026-01-01T00:00:00Z",
		"tailLines=-1", "limitBytes=0", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "follow=maybe", "tailLines=a", "timestamps", "%zz", "a;b"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.RawQuery = query
		options, err := readOptions(r)
		if err != nil {
			return
		}
		if options.SinceSeconds != nil && options.SinceTime != nil {
			t.Errorf("%q has two beginnings", query)
		}
		read, err := readOptionsOf(options)
		if err != nil {
			return
		}
		if read.TailLines != nil && *read.TailLines < 0 || read.LimitBytes != nil && *read.LimitBytes < 1 {
			t.Errorf("%q is read as %+v", query, read)
		}
		if options.SinceSeconds != nil && (read.Since.After(time.Now()) || read.Since.Before(time.Unix(-1, 0))) {
			t.Errorf("%q begins at %v", query, read.Since)
		}
	})
}
