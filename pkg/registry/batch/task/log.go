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
	"net/http"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// LogSource reads logs from workers.
type LogSource interface {
	// OpenLog opens the output of a task's command where a worker serves it. The stream ends when ctx does, and must be
	// closed. A LogNotKeptError tells that the worker has no such output; any other error, that it could not be asked.
	OpenLog(ctx context.Context, task *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (io.ReadCloser, error)
}

// LogNotKeptError tells that a worker does not have the output that it was asked for.
type LogNotKeptError struct {
	// Message is the worker's.
	Message string
}

func (e *LogNotKeptError) Error() string { return e.Message }

// LogREST serves the log subresource: what the command of a task has printed, read from the worker that the task is, or last
// was, bound to.
type LogREST struct {
	// Store is the store of tasks.
	Store *genericregistry.Store
	// Workers gives the Worker of that name, in the namespace of the context. It must be set before the first request.
	Workers func(ctx context.Context, name string) (*batch.Worker, error)
	// Source reads the logs. It must be set before the first request.
	Source LogSource
}

var _ rest.GetterWithOptions = &LogREST{}

// New implements rest.Storage.
func (r *LogREST) New() runtime.Object { return &batch.Task{} }

// Destroy implements rest.Storage. The store is the main resource's, which destroys it.
func (r *LogREST) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *LogREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (r *LogREST) ProducesObject(string) any { return "" }

// OverrideMetricsVerb has logs that are followed counted apart from what is answered at once.
func (r *LogREST) OverrideMetricsVerb(verb string) string {
	if verb == http.MethodGet {
		return http.MethodConnect
	}
	return verb
}

// NewGetOptions implements rest.GetterWithOptions.
func (r *LogREST) NewGetOptions() (options runtime.Object, subpath bool, subpathKey string) {
	return &batch.TaskLogOptions{}, false, ""
}

// Get implements rest.GetterWithOptions. Its answer is a rest.ResourceStreamer.
func (r *LogREST) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*batch.TaskLogOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected TaskLogOptions, not %T", obj))
	}
	declarative := r.Store.CreateStrategy.(rest.DeclarativeValidationStrategy)
	if errs := declarative.ValidateDeclaratively(ctx, options, nil, nil, operation.Create, rest.DeclarativeValidationConfig{}); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: batch.GroupName, Kind: "TaskLogOptions"}, name, registry.BoundErrors(errs))
	}
	found, err := r.Store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	task := found.(*batch.Task)
	if task.Spec.WorkerName == "" {
		return nil, apierrors.NewBadRequest(unboundMessage(task))
	}
	worker, err := r.Workers(ctx, task.Spec.WorkerName)
	switch {
	case apierrors.IsNotFound(err):
		return nil, apierrors.NewGone(withTail(task, options,
			fmt.Sprintf("the log of task %s is gone: worker %s, which has it, is not there any more", name, task.Spec.WorkerName)))
	case err != nil:
		return nil, err
	case worker.Status.Endpoint == nil:
		return nil, apierrors.NewServiceUnavailable(withTail(task, options,
			fmt.Sprintf("worker %s serves no logs: start it with --client-ca-file; what it keeps is in its --log-dir, in the files %s.*.log", worker.Name, task.UID)))
	}
	return &logStream{source: r.Source, task: task, worker: worker, options: options}, nil
}

// unboundMessage says why there is no log of a task that is bound to no worker.
func unboundMessage(task *batch.Task) string {
	why := "it waits for a worker"
	switch scheduled := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); {
	case Finished(task):
		why = "it was never bound to a worker"
	case task.Status.Attempts > 0:
		why = "it waits for another worker, and the one that ran it is not known any more"
	case scheduled != nil && scheduled.Message != "":
		why += ": " + scheduled.Message
	}
	return fmt.Sprintf("there is no log of task %s: %s", task.Name, why)
}

// withTail adds what the status knows of the log that cannot be read.
func withTail(task *batch.Task, options *batch.TaskLogOptions, message string) string {
	if end := task.Status.State.Terminated; end != nil && end.Message != "" && !options.Previous {
		return message + "; its last lines, from the status:\n" + end.Message
	}
	return message
}

// logStream is what a worker has of a task's log.
type logStream struct {
	source  LogSource
	task    *batch.Task
	worker  *batch.Worker
	options *batch.TaskLogOptions
}

var _ rest.ResourceStreamer = &logStream{}

// GetObjectKind implements runtime.Object.
func (s *logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. A stream is nobody else's.
func (s *logStream) DeepCopyObject() runtime.Object { panic("a stream cannot be copied") }

// InputStream implements rest.ResourceStreamer.
func (s *logStream) InputStream(ctx context.Context, _, _ string) (stream io.ReadCloser, flush bool, mimeType string, err error) {
	body, err := s.source.OpenLog(ctx, s.task, s.worker.Status.Endpoint, s.options)
	if err != nil {
		return nil, false, "", s.explain(err)
	}
	return &watched{ReadCloser: body, ctx: ctx}, s.options.Follow, "text/plain", nil
}

// explain makes of an error what a person can act upon.
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

// watched notes when the worker's answer breaks off, and tells of an end only once all is read: over a websocket, upstream drops what comes
// together with the end.
type watched struct {
	io.ReadCloser
	ctx context.Context
	err error
}

func (r *watched) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p)
	if broken, ok := r.ctx.Value(brokenKey{}).(*atomic.Bool); ok && err != nil && !errors.Is(err, io.EOF) {
		broken.Store(true)
	}
	if n > 0 {
		r.err, err = err, nil
	}
	return n, err
}

// brokenKey is the key under which the context of a request for a log holds whether the answer broke off.
type brokenKey struct{}

// AbortBrokenLogs has the answer to a request for a log end in an error if the worker's answer does: what seems whole must be so.
func AbortBrokenLogs(handler http.Handler) http.Handler {
	resource := batch.Resource("tasks")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := genericapirequest.RequestInfoFrom(r.Context())
		if !ok || info.APIGroup != resource.Group || info.Resource != resource.Resource || info.Subresource != "log" {
			handler.ServeHTTP(w, r)
			return
		}
		broken := &atomic.Bool{}
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), brokenKey{}, broken)))
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
	})
}
