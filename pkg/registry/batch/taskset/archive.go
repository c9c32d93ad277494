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
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
)

// Subresources creates the storages of the subresources with what they depend on.
type Subresources struct{}

// LogREST serves a subresource.
type LogREST struct {
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *LogREST) New() runtime.Object { return &batch.TaskSet{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *LogREST) Destroy() {}

// LogREST returns the storage of the subresource.
func (Subresources) LogREST(store *genericregistry.Store) *LogREST {
	return &LogREST{store: store}
}

// RecordsREST serves a subresource.
type RecordsREST struct {
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *RecordsREST) New() runtime.Object { return &batch.TaskSet{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *RecordsREST) Destroy() {}

// RecordsREST returns the storage of the subresource.
func (Subresources) RecordsREST(store *genericregistry.Store) *RecordsREST {
	return &RecordsREST{store: store}
}
