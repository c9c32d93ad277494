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

package taskstate

import (
	"cmp"
	"fmt"
	"strconv"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// IsChunk reports whether the task runs several indexes, one after the other.
func IsChunk(task *batch.Task) bool { return task.Spec.Indexes != "" }

// HeldIndexes returns the indexes that a task has run or may still run: those that it was created for, without those
// that were released to other tasks.
func HeldIndexes(task *batch.Task) []indexes.Range {
	all := task.CompletionIndexes()
	if !IsChunk(task) {
		return all
	}
	end := int(ptr.Deref(task.Status.IndexLimit, int32(indexes.Count(all))))
	switch task.Status.Phase {
	case batch.TaskSucceeded:
		end = int(task.Status.CompletedCount)
	case batch.TaskFailed:
		end = int(task.Status.CompletedCount) + 1
	}
	return indexes.Slice(all, 0, end)
}

// CompletedIndexes returns the indexes of a task that have succeeded.
func CompletedIndexes(task *batch.Task) []indexes.Range {
	switch {
	case IsChunk(task):
		return indexes.Slice(task.CompletionIndexes(), 0, int(task.Status.CompletedCount))
	case task.Status.Phase == batch.TaskSucceeded:
		return task.CompletionIndexes()
	}
	return nil
}

// CurrentIndex returns the index that a task runs, will run next, or has failed at. It returns false if the task has
// succeeded or has no index.
func CurrentIndex(task *batch.Task) (int, bool) {
	if task.Status.Phase == batch.TaskSucceeded {
		return 0, false
	}
	left := indexes.Subtract(HeldIndexes(task), CompletedIndexes(task))
	if len(left) == 0 {
		return 0, false
	}
	return left[0].First, true
}

// FailedIndex returns the index of a set at which a task has failed. It returns false if the task has not failed or has
// no index.
func FailedIndex(task *batch.Task) (int, bool) {
	if task.Status.Phase != batch.TaskFailed {
		return 0, false
	}
	return CurrentIndex(task)
}

// signalNames are the names of the signals of Linux that often end commands.
var signalNames = map[int32]string{
	1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 10: "SIGUSR1",
	11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}

// Exit returns the exit code of an attempt, the signal that ended it, or the reason why it ended otherwise.
func Exit(reason string, exitCode, signal int32) string {
	switch reason {
	case "", batch.TaskReasonCompleted, batch.TaskReasonError:
	default:
		return sanitize.Line(reason)
	}
	if signal == 0 {
		return strconv.Itoa(int(exitCode))
	}
	return cmp.Or(signalNames[signal], fmt.Sprintf("signal %d", signal))
}
