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

package taskset

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// failureTarget returns the FailureTarget condition of a set that has to fail, nil if it does not have to. The deadline
// of a set that is held does not run. dependencyFailure is why a set that it depends on makes it fail, empty if none
// does.
func (s *syncContext) failureTarget(status *batch.TaskSetStatus, held bool, dependencyFailure string) *metav1.Condition {
	spec := &s.set.Spec
	completed, all := s.state.Completed()
	because := func(reason, message string) *metav1.Condition {
		return s.newCondition(batch.TaskSetFailureTarget, metav1.ConditionTrue, reason, message)
	}
	deadline := time.Time{}
	if spec.ActiveDeadlineSeconds != nil && !held {
		deadline = status.StartTime.Add(batch.Seconds(*spec.ActiveDeadlineSeconds))
	}
	switch {
	case dependencyFailure != "":
		return because(batch.TaskSetReasonDependencyFailed, dependencyFailure)
	case s.state.PolicyFailure() != "":
		return because(batch.TaskSetReasonTaskFailurePolicy, s.state.PolicyFailure())
	case s.state.Failed() > ptr.Deref(spec.BackoffLimit, batch.DefaultBackoffLimit):
		return because(batch.TaskSetReasonBackoffLimitExceeded, "TaskSet has reached the specified backoff limit")
	case !deadline.IsZero() && !s.now.Before(deadline):
		return because(batch.TaskSetReasonDeadlineExceeded, "TaskSet was active longer than specified deadline")
	case spec.MaxFailedIndexes != nil && s.state.FailedIndexes() > int(*spec.MaxFailedIndexes):
		return because(batch.TaskSetReasonMaxFailedIndexesExceeded, "TaskSet has exceeded the specified maximal number of failed indexes")
	case s.state.FailedIndexes() > 0 && s.state.FailedIndexes()+completed >= all && s.state.Active() == 0 && s.successPolicyTarget() == nil:
		// The tasks of cancelled indexes are deleted first: they do not count as failed.
		return because(batch.TaskSetReasonFailedIndexes, "TaskSet has failed indexes")
	}
	s.requeueAt(deadline)
	return nil
}

// successPolicyTarget returns the SuccessCriteriaMet condition if a rule of the success policy is met, else nil.
func (s *syncContext) successPolicyTarget() *metav1.Condition {
	if i, matched := s.state.MatchedSuccessRule(); matched {
		return s.newCondition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonSuccessPolicy,
			fmt.Sprintf("Matched rules at index %d", i))
	}
	return nil
}

// completionTarget returns the SuccessCriteriaMet condition of a set that has all the successes it needs and no active
// task left, else nil. Without completions one success is enough; the tasks that are active then may finish. A set that
// waits for others is not complete, even if it needs no successes.
func (s *syncContext) completionTarget(waits bool) *metav1.Condition {
	completed, all := s.state.Completed()
	enough := completed >= all
	if s.set.Spec.Completions == nil {
		enough = completed > 0
	}
	if !enough || waits || s.state.Active() > 0 {
		return nil
	}
	return s.newCondition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonCompletionsReached,
		"Reached expected number of succeeded tasks")
}

// enactFinished adds Complete or Failed to a set whose outcome is decided, once all of its tasks have finished.
func (s *syncContext) enactFinished(status *batch.TaskSetStatus, target *metav1.Condition) {
	if s.state.Active() > 0 || s.state.Terminating() > 0 {
		return
	}
	if status.StartTime == nil {
		status.StartTime = s.timestamp() // The set is suspended or waits, and has ended nevertheless.
	}
	final := batch.TaskSetFailed
	if target.Type == batch.TaskSetSuccessCriteriaMet {
		final = batch.TaskSetComplete
		status.CompletionTime = s.timestamp()
	}
	meta.SetStatusCondition(&status.Conditions, *s.newCondition(final, metav1.ConditionTrue, target.Reason, target.Message))
	if final == batch.TaskSetFailed {
		meta.SetStatusCondition(&status.Conditions, *s.newCondition(batch.TaskSetStalled, metav1.ConditionTrue, target.Reason, target.Message))
	}
}

// updateSuspended maintains the Suspended condition. A suspended set has no start time and a resumed set starts again,
// because the deadline limits continuous activity, unless it waits for other sets.
func (s *syncContext) updateSuspended(status *batch.TaskSetStatus, suspended, waits bool) {
	current := meta.FindStatusCondition(status.Conditions, batch.TaskSetSuspended)
	switch {
	case suspended && (current == nil || current.Status != metav1.ConditionTrue):
		meta.SetStatusCondition(&status.Conditions,
			*s.newCondition(batch.TaskSetSuspended, metav1.ConditionTrue, batch.TaskSetReasonSuspended, "TaskSet suspended"))
		status.StartTime = nil
	case !suspended && current != nil && current.Status == metav1.ConditionTrue:
		meta.SetStatusCondition(&status.Conditions,
			*s.newCondition(batch.TaskSetSuspended, metav1.ConditionFalse, batch.TaskSetReasonResumed, "TaskSet resumed"))
		if !waits {
			status.StartTime = s.timestamp()
		}
	}
}
