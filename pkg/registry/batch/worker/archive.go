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
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// zipMediaType is the media type of a segment.
	zipMediaType = "application/zip"
	// bodyTimeout bounds the time for a body if the request has no deadline.
	bodyTimeout = time.Minute
)

// Uploader stores the segments of workers.
type Uploader interface {
	// Upload stores a segment of the worker that the user of ctx is. Its errors are API errors. size is that of the
	// body, negative if it is not known. Nothing is stored of an empty body.
	Upload(ctx context.Context, namespace, worker string, options *batch.WorkerArchiveOptions, body io.Reader, size int64) error
	// MaxSize returns the maximum size of a body, and MaxOutput that of the output of an attempt in it, in bytes.
	MaxSize() int64
	MaxOutput() int64
}

// Subresources creates the storages of the subresources of workers with what they depend on.
type Subresources struct {
	// Archive stores segments.
	Archive Uploader
}

// ArchiveREST returns the storage of the archive subresource over the store of workers.
func (s Subresources) ArchiveREST(store *genericregistry.Store) *ArchiveREST {
	return &ArchiveREST{store: store, archive: s.Archive}
}

// ArchiveREST serves the archive subresource, to which a worker sends segments: zip files with the output and the
// records of finished attempts. The Worker does not have to exist.
type ArchiveREST struct {
	store   *genericregistry.Store
	archive Uploader
}

var (
	_ rest.Connecter       = &ArchiveREST{}
	_ rest.StorageMetadata = &ArchiveREST{}
)

// New implements rest.Storage. As upstream does for subresources that connect, it returns the options.
func (r *ArchiveREST) New() runtime.Object { return &batch.WorkerArchiveOptions{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *ArchiveREST) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *ArchiveREST) ProducesMIMETypes(string) []string { return nil }

// ProducesObject implements rest.StorageMetadata.
func (r *ArchiveREST) ProducesObject(string) any { return metav1.Status{} }

// ConnectMethods implements rest.Connecter.
func (r *ArchiveREST) ConnectMethods() []string { return []string{http.MethodPost} }

// NewConnectOptions implements rest.Connecter.
func (r *ArchiveREST) NewConnectOptions() (options runtime.Object, subpath bool, subpathKey string) {
	return &batch.WorkerArchiveOptions{}, false, ""
}

// Connect implements rest.Connecter.
func (r *ArchiveREST) Connect(ctx context.Context, name string, obj runtime.Object, responder rest.Responder) (http.Handler, error) {
	options, ok := obj.(*batch.WorkerArchiveOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected WorkerArchiveOptions, not %T", obj))
	}
	if err := task.ValidateOptions(ctx, r.store, "WorkerArchiveOptions", name, options); err != nil {
		return nil, err
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.upload(ctx, w, req, namespace, name, options); err != nil {
			closeUnread(w, req)
			responder.Error(err)
			return
		}
		responder.Object(http.StatusOK, v1alpha1.ArchiveStatus(r.archive.MaxOutput()))
	}), nil
}

// upload stores the segment in the body of a request.
func (r *ArchiveREST) upload(ctx context.Context, w http.ResponseWriter, req *http.Request, namespace, name string, options *batch.WorkerArchiveOptions) error {
	if err := checkMediaType(req); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(bodyDeadline(ctx, time.Now())); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("cannot bound the time for the body: %w", err))
	}
	if err := r.archive.Upload(ctx, namespace, name, options, http.MaxBytesReader(w, req.Body, r.archive.MaxSize()), req.ContentLength); err != nil {
		return err // the deadline also ends the read of what is left of the body
	}
	// Without a deadline again, the connection can be used for other requests.
	return control.SetReadDeadline(time.Time{})
}

// closeUnread makes the server send the response of a refused upload at once, and close the connection. Otherwise, it
// waits for the rest of the body first, over HTTP/1.
func closeUnread(w http.ResponseWriter, req *http.Request) {
	if req.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

// checkMediaType returns an error unless the body is empty or a zip file.
func checkMediaType(req *http.Request) error {
	sent := req.Header.Get("Content-Type")
	if mediaType, _, _ := mime.ParseMediaType(sent); req.ContentLength == 0 || mediaType == zipMediaType {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the Content-Type of the body is %.100q, but must be %s", sent, zipMediaType),
	}}
}

// bodyDeadline returns when the body must have arrived. The last fifth of the time of the request is for the store and
// the response.
func bodyDeadline(ctx context.Context, now time.Time) time.Time {
	deadline, ok := ctx.Deadline()
	if !ok {
		return now.Add(bodyTimeout)
	}
	return now.Add(deadline.Sub(now) / 5 * 4)
}
