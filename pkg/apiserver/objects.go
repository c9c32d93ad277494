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

package apiserver

import (
	"context"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/archive"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
)

// objects reads objects for the archive from the stores, which answer from their watch caches.
type objects struct {
	workers, tasks *genericregistry.Store
}

var _ archive.Objects = &objects{}

func objectsOf(stores *registry.Stores) *objects {
	return &objects{workers: stores.Workers.Store, tasks: stores.Tasks.Store}
}

// Workers implements archive.Objects.
func (o *objects) Workers(ctx context.Context, namespace string) ([]*batch.Worker, error) {
	list, err := o.workers.List(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	return pointers(list.(*batch.WorkerList).Items), nil
}

// Tasks implements archive.Objects.
func (o *objects) Tasks(ctx context.Context, namespace string, set types.UID) ([]*batch.Task, error) {
	list, err := o.tasks.List(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelControllerUID: string(set)}),
	})
	if err != nil {
		return nil, err
	}
	return pointers(list.(*batch.TaskList).Items), nil
}

// pointers returns pointers to the items.
func pointers[T any](items []T) []*T {
	list := make([]*T, len(items))
	for i := range items {
		list[i] = &items[i]
	}
	return list
}
