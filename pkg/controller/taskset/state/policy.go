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
	"slices"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// matchFailurePolicy returns the action of the first rule of the policy that matches the failed task, Count if none
// does. The message explains why the set fails, if the action is FailTaskSet.
func matchFailurePolicy(policy *batch.TaskFailurePolicy, task *batch.Task) (action batch.TaskFailurePolicyAction, message string) {
	if policy == nil {
		return batch.TaskFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		switch rule.Action {
		case batch.TaskFailurePolicyActionFailTaskSet, batch.TaskFailurePolicyActionFailIndex,
			batch.TaskFailurePolicyActionIgnore, batch.TaskFailurePolicyActionCount:
		default:
			continue // The action is of a newer version.
		}
		cause := ""
		switch {
		case rule.OnExitCodes != nil:
			if code, ok := matchExitCode(task, rule.OnExitCodes); ok {
				cause = fmt.Sprintf("failed with exit code %d", code)
			}
		default:
			if condition, ok := matchConditions(task, rule.OnTaskConditions); ok {
				cause = "has condition " + condition
			}
		}
		if cause != "" {
			return rule.Action, fmt.Sprintf("Task %s/%s %s matching %s rule at index %d", task.Namespace, task.Name, cause, rule.Action, i)
		}
	}
	return batch.TaskFailurePolicyActionCount, ""
}

// matchExitCode returns the exit code of the task if the requirement matches it.
func matchExitCode(task *batch.Task, requirement *batch.TaskFailurePolicyOnExitCodesRequirement) (int32, bool) {
	terminated := task.Status.State.Terminated
	if terminated == nil || terminated.ExitCode == 0 {
		return 0, false
	}
	listed := slices.Contains(requirement.Values, terminated.ExitCode)
	switch requirement.Operator {
	case batch.TaskFailurePolicyOnExitCodesOpIn:
		return terminated.ExitCode, listed
	case batch.TaskFailurePolicyOnExitCodesOpNotIn:
		return terminated.ExitCode, !listed
	}
	return 0, false
}

// matchConditions returns the type of the task's first condition that matches one of the patterns.
func matchConditions(task *batch.Task, patterns []batch.TaskFailurePolicyOnTaskConditionsPattern) (string, bool) {
	for _, condition := range task.Status.Conditions {
		for _, pattern := range patterns {
			if condition.Type == pattern.Type && condition.Status == pattern.Status {
				return condition.Type, true
			}
		}
	}
	return "", false
}

// successRule is the progress towards one rule of a success policy.
type successRule struct {
	// indexes are the indexes that the rule counts, nil for all.
	indexes *indexSet
	// required is how many of them must succeed, and succeeded is how many have.
	required, succeeded int
}

// newSuccessRules returns the progress towards the rules of the policy. A rule that cannot be parsed is never met.
func newSuccessRules(policy *batch.SuccessPolicy, limit int, completed *indexSet) []successRule {
	if policy == nil {
		return nil
	}
	rules := make([]successRule, len(policy.Rules))
	for i, rule := range policy.Rules {
		r := &rules[i]
		r.required = int(ptr.Deref(rule.SucceededCount, int32(min(limit+1, 1<<31-1))))
		if rule.SucceededIndexes == nil {
			r.succeeded = completed.size
			continue
		}
		ranges, err := indexes.Parse(*rule.SucceededIndexes, limit)
		counted := newIndexSet(ranges)
		r.indexes = &counted
		switch {
		case err != nil || counted.size == 0:
			r.required = 1
		default:
			r.required = min(r.required, counted.size)
			r.succeeded = intersectionSize(counted.ranges, completed.ranges)
		}
	}
	return rules
}

// recordSuccess counts the indexes of a range. None of them may have succeeded before.
func (r *successRule) recordSuccess(succeeded indexes.Range) {
	if r.indexes == nil {
		r.succeeded += sizeOf(succeeded)
	} else {
		r.succeeded += indexes.Count(r.indexes.within(succeeded))
	}
}

// intersectionSize returns how many indexes are in both lists.
func intersectionSize(a, b []indexes.Range) int {
	n := 0
	for len(a) > 0 && len(b) > 0 {
		n += max(0, min(a[0].Last, b[0].Last)-max(a[0].First, b[0].First)+1)
		if a[0].Last < b[0].Last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return n
}

// met reports whether enough indexes have succeeded.
func (r *successRule) met() bool { return r.succeeded >= r.required }
