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

// taskReader reads tasks for the worker authorizer, which is made before there is a store.
type taskReader struct {
	store atomic.Pointer[genericregistry.Store]
}

// cached reads from the watch cache, which may be behind.
func (r *taskReader) cached(ctx context.Context, namespace, name string) (*batch.Task, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{ResourceVersion: "0"})
}

// live reads from etcd.
func (r *taskReader) live(ctx context.Context, namespace, name string) (*batch.Task, error) {
	return r.get(ctx, namespace, name, &metav1.GetOptions{})
}

func (r *taskReader) get(ctx context.Context, namespace, name string, options *metav1.GetOptions) (*batch.Task, error) {
	store := r.store.Load()
	if store == nil {
		return nil, fmt.Errorf("the server is starting")
	}
	obj, err := store.Get(genericapirequest.WithNamespace(ctx, namespace), name, options)
	if err != nil {
		return nil, err
	}
	return obj.(*batch.Task), nil
}
