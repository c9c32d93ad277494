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
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch"
	workerauthorization "github.com/leat-dev/leat/pkg/apiserver/authorization/worker"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
)

const (
	// maxUploads is the maximum number of uploads at a time, and the others those of one namespace and one worker. An
	// upload holds a segment in memory. A namespace leaves room for others, even if all its workers send slowly.
	maxUploads, maxUploadsOfNamespace, maxUploadsOfWorker = 16, 8, 2
	// maxNamespaces bounds the rate limiters. One that does not fit begins again with a full bucket.
	maxNamespaces = 10_000
)

var _ worker.Uploader = &Archive{}

// uploads counts the uploads at this time.
type uploads struct {
	mu    sync.Mutex
	total int
	// byOwner has the numbers by namespace, and by namespace/worker.
	byOwner map[string]int
}

// begin counts an upload of the worker, and reports whether there may be another one.
func (u *uploads) begin(namespace, worker string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := namespace + "/" + worker
	if u.total >= maxUploads || u.byOwner[namespace] >= maxUploadsOfNamespace || u.byOwner[own] >= maxUploadsOfWorker {
		return false
	}
	u.total++
	u.byOwner[namespace]++
	u.byOwner[own]++
	uploadsInFlight.Inc()
	return true
}

// end ends an upload that begin has counted.
func (u *uploads) end(namespace, worker string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total--
	for _, owner := range []string{namespace, namespace + "/" + worker} {
		if u.byOwner[owner]--; u.byOwner[owner] == 0 {
			delete(u.byOwner, owner)
		}
	}
	uploadsInFlight.Dec()
}

// MaxSize implements worker.Uploader.
func (a *Archive) MaxSize() int64 { return maxSegment }

// MaxOutput implements worker.Uploader.
func (a *Archive) MaxOutput() int64 { return a.MaxBytesPerAttempt }

// Upload implements worker.Uploader. The namespace and the worker in the key are those of the credentials.
func (a *Archive) Upload(ctx context.Context, namespace, name string, options *batch.WorkerArchiveOptions, body io.Reader, size int64) error {
	if err := checkUser(ctx, namespace, name); err != nil {
		return err
	}
	if a.Store == nil {
		return notFound()
	}
	if size == 0 {
		return nil
	}
	if size > maxSegment {
		return tooLarge(size)
	}
	if !a.uploads.begin(namespace, name) {
		refusedSegments.WithLabelValues("busy").Inc()
		return apierrors.NewTooManyRequests(fmt.Sprintf("the server receives as many segments at a time as it may: %d, %d of a namespace and %d of a worker: try again",
			maxUploads, maxUploadsOfNamespace, maxUploadsOfWorker), 1)
	}
	defer a.uploads.end(namespace, name)
	if size > 0 { // wait before the body is read, if possible
		if err := a.allow(namespace, size); err != nil {
			return err
		}
	}
	read, err := io.ReadAll(body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large) || len(read) > maxSegment:
		return tooLarge(-1)
	case errors.Is(err, os.ErrDeadlineExceeded):
		refusedSegments.WithLabelValues("slow").Inc()
		return statusError(http.StatusRequestTimeout, metav1.StatusReasonTimeout,
			"the body took too long: of the segment, %d bytes have arrived: send it faster, or try again", len(read))
	case err != nil:
		return apierrors.NewBadRequest(fmt.Sprintf("the body cannot be read: %v", err))
	case len(read) == 0:
		return nil
	}
	if size < 0 {
		if err := a.allow(namespace, int64(len(read))); err != nil {
			return err
		}
	}
	return a.store(ctx, namespace, name, options, read)
}

// checkUser returns an error unless the user is the worker.
func checkUser(ctx context.Context, namespace, name string) error {
	user, _ := genericapirequest.UserFrom(ctx)
	if ownNamespace, own, ok := workerauthorization.Identity(user); !ok || ownNamespace != namespace || own != name {
		return apierrors.NewForbidden(schema.GroupResource{Group: batch.GroupName, Resource: "workers/archive"}, name,
			fmt.Errorf("only worker %s/%s itself may send its segments", namespace, name))
	}
	return nil
}

func tooLarge(size int64) error {
	refusedSegments.WithLabelValues("large").Inc()
	what := "the segment"
	if size > 0 {
		what = fmt.Sprintf("the segment of %d bytes", size)
	}
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%s is too large: it may have at most %d bytes", what, maxSegment))
}

// allow takes bytes from the bucket of the namespace. It returns an error if the namespace has to wait for them.
func (a *Archive) allow(namespace string, bytes int64) error {
	a.mu.Lock()
	limiter, ok := a.limiters.Get(namespace)
	if !ok {
		limiter = rate.NewLimiter(rate.Limit(a.MaxRatePerNamespace), int(max(a.MaxRatePerNamespace, maxSegment)))
		a.limiters.Add(namespace, limiter)
	}
	a.mu.Unlock()
	now := a.Clock.Now()
	reservation := limiter.(*rate.Limiter).ReserveN(now, int(bytes))
	wait := reservation.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	reservation.CancelAt(now)
	refusedSegments.WithLabelValues("rate").Inc()
	return apierrors.NewTooManyRequests(fmt.Sprintf("the workers of namespace %s may store %d bytes a second: see --archive-max-rate-per-namespace",
		namespace, a.MaxRatePerNamespace), int(math.Ceil(min(wait, time.Hour).Seconds())))
}

// store checks a segment and puts it into the store.
func (a *Archive) store(ctx context.Context, namespace, name string, options *batch.WorkerArchiveOptions, body []byte) error {
	if digest := sha256.Sum256(body); !strings.EqualFold(options.Digest, hex.EncodeToString(digest[:])) {
		refusedSegments.WithLabelValues("invalid").Inc()
		return apierrors.NewBadRequest(fmt.Sprintf("digest: %q: must be the SHA-256 digest of the body, which is %x", options.Digest, digest))
	}
	summary, err := segment.Verify(body, a.limits)
	switch {
	case err != nil:
		return invalid(name, field.Invalid(field.NewPath("body"), field.OmitValueType{}, err.Error()))
	case summary.WorkerName != "" && summary.WorkerName != name:
		return invalid(name, field.Invalid(field.NewPath("body"), field.OmitValueType{}, fmt.Sprintf(
			"workerName of the records is %q: it must be that of the worker that sends them", summary.WorkerName)))
	}
	id, err := a.NamespaceID(ctx, namespace)
	if err != nil {
		return unavailable("the namespace %s cannot be identified now: %v: try again", namespace, err)
	}
	key := &segment.Key{
		Namespace: id, Set: options.TaskSetUID, Worker: name, Incarnation: options.Incarnation, Segment: options.Segment,
	}
	if key.Set == "" {
		// The start of a record may be unknown.
		key.First, key.Last = time.Unix(max(0, summary.First.Unix()), 0), time.Unix(max(0, summary.Last.Unix()), 0)
	} else {
		key.Indexes = summary.Indexes
	}
	path, err := key.Format()
	switch {
	case err != nil && !segment.IsUID(options.Incarnation):
		return invalid(name, field.Invalid(field.NewPath("incarnation"), options.Incarnation, err.Error()))
	case err != nil: // attempts with indexes without a set, or the other way round
		return invalid(name, field.Invalid(field.NewPath("body"), field.OmitValueType{}, err.Error()))
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err = a.Store.Put(ctx, path, body)
	if errors.Is(err, store.ErrExists) {
		return a.compare(ctx, path, body)
	}
	if err != nil {
		refusedSegments.WithLabelValues("store").Inc()
		return storeError("put", err)
	}
	storedSegments.Inc()
	storedBytes.Add(float64(len(body)))
	return nil
}

// compare returns an error unless the stored object has the same bytes.
func (a *Archive) compare(ctx context.Context, key string, body []byte) error {
	stored, err := a.Store.ReadAt(ctx, key, 0, int64(len(body))+1)
	switch {
	case err != nil:
		refusedSegments.WithLabelValues("store").Inc()
		return storeError("read", err)
	case !bytes.Equal(stored, body):
		refusedSegments.WithLabelValues("conflict").Inc()
		return statusError(http.StatusConflict, metav1.StatusReasonConflict,
			"another segment of that number, incarnation and set is in the archive already: a segment must not change")
	}
	return nil
}

func invalid(name string, err *field.Error) error {
	refusedSegments.WithLabelValues("invalid").Inc()
	return apierrors.NewInvalid(schema.GroupKind{Group: batch.GroupName, Kind: "WorkerArchiveOptions"}, name, field.ErrorList{err})
}
