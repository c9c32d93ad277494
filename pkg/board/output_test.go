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
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// outputOf returns the response for a query. log is what the server has, and asked the path and the query of the
// request for it.
func outputOf(t *testing.T, b *Board, log, query string) (w *httptest.ResponseRecorder, asked string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path[strings.LastIndex(r.URL.Path, "/namespaces/"):] + "?" + r.URL.RawQuery
		_, _ = fmt.Fprint(w, log)
	}))
	defer server.Close()
	client, err := versioned.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	b.client = client
	w = httptest.NewRecorder()
	b.serveOutput(w, httptest.NewRequest(http.MethodGet, "/output?"+query, nil))
	return w, asked
}

func TestOutputIsSentInLines(t *testing.T) {
	const all = "0 first\n0 \n12 \x1b[31mred\x1b[0m <b>\x07\n[leat: a worker cannot be reached]\n"
	long := "3 " + strings.Repeat("x", 100_000) + "\n4 after\n"
	many := strings.Repeat("5 y\n", maxOutputLines+1)
	for _, test := range []struct{ name, log, query, want, asked string }{
		{"all", all, "", "0 0\tfirst\n0 0\t\n12 12\tred <b>\n\t[leat: a worker cannot be reached]\n", "prefix=true&tailLines=20"},
		{"one", "12 a\n", "index=12", "12 12\ta\n", "indexes=12&prefix=true"},
		{"no end of line", "12 a", "index=12", "12 12\ta\n", ""},
		{"search", all, "search=RED", "12 12\tred <b>\n\t[leat: a worker cannot be reached]\n", "?prefix=true"},
		{"search without result", "0 a\n", "search=b", "\tNo line has this text.\n", ""},
		{"nothing", "", "", "\tNothing was printed.\n", ""},
		{"long line", long, "", "3 3\t" + strings.Repeat("x", maxLine) + "…\n4 4\tafter\n", ""},
		{"many lines", many, "", strings.Repeat("5 5\ty\n", maxOutputLines) + "\tThe first 2000 lines are shown: search for a text, or choose an index.\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, asked := outputOf(t, boardWith(t, indexedSet(100)), test.log, "namespace=n&name=a&"+test.query)
			if got := w.Body.String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if !strings.HasPrefix(asked, "/namespaces/n/tasksets/a/log?") || !strings.HasSuffix(asked, test.asked) {
				t.Errorf("asked for %s", asked)
			}
			if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
				t.Errorf("content type %s", got)
			}
		})
	}
}

func TestOutputOfARunningCommandIsFollowed(t *testing.T) {
	alone, chunk := taskOf(3, batch.TaskRunning), chunkOf("10-19", 2, batch.TaskRunning)
	alone.Namespace, alone.Name, chunk.Namespace, chunk.Name = "n", "alone", "n", "chunk"
	b := boardWith(t, indexedSet(100), alone, chunk)
	for query, want := range map[string]string{
		"index=3":           "/namespaces/n/tasks/alone/log?follow=true",
		"index=12":          "/namespaces/n/tasks/chunk/log?follow=true&indexes=12",
		"index=13":          "/namespaces/n/tasksets/a/log?indexes=13&prefix=true", // waits in the chunk
		"index=3&search=x":  "/namespaces/n/tasksets/a/log?indexes=3&prefix=true",
		"index=99&search=x": "/namespaces/n/tasksets/a/log?indexes=99&prefix=true",
	} {
		if _, asked := outputOf(t, b, "", "namespace=n&name=a&"+query); asked != want {
			t.Errorf("%s: asked for %s, want %s", query, asked, want)
		}
	}
}

func TestOutputUsesTheNumbersOfIndexes(t *testing.T) {
	set := indexedSet(10)
	set.Spec.IndexNumbers = &batch.IndexNumbers{First: new(int32(100)), Step: new(int32(5))}
	if w, _ := outputOf(t, boardWith(t, set), "2 a\n", "namespace=n&name=a"); w.Body.String() != "2 110\ta\n" {
		t.Errorf("got %q", w.Body)
	}
}

func TestOutputIsRefused(t *testing.T) {
	for query, want := range map[string]int{
		"namespace=n&name=missing": 404, "namespace=m&name=a": 404, "": 404, "namespace=n&name=a&index=x": 400, "namespace=n&name=a&index=-1": 400,
	} {
		if w, asked := outputOf(t, boardWith(t, indexedSet(10)), "", query); w.Code != want || asked != "" {
			t.Errorf("%s: status %d, asked for %q", query, w.Code, asked)
		}
	}
	b := boardWith(t, indexedSet(10))
	for range maxOutputs {
		b.outputs <- struct{}{}
	}
	if w, _ := outputOf(t, b, "", url.Values{"namespace": {"n"}, "name": {"a"}}.Encode()); w.Code != http.StatusTooManyRequests {
		t.Errorf("too many: status %d", w.Code)
	}
}
