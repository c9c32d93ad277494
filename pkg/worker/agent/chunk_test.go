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
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// withIndexes makes a task a chunk.
func withIndexes(list string) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.Indexes = list }
}

// starts returns the indexes that have started, as a script has recorded them in a file with "echo $TASK_INDEX".
func (f *fixture) starts(file string) []string {
	data, _ := os.ReadFile(f.file(file))
	return strings.Fields(string(data))
}

// statusWrites returns the status of each status update that a worker has sent, in order.
func statusWrites(w *runningWorker) []batch.TaskStatus {
	var writes []batch.TaskStatus
	for _, a := range w.api.Actions() {
		if update, ok := a.(clienttesting.UpdateAction); ok && a.Matches("update", "tasks/status") {
			writes = append(writes, update.GetObject().(*batch.Task).Status)
		}
	}
	return writes
}

func TestTheIndexesOfAChunkRunInOrderAndCostOneWrite(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "set-4-abcde", script("echo $TASK_INDEX/$JOB_COMPLETION_INDEX/$TASK_NAME/$TASK_ATTEMPT >>"+f.file("ran"), withIndexes("4-6,9")))
	s := f.awaitFinished("set-4-abcde").Status
	want := []string{"4/4/set-4-abcde/1", "5/5/set-5-abcde/1", "6/6/set-6-abcde/1", "9/9/set-9-abcde/1"}
	if got := f.starts("ran"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if s.Phase != batch.TaskSucceeded || s.CompletedCount != 4 || s.IndexLimit != nil || s.Attempts != 1 || s.BusyMilliseconds < 1 ||
		s.State.Terminated == nil || s.State.Terminated.Reason != batch.TaskReasonCompleted {
		t.Errorf("got status %+v", s)
	}
	if n := w.api.Count("update", "tasks/status"); n != 1 {
		t.Errorf("%d status writes, want 1", n)
	}
}

func TestAChunkIsReportedAsRunningAfterItsTime(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(f.held(1, "go"), withIndexes("0-1")))
	f.await("t", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
	s := statusWrites(w)[0]
	if s.CompletedCount != 1 || s.IndexLimit != nil || time.Since(s.StartTime.Time) < batch.ChunkDuration {
		t.Errorf("the first report is %+v, %s after the start", s, time.Since(s.StartTime.Time))
	}
	f.must(os.WriteFile(f.file("go"), nil, 0o600))
	if s := f.awaitFinished("t").Status; s.Phase != batch.TaskSucceeded || s.CompletedCount != 2 {
		t.Errorf("got status %+v", s)
	}
}

func TestAChunkStopsAtItsFirstFailure(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; echo out $TASK_INDEX; [ $TASK_INDEX != 12 ] || exit 3", withIndexes("10-20")))
	s := f.awaitFinished("t").Status
	if got := f.starts("ran"); !slices.Equal(got, []string{"10", "11", "12"}) {
		t.Errorf("started were %q", got)
	}
	if end := s.State.Terminated; s.Phase != batch.TaskFailed || s.CompletedCount != 2 || s.Attempts != 1 || end.ExitCode != 3 || end.Message != "out 12\n" {
		t.Errorf("got status %+v, terminated %+v", s, end)
	}
}

func TestAnIndexThatCannotStartFailsTheChunk(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	task := &batch.Task{Spec: batch.TaskSpec{Command: []string{"no-such-program"}, Indexes: "0-3"}}
	f.run(w, "t", task)
	if s := f.awaitFinished("t").Status; s.Phase != batch.TaskFailed || s.CompletedCount != 0 || s.State.Terminated.Reason != batch.TaskReasonStartError {
		t.Errorf("got status %+v", s)
	}
}

func TestAChunkReleasesWhatWaitsBehindASlowIndex(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; [ $TASK_INDEX != 1 ] || while [ ! -e "+f.file("go")+" ]; do sleep 0.01; done", withIndexes("0-9")))
	s := f.await("t", "releases the rest", func(t *batch.Task) bool { return t.Status.IndexLimit != nil }).Status
	if *s.IndexLimit != 2 || s.CompletedCount != 1 || s.Phase != batch.TaskRunning {
		t.Errorf("got status %+v", s)
	}
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
	s = f.awaitFinished("t").Status
	if got := f.starts("ran"); s.Phase != batch.TaskSucceeded || s.CompletedCount != 2 || !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("started were %q, got status %+v", got, s)
	}
}

func TestNoIndexStartsAfterTheTimeOfAChunk(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; sleep 0.4", withIndexes("0-9")))
	s := f.awaitFinished("t").Status
	if got := len(f.starts("ran")); s.Phase != batch.TaskSucceeded || int(s.CompletedCount) != got || got < 1 || got > 3 {
		t.Errorf("%d started, got status %+v", got, s)
	}
	if limit := ptr.Deref(s.IndexLimit, s.CompletedCount); limit != s.CompletedCount {
		t.Errorf("the limit is %d, %d have succeeded", limit, s.CompletedCount)
	}
	for i, write := range statusWrites(w) {
		if i > 0 && write.CompletedCount < statusWrites(w)[i-1].CompletedCount {
			t.Errorf("write %d goes back to %d", i, write.CompletedCount)
		}
	}
}

func TestADrainedWorkerStoresWhatAChunkHasCompleted(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; [ $TASK_INDEX != 3 ] || exec sleep 1000", withIndexes("0-9")))
	f.awaitLines("ran", 4)
	f.must(w.stop())
	s := f.get("t").Status
	if s.Phase != batch.TaskPending || s.CompletedCount != 3 || *s.IndexLimit != 4 || s.Attempts != 1 || s.Disruptions != 1 {
		t.Errorf("got status %+v", s)
	}
}

func TestADeletedChunkReportsBeforeItIsRemoved(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; [ $TASK_INDEX != 3 ] || exec sleep 1000", withIndexes("0-9")))
	f.awaitLines("ran", 4)
	f.delete("t", nil)
	f.awaitGone("t")
	writes := statusWrites(w)
	if last := writes[len(writes)-1]; last.Phase != batch.TaskFailed || last.CompletedCount != 3 {
		t.Errorf("the last write was %+v", last)
	}
}

func TestTheDeadlineOfAChunkIsThatOfEachIndex(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran")+"; [ $TASK_INDEX = 0 ] || exec sleep 1000; sleep 0.7", withIndexes("0-9"), deadline(1)))
	s := f.awaitFinished("t").Status
	if s.Phase != batch.TaskFailed || s.CompletedCount != 1 || s.State.Terminated.Reason != batch.TaskReasonDeadlineExceeded {
		t.Errorf("got status %+v", s)
	}
	if s.BusyMilliseconds < 1700 {
		t.Errorf("both indexes together ran for %d ms, less than one until its end and the other until its deadline", s.BusyMilliseconds)
	}
}

func TestADisruptedChunkReportsTheStartOfItsFirstIndexOnly(t *testing.T) {
	f := newFixture(t)
	f.disrupted("t", script("echo $TASK_INDEX/$TASK_ATTEMPT >>"+f.file("ran"), withIndexes("0-9")), 4)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.bind("t", w.incarnation)
	s := f.awaitFinished("t").Status
	if got := f.starts("ran"); !slices.Equal(got, []string{"4/2"}) || s.CompletedCount != 5 || s.Phase != batch.TaskSucceeded {
		t.Errorf("started were %q, got status %+v", got, s)
	}
	if writes := statusWrites(w); len(writes) != 2 || writes[0].State.Running == nil || writes[0].Attempts != 2 || writes[0].CompletedCount != 4 {
		t.Errorf("got writes %+v", writes)
	}
}

func (f *fixture) awaitLines(file string, n int) {
	f.Helper()
	processtest.Eventually(f.T, fmt.Sprintf("%s has %d lines", file, n), func() bool { return f.lines(file) >= n })
}

// held returns a script that records its index, and that index n runs until a file exists.
func (f *fixture) held(n int, file string) string {
	return fmt.Sprintf("echo $TASK_INDEX >>%s; [ $TASK_INDEX != %d ] || while [ ! -e %s ]; do sleep 0.01; done", f.file("ran"), n, f.file(file))
}

func TestNoIndexStartsAfterItsReleaseWasSent(t *testing.T) {
	for name, api := range map[string]func(c *testapi.Client, sent func() bool){
		"and refused": func(c *testapi.Client, sent func() bool) {
			c.Hook = func(verb, _, _ string) error {
				if verb == "updateStatus" && sent() {
					return apierrors.NewInternalError(errors.New("away"))
				}
				return nil
			}
		},
		"and in conflict": func(c *testapi.Client, sent func() bool) {
			c.Hook = func(verb, _, name string) error {
				if verb == "updateStatus" && sent() {
					return apierrors.NewConflict(batch.Resource("tasks"), name, errors.New("changed"))
				}
				return nil
			}
		},
		"and stored without a response": func(c *testapi.Client, sent func() bool) {
			c.After = func(string, string) error {
				if sent() {
					return errors.New("connection reset")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			client := f.server.Client()
			var writes atomic.Int32
			fails := make(chan struct{})
			api(client, func() bool {
				if writes.Add(1) == 2 {
					close(fails)
				}
				select {
				case <-fails:
					return f.lines("again") == 0
				default:
					return false
				}
			})
			w := f.startWith(client)
			f.run(w, "t", script(f.held(2, "go"), withIndexes("0-9")))
			<-fails // the first write is that of the start, the second one that of the release
			f.must(os.WriteFile(f.file("go"), nil, 0o600))
			processtest.Eventually(t, "the index has ended", func() bool { return w.config.Commands.Load() == 0 })
			// What is sent now is the result. The next index would have started before.
			sent := writes.Load()
			processtest.Eventually(t, "the result is sent", func() bool { return writes.Load() > sent || isFinished(f.get("t")) })
			f.must(os.WriteFile(f.file("again"), []byte("\n"), 0o600))
			s := f.awaitFinished("t").Status
			if got := f.starts("ran"); !slices.Equal(got, []string{"0", "1", "2"}) || s.Phase != batch.TaskSucceeded || s.CompletedCount != 3 || ptr.Deref(s.IndexLimit, 0) != 3 {
				t.Errorf("started were %q, got status %+v", got, s)
			}
		})
	}
}

// lowerLimit sets the indexLimit of a task, as somebody else than its worker.
func (f *fixture) lowerLimit(name string, limit int32) {
	f.Helper()
	processtest.Eventually(f.T, "the limit is lowered", func() bool {
		task := f.get(name)
		task.Status.IndexLimit = &limit
		_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
		return err == nil
	})
}

func TestALimitThatOthersSetIsHonored(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script(f.held(0, "go"), withIndexes("0-9")))
	f.awaitLines("ran", 1)
	f.lowerLimit("t", 2)
	// The worker observes a later change after the limit.
	f.must(os.WriteFile(f.file("go"), nil, 0o600))
	s := f.awaitFinished("t").Status
	if got := len(f.starts("ran")); s.Phase != batch.TaskSucceeded || int(s.CompletedCount) > 2 || got > 2 {
		t.Errorf("%d indexes were started, got status %+v", got, s)
	}
}

func TestIndexesThatOthersReleaseAfterTheyHaveRunDoNotCount(t *testing.T) {
	for result, phase := range map[string]batch.TaskPhase{"exit 0": batch.TaskSucceeded, "exit 1": batch.TaskSucceeded} {
		f := newFixture(t)
		w := f.start()
		f.run(w, "t", script(f.held(4, "go")+"; [ $TASK_INDEX != 4 ] || "+result, withIndexes("0-9")))
		f.awaitLines("ran", 5)
		f.lowerLimit("t", 2)
		// The report of the start comes between, and must not be refused forever.
		f.await("t", "is written", func(t *batch.Task) bool { return t.Status.CompletedCount == 1 && t.Status.Phase == batch.TaskRunning })
		f.must(os.WriteFile(f.file("go"), nil, 0o600))
		if s := f.awaitFinished("t").Status; s.Phase != phase || s.CompletedCount != 2 || *s.IndexLimit != 2 || s.State.Terminated.Reason != batch.TaskReasonCompleted {
			t.Errorf("%s: got status %+v, terminated %+v", result, s, s.State.Terminated)
		}
		f.must(w.stop())
	}
}

func TestADrainedChunkWhoseCommandSucceedsNevertheless(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script("if [ $TASK_INDEX = 2 ]; then "+f.sleeper("ran", "exit 0")+"; fi", withIndexes("0-9")))
	f.awaitLines("ran", 1)
	f.must(w.stop())
	if s := f.get("t").Status; s.Phase != batch.TaskSucceeded || s.CompletedCount != 3 || s.Disruptions != 0 {
		t.Errorf("got status %+v", s)
	}
}

func TestADrainedChunkThatHasStartedNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		completed int32
		phase     batch.TaskPhase
	}{
		"and completed nothing":       {0, batch.TaskPending},
		"and has completed something": {3, batch.TaskSucceeded},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.disrupted("t", script("echo >>"+f.file("ran"), withIndexes("0-9")), tc.completed)
			w, inWrite, goOn := f.startWithHeldWrite()
			f.bind("t", w.incarnation)
			<-inWrite
			go func() { <-w.draining; close(goOn) }()
			f.must(w.stop())
			s := f.get("t").Status
			if s.Phase != tc.phase || s.CompletedCount != tc.completed || f.lines("ran") != 0 {
				t.Errorf("%d were started, got status %+v", f.lines("ran"), s)
			}
		})
	}
}

// disrupted creates a task that was evicted after so many of its indexes had succeeded and the next had been started.
func (f *fixture) disrupted(name string, task *batch.Task, completed int32) {
	f.Helper()
	f.create(name, task)
	f.bind(name, "earlier")
	stored := f.get(name)
	stored.Status.Phase, stored.Status.Attempts, stored.Status.CompletedCount = batch.TaskRunning, 1, completed
	_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), stored, metav1.UpdateOptions{})
	f.must(err)
	f.evict(name)
}

func TestADeletedChunkWhoseCommandSucceedsNevertheless(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script("if [ $TASK_INDEX = 2 ]; then "+f.sleeper("ran", "exit 0")+"; fi", withIndexes("0-9")))
	f.awaitLines("ran", 1)
	f.delete("t", nil)
	f.awaitGone("t")
	writes := statusWrites(w)
	if last := writes[len(writes)-1]; last.Phase != batch.TaskSucceeded || last.CompletedCount != 3 {
		t.Errorf("the last write was %+v", last)
	}
}

func TestAnEvictedChunkStartsNoFurtherIndex(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Hour })
	f.run(w, "t", script(f.held(1, "go"), withIndexes("0-9")))
	f.awaitLines("ran", 2)
	f.evict("t")
	processtest.Eventually(t, "the runner ends", func() bool { return w.config.Running.Load() == 0 })
	if got := f.starts("ran"); len(got) != 2 || len(statusWrites(w)) != 0 {
		t.Errorf("started were %q, %d writes", got, len(statusWrites(w)))
	}
	if s := f.get("t").Status; s.CompletedCount != 0 || *s.IndexLimit != 1 {
		t.Errorf("got status %+v", s)
	}
}

func TestAChunkOnAWorkerThatLacksAResource(t *testing.T) {
	for name, tc := range map[string]struct {
		failsFrom string
		backoff   time.Duration
		phase     batch.TaskPhase
		completed int32
	}{
		"for its first index":                        {"0", time.Millisecond, batch.TaskPending, 0},
		"for a later index":                          {"3", time.Millisecond, batch.TaskSucceeded, 3},
		"for a later index until its time has ended": {"3", time.Minute, batch.TaskSucceeded, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			err := error(unix.EAGAIN)
			var fails atomic.Pointer[error]
			w := f.startWorker(f.server.Client(), func(w *Worker) {
				failing(w, &fails)
				start := w.config.Start
				w.config.Start = func(c process.Command) (*process.Process, *process.StartError) {
					if slices.Contains(c.Env, "TASK_INDEX="+tc.failsFrom) {
						fails.Store(&err)
					}
					return start(c)
				}
				w.config.StartBackoff.Duration = tc.backoff
			}, func(o *Options) { o.AnnounceDelay = time.Hour })
			f.run(w, "t", script("echo $TASK_INDEX >>"+f.file("ran"), withIndexes("0-9")))
			task := f.await("t", "is returned", func(t *batch.Task) bool { return t.Status.Disruptions > 0 || t.Status.Phase.Finished() })
			if s := task.Status; s.Phase != tc.phase || s.CompletedCount != tc.completed || len(f.starts("ran")) != int(tc.completed) {
				t.Errorf("%d were started, got status %+v", f.lines("ran"), s)
			}
		})
	}
}

func TestALongChunkIsWrittenAtMostOnceASecond(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay = time.Millisecond })
	f.run(w, "t", &batch.Task{Spec: batch.TaskSpec{Command: []string{"true"}, Indexes: "0-999"}})
	s := f.awaitFinished("t").Status
	if n := w.api.Count("update", "tasks/status"); n > 3 || s.Phase != batch.TaskSucceeded || s.CompletedCount < 2 {
		t.Errorf("%d writes, got status %+v", n, s)
	}
}

func TestBusyTimeIsReported(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "lone", script("[ $TASK_ATTEMPT = 2 ] && sleep 0.1", backoffLimit(1)))
	f.run(w, "short", script("exit 1"))
	f.run(w, "chunk", script("sleep 0.1; [ $TASK_INDEX != 2 ]", withIndexes("0-4")))
	for name, between := range map[string][2]int64{"lone": {100, 5000}, "short": {1, 5000}, "chunk": {300, 15000}} {
		if busy := f.awaitFinished(name).Status.BusyMilliseconds; busy < between[0] || busy > between[1] {
			t.Errorf("%s: %d ms, want %d to %d", name, busy, between[0], between[1])
		}
	}
}

func TestIndexesAreCounted(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	w := f.start(func(o *Options) { o.Registerer = registry })
	f.run(w, "t", script("[ $TASK_INDEX != 3 ]", withIndexes("0-9")))
	f.awaitFinished("t")
	want := map[string]float64{
		"leat_worker_indexes_finished_total result=succeeded":         3,
		"leat_worker_indexes_finished_total result=failed":            1,
		"leat_task_attempts_total":                                    4,
		"leat_task_retries_total":                                     0,
		"leat_task_start_latency_seconds":                             1,
		"leat_task_duration_seconds result=failed":                    1,
		"leat_worker_tasks_finished_total reason=Error result=failed": 1,
		"leat_worker_running_tasks":                                   0,
		"leat_worker_task_status_writes_total outcome=stored":         1,
	}
	var got map[string]float64
	processtest.Eventually(t, "the metrics are those of what was run", func() bool {
		got = gathered(t, registry)
		return maps.Equal(got, want)
	})
}

func TestAnIndexOfAChunkHasTheEnvironmentOfItsOwnTask(t *testing.T) {
	for name, tc := range map[string]func(*batch.TaskSet){
		"an index only": func(*batch.TaskSet) {},
		"items":         func(s *batch.TaskSet) { s.Spec.Items = []string{"a", "$(X) $$HOME", "", "d e", "ü", "6"} },
		"first and step": func(s *batch.TaskSet) {
			s.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](7), Step: ptr.To[int32](3)}
		},
		"a list of numbers": func(s *batch.TaskSet) {
			s.Spec.IndexNumbers = &batch.IndexNumbers{List: []int32{5, 50, 500, 5000, 50000, 6}}
		},
		"variables of the template": func(s *batch.TaskSet) {
			s.Spec.Items = []string{"a", "b", "c", "d", "e", "f"}
			s.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "OWN", Value: "$(TASK_ITEM)/$(TASK_INDEX)/$(TASK_NAME)/$(TASK_ATTEMPT)"}, {Name: "TASK_ITEM", Value: "over"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "set", Namespace: "default", UID: "set-uid"}}
			set.Spec.Completions = ptr.To[int32](6)
			tc(set)
			environments := func(tasks func(set *batch.TaskSet) []*batch.Task) map[string][]string {
				f := newFixture(t)
				w := f.start()
				set := set.DeepCopy()
				set.Spec.Template.Spec.Command = []string{"sh", "-c", "env -0 >" + f.dir + "/$JOB_COMPLETION_INDEX"}
				for _, task := range tasks(set) {
					task.OwnerReferences = nil
					f.run(w, task.Name, task)
					if s := f.awaitFinished(task.Name).Status; s.Phase != batch.TaskSucceeded {
						t.Fatalf("%s: got status %+v", task.Name, s)
					}
				}
				all := map[string][]string{}
				for _, index := range []string{"1", "2", "5"} {
					data, err := os.ReadFile(f.file(index))
					f.must(err)
					all[index] = slices.DeleteFunc(slices.Sorted(strings.SplitSeq(string(data), "\x00")), func(entry string) bool {
						return strings.HasPrefix(entry, "LEAT_PROCESS=") || strings.HasPrefix(entry, "TASK_PROGRESS_FILE=")
					})
				}
				return all
			}
			lone := environments(func(set *batch.TaskSet) []*batch.Task {
				return []*batch.Task{batch.NewTask(set, 1, 0), batch.NewTask(set, 2, 0), batch.NewTask(set, 5, 0)}
			})
			chunk := environments(func(set *batch.TaskSet) []*batch.Task {
				return []*batch.Task{batch.NewChunk(set, []indexes.Range{{First: 1, Last: 2}, {First: 5, Last: 5}})}
			})
			for index := range lone {
				if !slices.Equal(lone[index], chunk[index]) {
					t.Errorf("index %s\nalone    %q\nin chunk %q", index, lone[index], chunk[index])
				}
			}
		})
	}
}

func TestAProcessThatCrashedWhileItRanAnIndexHasCrashedWithItsTask(t *testing.T) {
	f := newFixture(t)
	f.create("t", script("exit 1", withIndexes("0-9")))
	f.bind("t", "earlier")
	dir := f.leaveDirs(f.file("state"), "earlier")
	f.must(os.Mkdir(filepath.Join(dir, string(f.get("t").UID)+"_7-1"), 0o700))
	f.start(func(o *Options) { o.StateDir = f.file("state") })
	task := f.await("t", "is evicted", func(t *batch.Task) bool { return t.Spec.WorkerName == "" })
	if task.Status.WorkerCrashes != 1 {
		t.Errorf("got status %+v", task.Status)
	}
}

func TestTheOutputOfAChunkIsKeptByIndex(t *testing.T) {
	f := newFixture(t)
	store, err := logs.Open(logs.Options{Dir: f.file("logs"), MaxSize: logs.DefaultMaxSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
	f.must(err)
	defer store.Close()
	w := f.start(func(o *Options) { o.Logs = store })
	f.run(w, "t", script("echo out; [ $TASK_INDEX != 8 ] || while [ ! -e "+f.file("go")+" ]; do sleep 0.01; done", withIndexes("7-9")))
	uid := f.get("t").UID
	read := func(follow bool) (string, error) {
		var out strings.Builder
		err := store.ReadTask(f.Context(), uid, &out, func() {}, logs.TaskReadOptions{Prefix: true, ReadOptions: logs.ReadOptions{Follow: follow}})
		return out.String(), err
	}
	processtest.Eventually(t, "the second index has written", func() bool {
		got, _ := read(false)
		return got == "7 out\n8 out\n"
	})
	followed := make(chan string, 1)
	go func() {
		got, _ := read(true)
		followed <- got
	}()
	f.must(os.WriteFile(f.file("go"), nil, 0o600))
	f.awaitFinished("t")
	if got := <-followed; got != "7 out\n8 out\n9 out\n" {
		t.Errorf("got %q", got)
	}
}
