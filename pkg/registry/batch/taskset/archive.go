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

package taskset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// Subresources creates the storages of the subresources of sets with what they depend on.
type Subresources struct {
	// Attempts reads finished attempts.
	Attempts task.AttemptSource
}

// LogREST returns the storage of the log subresource over the store of sets.
func (s Subresources) LogREST(store *genericregistry.Store) *LogREST {
	return &LogREST{store: store, attempts: s.Attempts}
}

// RecordsREST returns the storage of the records subresource over the store of sets.
func (s Subresources) RecordsREST(store *genericregistry.Store) *RecordsREST {
	return &RecordsREST{store: store, attempts: s.Attempts}
}

// attemptsOf returns the attempts at the indexes of a set. An empty list means all indexes.
func attemptsOf(ctx context.Context, store *genericregistry.Store, name, list string) (*task.Attempts, error) {
	found, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	set := found.(*batch.TaskSet)
	ranges, err := task.ParseIndexes(list, int(ptr.Deref(set.Spec.Completions, math.MaxInt32)))
	if err != nil {
		return nil, err
	}
	return &task.Attempts{Namespace: set.Namespace, SetUID: set.UID, Set: set, Indexes: ranges}, nil
}

// LogREST serves the log subresource: the output of the commands of a set, that of one index after the other.
type LogREST struct {
	task.LogStorage
	store    *genericregistry.Store
	attempts task.AttemptSource
}

var (
	_ rest.GetterWithOptions = &LogREST{}
	_ rest.StorageMetadata   = &LogREST{}
)

// New implements rest.Storage.
func (r *LogREST) New() runtime.Object { return &batch.TaskSet{} }

// Get implements rest.GetterWithOptions. It returns a rest.ResourceStreamer.
func (r *LogREST) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*batch.TaskLogOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected TaskLogOptions, not %T", obj))
	}
	if err := task.ValidateLogOptions(ctx, r.store, name, options); err != nil {
		return nil, err
	}
	if options.Follow {
		return nil, apierrors.NewBadRequest("follow: the output of a set cannot be followed: follow that of its tasks, by the log subresource of each")
	}
	of, err := attemptsOf(ctx, r.store, name, options.Indexes)
	if err != nil {
		return nil, err
	}
	return &logStream{attempts: r.attempts, of: of, options: options}, nil
}

// logStream streams the output of a set.
type logStream struct {
	attempts task.AttemptSource
	of       *task.Attempts
	options  *batch.TaskLogOptions
}

var _ rest.ResourceStreamer = &logStream{}

// GetObjectKind implements runtime.Object.
func (s *logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object.
func (s *logStream) DeepCopyObject() runtime.Object { panic("a stream cannot be copied") }

// InputStream implements rest.ResourceStreamer.
func (s *logStream) InputStream(ctx context.Context, _, _ string) (stream io.ReadCloser, flush bool, mimeType string, err error) {
	body, err := s.attempts.OpenOutput(ctx, s.of, s.options)
	var none *task.NoOutputError
	switch {
	case errors.As(err, &none):
		return nil, false, "", none.Status()
	case err != nil:
		return nil, false, "", err
	}
	return task.AbortTruncated(ctx, body), false, "text/plain", nil
}

// RecordsREST serves the records subresource: the records of the finished attempts at the tasks of a set.
type RecordsREST struct {
	task.RecordsStorage
	store    *genericregistry.Store
	attempts task.AttemptSource
}

var (
	_ rest.GetterWithOptions = &RecordsREST{}
	_ rest.StorageMetadata   = &RecordsREST{}
)

// Get implements rest.GetterWithOptions.
func (r *RecordsREST) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*batch.TaskRecordOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected TaskRecordOptions, not %T", obj))
	}
	if err := task.ValidateOptions(ctx, r.store, "TaskRecordOptions", name, options); err != nil {
		return nil, err
	}
	of, err := attemptsOf(ctx, r.store, name, options.Indexes)
	if err != nil {
		return nil, err
	}
	return r.attempts.Records(ctx, of, options)
}
