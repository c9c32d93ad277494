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
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// writes records the sizes of the writes of a response.
type writes struct {
	*httptest.ResponseRecorder
	sizes   []int
	flushed int // number of writes before the last flush
}

func (w *writes) Write(data []byte) (int, error) {
	w.sizes = append(w.sizes, len(data))
	return w.ResponseRecorder.Write(data)
}

func (w *writes) Flush()                   { w.flushed = len(w.sizes) }
func (w *writes) CloseNotify() <-chan bool { return nil }

// respond returns the response to a request with the verb, and the value that the handler panicked with.
func respond(verb string, handler http.HandlerFunc) (response *writes, panicked any) {
	response = &writes{ResponseRecorder: httptest.NewRecorder()}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{Verb: verb}))
	defer func() { panicked = recover() }()
	WithBufferedLists(handler).ServeHTTP(response, req)
	return response, nil
}

func TestListsAreBuffered(t *testing.T) {
	const object, objects = "an object of forty bytes and no more ...", 10_000
	write := func(w http.ResponseWriter, _ *http.Request) {
		for range objects {
			if _, err := w.Write([]byte(object)); err != nil {
				t.Error(err)
			}
		}
	}
	for verb, want := range map[string]int{"list": len(object)*objects/listBufferSize + 1, "watch": objects, "get": objects} {
		response, _ := respond(verb, write)
		if response.Body.String() != strings.Repeat(object, objects) {
			t.Errorf("%s: the response differs from what was written", verb)
		}
		if len(response.sizes) != want {
			t.Errorf("%s: got %d writes, want %d", verb, len(response.sizes), want)
		}
	}
}

func TestFlush(t *testing.T) {
	response, _ := respond("list", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("a"))
		w.(http.Flusher).Flush()
		_, _ = w.Write([]byte("b"))
	})
	if response.flushed != 1 || len(response.sizes) != 2 || response.Body.String() != "ab" {
		t.Errorf("%q: got %d writes, %d of them flushed, want 2 and 1", response.Body, len(response.sizes), response.flushed)
	}
}

func TestPanicDiscardsTheBuffer(t *testing.T) {
	response, panicked := respond("list", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("half of a"))
		panic(http.ErrAbortHandler)
	})
	if panicked != http.ErrAbortHandler || response.Body.Len() != 0 {
		t.Errorf("got panic %v and body %q, want %v and none", panicked, response.Body, http.ErrAbortHandler)
	}
}
