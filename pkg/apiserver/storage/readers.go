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

package storage

import (
	"context"
	"errors"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
)

// Reader reads objects of one kind from a store. The worker authorizer is built before the stores are, so the
// store is set later.
type Reader[T any] struct {
	store atomic.Pointer[genericregistry.Store]
}

// SetStore sets the store. Reads fail before.
func (r *Reader[T]) SetStore(store *genericregistry.Store) { r.store.Store(store) }

// FromCache reads from the watch cache, which may lag. The store reads from etcd until the cache is ready.
func (r *Reader[T]) FromCache(ctx context.Context, namespace, name string) (*T, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{ResourceVersion: "0"})
}

// FromEtcd reads from etcd.
func (r *Reader[T]) FromEtcd(ctx context.Context, namespace, name string) (*T, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{})
}

func (r *Reader[T]) get(ctx context.Context, namespace, name string, options *metav1.GetOptions) (*T, error) {
	store := r.store.Load()
	if store == nil {
		return nil, errors.New("the server is starting")
	}
	obj, err := store.Get(genericapirequest.WithNamespace(ctx, namespace), name, options)
	if err != nil {
		return nil, err
	}
	return any(obj).(*T), nil
}

// Readers are the readers of the worker authorizer.
type Readers struct {
	Workers Reader[batch.Worker]
	Tasks   Reader[batch.Task]
}
