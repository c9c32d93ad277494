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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// outageTime is how long a store is frozen or slow. It is longer than the timeouts of health checks, and than what
// clients wait for.
const outageTime = 10 * time.Second

// maxGrowth is how much a server's memory may grow during an outage, while requests wait.
const maxGrowth = 200 << 20

// testOutage freezes an etcd of three members, and takes away its majority, while clients continue.
func testOutage(t *testing.T, c *cluster) {
	for _, file := range []string{"../docs/how-to/etcd.md", "../config/base/apiserver.yaml"} {
		documented(t, file, "/livez?exclude=etcd")
	}
	ctx := t.Context()
	namespace := c.Namespace(t)
	store := startStore(t, 3)
	etcd := store.client(t)
	e := c.serve(t, store, collectOften)
	admin := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, admin).BatchV1alpha1()
	informers := startQueueInformers(t, admin, namespace)
	start := etcdRevision(t, etcd) + 1

	for _, outage := range []struct {
		name       string
		begin, end func(*testing.T)
	}{
		{"Frozen",
			func(t *testing.T) {
				for _, m := range store.members {
					kit.Check(t, m.Signal(syscall.SIGSTOP))
				}
			},
			func(t *testing.T) {
				for _, m := range store.members {
					kit.Check(t, m.Signal(syscall.SIGCONT))
				}
			},
		},
		{"WithoutQuorum",
			func(t *testing.T) {
				for _, m := range store.members[1:] {
					kit.Check(t, m.Kill())
				}
			},
			func(t *testing.T) { store.restart(t, store.members[1:]...) },
		},
	} {
		ok := t.Run(outage.name, func(t *testing.T) {
			before := scrape(t, e)
			memory := residentBytes(t, e.Server.PID())
			outage.begin(t)
			stop := startLoad(t, api, namespace)
			awaitReadyz(t, e, false)
			// Lists from the cache are served.
			if list := kit.Must(api.TaskQueues(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"}))(t); len(list.Items) < 200 {
				t.Errorf("the list at resourceVersion 0 has %d queues, want at least 200", len(list.Items))
			}
			// The kubelet has no reason to restart the server.
			kit.Must(kit.Client(t, admin).Discovery().RESTClient().Get().AbsPath("/livez").Param("exclude", "etcd").Do(ctx).Raw())(t)
			growth := residentBytes(t, e.Server.PID()) - memory
			ended := time.Now()
			outage.end(t)
			kit.Check(t, e.Server.WaitReady(ctx))
			kit.Eventually(t, "writes succeed", func(ctx context.Context) error {
				queue := newQueue("after-" + strings.ToLower(outage.name))
				_, err := api.TaskQueues(namespace).Create(ctx, queue, metav1.CreateOptions{})
				return err
			})
			resumed := time.Since(ended)
			succeeded, failed := stop()
			initializations := cacheInitializations(scrape(t, e)) - cacheInitializations(before)
			t.Logf("%d requests succeeded and %d failed; the server grew by %d MiB; a write succeeded %s after the end; %v watch caches were initialized again",
				succeeded, failed, growth>>20, resumed.Round(100*time.Millisecond), initializations)
			if cacheInitializations(before) < 1 || initializations > 0 {
				t.Errorf("got %v initializations of watch caches before and %v since, want some and none", cacheInitializations(before), initializations)
			}
			if growth > maxGrowth {
				t.Errorf("the server grew by %d MiB", growth>>20)
			}
			expectContinued(t, informers, etcd, namespace, start)
		})
		if !ok {
			return // etcd may still be frozen or without its majority
		}
	}

	t.Run("Restored", func(t *testing.T) {
		snapshot := store.save(t)
		before := listVersion(t, api, namespace)
		kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("lost"), metav1.CreateOptions{}))(t)
		store.restore(t, snapshot, bumpFlags...)
		kit.Check(t, e.Server.WaitReady(ctx))
		kit.Check(t, increased(before, listVersion(t, api, namespace)))
		for _, s := range informers {
			s.awaitEtcd(t, etcd, namespace)
		}
		if _, err := api.TaskQueues(namespace).Get(ctx, "lost", metav1.GetOptions{}); kit.Gone(err) != nil {
			t.Errorf("a queue that the backup lacks: got %v, want NotFound", err)
		}
	})
}

// awaitReadyz waits for outageTime, and until readyz reports the wanted state of etcd.
func awaitReadyz(t *testing.T, e *kit.Env, want bool) {
	t.Helper()
	start := time.Now()
	client := kit.Client(t, e.Direct(t, "alice", "leat:admins")).Discovery().RESTClient()
	kit.Eventually(t, fmt.Sprintf("readyz reports etcd as ready=%t after %s", want, outageTime), func(ctx context.Context) error {
		if err := e.Server.Err(); err != nil {
			t.Fatal(err)
		}
		answer, err := client.Get().AbsPath("/readyz").Param("verbose", "").MaxRetries(0).Do(ctx).Raw()
		if ready, failed := err == nil, strings.Contains(string(answer), "[-]etcd"); ready != want || failed == want {
			return fmt.Errorf("got %v: %s", err, answer)
		}
		if left := outageTime - time.Since(start); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})
}

// startLoad sends writes and consistent reads from 32 clients until stop is called.
func startLoad(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) (stop func() (succeeded, failed int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var good, bad atomic.Int64
	for n := range 32 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				request := api.RESTClient().Get().Namespace(namespace).Resource("taskqueues")
				if n%2 == 0 {
					request = api.RESTClient().Post().Namespace(namespace).Resource("taskqueues").Body(newQueue(fmt.Sprintf("load-%d-%s-%d", n, suffix(), i)))
				}
				if err := request.Param("timeout", "2s").MaxRetries(0).Do(ctx).Error(); err != nil {
					bad.Add(1)
				} else {
					good.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(cancel)
	return func() (int64, int64) {
		cancel()
		clients.Wait()
		return good.Load(), bad.Load()
	}
}

func suffix() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }
