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

package product

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/lifecycle"
	"github.com/leat-dev/leat/pkg/scheduler"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	leaseDuration  = 4 * time.Second
	silenceTimeout = 5 * time.Second
	removeAfter    = 5 * time.Second
)

// TestLifecycle kills, freezes, restarts and stops workers. The scheduler and the lifecycle controller run in the test
// process, with short times.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	e := kit.Standalone(t)
	client := kit.Client(t, e.Controller(t))
	keepRunning(t, scheduler.New(client).Run)
	keepRunning(t, lifecycle.New(client, lifecycle.Options{
		LeaseInterval: 500 * time.Millisecond, FullDisruptionTimeout: silenceTimeout, RemoveAfter: removeAfter,
	}).Run)
	t.Run("Together", func(t *testing.T) {
		for _, test := range []struct {
			name string
			run  func(*testing.T, *kit.Env)
		}{
			{"killed worker", testKilled},
			{"frozen worker", testFrozen},
			{"restarted worker", testRestarted},
			{"stopped worker", testStopped},
			{"tasks deleted after their worker", testDeleted},
			{"worker deleted that is dead", testDeadWorkerDeleted},
			{"worker deleted that lives", testLiveWorkerDeleted},
			{"time to live", testTimeToLive},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(t, e)
			})
		}
	})
	t.Run("frozen server", func(t *testing.T) { testFrozenServer(t, e) })
}

// keepRunning runs a controller until the test ends.
func keepRunning(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// lifecycleSuite is a namespace with workers, and the working directory of their tasks.
type lifecycleSuite struct {
	fixture
	dir string
}

func newLifecycleSuite(t *testing.T, e *kit.Env) *lifecycleSuite {
	return &lifecycleSuite{newFixture(t, e, e.Namespace(t)), t.TempDir()}
}

// startWorker starts a worker until the test ends. Its namespace comes from its certificate, whatever its kubeconfig
// has.
func (s *lifecycleSuite) startWorker(t *testing.T, name string, args ...string) *host.Process {
	t.Helper()
	config := s.env.Worker(t, s.namespace, name)
	return s.env.StartWorker(t, config, s.namespace, name, nil, append([]string{
		"--kubeconfig=" + s.env.Kubeconfig(t, config, "default"), "--state-dir=" + t.TempDir(), "--tasks=4", "--lease-duration=" + leaseDuration.String(),
	}, args...)...)
}

// mark returns the path of a file in the working directory of the tasks.
func (s *lifecycleSuite) mark(name string) string { return filepath.Join(s.dir, name) }

// run creates a task that runs a shell script. In the script, "first" succeeds at the first attempt only.
func (s *lifecycleSuite) run(t *testing.T, name, script string, mutate ...func(*batch.Task)) {
	t.Helper()
	script = "first() { [ \"$TASK_ATTEMPT\" = 1 ]; }\n" + script
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSpec{Command: []string{"sh", "-c", script}, WorkingDir: s.dir},
	}
	for _, m := range mutate {
		m(task)
	}
	_, err := s.api.Tasks(s.namespace).Create(t.Context(), task, metav1.CreateOptions{})
	kit.Check(t, err)
}

func (s *lifecycleSuite) task(t *testing.T, name string) *batch.Task {
	t.Helper()
	task, err := s.api.Tasks(s.namespace).Get(t.Context(), name, metav1.GetOptions{})
	kit.Check(t, err)
	return task
}

func (s *lifecycleSuite) waitForPhase(t *testing.T, name string, phase batch.TaskPhase) *batch.Task {
	t.Helper()
	return s.waitForTask(t, name, "is "+string(phase), func(t *batch.Task) bool { return t.Status.Phase == phase })
}

// readyCondition returns the status and the reason of the condition Ready.
func readyCondition(w *batch.Worker) string {
	c := meta.FindStatusCondition(w.Status.Conditions, batch.WorkerReady)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func unreachable(w *batch.Worker) bool {
	return slices.ContainsFunc(w.Spec.Taints, func(t batch.Taint) bool {
		return t.Key == batch.TaintWorkerUnreachable && t.Effect == batch.TaintEffectNoExecute && t.TimeAdded != nil
	})
}

func isLost(w *batch.Worker) bool {
	return unreachable(w) && readyCondition(w) == "Unknown WorkerStatusUnknown"
}

func isReady(w *batch.Worker) bool { return !unreachable(w) && readyCondition(w) == "True WorkerReady" }

// disruptionReason returns the reason of the condition DisruptionTarget.
func disruptionReason(task *batch.Task) string {
	c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
	if c == nil {
		return ""
	}
	return c.Reason
}

// checkRun fails the test if a task is on another worker, or has other counts.
func (s *lifecycleSuite) checkRun(t *testing.T, task *batch.Task, worker string, attempts, disruptions int32) {
	t.Helper()
	if task.Spec.WorkerName != worker || task.Status.Attempts != attempts || task.Status.Disruptions != disruptions {
		t.Errorf("task %s: got worker %q, %d attempts and %d disruptions, want worker %q, %d and %d", task.Name,
			task.Spec.WorkerName, task.Status.Attempts, task.Status.Disruptions, worker, attempts, disruptions)
	}
}

// tolerates makes a task stay on an unreachable worker, forever if seconds is nil.
func tolerates(seconds *int64) func(*batch.Task) {
	return func(t *batch.Task) {
		t.Spec.Tolerations = []batch.Toleration{{
			Key: batch.TaintWorkerUnreachable, Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: seconds,
		}}
	}
}

func testKilled(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a")
	s.run(t, "moves", `if first; then exec sleep 3600; fi`)
	s.run(t, "has-failed-before", `case $TASK_ATTEMPT in 1) exec sleep 3600;; 2) exit 1;; esac`, func(task *batch.Task) { task.Spec.BackoffLimit = new(int32(1)) })
	s.run(t, "tolerates", `exec sleep 3600`, tolerates(nil))
	for _, name := range []string{"moves", "has-failed-before", "tolerates"} {
		s.waitForPhase(t, name, batch.TaskRunning)
	}
	s.startWorker(t, "b")
	kit.Check(t, a.Kill())
	s.waitForWorker(t, "a", "is lost", isLost)

	s.checkRun(t, s.waitForPhase(t, "moves", batch.TaskSucceeded), "b", 2, 1)
	for _, name := range []string{"moves", "has-failed-before"} {
		if n := s.task(t, name).Status.WorkerCrashes; n != 1 {
			t.Errorf("%s: got %d crashes of its worker, want 1", name, n)
		}
	}
	// Disruptions do not count for backoffLimit: the retry after exit code 1 is the first one.
	s.checkRun(t, s.waitForPhase(t, "has-failed-before", batch.TaskSucceeded), "b", 3, 1)
	s.checkRun(t, s.task(t, "tolerates"), "a", 1, 0)
	s.waitForWorker(t, "b", "is ready", isReady)
}

func testFrozen(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a")
	// The first attempt ends while the worker is frozen. When the worker wakes, its report is too late.
	s.run(t, "ended-meanwhile", `if first; then until [ -e frozen ]; do sleep 0.05; done; touch ended; exit 7; fi; until [ -e go ]; do sleep 0.05; done`)
	s.run(t, "runs-still", `if first; then echo $$$$ >pid; exec sleep 3600; fi; until [ -e go ]; do sleep 0.05; done`)
	s.waitForPhase(t, "ended-meanwhile", batch.TaskRunning)
	s.waitForPhase(t, "runs-still", batch.TaskRunning)
	stale := s.task(t, "ended-meanwhile")
	s.startWorker(t, "b")

	// The end of a cordoned worker does not count as a crash. After a crash, a task runs alone on a worker.
	_, err := s.api.Workers(s.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	kit.Check(t, err)
	kit.Check(t, a.Signal(syscall.SIGSTOP))
	touch(t, s.mark("frozen"))
	kit.Eventually(t, "the command of the frozen worker has ended", func(context.Context) error {
		_, err := os.Stat(s.mark("ended"))
		return err
	})
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		task := s.waitForTask(t, name, "runs on b", func(t *batch.Task) bool {
			return t.Spec.WorkerName == "b" && t.Status.Phase == batch.TaskRunning && t.Status.Attempts == 2
		})
		s.checkRun(t, task, "b", 2, 1)
	}
	s.waitForWorker(t, "a", "is lost", isLost)

	// A report for an earlier binding is a conflict, whatever the rights of the client.
	stale.Status.Phase = batch.TaskFailed
	for _, version := range []string{stale.ResourceVersion, s.task(t, "ended-meanwhile").ResourceVersion} {
		stale.ResourceVersion = version
		_, err := kit.Client(t, e.Controller(t)).BatchV1alpha1().Tasks(s.namespace).UpdateStatus(t.Context(), stale, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			t.Errorf("report for an earlier binding: got %v, want a conflict", err)
		}
	}

	kit.Check(t, a.Signal(syscall.SIGCONT))
	s.waitForWorker(t, "a", "is ready again", isReady)
	content, err := os.ReadFile(s.mark("pid"))
	kit.Check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	kit.Check(t, err)
	kit.Eventually(t, "the woken worker has killed the process of the moved task", func(context.Context) error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %v", pid, err)
		}
		return nil
	})
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		if task := s.task(t, name); task.Status.Phase != batch.TaskRunning || task.Status.State.Running == nil {
			t.Errorf("%s: the woken worker has changed the status to %+v", name, task.Status)
		}
	}
	touch(t, s.mark("go"))
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		s.checkRun(t, s.waitForPhase(t, name, batch.TaskSucceeded), "b", 2, 1)
	}
}

func testRestarted(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a")
	s.run(t, "t", `if first; then exec sleep 3600; fi`, tolerates(nil))
	s.waitForPhase(t, "t", batch.TaskRunning)
	kit.Check(t, a.Restart(t.Context()))
	task := s.waitForPhase(t, "t", batch.TaskSucceeded)
	s.checkRun(t, task, "a", 2, 1)
	s.waitForWorker(t, "a", "is ready", isReady)
}

func testStopped(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a", "--drain-timeout=1s", "--labels=disk=ssd", "--taints=slow:PreferNoSchedule", "--capacity=cpu=3,example.com/gpu=1")
	s.waitForWorker(t, "a", "is as its flags demand", func(w *batch.Worker) bool {
		cpu, gpu, tasks := w.Status.Allocatable["cpu"], w.Status.Allocatable["example.com/gpu"], w.Status.Allocatable["tasks"]
		return w.Labels["disk"] == "ssd" && len(w.Spec.Taints) == 1 && w.Spec.Taints[0].Key == "slow" && cpu.Value() == 3 && gpu.Value() == 1 && tasks.Value() == 4
	})
	s.run(t, "stubborn", `trap '' TERM; until [ -e go ]; do sleep 0.05; done`)
	s.waitForPhase(t, "stubborn", batch.TaskRunning)
	kit.Check(t, a.Stop())
	task := s.waitForPhase(t, "stubborn", batch.TaskPending)
	if s.checkRun(t, task, "", 1, 1); disruptionReason(task) != "WorkerStopped" {
		t.Errorf("got reason %q of DisruptionTarget, want WorkerStopped", disruptionReason(task))
	}
	s.waitForWorker(t, "a", "is stopped", func(w *batch.Worker) bool { return readyCondition(w) == "False Stopped" })

	// A stopped worker is lost after a time, and then removed.
	kit.Eventually(t, "the stopped worker and its lease are removed", func(ctx context.Context) error {
		_, worker := s.api.Workers(s.namespace).Get(ctx, "a", metav1.GetOptions{})
		_, lease := s.api.WorkerLeases(s.namespace).Get(ctx, "a", metav1.GetOptions{})
		return errors.Join(kit.Gone(worker), kit.Gone(lease))
	})
}

func testDeleted(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a")
	for _, name := range []string{"before", "after"} {
		s.run(t, name, `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
		s.waitForPhase(t, name, batch.TaskRunning)
	}
	kit.Check(t, a.Kill())
	kit.Check(t, s.api.Tasks(s.namespace).Delete(t.Context(), "before", metav1.DeleteOptions{}))
	s.waitForTaskGone(t, "before")
	s.waitForWorker(t, "a", "is lost", isLost)
	kit.Check(t, s.api.Tasks(s.namespace).Delete(t.Context(), "after", metav1.DeleteOptions{}))
	s.waitForTaskGone(t, "after")
}

func testDeadWorkerDeleted(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	a := s.startWorker(t, "a")
	s.run(t, "bound", `if first; then exec sleep 3600; fi`, tolerates(nil))
	s.run(t, "terminating", `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
	s.waitForPhase(t, "bound", batch.TaskRunning)
	s.waitForPhase(t, "terminating", batch.TaskRunning)
	s.startWorker(t, "b")
	kit.Check(t, a.Kill())
	// The deletion of a namespace deletes both at once, too.
	kit.Check(t, s.api.Tasks(s.namespace).Delete(t.Context(), "terminating", metav1.DeleteOptions{}))
	kit.Check(t, s.api.Workers(s.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	s.checkRun(t, s.waitForPhase(t, "bound", batch.TaskSucceeded), "b", 2, 1)
	s.waitForTaskGone(t, "terminating")
}

func testLiveWorkerDeleted(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	s.startWorker(t, "a")
	kit.Check(t, s.api.Workers(s.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	s.waitForWorker(t, "a", "is registered again", isReady)
	s.run(t, "t", `exit 0`)
	s.waitForPhase(t, "t", batch.TaskSucceeded)
}

func testTimeToLive(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	s.startWorker(t, "a")
	ttl := func(seconds int32) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.TTLSecondsAfterFinished = &seconds }
	}
	s.run(t, "kept", `exit 0`)
	s.run(t, "at-once", `exit 0`, ttl(0))
	s.run(t, "soon", `exit 1`, ttl(2))
	s.waitForTaskGone(t, "at-once")
	s.waitForTaskGone(t, "soon")
	s.waitForPhase(t, "kept", batch.TaskSucceeded)
}

// testFrozenServer freezes the server for longer than leases last: no worker is lost for missing heartbeats.
func testFrozenServer(t *testing.T, e *kit.Env) {
	s := newLifecycleSuite(t, e)
	s.startWorker(t, "a")
	s.startWorker(t, "b")
	s.run(t, "t", `until [ -e go ]; do sleep 0.05; done`)
	s.waitForPhase(t, "t", batch.TaskRunning)
	kit.Check(t, e.Server.Signal(syscall.SIGSTOP))
	<-time.After(3 * leaseDuration) // without a server, there is no condition to wait for
	kit.Check(t, e.Server.Signal(syscall.SIGCONT))
	kit.Check(t, e.Server.WaitReady(t.Context()))
	renewed := metav1.NowMicro()
	for _, name := range []string{"a", "b"} {
		kit.Eventually(t, "the lease of "+name+" is renewed", func(ctx context.Context) error {
			lease, err := s.api.WorkerLeases(s.namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil && !lease.Spec.RenewTime.After(renewed.Add(leaseDuration)) {
				err = fmt.Errorf("got renewTime %s", lease.Spec.RenewTime)
			}
			return err
		})
		s.waitForWorker(t, name, "is ready", isReady)
	}
	touch(t, s.mark("go"))
	s.checkRun(t, s.waitForPhase(t, "t", batch.TaskSucceeded), s.task(t, "t").Spec.WorkerName, 1, 0)
}
