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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testHostRestart: while the host's API server is away, workers go on, nobody is let in who was not already, and all is
// well again within a minute of its return, without a restart of ours.
func testHostRestart(t *testing.T, e *kit.Env) {
	const recovery = time.Minute
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
	if got := ask(t, anonymous(t, e), http.MethodGet, "/readyz", ""); got.code != http.StatusOK {
		t.Errorf("without the host readyz answers %s", got)
	}
	task.Status.Phase = v1alpha1.TaskRunning
	kit.Must(own.UpdateStatus(ctx, task, metav1.UpdateOptions{}))(t)
	if event := <-watch.ResultChan(); event.Object.(*v1alpha1.Task).Status.Phase != v1alpha1.TaskRunning {
		t.Errorf("without the host the worker is shown %v", event)
	}
	newcomer := e.Direct(t, "newcomer", "leat:admins")
	if got := ask(t, newcomer, http.MethodGet, groupPath+"/namespaces/"+namespace+"/tasks", ""); got.code != http.StatusForbidden && got.code != http.StatusInternalServerError {
		t.Errorf("without the host, which would have to be asked, it answers %s", got)
	}

	kit.Eventually(t, "creates wait for the host, which must say whether the namespace is being deleted", func(context.Context) error {
		got := ask(t, e.Worker(t, namespace, worker), http.MethodPost, groupPath+"/namespaces/"+namespace+"/workers", `{"metadata":{"name":"`+worker+`"}}`)
		if got.code != http.StatusServiceUnavailable || !strings.Contains(got.body, `"retryAfterSeconds":1`) {
			return errors.New(got.String())
		}
		return nil
	})

	kit.Check(t, e.Host.APIServer.Restart(ctx))
	kit.Eventually(t, "tasks are listed through the host", func(ctx context.Context) error {
		_, err := admin.List(ctx, metav1.ListOptions{})
		return err
	})
	kit.Eventually(t, "the host is asked again", func(context.Context) error {
		if got := ask(t, newcomer, http.MethodGet, groupPath+"/namespaces/"+namespace+"/tasks", ""); got.code != http.StatusOK {
			return fmt.Errorf("it answers %s", got)
		}
		return nil
	})
	t.Run("new namespaces are seen", func(t *testing.T) {
		kit.Must(kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(e.Namespace(t)).Create(ctx, newTask("task"), metav1.CreateOptions{}))(t)
	})
	if e.Server.PID() != pid || e.Server.Err() != nil {
		t.Errorf("the server was started again, or has ended: %v", e.Server.Err())
	}
}
