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
	"fmt"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"github.com/leat-dev/leat/apis/batch"
)

// reader reads objects of one kind for the worker authorizer, which is made before there is a store.
type reader[T any] struct {
	store atomic.Pointer[genericregistry.Store]
}

// cached reads from the watch cache, which may be behind. A cache that is not filled yet has the store asked.
func (r *reader[T]) cached(ctx context.Context, namespace, name string) (*T, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{ResourceVersion: "0"})
}

// live reads from etcd.
func (r *reader[T]) live(ctx context.Context, namespace, name string) (*T, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{})
}

func (r *reader[T]) get(ctx context.Context, namespace, name string, options *metav1.GetOptions) (*T, error) {
	store := r.store.Load()
	if store == nil {
		return nil, fmt.Errorf("the server is starting")
	}
	obj, err := store.Get(genericapirequest.WithNamespace(ctx, namespace), name, options)
	if err != nil {
		return nil, err
	}
	return any(obj).(*T), nil
}

// readers are all that the worker authorizer reads.
type readers struct {
	workers reader[batch.Worker]
	tasks   reader[batch.Task]
}
