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
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
)

// testEtcdStall tests that while etcd is frozen, no write is acknowledged, each client gets an answer in bounded
// time, and the server reports that it is not ready and why. When etcd continues, so do the server and its watches.
func testEtcdStall(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	stored := recordHistory(t, e, namespace)
	people := kit.Client(t, direct(t, e))
	person := tasks(people, namespace)
	watcher := startRetryWatcher(t, person, metav1.ListOptions{}, stored.Start)
	read := createTask(t, person, newHeldTask("before"))
	kit.Check(t, listShows(t.Context(), person, read))

	kit.Check(t, e.Etcd.Signal(syscall.SIGSTOP))
	defer func() { kit.Check(t, e.Etcd.Signal(syscall.SIGCONT)) }()

	t.Run("Bounded", func(t *testing.T) {
		// An answer within ten times the limit is due to the limit: the server's own timeout is a minute.
		const limit = 2 * time.Second
		var wg sync.WaitGroup
		for way, config := range map[string]*rest.Config{"direct": direct(t, e), "aggregated": e.Admin(t)} {
			client := kit.Client(t, config)
			for name, request := range map[string]func() *rest.Request{
				"create": func() *rest.Request { return verb(client, "POST", namespace).Body(newHeldTask("stalled-" + way)) },
				"update": func() *rest.Request { return verb(client, "PUT", namespace).Name("before").Body(read.DeepCopy()) },
				"delete": func() *rest.Request { return verb(client, "DELETE", namespace).Name("before") },
				"get":    func() *rest.Request { return verb(client, "GET", namespace).Name("before") },
				"list":   func() *rest.Request { return verb(client, "GET", namespace) },
			} {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
					defer cancel()
					send := func() (time.Duration, error) {
						start := time.Now()
						err := request().Param("timeout", limit.String()).MaxRetries(0).Do(ctx).Error()
						return time.Since(start), err
					}
					took, err := send()
					// The host has the same limit as the server. It resets the stream if the limit ends while it forwards the answer.
					for tries := 1; tries < 3 && way == "aggregated" && err != nil && strings.Contains(err.Error(), "INTERNAL_ERROR"); tries++ {
						took, err = send()
					}
					switch status(err).Code {
					case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
					default:
						t.Errorf("%s %s: got %v, want an error of the server", way, name, err)
					}
					if took > 10*limit {
						t.Errorf("%s %s took %v, want about %v", way, name, took, limit)
					}
				})
			}
		}
		wg.Wait()
	})
	t.Run("ReadFromCache", func(t *testing.T) {
		list := kit.Must(person.List(t.Context(), metav1.ListOptions{ResourceVersion: "0"}))(t)
		if len(list.Items) != 1 {
			t.Errorf("the list at resourceVersion 0 has %v, want the one task", taskNames(list))
		}
	})
	t.Run("Readiness", func(t *testing.T) {
		kit.Eventually(t, "readyz reports the failure of etcd", func(ctx context.Context) error {
			answer, err := people.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").MaxRetries(0).Do(ctx).Raw()
			if err == nil || !strings.Contains(string(answer), "[-]etcd") {
				return fmt.Errorf("got %v: %s", err, answer)
			}
			return nil
		})
	})

	// A write without a limit waits for etcd.
	waited := make(chan error, 1)
	go func() {
		waited <- verb(people, "POST", namespace).Body(newHeldTask("waited")).MaxRetries(0).Do(t.Context()).Error()
	}()
	select {
	case err := <-waited:
		t.Logf("a write without a limit did not wait: %v", err)
		if err == nil {
			t.Error("a write was acknowledged while etcd was frozen")
		}
		waited <- err
	case <-time.After(time.Second):
	}

	kit.Check(t, e.Etcd.Signal(syscall.SIGCONT))
	kit.Check(t, e.Server.WaitReady(t.Context()))
	select {
	case err := <-waited:
		if _, getErr := person.Get(t.Context(), "waited", metav1.GetOptions{}); err == nil && getErr != nil {
			t.Errorf("reading the write that waited and was acknowledged: %v", getErr)
		}
	case <-time.After(kit.Patience):
		t.Errorf("the write that waited did not end within %v after etcd continued", kit.Patience)
	}
	awaitReachable(t, e)
	last := createTask(t, person, newHeldTask("last"))
	kit.Check(t, listShows(t.Context(), person, last))
	watcher.expect(t, stored.until(t, last.ResourceVersion), history.All)
	if _, _, lists := watcher.received(t); lists > 0 {
		t.Errorf("the watcher listed %d times, want none", lists)
	}
}

func verb(client versioned.Interface, verb, namespace string) *rest.Request {
	return client.BatchV1alpha1().RESTClient().Verb(verb).Namespace(namespace).Resource("tasks")
}
