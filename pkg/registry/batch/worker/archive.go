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
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
)

// Subresources creates the storages of the subresources with what they depend on.
type Subresources struct{}

// ArchiveREST serves a subresource.
type ArchiveREST struct {
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *ArchiveREST) New() runtime.Object { return &batch.Worker{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *ArchiveREST) Destroy() {}

// ArchiveREST returns the storage of the subresource.
func (Subresources) ArchiveREST(store *genericregistry.Store) *ArchiveREST {
	return &ArchiveREST{store: store}
}
