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

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/processtest"
)

// failing makes the worker fail to start commands with err while that is not nil.
func failing(w *Worker, err *atomic.Pointer[error]) {
	start := w.config.Start
	w.config.Start = func(c process.Command) (*process.Process, *process.StartError) {
		if e := err.Load(); e != nil {
			if c.Cgroup != nil {
				_, _ = c.Cgroup.KillAndRemove()
			}
			return nil, &process.StartError{ExitCode: 126, Err: &fs.PathError{Op: "fork/exec", Path: c.Argv[0], Err: *e}}
		}
		return start(c)
	}
}

func TestATaskThatTheWorkerCannotStartIsEvictedUncounted(t *testing.T) {
	for err, reason := range map[error]string{unix.EMFILE: "TooManyOpenFiles", unix.EAGAIN: "TooManyProcesses", unix.ENOMEM: "OutOfMemory"} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var fails atomic.Pointer[error]
			api := f.server.Client()
			var atEviction atomic.Pointer[batch.Worker]
			api.Hook = func(verb, _, _ string) error {
				if verb == "evict" {
					w, err := f.test.BatchV1alpha1().Workers("default").Get(context.Background(), "w", metav1.GetOptions{})
					atEviction.Store(w)
					return err
				}
				return nil
			}
			w := f.startWorker(api, func(w *Worker) {
				failing(w, &fails)
				w.config.StartBackoff.Duration = 10 * time.Millisecond // 630 ms in total
			}, func(o *Options) { o.HeartbeatInterval, o.BackoffBase = time.Hour, time.Second })
			f.run(w, "before", script(f.sleeper("before", "exit 0")))
			processtest.PIDIn(t, f.file("before"))
			processtest.Eventually(t, "the worker knows that it runs", func() bool { return w.config.Commands.Load() == 1 })
			fails.Store(&err)
			f.run(w, "t", script("echo >>"+f.file("ran")))
			task := f.await("t", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
			c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
			if s := task.Status; s.Phase != batch.TaskPending || s.Attempts != 0 || s.FailedAttempts != 0 || s.WorkerCrashes != 0 || s.StartTime != nil ||
				c == nil || c.Reason != "WorkerResourcePressure" || !strings.Contains(c.Message, "fork/exec sh: "+err.Error()) {
				t.Errorf("got status %+v, condition %+v", s, c)
			}
			// The worker has published the pressure before the eviction.
			worker := atEviction.Load()
			c = meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerResourcePressure)
			tasks, capacity := worker.Status.Allocatable[batch.ResourceTasks], worker.Status.Capacity[batch.ResourceTasks]
			if c == nil || c.Status != metav1.ConditionTrue || c.Reason != reason || tasks.Value() != 1 || capacity.Value() != 8 {
				t.Errorf("when the task was evicted the worker had allocatable %v, condition %+v", worker.Status.Allocatable, c)
			}
			if !meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
				t.Error("the worker is not ready, though it runs a task")
			}
			fails.Store(nil)
			processtest.Eventually(t, "the worker takes as many as before", func() bool {
				worker := f.worker()
				tasks := worker.Status.Allocatable[batch.ResourceTasks]
				return meta.IsStatusConditionFalse(worker.Status.Conditions, batch.WorkerResourcePressure) && tasks.Value() == 8
			})
			f.bind("t", w.incarnation)
			if s := f.awaitFinished("t").Status; s.Phase != batch.TaskSucceeded || s.Attempts != 1 || f.lines("ran") != 1 {
				t.Errorf("got status %+v", s)
			}
		})
	}
}

func TestATaskIsStartedOnceTheWorkerHasTheResource(t *testing.T) {
	f := newFixture(t)
	var fails atomic.Pointer[error]
	err := error(unix.EAGAIN)
	fails.Store(&err)
	tries := 0
	w := f.startWorker(f.server.Client(), func(w *Worker) {
		failing(w, &fails)
		start := w.config.Start
		w.config.Start = func(c process.Command) (*process.Process, *process.StartError) {
			if tries++; tries == 3 {
				fails.Store(nil)
			}
			return start(c)
		}
	})
	f.run(w, "t", script("exit 0"))
	if s := f.awaitFinished("t").Status; s.Phase != batch.TaskSucceeded || s.Attempts != 1 || s.Disruptions != 0 || tries != 3 {
		t.Errorf("after %d tries: status %+v", tries, s)
	}
}

func TestATaskThatWaitsToBeStartedCanBeEnded(t *testing.T) {
	f := newFixture(t)
	var fails atomic.Pointer[error]
	err := error(unix.EMFILE)
	fails.Store(&err)
	api := f.server.Client()
	evicted := make(chan string, 8)
	api.Hook = func(verb, _, name string) error {
		if verb == "evict" {
			evicted <- name
		}
		return nil
	}
	w := f.startWorker(api, func(w *Worker) { failing(w, &fails) })
	f.run(w, "deleted", script("exit 0"))
	f.run(w, "drained", script("exit 0"))
	processtest.Eventually(t, "both wait", func() bool { return w.config.Running.Load() == 2 })
	f.delete("deleted", nil)
	f.awaitGone("deleted")
	f.must(w.stop())
	c := meta.FindStatusCondition(f.get("drained").Status.Conditions, batch.DisruptionTarget)
	if name := <-evicted; name != "drained" || c == nil || c.Reason != "WorkerStopped" {
		t.Errorf("%s was evicted, condition %+v", name, c)
	}
}

func TestAProgramThatIsBeingWrittenIsRetried(t *testing.T) {
	f := newFixture(t)
	w := f.startWorker(f.server.Client(), func(w *Worker) { w.config.StartBackoff.Duration = 10 * time.Millisecond })
	program := f.file("program")
	content, err := os.ReadFile("/bin/sh")
	f.must(err)
	f.must(os.WriteFile(program, content, 0o755))
	busy, err := os.OpenFile(program, os.O_WRONLY|os.O_APPEND, 0)
	f.must(err)
	f.run(w, "for-a-moment", &batch.Task{Spec: batch.TaskSpec{Command: []string{program, "-c", "exit 0"}}})
	processtest.Eventually(t, "it is tried", func() bool { return w.config.Running.Load() == 1 })
	timer := time.NewTimer(200 * time.Millisecond)
	<-timer.C
	f.must(busy.Close())
	if s := f.awaitFinished("for-a-moment").Status; s.Phase != batch.TaskSucceeded || s.Attempts != 1 || s.Disruptions != 0 {
		t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
	}
	busy, err = os.OpenFile(program, os.O_WRONLY|os.O_APPEND, 0)
	f.must(err)
	defer busy.Close()
	f.run(w, "for-long", &batch.Task{Spec: batch.TaskSpec{Command: []string{program, "-c", "exit 0"}}})
	if s := f.awaitFinished("for-long").Status; s.State.Terminated.Reason != "StartError" || s.State.Terminated.ExitCode != 126 || !strings.Contains(s.State.Terminated.Message, "text file busy") {
		t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
	}
	if c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerResourcePressure); c != nil {
		t.Errorf("a program that is busy is taken for a lack: %+v", c)
	}
}

// TestHelperWithFewDescriptors is not a test: it is the worker process of TestAWorkerWithFewDescriptorsFailsNoTask.
func TestHelperWithFewDescriptors(t *testing.T) {
	if os.Getenv("WORKER_TEST_DESCRIPTORS") == "" {
		return
	}
	const tasks = 60
	f := newFixture(t)
	store, err := logs.Open(logs.Options{Dir: f.file("logs"), MaxSize: logs.MinSize, MaxTotalSize: 1 << 20, Retention: time.Hour})
	f.must(err)
	defer store.Close()
	w := f.start(func(o *Options) {
		o.Capacity = batch.ResourceList{batch.ResourceTasks: *resource.NewQuantity(tasks, resource.DecimalSI)}
		o.Logs, o.StateDir = store, f.file("state")
	})
	open, err := os.ReadDir("/proc/self/fd")
	f.must(err)
	limit := uint64(len(open) + tasks)
	f.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}))
	// The test acts as the scheduler: it binds pending tasks up to the allocatable number.
	bind := func() (finished, running int) {
		list, err := f.test.BatchV1alpha1().Tasks("default").List(t.Context(), metav1.ListOptions{})
		f.must(err)
		bound, waiting := int64(0), []string{}
		for i := range list.Items {
			switch task := &list.Items[i]; {
			case task.Status.Phase == batch.TaskSucceeded:
				finished++
			case task.Status.Phase == batch.TaskFailed:
				t.Fatalf("%s has failed: %+v", task.Name, task.Status.State.Terminated)
			case task.Spec.WorkerName == "":
				waiting = append(waiting, task.Name)
			default:
				bound++
				if task.Status.State.Running != nil {
					running++
				}
			}
		}
		allocatable := f.worker().Status.Allocatable[batch.ResourceTasks]
		for _, name := range waiting {
			if bound < allocatable.Value() {
				f.bind(name, w.incarnation)
				bound++
			}
		}
		return finished, running
	}
	for i := range tasks {
		f.create(fmt.Sprint("t", i), script("echo begun; until [ -e "+f.file("go")+" ]; do sleep 0.1; done"))
	}
	processtest.Eventually(t, "some run and the worker reports what it lacks", func() bool {
		_, running := bind()
		c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerResourcePressure)
		return running > 3 && c != nil && c.Status == metav1.ConditionTrue && c.Reason == "TooManyOpenFiles"
	})
	f.must(os.Mkdir(f.file("go"), 0o755)) // needs no descriptor
	processtest.Eventually(t, "all succeed in the end", func() bool { finished, _ := bind(); return finished == tasks })
	for i := range tasks {
		if s := f.get(fmt.Sprint("t", i)).Status; s.Attempts != 1 || s.FailedAttempts != 0 {
			t.Errorf("t%d: %+v", i, s)
		}
	}
}

func TestAWorkerWithFewDescriptorsFailsNoTask(t *testing.T) {
	helper := exec.Command(os.Args[0], "-test.run=^TestHelperWithFewDescriptors$")
	helper.Env = append(os.Environ(), "WORKER_TEST_DESCRIPTORS=1")
	if out, err := helper.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAFullDiskIsReportedAsPressure(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Log("This machine lets no file system be mounted, so no disk is full:", err)
		return
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	f := newFixture(t)
	store, err := logs.Open(logs.Options{Dir: filepath.Join(disk, "logs"), MaxSize: logs.MinSize, MaxTotalSize: 1 << 20, Retention: time.Hour})
	f.must(err)
	defer store.Close()
	w := f.start(func(o *Options) {
		o.Logs, o.StateDir, o.AnnounceDelay, o.ProgressInterval = store, filepath.Join(disk, "state"), 5*time.Millisecond, 20*time.Millisecond
	})
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	f.must(err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	f.must(ballast.Close())
	f.run(w, "prints", script("while :; do echo 0123456789; sleep 0.02; done"))
	processtest.Eventually(t, "the worker reports that there is no space", func() bool {
		c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerResourcePressure)
		return c != nil && c.Status == metav1.ConditionTrue && c.Reason == "NoSpace"
	})
	f.must(os.Remove(ballast.Name()))
	processtest.Eventually(t, "it takes as many tasks as before", func() bool {
		return meta.IsStatusConditionFalse(f.worker().Status.Conditions, batch.WorkerResourcePressure)
	})
	f.delete("prints", ptrTo[int64](0))
}
