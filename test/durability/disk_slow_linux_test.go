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
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testSlowDisk has an etcd that waits for its disk at each sync, while clients go on asking: at first as long as a poor disk takes, then
// longer than anybody waits.
func testSlowDisk(t *testing.T, c *cluster) {
	documented(t, "how-to/etcd.md", "slow disk", "etcd_request_duration_seconds", "etcd_request_errors_total")
	ctx := t.Context()
	var disk disk
	store := startStoreAs(t, 1, func(command host.Command) host.Command { return disk.slow(t, command) })
	etcd := store.client(t)
	e := c.serve(t, store, collectOften)
	namespace := c.Namespace(t)
	person := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, person).BatchV1alpha1()
	informerSets := startQueueInformers(t, person, namespace)
	start := etcdRevision(t, etcd) + 1

	for _, phase := range []struct {
		name  string
		delay time.Duration
		// timeout is what clients set.
		timeout time.Duration
		ready   bool
	}{
		{"Slow", 300 * time.Millisecond, time.Minute, true},
		{"Stuck", 6 * time.Second, 2 * time.Second, false},
	} {
		t.Run(phase.name, func(t *testing.T) {
			before, memory, syncs := scrape(t, c, e), residentBytes(t, e.Server.PID()), disk.syncs.Load()
			disk.delay.Store(int64(phase.delay))
			defer disk.delay.Store(0)
			stop := pressRecorded(t, api, namespace, phase.timeout)
			begun := time.Now()
			kit.Eventually(t, fmt.Sprintf("ten seconds are over, and the server says that ready is %t", phase.ready), func(ctx context.Context) error {
				if err := e.Server.Err(); err != nil {
					t.Fatal(err)
				}
				answer, err := kit.Client(t, person).Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").MaxRetries(0).Do(ctx).Raw()
				if ready, etcd := err == nil, strings.Contains(string(answer), "[+]etcd"); ready != phase.ready || etcd != phase.ready {
					return fmt.Errorf("readyz says %v: %s", err, answer)
				}
				if left := 10*time.Second - time.Since(begun); left > 0 {
					return fmt.Errorf("%s are left", left)
				}
				return nil
			})
			grew := int64(residentBytes(t, e.Server.PID())) - int64(memory)
			disk.delay.Store(0)
			begun = time.Now()
			kit.Check(t, e.Server.WaitReady(ctx))
			kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("after-"+strings.ToLower(phase.name)), metav1.CreateOptions{}))(t)
			resumed := time.Since(begun)
			done := stop()
			after := scrape(t, c, e)

			// What was acknowledged is there; how many more are, of which nothing was told, nobody knows.
			stored := map[string]bool{}
			prefix := "/leat/taskqueues/" + namespace + "/"
			for _, kv := range kit.Must(etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()))(t).Kvs {
				stored[strings.TrimPrefix(string(kv.Key), prefix)] = true
			}
			for _, name := range done.written {
				if !stored[name] {
					t.Errorf("The creation of %s was acknowledged, and it is not there.", name)
				}
			}
			t.Logf("The disk was synced %d times, each %s. %d writes were done, in %s at the most, and failed as %v; %d reads of version 0, in %s at the most; "+
				"resident memory grew by %d MiB; a write was done %s after the end.", disk.syncs.Load()-syncs, phase.delay, len(done.written),
				done.slowestWrite.Round(time.Millisecond), done.failed, done.cached, done.slowestRead.Round(time.Millisecond), grew>>20, resumed.Round(10*time.Millisecond))
			if done.cached == 0 || disk.syncs.Load() == syncs {
				t.Error("Nothing was read, or nothing written to the disk.")
			}
			if phase.ready && (len(done.written) == 0 || len(done.failed) > 0) {
				t.Error("Not all writes were done.")
			}
			if !phase.ready && len(done.failed) == 0 {
				t.Error("No write failed, so this test shows nothing.")
			}
			for code, n := range done.failed {
				switch code {
				case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
				case 0: // upstream ends a request whose time is over while it is being answered, without a word
					all := 0
					for _, n := range done.failed {
						all += n
					}
					if 4*n > all {
						t.Errorf("%d of the %d writes that failed were not answered.", n, all)
					}
				default:
					t.Errorf("Writes were refused with %d.", code)
				}
			}
			if grew > 200<<20 {
				t.Errorf("The server grew by %d MiB.", grew>>20)
			}

			// The metrics say so.
			changed := func(name, label string) float64 { return after.sum(name, label) - before.sum(name, label) }
			const creates = `operation="create"`
			mean := changed("etcd_request_duration_seconds_sum", creates) / changed("etcd_request_duration_seconds_count", creates)
			errors := changed("etcd_request_errors_total", creates)
			t.Logf("By its metrics a create took etcd %.2fs, and %v failed.", mean, errors)
			if phase.ready && mean < phase.delay.Seconds() {
				t.Errorf("That is less than one sync, of %s more.", phase.delay)
			}
			if !phase.ready && errors == 0 {
				t.Error("The metrics do not tell of writes that failed.")
			}

			// Nobody has begun anew: neither the server, nor any of its clients.
			const initializations = "apiserver_watch_cache_initializations_total"
			if began := changed(initializations, `group="batch.leat.dev"`); before.sum(initializations, `group="batch.leat.dev"`) < 1 || began > 0 {
				t.Errorf("The server's watch caches have begun anew %v times.", began)
			}
			for _, f := range informerSets {
				f.await(t, "it agrees with etcd", func() error { return f.agrees(ctx, etcd, namespace) })
				kit.Check(t, f.sawAll(ctx, etcd, namespace, start))
				if lists := f.lists.Load(); lists != f.kinds() {
					t.Errorf("A follower has listed %d times, want once of each of %d kinds.", lists, f.kinds())
				}
			}
		})
	}
}

// pressure is what clients were told.
type pressure struct {
	mu sync.Mutex
	// written are the queues whose creation was acknowledged, failed the codes of the others.
	written                   []string
	failed                    map[int32]int
	cached                    int
	slowestWrite, slowestRead time.Duration
}

// pressRecorded sends writes and reads of both kinds, from many clients, until it is told to stop. It fails the test if a read that asks
// for no more than what the server has in its memory fails.
func pressRecorded(t testing.TB, api typed.BatchV1alpha1Interface, namespace string, timeout time.Duration) (stop func() *pressure) {
	t.Helper()
	ctx := t.Context()
	p := &pressure{failed: map[int32]int{}}
	var clients sync.WaitGroup
	var over atomic.Bool
	finish := func() *pressure {
		over.Store(true)
		clients.Wait()
		return p
	}
	for n := range 33 {
		clients.Go(func() {
			for i := 0; !over.Load(); i++ {
				begun := time.Now()
				switch n % 3 {
				case 0:
					queue := newQueue(fmt.Sprintf("pressed-%d-%s-%d", n, suffix(), i))
					err := api.RESTClient().Post().Namespace(namespace).Resource("taskqueues").Body(queue).Param("timeout", timeout.String()).MaxRetries(0).Do(ctx).Error()
					p.mu.Lock()
					if err == nil {
						p.written = append(p.written, queue.Name)
					} else {
						p.failed[status(err).Code]++
					}
					p.slowestWrite = max(p.slowestWrite, time.Since(begun))
					p.mu.Unlock()
				case 1: // it may fail
					_ = api.RESTClient().Get().Namespace(namespace).Resource("taskqueues").Param("timeout", timeout.String()).MaxRetries(0).Do(ctx).Error()
				case 2:
					err := api.RESTClient().Get().Namespace(namespace).Resource("taskqueues").Param("resourceVersion", "0").Param("timeout", "30s").MaxRetries(0).Do(ctx).Error()
					p.mu.Lock()
					p.cached++
					p.slowestRead = max(p.slowestRead, time.Since(begun))
					p.mu.Unlock()
					if err != nil {
						t.Errorf("A list of version 0 failed: %v", err)
					}
				}
				<-time.After(200 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { finish() })
	return finish
}
