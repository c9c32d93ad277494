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
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/processtest"
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
	if took := s.State.Terminated.FinishedAt.Sub(s.StartTime.Time); took < time.Second {
		t.Errorf("both indexes together took %s, which is less than the deadline of one after the other", took)
	}
}

func TestADisruptedChunkReportsTheStartOfItsFirstIndexOnly(t *testing.T) {
	f := newFixture(t)
	f.create("t", script("echo $TASK_INDEX/$TASK_ATTEMPT >>"+f.file("ran"), withIndexes("0-9")))
	f.bind("t", "earlier")
	task := f.get("t")
	task.Status.Phase, task.Status.Attempts, task.Status.CompletedCount = batch.TaskRunning, 1, 4
	_, err := f.test.BatchV1alpha1().Tasks("default").UpdateStatus(f.Context(), task, metav1.UpdateOptions{})
	f.must(err)
	f.evict("t")
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
