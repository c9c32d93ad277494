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
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testOutage stops an etcd of three members for 10 s, and then takes its majority away, while clients go on asking.
func testOutage(t *testing.T, c *cluster) {
	for _, file := range []string{"../docs/how-to/etcd.md", "../config/base/apiserver.yaml"} {
		documented(t, file, "/livez?exclude=etcd")
	}
	ctx := t.Context()
	namespace := c.Namespace(t)
	store := startStore(t, 3)
	etcd := store.client(t)
	e := c.serve(t, store, collectOften)
	person := e.Direct(t, "alice", "leat:admins")
	api := kit.Client(t, person).BatchV1alpha1()
	informerSets := startQueueInformers(t, person, namespace)
	start := etcdRevision(t, etcd) + 1

	for _, outage := range []struct {
		name       string
		begin, end func(*testing.T)
	}{
		{"Stopped",
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
			func(t *testing.T) {
				for _, m := range store.members[1:] {
					kit.Check(t, m.Restart(ctx))
				}
			},
		},
	} {
		ok := t.Run(outage.name, func(t *testing.T) {
			before := scrape(t, c, e)
			memory := residentBytes(t, e.Server.PID())
			outage.begin(t)
			stop := press(t, api, namespace)
			begun := time.Now()
			kit.Eventually(t, "ten seconds are over, and the server says that it is not ready", func(ctx context.Context) error {
				if err := e.Server.Err(); err != nil {
					t.Fatal(err)
				}
				answer, err := kit.Client(t, person).Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").MaxRetries(0).Do(ctx).Raw()
				if err == nil || !strings.Contains(string(answer), "[-]etcd") {
					return fmt.Errorf("readyz says %v: %s", err, answer)
				}
				if left := 10*time.Second - time.Since(begun); left > 0 {
					return fmt.Errorf("%s are left", left)
				}
				return nil
			})
			// Reads that ask for no more are served.
			if list := kit.Must(api.TaskQueues(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"}))(t); len(list.Items) < 200 {
				t.Errorf("A list of version 0 has %d queues.", len(list.Items))
			}
			// The kubelet has no reason to restart it.
			kit.Must(kit.Client(t, person).Discovery().RESTClient().Get().AbsPath("/livez").Param("exclude", "etcd").Do(ctx).Raw())(t)
			grew := int64(residentBytes(t, e.Server.PID())) - int64(memory)
			begun = time.Now()
			outage.end(t)
			kit.Check(t, e.Server.WaitReady(ctx))
			kit.Eventually(t, "writes are taken", func(ctx context.Context) error {
				queue := newQueue("after-" + strings.ToLower(outage.name))
				_, err := api.TaskQueues(namespace).Create(ctx, queue, metav1.CreateOptions{})
				return err
			})
			resumed := time.Since(begun)
			done, failed := stop()
			after := scrape(t, c, e)
			begins := func(p page) float64 {
				return p.sum("apiserver_watch_cache_initializations_total", `group="batch.leat.dev"`)
			}
			own := begins(after) - begins(before)
			t.Logf("Of the requests sent meanwhile %d were done and %d failed; resident memory grew by %d MiB; writes were taken %s after the end; "+
				"the server's watch caches have begun anew %v times", done, failed, grew>>20, resumed.Round(100*time.Millisecond), own)
			if begins(before) < 1 || own > 0 {
				t.Errorf("The server's watch caches have begun %v times before, and %v times since.", begins(before), own)
			}
			if grew > 200<<20 {
				t.Errorf("The server grew by %d MiB.", grew>>20)
			}
			for _, f := range informerSets {
				f.await(t, "it agrees with etcd", func() error { return f.agrees(ctx, etcd, namespace) })
				kit.Check(t, f.sawAll(ctx, etcd, namespace, start))
				if lists := f.lists.Load(); lists != f.kinds() {
					t.Errorf("A follower has listed %d times, want once of each of %d kinds.", lists, f.kinds())
				}
			}
		})
		if !ok {
			return // etcd may be as the outage has left it
		}
	}

	t.Run("Restored", func(t *testing.T) {
		snapshot := store.save(t)
		before := resourceVersion(t, api, namespace)
		kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("lost"), metav1.CreateOptions{}))(t)
		store.restore(t, snapshot, bump...)
		kit.Check(t, e.Server.WaitReady(ctx))
		kit.Check(t, grown(before, resourceVersion(t, api, namespace)))
		for _, f := range informerSets {
			f.await(t, "it agrees with etcd", func() error { return f.agrees(ctx, etcd, namespace) })
		}
		if _, err := api.TaskQueues(namespace).Get(ctx, "lost", metav1.GetOptions{}); kit.Gone(err) != nil {
			t.Errorf("What was lost is read: %v", err)
		}
	})
}

// press sends writes and consistent reads, from many clients, until it is told to stop.
func press(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) (stop func() (done, failed int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var good, bad atomic.Int64
	for n := range 32 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				request := api.RESTClient().Get().Namespace(namespace).Resource("taskqueues")
				if n%2 == 0 {
					request = api.RESTClient().Post().Namespace(namespace).Resource("taskqueues").Body(newQueue(fmt.Sprintf("pressed-%d-%s-%d", n, suffix(), i)))
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

// residentBytes is how much memory a process holds.
func residentBytes(t testing.TB, pid int) uint64 {
	t.Helper()
	fields := strings.Fields(string(kit.Must(os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)))(t)))
	return kit.Must(strconv.ParseUint(fields[1], 10, 64))(t) * uint64(os.Getpagesize())
}

// sawAll says nil if the follower was shown each change of queues that etcd has made since a revision.
func (f *informerSet) sawAll(ctx context.Context, etcd *clientv3.Client, namespace string, start uint64) error {
	ctx, cancel := context.WithTimeout(ctx, kit.Patience)
	defer cancel()
	prefix := "/leat/taskqueues/" + namespace + "/"
	now, err := etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(1))
	if err != nil {
		return err
	}
	if len(now.Kvs) == 0 {
		return errors.New("etcd has no queues")
	}
	changes := 0
	for response := range etcd.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(int64(start))) {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if _, ok := f.seen.Load(strconv.FormatInt(event.Kv.ModRevision, 10)); !ok {
				return fmt.Errorf("a follower was not shown the change of %s at %d", event.Kv.Key, event.Kv.ModRevision)
			}
			if changes++; event.Kv.ModRevision >= now.Kvs[0].ModRevision {
				return nil
			}
		}
	}
	return fmt.Errorf("the watch of etcd has ended after %d changes: %w", changes, ctx.Err())
}

// startQueueInformers starts some who follow a namespace, and creates queues there for them to see.
func startQueueInformers(t testing.TB, config *rest.Config, namespace string) []*informerSet {
	t.Helper()
	var informerSets []*informerSet
	for range 5 {
		informerSets = append(informerSets, startInformers(t, config, namespace))
	}
	queues := kit.Client(t, config).BatchV1alpha1().TaskQueues(namespace)
	for i := range 200 {
		kit.Must(queues.Create(t.Context(), newQueue("queue-"+strconv.Itoa(i)), metav1.CreateOptions{}))(t)
	}
	return informerSets
}
