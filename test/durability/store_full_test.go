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
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/test/kit"
)

// testFull fills etcd to its quota and frees space as docs/how-to/etcd.md describes.
func testFull(t *testing.T, c *cluster) {
	documented(t, "how-to/etcd.md", "## etcd is full", "etcdctl compact", "etcdctl defrag", "etcdctl alarm disarm", "InsufficientStorage")
	ctx := t.Context()
	namespace := c.Namespace(t)
	store := startStore(t, 1, "--quota-backend-bytes="+strconv.Itoa(8<<20))
	etcd := store.client(t)
	e := c.serve(t, store)
	pid := e.Server.PID()
	admin := e.Direct(t, "alice", "leat:admins")
	queues := kit.Client(t, admin).BatchV1alpha1().TaskQueues(namespace)
	informers := startInformers(t, admin, namespace)
	kit.Must(queues.Create(ctx, newQueue("small"), metav1.CreateOptions{}))(t)
	kit.Must(queues.Create(ctx, newQueue("deleted"), metav1.CreateOptions{}))(t)

	var large []string
	var refused error
	for refused == nil {
		queue := newQueue("large-" + strconv.Itoa(len(large)))
		queue.Annotations = map[string]string{"example.com/filling": strings.Repeat("x", 200<<10)}
		if _, refused = queues.Create(ctx, queue, metav1.CreateOptions{}); refused == nil {
			large = append(large, queue.Name)
		}
	}
	t.Logf("refused after %d objects of 200 KiB: %v", len(large), refused)
	patch := func(ctx context.Context) error {
		_, err := queues.Patch(ctx, "small", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/n":"%d"}}}`, len(large)), metav1.PatchOptions{})
		return err
	}
	for what, err := range map[string]error{"create": refused, "patch": patch(ctx)} {
		if got := status(err); got.Code != http.StatusInsufficientStorage || got.Reason != "InsufficientStorage" ||
			!strings.Contains(got.Message, "docs/how-to/etcd.md") || !strings.Contains(got.Message, "etcdctl alarm disarm") {
			t.Errorf("%s: got %+v, want InsufficientStorage with the repair", what, got)
		}
	}

	// Reads and deletions are served.
	kit.Must(queues.Get(ctx, "small", metav1.GetOptions{}))(t)
	if list := kit.Must(queues.List(ctx, metav1.ListOptions{}))(t); len(list.Items) != len(large)+2 {
		t.Errorf("the list has %d queues, want %d", len(list.Items), len(large)+2)
	}
	kit.Check(t, queues.Delete(ctx, "deleted", metav1.DeleteOptions{}))
	informers.awaitEtcd(t, etcd, namespace)
	kit.Check(t, e.Server.WaitReady(ctx))
	if refusals := scrape(t, e).Sum("apiserver_request_total", `code="507"`); refusals < 2 {
		t.Errorf("apiserver_request_total counts %v answers with 507, want at least 2", refusals)
	}
	// Another replica can start, because a start writes nothing.
	kit.Check(t, c.serve(t, store).Server.Kill())

	for _, name := range large[1:] {
		kit.Check(t, queues.Delete(ctx, name, metav1.DeleteOptions{}))
	}
	if alarms := store.etcdctl(t, []string{"alarm", "list"}); !strings.Contains(alarms, "NOSPACE") {
		t.Errorf("etcdctl alarm list printed %q, want NOSPACE", alarms)
	}
	var endpoints []struct {
		Status struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
		}
	}
	kit.Check(t, json.Unmarshal([]byte(store.etcdctl(t, []string{"endpoint", "status", "--write-out=json"})), &endpoints))
	store.etcdctl(t, []string{"compact", strconv.FormatInt(endpoints[0].Status.Header.Revision, 10)})
	store.etcdctl(t, []string{"defrag"})
	if err := patch(ctx); status(err).Code != http.StatusInsufficientStorage {
		t.Errorf("a patch before the alarm is disarmed: got %v, want InsufficientStorage", err)
	}
	store.etcdctl(t, []string{"alarm", "disarm"})
	kit.Eventually(t, "writes succeed", patch)
	informers.awaitEtcd(t, etcd, namespace)
	if err := e.Server.Err(); err != nil || e.Server.PID() != pid {
		t.Errorf("the server was restarted: %v", err)
	}
	if err := informers.listedOnce(); err != nil {
		t.Error(err)
	}
}
