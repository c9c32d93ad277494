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
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// heldScript is a command that writes its process ID and runs until the test creates a file for it.
const heldScript = `echo $BASHPID > "$DIR/$TASK_NAME-$WORKER"; exec 8<>"$DIR/never"; until [ -e "$DIR/$TASK_NAME-$WORKER-go" ]; do read -rt 0.05 -u 8; done; exit 0`

// createHeld creates a task that runs on a worker until release.
func (c *crashTest) createHeld(name string) {
	c.Helper()
	task := kit.NewTask(name, "bash", "-c", heldScript)
	task.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: c.dir}}
	_, err := c.api.Tasks(c.namespace).Create(c.Context(), task, metav1.CreateOptions{})
	kit.Check(c.T, err)
}

func (c *crashTest) release(name, worker string) {
	c.Helper()
	kit.Check(c.T, os.WriteFile(filepath.Join(c.dir, name+"-"+worker+"-go"), nil, 0o600))
}

func (c *crashTest) awaitTask(name, what string, condition func(*batch.Task) bool) *batch.Task {
	c.Helper()
	var task *batch.Task
	kit.Eventually(c.T, fmt.Sprintf("task %s %s", name, what), func(ctx context.Context) error {
		var err error
		if task, err = c.api.Tasks(c.namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && !condition(task) {
			err = fmt.Errorf("it is bound to %q, with status %+v", task.Spec.WorkerName, task.Status)
		}
		return err
	})
	return task
}

func runsOn(worker string) func(*batch.Task) bool {
	return func(task *batch.Task) bool {
		return task.Spec.WorkerName == worker && task.Status.Phase == batch.TaskRunning
	}
}

// alive reports whether the command of a task runs on a worker.
func (c *crashTest) alive(name, worker string) bool {
	c.Helper()
	data := kit.Must(os.ReadFile(filepath.Join(c.dir, name+"-"+worker)))(c.T)
	pid := kit.Must(strconv.Atoi(strings.TrimSpace(string(data))))(c.T)
	err := syscall.Kill(pid, 0)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		c.Fatal(err)
	}
	return err == nil
}

// testWorkerPartitioned tests that a worker without a network continues its tasks, as a kubelet does, while they are
// evicted and run on another worker. When it returns, the server refuses its reports and it ends what it still runs.
func testWorkerPartitioned(t *testing.T, d *deployment) {
	c := newCrashTest(t, d, 0)
	link, through := faultproxy.Before(t, d.env.Worker(t, c.namespace, "a"))
	args := []string{"--tasks=4", "--lease-duration=" + leaseDuration.String()}
	d.env.StartWorker(t, through, c.namespace, "a", []string{"WORKER=a"}, args...)
	names := []string{"ends-meanwhile", "runs-on"}
	first := map[string]string{}
	for _, name := range names {
		c.createHeld(name)
		first[name] = c.awaitTask(name, "runs on a", runsOn("a")).Status.Incarnation
	}
	d.env.StartWorker(t, d.env.Worker(t, c.namespace, "b"), c.namespace, "b", []string{"WORKER=b"}, args...)

	// The loss of a cordoned worker is not a crash of its tasks. A task that has crashed a worker would run alone next.
	_, err := c.api.Workers(c.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	kit.Check(t, err)
	link.Stall(true, true)
	// The report of this end is held back until the network is healed.
	c.release("ends-meanwhile", "a")
	for _, name := range names {
		// The worker reports the task as running before it counts the attempt and starts the command.
		task := c.awaitTask(name, "runs on b as its second attempt", func(task *batch.Task) bool { return runsOn("b")(task) && task.Status.Attempts == 2 })
		if task.Status.Disruptions != 1 {
			t.Errorf("task %s: got %d disruptions, want 1", name, task.Status.Disruptions)
		}
	}
	if c.alive("ends-meanwhile", "a") || !c.alive("runs-on", "a") {
		t.Error("the worker without a network does not continue its tasks")
	}
	if n := len(c.audited("a", refusedStatus)); n > 0 {
		t.Errorf("%d writes of the worker were refused before it returned, want none", n)
	}

	link.Resume()
	kit.Eventually(t, "the worker that returns ends its command", func(context.Context) error {
		if c.alive("runs-on", "a") {
			return errors.New("it runs")
		}
		return nil
	})
	c.release("runs-on", "a") // a new command on this worker would end at once
	for _, name := range names {
		if !c.alive(name, "b") {
			t.Errorf("task %s no longer runs on b", name)
		}
		c.awaitTask(name, "runs on b", runsOn("b"))
		c.release(name, "b")
		task := c.awaitTask(name, "has succeeded", func(task *batch.Task) bool { return task.Status.Phase == batch.TaskSucceeded })
		if task.Spec.WorkerName != "b" || task.Status.Disruptions != 1 || task.Status.Attempts != 2 {
			t.Errorf("task %s succeeded on %s with %d disruptions and %d attempts, want b, 1 and 2", name, task.Spec.WorkerName, task.Status.Disruptions, task.Status.Attempts)
		}
	}
	kit.Eventually(t, "worker a has no taints and no tasks", func(ctx context.Context) error {
		worker, err := c.api.Workers(c.namespace).Get(ctx, "a", metav1.GetOptions{})
		if err == nil && (len(worker.Spec.Taints) > 0 || worker.Status.RunningTasks != 0) {
			err = fmt.Errorf("it has taints %v and %d running tasks", worker.Spec.Taints, worker.Status.RunningTasks)
		}
		return err
	})

	leader, _ := d.leader(t)
	kit.Eventually(t, "the metrics count the loss and the return", func(context.Context) error {
		metrics, err := leader.scrape()
		for _, line := range []string{
			`leat_lifecycle_evictions_total{reason="WorkerLost"}`,
			`leat_lifecycle_worker_transitions_total{transition="lost"}`,
			`leat_lifecycle_worker_transitions_total{transition="returned"}`,
			`leat_tasks_finished_total{reason="Completed",result="succeeded"}`,
			`leat_finished_task_disruptions_total`,
		} {
			if err == nil && !strings.Contains(metrics, "\n"+line+" ") {
				err = fmt.Errorf("there is no %s", line)
			}
		}
		return err
	})

	// After the evictions, nothing that the worker wrote is stored.
	for _, name := range names {
		changes := c.history.await(t, "the task has succeeded", func(change history.Change) bool {
			return change.After != nil && change.After.Name == name && change.After.Status.Phase == batch.TaskSucceeded
		})
		evicted := false
		for _, change := range changes {
			if change.After == nil || change.After.Name != name || change.Before == nil {
				continue
			}
			for _, message := range transitions.Wrong(change.Before, change.After) {
				t.Errorf("revision %d: task %s: %s", change.Revision, name, message)
			}
			evicted = evicted || change.Before.Spec.WorkerName == "a" && change.After.Spec.WorkerName == ""
			if evicted && (change.After.Spec.WorkerName == "a" || change.After.Status.Incarnation == first[name]) {
				t.Errorf("revision %d: task %s belongs to a after its eviction: %+v", change.Revision, name, change.After.Status)
			}
		}
		if !evicted {
			t.Errorf("the history has no eviction of task %s from a", name)
		}
	}
	refused := c.audited("a", refusedStatus)
	t.Logf("%d writes of the worker that returned were refused", len(refused))
	if len(refused) == 0 {
		t.Error("no write of the worker that returned was refused, so this test proves nothing")
	}
}

// refusedStatus reports whether the event is a refused write of a task's status: 409 by the incarnation in the task,
// or 403 once the server knows that another worker has the task.
func refusedStatus(e *auditv1.Event) bool {
	return e.ObjectRef.Subresource == "status" && (e.ResponseStatus.Code == http.StatusConflict || e.ResponseStatus.Code == http.StatusForbidden)
}

// audited returns the matching requests of a worker in the namespace, from the audit log.
func (c *crashTest) audited(worker string, matches func(*auditv1.Event) bool) []*auditv1.Event {
	c.Helper()
	file := kit.Must(os.Open(c.auditLog))(c.T)
	defer file.Close()
	var events []*auditv1.Event
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := &auditv1.Event{}
		kit.Check(c.T, json.Unmarshal(lines.Bytes(), e))
		if e.User.Username == "leat:worker:"+c.namespace+":"+worker && e.ObjectRef != nil && e.ResponseStatus != nil && matches(e) {
			events = append(events, e)
		}
	}
	kit.Check(c.T, lines.Err())
	return events
}
