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
	"bytes"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/echo"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/process"
)

// Archive keeps finished attempts. It is safe for concurrent use.
type Archive interface {
	// Expect is called when the worker has a task of the set, and had none before.
	Expect(set types.UID)
	// Add keeps a finished attempt. set is the UID of its TaskSet, empty without one. output is the kept end of what the
	// command has printed; Add does not retain it. It reports whether the attempt is kept: if not, the caller keeps the
	// output where it was.
	Add(set types.UID, record *batch.TaskRecord, output []byte) bool
	// MaxBytesPerAttempt returns how many bytes of the output of an attempt are kept at most. It may change.
	MaxBytesPerAttempt() int64
	// Release is called when the worker has no more tasks of the set.
	Release(set types.UID)
}

const (
	// reasonDeleted is the reason in the record of an attempt that was stopped because its task is being deleted.
	reasonDeleted = "Deleted"
	// reasonLost is the reason in the record of an attempt that was stopped because its task was deleted, or was taken
	// from the worker.
	reasonLost = "Lost"
)

// maxPooledOutput is how large a buffer may be that is used again.
const maxPooledOutput = 256 << 10

// outputs holds the buffers with output for the archive that are not used.
var outputs = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// archive keeps an attempt that has ended in the archive. If the archive has it, its log is removed. For a task with
// spec.indexes, task is that of the index alone. Without a set such a task is not archived, and its logs stay on the
// worker. p is nil if the command could not be started.
func (r *Runner) archive(task *batch.Task, id attempt.ID, log *logs.Log, p *process.Process, end *batch.TaskStateTerminated) {
	if r.config.Archive == nil {
		return
	}
	set := SetOf(r.task)
	if set == "" && id.Index != attempt.NoIndex {
		return // a segment of tasks without a set has one attempt of a number for each task
	}
	record := r.record(task, set, id, end)
	if p != nil {
		usage := p.Usage()
		record.CPUMilliseconds = int64((usage.CPU + time.Millisecond - 1) / time.Millisecond)
		record.PeakMemoryBytes = usage.PeakMemory
	}
	output := outputs.Get().(*bytes.Buffer)
	defer func() {
		if output.Cap() <= maxPooledOutput {
			output.Reset()
			outputs.Put(output)
		}
	}()
	var err error
	limit := r.config.Archive.MaxBytesPerAttempt()
	switch {
	case log != nil:
		record.OutputBytes, record.MissingBytes, err = log.WriteEnd(output, limit)
	case p != nil:
		// The worker keeps no output.
		record.OutputBytes, record.MissingBytes = p.OutputBytes(), p.OutputBytes()
		err = logs.WriteNotKept(output, p.OutputBytes(), limit)
	}
	if err != nil {
		klog.Background().Error(err, "Failed to read the output of an attempt for the archive", "task", klog.KObj(task), "attempt", id)
	}
	if r.config.Archive.Add(set, record, output.Bytes()) {
		log.CloseAndRemove()
	}
}

// record returns the record of an attempt, without its usage and output.
func (r *Runner) record(task *batch.Task, set types.UID, id attempt.ID, end *batch.TaskStateTerminated) *batch.TaskRecord {
	// Rounded up.
	took := (end.FinishedAt.Sub(end.StartedAt.Time) + time.Millisecond - 1) / time.Millisecond
	record := &batch.TaskRecord{
		TaskName:             task.Name,
		TaskUID:              id.Task,
		Attempt:              id.Number,
		WorkerName:           r.config.WorkerName,
		Incarnation:          r.config.Incarnation,
		StartTime:            metav1.NewMicroTime(end.StartedAt.Truncate(time.Microsecond)),
		DurationMilliseconds: max(0, int64(took)),
		ExitCode:             end.ExitCode,
		Signal:               end.Signal,
		Reason:               r.endReason(end.Reason),
	}
	if failures, err := strconv.ParseInt(r.task.Annotations[batch.AnnotationIndexFailureCount], 10, 32); err == nil && failures > 0 {
		record.Failures = int32(failures)
	}
	record.Index = indexOf(task, id, set != "")
	return record
}

// indexOf returns the index of an attempt, nil without one. Anybody may set the label of a task without a set, so that
// does not count.
func indexOf(task *batch.Task, id attempt.ID, hasSet bool) *int32 {
	if id.Index != attempt.NoIndex {
		return ptr.To(int32(id.Index))
	}
	if ranges := task.CompletionIndexes(); hasSet && len(ranges) > 0 {
		return ptr.To(int32(ranges[0].First))
	}
	return nil
}

// echoAttempt returns what identifies an attempt beside its lines. task is that of its index alone.
func echoAttempt(task *batch.Task, id attempt.ID) echo.Attempt {
	a := echo.Attempt{Namespace: task.Namespace, Task: task.Name, Attempt: id.Number}
	set := setReference(task)
	if set != nil {
		a.TaskSet = set.Name
	}
	a.Index = indexOf(task, id, set != nil)
	return a
}

// endReason returns why an attempt has ended, from the reason that its task would report: why it was stopped, unless it
// has succeeded nevertheless.
func (r *Runner) endReason(reported string) string {
	switch {
	case r.stopReason == stoppedByDeadline:
		return batch.TaskReasonDeadlineExceeded
	case reported == batch.TaskReasonCompleted || reported == batch.TaskReasonStartError:
		return reported
	case r.stopReason == stoppedByDrain:
		return reasonStopped
	case r.stopReason == stoppedByDeletion:
		return reasonDeleted
	case r.stopReason == stoppedByLoss:
		return reasonLost
	}
	return reported
}

// SetOf returns the UID of the TaskSet that controls a task, empty without one. Labels do not count: anybody may set
// them.
func SetOf(task *batch.Task) types.UID {
	if set := setReference(task); set != nil {
		return set.UID
	}
	return ""
}

// setReference returns the reference to the TaskSet that controls a task, nil without one.
func setReference(task *batch.Task) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(task)
	if owner == nil || owner.Kind != "TaskSet" || owner.APIVersion != batch.SchemeGroupVersion.String() {
		return nil
	}
	return owner
}
