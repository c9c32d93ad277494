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
	"context"
	"fmt"
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// phaseConditions are the types of the conditions that setConditionsForPhase derives.
var phaseConditions = []string{batch.TaskReconciling, batch.TaskComplete, batch.TaskFailure, batch.TaskStalled}

// PrepareForStatusUpdate implements registry.StatusPreparer. It derives the conditions of the phase, and removes a
// request to return a task that has started. It restores status.bindings, which older clients leave out.
func (Rules) PrepareForStatusUpdate(_ context.Context, task, old *batch.Task) {
	task.Status.Bindings = old.Status.Bindings
	setConditionsForPhase(&task.Status, old.Status.Conditions)
	if task.Status.Phase != batch.TaskPending && meta.FindStatusCondition(task.Status.Conditions, batch.TaskReturnRequested) != nil {
		task.Status.Conditions = slices.Clone(task.Status.Conditions) // it may be shared with the stored object
		meta.RemoveStatusCondition(&task.Status.Conditions, batch.TaskReturnRequested)
	}
}

// setConditionsForPhase sets the conditions that generic tools read: "helm install --wait" and Flux by the conventions
// of kstatus, "kubectl wait" by name. Call it whenever the phase changes, with the conditions stored before the change.
//
//	phase             Reconciling   Complete   Failed   Stalled
//	Pending, Running  True
//	Succeeded                       True
//	Failed                                     True     True
func setConditionsForPhase(status *batch.TaskStatus, stored []metav1.Condition) {
	var derived []metav1.Condition
	switch status.Phase {
	case batch.TaskSucceeded:
		derived = []metav1.Condition{{Type: batch.TaskComplete, Reason: batch.TaskReasonCompleted}}
	case batch.TaskFailed:
		reason, message := failure(status.State.Terminated)
		derived = []metav1.Condition{
			{Type: batch.TaskFailure, Reason: reason, Message: message},
			{Type: batch.TaskStalled, Reason: reason, Message: message},
		}
	case batch.TaskPending, batch.TaskRunning:
		derived = []metav1.Condition{{Type: batch.TaskReconciling, Reason: string(status.Phase)}}
	}
	status.Conditions = registry.DeriveConditions(status.Conditions, stored, phaseConditions, derived...)
}

// setConditionForGates sets TaskScheduled to False with reason SchedulingGated while the task has scheduling gates, as
// for Pods, and removes the condition with the last gate. The write that changes the gates thus changes the condition
// as well.
func setConditionForGates(task *batch.Task) {
	gates := task.Spec.SchedulingGates
	conditions := slices.Clone(task.Status.Conditions) // an update shares the slice with the stored object
	switch scheduled := meta.FindStatusCondition(conditions, batch.TaskScheduled); {
	case len(gates) > 0:
		message := fmt.Sprintf("The task waits for the removal of scheduling gate %s", gates[0].Name)
		if len(gates) > 1 {
			message += fmt.Sprintf(" and %d more", len(gates)-1)
		}
		meta.SetStatusCondition(&conditions, metav1.Condition{
			Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: batch.TaskReasonSchedulingGated, Message: message + ".",
		})
	case scheduled != nil && scheduled.Reason == batch.TaskReasonSchedulingGated:
		meta.RemoveStatusCondition(&conditions, batch.TaskScheduled)
	}
	task.Status.Conditions = conditions
}

// conditionReason matches valid reasons of conditions. The reason of a terminated state may be any text.
var conditionReason = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// failure returns the reason and the message of the conditions of a failed task. They are short, since a task stores
// them twice.
func failure(terminated *batch.TaskStateTerminated) (reason, message string) {
	reason = batch.TaskReasonError
	if terminated == nil {
		return reason, reason
	}
	if conditionReason.MatchString(terminated.Reason) {
		reason = terminated.Reason
	}
	if terminated.ExitCode == 0 {
		return reason, reason
	}
	return reason, fmt.Sprintf("%s: exit code %d", reason, terminated.ExitCode)
}
