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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/processtest"
)

// archived is an attempt in a fakeArchive.
type archived struct {
	set    types.UID
	record batch.TaskRecord
	output string
}

// fakeArchive is an archive in memory.
type fakeArchive struct {
	refuses bool // keeps nothing, though it records what it was asked to keep
	limit   int64

	mu       sync.Mutex
	attempts []archived
	expected []types.UID
	released []types.UID
}

func (a *fakeArchive) Add(set types.UID, record *batch.TaskRecord, output []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attempts = append(a.attempts, archived{set, *record.DeepCopy(), string(output)})
	return !a.refuses
}

func (a *fakeArchive) MaxBytesPerAttempt() int64 { return a.limit }

func (a *fakeArchive) Expect(set types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expected = append(a.expected, set)
}

func (a *fakeArchive) Release(set types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.released = append(a.released, set)
}

func (a *fakeArchive) all() []archived {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.attempts)
}

// startArchiving starts a worker with an archive and a store of logs.
func (f *fixture) startArchiving(a *fakeArchive, mutate ...func(*Options)) (*runningWorker, *logs.Store) {
	f.Helper()
	store, err := logs.Open(logs.Options{Dir: f.file("logs"), MaxSize: logs.DefaultMaxSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
	f.must(err)
	f.Cleanup(store.Close)
	mutate = append(mutate, func(o *Options) { o.Logs = store })
	return f.startWorker(f.server.Client(), func(w *Worker) { w.config.Archive = a }, mutate...), store
}

const setUID = types.UID("11111111-0000-4000-8000-000000000000")

// inSet makes a task one of a set.
func inSet(t *batch.Task) {
	t.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: batch.SchemeGroupVersion.String(), Kind: "TaskSet", Name: "set", UID: setUID, Controller: ptr.To(true),
	}}
}

func TestEachIndexOfAChunkIsArchived(t *testing.T) {
	f := newFixture(t)
	a := &fakeArchive{limit: 1 << 20}
	w, store := f.startArchiving(a)
	f.run(w, "set-4-abcde", script("echo out $TASK_INDEX; [ $TASK_INDEX != 9 ] || exit 3", withIndexes("4-5,9-10"), inSet, func(t *batch.Task) {
		t.Annotations = map[string]string{batch.AnnotationIndexFailureCount: "2"}
	}))
	uid := f.awaitFinished("set-4-abcde").UID
	attempts := a.all()
	if len(attempts) != 3 {
		t.Fatalf("got %d attempts: %+v", len(attempts), attempts)
	}
	for i, index := range []int32{4, 5, 9} {
		got := attempts[i]
		r := got.record
		if r.StartTime.IsZero() || r.StartTime.Nanosecond()%1000 != 0 || r.DurationMilliseconds < 1 || r.CPUMilliseconds < 1 {
			t.Errorf("index %d: got times %+v", index, r)
		}
		r.StartTime, r.DurationMilliseconds, r.CPUMilliseconds, r.PeakMemoryBytes = metav1.MicroTime{}, 0, 0, 0
		output := fmt.Sprintln("out", index)
		want := batch.TaskRecord{
			TaskName: fmt.Sprintf("set-%d-abcde", index), TaskUID: uid, Attempt: 1, Failures: 2, WorkerName: "w", Incarnation: w.incarnation,
			Reason: batch.TaskReasonCompleted, OutputBytes: int64(len(output)),
		}
		if index == 9 {
			want.Reason, want.ExitCode = batch.TaskReasonError, 3
		}
		if r.Index == nil || *r.Index != index {
			t.Errorf("got index %v, want %d", r.Index, index)
		}
		if r.Index = nil; r != want || got.set != setUID || got.output != output {
			t.Errorf("got  %+v, set %q, output %q\nwant %+v, set %q, output %q", r, got.set, got.output, want, setUID, output)
		}
	}
	if files, err := os.ReadDir(f.file("logs")); err != nil || len(files) > 0 {
		t.Errorf("there are %d files, %v", len(files), err)
	}
	if _, err := store.Get(uid, false); err == nil {
		t.Error("the log is kept too")
	}
}

func TestAttemptsAreArchivedWithTheReasonThatEndedThem(t *testing.T) {
	const printing = "echo begun; echo $$ >>"
	for name, tc := range map[string]struct {
		task *batch.Task
		stop func(f *fixture, w *runningWorker)
		want []batch.TaskRecord
	}{
		"success": {task: script("echo begun"), want: []batch.TaskRecord{{Attempt: 1, Reason: "Completed"}}},
		"attempts that fail": {
			task: script("echo begun; exit 2", backoffLimit(1)),
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 2, Reason: "Error"}, {Attempt: 2, ExitCode: 2, Reason: "Error"}},
		},
		"a signal": {task: script("echo begun; kill -SEGV $$"), want: []batch.TaskRecord{{Attempt: 1, ExitCode: 139, Signal: 11, Reason: "Error"}}},
		"a command that cannot be started": {
			task: &batch.Task{Spec: batch.TaskSpec{Command: []string{"no-such-program"}}},
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 127, Reason: "StartError"}},
		},
		"a deadline": {
			task: script("echo begun; sleep 1000", deadline(1)),
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 143, Signal: 15, Reason: "DeadlineExceeded"}},
		},
		"a worker that stops": {
			task: script(printing + "$PIDS; sleep 1000"),
			stop: func(_ *fixture, w *runningWorker) { _ = w.stop() },
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 143, Signal: 15, Reason: "WorkerStopped"}},
		},
		"a deletion": {
			task: script(printing + "$PIDS; sleep 1000"),
			stop: func(f *fixture, _ *runningWorker) { f.delete("t", ptr.To[int64](10)) },
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 143, Signal: 15, Reason: "Deleted"}},
		},
		"an eviction": {
			task: script(printing + "$PIDS; sleep 1000"),
			stop: func(f *fixture, _ *runningWorker) { f.evict("t") },
			want: []batch.TaskRecord{{Attempt: 1, ExitCode: 137, Signal: 9, Reason: "Lost"}},
		},
		"success in spite of a worker that stops": {
			task: script("trap 'exit 0' TERM; exec 2>/dev/null; " + printing + "$PIDS; while :; do sleep 0.02; done"),
			stop: func(_ *fixture, w *runningWorker) { _ = w.stop() },
			want: []batch.TaskRecord{{Attempt: 1, Reason: "Completed"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			a := &fakeArchive{limit: 1 << 20}
			w, _ := f.startArchiving(a)
			tc.task.Spec.Env = []batch.EnvVar{{Name: "PIDS", Value: f.file("pids")}}
			f.run(w, "t", tc.task)
			if tc.stop != nil {
				processtest.PIDIn(t, f.file("pids"))
				tc.stop(f, w)
			}
			processtest.Eventually(t, "the attempts are archived", func() bool { return len(a.all()) == len(tc.want) })
			if tc.stop == nil {
				f.awaitFinished("t")
			}
			for i, got := range a.all() {
				r, want := got.record, tc.want[i]
				output := "begun\n"
				if want.Reason == "StartError" {
					output = ""
				}
				if r.Attempt != want.Attempt || r.ExitCode != want.ExitCode || r.Signal != want.Signal || r.Reason != want.Reason ||
					r.Index != nil || got.set != "" || got.output != output {
					t.Errorf("got  %+v, output %q\nwant %+v, output %q", r, got.output, want, output)
				}
			}
		})
	}
}

func TestTheRecordCountsOutputThatIsNotKept(t *testing.T) {
	for name, tc := range map[string]struct {
		command string
		logs    bool
		limit   int64
		size    int64
		output  string
	}{
		"without logs":                      {command: "echo begun", limit: 1 << 20, size: 6, output: "[leat: 6 bytes of output are missing here: the worker keeps no output]\n"},
		"without logs, nothing was printed": {command: "true", limit: 1 << 20},
		"records only":                      {command: "echo begun", logs: true, size: 6},
		"without logs, records only":        {command: "echo begun", size: 6},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			a := &fakeArchive{limit: tc.limit}
			var store *logs.Store
			if tc.logs {
				var err error
				store, err = logs.Open(logs.Options{Dir: f.file("logs"), MaxSize: logs.DefaultMaxSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
				f.must(err)
				f.Cleanup(store.Close)
			}
			w := f.startWorker(f.server.Client(), func(w *Worker) { w.config.Archive = a },
				func(o *Options) { o.Logs = store })
			f.run(w, "t", script(tc.command))
			f.awaitFinished("t")
			all := a.all()
			if len(all) != 1 || all[0].record.OutputBytes != tc.size || all[0].record.MissingBytes != tc.size || all[0].output != tc.output {
				t.Errorf("got %+v, want %d bytes, all of them missing, and %q", all, tc.size, tc.output)
			}
		})
	}
}

func TestAnAttemptThatWasNotStartedIsNotArchived(t *testing.T) {
	f := newFixture(t)
	a := &fakeArchive{limit: 1 << 20}
	w, _ := f.startArchiving(a, func(o *Options) { o.Capacity = batch.ResourceList{batch.ResourceTasks: resource.MustParse("1")} })
	f.run(w, "first", script("echo $$ >>"+f.file("pids")+"; sleep 1000"))
	processtest.PIDIn(t, f.file("pids"))
	f.run(w, "second", script("echo second"))
	f.must(w.stop())
	if all := a.all(); len(all) != 1 || all[0].record.TaskName != "first" {
		t.Errorf("got %+v", all)
	}
}

func TestTheIndexOfATaskIsThatOfItsSet(t *testing.T) {
	f := newFixture(t)
	a := &fakeArchive{limit: 1 << 20}
	w, _ := f.startArchiving(a)
	label := func(t *batch.Task) { t.Labels = map[string]string{batch.LabelCompletionIndex: "7"} }
	other := func(t *batch.Task) { inSet(t); t.OwnerReferences[0].Kind = "Other" }
	f.run(w, "of-set", script("true", label, inSet))
	f.run(w, "alone", script("true", label, func(t *batch.Task) { t.Labels[batch.LabelControllerUID] = string(setUID) }))
	f.run(w, "of-other", script("true", label, other))
	for _, name := range []string{"of-set", "alone", "of-other"} {
		f.awaitFinished(name)
	}
	for _, got := range a.all() {
		if ofSet := got.record.TaskName == "of-set"; (got.set == setUID) != ofSet || (got.record.Index != nil) != ofSet || !ofSet && got.set != "" {
			t.Errorf("got set %q, %+v", got.set, got.record)
		}
	}
}

func TestALogIsKeptIfTheArchiveDoesNotKeepIt(t *testing.T) {
	f := newFixture(t)
	a := &fakeArchive{refuses: true, limit: 1 << 20}
	w, store := f.startArchiving(a)
	f.run(w, "t", script("echo out"))
	uid := f.awaitFinished("t").UID
	processtest.Eventually(t, "the log is kept", func() bool {
		var out strings.Builder
		err := store.ReadTask(t.Context(), uid, &out, func() {}, logs.TaskReadOptions{ReadOptions: logs.ReadOptions{Follow: true}})
		notKept := (*logs.NotKeptError)(nil)
		return !errors.As(err, &notKept) && out.String() == "out\n"
	})
	if len(a.all()) != 1 {
		t.Errorf("got %+v", a.all())
	}
}

func TestASetIsReleasedAfterItsLastTask(t *testing.T) {
	f := newFixture(t)
	a := &fakeArchive{limit: 1 << 20}
	w, _ := f.startArchiving(a)
	f.run(w, "alone", script("true"))
	f.run(w, "first", script("true", inSet))
	f.run(w, "last", script("while [ ! -e "+f.file("go")+" ]; do sleep 0.02; done", inSet))
	f.awaitFinished("first")
	f.awaitFinished("alone")
	isRunning := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.sets[setUID] != nil && w.sets[setUID].runners == 1
	}
	processtest.Eventually(t, "one of two tasks has ended", isRunning)
	w.releaseSet(setUID, w.sets[setUID]) // as if the timer had fired late
	released := func() []types.UID {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Clone(a.released)
	}
	if got := released(); len(got) > 0 {
		t.Errorf("%q are released while a task runs", got)
	}
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	f.awaitFinished("last")
	processtest.Eventually(t, "the set is released", func() bool { return len(released()) > 0 })
	if !slices.Equal(a.expected, []types.UID{setUID}) {
		t.Errorf("%q are expected, want the set once", a.expected)
	}
	if got := released(); len(got) != 1 || got[0] != setUID || len(a.all()) != 3 {
		t.Errorf("got %q, after %d attempts", got, len(a.all()))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) > 0 {
		t.Errorf("%d sets are remembered", len(w.sets))
	}
}

func TestLinesAreEchoed(t *testing.T) {
	f := newFixture(t)
	in, out := io.Pipe()
	w := f.start(func(o *Options) { o.Echo = out })
	f.run(w, "set-4-abcde", script("echo out $TASK_INDEX; echo err >&2; printf end", withIndexes("4-5"), inSet))
	f.run(w, "alone", script("echo alone"))
	decoder := json.NewDecoder(in)
	got := map[string]bool{}
	for range 7 {
		var line struct {
			Namespace, TaskSet, Task, Stream, Text string
			Index                                  *int32
			Attempt                                int
			Time                                   time.Time
		}
		f.must(decoder.Decode(&line))
		if line.Namespace != "default" || line.Attempt != 1 || line.Stream != "output" || line.Time.IsZero() {
			t.Errorf("got %+v", line)
		}
		got[fmt.Sprint(line.TaskSet, " ", line.Task, " ", ptr.Deref(line.Index, -1), " ", line.Text)] = true
	}
	for _, want := range []string{
		"set set-4-abcde 4 out 4", "set set-4-abcde 4 err", "set set-4-abcde 4 end",
		"set set-5-abcde 5 out 5", "set set-5-abcde 5 err", "set set-5-abcde 5 end", " alone -1 alone",
	} {
		if !got[want] {
			t.Errorf("%q is not printed, but %v", want, got)
		}
	}
}
