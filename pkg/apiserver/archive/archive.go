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

// Package archive keeps the output and the records of finished attempts. Workers send them in segments, which it checks
// and stores. It reads them back, and in front of them what is still on workers: live output, and attempts that have
// not been sent.
//
// It keeps no state but caches: all that it knows of segments is in their keys and in themselves, and segments never
// change. Several servers can use the same store.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// maxSegment is the maximum size of a segment, and maxRecords that of its records when they are not compressed, in
	// bytes.
	maxSegment = 8 << 20
	maxRecords = 64 << 20
	// retryAfter is after how many seconds a client should try again what the store or a worker has prevented.
	retryAfter = 5
	// storeTimeout bounds a request to the store.
	storeTimeout = 30 * time.Second
)

// Defaults of the Options.
const (
	DefaultMaxRatePerNamespace = 32 << 20
	DefaultMaxBytesPerAttempt  = 1 << 20
)

// noArchive is the message for requests that need an archive.
const noArchive = "there is no archive: leat-apiserver was started without --archive"

// Workers reads from workers what they have not sent to the archive.
type Workers interface {
	task.LogSource
	// Records returns the records of the attempts of a set that the worker has not sent. If set is empty, they are of
	// tasks without one. If indexes is not empty, they are of these indexes, and if taskUID is not empty, of that task. It
	// returns nil if the worker has none, and an error if it cannot reach the worker. If there are more, the list has
	// metadata.continue, which is from of the next call.
	Records(ctx context.Context, endpoint *batch.WorkerEndpoint, namespace string, set types.UID, indexes string, taskUID types.UID, from string) (
		*v1alpha1.TaskRecordList, error)
	// Output returns the output of an attempt by its name in a segment. It returns a task.LogNotKeptError if the worker
	// has sent it.
	Output(ctx context.Context, endpoint *batch.WorkerEndpoint, namespace string, set types.UID, entry string, maxSize int64) ([]byte, error)
}

// Objects reads the objects of a namespace.
type Objects interface {
	// Workers returns the Workers of a namespace.
	Workers(ctx context.Context, namespace string) ([]*batch.Worker, error)
	// Tasks returns the tasks with the label of a set.
	Tasks(ctx context.Context, namespace string, set types.UID) ([]*batch.Task, error)
}

// Options configure an Archive.
type Options struct {
	// Store keeps the segments. Nil if there is no archive: only what is on workers can be read.
	Store store.Store
	// Workers reads from workers.
	Workers Workers
	// Objects reads objects. It may be set later, before the first request.
	Objects Objects
	// NamespaceID returns what identifies a namespace in keys: a UID, or the name if namespaces are never created again.
	NamespaceID func(ctx context.Context, namespace string) (string, error)
	// MaxRatePerNamespace is how many bytes a second the workers of a namespace may store.
	MaxRatePerNamespace int64
	// MaxBytesPerAttempt is the maximum size of the output of an attempt.
	MaxBytesPerAttempt int64
	// Clock is the clock. Nil means the system's.
	Clock clock.PassiveClock
}

// Archive stores and reads finished attempts. It is safe for concurrent use.
type Archive struct {
	Options
	limits segment.Limits
	// retention is how long segments in a directory are kept.
	retention time.Duration

	uploads  uploads
	limiters *lru.Cache // of *rate.Limiter by namespace
	reads    chan struct{}

	listings    *lru.Cache // of *listing by prefix
	listing     singleflight.Group
	directories *directories
	opening     singleflight.Group
	// maxUnsent is maxUnsent, less in tests.
	maxUnsent int

	mu       sync.Mutex
	scanning map[string]bool // users that read records
}

var _ task.AttemptSource = &Archive{}

// New returns an archive.
func New(options Options) *Archive {
	if options.Clock == nil {
		options.Clock = clock.RealClock{}
	}
	return &Archive{
		Options:     options,
		limits:      segment.Limits{Size: maxSegment, Output: options.MaxBytesPerAttempt, Records: maxRecords},
		uploads:     uploads{byOwner: map[string]int{}},
		limiters:    lru.New(maxNamespaces),
		reads:       make(chan struct{}, maxReads),
		listings:    lru.New(maxListings),
		directories: newDirectories(maxDirectoryBytes),
		maxUnsent:   maxUnsent,
		scanning:    map[string]bool{},
	}
}

// unavailable returns the API error for what cannot be done now.
func unavailable(format string, args ...any) error {
	err := apierrors.NewServiceUnavailable(fmt.Sprintf(format, args...))
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: retryAfter}
	return err
}

// storeError returns the API error for an error of the store. It keeps the error for the metrics.
func storeError(operation string, err error) error {
	if !errors.Is(err, context.Canceled) {
		storeErrors.WithLabelValues(operation).Inc()
	}
	return unavailable("the archive cannot be used now: %v", err)
}

// object is a stored object as an io.ReaderAt. It outlives the request that opens it, because its directory is cached.
type object struct {
	archive *Archive
	key     string
}

// ReadAt implements io.ReaderAt.
func (o *object) ReadAt(p []byte, offset int64) (int, error) {
	o.archive.reads <- struct{}{}
	defer func() { <-o.archive.reads }()
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	data, err := o.archive.Store.ReadAt(ctx, o.key, offset, int64(len(p)))
	storeReads.Inc()
	if err != nil {
		storeErrors.WithLabelValues("read").Inc()
		return 0, err
	}
	storeReadBytes.Add(float64(len(data)))
	n := copy(p, data)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// statusError returns the API error with a code that no constructor of upstream has.
func statusError(code int32, reason metav1.StatusReason, format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: fmt.Sprintf(format, args...),
	}}
}

// notFound returns the error for requests that need an archive.
func notFound() error {
	return statusError(http.StatusNotFound, metav1.StatusReasonNotFound, noArchive)
}
