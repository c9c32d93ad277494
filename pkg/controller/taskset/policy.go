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
	"slices"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// judge gives what a failed task means by the policy: the action of the first rule that matches, Count if none does. The
// message says why the set fails, with action FailTaskSet.
func judge(policy *batch.TaskFailurePolicy, task *batch.Task) (action batch.TaskFailurePolicyAction, message string) {
	if policy == nil {
		return batch.TaskFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		switch rule.Action {
		case batch.TaskFailurePolicyActionFailTaskSet, batch.TaskFailurePolicyActionFailIndex,
			batch.TaskFailurePolicyActionIgnore, batch.TaskFailurePolicyActionCount:
		default:
			continue // of a version to come: the rule is skipped
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

// successRule counts towards one rule of a success policy.
type successRule struct {
	// of are the indexes that count, all if nil.
	of *indexSet
	// want is how many of them must succeed, have how many have.
	want, have int
}

// newSuccessRules reads the policy and counts what is completed. A rule that cannot be read is never met.
func newSuccessRules(policy *batch.SuccessPolicy, limit int, completed *indexSet) []successRule {
	if policy == nil {
		return nil
	}
	rules := make([]successRule, len(policy.Rules))
	for i, rule := range policy.Rules {
		r := &rules[i]
		r.want = int(ptr.Deref(rule.SucceededCount, int32(min(limit+1, 1<<31-1))))
		if rule.SucceededIndexes == nil {
			r.have = completed.n
			continue
		}
		ranges, err := indexes.Parse(*rule.SucceededIndexes, limit)
		of := newIndexSet(ranges)
		r.of = &of
		switch {
		case err != nil || of.n == 0:
			r.want = 1
		default:
			r.want = min(r.want, of.n)
			r.have = common(of.ranges, completed.ranges)
		}
	}
	return rules
}

// count counts index i, which has succeeded now and not before.
func (r *successRule) count(i int) {
	if r.of == nil || r.of.has(i) {
		r.have++
	}
}

// common gives how many indexes are in both lists.
func common(a, b []indexes.Range) int {
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
