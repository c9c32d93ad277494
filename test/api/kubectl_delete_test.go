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

package api

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// forceDeletionWarning is the warning of kubectl for an immediate deletion.
const forceDeletionWarning = "Immediate deletion does not wait for confirmation that the running resource has been terminated."

func testKubectlDelete(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	tasks := controllerClient(t, e).Tasks(k.namespace)
	registerWorker(t, e, k.namespace, "w-aaaaa")
	deleted := func(name string) string {
		return fmt.Sprintf("task.batch.leat.dev %q deleted from %s namespace", name, k.namespace)
	}
	gone := func(name string) {
		t.Helper()
		if _, err := tasks.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("get of the deleted task %s: got %v, want 404", name, err)
		}
	}

	// A task without a process is deleted at once, with any grace period.
	for _, flags := range []string{"", "--now", "--grace-period=60", "--grace-period=0 --force", "--wait=false"} {
		k.create("Task", "unbound", "{command: [sleep]}")
		out, _, err := k.execute("delete tk unbound " + flags)
		kit.Check(t, err)
		if !strings.HasPrefix(strings.Replace(out, "force deleted", "deleted", 1), deleted("unbound")) {
			t.Errorf("delete %s: got %s", flags, out)
		}
		gone("unbound")
	}
	k.create("Task", "finished", "{command: [sleep]}")
	bindTo(t, tasks, "finished", "w-aaaaa")
	updateTaskStatus(t, tasks, "finished", func(status *batch.TaskStatus) { status.Phase = batch.TaskSucceeded })
	k.expectOutput(deleted("finished"), "delete tk finished")
	gone("finished")

	// A bound task has the grace period of the request or of its spec.
	for _, test := range []struct {
		flags string
		grace int64
	}{
		{"", 40},
		{"--grace-period=5", 5},
		{"--now", 1},
		{"--grace-period=0", 1},
		{"--grace-period=-1", 40},
	} {
		k.create("Task", "bound", "{command: [sleep], terminationGracePeriodSeconds: 40}")
		bindTo(t, tasks, "bound", "w-aaaaa")
		k.expectOutput(deleted("bound"), "delete tk bound --wait=false "+test.flags)
		task, err := tasks.Get(t.Context(), "bound", metav1.GetOptions{})
		kit.Check(t, err)
		if task.DeletionTimestamp == nil || *task.DeletionGracePeriodSeconds != test.grace {
			t.Errorf("delete %q: got grace period %v, want %d", test.flags, ptr.Deref(task.DeletionGracePeriodSeconds, -1), test.grace)
		}
		k.expectTable([]string{"NAME STATUS WORKER EXIT ATTEMPTS INDEXES AGE", "bound Terminating w-aaaaa <none> 0 <none> T"}, "get tk bound")
		// A second request can shorten the grace period.
		if test.grace > 1 {
			k.run("delete tk bound --wait=false --now")
			task, err := tasks.Get(t.Context(), "bound", metav1.GetOptions{})
			kit.Check(t, err)
			if *task.DeletionGracePeriodSeconds != 1 {
				t.Errorf("delete %q, then --now: got grace period %d, want 1", test.flags, *task.DeletionGracePeriodSeconds)
			}
		}
		out, stderr, err := k.execute("delete tk bound --grace-period=0 --force")
		kit.Check(t, err)
		if !strings.Contains(out, "force deleted") || !strings.Contains(stderr, forceDeletionWarning) {
			t.Errorf("delete --force: got %s %s", out, stderr)
		}
		gone("bound")
	}

	// By default, kubectl waits until the worker has deleted the task.
	k.create("Task", "bound", "{command: [sleep]}")
	bindTo(t, tasks, "bound", "w-aaaaa")
	deletes := k.start("delete tk bound -v=6")
	deletes.waitForWatch()
	kit.Check(t, tasks.Delete(t.Context(), "bound", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	deletes.waitForExit()

	k.expectFailure(1, []string{`Error from server (NotFound): tasks.batch.leat.dev "bound" not found`}, "delete tk bound")
	k.expectOutput("", "delete tk bound --ignore-not-found")

	createFiveTasks(k)
	k.expectOutput(deleted("t-0")+" (server dry run)", "delete tk t-0 --dry-run=server")
	k.expectOutput(deleted("t-1")+"\n"+deleted("t-3"), "delete tk -l parity=1")
	k.expectOutput(deleted("t-2"), "delete tk --field-selector=metadata.name=t-2")
	k.expectOutput(deleted("t-0")+"\n"+deleted("t-4"), "delete tk --all")
	k.expectOutput("", "get tk -o name")

	k.create("TaskSet", "many", "{parallelism: 0, template: {spec: {command: [sleep]}}}")
	k.create("TaskQueue", "line", "{}")
	k.expectOutput(fmt.Sprintf("taskset.batch.leat.dev %q deleted from %s namespace\ntaskqueue.batch.leat.dev %q deleted from %s namespace",
		"many", k.namespace, "line", k.namespace), "delete tks/many tq/line")
	k.expectOutput(fmt.Sprintf("worker.batch.leat.dev %q deleted from %s namespace", "w-aaaaa", k.namespace), "delete wkr --all")
}
