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

// Package taskstate derives from the status of sets and tasks what people are shown about them.
package taskstate

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

const (
	// MaxCompletions is the largest number of indexes of a set.
	MaxCompletions = 1<<31 - 1
	// NumberVariable is the variable of a task with the number of its index.
	NumberVariable = "TASK_INDEX"
	// ItemReference is the reference that a worker expands to the item of the task.
	ItemReference = "$(TASK_ITEM)"
)

// Unfinished selects the tasks that wait or run.
const Unfinished = "status.phase!=Succeeded,status.phase!=Failed"

// Progress returns the progress of a set.
func Progress(set *batch.TaskSet) progress.Snapshot {
	s := progress.Snapshot{Done: int(set.Status.Succeeded), Failed: int(set.Status.Failed), Running: int(ptr.Deref(set.Status.Ready, 0))}
	if set.Status.StartTime != nil {
		s.Started = set.Status.StartTime.Time
	}
	if final := Finished(set); final != nil {
		s.Ended = final.LastTransitionTime.Time
	}
	gone := 0
	if failed, ok := FailedIndexes(set); ok {
		s.Failed = indexes.Count(failed)
		gone = s.Failed
	}
	if set.Spec.Completions != nil {
		s.Total = int(*set.Spec.Completions)
		s.Pending = max(0, s.Total-s.Done-gone-s.Running)
	} else {
		s.Pending = max(0, int(set.Status.Active)-s.Running)
	}
	return s
}

// FailedIndexes returns the indexes that have failed for good. It returns false if the set does not count failures by
// index.
func FailedIndexes(set *batch.TaskSet) ([]indexes.Range, bool) {
	if set.Spec.BackoffLimitPerIndex == nil {
		return nil, false
	}
	ranges, err := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), MaxCompletions)
	return ranges, err == nil
}

// Finished returns the condition Complete or Failed of a finished set, otherwise nil.
func Finished(set *batch.TaskSet) *metav1.Condition {
	for _, final := range []string{batch.TaskSetComplete, batch.TaskSetFailed} {
		if condition := meta.FindStatusCondition(set.Status.Conditions, final); condition != nil && condition.Status == metav1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// Status returns the state of a set in one word.
func Status(set *batch.TaskSet) string {
	if final := Finished(set); final != nil {
		return StatusOfFinished(final)
	}
	progress := Progress(set)
	status := StatusOfUnfinished(set)
	if status == "Running" && (set.Status.StartTime == nil || progress.Running == 0 && progress.Done == 0) {
		return "Pending"
	}
	return status
}

// StatusOfFinished returns the value of the STATUS column for a finished set.
func StatusOfFinished(final *metav1.Condition) string {
	if final.Reason == batch.TaskSetReasonCancelled {
		return batch.TaskSetReasonCancelled
	}
	return final.Type
}

// StatusOfUnfinished returns the value of the STATUS column for a set that has not finished.
func StatusOfUnfinished(set *batch.TaskSet) string {
	switch {
	case set.DeletionTimestamp != nil:
		return "Terminating"
	case set.Spec.Cancelled:
		return "Cancelling"
	case ptr.Deref(set.Spec.Suspend, false):
		return "Suspended"
	}
	if names := WaitsFor(set); len(names) > 0 {
		return "Waiting for " + sanitize.Truncate(strings.Join(names, ", "), 60)
	}
	return "Running"
}

// Command returns the command of the tasks of a set, with its arguments.
func Command(set *batch.TaskSet) string {
	return strings.Join(slices.Concat(set.Spec.Template.Spec.Command, set.Spec.Template.Spec.Args), " ")
}

// Numbers returns the numbers of the indexes of a set, nil if they equal the indexes. "leat retry" stores numbers as
// items if they do not fit into a list; Numbers returns these too.
func Numbers(set *batch.TaskSet) *batch.IndexNumbers {
	if set.Spec.IndexNumbers != nil || !slices.Contains(set.Spec.Template.Spec.Env, batch.EnvVar{Name: NumberVariable, Value: ItemReference}) {
		return set.Spec.IndexNumbers
	}
	numbers := &batch.IndexNumbers{}
	for _, item := range set.Spec.Items {
		number, err := strconv.ParseUint(item, 10, 31)
		if n := len(numbers.List); err != nil || n > 0 && numbers.List[n-1] >= int32(number) {
			return nil
		}
		numbers.List = append(numbers.List, int32(number))
	}
	return numbers
}

// UnmetDependencies returns the dependencies of a set that are not known to be met.
func UnmetDependencies(set *batch.TaskSet) []batch.TaskSetDependency {
	var unmet []batch.TaskSetDependency
	for _, dependency := range set.Spec.DependsOn {
		if seen := set.Status.Dependency(dependency.Name); seen == nil || !seen.Met {
			unmet = append(unmet, dependency)
		}
	}
	return unmet
}

// WaitsFor returns the names of the sets that a set waits for. A set that has started waits for none.
func WaitsFor(set *batch.TaskSet) []string {
	if set.Status.StartTime != nil {
		return nil
	}
	var names []string
	for _, dependency := range UnmetDependencies(set) {
		names = append(names, dependency.Name)
	}
	return names
}
