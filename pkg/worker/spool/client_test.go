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

package spool

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// apiServer answers uploads with the statuses one after the other, and then with 200.
type apiServer struct {
	statuses   []int
	retryAfter int
	limit      int64 // of bytes of an attempt, 0 for a server that responds with nothing

	mu       sync.Mutex
	requests []string
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	query := r.URL.Query()
	if r.Method != http.MethodPost || r.URL.Path != "/apis/batch.leat.dev/v1alpha1/namespaces/ns/workers/w/archive" ||
		r.Header.Get("Content-Type") != "application/zip" {
		http.Error(w, "another request", http.StatusTeapot)
		return
	}
	if len(body) == 0 {
		if s.limit > 0 {
			status := batch.ArchiveStatus(s.limit)
			status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(status)
		}
		return
	}
	s.requests = append(s.requests, fmt.Sprint(query.Get("taskSetUID"), query.Get("incarnation"), query.Get("segment"), len(query.Get("digest"))))
	if len(s.requests) > len(s.statuses) {
		return
	}
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(s.statuses[len(s.requests)-1]), Message: "no",
	}
	if s.retryAfter > 0 {
		status.Reason, status.Details = metav1.StatusReasonTooManyRequests, &metav1.StatusDetails{RetryAfterSeconds: int32(s.retryAfter)}
		w.Header().Set("Retry-After", strconv.Itoa(s.retryAfter))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(&status)
}

func TestAnswersOfTheServer(t *testing.T) {
	for name, test := range map[string]struct {
		server   *apiServer
		requests int
		refused  bool
	}{
		"stored":                  {server: &apiServer{}, requests: 1},
		"stored, with a limit":    {server: &apiServer{limit: 3}, requests: 1},
		"invalid":                 {server: &apiServer{statuses: []int{400}}, requests: 1, refused: true},
		"another one is there":    {server: &apiServer{statuses: []int{409}}, requests: 1, refused: true},
		"too large":               {server: &apiServer{statuses: []int{413}}, requests: 1, refused: true},
		"not acceptable":          {server: &apiServer{statuses: []int{422}}, requests: 1, refused: true},
		"broken":                  {server: &apiServer{statuses: []int{500}}, requests: 2},
		"not authenticated":       {server: &apiServer{statuses: []int{401}}, requests: 2},
		"busy":                    {server: &apiServer{statuses: []int{429}, retryAfter: 1}, requests: 2},
		"away, without an excuse": {server: &apiServer{statuses: []int{503}}, requests: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := httptest.NewServer(test.server)
			defer api.Close()
			client, err := versioned.NewForConfig(&rest.Config{Host: api.URL})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			s := openSpool(t, dir, client.BatchV1alpha1().Workers("ns"))
			s.Start(t.Context(), "inc")
			defer stop(t, s)
			if want := cmp.Or(test.server.limit, DefaultMaxBytesPerAttempt); s.maxBytesPerAttempt.Load() != want {
				t.Errorf("The spool keeps %d bytes of an attempt, want %d.", s.maxBytesPerAttempt.Load(), want)
			}
			mustAdd(t, s, setNumber(1), recordOf(1), "output\n")
			s.Release(setNumber(1))
			if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
				return len(s.Unarchived()) == 0, nil
			}); err != nil {
				t.Fatal("The segment stays.")
			}
			test.server.mu.Lock()
			defer test.server.mu.Unlock()
			if len(test.server.requests) != test.requests || test.server.requests[0] != string(setNumber(1))+"inc1"+"64" {
				t.Errorf("The requests are %v, want %d.", test.server.requests, test.requests)
			}
			if refused := filesIn(t, filepath.Join(dir, refusedDir)); (len(refused) == 1) != test.refused {
				t.Errorf("%v are moved aside.", refused)
			}
		})
	}
}
