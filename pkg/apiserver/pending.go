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
	"github.com/leat-dev/leat/pkg/admission/queuelimit"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
)

// pollInterval is how often it is asked whether caches are filled: a fraction of the time that a start takes at best.
const pollInterval = 10 * time.Millisecond

// countPending keeps the counts of pending tasks by the watch caches of the stores, as long as the server runs. The server is not ready
// before they are known, or the time to initialize is over, as it is with the watch caches themselves: one object that cannot be read
// keeps a cache from being filled, and must not keep a server from serving all others. Tasks are not created before the counts are known.
func countPending(server *genericapiserver.GenericAPIServer, stores *registry.Stores, counts *queuelimit.Counts, timeout time.Duration) error {
	selector, err := fields.ParseSelector(queuelimit.PendingTasks)
	if err != nil {
		return err
	}
	return server.AddPostStartHook("leat.dev/pending-tasks", func(hook genericapiserver.PostStartHookContext) error {
		go follow(hook, stores.Tasks.Store, selector, &batch.Task{}, counts.Tasks())
		go follow(hook, stores.TaskQueues.Store, fields.Everything(), &batch.TaskQueue{}, counts.Queues())
		waiting, cancel := context.WithTimeout(hook, timeout)
		defer cancel()
		err := wait.PollUntilContextCancel(waiting, pollInterval, true, func(context.Context) (bool, error) {
			return counts.HasSynced(), nil
		})
		switch {
		case hook.Err() != nil:
			return nil // the server stops
		case errors.Is(err, context.DeadlineExceeded):
			klog.FromContext(hook).Error(err, "Pending tasks are not counted yet: no tasks can be created until they are", "waited", timeout)
			return nil
		}
		return err
	})
}

// listFirst lists, and then watches. A watch that begins with what there is gets a copy of each object, and its turn is among those of all
// clients that come back after a restart: 150,000 pending tasks took it seconds.
type listFirst struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is asked for by the reflector.
func (listFirst) IsWatchListSemanticsUnSupported() bool { return true }

// follow puts what the watch cache of a store shows, of all namespaces, into another one until the context ends.
func follow(ctx context.Context, store *genericregistry.Store, selector fields.Selector, kind runtime.Object, to cache.ReflectorStore) {
	options := func(o metav1.ListOptions) (*metainternalversion.ListOptions, error) {
		internal := &metainternalversion.ListOptions{}
		err := metainternalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&o, internal, nil)
		internal.FieldSelector = selector
		return internal, err
	}
	lister := listFirst{&cache.ListWatch{
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
				// What many watch is wrapped, to be encoded once.
				if wrapped, ok := event.Object.(runtime.CacheableObject); ok {
					event.Object = wrapped.GetObject()
				}
				return event, true
			}), nil
		},
	}}
	reflector := cache.NewReflectorWithOptions(lister, kind, to, cache.ReflectorOptions{
		Name: "leat.dev/pending-tasks", TypeDescription: fmt.Sprintf("%T", kind),
	})
	// A list of a cache that is not filled yet is refused, and the reflector would wait ever longer before it asks again.
	filled := func(context.Context) (bool, error) { return store.ReadinessCheck() == nil, nil }
	if wait.PollUntilContextCancel(ctx, pollInterval, true, filled) == nil {
		reflector.RunWithContext(ctx)
	}
}
