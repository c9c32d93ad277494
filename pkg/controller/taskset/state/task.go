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

package state

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TaskState is the state of a task of a set. A task is active while it is Waiting or Running.
//
// Events of the task move it as follows. Phases are those that the informer shows; deletion means that the task has a
// deletion timestamp or that the controller has requested its deletion.
//
//	state        unfinished            finished    deletion        gone
//	Absent       Waiting or Running    Finished    Terminating     -
//	Waiting      Waiting or Running    Finished    Terminating     Absent: the index is pending again
//	Running      Waiting or Running    Finished    Terminating     Absent: the index is pending again
//	Terminating  -                     Finished    -               Absent: the index is pending again
//	Finished     -                     -           -               Finished: the task is still counted
//	Discarded    -                     -           -               Absent: the index is pending again
//	Ignored      -                     -           Discarded       Absent: the index is pending again
//	Counted      -                     -           -               Counted: the status is still stored
//	Retained     -                     -           -               Absent
//	ToDelete     -                     -           Deleted (1)     Absent
//	Deleted      -                     -           -               Absent
//
// (1) Only if the controller has requested the deletion.
//
// Counting moves a Finished task as follows. The first row that applies counts.
//
//	the task has                                                   next        effect
//	succeeded, the index is done                                   ToDelete
//	succeeded                                                      Counted     the index is completed
//	failed, the outcome is decided, the index is done,
//	or the failure is counted already                              Retained    or ToDelete if the index has succeeded
//	failed while it was being deleted                              Discarded
//	failed, the failure policy ignores it                          Ignored     backoff
//	failed                                                         Counted     backoff; the index may have failed
//
// A task with several indexes is a chunk. Its indexes leave it one by one: those that have succeeded are counted as
// soon as they are observed, those that it has released are pending again. In the tables above, the index of a chunk is
// the one that runs, or that has failed. A chunk with successes is Counted before it is Retained or ToDelete, whatever
// becomes of its failure, because the status that counts the successes must be stored first.
//
// Other steps of a sync move tasks as follows.
//
//	state     event                                                next
//	Counted   the status is stored, the task has succeeded         ToDelete
//	Counted   the status is stored, the task has failed            Retained
//	Retained  the index has succeeded, or is past the end          ToDelete
//	Retained  MaxRetainedFailures later failures are retained      ToDelete
//	Ignored   the set has finished                                 Retained
//	any       the state is loaded again                            as Absent, from what the informer shows
type TaskState int

const (
	// Absent is a task that does not exist.
	Absent TaskState = iota
	// Waiting is a task that has not started.
	Waiting
	// Running is a task whose command runs.
	Running
	// Terminating is an unfinished task that is being deleted.
	Terminating
	// Finished is a task that has finished and is not counted yet.
	Finished
	// Discarded is a finished task that is being deleted and never counts. Its index is retried when it is gone.
	Discarded
	// Ignored is a failed task that the failure policy ignores. It is deleted when the backoff of its index ends.
	Ignored
	// Counted is a finished task whose count is not stored yet.
	Counted
	// Retained is a failed task whose count is stored. It is retained for users to inspect.
	Retained
	// ToDelete is a finished task whose count is stored and that nobody needs.
	ToDelete
	// Deleted is a task whose count is stored and whose deletion was requested.
	Deleted
)

// String returns the name of the state.
func (s TaskState) String() string {
	return [...]string{
		Absent: "Absent", Waiting: "Waiting", Running: "Running", Terminating: "Terminating", Finished: "Finished", Discarded: "Discarded",
		Ignored: "Ignored", Counted: "Counted", Retained: "Retained", ToDelete: "ToDelete", Deleted: "Deleted",
	}[s]
}

// Active reports whether the task waits or runs.
func (s TaskState) Active() bool { return s == Waiting || s == Running }

// finished reports whether the task has finished.
func (s TaskState) finished() bool { return s >= Finished }

// holdsIndex reports whether no other task of the index may be created. A finished task that is not counted holds its
// index until it is gone, because the next task will have its name.
func (s TaskState) holdsIndex() bool { return s > Absent && s <= Ignored }

// QueueOrder is what decides when a task that waits is scheduled.
type QueueOrder struct {
	Queue    string
	Priority int32
}

// QueueOrderOf returns the order of a task.
func QueueOrderOf(spec *batch.TaskSpec) QueueOrder { return QueueOrder{spec.QueueName, spec.Priority} }

// QueueOrderOfSet returns the order of the tasks that the controller creates for a set.
func QueueOrderOfSet(set *batch.TaskSet) QueueOrder {
	return QueueOrder{set.Spec.QueueName, set.Spec.Template.Spec.Priority}
}

// TaskToCreate is a task to create.
type TaskToCreate struct {
	// Indexes are the indexes that the task runs: one, or several that have not failed.
	Indexes []indexes.Range
	// FailureCount is how many tasks of the index have been counted as failed.
	FailureCount int
	// Uncertain is true if an earlier request to create the task has failed, but may have had an effect all the same.
	Uncertain bool
}

// String returns the indexes and the failure count, like "4-67 after 0 failures".
func (t TaskToCreate) String() string {
	return fmt.Sprintf("%s after %d failures", indexes.Format(t.Indexes), t.FailureCount)
}

// TrackedTask is a task of a set, with what the controller needs to know of it.
type TrackedTask struct {
	UID             types.UID
	Name            string
	ResourceVersion string

	// indexes are the indexes that the task was created for: none, one, or those of a chunk.
	indexes []indexes.Range
	chunk   bool
	// completedCount is how many indexes of a chunk have succeeded, and indexCount how many it may run.
	completedCount, indexCount int
	// countedCount is how many of completedCount are counted in the set.
	countedCount int
	// held are the indexes for which no other task may be created. Only hold changes it.
	held []indexes.Range

	state TaskState
	// phase is the phase that was observed last.
	phase batch.TaskPhase
	// failureCount is how many tasks of the index had been counted as failed when this one was created.
	failureCount int
	// finishedAt is when a finished task finished.
	finishedAt time.Time
	// failed is the object of a failed task. The failure policy evaluates it whenever the task is counted.
	failed *batch.Task
	// bound reports whether the task has a worker.
	bound bool
	// crashed reports whether a worker has crashed while it ran the task.
	crashed bool
	// busy is how long the ended commands of the task ran, together. measured reports whether it was evaluated.
	busy     time.Duration
	measured bool
	// placement is what the task counts as in the counters of bound and unbound tasks.
	placement placement
	order     QueueOrder
	// requestedOrder is the order in the request to create the task, if the server stored another one.
	requestedOrder *QueueOrder
	// deletionTimestamp reports whether the task has one, and deletionRequested whether the controller has requested
	// the deletion.
	deletionTimestamp, deletionRequested bool
	// deletionRequestedAt is when the controller requested the deletion.
	deletionRequestedAt time.Time
	// gone reports whether the task was deleted. Finished and Counted tasks outlive their deletion.
	gone bool
	// backoffRecorded reports whether the backoff includes the failure of the task.
	backoffRecorded bool
	// requestedAt is when the controller requested the task, zero once the task is observed to have started.
	requestedAt time.Time
}

// newTrackedTask returns a task that was observed for the first time.
func newTrackedTask(task *batch.Task) *TrackedTask {
	ranges := task.CompletionIndexes()
	return &TrackedTask{
		UID: task.UID, Name: task.Name, indexes: ranges, chunk: task.Spec.Indexes != "", indexCount: indexes.Count(ranges),
		failureCount: FailureCount(task),
	}
}

// Index returns the index that the task runs, or that has failed: of a chunk the one after those that have succeeded.
// It returns -1 if there is none.
func (t *TrackedTask) Index() int {
	if t.completedCount >= t.indexCount {
		return -1
	}
	return indexes.At(t.indexes, t.completedCount)
}

// holds returns the indexes that the task holds in its state: of a chunk those that it has not completed or released. A
// finished chunk has released all indexes but the one that has failed.
func (t *TrackedTask) holds() []indexes.Range {
	switch {
	case !t.state.holdsIndex():
		return nil
	case !t.chunk:
		return t.indexes
	case t.phase == batch.TaskSucceeded:
		return nil
	case t.phase == batch.TaskFailed:
		return indexes.Slice(t.indexes, t.completedCount, min(t.completedCount+1, t.indexCount))
	}
	return indexes.Slice(t.indexes, t.completedCount, t.indexCount)
}

// State returns the state of the task.
func (t *TrackedTask) State() TaskState { return t.state }

// Succeeded reports whether the task has succeeded.
func (t *TrackedTask) Succeeded() bool { return t.phase == batch.TaskSucceeded }

// NeedsDeletion reports whether the deletion of the task must be requested: it exists, and its deletion was not
// requested.
func (t *TrackedTask) NeedsDeletion() bool { return !t.gone && !t.deletionRequested }

// HasDeletionTimestamp reports whether the task is being deleted.
func (t *TrackedTask) HasDeletionTimestamp() bool { return t.deletionTimestamp }

// observe updates the task. It ignores an event that is older than the state: a finished task never starts again.
func (t *TrackedTask) observe(task *batch.Task) {
	if t.phase.Finished() && !task.Status.Phase.Finished() {
		return
	}
	t.phase, t.ResourceVersion = task.Status.Phase, task.ResourceVersion
	t.bound, t.order = task.Spec.WorkerName != "", QueueOrderOf(&task.Spec)
	t.crashed = task.Status.WorkerCrashes > 0
	t.busy = time.Duration(task.Status.BusyMilliseconds) * time.Millisecond
	if t.chunk {
		t.completedCount = max(t.completedCount, int(task.Status.CompletedCount))
		if limit := task.Status.IndexLimit; limit != nil {
			t.indexCount = min(t.indexCount, int(*limit))
		}
		t.completedCount = min(t.completedCount, t.indexCount)
	}
	t.deletionTimestamp = task.DeletionTimestamp != nil
	if t.phase.Finished() {
		t.finishedAt = finishTime(task)
	}
	if t.phase == batch.TaskFailed && !t.state.finished() {
		t.failed = task
	}
}

// observedState returns the next state of the task by the events that were observed.
func (t *TrackedTask) observedState() TaskState {
	deletion := t.deletionTimestamp || t.deletionRequested
	switch {
	case t.state == Ignored && deletion:
		return Discarded
	case t.state.finished():
		return t.state
	case t.phase.Finished():
		return Finished
	case deletion:
		return Terminating
	case t.phase == batch.TaskRunning:
		return Running
	}
	return Waiting
}

// observeStart returns how long the start of a task has taken that the controller requested. It reports true once, when
// the task is first observed to have started.
func (t *TrackedTask) observeStart(now time.Time) (time.Duration, bool) {
	if t.requestedAt.IsZero() || t.phase == "" || t.phase == batch.TaskPending {
		return 0, false
	}
	duration := now.Sub(t.requestedAt)
	t.requestedAt = time.Time{}
	return duration, true
}

// finishTime returns when a finished task finished.
func finishTime(task *batch.Task) time.Time {
	switch {
	case task.Status.CompletionTime != nil:
		return task.Status.CompletionTime.Time
	case task.Status.State.Terminated != nil && !task.Status.State.Terminated.FinishedAt.IsZero():
		return task.Status.State.Terminated.FinishedAt.Time
	}
	return task.CreationTimestamp.Time
}
