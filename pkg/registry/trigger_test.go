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

package registry_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/install"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	batchregistry "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestTriggerLimitsMatching counts the matches of selectors. Each worker watches the tasks bound to it, and an event
// must be matched only against the selector of its worker: as often with ten watchers as with a thousand.
func TestTriggerLimitsMatching(t *testing.T) {
	etcd := host.EtcdForTest(t)
	for _, test := range []struct {
		name     string
		watchers int
		strip    bool // removes the index fields from the predicate, to show that the test detects an unused index
	}{
		{name: "few watchers", watchers: 10},
		{name: "many watchers", watchers: 1000},
		// Fewer watchers: on a slow machine the cache terminates watchers that receive all events.
		{name: "watchers without index fields", watchers: 100, strip: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := newTaskStore(t, etcd, fmt.Sprintf("/trigger-%d-%t", test.watchers, test.strip))
			if test.strip {
				predicate := store.PredicateFunc
				store.PredicateFunc = func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
					p := predicate(label, field)
					p.IndexFields = nil
					return p
				}
			}
			ctx := genericapirequest.WithNamespace(t.Context(), "team")
			start, err := store.List(ctx, &internalversion.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var matches atomic.Int64
			watchers := make([]watch.Interface, test.watchers)
			for i := range watchers {
				watchers[i], err = store.Watch(ctx, &internalversion.ListOptions{
					FieldSelector:   countingSelector{fields.OneTermEqualSelector("spec.workerName", worker(i)), &matches},
					ResourceVersion: start.(*batch.TaskList).ResourceVersion,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer watchers[i].Stop()
			}

			// A watcher receives events in order. When it has received its own event, the events before
			// have been matched against its selector.
			const events = 20
			for n := range events {
				bindTo(ctx, t, store, fmt.Sprintf("task-%d", n), worker(n*(test.watchers-1)/(events-1)))
			}
			for i := range watchers {
				bindTo(ctx, t, store, fmt.Sprintf("last-%d", i), worker(i))
			}
			for i, watcher := range watchers {
				for last := ""; last != fmt.Sprintf("last-%d", i); {
					select {
					case event := <-watcher.ResultChan():
						obj := event.Object
						if cached, ok := obj.(runtime.CacheableObject); ok {
							obj = cached.GetObject()
						}
						seen, ok := obj.(*batch.Task)
						if !ok || event.Type != watch.Added || seen.Spec.WorkerName != worker(i) {
							t.Fatalf("the watcher of %s received %s %v", worker(i), event.Type, event.Object)
						}
						last = seen.Name
					case <-time.After(30 * time.Second):
						t.Fatalf("the watcher of %s did not receive all of its tasks within 30 s", worker(i))
					}
				}
			}
			got := int(matches.Load())
			if want := test.watchers + events; !test.strip && got != want {
				t.Errorf("selectors were matched %d times for %d events, want once an event: %d", got, want, want)
			}
			// All watchers have passed these events, but not all have passed the events of later watchers.
			if want := test.watchers * events; test.strip && got < want {
				t.Errorf("selectors were matched %d times, want at least %d: the test does not count matches", got, want)
			}
		})
	}
}

func worker(i int) string { return fmt.Sprintf("worker-%d", i) }

// bindTo creates a task that is bound, so that the event has no previous object to match.
func bindTo(ctx context.Context, t testing.TB, store *genericregistry.Store, name, worker string) {
	t.Helper()
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	obj := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Namespace: genericapirequest.NamespaceValue(ctx), Name: name},
		Spec:       batch.TaskSpec{WorkerName: worker, Command: []string{"true"}},
	}
	if err := store.Storage.Create(ctx, key, obj, &batch.Task{}, 0, false); err != nil {
		t.Fatal(err)
	}
}

// countingSelector counts calls of Matches.
type countingSelector struct {
	fields.Selector
	matches *atomic.Int64
}

func (s countingSelector) Matches(of fields.Fields) bool {
	s.matches.Add(1)
	return s.Selector.Matches(of)
}

// newTaskStore opens the store of tasks as the server does, with its watch cache, under a prefix of its own.
func newTaskStore(t testing.TB, etcd *host.Etcd, prefix string) *genericregistry.Store {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme)
	options := genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig(prefix, codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)))
	options.StorageConfig.Transport.ServerList = []string{etcd.Endpoint}
	options.StorageConfig.Transport.TrustedCAFile = etcd.CAFile
	options.StorageConfig.Transport.CertFile = etcd.CertFile
	options.StorageConfig.Transport.KeyFile = etcd.KeyFile
	factory := serverstorage.NewDefaultStorageFactory(options.StorageConfig, runtime.ContentTypeProtobuf, codecs,
		serverstorage.NewDefaultResourceEncodingConfig(scheme), serverstorage.NewResourceConfig(), nil)
	getter := &genericoptions.StorageFactoryRestOptionsFactory{Options: *options, StorageFactory: factory}
	stores, err := batchregistry.Tasks.NewStores(scheme, task.Rules{}, getter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stores.Store.Destroy)
	err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return stores.Store.ReadinessCheck() == nil, nil
	})
	if err != nil {
		t.Fatalf("the watch cache is not ready: %v", err)
	}
	return stores.Store
}
