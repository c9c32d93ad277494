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
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func TestColumns(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) *metav1.Time { return ptr.To(metav1.NewTime(now.Add(-d))) }
	status := func(status batch.TaskStatus) func(*batch.Task) {
		return func(task *batch.Task) { task.Status = status }
	}
	terminated := func(phase batch.TaskPhase, state batch.TaskStateTerminated) func(*batch.Task) {
		return status(batch.TaskStatus{Phase: phase, State: batch.TaskState{Terminated: &state}})
	}
	scheduled := func(value metav1.ConditionStatus, reason string) func(*batch.Task) {
		return status(batch.TaskStatus{Phase: batch.TaskPending, Conditions: []metav1.Condition{
			{Type: batch.TaskScheduled, Status: value, Reason: reason},
		}})
	}
	deleted := func(task *batch.Task) { task.DeletionTimestamp = ago(0) }
	created := func(d time.Duration) func(*batch.Task) {
		return func(task *batch.Task) { task.CreationTimestamp = *ago(d) }
	}
	for _, test := range []struct {
		name                                 string
		task                                 *batch.Task
		status, reason, exit, wait, duration string
	}{
		{
			"new", newTask(created(5 * time.Minute)),
			"Pending", "", "", "5m", "",
		},
		{
			"unschedulable is pending, for a reason", newTask(created(time.Minute), scheduled(metav1.ConditionFalse, "Unschedulable")),
			"Pending", "Unschedulable", "", "60s", "",
		},
		{
			"gated", newTask(created(time.Minute), scheduled(metav1.ConditionFalse, "SchedulingGated")),
			"SchedulingGated", "SchedulingGated", "", "60s", "",
		},
		{
			"bound", newTask(created(time.Minute), scheduled(metav1.ConditionTrue, "Bound")),
			"Pending", "", "", "60s", "",
		},
		{
			"waits to be started again", newTask(created(time.Minute), status(batch.TaskStatus{
				Phase: batch.TaskRunning, StartTime: ago(30 * time.Second),
				State: batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: "BackOff"}},
			})),
			"BackOff", "BackOff", "", "30s", "30s",
		},
		{
			"runs", newTask(created(2*time.Hour), status(batch.TaskStatus{
				Phase: batch.TaskRunning, StartTime: ago(time.Hour), State: batch.TaskState{Running: &batch.TaskStateRunning{}},
			})),
			"Running", "", "", "60m", "60m",
		},
		{
			"succeeded", newTask(created(2*time.Hour), status(batch.TaskStatus{
				Phase: batch.TaskSucceeded, StartTime: ago(2 * time.Hour), CompletionTime: ago(time.Hour),
				State: batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: "Completed"}},
			})),
			"Succeeded", "Completed", "0", "0s", "60m",
		},
		{
			"failed", newTask(terminated(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 3, Reason: "Error"})),
			"Error", "Error", "3", "", "",
		},
		{
			"killed", newTask(terminated(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 137, Signal: 9, Reason: "Error"})),
			"Error", "Error", "SIGKILL", "", "",
		},
		{
			"out of time", newTask(terminated(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 143, Signal: 15, Reason: "DeadlineExceeded"})),
			"DeadlineExceeded", "DeadlineExceeded", "SIGTERM", "", "",
		},
		{
			"failed and nobody said why", newTask(status(batch.TaskStatus{Phase: batch.TaskFailed})),
			"Failed", "", "", "", "",
		},
		{
			"is being deleted", newTask(created(time.Minute), deleted),
			"Terminating", "", "", "60s", "",
		},
		{
			"has ended while it was deleted", newTask(terminated(batch.TaskFailed, batch.TaskStateTerminated{ExitCode: 1, Reason: "Error"}), deleted),
			"Error", "Error", "1", "", "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, cell := range map[string]struct{ got, want any }{
				"status":   {StatusColumn(test.task), test.status},
				"reason":   {ReasonColumn(test.task), test.reason},
				"exit":     {ExitColumn(test.task), test.exit},
				"wait":     {WaitColumn(test.task), test.wait},
				"duration": {DurationColumn(test.task), test.duration},
			} {
				if cell.got != cell.want {
					t.Errorf("%s: got %q, want %q", name, cell.got, cell.want)
				}
			}
		})
	}
}
