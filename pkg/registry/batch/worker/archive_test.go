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

package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leat-dev/leat/apis/batch"
)

// reader is an Uploader that only reads.
type reader struct{ results chan error }

func (r *reader) Upload(_ context.Context, _, _ string, _ *batch.WorkerArchiveOptions, body io.Reader, _ int64) error {
	_, err := io.ReadAll(body)
	r.results <- err
	return err
}

func (r *reader) MaxSize() int64   { return 10 }
func (r *reader) MaxOutput() int64 { return 10 }

// startUploads starts a server whose requests have the time.
func startUploads(t *testing.T, time time.Duration) (server *httptest.Server, results <-chan error) {
	t.Helper()
	archive := &reader{make(chan error, 1)}
	r := &ArchiveREST{archive: archive}
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), time)
		defer cancel()
		err := r.upload(ctx, w, req, "ns", "w", &batch.WorkerArchiveOptions{})
		if err != nil {
			closeUnread(w, req)
		}
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			w.WriteHeader(int(status.Status().Code))
		} else if err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, archive.results
}

// TestUploadEndsAtItsDeadline sends bodies that do not end: an upload that waits for the rest keeps others away.
func TestUploadEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	server, results := startUploads(t, time.Second)
	for _, test := range []struct {
		protocol string
		size     int64
	}{{"http/1.1", -1}, {"http/1.1", 9}, {"h2", -1}, {"h2", 9}} {
		protocol := test.protocol
		body, end := io.Pipe()
		defer end.Close()
		client := &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: protocol == "h2", TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, NextProtos: []string{protocol}},
		}}
		defer client.CloseIdleConnections()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", zipMediaType)
		request.ContentLength = test.size
		go func() { _, _ = io.WriteString(end, "slow") }()
		response, err := client.Do(request)
		if err != nil {
			t.Errorf("%s: %v", protocol, err)
		} else if response.Body.Close(); response.StatusCode != http.StatusRequestTimeout || (response.ProtoMajor == 2) != (protocol == "h2") {
			t.Errorf("%s: got %s over %s, want %d", protocol, response.Status, response.Proto, http.StatusRequestTimeout)
		}
		if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the upload read the error %v, want that of the deadline", protocol, err)
		}
	}
}

// connection records the deadlines of its reads.
type connection struct {
	http.ResponseWriter
	deadlines []time.Time
}

func (c *connection) SetReadDeadline(deadline time.Time) error {
	c.deadlines = append(c.deadlines, deadline)
	return nil
}

// TestUploadLeavesNoDeadline checks that the deadline of a body does not end later requests of the connection.
func TestUploadLeavesNoDeadline(t *testing.T) {
	t.Parallel()
	r := &ArchiveREST{archive: &reader{make(chan error, 1)}}
	w := &connection{ResponseWriter: httptest.NewRecorder()}
	start := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), start.Add(time.Hour))
	defer cancel()
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader("x"))
	request.Header.Set("Content-Type", zipMediaType)
	if err := r.upload(ctx, w, request, "ns", "w", &batch.WorkerArchiveOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(w.deadlines) != 2 || w.deadlines[0].Before(start) || w.deadlines[0].After(start.Add(time.Hour)) || !w.deadlines[1].IsZero() {
		t.Errorf("got the deadlines %v, want one before that of the request, and none in the end", w.deadlines)
	}
}

func TestUploadMustBeAZipFile(t *testing.T) {
	t.Parallel()
	server, results := startUploads(t, time.Minute)
	for _, test := range []struct {
		mediaType, body string
		want            int
	}{
		{"application/zip", "x", http.StatusOK},
		{"Application/ZIP; version=1", "x", http.StatusOK},
		{"application/zip", "", http.StatusOK},
		{"", "", http.StatusOK},
		{"", "x", http.StatusUnsupportedMediaType},
		{"application/json", "{}", http.StatusUnsupportedMediaType},
		{"application/zipped", "x", http.StatusUnsupportedMediaType},
		{"application/zip, application/json", "x", http.StatusUnsupportedMediaType},
	} {
		response, err := server.Client().Post(server.URL, test.mediaType, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			<-results
		}
		if response.StatusCode != test.want {
			t.Errorf("%q with the body %q: got %s, want %d", test.mediaType, test.body, response.Status, test.want)
		}
	}
}
