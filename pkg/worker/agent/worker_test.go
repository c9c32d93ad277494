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
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
	"github.com/leat-dev/leat/pkg/worker/taskrunner"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// testHost is the host of the test process.
var testHost = sandbox.NewHost()

// fixture is a server and a client for the test itself, which acts as everything but the worker.
type fixture struct {
	*testing.T
	server *testapi.Server
	test   *testapi.Client
	dir    string
}

func newFixture(t *testing.T) *fixture {
	server := testapi.New()
	return &fixture{T: t, server: server, test: server.Client(), dir: t.TempDir()}
}

// runningWorker is a worker whose Run was called.
type runningWorker struct {
	*Worker
	api  *testapi.Client
	stop func() error // cancels Run and returns its error
	done chan struct{}
}

func testOptions() Options {
	return Options{
		Namespace: "default", Name: "w", Version: "v1", Labels: map[string]string{"zone": "x"},
		Capacity:    batch.ResourceList{batch.ResourceTasks: resource.MustParse("8")},
		BackoffBase: 100 * time.Millisecond, BackoffCap: 400 * time.Millisecond,
		HeartbeatInterval: 50 * time.Millisecond, DrainTimeout: time.Second,
	}
}

// start starts a worker, which runs until the test ends or stop is called.
func (f *fixture) start(mutate ...func(*Options)) *runningWorker {
	f.Helper()
	return f.startWith(f.server.Client(), mutate...)
}

// startWithHeldWrite starts a worker. Its first status update closes inWrite, and continues when the test closes goOn.
func (f *fixture) startWithHeldWrite() (w *runningWorker, inWrite <-chan struct{}, goOn chan<- struct{}) {
	f.Helper()
	api := f.server.Client()
	begun, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	api.Hook = func(verb, _, _ string) error {
		if verb == "updateStatus" {
			once.Do(func() { close(begun); <-released })
		}
		return nil
	}
	return f.startWith(api), begun, released
}

func (f *fixture) startWith(api *testapi.Client, mutate ...func(*Options)) *runningWorker {
	f.Helper()
	return f.startWorker(api, func(*Worker) {}, mutate...)
}

// startWorker starts a worker after change was called with it.
func (f *fixture) startWorker(api *testapi.Client, change func(*Worker), mutate ...func(*Options)) *runningWorker {
	f.Helper()
	options := testOptions()
	for _, m := range mutate {
		m(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningWorker{Worker: New(api, testHost, options), api: api, done: make(chan struct{})}
	change(r.Worker)
	var err error
	go func() { defer close(r.done); err = r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		<-r.done
		return err
	})
	f.Cleanup(func() { _ = r.stop() })
	processtest.Eventually(f.T, "the worker is ready", func() bool {
		w, err := f.test.BatchV1alpha1().Workers("default").Get(f.Context(), "w", metav1.GetOptions{})
		return err == nil && w.Status.Incarnation == r.incarnation
	})
	return r
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// script returns a task that runs a shell script. It escapes $$ so that the shell gets it.
func script(text string, mutate ...func(*batch.Task)) *batch.Task {
	text = strings.ReplaceAll(text, "$$", "$$$$")
	task := &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c", text}}}
	for _, m := range mutate {
		m(task)
	}
	return task
}

// isFinished reports whether the task has succeeded or failed.
func isFinished(task *batch.Task) bool {
	return task.Status.Phase.Finished()
}

func ptrTo[T any](v T) *T { return &v }

func grace(seconds int64) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.TerminationGracePeriodSeconds = &seconds }
}

func deadline(seconds int64) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.ActiveDeadlineSeconds = &seconds }
}

func backoffLimit(n int32) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.BackoffLimit = &n }
}

func (f *fixture) create(name string, task *batch.Task) {
	f.Helper()
	task.Namespace, task.Name = "default", name
	_, err := f.test.BatchV1alpha1().Tasks("default").Create(f.Context(), task, metav1.CreateOptions{})
	f.must(err)
}

func (f *fixture) bind(name, incarnation string) {
	f.Helper()
	_, err := f.test.BatchV1alpha1().Tasks("default").Bind(f.Context(), name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: "w", Incarnation: incarnation},
	}, metav1.CreateOptions{})
	f.must(err)
}

// run creates a task and binds it to the worker.
func (f *fixture) run(w *runningWorker, name string, task *batch.Task) {
	f.Helper()
	f.create(name, task)
	f.bind(name, w.incarnation)
}

func (f *fixture) get(name string) *batch.Task {
	f.Helper()
	task, err := f.test.BatchV1alpha1().Tasks("default").Get(f.Context(), name, metav1.GetOptions{})
	f.must(err)
	return task
}

func (f *fixture) await(name, what string, cond func(*batch.Task) bool) *batch.Task {
	f.Helper()
	var task *batch.Task
	processtest.Eventually(f.T, name+" "+what, func() bool {
		task = f.get(name)
		return cond(task)
	})
	return task
}

func (f *fixture) awaitFinished(name string) *batch.Task {
	f.Helper()
	return f.await(name, "is finished", isFinished)
}

func (f *fixture) awaitGone(name string) {
	f.Helper()
	processtest.Eventually(f.T, name+" is deleted", func() bool {
		_, err := f.test.BatchV1alpha1().Tasks("default").Get(f.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func (f *fixture) delete(name string, graceSeconds *int64) {
	f.Helper()
	f.must(f.test.BatchV1alpha1().Tasks("default").Delete(f.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: graceSeconds}))
}

func (f *fixture) evict(name string) {
	f.Helper()
	_, err := f.test.BatchV1alpha1().Tasks("default").Evict(f.Context(), name, &batch.Eviction{Reason: "Test"}, metav1.CreateOptions{})
	f.must(err)
}

func (f *fixture) worker() *batch.Worker {
	f.Helper()
	w, err := f.test.BatchV1alpha1().Workers("default").Get(f.Context(), "w", metav1.GetOptions{})
	f.must(err)
	return w
}

func (f *fixture) file(name string) string { return filepath.Join(f.dir, name) }

// lines returns how many lines a file has, zero if it does not exist.
func (f *fixture) lines(name string) int {
	data, _ := os.ReadFile(f.file(name))
	return strings.Count(string(data), "\n")
}

// sleeper returns a script that appends its process ID to a file and then sleeps. On SIGTERM it runs onTerm.
func (f *fixture) sleeper(file, onTerm string) string {
	return fmt.Sprintf("trap '%s' TERM; echo $$ >>%s; while :; do sleep 0.02; done", onTerm, f.file(file))
}

func TestReportsHowATaskEnded(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	for i, tc := range []struct {
		name    string
		task    *batch.Task
		phase   batch.TaskPhase
		want    batch.TaskStateTerminated
		message func(string) bool // if nil, the message must equal that of want
	}{
		{
			name: "success", task: script("echo not shown"),
			phase: batch.TaskSucceeded, want: batch.TaskStateTerminated{Reason: "Completed"},
		},
		{
			name: "failure", task: script("echo out; echo err >&2; exit 3"),
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 3, Reason: "Error", Message: "out\nerr\n"},
		},
		{
			name: "signal", task: script("kill -SEGV $$"),
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 139, Signal: 11, Reason: "Error"},
		},
		{
			name: "not found", task: &batch.Task{Spec: batch.TaskSpec{Command: []string{"no-such-program"}}},
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 127, Reason: "StartError"},
			message: func(m string) bool { return strings.Contains(m, "no-such-program") },
		},
		{
			name: "the name of the program is endless", task: &batch.Task{Spec: batch.TaskSpec{Command: []string{"/" + strings.Repeat("x", 100_000)}}},
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 126, Reason: "StartError"},
			message: func(m string) bool { return len(m) == process.TailSize && strings.HasSuffix(m, "file name too long") },
		},
		{
			name: "much output", task: script("yes 0123456789abcde | head -c 10000000; exit 1"),
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 1, Reason: "Error", Message: strings.Repeat("0123456789abcde\n", process.TailSize/16)},
		},
		{
			name: "output that is no text", task: script("printf 'a\\377\\000b'; exit 1"),
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 1, Reason: "Error", Message: "a\uFFFD\x00b"},
		},
		{
			name: "environment and references",
			task: &batch.Task{Spec: batch.TaskSpec{
				Command: []string{"sh", "-c"}, Args: []string{"echo $(GREETING) $GREETING $TASK_NAME $TASK_NAMESPACE $TASK_ATTEMPT; pwd; exit 1"},
				Env: []batch.EnvVar{{Name: "GREETING", Value: "hello-$(TASK_NAME)"}}, WorkingDir: "/",
			}},
			phase: batch.TaskFailed, want: batch.TaskStateTerminated{ExitCode: 1, Reason: "Error", Message: "hello-t7 hello-t7 t7 default 1\n/\n"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fixture{T: t, server: f.server, test: f.test}
			name := fmt.Sprint("t", i)
			f.run(w, name, tc.task)
			task := f.awaitFinished(name)
			s := task.Status
			if s.Phase != tc.phase || s.Attempts != 1 || s.StartTime == nil || s.CompletionTime == nil || s.Incarnation != w.incarnation {
				t.Errorf("got status %+v", s)
			}
			if s.State.Running != nil || s.State.Waiting != nil || s.State.Terminated == nil {
				t.Fatalf("got state %+v", s.State)
			}
			got := *s.State.Terminated
			if got.StartedAt.IsZero() || got.FinishedAt.IsZero() {
				t.Errorf("got times %v, %v", got.StartedAt, got.FinishedAt)
			}
			got.StartedAt, got.FinishedAt = metav1.Time{}, metav1.Time{}
			if tc.message != nil {
				if !tc.message(got.Message) {
					t.Errorf("got message %.200q", got.Message)
				}
				got.Message = ""
			}
			if got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if !meta.IsStatusConditionTrue(s.Conditions, batch.TaskScheduled) {
				t.Error("the conditions are lost")
			}
		})
	}
}

func TestAShortTaskCostsOneWriteAndALongOneTwo(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.HeartbeatInterval, o.AnnounceDelay = time.Hour, 2*time.Second })
	f.run(w, "short", script("exit 0"))
	f.awaitFinished("short")
	if n := w.api.Count("update", "tasks/status"); n != 1 {
		t.Errorf("%d status writes for a short task, want 1", n)
	}
	f.run(w, "long", script("while [ ! -e "+f.file("go")+" ]; do sleep 0.01; done"))
	task := f.await("long", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
	if s := task.Status; s.State.Running == nil || s.State.Running.StartedAt.IsZero() || s.Attempts != 1 || s.StartTime == nil || s.CompletionTime != nil {
		t.Errorf("got status %+v", s)
	}
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	f.awaitFinished("long")
	if n := w.api.Count("update", "tasks/status"); n != 3 {
		t.Errorf("%d status writes in all, want 3", n)
	}
	if n := w.api.Count("get", "tasks"); n != 0 {
		t.Errorf("%d tasks were read, none had to be", n)
	}
}

func TestAFailingCommandIsRunAgainUpToItsLimit(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	started := time.Now()
	f.run(w, "t", script("echo $TASK_ATTEMPT; exit 4", backoffLimit(2)))
	task := f.await("t", "waits for its second attempt", func(t *batch.Task) bool { return t.Status.State.Waiting != nil })
	if s := task.Status; s.Phase != batch.TaskRunning || s.State.Waiting.Reason != "BackOff" || s.Attempts != 1 ||
		s.State.Waiting.Message != "Attempt 1 failed with exit code 4; the next one starts 100ms later." {
		t.Errorf("got status %+v, waiting %+v", s, s.State.Waiting)
	}
	task = f.awaitFinished("t")
	if s := task.Status; s.Phase != batch.TaskFailed || s.Attempts != 3 || s.State.Terminated.Message != "3\n" {
		t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
	}
	if d := time.Since(started); d < 300*time.Millisecond {
		t.Errorf("three attempts took %s, the delays alone are 100 ms and 200 ms", d)
	}
}

func TestDelaysDoubleUpToTheCapAndAreResetByALongRun(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.BackoffBase, o.BackoffCap = 200*time.Millisecond, 500*time.Millisecond })
	f.run(w, "t", script("[ $TASK_ATTEMPT != 5 ] || sleep 1.5; exit 1", backoffLimit(5)))
	f.awaitFinished("t")
	var delays []string
	for _, a := range w.api.Actions() {
		if update, ok := a.(clienttesting.UpdateAction); ok && a.Matches("update", "tasks/status") {
			if waiting := update.GetObject().(*batch.Task).Status.State.Waiting; waiting != nil {
				delays = append(delays, strings.Fields(waiting.Message)[11])
			}
		}
	}
	if want := []string{"200ms", "400ms", "500ms", "500ms", "200ms"}; !slices.Equal(delays, want) {
		t.Errorf("got delays %q, want %q", delays, want)
	}
}

func TestACommandThatSucceedsInTheEnd(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script("[ $TASK_ATTEMPT = 2 ]", backoffLimit(5)))
	if s := f.awaitFinished("t").Status; s.Phase != batch.TaskSucceeded || s.Attempts != 2 {
		t.Errorf("got status %+v", s)
	}
}

func TestAttemptsThatDisruptionsEndedAreNoFailures(t *testing.T) {
	f := newFixture(t)
	f.create("t", script("exit 1", backoffLimit(2)))
	// Of three attempts the first fails, and an eviction ends each of the others. The worker starts after them: it would
	// evict a task of an earlier incarnation itself.
	for attempts := int32(2); attempts <= 3; attempts++ {
		f.bind("t", "earlier")
		task := f.get("t")
		task.Status.Phase, task.Status.Attempts, task.Status.FailedAttempts = batch.TaskRunning, attempts, 1
		_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
		f.must(err)
		f.evict("t")
	}
	w := f.start()
	f.bind("t", w.incarnation)
	if s := f.awaitFinished("t").Status; s.Attempts != 5 || s.FailedAttempts != 3 {
		t.Errorf("%d attempts, %d of them failed; want 5 and 3: after one failure two more are the limit", s.Attempts, s.FailedAttempts)
	}
}

func TestAnEvictionDuringTheBackOffKeepsTheFailures(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.BackoffBase = time.Hour })
	f.run(w, "t", script("echo >>"+f.file("starts")+"; exit 1", backoffLimit(2)))
	for failed := int32(1); failed <= 2; failed++ {
		task := f.await("t", "waits for its next attempt", func(t *batch.Task) bool {
			return t.Spec.WorkerName != "" && t.Status.State.Waiting != nil && t.Status.FailedAttempts == failed
		})
		if task.Status.Attempts != failed || task.Status.Disruptions != failed-1 {
			t.Errorf("got status %+v", task.Status)
		}
		f.evict("t")
		f.bind("t", w.incarnation)
	}
	if s := f.awaitFinished("t").Status; s.Phase != batch.TaskFailed || s.Attempts != 3 || s.FailedAttempts != 3 || f.lines("starts") != 3 {
		t.Errorf("%d starts, status %+v; want that the third failure is the last", f.lines("starts"), s)
	}
}

func TestDeadline(t *testing.T) {
	t.Run("ends the command", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "echo ending; exit 0"), deadline(1)))
		started := time.Now()
		s := f.awaitFinished("t").Status
		if s.Phase != batch.TaskFailed || s.State.Terminated.Reason != "DeadlineExceeded" || s.State.Terminated.ExitCode != 0 || !strings.HasSuffix(s.State.Terminated.Message, "ending\n") {
			t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
		}
		if d := time.Since(started); d < 900*time.Millisecond {
			t.Errorf("ended after %s", d)
		}
	})
	t.Run("kills what ignores SIGTERM", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", ""), deadline(1), grace(1), backoffLimit(3)))
		s := f.awaitFinished("t").Status
		if s.State.Terminated.Reason != "DeadlineExceeded" || s.State.Terminated.Signal != 9 || s.Attempts != 1 {
			t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
		}
	})
	t.Run("counts over all attempts", func(t *testing.T) {
		f := newFixture(t)
		w := f.start(func(o *Options) { o.BackoffBase = time.Hour })
		f.run(w, "t", script("exit 5", deadline(1), backoffLimit(3)))
		s := f.awaitFinished("t").Status
		if s.State.Terminated.Reason != "DeadlineExceeded" || s.State.Terminated.ExitCode != 5 || s.Attempts != 1 {
			t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
		}
	})
	t.Run("counts from the first start, on whatever worker", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.create("t", script("touch "+f.file("ran"), deadline(10)))
		task := f.get("t")
		task.Status.StartTime = ptrTo(metav1.NewTime(time.Now().Add(-11 * time.Second)))
		_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
		f.must(err)
		f.bind("t", w.incarnation)
		s := f.awaitFinished("t").Status
		if s.Phase != batch.TaskFailed || s.State.Terminated.Reason != "DeadlineExceeded" || s.State.Terminated.ExitCode != 124 {
			t.Errorf("got status %+v, terminated %+v", s, s.State.Terminated)
		}
		if _, err := os.Stat(f.file("ran")); err == nil {
			t.Error("the command was started")
		}
	})
	t.Run("can be set later", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "exit 1")))
		processtest.PIDIn(t, f.file("pid"))
		processtest.Eventually(t, "the deadline is set", func() bool {
			task := f.get("t")
			deadline(1)(task)
			_, err := f.test.BatchV1alpha1().Tasks("default").Update(f.Context(), task, metav1.UpdateOptions{})
			return err == nil
		})
		if s := f.awaitFinished("t").Status; s.State.Terminated.Reason != "DeadlineExceeded" {
			t.Errorf("got %+v", s.State.Terminated)
		}
	})
}

func TestDeletion(t *testing.T) {
	t.Run("lets the command end, reports, and deletes", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "sleep 0.2; exit 9"), backoffLimit(5)))
		processtest.PIDIn(t, f.file("pid"))
		watch, err := f.test.BatchV1alpha1().Tasks("default").Watch(f.Context(), metav1.ListOptions{ResourceVersion: "1"})
		f.must(err)
		defer watch.Stop()
		f.delete("t", nil)
		var last *batch.Task
		for event := range watch.ResultChan() {
			last = event.Object.(*batch.Task)
			if event.Type == "DELETED" {
				break
			}
		}
		s := last.Status
		if s.Phase != batch.TaskFailed || s.State.Terminated == nil || s.State.Terminated.ExitCode != 9 || s.Attempts != 1 {
			t.Errorf("got status %+v", s)
		}
	})
	t.Run("kills after the grace period", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "")))
		pid := processtest.PIDIn(t, f.file("pid"))
		f.delete("t", ptrTo[int64](1))
		f.awaitGone("t")
		if processtest.Alive(pid) {
			t.Error("the command was still alive when the task was gone")
		}
	})
	t.Run("the grace period can be shortened", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "")))
		processtest.PIDIn(t, f.file("pid"))
		f.delete("t", ptrTo[int64](3600))
		f.await("t", "is being deleted", func(t *batch.Task) bool { return t.DeletionTimestamp != nil })
		f.delete("t", ptrTo[int64](1))
		f.awaitGone("t")
	})
	t.Run("without grace the group is killed at once", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script("sleep 1000 & echo $! >"+f.file("child")+"; "+f.sleeper("pid", "")))
		pid, child := processtest.PIDIn(t, f.file("pid")), processtest.PIDIn(t, f.file("child"))
		f.delete("t", ptrTo[int64](0))
		processtest.Eventually(t, "all is killed", func() bool { return !processtest.Alive(pid) && !processtest.Alive(child) })
	})
	t.Run("in back-off", func(t *testing.T) {
		f := newFixture(t)
		w := f.start(func(o *Options) { o.BackoffBase = time.Hour })
		f.run(w, "t", script("exit 1", backoffLimit(5)))
		f.await("t", "waits", func(t *batch.Task) bool { return t.Status.State.Waiting != nil })
		f.delete("t", nil)
		f.awaitGone("t")
	})
	t.Run("before the command was started", func(t *testing.T) {
		f := newFixture(t)
		f.create("t", script("touch "+f.file("ran")))
		f.bind("t", "earlier")
		f.delete("t", nil)
		w := f.start()
		f.awaitGone("t")
		if _, err := os.Stat(f.file("ran")); err == nil {
			t.Error("the command was started")
		}
		if n := w.api.Count("create", "tasks/eviction"); n != 0 {
			t.Error("the task was evicted")
		}
	})
	t.Run("while its last write is on the way", func(t *testing.T) {
		f := newFixture(t)
		w, inWrite, goOn := f.startWithHeldWrite()
		f.run(w, "t", script("exit 0"))
		<-inWrite
		f.delete("t", nil)
		close(goOn)
		f.awaitGone("t")
	})
}

func TestAnEvictedTaskIsKilledAndNotWrittenTo(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "")))
		pid := processtest.PIDIn(t, f.file("pid"))
		f.await("t", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
		f.evict("t")
		version := f.get("t").ResourceVersion
		processtest.Eventually(t, "the command is killed", func() bool { return !processtest.Alive(pid) })
		processtest.Eventually(t, "the runner ends", func() bool { return w.config.Running.Load() == 0 })
		if got := f.get("t").ResourceVersion; got != version {
			t.Error("the task was written to")
		}
	})
	t.Run("when its write is refused", func(t *testing.T) {
		f := newFixture(t)
		w, inWrite, goOn := f.startWithHeldWrite()
		f.run(w, "t", script("exit 0"))
		<-inWrite
		f.evict("t")
		version := f.get("t").ResourceVersion
		close(goOn)
		processtest.Eventually(t, "the runner ends", func() bool { return w.config.Running.Load() == 0 })
		if got := f.get("t"); got.ResourceVersion != version || got.Status.Phase != batch.TaskPending {
			t.Errorf("the task was written to: %+v", got.Status)
		}
	})
	t.Run("and bound again to the same worker runs once more", func(t *testing.T) {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.sleeper("pid", "exit 0")))
		first := processtest.PIDIn(t, f.file("pid"))
		f.evict("t")
		f.bind("t", w.incarnation)
		processtest.Eventually(t, "the command is started again", func() bool { return f.lines("pid") == 2 })
		if processtest.Alive(first) {
			t.Error("the first command still runs")
		}
		task := f.await("t", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
		if task.Status.Disruptions != 1 {
			t.Errorf("got status %+v", task.Status)
		}
	})
}

func TestOtherWritesToATaskDoNotDisturbItsRun(t *testing.T) {
	f := newFixture(t)
	w, inWrite, goOn := f.startWithHeldWrite()
	f.run(w, "t", script("echo >>"+f.file("runs")))
	<-inWrite
	task := f.get("t")
	task.Labels = map[string]string{"some": "label"}
	_, err := f.test.BatchV1alpha1().Tasks("default").Update(f.Context(), task, metav1.UpdateOptions{})
	f.must(err)
	close(goOn)
	if task := f.awaitFinished("t"); task.Status.Phase != batch.TaskSucceeded || task.Labels["some"] != "label" || f.lines("runs") != 1 {
		t.Errorf("got phase %s, labels %v, %d runs", task.Status.Phase, task.Labels, f.lines("runs"))
	}
}

func TestAServerThatIsAwayLosesNoResult(t *testing.T) {
	f := newFixture(t)
	api := f.server.Client()
	var failures atomic.Int32
	api.Hook = func(verb, _, name string) error {
		if verb == "updateStatus" && failures.Add(1) <= 3 {
			return errors.New("connection refused")
		}
		return nil
	}
	w := f.startWith(api)
	f.run(w, "t", script("echo >>"+f.file("runs")+"; exit 6"))
	if s := f.awaitFinished("t").Status; s.State.Terminated.ExitCode != 6 || f.lines("runs") != 1 {
		t.Errorf("got status %+v, %d runs", s, f.lines("runs"))
	}
}

func TestAHangingWriteDoesNotKeepACommandAlive(t *testing.T) {
	f := newFixture(t)
	api := f.server.Client()
	goOn := make(chan struct{})
	t.Cleanup(func() { close(goOn) })
	hung := make(chan struct{})
	var once sync.Once
	api.Hook = func(verb, _, _ string) error {
		if verb == "updateStatus" {
			once.Do(func() { close(hung) })
			<-goOn
		}
		return nil
	}
	w := f.startWith(api)
	f.run(w, "t", script(f.sleeper("pid", "")))
	pid := processtest.PIDIn(t, f.file("pid"))
	<-hung
	f.delete("t", ptrTo[int64](0))
	processtest.Eventually(t, "the command is killed", func() bool { return !processtest.Alive(pid) })
}

func TestTasksOfAnEarlierProcessAreEvicted(t *testing.T) {
	f := newFixture(t)
	f.create("lost", script("touch "+f.file("ran")))
	f.bind("lost", "earlier")
	f.create("finished", script("true"))
	f.bind("finished", "earlier")
	task := f.get("finished")
	task.Status.Phase = batch.TaskSucceeded
	_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
	f.must(err)
	w := f.start()
	task = f.await("lost", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
	c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
	if c == nil || c.Reason != "WorkerRestarted" || task.Status.Disruptions != 1 || task.Status.Attempts != 0 {
		t.Errorf("got status %+v", task.Status)
	}
	f.run(w, "new", script("true"))
	f.awaitFinished("new")
	if _, err := os.Stat(f.file("ran")); err == nil {
		t.Error("the earlier task was run")
	}
	if f.get("finished").Spec.WorkerName != "w" {
		t.Error("the finished task was touched")
	}
	if n := w.api.Count("update", "tasks/status"); n != 1 {
		t.Errorf("%d status writes, want that of the new task only", n)
	}
}

func TestRegistration(t *testing.T) {
	f := newFixture(t)
	first := f.start()
	w := f.worker()
	info := w.Status.WorkerInfo
	if info.Version != "v1" || info.OS != runtime.GOOS || info.Arch != runtime.GOARCH || info.Hostname == "" || len(info.BootID) != 36 {
		t.Errorf("got worker info %+v", info)
	}
	if tasks := w.Status.Allocatable[batch.ResourceTasks]; tasks.Value() != 8 || w.Labels["zone"] != "x" {
		t.Errorf("got allocatable %v, labels %v", w.Status.Allocatable, w.Labels)
	}
	if !meta.IsStatusConditionTrue(w.Status.Conditions, batch.WorkerReady) {
		t.Errorf("got conditions %+v", w.Status.Conditions)
	}
	lease := func() *batch.WorkerLease {
		t.Helper()
		l, err := f.test.BatchV1alpha1().WorkerLeases("default").Get(f.Context(), "w", metav1.GetOptions{})
		f.must(err)
		return l
	}
	l := lease()
	if l.Spec.HolderIdentity != first.incarnation || *l.Spec.LeaseDurationSeconds != 40 {
		t.Errorf("got lease %+v", l.Spec)
	}
	processtest.Eventually(t, "the lease is renewed", func() bool { return lease().Spec.RenewTime.After(l.Spec.RenewTime.Time) })
	if n := first.api.Count("update", "workers/status"); n != 1 {
		t.Errorf("%d writes of the worker's status though nothing has changed, want 1", n)
	}

	f.must(first.stop())
	c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerReady)
	if c.Status != metav1.ConditionFalse || c.Reason != "Stopped" {
		t.Errorf("after it has stopped: %+v", c)
	}

	w = f.worker()
	w.Labels["set-by"] = "others"
	w.Spec.Unschedulable = true
	_, err := f.test.BatchV1alpha1().Workers("default").Update(f.Context(), w, metav1.UpdateOptions{})
	f.must(err)
	second := f.start(func(o *Options) { o.Labels = map[string]string{"zone": "y"} })
	processtest.Eventually(t, "it is ready again", func() bool {
		return meta.IsStatusConditionTrue(f.worker().Status.Conditions, batch.WorkerReady) && f.worker().Labels["zone"] == "y"
	})
	w = f.worker()
	if w.Labels["set-by"] != "others" || !w.Spec.Unschedulable {
		t.Errorf("what others had set is lost: labels %v, spec %+v", w.Labels, w.Spec)
	}
	if w.Status.Incarnation != second.incarnation || second.incarnation == first.incarnation {
		t.Errorf("got incarnation %q after %q", w.Status.Incarnation, first.incarnation)
	}
	if lease().Spec.HolderIdentity != second.incarnation {
		t.Error("the lease was not taken over")
	}
}

func TestTheNumberOfRunningTasksIsPublishedWithTheHeartbeat(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "a", script(f.sleeper("a", "exit 0")))
	f.run(w, "b", script(f.sleeper("b", "exit 0")))
	processtest.Eventually(t, "two are published", func() bool { return f.worker().Status.RunningTasks == 2 })
	f.delete("a", nil)
	f.delete("b", nil)
	processtest.Eventually(t, "none is published", func() bool { return f.worker().Status.RunningTasks == 0 })
}

func TestAWorkerThatWasDeletedRegistersAgain(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(f.sleeper("pid", "exit 0")))
	pid := processtest.PIDIn(t, f.file("pid"))
	f.must(f.test.BatchV1alpha1().Workers("default").Delete(f.Context(), "w", metav1.DeleteOptions{}))
	f.must(f.test.BatchV1alpha1().WorkerLeases("default").Delete(f.Context(), "w", metav1.DeleteOptions{}))
	processtest.Eventually(t, "it is registered again", func() bool {
		got, err := f.test.BatchV1alpha1().Workers("default").Get(f.Context(), "w", metav1.GetOptions{})
		return err == nil && got.Status.Incarnation == w.incarnation && meta.IsStatusConditionTrue(got.Status.Conditions, batch.WorkerReady)
	})
	if !processtest.Alive(pid) {
		t.Error("its task was ended")
	}
}

func TestAWorkerMarkedUnknownBecomesReadyAgain(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	// The lease was missing, and the Worker had not changed when the worker read it.
	f.must(f.test.BatchV1alpha1().WorkerLeases("default").Delete(f.Context(), "w", metav1.DeleteOptions{}))
	processtest.Eventually(t, "it has looked", func() bool { return w.api.Count("get", "workers") > 0 })
	processtest.Eventually(t, "it is marked as unknown after that", func() bool {
		got := f.worker()
		got.Status.Conditions[0].Status = metav1.ConditionUnknown
		_, err := f.test.BatchV1alpha1().Workers("default").UpdateStatus(f.Context(), got, metav1.UpdateOptions{})
		return err == nil
	})
	processtest.Eventually(t, "it is ready", func() bool { return meta.IsStatusConditionTrue(f.worker().Status.Conditions, batch.WorkerReady) })
	f.must(w.stop())
}

func TestASecondProcessOfTheSameNameSupersedesTheFirst(t *testing.T) {
	f := newFixture(t)
	first := f.start()
	f.run(first, "t", script(f.sleeper("pid", "")))
	pid := processtest.PIDIn(t, f.file("pid"))
	second := f.start()
	<-first.done
	if err := first.stop(); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the first returned %v", err)
	}
	if processtest.Alive(pid) {
		t.Error("the first still runs its task")
	}
	f.await("t", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
	f.bind("t", second.incarnation)
	processtest.Eventually(t, "the task is run again", func() bool { return f.lines("pid") == 2 })
	if c := f.worker().Status; c.Incarnation != second.incarnation || !meta.IsStatusConditionTrue(c.Conditions, batch.WorkerReady) {
		t.Errorf("the first has written to the worker of the second: %+v", c)
	}
}

func TestAWorkerEvictsNoTasksOfItsSuccessor(t *testing.T) {
	f := newFixture(t)
	first := f.start(func(o *Options) { o.HeartbeatInterval = time.Hour })
	second := f.start()
	f.run(second, "t", script(f.sleeper("pid", "exit 0")))
	<-first.done
	if err := first.stop(); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the first returned %v", err)
	}
	pid := processtest.PIDIn(t, f.file("pid"))
	if got := f.get("t"); got.Status.Disruptions != 0 || !processtest.Alive(pid) {
		t.Errorf("the task was disturbed: %+v", got.Status)
	}
}

func TestAWorkerThatStops(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.BackoffBase = time.Hour })
	for name, task := range map[string]*batch.Task{
		"ends-well":  script(f.sleeper("1", "exit 0")),
		"ends-badly": script(f.sleeper("2", "exit 3"), backoffLimit(5)),
		"ignores-it": script(f.sleeper("3", ""), grace(3600)),
		"waits":      script("exit 1", backoffLimit(5)),
		"is-deleted": script(f.sleeper("4", "exit 3")),
	} {
		f.run(w, name, task)
	}
	var pids []int
	for _, file := range []string{"1", "2", "3", "4"} {
		pids = append(pids, processtest.PIDIn(t, f.file(file)))
	}
	f.await("waits", "waits", func(t *batch.Task) bool { return t.Status.State.Waiting != nil })
	f.await("ends-badly", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
	f.delete("is-deleted", ptrTo[int64](3600))

	started := time.Now()
	f.must(w.stop())
	if d := time.Since(started); d < time.Second || d > 4*time.Second {
		t.Errorf("took %s with a drain timeout of 1 s", d)
	}
	for _, pid := range pids {
		if processtest.Alive(pid) {
			t.Errorf("process %d is still alive", pid)
		}
	}
	if s := f.get("ends-well").Status; s.Phase != batch.TaskSucceeded {
		t.Errorf("ends-well: %+v", s)
	}
	for _, name := range []string{"ends-badly", "ignores-it", "waits"} {
		task := f.get(name)
		c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
		if task.Spec.WorkerName != "" || task.Status.Phase != batch.TaskPending || c == nil || c.Reason != "WorkerStopped" {
			t.Errorf("%s: worker %q, status %+v", name, task.Spec.WorkerName, task.Status)
		}
	}
	f.awaitGone("is-deleted")
	c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerReady)
	if c.Status != metav1.ConditionFalse || c.Reason != "Stopped" {
		t.Errorf("got condition %+v", c)
	}
}

func TestAWorkerThatStopsTakesNoTasks(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "old", script(f.sleeper("pid", "echo >"+f.file("terminated")), grace(3600)))
	processtest.PIDIn(t, f.file("pid"))
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	processtest.Eventually(t, "it reports that it drains", func() bool {
		c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerReady)
		return c.Status == metav1.ConditionFalse && c.Reason == "Draining"
	})
	f.run(w, "new", script("touch "+f.file("ran")))
	f.await("new", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
	f.must(<-stopped)
	if _, err := os.Stat(f.file("ran")); err == nil {
		t.Error("the new task was run")
	}
}

func TestAWorkerStopsInTimeWithoutAServer(t *testing.T) {
	f := newFixture(t)
	api := f.server.Client()
	var away atomic.Bool
	api.Hook = func(string, string, string) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	w := f.startWith(api, func(o *Options) { o.DrainTimeout = 200 * time.Millisecond })
	f.run(w, "t", script(f.sleeper("pid", "")))
	pid := processtest.PIDIn(t, f.file("pid"))
	away.Store(true)
	started := time.Now()
	f.must(w.stop())
	if d := time.Since(started); d > 200*time.Millisecond+2*reportTimeout {
		t.Errorf("took %s", d)
	}
	if processtest.Alive(pid) {
		t.Error("the command is still alive")
	}
}

func TestAWorkerThatOthersHaveChangedReportsThatItHasStopped(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.HeartbeatInterval = time.Hour })
	got := f.worker()
	got.Spec.Unschedulable = true
	_, err := f.test.BatchV1alpha1().Workers("default").Update(f.Context(), got, metav1.UpdateOptions{})
	f.must(err)
	f.must(w.stop())
	if c := meta.FindStatusCondition(f.worker().Status.Conditions, batch.WorkerReady); c.Reason != "Stopped" {
		t.Errorf("got condition %+v", c)
	}
}

func TestALeaseThatWasTakenOverIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	options := testOptions()
	options.LeaseDuration = time.Minute
	first := newRegistration(f.server.Client(), options, "first")
	second := newRegistration(f.server.Client(), options, "second")
	f.must(first.register(t.Context(), readyCondition))
	f.must(second.register(t.Context(), readyCondition))
	if err := first.renewLease(t.Context()); !apierrors.IsConflict(err) {
		t.Errorf("renewing a lease that has changed: %v", err)
	}
	if err := first.renewLease(t.Context()); !errors.Is(err, ErrSuperseded) {
		t.Errorf("renewing a lease that is another's: %v", err)
	}
	if err := first.sync(t.Context(), true, readyCondition, 0); !errors.Is(err, ErrSuperseded) {
		t.Errorf("refreshing a worker that is another's: %v", err)
	}
	lease, err := f.test.BatchV1alpha1().WorkerLeases("default").Get(t.Context(), "w", metav1.GetOptions{})
	f.must(err)
	if lease.Spec.HolderIdentity != "second" {
		t.Errorf("the lease is held by %q", lease.Spec.HolderIdentity)
	}
}

// unregistered returns a worker that does not run: the test passes tasks to it.
func (f *fixture) unregistered() *Worker {
	f.Helper()
	w := New(f.server.Client(), testHost, testOptions())
	var err error
	w.sandbox, err = sandbox.New(f.Context(), testHost, sandbox.Config{Namespace: "default", Name: "w", Incarnation: w.incarnation, StateDir: f.dir})
	f.must(err)
	w.config.Sandbox = w.sandbox
	f.Cleanup(func() {
		select {
		case <-w.draining:
		default:
			close(w.draining)
		}
		w.wg.Wait()
		f.must(w.sandbox.Close())
	})
	return w
}

func TestATaskFirstSeenInDeletionIsDeletedWithoutARun(t *testing.T) {
	f := newFixture(t)
	w := f.unregistered()
	f.create("t", script("touch "+f.file("ran")))
	f.bind("t", w.incarnation)
	f.delete("t", nil)
	w.updateTask(t.Context(), f.get("t"))
	f.awaitGone("t")
	if _, err := os.Stat(f.file("ran")); err == nil {
		t.Error("the command was started")
	}
}

func TestATaskFirstSeenWhileTheWorkerDrainsIsNotAttempted(t *testing.T) {
	f := newFixture(t)
	w := f.unregistered()
	f.create("t", &batch.Task{Spec: batch.TaskSpec{Command: []string{"no-such-program"}}})
	f.bind("t", w.incarnation)
	close(w.draining)
	w.updateTask(t.Context(), f.get("t"))
	w.wg.Wait()
	if task := f.get("t"); task.Spec.WorkerName != "" || task.Status.Phase != batch.TaskPending {
		t.Errorf("got worker %q, status %+v", task.Spec.WorkerName, task.Status)
	}
}

func TestATaskBoundAgainWaitsForItsEarlierCommandToEnd(t *testing.T) {
	f := newFixture(t)
	w := f.unregistered()
	f.create("t", script("touch "+f.file("ran")))
	f.bind("t", w.incarnation)
	before := make(chan struct{})
	r := taskrunner.New(w.config, f.get("t"), before)
	go r.Run(t.Context())
	select {
	case <-r.Done():
		t.Error("it was run while the earlier command had not ended")
	case <-time.After(200 * time.Millisecond):
	}
	close(before)
	<-r.Done()
	f.awaitFinished("t")
}

func TestInvalidOptions(t *testing.T) {
	for name, mutate := range map[string]func(*Options){
		"no name":      func(o *Options) { o.Name = "" },
		"no namespace": func(o *Options) { o.Namespace = "" },
		"no capacity":  func(o *Options) { o.Capacity = nil },
		"no tasks":     func(o *Options) { o.Capacity = batch.ResourceList{batch.ResourceTasks: resource.MustParse("0")} },
	} {
		t.Run(name, func(t *testing.T) {
			options := testOptions()
			mutate(&options)
			if err := New(testapi.New().Client(), testHost, options).Run(t.Context()); err == nil {
				t.Error("it runs")
			}
		})
	}
}

func TestAWorkerIsIdleWithoutTasksAndLeavesNothingBehind(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.HeartbeatInterval = time.Hour })
	for i := range 20 {
		f.run(w, fmt.Sprint("t", i), script("exit 0"))
	}
	for i := range 20 {
		f.awaitFinished(fmt.Sprint("t", i))
	}
	processtest.Eventually(t, "what is finished is forgotten", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.runners) == 0
	})
	before := len(w.api.Actions())
	timer := time.NewTimer(300 * time.Millisecond)
	<-timer.C
	if n := len(w.api.Actions()); n != before {
		t.Errorf("requests without an event: %v", w.api.Actions()[before:])
	}
	f.must(w.stop())
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, owner := range []string{"agent.(*Worker)", "taskrunner.(*Runner)", "process.(*Process)", "agent.(*registration)", "client-go/tools/cache"} {
			if strings.Contains(g, owner) {
				t.Errorf("a goroutine is left:\n%s", g)
			}
		}
	}
}
