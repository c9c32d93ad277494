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

// While etcd stands still nothing is acknowledged, every client gets an answer in bounded time, and the server says that it is not
// ready and why. When etcd goes on, all goes on.
func testEtcdStall(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	truth := recordHistory(t, e, namespace)
	people := kit.Client(t, direct(t, e))
	person := tasks(people, namespace)
	watcher := startRetryWatcher(t, person, metav1.ListOptions{}, truth.Start)
	read := createTask(t, person, newHeldTask("before"))
	kit.Check(t, listShows(t.Context(), person, read))

	kit.Check(t, e.Etcd.Signal(syscall.SIGSTOP))
	defer func() { kit.Check(t, e.Etcd.Signal(syscall.SIGCONT)) }()

	t.Run("Bounded", func(t *testing.T) {
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
					ask := func() (time.Duration, error) {
						begun := time.Now()
						err := request().Param("timeout", limit.String()).MaxRetries(0).Do(ctx).Error()
						return time.Since(begun), err
					}
					took, err := ask()
					// The host has the same limit as our server, and resets the stream if it has begun to hand on the answer by then.
					for tries := 1; tries < 3 && way == "aggregated" && err != nil && strings.Contains(err.Error(), "INTERNAL_ERROR"); tries++ {
						took, err = ask()
					}
					switch status(err).Code {
					case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
					default:
						t.Errorf("A %s, %s, said: %v, want a server's error.", name, way, err)
					}
					if took > 3*limit {
						t.Errorf("A %s, %s, took %v, and was to take %v.", name, way, took, limit)
					}
				})
			}
		}
		wg.Wait()
	})
	t.Run("ReadFromCache", func(t *testing.T) {
		list := kit.Must(person.List(t.Context(), metav1.ListOptions{ResourceVersion: "0"}))(t)
		if len(list.Items) != 1 {
			t.Errorf("The list at resourceVersion 0 has %v.", taskNames(list))
		}
	})
	t.Run("Readiness", func(t *testing.T) {
		kit.Eventually(t, "readyz reports the failure of etcd", func(ctx context.Context) error {
			answer, err := people.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").MaxRetries(0).Do(ctx).Raw()
			if err == nil || !strings.Contains(string(answer), "[-]etcd") {
				return fmt.Errorf("readyz says %v: %s", err, answer)
			}
			return nil
		})
	})

	// A write that nobody limits waits, and is done when it can be.
	waited := make(chan error, 1)
	go func() {
		waited <- verb(people, "POST", namespace).Body(newHeldTask("waited")).MaxRetries(0).Do(t.Context()).Error()
	}()
	select {
	case err := <-waited:
		t.Logf("A write without a limit did not wait: %v", err)
		if err == nil {
			t.Error("A write was acknowledged, and etcd stands still.")
		}
		waited <- err
	case <-time.After(time.Second):
	}

	kit.Check(t, e.Etcd.Signal(syscall.SIGCONT))
	kit.Check(t, e.Server.WaitReady(t.Context()))
	select {
	case err := <-waited:
		if _, getErr := person.Get(t.Context(), "waited", metav1.GetOptions{}); err == nil && getErr != nil {
			t.Errorf("The write that waited was acknowledged, and then: %v", getErr)
		}
	case <-time.After(kit.Patience):
		t.Errorf("The write that waited did not end within %v after etcd went on.", kit.Patience)
	}
	awaitReached(t, e)
	last := createTask(t, person, newHeldTask("last"))
	kit.Check(t, listShows(t.Context(), person, last))
	watcher.expect(t, truth.until(t, last.ResourceVersion), history.All)
	if _, _, lists := watcher.received(t); lists > 0 {
		t.Errorf("The watcher had to begin again %d times.", lists)
	}
}

func verb(client versioned.Interface, verb, namespace string) *rest.Request {
	return client.BatchV1alpha1().RESTClient().Verb(verb).Namespace(namespace).Resource("tasks")
}
