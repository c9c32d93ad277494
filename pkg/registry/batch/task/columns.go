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

package task

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// StatusColumn returns the phase, or more specific: Terminating, or the reason why the task waits or has failed.
func StatusColumn(task *batch.Task) any {
	switch reason := ReasonColumn(task); {
	case task.DeletionTimestamp != nil && !Finished(task):
		return "Terminating"
	case task.Status.Phase == batch.TaskSucceeded || reason == batch.TaskReasonUnschedulable || reason == "":
		return string(task.Status.Phase)
	default:
		return reason
	}
}

// ReasonColumn returns the reason of the task's state.
func ReasonColumn(task *batch.Task) any {
	state := task.Status.State
	switch {
	case state.Terminated != nil:
		return state.Terminated.Reason
	case state.Waiting != nil && state.Waiting.Reason != "":
		return state.Waiting.Reason
	}
	if scheduled := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); scheduled != nil &&
		scheduled.Status == metav1.ConditionFalse {
		return scheduled.Reason
	}
	return ""
}

// ExitColumn returns the exit code, or the name of the signal that terminated the command.
func ExitColumn(task *batch.Task) any {
	if terminated := task.Status.State.Terminated; terminated != nil {
		return formatExit(terminated.ExitCode, terminated.Signal)
	}
	return ""
}

// formatExit formats an exit code, or the name of a signal if it is not 0.
func formatExit(exitCode, signal int32) string {
	if signal == 0 {
		return fmt.Sprint(exitCode)
	}
	if name := unix.SignalName(syscall.Signal(signal)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", signal)
}

// WaitColumn returns the time from creation to the first start, or to now for a task that waits.
func WaitColumn(task *batch.Task) any {
	if task.Status.StartTime == nil && Finished(task) {
		return ""
	}
	return registry.Between(&task.CreationTimestamp, task.Status.StartTime)
}

// DurationColumn returns the time from the first start to completion, or to now for a task that runs.
func DurationColumn(task *batch.Task) any {
	return registry.Between(task.Status.StartTime, task.Status.CompletionTime)
}

// IndexesColumn returns how many indexes have succeeded and how many the task may run, like 37/64. It is empty for a
// task without indexes.
func IndexesColumn(task *batch.Task) any {
	if task.Spec.Indexes == "" {
		return ""
	}
	return fmt.Sprintf("%d/%d", task.Status.CompletedCount, indexCount(task))
}
