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
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/test/kit/host"
)

// BenchmarkDispatch measures an event from the write, to an etcd that syncs, through the watch cache to the only one of
// many watchers that selects it. The allocations, and the time without that of the write, should not depend on the
// number of watchers.
func BenchmarkDispatch(b *testing.B) {
	etcd := host.EtcdForTest(b)
	for _, watchers := range []int{1, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			store := newTaskStore(b, etcd, fmt.Sprintf("/dispatch-%d-%d", watchers, b.N))
			ctx := genericapirequest.WithNamespace(b.Context(), "team")
			start, err := store.List(ctx, &internalversion.ListOptions{})
			if err != nil {
				b.Fatal(err)
			}
			events := make([]watch.Interface, watchers)
			for i := range events {
				events[i], err = store.Watch(ctx, &internalversion.ListOptions{
					FieldSelector:   fields.OneTermEqualSelector("spec.workerName", worker(i)),
					ResourceVersion: start.(*batch.TaskList).ResourceVersion,
				})
				if err != nil {
					b.Fatal(err)
				}
				defer events[i].Stop()
			}
			number := 0
			b.ReportAllocs()
			for b.Loop() {
				i := number * 7919 % watchers // in scattered order
				bindTo(ctx, b, store, fmt.Sprint("task-", number), worker(i))
				if event, ok := <-events[i].ResultChan(); !ok || event.Type != watch.Added {
					b.Fatalf("The watcher of %s was sent %v, want the task.", worker(i), event)
				}
				number++
			}
		})
	}
}
