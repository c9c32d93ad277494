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

package incluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/test/kit"
)

// testShutdown checks a graceful shutdown: the server is unready first, serves requests during the delay, and then ends
// its watches.
func testShutdown(t *testing.T, e *kit.Env) {
	const delay = 5 * time.Second
	ctx := t.Context()
	namespace := e.Namespace(t)
	replica := e.Replica(t, "--shutdown-delay-duration="+delay.String())
	alice := replica.Direct(t, "alice", "leat:admins")
	tasks := kit.Client(t, alice).BatchV1alpha1().Tasks(namespace)
	events := kit.Must(tasks.Watch(ctx, metav1.ListOptions{}))(t)
	defer events.Stop()

	start := time.Now()
	kit.Check(t, replica.Server.Signal(syscall.SIGTERM))
	kit.Eventually(t, "readyz fails because of the shutdown", func(ctx context.Context) error { return unready(ctx, t, replica, "shutdown") })
	kit.Must(tasks.Create(ctx, kit.NewTask("late"), metav1.CreateOptions{}))(t)
	if got := kit.Do(t, alice, http.MethodGet, tasksPath(namespace), ""); got.Code != http.StatusOK {
		t.Errorf("list during the delay: got %s, want 200", got)
	}
	if took := time.Since(start); took > delay {
		t.Logf("the requests took %s, longer than the delay, so they show only that the server answers", took)
	}
	if event := <-events.ResultChan(); event.Type != watch.Added {
		t.Errorf("event of the watch: got %v, want added", event)
	}
	for event := range events.ResultChan() {
		t.Errorf("last event of the watch: got %v, want none", event)
	}
	if held := time.Since(start); held < delay {
		t.Errorf("the watch ended after %s, want at least the delay of %s", held, delay)
	}
	kit.Check(t, replica.Server.Stop())
	log := string(kit.Must(os.ReadFile(replica.Server.LogFile()))(t))
	for _, signal := range []string{"ShutdownInitiated", "AfterShutdownDelayDuration", "NotAcceptingNewRequest", "InFlightRequestsDrained"} {
		if !strings.Contains(log, fmt.Sprintf("%q", signal)) {
			t.Errorf("the log lacks %s", signal)
		}
	}
}
