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

// TestLifecycle has its scheduler and its lifecycle controller, with short times, in the process of the test.
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

// keepRunning runs a part of the controller manager until the test ends.
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

// place is a namespace with its workers, and a directory that their tasks leave marks in.
type lifecycleSuite struct {
	fixture
	dir string
}

func newLifecycleSuite(t *testing.T, e *kit.Env) *lifecycleSuite {
	return &lifecycleSuite{newFixture(t, e, e.Namespace(t)), t.TempDir()}
}

// startWorker starts a worker until the test ends. Its namespace comes from its certificate, whatever its kubeconfig has.
func (p *lifecycleSuite) startWorker(t *testing.T, name string, args ...string) *host.Process {
	t.Helper()
	config := p.env.Worker(t, p.namespace, name)
	return p.env.StartWorker(t, config, p.namespace, name, nil, append([]string{
		"--kubeconfig=" + p.env.Kubeconfig(t, config, "default"), "--state-dir=" + t.TempDir(), "--tasks=4", "--lease-duration=" + leaseDuration.String(),
	}, args...)...)
}

func (p *lifecycleSuite) mark(name string) string { return filepath.Join(p.dir, name) }

// run creates a task that runs a shell script, in which "first" is a command that succeeds at the first attempt only.
func (p *lifecycleSuite) run(t *testing.T, name, script string, mutate ...func(*batch.Task)) {
	t.Helper()
	script = "first() { [ \"$TASK_ATTEMPT\" = 1 ]; }\n" + script
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSpec{Command: []string{"sh", "-c", script}, WorkingDir: p.dir},
	}
	for _, m := range mutate {
		m(task)
	}
	_, err := p.api.Tasks(p.namespace).Create(t.Context(), task, metav1.CreateOptions{})
	kit.Check(t, err)
}

func (p *lifecycleSuite) task(t *testing.T, name string) *batch.Task {
	t.Helper()
	task, err := p.api.Tasks(p.namespace).Get(t.Context(), name, metav1.GetOptions{})
	kit.Check(t, err)
	return task
}

func (p *lifecycleSuite) awaitPhase(t *testing.T, name string, phase batch.TaskPhase) *batch.Task {
	t.Helper()
	return p.waitForTask(t, name, string(phase), func(t *batch.Task) bool { return t.Status.Phase == phase })
}

// readyCondition is the status and the reason of the worker's Ready condition.
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

func isWell(w *batch.Worker) bool { return !unreachable(w) && readyCondition(w) == "True WorkerReady" }

func disrupted(task *batch.Task) string {
	c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
	if c == nil {
		return ""
	}
	return c.Reason
}

func (p *lifecycleSuite) checkRun(t *testing.T, task *batch.Task, worker string, attempts, disruptions int32) {
	t.Helper()
	if task.Spec.WorkerName != worker || task.Status.Attempts != attempts || task.Status.Disruptions != disruptions {
		t.Errorf("task %s is on worker %q with %d attempts and %d disruptions; want worker %q, %d and %d", task.Name,
			task.Spec.WorkerName, task.Status.Attempts, task.Status.Disruptions, worker, attempts, disruptions)
	}
}

func tolerates(seconds *int64) func(*batch.Task) {
	return func(t *batch.Task) {
		t.Spec.Tolerations = []batch.Toleration{{
			Key: batch.TaintWorkerUnreachable, Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: seconds,
		}}
	}
}

func testKilled(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a")
	p.run(t, "moves", `if first; then exec sleep 3600; fi`)
	p.run(t, "has-failed-before", `case $TASK_ATTEMPT in 1) exec sleep 3600;; 2) exit 1;; esac`, func(task *batch.Task) { task.Spec.BackoffLimit = new(int32(1)) })
	p.run(t, "tolerates", `exec sleep 3600`, tolerates(nil))
	for _, name := range []string{"moves", "has-failed-before", "tolerates"} {
		p.awaitPhase(t, name, batch.TaskRunning)
	}
	p.startWorker(t, "b")
	kit.Check(t, a.Kill())
	p.waitForWorker(t, "a", "lost", isLost)

	p.checkRun(t, p.awaitPhase(t, "moves", batch.TaskSucceeded), "b", 2, 1)
	for _, name := range []string{"moves", "has-failed-before"} {
		if n := p.task(t, name).Status.WorkerCrashes; n != 1 {
			t.Errorf("%s counts %d crashes of its worker, ran on one", name, n)
		}
	}
	// Its first retry is the one that backoffLimit allows: what the lost worker cost was not.
	p.checkRun(t, p.awaitPhase(t, "has-failed-before", batch.TaskSucceeded), "b", 3, 1)
	p.checkRun(t, p.task(t, "tolerates"), "a", 1, 0)
	p.waitForWorker(t, "b", "well", isWell)
}

func testFrozen(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a")
	// What the first attempt comes to while the worker is frozen is old news when it wakes.
	p.run(t, "ended-meanwhile", `if first; then until [ -e frozen ]; do sleep 0.05; done; touch ended; exit 7; fi; until [ -e go ]; do sleep 0.05; done`)
	p.run(t, "runs-still", `if first; then echo $$$$ >pid; exec sleep 3600; fi; until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase(t, "ended-meanwhile", batch.TaskRunning)
	p.awaitPhase(t, "runs-still", batch.TaskRunning)
	stale := p.task(t, "ended-meanwhile")
	p.startWorker(t, "b")

	// On a cordoned worker nothing counts as a crash. Else each of its tasks would get a worker of its own next.
	_, err := p.api.Workers(p.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	kit.Check(t, err)
	kit.Check(t, a.Signal(syscall.SIGSTOP))
	touch(t, p.mark("frozen"))
	kit.Eventually(t, "the command of the frozen worker has ended", func(context.Context) error {
		_, err := os.Stat(p.mark("ended"))
		return err
	})
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		task := p.waitForTask(t, name, "running on b", func(t *batch.Task) bool {
			return t.Spec.WorkerName == "b" && t.Status.Phase == batch.TaskRunning && t.Status.Attempts == 2
		})
		p.checkRun(t, task, "b", 2, 1)
	}
	p.waitForWorker(t, "a", "lost", isLost)

	// The controller's rights are wider than the worker's, and no help: what was written by a binding that is over is refused.
	stale.Status.Phase = batch.TaskFailed
	for _, version := range []string{stale.ResourceVersion, p.task(t, "ended-meanwhile").ResourceVersion} {
		stale.ResourceVersion = version
		_, err := kit.Client(t, e.Controller(t)).BatchV1alpha1().Tasks(p.namespace).UpdateStatus(t.Context(), stale, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			t.Errorf("a late write: %v; want a conflict", err)
		}
	}

	kit.Check(t, a.Signal(syscall.SIGCONT))
	p.waitForWorker(t, "a", "well again", isWell)
	content, err := os.ReadFile(p.mark("pid"))
	kit.Check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	kit.Check(t, err)
	kit.Eventually(t, "the process of a task that was given away has ended", func(context.Context) error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %v", pid, err)
		}
		return nil
	})
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		if task := p.task(t, name); task.Status.Phase != batch.TaskRunning || task.Status.State.Running == nil {
			t.Errorf("%s: the worker that woke has changed it: %+v", name, task.Status)
		}
	}
	touch(t, p.mark("go"))
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		p.checkRun(t, p.awaitPhase(t, name, batch.TaskSucceeded), "b", 2, 1)
	}
}

func testRestarted(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a")
	p.run(t, "t", `if first; then exec sleep 3600; fi`, tolerates(nil))
	p.awaitPhase(t, "t", batch.TaskRunning)
	kit.Check(t, a.Restart(t.Context()))
	task := p.awaitPhase(t, "t", batch.TaskSucceeded)
	p.checkRun(t, task, "a", 2, 1)
	p.waitForWorker(t, "a", "well", isWell)
}

func testStopped(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a", "--drain-timeout=1s", "--labels=disk=ssd", "--taints=slow:PreferNoSchedule", "--capacity=cpu=3,example.com/gpu=1")
	p.waitForWorker(t, "a", "as its flags say", func(w *batch.Worker) bool {
		cpu, gpu, tasks := w.Status.Allocatable["cpu"], w.Status.Allocatable["example.com/gpu"], w.Status.Allocatable["tasks"]
		return w.Labels["disk"] == "ssd" && len(w.Spec.Taints) == 1 && w.Spec.Taints[0].Key == "slow" && cpu.Value() == 3 && gpu.Value() == 1 && tasks.Value() == 4
	})
	p.run(t, "stubborn", `trap '' TERM; until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase(t, "stubborn", batch.TaskRunning)
	kit.Check(t, a.Stop())
	task := p.awaitPhase(t, "stubborn", batch.TaskPending)
	if p.checkRun(t, task, "", 1, 1); disrupted(task) != "WorkerStopped" {
		t.Errorf("DisruptionTarget is %q, want WorkerStopped", disrupted(task))
	}
	p.waitForWorker(t, "a", "known to be stopped", func(w *batch.Worker) bool { return readyCondition(w) == "False Stopped" })

	// In time it is lost like any other, and then removed.
	kit.Eventually(t, "a worker that was stopped long ago, and its lease, are removed", func(ctx context.Context) error {
		_, worker := p.api.Workers(p.namespace).Get(ctx, "a", metav1.GetOptions{})
		_, lease := p.api.WorkerLeases(p.namespace).Get(ctx, "a", metav1.GetOptions{})
		return errors.Join(kit.Gone(worker), kit.Gone(lease))
	})
}

func testDeleted(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a")
	for _, name := range []string{"before", "after"} {
		p.run(t, name, `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
		p.awaitPhase(t, name, batch.TaskRunning)
	}
	kit.Check(t, a.Kill())
	kit.Check(t, p.api.Tasks(p.namespace).Delete(t.Context(), "before", metav1.DeleteOptions{}))
	p.waitForTaskGone(t, "before")
	p.waitForWorker(t, "a", "lost", isLost)
	kit.Check(t, p.api.Tasks(p.namespace).Delete(t.Context(), "after", metav1.DeleteOptions{}))
	p.waitForTaskGone(t, "after")
}

func testDeadWorkerDeleted(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	a := p.startWorker(t, "a")
	p.run(t, "bound", `if first; then exec sleep 3600; fi`, tolerates(nil))
	p.run(t, "terminating", `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
	p.awaitPhase(t, "bound", batch.TaskRunning)
	p.awaitPhase(t, "terminating", batch.TaskRunning)
	p.startWorker(t, "b")
	kit.Check(t, a.Kill())
	// As the deletion of a namespace does, of everything at a time.
	kit.Check(t, p.api.Tasks(p.namespace).Delete(t.Context(), "terminating", metav1.DeleteOptions{}))
	kit.Check(t, p.api.Workers(p.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	p.checkRun(t, p.awaitPhase(t, "bound", batch.TaskSucceeded), "b", 2, 1)
	p.waitForTaskGone(t, "terminating")
}

func testLiveWorkerDeleted(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	p.startWorker(t, "a")
	kit.Check(t, p.api.Workers(p.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
	p.waitForWorker(t, "a", "registered again", isWell)
	p.run(t, "t", `exit 0`)
	p.awaitPhase(t, "t", batch.TaskSucceeded)
}

func testTimeToLive(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	p.startWorker(t, "a")
	ttl := func(seconds int32) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.TTLSecondsAfterFinished = &seconds }
	}
	p.run(t, "kept", `exit 0`)
	p.run(t, "at-once", `exit 0`, ttl(0))
	p.run(t, "soon", `exit 1`, ttl(2))
	p.waitForTaskGone(t, "at-once")
	p.waitForTaskGone(t, "soon")
	p.awaitPhase(t, "kept", batch.TaskSucceeded)
}

// testFrozenServer: a time in which no worker can give a sign of life is held against none.
func testFrozenServer(t *testing.T, e *kit.Env) {
	p := newLifecycleSuite(t, e)
	p.startWorker(t, "a")
	p.startWorker(t, "b")
	p.run(t, "t", `until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase(t, "t", batch.TaskRunning)
	kit.Check(t, e.Server.Signal(syscall.SIGSTOP))
	<-time.After(3 * leaseDuration)
	kit.Check(t, e.Server.Signal(syscall.SIGCONT))
	kit.Check(t, e.Server.WaitReady(t.Context()))
	renewed := metav1.NowMicro()
	for _, name := range []string{"a", "b"} {
		kit.Eventually(t, "the lease of "+name+" is renewed", func(ctx context.Context) error {
			lease, err := p.api.WorkerLeases(p.namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil && !lease.Spec.RenewTime.After(renewed.Add(leaseDuration)) {
				err = fmt.Errorf("it was at %s", lease.Spec.RenewTime)
			}
			return err
		})
		p.waitForWorker(t, name, "well", isWell)
	}
	touch(t, p.mark("go"))
	p.checkRun(t, p.awaitPhase(t, "t", batch.TaskSucceeded), p.task(t, "t").Spec.WorkerName, 1, 0)
}
