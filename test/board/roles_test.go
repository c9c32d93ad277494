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

package board

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// TestRoles shows each view to people with the roles view and edit of a cluster, which also has Events.
func TestRoles(t *testing.T) {
	t.Parallel()
	browser(t)
	clientCA, args := kit.WorkerClient(t)
	e := kit.Aggregated(t, args...)
	e.StartManager(t, "one")
	client := kit.Client(t, e.Admin(t))
	namespace := e.Namespace(t)
	e.StartWorker(t, e.Worker(t, namespace, "one"), namespace, "one", nil, "--state-dir="+t.TempDir(), "--client-ca-file="+clientCA, "--log-address=127.0.0.1")
	set := kit.NewTaskSet("squares", "sh", "-c", "echo $TASK_INDEX; exit $TASK_INDEX")
	set.Spec.CompletionMode, set.Spec.Completions, set.Spec.Parallelism = ptr.To(batch.IndexedCompletion), new(int32(3)), new(int32(3))
	set.Spec.BackoffLimitPerIndex = new(int32(0))
	kit.Must(client.BatchV1alpha1().TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	waits := kit.NewTask("needs-gpu")
	waits.Spec.Resources.Requests = batch.ResourceList{"nvidia.com/gpu": *batchQuantity(1)}
	kit.Must(client.BatchV1alpha1().Tasks(namespace).Create(t.Context(), waits, metav1.CreateOptions{}))(t)
	for _, role := range []string{"view", "edit"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			user := "person-" + role
			e.BindClusterRole(t, namespace, user, role, kit.UserSubject(user))
			config := e.Person(t, user)
			person := kit.Client(t, config)
			kit.Eventually(t, user+" may list sets", func(ctx context.Context) error {
				list, err := person.BatchV1alpha1().TaskSets(namespace).List(ctx, metav1.ListOptions{})
				if err == nil && len(list.Items) != 1 {
					err = fmt.Errorf("%d sets", len(list.Items))
				}
				return err
			})
			board := serve(t, e.Kubeconfig(t, config, namespace))
			b := newTab(t)
			b.open(t, board.url)
			b.waitFor(t, "the worker is ready", `document.getElementById('ready').textContent === '1'`)
			b.open(t, board.url+"sets")
			b.waitForText(t, "#sets", "squares")
			b.open(t, board.url+"set?name=squares&namespace="+namespace)
			b.waitForText(t, "#legend", "1 done")
			b.waitForText(t, "#legend", "2 failed")
			b.waitFor(t, "an Event is shown", `document.querySelectorAll('#events tbody tr').length > 0 && !document.querySelector('#events .empty')`)
			b.click(t, "#output-form button[type=submit]")
			b.waitFor(t, "the output is shown", `document.querySelectorAll('#output > div').length >= 3`)
			b.open(t, board.url+"pending?name=task/needs-gpu&namespace="+namespace)
			b.waitForText(t, "#explanation", "needs-gpu waits for a worker")
		})
	}
	t.Run("stranger", func(t *testing.T) {
		t.Parallel()
		board := exec.Command(kit.Program(t, "leat"), "board", "--kubeconfig="+e.Kubeconfig(t, e.Person(t, "stranger"), namespace))
		if out, err := board.CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "Error from server (Forbidden)") {
			t.Errorf("leat board printed %s: %v", out, err)
		}
	})
}
