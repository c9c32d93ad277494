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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/pkg/worker/reaper"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
)

// TestProgressNeverDecidesHowACommandEnds removes the directory of progress files in several ways.
func TestProgressNeverDecidesHowACommandEnds(t *testing.T) {
	const reportsProgress = `set -e; echo 1/2 >$TASK_PROGRESS_FILE; `
	for name, tc := range map[string]struct {
		state, tmp string // below the directory of the test
		remove     string
	}{
		"no directory for temporary files": {"state", "none", ""},
		"a state directory that cannot be": {"file/state", "tmp", ""},
		"no state directory":               {"", "tmp", ""},
		"the state directory is removed":   {"state", "tmp", "state"},
		"all temporary files are removed":  {"", "tmp", "tmp/*"},
		"its own directory is removed":     {"state", "tmp", "state/*"},
		"spare directories are removed":    {"state", "tmp", "state/*/*"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.must(os.Mkdir(f.file("tmp"), 0o700))
			f.must(os.WriteFile(f.file("file"), nil, 0o600))
			t.Setenv("TMPDIR", f.file(tc.tmp))
			w := f.start(func(o *Options) {
				o.AnnounceDelay, o.ProgressInterval = 5*time.Millisecond, 10*time.Millisecond
				if tc.state != "" {
					o.StateDir = f.file(tc.state)
				}
			})
			f.run(w, "before", script(reportsProgress))
			f.awaitFinished("before")
			f.run(w, "along", script(reportsProgress+"until [ -e "+f.file("go")+" ]; do sleep 0.02; done; until [ -d ${TASK_PROGRESS_FILE%/*} ]; do sleep 0.02; done; echo 2/2 >$TASK_PROGRESS_FILE"))
			f.await("along", "runs", func(t *batch.Task) bool { return t.Status.Progress == "1/2" })
			if tc.remove != "" {
				found, err := filepath.Glob(f.file(tc.remove))
				f.must(err)
				if len(found) == 0 {
					t.Fatalf("there is nothing to remove by %s", tc.remove)
				}
				for _, path := range found {
					// The worker may write meanwhile.
					processtest.Eventually(t, path+" is removed", func() bool { return os.RemoveAll(path) == nil })
				}
			}
			f.must(os.WriteFile(f.file("go"), nil, 0o600))
			f.run(w, "after", script(reportsProgress))
			for name, progress := range map[string]string{"before": "1/2", "along": "2/2", "after": "1/2"} {
				if s := f.awaitFinished(name).Status; s.Phase != batch.TaskSucceeded || s.Progress != progress {
					t.Errorf("%s: phase %s, progress %q, terminated %+v", name, s.Phase, s.Progress, s.State.Terminated)
				}
			}
		})
	}
}

// recordedTasks returns the tasks whose attempts the directory of a worker process records as running.
func recordedTasks(dir string) map[types.UID]bool {
	tasks := map[types.UID]bool{}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.Name() == "stopping" {
			return nil
		}
		if uid, ok := strings.CutSuffix(entry.Name(), "-1"); ok && uid != "spare" {
			tasks[types.UID(uid)] = true
		}
	}
	return tasks
}

// leaveDirs creates the directories that a killed process of worker w leaves while it runs attempts at these tasks.
func (f *fixture) leaveDirs(stateDir, incarnation string, started ...types.UID) (dir string) {
	f.Helper()
	own, err := reaper.OwnIdentity()
	f.must(err)
	own.Started--
	dir = filepath.Join(stateDir, fmt.Sprintf("%s-%s.%s", sandbox.Prefix("default", "w"), own, incarnation))
	f.must(os.MkdirAll(filepath.Join(dir, "spare-1"), 0o700))
	for _, uid := range started {
		f.must(os.Mkdir(filepath.Join(dir, string(uid)+"-1"), 0o700))
	}
	return dir
}

// changeWorker updates the spec and the status of the Worker.
func (f *fixture) changeWorker(change func(*batch.Worker)) {
	f.Helper()
	w := f.worker()
	change(w)
	status := w.Status
	w, err := f.test.BatchV1alpha1().Workers("default").Update(f.Context(), w, metav1.UpdateOptions{})
	f.must(err)
	w.Status = status
	_, err = f.test.BatchV1alpha1().Workers("default").UpdateStatus(f.Context(), w, metav1.UpdateOptions{})
	f.must(err)
}

func TestACrashOfTheWorkerCountsForItsRunningTasks(t *testing.T) {
	const running, waits, bound = "running", "waits", "bound"
	states := map[string]batch.TaskState{
		running: {Running: &batch.TaskStateRunning{StartedAt: metav1.Now()}},
		waits:   {Waiting: &batch.TaskStateWaiting{Reason: "BackOff"}},
		bound:   {},
	}
	for name, tc := range map[string]struct {
		leave func(f *fixture, stateDir string, uids map[string]types.UID)
		want  map[string]bool
	}{
		"by the status, without files": {func(*fixture, string, map[string]types.UID) {}, map[string]bool{running: true}},
		"by the files of the process": {func(f *fixture, dir string, uids map[string]types.UID) {
			f.leaveDirs(dir, "earlier", uids[bound], uids[waits])
		}, map[string]bool{bound: true, waits: true}},
		"not by the files of another process": {func(f *fixture, dir string, uids map[string]types.UID) {
			f.leaveDirs(dir, "still-earlier", uids[bound])
		}, map[string]bool{running: true}},
		"not after a stop in order that could not be reported": {func(f *fixture, dir string, uids map[string]types.UID) {
			f.must(os.WriteFile(filepath.Join(f.leaveDirs(dir, "earlier", uids[running]), "stopping"), nil, 0o600))
		}, nil},
		"not after a reported stop of a worker whose files are lost": {func(f *fixture, _ string, _ map[string]types.UID) {
			f.changeWorker(func(w *batch.Worker) { meta.SetStatusCondition(&w.Status.Conditions, drainingCondition) })
		}, nil},
		"not when its lease expired while it stopped": {func(f *fixture, _ string, _ map[string]types.UID) {
			f.changeWorker(func(w *batch.Worker) {
				meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionUnknown, Reason: reasonStopUnknown})
			})
		}, nil},
		"not of a worker that somebody has cordoned": {func(f *fixture, dir string, uids map[string]types.UID) {
			f.changeWorker(func(w *batch.Worker) { w.Spec.Unschedulable = true })
			f.leaveDirs(dir, "earlier", uids[running])
		}, nil},
		"not when a process that lives is replaced": {func(f *fixture, dir string, uids map[string]types.UID) {
			lock, err := os.Open(f.leaveDirs(dir, "earlier", uids[running]))
			f.must(err)
			f.Cleanup(func() { _ = lock.Close() })
			f.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.test.BatchV1alpha1().Workers("default").Create(f.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "w"}}, metav1.CreateOptions{})
			f.must(err)
			f.changeWorker(func(w *batch.Worker) { w.Status.Incarnation = "earlier" })
			uids := map[string]types.UID{}
			for name, state := range states {
				f.create(name, script("exit 1", func(task *batch.Task) { task.Spec.CrashLimit = ptrTo[int32](5) }))
				f.bind(name, "earlier")
				task := f.get(name)
				task.Status.State = state
				if state.Running != nil || state.Waiting != nil {
					task.Status.Phase, task.Status.Attempts = batch.TaskRunning, 1
				}
				_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
				f.must(err)
				uids[name] = task.UID
			}
			dir := f.file("state")
			tc.leave(f, dir, uids)
			f.start(func(o *Options) { o.StateDir = dir })
			for name := range states {
				task := f.await(name, "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
				if got := task.Status.WorkerCrashes == 1; got != tc.want[name] || task.Status.Disruptions != 1 {
					t.Errorf("%s: %d crashes are counted, %d disruptions", name, task.Status.WorkerCrashes, task.Status.Disruptions)
				}
			}
		})
	}
}

func TestATaskThatHasCrashedItsWorkerTooOftenIsNotRun(t *testing.T) {
	f := newFixture(t)
	f.create("t", script("exit 0", func(task *batch.Task) { task.Spec.CrashLimit = ptrTo[int32](1) }))
	f.bind("t", "earlier")
	f.leaveDirs(f.dir, "earlier", f.get("t").UID)
	w := f.start(func(o *Options) { o.StateDir = f.dir })
	s := f.awaitFinished("t").Status
	if s.Phase != batch.TaskFailed || s.State.Terminated.Reason != batch.TaskReasonWorkerCrashed || s.WorkerCrashes != 1 {
		t.Errorf("got status %+v", s)
	}
	f.run(w, "next", script("exit 0"))
	if s := f.awaitFinished("next").Status; s.Phase != batch.TaskSucceeded {
		t.Errorf("the next task: %+v", s)
	}
	processtest.Eventually(t, "both are forgotten", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.runners) == 0
	})
	if n := w.api.Count("create", "tasks/eviction"); n != 1 {
		t.Errorf("%d evictions", n)
	}
}

func TestTheStartOfADisruptedTaskIsReportedFirst(t *testing.T) {
	f := newFixture(t)
	api := f.server.Client()
	var first *batch.Task
	api.Hook = func(verb, _, _ string) error {
		if verb == "updateStatus" && first == nil {
			if _, err := os.Stat(f.file("ran")); !errors.Is(err, os.ErrNotExist) {
				t.Error("the command was started before that was reported")
			}
		}
		return nil
	}
	api.After = func(_, name string) (err error) {
		if first == nil {
			first, err = f.test.BatchV1alpha1().Tasks("default").Get(t.Context(), name, metav1.GetOptions{})
		}
		return err
	}
	w := f.startWith(api)
	f.create("t", script("touch "+f.file("ran")))
	f.bind("t", "earlier")
	f.await("t", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
	f.bind("t", w.incarnation)
	s := f.awaitFinished("t").Status
	if first.Status.Phase != batch.TaskRunning || first.Status.State.Running == nil || first.Status.Attempts != 1 {
		t.Errorf("reported first was %+v", first.Status)
	}
	if s.Phase != batch.TaskSucceeded || s.Attempts != 1 || s.WorkerCrashes != 0 {
		t.Errorf("got status %+v", s)
	}
}

func TestAWorkerThatStopsRecordsThatInItsFiles(t *testing.T) {
	f := newFixture(t)
	dir := f.file("state")
	w := f.start(func(o *Options) { o.StateDir, o.DrainTimeout = dir, time.Hour })
	f.run(w, "t", script(f.sleeper("pid", "until [ -e "+f.file("go")+" ]; do sleep 0.02; done; exit 0"), grace(3600)))
	processtest.PIDIn(t, f.file("pid"))
	uid := f.get("t").UID
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	f.must(err)
	if len(found) != 1 || !strings.HasPrefix(filepath.Base(found[0]), sandbox.Prefix("default", "w")) {
		t.Fatalf("the state directory holds %v", found)
	}
	if got := recordedTasks(found[0]); !got[uid] {
		t.Errorf("recorded are %v, want %s", got, uid)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	processtest.Eventually(t, "the record is void", func() bool { return len(recordedTasks(found[0])) == 0 })
	f.must(os.WriteFile(f.file("go"), nil, 0o600))
	f.must(<-stopped)
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
