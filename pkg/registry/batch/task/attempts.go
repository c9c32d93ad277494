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
	"fmt"
	"io"
	"math"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/registry"
)

// Attempts names the attempts to read: those at one task, or at all tasks of a set.
type Attempts struct {
	// Namespace is the namespace of the task or the set.
	Namespace string
	// SetUID is the UID of the TaskSet, empty for a task without one.
	SetUID types.UID
	// Set is the TaskSet whose attempts to read. Nil for those at one task.
	Set *batch.TaskSet
	// Task is the task whose attempts to read. Nil for those of a set.
	Task *batch.Task
	// Indexes are the indexes whose attempts to read. Nil means all.
	Indexes []indexes.Range
}

// AttemptsAt returns the attempts at a task.
func AttemptsAt(task *batch.Task, ranges []indexes.Range) *Attempts {
	of := &Attempts{Namespace: task.Namespace, Task: task, Indexes: ranges}
	if owner := metav1.GetControllerOf(task); owner != nil && owner.Kind == "TaskSet" {
		if version, err := schema.ParseGroupVersion(owner.APIVersion); err == nil && version.Group == batch.GroupName {
			of.SetUID = owner.UID
		}
	}
	return of
}

// AttemptSource reads attempts: finished ones from the archive and from the workers that have not sent them there yet,
// others from their workers.
type AttemptSource interface {
	// OpenOutput opens the output of attempts, that of one index after the other. The caller must close it. The stream
	// ends when ctx is done. It returns a NoOutputError if there is none, and an API error if it cannot be read now.
	OpenOutput(ctx context.Context, of *Attempts, options *batch.TaskLogOptions) (io.ReadCloser, error)
	// Records returns the records of attempts. Its errors are API errors.
	Records(ctx context.Context, of *Attempts, options *batch.TaskRecordOptions) (*batch.TaskRecordList, error)
}

// NoOutputError is the error of an AttemptSource without output of the attempts.
type NoOutputError struct {
	// Message is the reason why there is no output.
	Message string
	// NotStarted is true if none of the attempts has started.
	NotStarted bool
}

// Error implements error.
func (e *NoOutputError) Error() string { return e.Message }

// Status returns the API error.
func (e *NoOutputError) Status() error {
	if e.NotStarted {
		return apierrors.NewBadRequest(e.Message)
	}
	return apierrors.NewGone(e.Message)
}

// ValidateOptions returns an error for query parameters that do not satisfy the markers of their type.
func ValidateOptions(ctx context.Context, store *genericregistry.Store, kind, name string, options runtime.Object) error {
	declarative := store.CreateStrategy.(rest.DeclarativeValidationStrategy)
	if errs := declarative.ValidateDeclaratively(ctx, options, nil, nil, operation.Create, rest.DeclarativeValidationConfig{}); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: batch.GroupName, Kind: kind}, name, registry.BoundErrors(errs))
	}
	return nil
}

// ValidateLogOptions returns an error for TaskLogOptions that cannot be satisfied by any task.
func ValidateLogOptions(ctx context.Context, store *genericregistry.Store, name string, options *batch.TaskLogOptions) error {
	if err := ValidateOptions(ctx, store, "TaskLogOptions", name, options); err != nil {
		return err
	}
	switch {
	case options.Attempt != nil && options.Previous:
		return apierrors.NewBadRequest("attempt and previous: at most one of them may be set")
	case options.Attempt != nil && options.Follow:
		return apierrors.NewBadRequest("attempt and follow: at most one of them may be set: only the current attempt can be followed")
	}
	return nil
}

// ParseIndexes parses the parameter indexes of a query about indexes below limit. It returns nil if the parameter is
// not set.
func ParseIndexes(list string, limit int) ([]indexes.Range, error) {
	ranges, err := indexes.Parse(list, limit)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("indexes: %v", err))
	}
	return ranges, nil
}

// RecordsREST serves the records subresource: the records of the finished attempts at a task.
type RecordsREST struct {
	RecordsStorage
	store    *genericregistry.Store
	attempts AttemptSource
}

var (
	_ rest.GetterWithOptions = &RecordsREST{}
	_ rest.StorageMetadata   = &RecordsREST{}
)

// RecordsStorage is the part that storages of records have in common.
type RecordsStorage struct{}

// New implements rest.Storage.
func (RecordsStorage) New() runtime.Object { return &batch.TaskRecordList{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (RecordsStorage) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (RecordsStorage) ProducesMIMETypes(string) []string { return nil }

// ProducesObject implements rest.StorageMetadata. Nil means the kind of New.
func (RecordsStorage) ProducesObject(string) any { return nil }

// NewGetOptions implements rest.GetterWithOptions.
func (RecordsStorage) NewGetOptions() (options runtime.Object, subpath bool, subpathKey string) {
	return &batch.TaskRecordOptions{}, false, ""
}

// Get implements rest.GetterWithOptions.
func (r *RecordsREST) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*batch.TaskRecordOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected TaskRecordOptions, not %T", obj))
	}
	if err := ValidateOptions(ctx, r.store, "TaskRecordOptions", name, options); err != nil {
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
	ranges, err := ParseIndexes(options.Indexes, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	return r.attempts.Records(ctx, AttemptsAt(task, ranges), options)
}
