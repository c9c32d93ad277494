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

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
)

// LogSource reads logs from workers.
type LogSource interface {
	// OpenLog opens the output of a task's command at the endpoint of a worker. The stream ends when ctx is done;
	// the caller must close it. It returns a LogNotKeptError if the worker has no such output, and another error if
	// it cannot reach the worker.
	OpenLog(ctx context.Context, task *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (io.ReadCloser, error)
}

// LogNotKeptError is the error of a LogSource whose worker does not have the output.
type LogNotKeptError struct {
	// Message is the message of the worker.
	Message string
}

// Error implements error.
func (e *LogNotKeptError) Error() string { return e.Message }

// LogREST serves the log subresource: the output of a task's command, read from the worker that the task is, or was
// last, bound to.
type LogREST struct {
	LogStorage
	store     *genericregistry.Store
	getWorker func(ctx context.Context, name string) (*batch.Worker, error)
	logs      LogSource
	attempts  AttemptSource
}

var (
	_ rest.GetterWithOptions = &LogREST{}
	_ rest.StorageMetadata   = &LogREST{}
)

// LogStorage is the part that storages of output have in common.
type LogStorage struct{}

// Destroy implements rest.Storage. The main resource destroys the store.
func (LogStorage) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (LogStorage) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (LogStorage) ProducesObject(string) any { return "" }

// OverrideMetricsVerb implements rest.StorageMetadata's optional method. It reports GET as CONNECT, so that followed
// and long outputs do not distort the latencies of GET.
func (LogStorage) OverrideMetricsVerb(verb string) string {
	if verb == http.MethodGet {
		return http.MethodConnect
	}
	return verb
}

// NewGetOptions implements rest.GetterWithOptions.
func (LogStorage) NewGetOptions() (options runtime.Object, subpath bool, subpathKey string) {
	return &batch.TaskLogOptions{}, false, ""
}

// New implements rest.Storage.
func (r *LogREST) New() runtime.Object { return &batch.Task{} }

// Get implements rest.GetterWithOptions. It returns a rest.ResourceStreamer.
func (r *LogREST) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*batch.TaskLogOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected TaskLogOptions, not %T", obj))
	}
	if err := ValidateLogOptions(ctx, r.store, name, options); err != nil {
		return nil, err
	}
	found, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	task := found.(*batch.Task)
	if err := checkIndexes(task, options.Indexes); err != nil {
		return nil, err
	}
	asked, err := ParseIndexes(options.Indexes, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	stream := &logStream{logs: r.logs, task: task, options: options}
	if r.attempts != nil && (!options.Follow || Finished(task)) {
		stream.finished = func(ctx context.Context) (io.ReadCloser, error) {
			return r.attempts.OpenOutput(ctx, AttemptsAt(task, asked), options)
		}
	}
	if task.Spec.WorkerName == "" {
		stream.unreadable = apierrors.NewBadRequest(unboundMessage(task))
		return stream, nil
	}
	worker, err := r.getWorker(ctx, task.Spec.WorkerName)
	switch {
	case apierrors.IsNotFound(err):
		stream.unreadable = apierrors.NewGone(withTail(task, options,
			fmt.Sprintf("the log of task %s is gone: worker %s, which has it, is not there any more", name, task.Spec.WorkerName)))
	case err != nil:
		return nil, err
	case worker.Status.Endpoint == nil:
		stream.unreadable = apierrors.NewServiceUnavailable(withTail(task, options,
			fmt.Sprintf("worker %s serves no logs: start it with --client-ca-file; what it keeps is in its --log-dir, in the files %s.*.log", worker.Name, task.UID)))
	}
	stream.worker = worker
	return stream, nil
}

// checkIndexes returns an error for the parameter indexes if it names indexes that the task does not run.
func checkIndexes(task *batch.Task, list string) error {
	if list == "" {
		return nil
	}
	asked, err := indexes.Parse(list, math.MaxInt32)
	switch {
	case err != nil:
		return apierrors.NewBadRequest(fmt.Sprintf("indexes: %v", err))
	case task.Spec.Indexes == "":
		return apierrors.NewBadRequest(fmt.Sprintf("indexes: %q: task %s does not have several indexes: leave it out", list, task.Name))
	}
	own, err := indexes.Parse(task.Spec.Indexes, math.MaxInt32)
	if other := indexes.Subtract(asked, own); err == nil && len(other) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("indexes: %q: task %s runs the indexes %s, and not %s",
			list, task.Name, task.Spec.Indexes, indexes.Format(other)))
	}
	return nil
}

// unboundMessage returns the message for a task without log that is not bound to a worker.
func unboundMessage(task *batch.Task) string {
	reason := "it waits for a worker"
	switch scheduled := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); {
	case Finished(task):
		reason = "it was never bound to a worker"
	case task.Status.Attempts > 0:
		reason = "it waits for another worker, and the one that ran it is not known any more"
	case scheduled != nil && scheduled.Message != "":
		reason += ": " + scheduled.Message
	}
	return fmt.Sprintf("there is no log of task %s: %s", task.Name, reason)
}

// withTail appends the last lines of the log, which the status holds, to the message for a log that cannot be read.
func withTail(task *batch.Task, options *batch.TaskLogOptions, message string) string {
	if end := task.Status.State.Terminated; end != nil && end.Message != "" && !options.Previous {
		return message + "; its last lines, from the status:\n" + end.Message
	}
	return message
}

// logStream streams the log of a task: of the current or last attempt from the worker, as long as the worker has it,
// and of others from where finished attempts are.
type logStream struct {
	logs    LogSource
	task    *batch.Task
	worker  *batch.Worker
	options *batch.TaskLogOptions
	// unreadable is the error if the log cannot be read from the worker.
	unreadable error
	// finished opens the output of finished attempts. Nil if there is none to read.
	finished func(context.Context) (io.ReadCloser, error)
}

var _ rest.ResourceStreamer = &logStream{}

// GetObjectKind implements runtime.Object.
func (s *logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object.
func (s *logStream) DeepCopyObject() runtime.Object { panic("a stream cannot be copied") }

// InputStream implements rest.ResourceStreamer.
func (s *logStream) InputStream(ctx context.Context, _, _ string) (stream io.ReadCloser, flush bool, mimeType string, err error) {
	body, err := s.open(ctx)
	if err != nil {
		return nil, false, "", err
	}
	return AbortTruncated(ctx, body), s.options.Follow, "text/plain", nil
}

// open opens the log. Of a task with several indexes, some may be on the worker and others not, which the source of
// finished attempts puts together. It does not look up attempts by their number on the worker.
func (s *logStream) open(ctx context.Context) (io.ReadCloser, error) {
	if s.finished != nil && (s.task.Spec.Indexes != "" || s.options.Attempt != nil) {
		return s.openFinished(ctx, s.unreadable)
	}
	err := s.unreadable
	if err == nil {
		var body io.ReadCloser
		if body, err = s.logs.OpenLog(ctx, s.task, s.worker.Status.Endpoint, s.options); err == nil {
			return body, nil
		}
		err = s.explain(err)
	}
	if s.finished == nil || s.task.Status.Attempts == 0 {
		return nil, err
	}
	return s.openFinished(ctx, err)
}

// openFinished opens the output of finished attempts. If there is none, the error is unreadable, which may be nil, and
// why there is none.
func (s *logStream) openFinished(ctx context.Context, unreadable error) (io.ReadCloser, error) {
	body, err := s.finished(ctx)
	var none *NoOutputError
	var status *apierrors.StatusError
	switch isNone := errors.As(err, &none); {
	case err == nil:
		return body, nil
	case isNone && errors.As(unreadable, &status):
		explained := *status
		explained.ErrStatus.Message += "; " + none.Message
		return nil, &explained
	case isNone:
		return nil, none.Status()
	case unreadable != nil:
		return nil, unreadable // it has the last lines from the status
	}
	return nil, err
}

// explain returns an API error for an error of the source.
func (s *logStream) explain(err error) error {
	var notKept *LogNotKeptError
	switch end := s.task.Status.State.Terminated; {
	case !errors.As(err, &notKept):
		state := ""
		if ready := meta.FindStatusCondition(s.worker.Status.Conditions, batch.WorkerReady); ready != nil && ready.Status != metav1.ConditionTrue {
			state = fmt.Sprintf(" (which is not ready: %s)", ready.Message)
		}
		return apierrors.NewServiceUnavailable(withTail(s.task, s.options,
			fmt.Sprintf("the log of task %s cannot be read from worker %s%s: %v", s.task.Name, s.worker.Name, state, err)))
	case s.options.Previous && s.task.Status.Attempts <= 1:
		return apierrors.NewBadRequest(fmt.Sprintf("there is no previous attempt at task %s: %s", s.task.Name, notKept.Message))
	case end == nil && s.task.Status.Attempts == 0 && !Finished(s.task):
		return apierrors.NewBadRequest(fmt.Sprintf("there is no log of task %s yet: worker %s has not started it", s.task.Name, s.worker.Name))
	}
	return apierrors.NewGone(withTail(s.task, s.options, fmt.Sprintf("worker %s has no such log of task %s: %s", s.worker.Name, s.task.Name, notKept.Message)))
}

// AbortTruncated returns a reader of a log that makes WithTruncatedLogsAborted abort the response if the log breaks
// off. ctx is that of the request.
func AbortTruncated(ctx context.Context, log io.ReadCloser) io.ReadCloser {
	return &logReader{ReadCloser: log, ctx: ctx}
}

// logReader records in the request's context when the response of the worker breaks off. It returns an error only after
// all data: over a WebSocket, upstream drops data that it reads together with an error.
type logReader struct {
	io.ReadCloser
	ctx context.Context
	err error // to return by the next Read
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p)
	if truncated, ok := r.ctx.Value(truncatedKey{}).(*atomic.Bool); ok && err != nil && !errors.Is(err, io.EOF) {
		truncated.Store(true)
	}
	if n > 0 {
		r.err, err = err, nil
	}
	return n, err
}

// truncatedKey is the context key of the *atomic.Bool that a logReader sets when the response of the worker breaks off.
type truncatedKey struct{}

// WithTruncatedLogsAborted aborts the response to a request for a log if the response of the worker breaks off, so that
// the client does not take it for complete.
func WithTruncatedLogsAborted(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := genericapirequest.RequestInfoFrom(r.Context())
		if !ok || info.APIGroup != batch.GroupName || info.Subresource != "log" {
			handler.ServeHTTP(w, r)
			return
		}
		truncated := &atomic.Bool{}
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), truncatedKey{}, truncated)))
		if truncated.Load() {
			panic(http.ErrAbortHandler)
		}
	})
}
