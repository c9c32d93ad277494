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

// Package lifecycle tests what becomes of tasks whose workers are killed, frozen, restarted and stopped: real leat-worker
// processes, which reach the server by a certificate of their own.
package lifecycle

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
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/lifecycle"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	leaseDuration  = 3 * time.Second
	silenceTimeout = 4 * time.Second
	removeAfter    = 5 * time.Second
	patience       = 30 * time.Second
)

func TestStandalone(t *testing.T) {
	e := kit.Standalone(t)
	client := kit.Client(t, e.Controller(t))
	keepRunning(t, scheduler.New(client).Run)
	keepRunning(t, lifecycle.New(client, lifecycle.Options{
		LeaseInterval: 500 * time.Millisecond, FullDisruptionTimeout: silenceTimeout, RemoveAfter: removeAfter,
	}).Run)
	t.Run("killed worker", func(t *testing.T) { testKilled(t, e) })
	t.Run("frozen worker", func(t *testing.T) { testFrozen(t, e) })
	t.Run("restarted worker", func(t *testing.T) { testRestarted(t, e) })
	t.Run("stopped worker", func(t *testing.T) { testStopped(t, e) })
	t.Run("tasks deleted after their worker", func(t *testing.T) { testDeleted(t, e) })
	t.Run("worker deleted", func(t *testing.T) { testWorkerDeleted(t, e) })
	t.Run("time to live", func(t *testing.T) { testTimeToLive(t, e) })
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
type place struct {
	*testing.T
	env       *kit.Env
	namespace string
	api       typed.BatchV1alpha1Interface
	dir       string
}

func newPlace(t *testing.T, e *kit.Env) *place {
	return &place{T: t, env: e, namespace: e.Namespace(t), api: kit.Client(t, e.Admin(t)).BatchV1alpha1(), dir: t.TempDir()}
}

// work starts a worker, until the test ends, and waits until it is registered.
func (p *place) work(name string, args ...string) *host.Process {
	p.Helper()
	root, err := host.RepositoryRoot()
	p.must(err)
	kubeconfig := p.env.Kubeconfig(p.T, p.env.Worker(p.T, p.namespace, name), "default")
	before := p.incarnation(name)
	process, err := host.StartProcess(p.Context(), host.Command{
		Name: name,
		Path: filepath.Join(root, "bin", "test", "leat-worker"),
		Args: append([]string{"--kubeconfig=" + kubeconfig, "--tasks=4", "--lease-duration=" + leaseDuration.String(), "-v=2"}, args...),
		Dir:  p.ArtifactDir(),
		Ready: func(context.Context) error {
			if now := p.incarnation(name); now == "" || now == before {
				return errors.New("not registered")
			}
			return nil
		},
	})
	p.must(err)
	p.Cleanup(func() { p.must(errors.Join(process.Err(), process.Kill())) })
	return process
}

func (p *place) incarnation(worker string) string {
	w, err := p.api.Workers(p.namespace).Get(p.Context(), worker, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return w.Status.Incarnation
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) mark(name string) string { return filepath.Join(p.dir, name) }

func (p *place) marked(name string) bool {
	_, err := os.Stat(p.mark(name))
	return err == nil
}

// run creates a task that runs a shell script, in which "first" is a command that succeeds at the first attempt only.
func (p *place) run(name, script string, mutate ...func(*batch.Task)) {
	p.Helper()
	script = "first() { [ \"$TASK_ATTEMPT\" = 1 ]; }\n" + script
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSpec{Command: []string{"sh", "-c", script}, WorkingDir: p.dir},
	}
	for _, m := range mutate {
		m(task)
	}
	_, err := p.api.Tasks(p.namespace).Create(p.Context(), task, metav1.CreateOptions{})
	p.must(err)
}

func (p *place) task(name string) *batch.Task {
	p.Helper()
	task, err := p.api.Tasks(p.namespace).Get(p.Context(), name, metav1.GetOptions{})
	p.must(err)
	return task
}

// await waits until a task is as it should be, and gives it.
func (p *place) await(name, what string, is func(*batch.Task) bool) *batch.Task {
	p.Helper()
	var task *batch.Task
	p.eventually(func() bool { task = p.task(name); return is(task) }, func() string {
		return fmt.Sprintf("task %s is not %s: bound to %q, status %+v", name, what, task.Spec.WorkerName, task.Status)
	})
	return task
}

func (p *place) awaitPhase(name string, phase batch.TaskPhase) *batch.Task {
	p.Helper()
	return p.await(name, string(phase), func(t *batch.Task) bool { return t.Status.Phase == phase })
}

func (p *place) awaitGone(name string) {
	p.Helper()
	p.eventually(func() bool {
		_, err := p.api.Tasks(p.namespace).Get(p.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, func() string { return fmt.Sprintf("task %s is not gone: %+v", name, p.task(name)) })
}

func (p *place) awaitWorker(name, what string, is func(*batch.Worker) bool) {
	p.Helper()
	var worker *batch.Worker
	p.eventually(func() bool {
		var err error
		worker, err = p.api.Workers(p.namespace).Get(p.Context(), name, metav1.GetOptions{})
		return err == nil && is(worker)
	}, func() string { return fmt.Sprintf("worker %s is not %s: %+v", name, what, worker) })
}

func (p *place) eventually(is func() bool, otherwise func() string) {
	p.Helper()
	err := wait.PollUntilContextTimeout(p.Context(), 50*time.Millisecond, patience, true, func(context.Context) (bool, error) { return is(), nil })
	if err != nil {
		p.Fatalf("%v: %s", err, otherwise())
	}
}

// ready is the status and the reason of the worker's Ready condition.
func ready(w *batch.Worker) string {
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

func isLost(w *batch.Worker) bool { return unreachable(w) && ready(w) == "Unknown WorkerStatusUnknown" }

func isWell(w *batch.Worker) bool { return !unreachable(w) && ready(w) == "True WorkerReady" }

func disrupted(task *batch.Task) string {
	c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
	if c == nil {
		return ""
	}
	return c.Reason
}

func (p *place) checkRun(task *batch.Task, worker string, attempts, disruptions int32) {
	p.Helper()
	if task.Spec.WorkerName != worker || task.Status.Attempts != attempts || task.Status.Disruptions != disruptions {
		p.Errorf("task %s is on worker %q with %d attempts and %d disruptions; want worker %q, %d and %d", task.Name,
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
	p := newPlace(t, e)
	a := p.work("a")
	p.run("moves", `if first; then exec sleep 3600; fi`)
	p.run("has-failed-before", `case $TASK_ATTEMPT in 1) exec sleep 3600;; 2) exit 1;; esac`, func(task *batch.Task) { task.Spec.BackoffLimit = new(int32(1)) })
	p.run("tolerates", `exec sleep 3600`, tolerates(nil))
	for _, name := range []string{"moves", "has-failed-before", "tolerates"} {
		p.awaitPhase(name, batch.TaskRunning)
	}
	p.work("b")
	p.must(a.Kill())
	p.awaitWorker("a", "lost", isLost)

	p.checkRun(p.awaitPhase("moves", batch.TaskSucceeded), "b", 2, 1)
	for _, name := range []string{"moves", "has-failed-before"} {
		if n := p.task(name).Status.WorkerCrashes; n != 1 {
			t.Errorf("%s counts %d crashes of its worker, ran on one", name, n)
		}
	}
	// Its first retry is the one that backoffLimit allows: what the lost worker cost was not.
	p.checkRun(p.awaitPhase("has-failed-before", batch.TaskSucceeded), "b", 3, 1)
	p.checkRun(p.task("tolerates"), "a", 1, 0)
	p.awaitWorker("b", "well", isWell)
}

func testFrozen(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	a := p.work("a")
	// What the first attempt comes to while the worker is frozen is old news when it wakes.
	p.run("ended-meanwhile", `if first; then until [ -e frozen ]; do sleep 0.05; done; touch ended; exit 7; fi; until [ -e go ]; do sleep 0.05; done`)
	p.run("runs-still", `if first; then echo $$$$ >pid; exec sleep 3600; fi; until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase("ended-meanwhile", batch.TaskRunning)
	p.awaitPhase("runs-still", batch.TaskRunning)
	stale := p.task("ended-meanwhile")
	p.work("b")

	// On a cordoned worker nothing counts as a crash. Else each of its tasks would get a worker of its own next.
	_, err := p.api.Workers(p.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	p.must(err)
	p.must(a.Signal(syscall.SIGSTOP))
	p.must(os.WriteFile(p.mark("frozen"), nil, 0o600))
	p.eventually(func() bool { return p.marked("ended") }, func() string { return "the command of the frozen worker has not ended" })
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		task := p.await(name, "running on b", func(t *batch.Task) bool {
			return t.Spec.WorkerName == "b" && t.Status.Phase == batch.TaskRunning && t.Status.Attempts == 2
		})
		p.checkRun(task, "b", 2, 1)
	}
	p.awaitWorker("a", "lost", isLost)

	// The controller's rights are wider than the worker's, and no help: what was written by a binding that is over is refused.
	stale.Status.Phase = batch.TaskFailed
	for _, version := range []string{stale.ResourceVersion, p.task("ended-meanwhile").ResourceVersion} {
		stale.ResourceVersion = version
		_, err := kit.Client(t, e.Controller(t)).BatchV1alpha1().Tasks(p.namespace).UpdateStatus(t.Context(), stale, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			t.Errorf("a late write: %v; want a conflict", err)
		}
	}

	p.must(a.Signal(syscall.SIGCONT))
	p.awaitWorker("a", "well again", isWell)
	content, err := os.ReadFile(p.mark("pid"))
	p.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	p.must(err)
	p.eventually(func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, func() string {
		return fmt.Sprintf("process %d of a task that was given away runs on", pid)
	})
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		if task := p.task(name); task.Status.Phase != batch.TaskRunning || task.Status.State.Running == nil {
			t.Errorf("%s: the worker that woke has changed it: %+v", name, task.Status)
		}
	}
	p.must(os.WriteFile(p.mark("go"), nil, 0o600))
	for _, name := range []string{"ended-meanwhile", "runs-still"} {
		p.checkRun(p.awaitPhase(name, batch.TaskSucceeded), "b", 2, 1)
	}
}

func testRestarted(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	a := p.work("a")
	p.run("t", `if first; then exec sleep 3600; fi`, tolerates(nil))
	p.awaitPhase("t", batch.TaskRunning)
	p.must(a.Kill())
	p.work("a")
	task := p.awaitPhase("t", batch.TaskSucceeded)
	p.checkRun(task, "a", 2, 1)
	p.awaitWorker("a", "well", isWell)
}

func testStopped(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	a := p.work("a", "--drain-timeout=1s", "--labels=disk=ssd", "--taints=slow:PreferNoSchedule", "--capacity=cpu=3,example.com/gpu=1")
	p.awaitWorker("a", "as its flags say", func(w *batch.Worker) bool {
		cpu, gpu, tasks := w.Status.Allocatable["cpu"], w.Status.Allocatable["example.com/gpu"], w.Status.Allocatable["tasks"]
		return w.Labels["disk"] == "ssd" && len(w.Spec.Taints) == 1 && w.Spec.Taints[0].Key == "slow" && cpu.Value() == 3 && gpu.Value() == 1 && tasks.Value() == 4
	})
	p.run("stubborn", `trap '' TERM; until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase("stubborn", batch.TaskRunning)
	p.must(a.Stop())
	task := p.awaitPhase("stubborn", batch.TaskPending)
	if p.checkRun(task, "", 1, 1); disrupted(task) != "WorkerStopped" {
		t.Errorf("DisruptionTarget is %q, want WorkerStopped", disrupted(task))
	}
	p.awaitWorker("a", "known to be stopped", func(w *batch.Worker) bool { return ready(w) == "False Stopped" })

	// In time it is lost like any other, and then removed.
	p.eventually(func() bool {
		_, worker := p.api.Workers(p.namespace).Get(t.Context(), "a", metav1.GetOptions{})
		_, lease := p.api.WorkerLeases(p.namespace).Get(t.Context(), "a", metav1.GetOptions{})
		return apierrors.IsNotFound(worker) && apierrors.IsNotFound(lease)
	}, func() string { return "a worker that was stopped long ago, and its lease, are not removed" })
}

func testDeleted(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	a := p.work("a")
	for _, name := range []string{"before", "after"} {
		p.run(name, `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
		p.awaitPhase(name, batch.TaskRunning)
	}
	p.must(a.Kill())
	p.must(p.api.Tasks(p.namespace).Delete(t.Context(), "before", metav1.DeleteOptions{}))
	p.awaitGone("before")
	p.awaitWorker("a", "lost", isLost)
	p.must(p.api.Tasks(p.namespace).Delete(t.Context(), "after", metav1.DeleteOptions{}))
	p.awaitGone("after")
}

func testWorkerDeleted(t *testing.T, e *kit.Env) {
	t.Run("that is dead", func(t *testing.T) {
		p := newPlace(t, e)
		a := p.work("a")
		p.run("bound", `if first; then exec sleep 3600; fi`, tolerates(nil))
		p.run("terminating", `exec sleep 3600`, tolerates(nil), func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = new(int64(1)) })
		p.awaitPhase("bound", batch.TaskRunning)
		p.awaitPhase("terminating", batch.TaskRunning)
		p.work("b")
		p.must(a.Kill())
		// As the deletion of a namespace does, of everything at a time.
		p.must(p.api.Tasks(p.namespace).Delete(t.Context(), "terminating", metav1.DeleteOptions{}))
		p.must(p.api.Workers(p.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
		p.checkRun(p.awaitPhase("bound", batch.TaskSucceeded), "b", 2, 1)
		p.awaitGone("terminating")
	})
	t.Run("that lives", func(t *testing.T) {
		p := newPlace(t, e)
		p.work("a")
		p.must(p.api.Workers(p.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}))
		p.awaitWorker("a", "registered again", isWell)
		p.run("t", `exit 0`)
		p.awaitPhase("t", batch.TaskSucceeded)
	})
}

func testTimeToLive(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	p.work("a")
	ttl := func(seconds int32) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.TTLSecondsAfterFinished = &seconds }
	}
	p.run("kept", `exit 0`)
	p.run("at-once", `exit 0`, ttl(0))
	p.run("soon", `exit 1`, ttl(2))
	p.awaitGone("at-once")
	p.awaitGone("soon")
	p.awaitPhase("kept", batch.TaskSucceeded)
}

// testFrozenServer: a time in which no worker can give a sign of life is held against none.
func testFrozenServer(t *testing.T, e *kit.Env) {
	p := newPlace(t, e)
	p.work("a")
	p.work("b")
	p.run("t", `until [ -e go ]; do sleep 0.05; done`)
	p.awaitPhase("t", batch.TaskRunning)
	p.must(e.Server.Signal(syscall.SIGSTOP))
	<-time.After(3 * leaseDuration)
	p.must(e.Server.Signal(syscall.SIGCONT))
	p.must(e.Server.WaitReady(t.Context()))
	renewed := metav1.NowMicro()
	for _, name := range []string{"a", "b"} {
		p.eventually(func() bool {
			lease, err := p.api.WorkerLeases(p.namespace).Get(t.Context(), name, metav1.GetOptions{})
			return err == nil && lease.Spec.RenewTime.After(renewed.Add(leaseDuration))
		}, func() string { return "the lease of " + name + " is not renewed" })
		p.awaitWorker(name, "well", isWell)
	}
	p.must(os.WriteFile(p.mark("go"), nil, 0o600))
	p.checkRun(p.awaitPhase("t", batch.TaskSucceeded), p.task("t").Spec.WorkerName, 1, 0)
}
