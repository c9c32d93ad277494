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

package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/archive/store"
)

// code returns the code of the API error, and its delay.
func code(err error) (code int32, retryAfter int32) {
	status, ok := err.(apierrors.APIStatus)
	switch {
	case err == nil:
		return http.StatusOK, 0
	case !ok:
		return 0, 0
	}
	if details := status.Status().Details; details != nil {
		retryAfter = details.RetryAfterSeconds
	}
	return status.Status().Code, retryAfter
}

func TestUpload(t *testing.T) {
	body := segmentOf(t, at(7, 0, "seven"))
	foreign := at(7, 0, "seven")
	foreign.record.WorkerName = "other"
	lone := at(0, 0, "alone")
	lone.record.Index = nil
	hostile := bytes.ReplaceAll(body, []byte("7.0.1.log"), []byte("../../log"))
	for name, test := range map[string]struct {
		user            string // of namespace ns
		namespace, name string
		body            []byte
		change          func(*batch.WorkerArchiveOptions)
		before          func(*fixture)
		want            int32
		message         string
		retry           bool
		slow            bool // the deadline of the body is over after 10 bytes
	}{
		"stored":                           {body: body, want: http.StatusOK},
		"nothing, to ask":                  {want: http.StatusOK},
		"of another worker":                {name: "other", body: body, want: http.StatusForbidden, message: "only worker ns/other itself"},
		"of another namespace":             {namespace: "other", body: body, want: http.StatusForbidden, message: "only worker other/w itself"},
		"by a person":                      {user: "admin", body: body, want: http.StatusForbidden},
		"too large":                        {body: make([]byte, maxSegment+1), want: http.StatusRequestEntityTooLarge, message: "at most 8388608 bytes"},
		"wrong digest":                     {body: body, change: func(o *batch.WorkerArchiveOptions) { o.Digest = "00" }, want: http.StatusBadRequest, message: "digest"},
		"no zip":                           {body: []byte("{}"), want: http.StatusUnprocessableEntity, message: "body"},
		"entry outside of the segment":     {body: hostile, want: http.StatusUnprocessableEntity, message: "../../log"},
		"records of another worker":        {body: segmentOf(t, foreign), want: http.StatusUnprocessableEntity, message: "workerName"},
		"no incarnation":                   {body: body, change: func(o *batch.WorkerArchiveOptions) { o.Incarnation = "../x" }, want: http.StatusUnprocessableEntity, message: "incarnation: Invalid value"},
		"no index in a set":                {body: segmentOf(t, lone), want: http.StatusUnprocessableEntity, message: "body: Invalid value"},
		"too slow":                         {body: body, slow: true, want: http.StatusRequestTimeout, message: "10 bytes have arrived"},
		"no archive":                       {body: body, before: func(f *fixture) { f.Store = nil }, want: http.StatusNotFound, message: "there is no archive: leat-apiserver was started without --archive"},
		"nothing, without an archive":      {before: func(f *fixture) { f.Store = nil }, want: http.StatusNotFound, message: "there is no archive"},
		"the store is away":                {body: body, before: func(f *fixture) { f.store.err = fmt.Errorf("%w: full", store.ErrUnavailable) }, want: http.StatusServiceUnavailable, message: "full", retry: true},
		"as many of the worker already":    {body: body, before: func(f *fixture) { f.uploads.byOwner["ns/w"] = maxUploadsOfWorker }, want: http.StatusTooManyRequests, retry: true},
		"as many of the namespace already": {body: body, before: func(f *fixture) { f.uploads.byOwner["ns"] = maxUploadsOfNamespace }, want: http.StatusTooManyRequests, message: "8 of a namespace", retry: true},
		"as many already":                  {body: body, before: func(f *fixture) { f.uploads.total = maxUploads }, want: http.StatusTooManyRequests, retry: true},
		"faster than allowed": {body: body, before: func(f *fixture) {
			f.MaxRatePerNamespace = 1
			_ = f.allow("ns", maxSegment)
		}, want: http.StatusTooManyRequests, message: "--archive-max-rate-per-namespace", retry: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			if test.before != nil {
				test.before(f)
			}
			options := optionsFor(test.body, 3)
			if test.change != nil {
				test.change(options)
			}
			ctx := asWorker(t.Context(), "ns", "w")
			if test.user != "" {
				ctx = genericapirequest.WithUser(t.Context(), &user.DefaultInfo{Name: test.user, Groups: []string{user.SystemPrivilegedGroup}})
			}
			namespace, worker := "ns", "w"
			if test.namespace != "" {
				namespace = test.namespace
			}
			if test.name != "" {
				worker = test.name
			}
			total := f.uploads.total
			for _, size := range []int64{int64(len(test.body)), -1} {
				if size < 0 && len(test.body) == 0 {
					continue
				}
				sent := io.Reader(bytes.NewReader(test.body))
				if test.slow {
					sent = io.MultiReader(bytes.NewReader(test.body[:10]), iotest.ErrReader(os.ErrDeadlineExceeded))
				}
				err := f.Upload(ctx, namespace, worker, options, sent, size)
				got, delay := code(err)
				if got != test.want || test.retry != (delay > 0) || err != nil && !strings.Contains(err.Error(), test.message) {
					t.Errorf("size %d: got %d with a delay of %d: %v; want %d and %q", size, got, delay, err, test.want, test.message)
				}
			}
			if f.uploads.total != total {
				t.Errorf("%d uploads are in flight", f.uploads.total-total)
			}
			var want []string
			if test.want == http.StatusOK && len(test.body) > 0 {
				want = []string{"uid-of-ns/" + string(setUID) + "/w/" + incarnation + "-3-7.zip"}
			}
			if got := f.store.keys(); !slices.Equal(got, want) {
				t.Errorf("stored %q, want %q", got, want)
			}
		})
	}
}

func TestUploadOfOtherBytesUnderAKeyIsAConflict(t *testing.T) {
	f := newFixture()
	f.upload(t, 3, at(7, 0, "seven"))
	body := segmentOf(t, at(7, 0, "other"))
	err := f.Upload(asWorker(t.Context(), "ns", "w"), "ns", "w", optionsFor(body, 3), bytes.NewReader(body), int64(len(body)))
	if got, _ := code(err); got != http.StatusConflict {
		t.Errorf("got %v", err)
	}
}

func TestUploadOfTasksWithoutSetHasTimes(t *testing.T) {
	f := newFixture()
	lone := at(0, 0, "lone")
	lone.record.Index = nil
	body := segmentOf(t, lone)
	options := optionsFor(body, 1)
	options.TaskSetUID = ""
	if err := f.Upload(asWorker(t.Context(), "ns", "w"), "ns", "w", options, bytes.NewReader(body), -1); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("uid-of-ns/tasks/w/%s-1-t%d-%[2]d.zip", incarnation, began.Unix())
	if got := f.store.keys(); len(got) != 1 || got[0] != want {
		t.Errorf("stored %q, want %q", got, want)
	}
}

// TestUploadsAtATime blocks uploads in the read of their bodies.
func TestUploadsAtATime(t *testing.T) {
	f := newFixture()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error, maxUploads)
	var ends []*io.PipeWriter
	for i := range maxUploads {
		body, end := io.Pipe()
		ends = append(ends, end)
		namespace, name := fmt.Sprintf("ns%d", i/maxUploadsOfNamespace), fmt.Sprintf("w%d", i/maxUploadsOfWorker)
		go func() {
			results <- f.Upload(asWorker(ctx, namespace, name), namespace, name, &batch.WorkerArchiveOptions{}, body, -1)
		}()
		if _, err := end.Write([]byte("x")); err != nil { // the upload reads
			t.Fatal(err)
		}
		if _, err := end.Write([]byte("y")); err != nil {
			t.Fatal(err)
		}
	}
	if got, delay := code(f.Upload(asWorker(ctx, "ns", "w"), "ns", "w", &batch.WorkerArchiveOptions{}, strings.NewReader("x"), 1)); got != http.StatusTooManyRequests || delay == 0 {
		t.Errorf("one more: got %d with a delay of %d", got, delay)
	}
	for _, end := range ends {
		end.Close()
	}
	for range maxUploads {
		if got, _ := code(<-results); got != http.StatusBadRequest { // without digest
			t.Errorf("got %d", got)
		}
	}
	if f.uploads.total != 0 || len(f.uploads.byOwner) != 0 {
		t.Errorf("uploads that have ended are counted: %d, %v", f.uploads.total, f.uploads.byOwner)
	}
}

func TestRateIsThatOfANamespace(t *testing.T) {
	f := newFixture()
	f.MaxRatePerNamespace = maxSegment
	if err := f.allow("a", maxSegment); err != nil {
		t.Fatal(err)
	}
	if got, delay := code(f.allow("a", maxSegment/2)); got != http.StatusTooManyRequests || delay != 1 {
		t.Errorf("beyond the rate: got %d with a delay of %d", got, delay)
	}
	if err := f.allow("b", maxSegment); err != nil {
		t.Errorf("another namespace: %v", err)
	}
	f.clock.SetTime(f.clock.Now().Add(time.Second))
	if err := f.allow("a", maxSegment); err != nil {
		t.Errorf("a second later: %v", err)
	}
}
