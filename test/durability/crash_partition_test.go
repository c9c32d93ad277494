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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// holding is a command that notes its process ID and ends when the test says so to its worker.
const holding = `echo $BASHPID > "$DIR/$TASK_NAME-$WORKER"; exec 8<>"$DIR/never"; until [ -e "$DIR/$TASK_NAME-$WORKER-go" ]; do read -rt 0.05 -u 8; done; exit 0`

func (s *crashTest) hold(name string) {
	s.Helper()
	_, err := s.api.Tasks(s.namespace).Create(s.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSpec{Command: []string{"bash", "-c", holding}, Env: []batch.EnvVar{{Name: "DIR", Value: s.dir}}},
	}, metav1.CreateOptions{})
	kit.Check(s.T, err)
}

func (s *crashTest) letGo(name, worker string) {
	s.Helper()
	kit.Check(s.T, os.WriteFile(filepath.Join(s.dir, name+"-"+worker+"-go"), nil, 0o600))
}

func (s *crashTest) awaitTask(name, what string, is func(*batch.Task) bool) *batch.Task {
	s.Helper()
	var task *batch.Task
	kit.Eventually(s.T, fmt.Sprintf("task %s %s", name, what), func(ctx context.Context) error {
		var err error
		if task, err = s.api.Tasks(s.namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && !is(task) {
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

// alive says whether the command of a task runs at a worker.
func (s *crashTest) alive(name, worker string) bool {
	s.Helper()
	data := kit.Must(os.ReadFile(filepath.Join(s.dir, name+"-"+worker)))(s.T)
	pid := kit.Must(strconv.Atoi(strings.TrimSpace(string(data))))(s.T)
	err := syscall.Kill(pid, 0)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		s.Fatal(err)
	}
	return err == nil
}

// A worker that is cut off goes on with its tasks, as a kubelet does. They are given to another one; when the first one returns nothing
// of what it has to say counts, and it ends what it still runs.
func testWorkerPartitioned(t *testing.T, d *deployment) {
	s := newCrashTest(t, d, 0)
	link, through := faultproxy.Between(t, d.env.Worker(t, s.namespace, "a"))
	args := []string{"--tasks=4", "--lease-duration=" + leaseDuration.String()}
	d.env.StartWorker(t, through, s.namespace, "a", []string{"WORKER=a"}, args...)
	names := []string{"ends-meanwhile", "runs-on"}
	first := map[string]string{}
	for _, name := range names {
		s.hold(name)
		first[name] = s.awaitTask(name, "runs on a", runsOn("a")).Status.Incarnation
	}
	d.env.StartWorker(t, d.env.Worker(t, s.namespace, "b"), s.namespace, "b", []string{"WORKER=b"}, args...)

	// On a cordoned worker nothing counts as a crash. Else each of its tasks would get a worker of its own next.
	_, err := s.api.Workers(s.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	kit.Check(t, err)
	link.Lose(true, true)
	// This end is reported into the void, and may arrive at any time.
	s.letGo("ends-meanwhile", "a")
	for _, name := range names {
		// It is reported to run before its command starts, and before the attempt counts.
		task := s.awaitTask(name, "runs on b for the second time", func(task *batch.Task) bool { return runsOn("b")(task) && task.Status.Attempts == 2 })
		if task.Status.Disruptions != 1 {
			t.Errorf("task %s has %d disruptions", name, task.Status.Disruptions)
		}
	}
	if s.alive("ends-meanwhile", "a") || !s.alive("runs-on", "a") {
		t.Error("the worker that is cut off does not go on with what it runs")
	}
	if n := len(s.audited("a", refusedStatus)); n > 0 {
		t.Errorf("%d writes were refused before the worker had returned", n)
	}

	link.Heal()
	kit.Eventually(t, "the worker that returns ends what it runs", func(context.Context) error {
		if s.alive("runs-on", "a") {
			return errors.New("it runs")
		}
		return nil
	})
	s.letGo("runs-on", "a") // whoever were to run there now would end
	for _, name := range names {
		if !s.alive(name, "b") {
			t.Errorf("task %s does not run on b any more", name)
		}
		s.awaitTask(name, "runs on b", runsOn("b"))
		s.letGo(name, "b")
		task := s.awaitTask(name, "has succeeded", func(task *batch.Task) bool { return task.Status.Phase == batch.TaskSucceeded })
		if task.Spec.WorkerName != "b" || task.Status.Disruptions != 1 || task.Status.Attempts != 2 {
			t.Errorf("task %s has succeeded on %s with %d disruptions and %d attempts", name, task.Spec.WorkerName, task.Status.Disruptions, task.Status.Attempts)
		}
	}
	kit.Eventually(t, "worker a is well", func(ctx context.Context) error {
		worker, err := s.api.Workers(s.namespace).Get(ctx, "a", metav1.GetOptions{})
		if err == nil && (len(worker.Spec.Taints) > 0 || worker.Status.RunningTasks != 0) {
			err = fmt.Errorf("it has taints %v and %d running tasks", worker.Spec.Taints, worker.Status.RunningTasks)
		}
		return err
	})

	leads, _ := d.leader(t)
	kit.Eventually(t, "the metrics tell of it", func(context.Context) error {
		page, err := leads.scrape()
		for _, line := range []string{
			`leat_lifecycle_evictions_total{reason="WorkerLost"}`,
			`leat_lifecycle_worker_transitions_total{transition="lost"}`,
			`leat_lifecycle_worker_transitions_total{transition="returned"}`,
			`leat_tasks_finished_total{reason="Completed",result="succeeded"}`,
			`leat_finished_task_disruptions_total`,
		} {
			if err == nil && !strings.Contains(page, "\n"+line+" ") {
				err = fmt.Errorf("there is no %s", line)
			}
		}
		return err
	})

	// From when they were taken from it, nothing is stored that the worker wrote.
	for _, name := range names {
		changes := s.history.await(t, "the task has succeeded", func(c history.Change) bool {
			return c.After != nil && c.After.Name == name && c.After.Status.Phase == batch.TaskSucceeded
		})
		taken := false
		for _, c := range changes {
			if c.After == nil || c.After.Name != name || c.Before == nil {
				continue
			}
			for _, message := range transitions.Wrong(c.Before, c.After) {
				t.Errorf("revision %d: task %s: %s", c.Revision, name, message)
			}
			taken = taken || c.Before.Spec.WorkerName == "a" && c.After.Spec.WorkerName == ""
			if taken && (c.After.Spec.WorkerName == "a" || c.After.Status.Incarnation == first[name]) {
				t.Errorf("revision %d: task %s was taken from a, and is of it again: %+v", c.Revision, name, c.After.Status)
			}
		}
		if !taken {
			t.Errorf("the history does not show that task %s was taken from a", name)
		}
	}
	refused := s.audited("a", refusedStatus)
	t.Logf("%d writes of the worker that has returned were refused", len(refused))
	if len(refused) == 0 {
		t.Error("the worker that has returned did not try to report the end of its task, or was not refused: nothing is shown")
	}
}

// refusedStatus is a write of a task's status that was not let through: 409 by the fence of the task itself, or 403 once the server knows
// that the task is another worker's.
func refusedStatus(e *auditv1.Event) bool {
	return e.ObjectRef.Subresource == "status" && (e.ResponseStatus.Code == http.StatusConflict || e.ResponseStatus.Code == http.StatusForbidden)
}

// audited gives the requests that a worker has made in this namespace, as the server has noted them.
func (s *crashTest) audited(worker string, is func(*auditv1.Event) bool) []*auditv1.Event {
	s.Helper()
	file := kit.Must(os.Open(s.auditLog))(s.T)
	defer file.Close()
	var events []*auditv1.Event
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := &auditv1.Event{}
		kit.Check(s.T, json.Unmarshal(lines.Bytes(), e))
		if e.User.Username == "leat:worker:"+s.namespace+":"+worker && e.ObjectRef != nil && e.ResponseStatus != nil {
			events = append(events, e)
		}
	}
	kit.Check(s.T, lines.Err())
	return slices.DeleteFunc(events, func(e *auditv1.Event) bool { return !is(e) })
}
