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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// workerSuite runs commands on real workers. It binds the tasks itself: its environment has no scheduler.
type workerSuite struct {
	fixture
	scheduler typed.BatchV1alpha1Interface
}

// TestWorker runs commands that harm a worker as much as they can. A worker connects to the server directly, so that a
// host cluster makes no difference.
func TestWorker(t *testing.T) {
	t.Parallel()
	e := kit.Standalone(t)
	s := &workerSuite{fixture: newFixture(t, e, e.Namespace(t)), scheduler: kit.Client(t, e.Controller(t)).BatchV1alpha1()}
	w := s.startWorker(t, "nasty-abcde")
	t.Run("how commands end", func(t *testing.T) { s.howCommandsEnd(t, w) })
	t.Run("signals", func(t *testing.T) { s.signals(t, w) })
	t.Run("invalid commands", s.invalidCommands)
	t.Run("arguments and environment", func(t *testing.T) { s.argumentsAndEnvironment(t, w) })
	t.Run("command that ignores SIGTERM", func(t *testing.T) { s.ignoresTerm(t, w) })
	t.Run("fork bomb", func(t *testing.T) { s.forkBomb(t, w) })
	t.Run("zombies", func(t *testing.T) { s.zombies(t, w) })
	t.Run("daemon", func(t *testing.T) { s.daemon(t, w) })
	t.Run("progress", func(t *testing.T) { s.progress(t, w) })
	t.Run("gigabyte of output", func(t *testing.T) { s.flood(t, w) })
	t.Run("metrics", func(t *testing.T) { workerMetrics(t, w) })
	t.Run("killed worker", func(t *testing.T) { s.killed(t, w) })
	t.Run("worker killed by its task", s.killedByTask)
	t.Run("removed files", s.removedFiles)
}

// workerProcess is a worker with a state directory and metrics of its own.
type workerProcess struct {
	*host.Process
	name, state, metrics string
}

func (s *workerSuite) startWorker(t *testing.T, name string) *workerProcess {
	t.Helper()
	port := kit.Must(host.FreePort())(t)
	w := &workerProcess{name: name, state: t.TempDir(), metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", port)}
	config := s.env.Worker(t, s.namespace, name)
	environment := append([]string{"KUBECONFIG=" + s.env.Kubeconfig(t, config, s.namespace), "OF_THE_WORKER=yes"}, host.Oracles...)
	w.Process = s.env.StartWorker(t, config, s.namespace, name, environment,
		"--tasks=4", "--state-dir="+w.state, fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", port))
	t.Cleanup(func() { kit.Check(t, errors.Join(w.Err(), w.Stop())) })
	s.ready(t, name, "")
	return w
}

// ready waits until a worker is ready, in another incarnation than the earlier one.
func (s *workerSuite) ready(t *testing.T, name, earlier string) *batch.Worker {
	t.Helper()
	return s.waitForWorker(t, name, "is ready", func(worker *batch.Worker) bool {
		return meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) && worker.Status.Incarnation != earlier
	})
}

type taskChange func(*batch.TaskSpec)

// shell sets a script as the command. Variables are left to the shell.
func shell(text string) taskChange {
	return func(spec *batch.TaskSpec) { spec.Command = []string{"sh", "-c", strings.ReplaceAll(text, "$", "$$")} }
}

// command sets a command with arguments.
func command(argv ...string) taskChange {
	return func(spec *batch.TaskSpec) { spec.Command = argv }
}

// ends limits a command: it gets SIGTERM after a second, and SIGKILL after another one.
func ends(spec *batch.TaskSpec) {
	spec.ActiveDeadlineSeconds, spec.TerminationGracePeriodSeconds = ptr.To[int64](1), ptr.To[int64](1)
}

func (s *workerSuite) create(t *testing.T, changes ...taskChange) (*batch.Task, error) {
	t.Helper()
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	for _, c := range changes {
		c(&task.Spec)
	}
	return s.api.Tasks(s.namespace).Create(t.Context(), task, metav1.CreateOptions{})
}

// bind binds a task to the current incarnation of a worker, as the scheduler does.
func (s *workerSuite) bind(t *testing.T, task string, to string) {
	t.Helper()
	worker, err := s.api.Workers(s.namespace).Get(t.Context(), to, metav1.GetOptions{})
	kit.Check(t, err)
	_, err = s.scheduler.Tasks(s.namespace).Bind(t.Context(), task, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: task, Namespace: s.namespace},
		Target:     batch.BindingTarget{Name: to, UID: worker.UID, Incarnation: worker.Status.Incarnation},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
}

// start creates a task, binds it to the worker, and returns its name.
func (s *workerSuite) start(t *testing.T, w *workerProcess, changes ...taskChange) string {
	t.Helper()
	task, err := s.create(t, changes...)
	kit.Check(t, err)
	s.bind(t, task.Name, w.name)
	return task.Name
}

// end waits until a task has finished, checks that the worker can run the next one, and returns how it terminated.
func (s *workerSuite) end(t *testing.T, w *workerProcess, name string) batch.TaskStateTerminated {
	t.Helper()
	task := s.waitForTask(t, name, "has finished", func(task *batch.Task) bool {
		return task.Status.Phase.Finished()
	})
	end := *task.Status.State.Terminated
	if (end.Reason == batch.TaskReasonCompleted) != (task.Status.Phase == batch.TaskSucceeded) || !utf8.ValidString(end.Message) {
		t.Errorf("got phase %s, terminated %+v", task.Status.Phase, end)
	}
	next := s.start(t, w, command("true"))
	s.waitForTask(t, next, "succeeds after another one", isSucceeded)
	kit.Check(t, w.Err())
	return end
}

// run creates a task, binds it to the worker, and returns how it terminated.
func (s *workerSuite) run(t *testing.T, w *workerProcess, changes ...taskChange) batch.TaskStateTerminated {
	t.Helper()
	return s.end(t, w, s.start(t, w, changes...))
}

func (s *workerSuite) howCommandsEnd(t *testing.T, w *workerProcess) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	kit.Check(t, os.WriteFile(plain, []byte("no program"), 0o600))
	deep := filepath.Join("/", strings.Repeat("deep/", 600))
	for name, tc := range map[string]struct {
		changes []taskChange
		code    int32
		reason  string
		message string
	}{
		"success":                   {[]taskChange{command("true")}, 0, batch.TaskReasonCompleted, ""},
		"failure":                   {[]taskChange{shell("echo out; echo err >&2; exit 42")}, 42, batch.TaskReasonError, "out\nerr\n"},
		"no such program":           {[]taskChange{command("no-such-program", "x")}, 127, batch.TaskReasonStartError, "no-such-program"},
		"no such file":              {[]taskChange{command("/no/such/file")}, 127, batch.TaskReasonStartError, "/no/such/file"},
		"not executable":            {[]taskChange{command(plain)}, 126, batch.TaskReasonStartError, plain + ": permission denied"},
		"a directory":               {[]taskChange{command(dir)}, 126, batch.TaskReasonStartError, dir},
		"no such working directory": {[]taskChange{command("true"), func(spec *batch.TaskSpec) { spec.WorkingDir = deep }}, 126, batch.TaskReasonStartError, "workingDir: stat /deep/deep"},
		"output that is not UTF-8":  {[]taskChange{shell(`printf 'a\377\376\200b\n'; exit 1`)}, 1, batch.TaskReasonError, "a\uFFFDb\n"},
		"output closed":             {[]taskChange{shell(`exec >&- 2>&-; sleep 0.3; exit 5`)}, 5, batch.TaskReasonError, ""},
		"out of time":               {[]taskChange{shell(`sleep 1000`), ends}, 143, batch.TaskReasonDeadlineExceeded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			end := s.run(t, w, tc.changes...)
			if end.ExitCode != tc.code || end.Reason != tc.reason || !strings.Contains(end.Message, tc.message) {
				t.Errorf("got terminated %+v, want exit code %d, reason %s and a message with %q", end, tc.code, tc.reason, tc.message)
			}
		})
	}
}

func (s *workerSuite) signals(t *testing.T, w *workerProcess) {
	for _, signal := range []int32{1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		end := s.run(t, w, shell(fmt.Sprintf("ulimit -c 0; kill -%d $$; sleep 1000", signal)))
		if end.Signal != signal || end.ExitCode != 128+signal || end.Reason != batch.TaskReasonError {
			t.Errorf("signal %d: got terminated %+v", signal, end)
		}
	}
}

func (s *workerSuite) invalidCommands(t *testing.T) {
	for name, c := range map[string]taskChange{
		"NUL in the command": command("echo", "a\x00b"),
		"NUL in env": func(spec *batch.TaskSpec) {
			spec.Command, spec.Env = []string{"env"}, []batch.EnvVar{{Name: "A", Value: "\x00"}}
		},
		"more than 1 MiB": func(spec *batch.TaskSpec) {
			spec.Command, spec.Env = []string{"env"}, []batch.EnvVar{{Name: "A", Value: strings.Repeat("x", 1<<20)}}
		},
		"no command": command(),
	} {
		if _, err := s.create(t, c); !apierrors.IsInvalid(err) {
			t.Errorf("%s: got %v, want it to be invalid", name, err)
		}
	}
}

func (s *workerSuite) argumentsAndEnvironment(t *testing.T, w *workerProcess) {
	t.Run("a MiB of environment", func(t *testing.T) {
		end := s.run(t, w, shell(`[ ${#V0} = 65000 ] && [ ${#V15} = 65000 ]`), func(spec *batch.TaskSpec) {
			for i := range 16 {
				spec.Env = append(spec.Env, batch.EnvVar{Name: fmt.Sprint("V", i), Value: strings.Repeat("x", 65000)})
			}
		})
		if end.ExitCode != 0 {
			t.Errorf("got terminated %+v", end)
		}
	})
	t.Run("variable over the limit of Linux", func(t *testing.T) {
		end := s.run(t, w, command("true"), func(spec *batch.TaskSpec) {
			spec.Env = []batch.EnvVar{{Name: "V", Value: strings.Repeat("x", 500_000)}}
		})
		if end.ExitCode != 126 || end.Reason != batch.TaskReasonStartError || !strings.Contains(end.Message, "argument list too long") {
			t.Errorf("got terminated %+v", end)
		}
	})
	t.Run("variables", func(t *testing.T) {
		task, err := s.create(t, func(spec *batch.TaskSpec) {
			spec.Command = []string{"sh", "-c", `echo "$(TASK_NAME) $TASK_NAME $(TASK_NAMESPACE) $(TASK_ATTEMPT) $(A)" '$$(A) $(NONE)' "$OF_THE_WORKER [$KUBECONFIG]"; exit 1`}
			spec.Env = []batch.EnvVar{{Name: "A", Value: "<$(TASK_ATTEMPT)>"}}
		})
		kit.Check(t, err)
		s.bind(t, task.Name, w.name)
		// Commands have the environment of the worker, without its access to the API.
		want := fmt.Sprintf("%[1]s %[1]s %[2]s 1 <1> $(A) $(NONE) yes []\n", task.Name, s.namespace)
		if end := s.end(t, w, task.Name); end.Message != want {
			t.Errorf("got output %q, want %q", end.Message, want)
		}
	})
}

func (s *workerSuite) ignoresTerm(t *testing.T, w *workerProcess) {
	begun := time.Now()
	end := s.run(t, w, shell(`trap '' TERM; (trap '' TERM; sleep 1000) & while :; do sleep 0.1; done`), ends)
	if end.ExitCode != 137 || end.Signal != 9 || end.Reason != batch.TaskReasonDeadlineExceeded {
		t.Errorf("got terminated %+v", end)
	}
	if passed := time.Since(begun); passed < 2*time.Second {
		t.Errorf("the command was killed after %s, want at least the deadline and the grace period", passed)
	}
}

// marked returns the processes that have the entry in their environment.
func marked(t *testing.T, entry string) []int {
	t.Helper()
	var pids []int
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	kit.Check(t, err)
	for _, file := range environments {
		if text, _ := os.ReadFile(file); bytes.Contains(text, []byte(entry+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			kit.Check(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// withMark returns a variable for the tasks of a test. marked finds their processes.
func withMark(t *testing.T) (entry string, c taskChange) {
	mark := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), os.Getpid())
	return "TEST_MARK=" + mark, func(spec *batch.TaskSpec) { spec.Env = append(spec.Env, batch.EnvVar{Name: "TEST_MARK", Value: mark}) }
}

func (s *workerSuite) forkBomb(t *testing.T, w *workerProcess) {
	entry, mark := withMark(t)
	// 400 processes, and 40 that start others all the time, half of them in sessions of their own.
	name := s.start(t, w, mark, shell(`
		i=0; while [ $i -lt 200 ]; do sleep 1000 & (setsid sleep 1000 &) ; i=$((i+1)); done
		i=0; while [ $i -lt 20 ]; do
			sh -c 'while :; do sleep 0.3 & sleep 0.2; done' &
			(setsid sh -c 'trap "" TERM; while :; do (setsid sleep 0.3 &); sleep 0.2; done' &)
			i=$((i+1))
		done
		touch "$TASK_PROGRESS_FILE.filled"; sleep 1000`))
	kit.Eventually(t, "440 processes run", func(context.Context) error {
		if n := len(marked(t, entry)); n < 440 {
			return fmt.Errorf("got %d", n)
		}
		return nil
	})
	seconds := int64(1)
	kit.Check(t, s.api.Tasks(s.namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &seconds}))
	s.waitForTaskGone(t, name)
	if left := marked(t, entry); len(left) > 0 {
		t.Errorf("%d processes outlive the task: %v", len(left), left)
	}
	s.run(t, w, command("true"))
}

func (s *workerSuite) zombies(t *testing.T, w *workerProcess) {
	entry, mark := withMark(t)
	name := s.start(t, w, mark, shell(`i=0; while [ $i -lt 400 ]; do (setsid sh -c : &); (sh -c : &); i=$((i+1)); done; echo 1/1 >$TASK_PROGRESS_FILE; sleep 1000`))
	s.waitForTask(t, name, "has started all processes", func(task *batch.Task) bool { return task.Status.Progress == "1/1" })
	kit.Eventually(t, "the worker has reaped all children while the task runs", func(context.Context) error {
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range stats {
			text, _ := os.ReadFile(file)
			if _, rest, _ := strings.Cut(string(text), ") "); strings.HasPrefix(rest, fmt.Sprintf("Z %d ", w.PID())) {
				return fmt.Errorf("%s: %s", file, text)
			}
		}
		return err
	})
	kit.Check(t, s.api.Tasks(s.namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}))
	kit.Eventually(t, "all processes have ended", func(context.Context) error {
		if left := marked(t, entry); len(left) > 0 {
			return fmt.Errorf("%v still run", left)
		}
		return nil
	})
	s.run(t, w, command("true"))
}

func (s *workerSuite) daemon(t *testing.T, w *workerProcess) {
	entry, mark := withMark(t)
	end := s.run(t, w, mark, shell(`(setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done' </dev/null >/dev/null 2>&1 &)`))
	if end.ExitCode != 0 {
		t.Errorf("got terminated %+v", end)
	}
	if left := marked(t, entry); len(left) > 0 {
		t.Errorf("the daemon outlives the task: %v", left)
	}
}

func (s *workerSuite) progress(t *testing.T, w *workerProcess) {
	gate := filepath.Join(t.TempDir(), "gate")
	name := s.start(t, w, shell(`echo 1/3 >$TASK_PROGRESS_FILE; until [ -e `+gate+` ]; do sleep 0.1; done; echo 3/3 >>$TASK_PROGRESS_FILE`))
	s.waitForTask(t, name, "has reported its first progress", func(task *batch.Task) bool { return task.Status.Progress == "1/3" && task.Status.State.Running != nil })
	kit.Check(t, os.WriteFile(gate, nil, 0o600))
	s.end(t, w, name)
	if task := s.waitForTask(t, name, "exists", func(*batch.Task) bool { return true }); task.Status.Progress != "3/3" {
		t.Errorf("got progress %q at the end, want 3/3", task.Status.Progress)
	}
}

func (s *workerSuite) flood(t *testing.T, w *workerProcess) {
	if end := s.run(t, w, shell(`yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 1000000000`)); end.ExitCode != 0 {
		t.Errorf("got terminated %+v", end)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID()))
	kit.Check(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var peak int
	_, err = fmt.Sscanf(rest, "%d kB", &peak)
	kit.Check(t, err)
	t.Logf("the worker used at most %d MB", peak>>10)
	// With the race detector, a worker needs several times the memory.
	if peak>>10 > 400 {
		t.Errorf("the worker used %d MB, want at most 400", peak>>10)
	}
}

// workerMetrics checks the metrics of a worker after the earlier cases.
func workerMetrics(t *testing.T, w *workerProcess) {
	response, err := http.Get(w.metrics)
	kit.Check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	kit.Check(t, err)
	for _, want := range []string{
		"\nleat_worker_running_tasks 0\n", `leat_worker_tasks_finished_total{reason="StartError",result="failed"} `,
		"\nleat_task_attempts_total ", "\nleat_task_duration_seconds_count{", "\nleat_task_start_latency_seconds_count ",
		`leat_worker_task_status_writes_total{outcome="stored"} `, "\nprocess_resident_memory_bytes ",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
	if strings.Contains(string(body), "t-") && strings.Contains(string(body), `task="`) {
		t.Error("/metrics has a label with the name of a task")
	}
}

// killed kills and restarts a worker whose task has a process in another session, while another worker runs the same.
// The restarted worker must kill that process before it returns the task, and none of the other worker.
func (s *workerSuite) killed(t *testing.T, other *workerProcess) {
	w := s.startWorker(t, "killed-abcde")
	dir := t.TempDir()
	start := func(w *workerProcess) (task string, file string, daemon int) {
		t.Helper()
		file = filepath.Join(dir, w.name)
		task = s.start(t, w, shell(`echo started >>`+file+`.starts
			(setsid sh -c 'echo $$ >`+file+`.pid; trap "" TERM; while :; do echo >>`+file+`; sleep 0.02; done' </dev/null >/dev/null 2>&1 &); sleep 1000`))
		kit.Eventually(t, "the grandchild writes to the file", func(context.Context) error {
			text, err := os.ReadFile(file + ".pid")
			if _, scanErr := fmt.Sscanln(string(text), &daemon); err != nil || scanErr != nil {
				return errors.Join(err, scanErr)
			}
			_, err = os.Stat(file)
			return err
		})
		return task, file, daemon
	}
	task, file, daemon := start(w)
	_, otherFile, otherDaemon := start(other)
	before := s.ready(t, w.name, "")
	kit.Check(t, w.Kill())
	if !alive(daemon) {
		t.Fatal("the test proves nothing: the grandchild has ended with the worker")
	}
	kit.Check(t, w.Restart(t.Context()))
	evicted := s.waitForTask(t, task, "is evicted", func(task *batch.Task) bool { return task.Spec.WorkerName == "" })
	if alive(daemon) {
		t.Error("the task is evicted while its grandchild is alive")
	}
	size := len(kit.Must(os.ReadFile(file))(t))
	if condition := meta.FindStatusCondition(evicted.Status.Conditions, batch.DisruptionTarget); condition == nil || condition.Reason != "WorkerRestarted" || evicted.Status.Disruptions != 1 {
		t.Errorf("got status %+v", evicted.Status)
	}
	s.ready(t, w.name, before.Status.Incarnation)
	s.run(t, w, command("true"))
	if now := len(kit.Must(os.ReadFile(file))(t)); now != size {
		t.Errorf("the file grew from %d to %d bytes after the eviction", size, now)
	}
	if !alive(otherDaemon) || len(kit.Must(os.ReadFile(otherFile))(t)) == 0 {
		t.Error("the process of the other worker has ended")
	}
	s.bind(t, task, other.name)
	kit.Eventually(t, "the task is started again", func(context.Context) error {
		if n := strings.Count(string(kit.Must(os.ReadFile(file+".starts"))(t)), "started"); n != 2 {
			return fmt.Errorf("got %d starts", n)
		}
		return nil
	})
	kit.Check(t, s.api.Tasks(s.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}, metav1.ListOptions{}))
	kit.Eventually(t, "all processes have ended", func(context.Context) error {
		if alive(otherDaemon) {
			return errors.New("a grandchild is alive")
		}
		return nil
	})
}

// killedByTask runs a task that kills its worker faster than the worker can report the start. The crashes count until
// the task fails. The end of a worker that is stopped does not count.
func (s *workerSuite) killedByTask(t *testing.T) {
	const limit = 2
	w := s.startWorker(t, "crashing-abcde")
	before := s.ready(t, w.name, "")
	name := s.start(t, w, shell("kill -9 $PPID; sleep 1000"), func(spec *batch.TaskSpec) { spec.CrashLimit = ptr.To[int32](limit) })
	for crashes := int32(1); ; crashes++ {
		kit.Eventually(t, "the worker has been killed", func(context.Context) error {
			if w.Err() == nil {
				return errors.New("it still runs")
			}
			return nil
		})
		kit.Check(t, w.Restart(t.Context()))
		before = s.ready(t, w.name, before.Status.Incarnation)
		task := s.waitForTask(t, name, "is evicted or failed", func(task *batch.Task) bool {
			return task.Spec.WorkerName == "" || task.Status.State.Terminated != nil
		})
		if task.Status.WorkerCrashes != crashes {
			t.Fatalf("after %d crashes: got status %+v", crashes, task.Status)
		}
		if crashes == limit {
			if end := task.Status.State.Terminated; task.Status.Phase != batch.TaskFailed || end == nil || end.Reason != batch.TaskReasonWorkerCrashed {
				t.Errorf("got status %+v, terminated %+v", task.Status, end)
			}
			break
		}
		s.bind(t, name, w.name)
	}
	s.run(t, w, command("true"))

	name = s.start(t, w, shell("sleep 1000"))
	s.waitForTask(t, name, "runs", func(task *batch.Task) bool { return task.Status.State.Running != nil })
	kit.Check(t, w.Stop())
	if task := s.waitForTask(t, name, "is evicted", func(task *batch.Task) bool { return task.Spec.WorkerName == "" }); task.Status.WorkerCrashes != 0 {
		t.Errorf("after a stop: got status %+v, want no crashes", task.Status)
	}
}

// removedFiles removes the files of a worker while it runs. No task fails because of that.
func (s *workerSuite) removedFiles(t *testing.T) {
	w := s.startWorker(t, "cleaned-abcde")
	gate := filepath.Join(t.TempDir(), "gate")
	along := s.start(t, w, shell(`set -e; echo 1/2 >$TASK_PROGRESS_FILE; until [ -e `+gate+` ]; do sleep 0.1; done; until echo 2/2 >$TASK_PROGRESS_FILE; do sleep 0.1; done`))
	s.waitForTask(t, along, "has reported its first progress", func(task *batch.Task) bool { return task.Status.Progress == "1/2" })
	kit.Check(t, os.RemoveAll(filepath.Join(w.state, "tasks")))
	kit.Check(t, os.WriteFile(gate, nil, 0o600))
	for _, name := range []string{along, s.start(t, w, shell(`set -e; echo 2/2 >$TASK_PROGRESS_FILE`))} {
		end := s.end(t, w, name)
		if task := s.waitForTask(t, name, "exists", func(*batch.Task) bool { return true }); end.ExitCode != 0 || task.Status.Progress != "2/2" {
			t.Errorf("got progress %q at the end, terminated %+v", task.Status.Progress, end)
		}
	}
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}
