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
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testHostRestart checks that workers continue while the host's API server is down, that the server denies clients
// which it has not authorized before, and that it recovers without a restart.
func testHostRestart(t *testing.T, e *kit.Env) {
	const worker = "worker-1"
	ctx := t.Context()
	namespace := e.Namespace(t)
	task := boundTask(t, e, namespace, "task", worker)
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
	own := kit.Client(t, e.Worker(t, namespace, worker)).BatchV1alpha1().Tasks(namespace)
	watch := kit.Must(own.Watch(ctx, ofWorker(worker)))(t)
	defer watch.Stop()
	<-watch.ResultChan()
	pid := e.Server.PID()

	kit.Check(t, e.Host.APIServer.Kill())
	if got := kit.Do(t, e.Anonymous(t), http.MethodGet, "/readyz", ""); got.Code != http.StatusOK {
		t.Errorf("GET /readyz without the host: got %s, want 200", got)
	}
	task.Status.Phase = v1alpha1.TaskRunning
	kit.Must(own.UpdateStatus(ctx, task, metav1.UpdateOptions{}))(t)
	if event := <-watch.ResultChan(); event.Object.(*v1alpha1.Task).Status.Phase != v1alpha1.TaskRunning {
		t.Errorf("event for the worker without the host: got %v, want the task Running", event)
	}
	newcomer := e.Direct(t, "newcomer", "leat:admins")
	if got := kit.Do(t, newcomer, http.MethodGet, groupPath+"/namespaces/"+namespace+"/tasks", ""); got.Code != http.StatusForbidden && got.Code != http.StatusInternalServerError {
		t.Errorf("new user without the host: got %s, want 403 or 500", got)
	}

	kit.Eventually(t, "creates are unavailable, because only the host knows whether the namespace is being deleted", func(context.Context) error {
		got := kit.Do(t, e.Worker(t, namespace, worker), http.MethodPost, groupPath+"/namespaces/"+namespace+"/workers", `{"metadata":{"name":"`+worker+`"}}`)
		if got.Code != http.StatusServiceUnavailable || !strings.Contains(got.Body, `"retryAfterSeconds":1`) {
			return errors.New(got.String())
		}
		return nil
	})

	kit.Check(t, e.Host.APIServer.Restart(ctx))
	kit.Eventually(t, "a list through the host succeeds", func(ctx context.Context) error {
		_, err := admin.List(ctx, metav1.ListOptions{})
		return err
	})
	kit.Eventually(t, "the server authorizes the new user", func(context.Context) error {
		if got := kit.Do(t, newcomer, http.MethodGet, groupPath+"/namespaces/"+namespace+"/tasks", ""); got.Code != http.StatusOK {
			return fmt.Errorf("got %s, want 200", got)
		}
		return nil
	})
	t.Run("creates in new namespaces succeed", func(t *testing.T) {
		kit.Must(kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(e.Namespace(t)).Create(ctx, kit.NewTask("task"), metav1.CreateOptions{}))(t)
	})
	if e.Server.PID() != pid || e.Server.Err() != nil {
		t.Errorf("the server has restarted or exited: %v", e.Server.Err())
	}
}
