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
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	internal "github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/install"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
)

// serverRules applies the registry strategies of the server to the writes of a test.
type serverRules struct {
	scheme *runtime.Scheme
	stores *registry.Stores
}

var rules = sync.OnceValue(func() serverRules {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	stores, err := registry.NewStores(scheme, noStorage{})
	if err != nil {
		panic(err)
	}
	return serverRules{scheme, stores}
})

// noStorage is a RESTOptionsGetter without storage.
type noStorage struct{}

func (noStorage) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		ResourcePrefix: "/" + resource.Resource,
		StorageConfig:  &storagebackend.ConfigForResource{},
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
			storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return nil, func() {}, nil
		},
	}, nil
}

// createTask returns the task as the server stores it, or the error with which the server refuses it.
func (r serverRules) createTask(task *batch.Task) (*batch.Task, error) {
	r.scheme.Default(task)
	in, out := &internal.Task{}, &batch.Task{}
	if err := r.scheme.Convert(task, in, nil); err != nil {
		return nil, err
	}
	if err := rest.BeforeCreate(r.stores.Tasks.Store.CreateStrategy, request(task.Namespace, "tasks", ""), in); err != nil {
		return nil, err
	}
	return out, r.scheme.Convert(in, out, nil)
}

// createSet returns the set as the server stores it, or the error with which the server refuses it.
func (r serverRules) createSet(set *batch.TaskSet) (*batch.TaskSet, error) {
	set = set.DeepCopy()
	r.scheme.Default(set)
	in, out := &internal.TaskSet{}, &batch.TaskSet{}
	if err := r.scheme.Convert(set, in, nil); err != nil {
		return nil, err
	}
	if err := rest.BeforeCreate(r.stores.TaskSets.Store.CreateStrategy, request(set.Namespace, "tasksets", ""), in); err != nil {
		return nil, err
	}
	return out, r.scheme.Convert(in, out, nil)
}

// updateSet and updateStatus return the set as the server stores it, or the error with which the server refuses the
// update.
func (r serverRules) updateSet(set, old *batch.TaskSet) (*batch.TaskSet, error) {
	return r.update(r.stores.TaskSets.Store, "", set, old)
}

func (r serverRules) updateStatus(set, old *batch.TaskSet) (*batch.TaskSet, error) {
	return r.update(r.stores.TaskSets.StatusStore, "status", set, old)
}

func (r serverRules) update(store *genericregistry.Store, subresource string, set, old *batch.TaskSet) (*batch.TaskSet, error) {
	set = set.DeepCopy()
	r.scheme.Default(set)
	in, before, out := &internal.TaskSet{}, &internal.TaskSet{}, &batch.TaskSet{}
	if err := r.scheme.Convert(set, in, nil); err != nil {
		return nil, err
	}
	if err := r.scheme.Convert(old.DeepCopy(), before, nil); err != nil {
		return nil, err
	}
	if err := rest.BeforeUpdate(store.UpdateStrategy, request(set.Namespace, "tasksets", subresource), in, before); err != nil {
		return nil, err
	}
	return out, r.scheme.Convert(in, out, nil)
}

// request returns the context of a request for an object of the namespace.
func request(namespace, resource, subresource string) context.Context {
	return genericapirequest.WithRequestInfo(genericapirequest.WithNamespace(context.Background(), namespace), &genericapirequest.RequestInfo{
		IsResourceRequest: true, Namespace: namespace, Resource: resource, Subresource: subresource,
		APIGroup: batch.GroupName, APIVersion: batch.SchemeGroupVersion.Version,
	})
}
