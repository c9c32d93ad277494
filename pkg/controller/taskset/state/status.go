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
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Counted returns the tasks that are counted but not in the stored status.
func (s *TaskSet) Counted() []*TrackedTask { return s.counted }

// Active returns how many tasks are active.
func (s *TaskSet) Active() int32 { return s.active }

// Terminating returns how many unfinished tasks are being deleted.
func (s *TaskSet) Terminating() int32 { return s.terminating }

// Pending returns how many indexes may get a task.
func (s *TaskSet) Pending() int { return s.pending.size }

// Completed returns how many indexes are completed, and how many there are.
func (s *TaskSet) Completed() (completed, all int) { return s.completed.size, s.indexEnd }

// FailedIndexes returns how many indexes have failed.
func (s *TaskSet) FailedIndexes() int { return s.failedIndexes.size }

// Failed returns how many tasks have failed.
func (s *TaskSet) Failed() int32 { return s.failed }

// PolicyFailure returns why the failure policy fails the set, empty if it does not.
func (s *TaskSet) PolicyFailure() string { return s.policyFailure }

// MatchedSuccessRule returns the first rule of the success policy that is met. It reports false if none is.
func (s *TaskSet) MatchedSuccessRule() (rule int, matched bool) {
	for i := range s.successRules {
		if s.successRules[i].met() {
			return i, true
		}
	}
	return 0, false
}

// FillCounters sets the counters of the status.
func (s *TaskSet) FillCounters(status *batch.TaskSetStatus) {
	status.Active, status.Ready, status.Terminating = s.active, ptr.To(s.ready), ptr.To(s.terminating)
	status.Succeeded, status.Failed = int32(s.completed.size), s.failed
	if median := s.durations.median(); median > 0 {
		status.MedianMilliseconds = max(1, median.Milliseconds())
	}
}

// FillIndexes sets the indexes in the status.
func (s *TaskSet) FillIndexes(status *batch.TaskSetStatus) {
	status.CompletedIndexes = s.completed.String()
	status.IndexFailures = s.formatFailures()
	if s.backoffLimitPerIndex != nil {
		status.FailedIndexes = ptr.To(s.failedIndexes.String())
	}
}

// formatFailures returns the failures of indexes in the notation of the status, like "3:1,7:2".
func (s *TaskSet) formatFailures() string {
	counts := make([]indexes.Counted, 0, len(s.failures))
	for _, index := range slices.Sorted(maps.Keys(s.failures)) {
		counts = append(counts, indexes.Counted{Index: index, Count: s.failures[index]})
	}
	return indexes.FormatCounts(counts)
}

// FinishedCondition returns the condition Complete or Failed of a finished set, nil for an unfinished one.
func FinishedCondition(set *batch.TaskSet) *metav1.Condition {
	for i, condition := range set.Status.Conditions {
		if (condition.Type == batch.TaskSetComplete || condition.Type == batch.TaskSetFailed) && condition.Status == metav1.ConditionTrue {
			return &set.Status.Conditions[i]
		}
	}
	return nil
}

// TargetCondition returns the stored condition that decides the outcome of the set, SuccessCriteriaMet or
// FailureTarget, or nil while the outcome is open.
func TargetCondition(set *batch.TaskSet) *metav1.Condition {
	for _, conditionType := range []string{batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget} {
		if condition := meta.FindStatusCondition(set.Status.Conditions, conditionType); condition != nil && condition.Status == metav1.ConditionTrue {
			return condition
		}
	}
	return nil
}
