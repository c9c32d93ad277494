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

// testSlowDisk delays each sync of etcd while clients continue: first as much as a poor disk, then longer than clients
// wait.
func testSlowDisk(t *testing.T, c *cluster) {
	documented(t, "how-to/etcd.md", "slow disk", "etcd_request_duration_seconds", "etcd_request_errors_total")
	ctx := t.Context()
	var disk slowDisk
	store := startStoreAs(t, 1, func(command host.Command) host.Command { return disk.wrap(t, command) })
	etcd := store.client(t)
	e := c.serve(t, store, collectOften)
	namespace := c.Namespace(t)
	admin := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, admin).BatchV1alpha1()
	informers := startQueueInformers(t, admin, namespace)
	start := etcdRevision(t, etcd) + 1

	for _, phase := range []struct {
		name    string
		delay   time.Duration
		timeout time.Duration // of clients
		ready   bool
	}{
		{"Slow", 300 * time.Millisecond, time.Minute, true},
		{"Stuck", 6 * time.Second, 2 * time.Second, false},
	} {
		t.Run(phase.name, func(t *testing.T) {
			before, memory, syncs := scrape(t, e), residentBytes(t, e.Server.PID()), disk.syncs.Load()
			disk.delay.Store(int64(phase.delay))
			defer disk.delay.Store(0)
			stop := startRecordedLoad(t, api, namespace, phase.timeout)
			awaitReadyz(t, e, phase.ready)
			growth := residentBytes(t, e.Server.PID()) - memory
			disk.delay.Store(0)
			ended := time.Now()
			kit.Check(t, e.Server.WaitReady(ctx))
			kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("after-"+strings.ToLower(phase.name)), metav1.CreateOptions{}))(t)
			resumed := time.Since(ended)
			load := stop()
			after := scrape(t, e)

			// All acknowledged writes are stored. Writes without an answer may be stored as well.
			stored := map[string]bool{}
			prefix := "/leat/taskqueues/" + namespace + "/"
			for _, kv := range kit.Must(etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()))(t).Kvs {
				stored[strings.TrimPrefix(string(kv.Key), prefix)] = true
			}
			for _, name := range load.written {
				if !stored[name] {
					t.Errorf("the creation of %s was acknowledged, but etcd does not have it", name)
				}
			}
			t.Logf("%d syncs, each %s; %d writes succeeded, the slowest in %s, and failed with %v; %d reads from the cache, the slowest in %s; "+
				"the server grew by %d MiB; a write succeeded %s after the end", disk.syncs.Load()-syncs, phase.delay, len(load.written),
				load.slowestWrite.Round(time.Millisecond), load.failed, load.cached, load.slowestRead.Round(time.Millisecond), growth>>20, resumed.Round(10*time.Millisecond))
			if load.cached == 0 || disk.syncs.Load() == syncs {
				t.Error("got no read from the cache or no sync")
			}
			if phase.ready && (len(load.written) == 0 || len(load.failed) > 0) {
				t.Error("some writes failed, want none")
			}
			if !phase.ready && len(load.failed) == 0 {
				t.Error("no write failed, so this test proves nothing")
			}
			for code, n := range load.failed {
				switch code {
				case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
				case 0: // the server ends a request without an answer if its timeout comes while the answer is written
					all := 0
					for _, n := range load.failed {
						all += n
					}
					if 4*n > all {
						t.Errorf("%d of %d failed writes have no answer, want at most a quarter", n, all)
					}
				default:
					t.Errorf("a write failed with %d, want an error of the server", code)
				}
			}
			if growth > maxGrowth {
				t.Errorf("the server grew by %d MiB", growth>>20)
			}

			// The metrics show the slow disk.
			increase := func(name, label string) float64 { return after.Sum(name, label) - before.Sum(name, label) }
			const creates = `operation="create"`
			mean := increase("etcd_request_duration_seconds_sum", creates) / increase("etcd_request_duration_seconds_count", creates)
			errors := increase("etcd_request_errors_total", creates)
			t.Logf("by the metrics a create took etcd %.2fs, and %v failed", mean, errors)
			if phase.ready && mean < phase.delay.Seconds() {
				t.Errorf("the mean is less than the delay of one sync, %s", phase.delay)
			}
			if !phase.ready && errors == 0 {
				t.Error("the metrics do not count the failed writes")
			}

			if initializations := cacheInitializations(after) - cacheInitializations(before); cacheInitializations(before) < 1 || initializations > 0 {
				t.Errorf("got %v initializations of watch caches before and %v since, want some and none", cacheInitializations(before), initializations)
			}
			expectContinued(t, informers, etcd, namespace, start)
		})
	}
}

// recordedLoad is what the clients of a load received.
type recordedLoad struct {
	mu sync.Mutex
	// written are the queues whose creation was acknowledged. failed counts the other creations by status code.
	written                   []string
	failed                    map[int32]int
	cached                    int
	slowestWrite, slowestRead time.Duration
}

// startRecordedLoad sends writes, consistent reads and reads from the cache from 33 clients until stop is called. It
// fails the test if a read from the cache fails.
func startRecordedLoad(t testing.TB, api typed.BatchV1alpha1Interface, namespace string, timeout time.Duration) (stop func() *recordedLoad) {
	t.Helper()
	ctx := t.Context()
	load := &recordedLoad{failed: map[int32]int{}}
	var clients sync.WaitGroup
	var over atomic.Bool
	stop = func() *recordedLoad {
		over.Store(true)
		clients.Wait()
		return load
	}
	for n := range 33 {
		clients.Go(func() {
			for i := 0; !over.Load(); i++ {
				start := time.Now()
				switch n % 3 {
				case 0:
					queue := newQueue(fmt.Sprintf("load-%d-%s-%d", n, suffix(), i))
					err := api.RESTClient().Post().Namespace(namespace).Resource("taskqueues").Body(queue).Param("timeout", timeout.String()).MaxRetries(0).Do(ctx).Error()
					load.mu.Lock()
					if err == nil {
						load.written = append(load.written, queue.Name)
					} else {
						load.failed[status(err).Code]++
					}
					load.slowestWrite = max(load.slowestWrite, time.Since(start))
					load.mu.Unlock()
				case 1: // it may fail
					_ = api.RESTClient().Get().Namespace(namespace).Resource("taskqueues").Param("timeout", timeout.String()).MaxRetries(0).Do(ctx).Error()
				case 2:
					err := api.RESTClient().Get().Namespace(namespace).Resource("taskqueues").Param("resourceVersion", "0").Param("timeout", "30s").MaxRetries(0).Do(ctx).Error()
					load.mu.Lock()
					load.cached++
					load.slowestRead = max(load.slowestRead, time.Since(start))
					load.mu.Unlock()
					if err != nil {
						t.Errorf("a list at resourceVersion 0: %v", err)
					}
				}
				<-time.After(200 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { stop() })
	return stop
}
