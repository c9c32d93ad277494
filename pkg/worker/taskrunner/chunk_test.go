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

package taskrunner

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestWhatIsWrittenOfAChunk(t *testing.T) {
	failed := batch.TaskState{Terminated: &batch.TaskStateTerminated{ExitCode: 3, Reason: batch.TaskReasonError, Message: "out"}}
	ended := batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}}
	for name, tc := range map[string]struct {
		known, stored, want batch.TaskStatus
	}{
		"an index that runs": {
			known:  batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1},
			stored: batch.TaskStatus{CompletedCount: 2, Attempts: 3},
			want:   batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1},
		},
		"the release of the rest": {
			known: batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1, IndexLimit: ptr.To[int32](5)},
			want:  batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1, IndexLimit: ptr.To[int32](5)},
		},
		"a stored limit that is lower": {
			known:  batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1, IndexLimit: ptr.To[int32](9)},
			stored: batch.TaskStatus{IndexLimit: ptr.To[int32](5)},
			want:   batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1, IndexLimit: ptr.To[int32](5)},
		},
		"an index that runs and is released": {
			known:  batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 4, Attempts: 1},
			stored: batch.TaskStatus{IndexLimit: ptr.To[int32](3), CompletedCount: 2, Attempts: 2},
			want:   batch.TaskStatus{Phase: batch.TaskRunning, CompletedCount: 2, Attempts: 2, IndexLimit: ptr.To[int32](3)},
		},
		"the success of all": {
			known: batch.TaskStatus{Phase: batch.TaskSucceeded, CompletedCount: 10, Attempts: 1, State: ended},
			want:  batch.TaskStatus{Phase: batch.TaskSucceeded, CompletedCount: 10, Attempts: 1, State: ended},
		},
		"a failure": {
			known: batch.TaskStatus{Phase: batch.TaskFailed, CompletedCount: 4, Attempts: 1, State: failed},
			want:  batch.TaskStatus{Phase: batch.TaskFailed, CompletedCount: 4, Attempts: 1, State: failed},
		},
		"the failure of an index that was released": {
			known:  batch.TaskStatus{Phase: batch.TaskFailed, CompletedCount: 4, Attempts: 1, State: failed},
			stored: batch.TaskStatus{IndexLimit: ptr.To[int32](3)},
			want:   batch.TaskStatus{Phase: batch.TaskSucceeded, CompletedCount: 3, Attempts: 1, State: ended, IndexLimit: ptr.To[int32](3)},
		},
	} {
		known := taskStatus{
			indexCount: 10, phase: tc.known.Phase, state: tc.known.State, attempts: tc.known.Attempts,
			completedCount: tc.known.CompletedCount, indexLimit: tc.known.IndexLimit,
		}
		got := tc.stored
		known.applyTo(&got)
		limit, want := ptr.Deref(got.IndexLimit, 0), ptr.Deref(tc.want.IndexLimit, 0)
		if got.Phase != tc.want.Phase || got.CompletedCount != tc.want.CompletedCount || got.Attempts != tc.want.Attempts || limit != want {
			t.Errorf("%s: got %+v, limit %d, want %+v, limit %d", name, got, limit, tc.want, want)
		}
		if end := tc.want.State.Terminated; end != nil && *got.State.Terminated != *end {
			t.Errorf("%s: terminated is %+v, want %+v", name, got.State.Terminated, end)
		}
	}
	if failed.Terminated.Reason != batch.TaskReasonError {
		t.Error("the state of the runner was changed")
	}
}

// observing returns a runner of a chunk of ten indexes that has completed some, and observes a limit.
func observing(p phase, completed, limit int32) *Runner {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "t", UID: "u", ResourceVersion: "1"}, Spec: batch.TaskSpec{Indexes: "0-9"}}
	lost := make(chan struct{})
	r := &Runner{
		assignment: newAssignment(nil, task, NewMetrics(nil), lost), phase: p, task: task,
		chunk:  &chunk{ranges: []indexes.Range{{First: 0, Last: 9}}, startedAt: time.Now()},
		status: taskStatus{indexCount: 10, completedCount: completed},
	}
	changed := task.DeepCopy()
	changed.ResourceVersion, changed.Status.IndexLimit = "2", &limit
	r.observe(changed)
	return r
}

func TestNothingStartsPastALimitThatWasObserved(t *testing.T) {
	succeeded := &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}
	for _, tc := range []struct {
		completed, limit int32
		starts           bool
	}{{3, 4, true}, {4, 4, false}, {5, 4, false}, {3, 12, true}} {
		if r := observing(running, tc.completed, tc.limit); r.phase != running || r.startsNextIndex(succeeded) != tc.starts {
			t.Errorf("with %d of %d completed another index starts: %t", tc.completed, tc.limit, !tc.starts)
		}
		want := starting
		if !tc.starts {
			want = finishing
		}
		if r := observing(starting, tc.completed, tc.limit); r.phase != want {
			t.Errorf("between two indexes, with %d of %d completed, the phase is %s", tc.completed, tc.limit, r.phase)
		}
	}
}

func TestNothingStartsOnceTheTimeOfAChunkIsOver(t *testing.T) {
	succeeded := &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted}
	r := observing(running, 3, 10)
	r.chunk.startedAt = time.Now().Add(-batch.ChunkDuration)
	if r.startsNextIndex(succeeded) {
		t.Error("another index starts")
	}
}
