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

package durability

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// informerSet is an informer for each kind in a namespace, and what they have received.
type informerSet struct {
	// newest is the highest resourceVersion that they have received.
	newest atomic.Uint64
	// received has each resourceVersion that they have received.
	received sync.Map
	// lists counts lists and watches with initial events.
	lists  atomic.Int64
	stores map[string]cache.Store
}

// startInformers starts informers until the test ends, and waits until they have synced.
func startInformers(t testing.TB, config *rest.Config, namespace string) *informerSet {
	t.Helper()
	s := &informerSet{stores: map[string]cache.Store{}}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if query := request.URL.Query(); query.Get("watch") == "" || query.Get("sendInitialEvents") == "true" {
				s.lists.Add(1)
			}
			return next.RoundTrip(request)
		})
	})
	factory := externalversions.NewSharedInformerFactoryWithOptions(kit.Client(t, config), 0, externalversions.WithNamespace(namespace))
	receive := func(obj any) {
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		resourceVersion := obj.(metav1.Object).GetResourceVersion()
		version, err := strconv.ParseUint(resourceVersion, 10, 64)
		if err != nil {
			t.Errorf("parsing a resourceVersion: %v", err)
		}
		s.received.Store(resourceVersion, nil)
		for newest := s.newest.Load(); version > newest && !s.newest.CompareAndSwap(newest, version); newest = s.newest.Load() {
		}
	}
	for _, kind := range kinds.All {
		if !kind.Watched {
			continue
		}
		informer := kit.Must(factory.ForResource(batch.SchemeGroupVersion.WithResource(kind.Resource)))(t).Informer()
		s.stores[kind.Resource] = informer.GetStore()
		kit.Must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: receive, UpdateFunc: func(_, obj any) { receive(obj) }, DeleteFunc: receive,
		}))(t)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		stop()
		factory.Shutdown()
	})
	for kind, synced := range factory.WaitForCacheSync(t.Context().Done()) {
		if !synced {
			t.Fatalf("the informer of %v has not synced", kind)
		}
	}
	return s
}

// has returns an error unless an informer has the object with its UID.
func (s *informerSet) has(object metav1.Object) error {
	for _, store := range s.stores {
		if obj, ok, err := store.GetByKey(object.GetNamespace() + "/" + object.GetName()); err == nil && ok && obj.(metav1.Object).GetUID() == object.GetUID() {
			return nil
		}
	}
	return fmt.Errorf("no informer has %s", object.GetName())
}

// awaitObject waits until an informer has the object.
func (s *informerSet) awaitObject(t testing.TB, object metav1.Object) {
	t.Helper()
	kit.Eventually(t, "an informer has "+object.GetName(), func(context.Context) error { return s.has(object) })
}

// matchesEtcd returns an error unless the informers have all objects at the versions that etcd stores. It does not ask
// the server, whose watch cache may be wrong as well.
func (s *informerSet) matchesEtcd(ctx context.Context, etcd *clientv3.Client, namespace string) error {
	for kind, store := range s.stores {
		prefix := "/leat/" + kind + "/" + namespace + "/"
		stored, err := etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		want, got := map[string]string{}, map[string]string{}
		for _, kv := range stored.Kvs {
			want[strings.TrimPrefix(string(kv.Key), prefix)] = strconv.FormatInt(kv.ModRevision, 10)
		}
		for _, obj := range store.List() {
			got[obj.(metav1.Object).GetName()] = obj.(metav1.Object).GetResourceVersion()
		}
		if !maps.Equal(want, got) {
			return fmt.Errorf("the informer of %s has %d objects, want the %d in etcd at their versions", kind, len(got), len(want))
		}
	}
	return nil
}

// awaitEtcd waits until matchesEtcd.
func (s *informerSet) awaitEtcd(t testing.TB, etcd *clientv3.Client, namespace string) {
	t.Helper()
	kit.Eventually(t, "the informers match etcd", func(ctx context.Context) error { return s.matchesEtcd(ctx, etcd, namespace) })
}

// receivedAll returns an error unless the informers have received each change of queues since the revision.
func (s *informerSet) receivedAll(ctx context.Context, etcd *clientv3.Client, namespace string, start uint64) error {
	ctx, cancel := context.WithTimeout(ctx, kit.Patience)
	defer cancel()
	prefix := "/leat/taskqueues/" + namespace + "/"
	newest, err := etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1))
	if err != nil {
		return err
	}
	if len(newest.Kvs) == 0 {
		return fmt.Errorf("etcd has no queues in namespace %s", namespace)
	}
	changes := 0
	for response := range etcd.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(int64(start))) {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if _, ok := s.received.Load(strconv.FormatInt(event.Kv.ModRevision, 10)); !ok {
				return fmt.Errorf("the informers have not received the change of %s at revision %d", event.Kv.Key, event.Kv.ModRevision)
			}
			if changes++; event.Kv.ModRevision >= newest.Kvs[0].ModRevision {
				return nil
			}
		}
	}
	return fmt.Errorf("the watch of etcd ended after %d changes: %w", changes, ctx.Err())
}

// listedOnce returns an error unless the informers have listed each kind once.
func (s *informerSet) listedOnce() error {
	if lists, want := s.lists.Load(), int64(len(s.stores)); lists != want {
		return fmt.Errorf("informers listed %d times, want %d, once for each kind", lists, want)
	}
	return nil
}

// startQueueInformers starts five sets of informers, and creates 200 queues for them.
func startQueueInformers(t testing.TB, config *rest.Config, namespace string) []*informerSet {
	t.Helper()
	var all []*informerSet
	for range 5 {
		all = append(all, startInformers(t, config, namespace))
	}
	queues := kit.Client(t, config).BatchV1alpha1().TaskQueues(namespace)
	for i := range 200 {
		kit.Must(queues.Create(t.Context(), newQueue("queue-"+strconv.Itoa(i)), metav1.CreateOptions{}))(t)
	}
	return all
}

// expectContinued fails the test unless all informers match etcd and have received all changes since the revision
// without another list.
func expectContinued(t *testing.T, all []*informerSet, etcd *clientv3.Client, namespace string, start uint64) {
	t.Helper()
	for _, s := range all {
		s.awaitEtcd(t, etcd, namespace)
		kit.Check(t, s.receivedAll(t.Context(), etcd, namespace, start))
		if err := s.listedOnce(); err != nil {
			t.Error(err)
		}
	}
}
