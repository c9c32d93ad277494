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
	"errors"
	"fmt"
	"time"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
)

// pollInterval is the interval at which the readiness of caches is polled. It is short compared to the start of a
// server.
const pollInterval = 10 * time.Millisecond

// countPendingTasks starts, with the server, the reflectors that fill the counts from the watch caches of the stores.
//
// The server becomes ready when the counts are synced, or after the timeout. Like that of the watch caches, the wait is
// bounded because one object that cannot be decoded prevents the sync, and the server should serve all others. Until
// the counts are synced, the server refuses to create tasks.
func countPendingTasks(server *genericapiserver.GenericAPIServer, stores *registry.Stores, counts *queuelimit.Counts, timeout time.Duration) error {
	selector, err := fields.ParseSelector(queuelimit.PendingTasks)
	if err != nil {
		return err
	}
	return server.AddPostStartHook("leat.dev/pending-tasks", func(hook genericapiserver.PostStartHookContext) error {
		go runReflector(hook, stores.Tasks.Store, selector, &batch.Task{}, counts.Tasks())
		go runReflector(hook, stores.TaskQueues.Store, fields.Everything(), &batch.TaskQueue{}, counts.Queues())
		waiting, cancel := context.WithTimeout(hook, timeout)
		defer cancel()
		err := wait.PollUntilContextCancel(waiting, pollInterval, true, func(context.Context) (bool, error) {
			return counts.HasSynced(), nil
		})
		switch {
		case hook.Err() != nil:
			return nil // the server stops
		case errors.Is(err, context.DeadlineExceeded):
			klog.FromContext(hook).Error(err, "Failed to count pending tasks in time; no tasks can be created until they are counted", "timeout", timeout)
			return nil
		}
		return err
	})
}

// listThenWatch makes a reflector list and then watch, not stream the initial list. The streamed list copies each
// object and competes with those of all clients that reconnect after a restart: 150,000 pending tasks took seconds.
type listThenWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported implements the interface that the reflector checks for.
func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }

// runReflector reflects the selected objects of all namespaces from the watch cache of the store into target, until ctx
// is done.
func runReflector(ctx context.Context, store *genericregistry.Store, selector fields.Selector, exampleObject runtime.Object, target cache.ReflectorStore) {
	options := func(o metav1.ListOptions) (*metainternalversion.ListOptions, error) {
		internal := &metainternalversion.ListOptions{}
		err := metainternalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&o, internal, nil)
		internal.FieldSelector = selector
		return internal, err
	}
	lister := listThenWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			internal, err := options(o)
			if err != nil {
				return nil, err
			}
			return store.List(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll), internal)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			internal, err := options(o)
			if err != nil {
				return nil, err
			}
			events, err := store.Watch(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll), internal)
			if err != nil {
				return nil, err
			}
			return watch.Filter(events, func(event watch.Event) (watch.Event, bool) {
				// The watch cache wraps objects of several watchers, so that they are encoded once.
				if wrapped, ok := event.Object.(runtime.CacheableObject); ok {
					event.Object = wrapped.GetObject()
				}
				return event, true
			}), nil
		},
	}}
	reflector := cache.NewReflectorWithOptions(lister, exampleObject, target, cache.ReflectorOptions{
		Name: "leat.dev/pending-tasks", TypeDescription: fmt.Sprintf("%T", exampleObject),
	})
	// A watch cache that is not ready refuses lists, and the reflector would back off longer each time.
	ready := func(context.Context) (bool, error) { return store.ReadinessCheck() == nil, nil }
	if wait.PollUntilContextCancel(ctx, pollInterval, true, ready) == nil {
		reflector.RunWithContext(ctx)
	}
}
