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

	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
)

// Subresources creates the storages of the subresources of tasks with what they depend on.
type Subresources struct {
	// GetWorker returns the Worker of a name in the namespace of the context.
	GetWorker func(ctx context.Context, name string) (*batch.Worker, error)
	// Logs reads logs from workers.
	Logs LogSource
	// Attempts reads finished attempts.
	Attempts AttemptSource
}

// BindingREST returns the storage of the binding subresource over the store of tasks.
func (Subresources) BindingREST(store *genericregistry.Store) *BindingREST {
	return &BindingREST{store: store}
}

// EvictionREST returns the storage of the eviction subresource over the store of tasks.
func (Subresources) EvictionREST(store *genericregistry.Store) *EvictionREST {
	return &EvictionREST{store: store}
}

// LogREST returns the storage of the log subresource over the store of tasks.
func (s Subresources) LogREST(store *genericregistry.Store) *LogREST {
	return &LogREST{store: store, getWorker: s.GetWorker, logs: s.Logs, attempts: s.Attempts}
}

// RecordsREST returns the storage of the records subresource over the store of tasks.
func (s Subresources) RecordsREST(store *genericregistry.Store) *RecordsREST {
	return &RecordsREST{store: store, attempts: s.Attempts}
}
