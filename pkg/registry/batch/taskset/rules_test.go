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
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func newSet(changes ...func(*batch.TaskSet)) *batch.TaskSet {
	set := &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "u"},
		Spec: batch.TaskSetSpec{
			Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), CompletionMode: ptr.To(batch.NonIndexedCompletion),
			QueueName: "default",
			Template:  batch.TaskTemplateSpec{Spec: batch.TaskSpec{QueueName: "default", Command: []string{"true"}}},
		},
	}
	for _, change := range changes {
		change(set)
	}
	return set
}

func indexed(parallelism, completions int32) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) {
		set.Spec.CompletionMode = ptr.To(batch.IndexedCompletion)
		set.Spec.Parallelism, set.Spec.Completions = &parallelism, &completions
	}
}

func perIndex(set *batch.TaskSet) { set.Spec.BackoffLimitPerIndex = ptr.To[int32](1) }

func maxFailed(indexes int32) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.MaxFailedIndexes = &indexes }
}

func items(items ...string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.Items = items }
}

func numbers(numbers batch.IndexNumbers) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.IndexNumbers = &numbers }
}

func texts(errs field.ErrorList) []string {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return texts
}

func TestValidate(t *testing.T) {
	success := func(indexes string, count int32) func(*batch.TaskSet) {
		rule := batch.SuccessPolicyRule{}
		if indexes != "-" {
			rule.SucceededIndexes = &indexes
		}
		if count > 0 {
			rule.SucceededCount = &count
		}
		return func(set *batch.TaskSet) {
			set.Spec.SuccessPolicy = &batch.SuccessPolicy{Rules: []batch.SuccessPolicyRule{rule}}
		}
	}
	failure := func(rule batch.TaskFailurePolicyRule) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) {
			set.Spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{rule}}
		}
	}
	onExit := func(operator batch.TaskFailurePolicyOnExitCodesOperator, values ...int32) func(*batch.TaskSet) {
		return failure(batch.TaskFailurePolicyRule{
			Action: batch.TaskFailurePolicyActionIgnore, OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: operator, Values: values},
		})
	}
	onCondition := func(status metav1.ConditionStatus) func(*batch.TaskSet) {
		return failure(batch.TaskFailurePolicyRule{
			Action:           batch.TaskFailurePolicyActionIgnore,
			OnTaskConditions: []batch.TaskFailurePolicyOnTaskConditionsPattern{{Type: batch.DisruptionTarget, Status: status}},
		})
	}
	// With one byte of overhead each, they leave two bytes for the command.
	lines := slices.Clip(append(slices.Repeat([]string{strings.Repeat("a", 32<<10-1)}, 31), strings.Repeat("a", 32<<10-1-len("true")-len("b\n"))))
	for _, test := range []struct {
		name string
		set  *batch.TaskSet
		want []string
	}{
		{"one task", newSet(), nil},
		{"any of three", newSet(func(set *batch.TaskSet) { set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](3), nil }), nil},

		// Modes.
		{"indexed", newSet(indexed(3, 10)), nil},
		{"indexed with nothing to do", newSet(indexed(3, 0)), nil},
		{
			"indexes must be counted", newSet(indexed(3, 10), func(set *batch.TaskSet) { set.Spec.Completions = nil }),
			[]string{`spec.completions: Required value: must be set when completionMode is Indexed`},
		},
		{
			"without indexes none has limits", newSet(perIndex, success("-", 1)),
			[]string{
				`spec.backoffLimitPerIndex: Forbidden: may be set only when completionMode is Indexed`,
				`spec.successPolicy: Forbidden: may be set only when completionMode is Indexed`,
			},
		},
		{"failed indexes are limited", newSet(indexed(3, 10), perIndex, maxFailed(10)), nil},
		{
			"indexes fail only by a limit of their own", newSet(indexed(3, 10), maxFailed(1)),
			[]string{`spec.maxFailedIndexes: Forbidden: may be set only when backoffLimitPerIndex is`},
		},

		// Sizes.
		{"wide", newSet(indexed(100_000, 100_000), perIndex, maxFailed(100_000)), nil},
		{
			"too wide", newSet(indexed(100_001, 100_000)),
			[]string{`spec.parallelism: Invalid value: 100001: must be less than or equal to 100000`},
		},
		{"without indexes as wide as one likes", newSet(func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](1 << 30) }), nil},
		{
			"more failed indexes than there are", newSet(indexed(3, 10), perIndex, maxFailed(11)),
			[]string{`spec.maxFailedIndexes: Invalid value: 11: must be less than or equal to 10`},
		},
		{"large", newSet(indexed(10_000, 1_000_000), perIndex, maxFailed(10_000)), nil},
		{
			"large and too wide", newSet(indexed(10_001, 100_001), perIndex, maxFailed(10_001)),
			[]string{
				`spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are more than 100000`,
				`spec.maxFailedIndexes: Invalid value: 10001: must be less than or equal to 10000 when completions are more than 100000`,
			},
		},
		{
			"a large set limits its failed indexes", newSet(indexed(1, 100_001), perIndex),
			[]string{`spec.maxFailedIndexes: Required value: must be set with backoffLimitPerIndex when completions are more than 100000`},
		},

		// Items.
		{"one item for each index", newSet(indexed(1, 3), items("a", "b $(c) $", "")), nil},
		{
			"items without indexes", newSet(items("a")),
			[]string{`spec.items: Forbidden: may be set only when completionMode is Indexed`},
		},
		{
			"fewer items than indexes", newSet(indexed(1, 3), items("a", "b")),
			[]string{`spec.completions: Invalid value: 3: must be unset or 2, the number of items`},
		},
		{
			"an item that no process can be given", newSet(indexed(1, 2), items("a", "b\x00c")),
			[]string{`spec.items[1]: Invalid value: "b\x00c": must not contain a NUL character`},
		},
		{"items that just fit beside the command", newSet(indexed(1, 33), items(append(lines, "b")...)), nil},
		{
			"items that do not", newSet(indexed(1, 33), items(append(lines, "bc")...)),
			[]string{`spec.items: Invalid value: each as a line, with command, args and env of the template, must be at most 1048576 bytes together, ` +
				`and are 1048577: create several sets, or pass names of files that workers can read`},
		},

		// Numbers.
		{"numbers from 1 on", newSet(indexed(1, 3), numbers(batch.IndexNumbers{First: ptr.To[int32](1)})), nil},
		{"numbers with a step up to the last", newSet(indexed(1, 2), numbers(batch.IndexNumbers{Step: ptr.To[int32](1<<31 - 1)})), nil},
		{"a number and an item for each index", newSet(indexed(1, 2), items("a", "b"), numbers(batch.IndexNumbers{List: []int32{3, 17}})), nil},
		{
			"numbers without indexes", newSet(numbers(batch.IndexNumbers{First: ptr.To[int32](1)})),
			[]string{`spec.indexNumbers: Forbidden: may be set only when completionMode is Indexed`},
		},
		{
			"numbers that say nothing", newSet(indexed(1, 3), numbers(batch.IndexNumbers{})),
			[]string{`spec.indexNumbers: Required value: first, step or list must be set`},
		},
		{
			"numbers too large", newSet(indexed(1, 3), numbers(batch.IndexNumbers{First: ptr.To[int32](1<<31 - 2)})),
			[]string{`spec.indexNumbers: Invalid value: "first 2147483646, step 1": the number of the last of 3 indexes must be at most 2147483647`},
		},
		{
			"a list of others, in disorder", newSet(indexed(1, 3), numbers(batch.IndexNumbers{First: ptr.To[int32](1), Step: ptr.To[int32](1), List: []int32{3, 3}})),
			[]string{
				`spec.indexNumbers.first: Forbidden: must be unset with list`,
				`spec.indexNumbers.step: Forbidden: must be unset with list`,
				`spec.completions: Invalid value: 3: must be unset or 2, the number of numbers in indexNumbers.list`,
				`spec.indexNumbers.list[1]: Invalid value: 3: must be greater than the number before it, 3`,
			},
		},

		// Success.
		{"some indexes", newSet(indexed(3, 10), success("0,2-4,9", 0)), nil},
		{"some of some indexes", newSet(indexed(3, 10), success("0,2-4,9", 5)), nil},
		{"any number of indexes", newSet(indexed(3, 10), success("-", 10)), nil},
		{
			"a rule says something", newSet(indexed(3, 10), success("-", 0)),
			[]string{`spec.successPolicy.rules[0]: Required value: succeededIndexes or succeededCount must be set`},
		},
		{
			"more than there are", newSet(indexed(3, 10), success("-", 11)),
			[]string{`spec.successPolicy.rules[0].succeededCount: Invalid value: 11: must be less than or equal to 10, the number of indexes it counts`},
		},
		{
			"more than are named", newSet(indexed(3, 10), success("0,2-4,9", 6)),
			[]string{`spec.successPolicy.rules[0].succeededCount: Invalid value: 6: must be less than or equal to 5, the number of indexes it counts`},
		},
		{
			"an index that there is not", newSet(indexed(3, 10), success("0,10", 0)),
			[]string{`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0,10": "10": indexes must be less than 10`},
		},
		{
			"indexes in disorder", newSet(indexed(3, 10), success("3,1", 0)),
			[]string{`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "3,1": "1": indexes must ascend and not overlap`},
		},

		// Failure.
		{"exit codes", newSet(onExit(batch.TaskFailurePolicyOnExitCodesOpIn, 1, 2, 42)), nil},
		{
			"exit codes ascend", newSet(onExit(batch.TaskFailurePolicyOnExitCodesOpIn, 2, 1)),
			[]string{`spec.taskFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must ascend`},
		},
		{
			"success is no failure", newSet(onExit(batch.TaskFailurePolicyOnExitCodesOpIn, -1, 0)),
			[]string{`spec.taskFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0, which is success, with operator In`},
		},
		{"all but success", newSet(onExit(batch.TaskFailurePolicyOnExitCodesOpNotIn, 0, 1)), nil},
		{"a condition", newSet(onCondition(metav1.ConditionUnknown)), nil},
		{
			"a condition is True, False or Unknown", newSet(onCondition("Maybe")),
			[]string{`spec.taskFailurePolicy.rules[0].onTaskConditions[0].status: Unsupported value: "Maybe": supported values: "True", "False", "Unknown"`},
		},
		{
			"an index fails only by a limit of its own", newSet(failure(batch.TaskFailurePolicyRule{Action: batch.TaskFailurePolicyActionFailIndex})),
			[]string{`spec.taskFailurePolicy.rules[0].action: Invalid value: "FailIndex": may be used only when backoffLimitPerIndex is set`},
		},

		// The template.
		{
			"labels and annotations are such", newSet(func(set *batch.TaskSet) {
				set.Spec.Template.Labels = map[string]string{"a": "b c"}
				set.Spec.Template.Annotations = map[string]string{"a b": ""}
			}),
			[]string{
				`spec.template.metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters`,
				`spec.template.metadata.annotations: Invalid value: "a b": name part must consist of alphanumeric characters`,
			},
		},
		{
			"the queue is the set's", newSet(func(set *batch.TaskSet) { set.Spec.Template.Spec.QueueName = "other" }),
			[]string{`spec.template.spec.queueName: Invalid value: "other": must be unset or the queue of the set, "default"`},
		},
		{
			"no worker is chosen", newSet(func(set *batch.TaskSet) { set.Spec.Template.Spec.WorkerName = "w" }),
			[]string{`spec.template.spec.workerName: Forbidden: must be unset: each task is bound after it is created`},
		},
		{
			"what only tasks have",
			newSet(func(set *batch.TaskSet) {
				spec := &set.Spec.Template.Spec
				spec.Indexes, spec.Items, spec.IndexNumbers = "1,2", []string{"a", "b"}, &batch.IndexNumbers{}
			}),
			[]string{
				`spec.template.spec.indexes: Forbidden: must be unset: the controller sets it in the tasks of the set`,
				`spec.template.spec.items: Forbidden: must be unset: the controller sets it in the tasks of the set; use items of the set`,
				`spec.template.spec.indexNumbers: Forbidden: must be unset: the controller sets it in the tasks of the set; use indexNumbers of the set`,
			},
		},
		{
			"what holds for a task holds for a template", newSet(func(set *batch.TaskSet) { set.Spec.Template.Spec.Command[0] = "" }),
			[]string{`spec.template.spec.command[0]: Required value: must name the program to run`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := texts(Rules{}.Validate(t.Context(), test.set))
			// Upstream's messages continue with patterns and examples.
			for i := range got {
				if i < len(test.want) && strings.HasPrefix(got[i], test.want[i]) && strings.Contains(got[i], "(e.g. ") {
					got[i] = test.want[i]
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestCompletionsChangeOnlyWithParallelism(t *testing.T) {
	const refused = "may change only when completionMode is Indexed, together with parallelism and to the same value"
	unset := func(set *batch.TaskSet) { set.Spec.Completions = nil }
	for _, test := range []struct {
		name    string
		old, to *batch.TaskSet
		want    []string
	}{
		{"a set is created", nil, newSet(), nil},
		{"parallelism alone", newSet(indexed(3, 10)), newSet(indexed(5, 10)), nil},
		{"parallelism alone, without indexes", newSet(), newSet(func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](2) }), nil},
		{"both, to the same", newSet(indexed(3, 10)), newSet(indexed(5, 5)), nil},
		{"both, to different values", newSet(indexed(10, 10)), newSet(indexed(5, 6)), []string{`spec.completions: Invalid value: 6: ` + refused}},
		{
			"both, to the same, of indexes with numbers", newSet(indexed(3, 10), numbers(batch.IndexNumbers{First: ptr.To[int32](1)})),
			newSet(indexed(5, 5), numbers(batch.IndexNumbers{First: ptr.To[int32](1)})),
			[]string{`spec.completions: Invalid value: 5: may not change in a set with indexNumbers`},
		},
		{"without indexes", newSet(), newSet(func(set *batch.TaskSet) {
			set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](2), ptr.To[int32](2)
		}), []string{`spec.completions: Invalid value: 2: ` + refused}},
		{"to nothing", newSet(), newSet(unset), []string{`spec.completions: Invalid value: null: ` + refused}},
		{"from nothing", newSet(unset), newSet(), []string{`spec.completions: Invalid value: 1: ` + refused}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.ValidateChange(t.Context(), test.to, test.old))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestSelectorIsGenerated(t *testing.T) {
	generated := &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelControllerUID: "u"}}
	foreign := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	both := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b", batch.LabelControllerUID: "u"}}
	exported := &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelControllerUID: "another"}}
	for _, test := range []struct {
		name       string
		sent, want *metav1.LabelSelector
		refused    []string
	}{
		{"none", nil, generated, nil},
		{"its own", generated, generated, nil},
		{"that of an export", exported, generated, nil},
		{"a foreign one", foreign, foreign, []string{`spec.selector: Invalid value: "a=b": must be unset: it is generated`}},
		{"one that selects by more", both, both, []string{`spec.selector: Invalid value: "a=b,batch.leat.dev/controller-uid=u": must be unset: it is generated`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sent := func() *batch.TaskSet {
				return newSet(func(set *batch.TaskSet) {
					set.Spec.Template.Labels = map[string]string{"own": "label", batch.LabelTaskSetName: "another"}
					set.Spec.Selector = test.sent.DeepCopy()
				})
			}
			check := func(set *batch.TaskSet) {
				t.Helper()
				if diff := cmp.Diff(map[string]string{"own": "label", batch.LabelTaskSetName: "a", batch.LabelControllerUID: "u"}, set.Spec.Template.Labels); diff != "" {
					t.Errorf("labels of the template: want -, got +:\n%s", diff)
				}
				if diff := cmp.Diff(test.want, set.Spec.Selector); diff != "" {
					t.Errorf("selector: want -, got +:\n%s", diff)
				}
			}
			set := sent()
			Rules{}.PrepareForCreate(t.Context(), set)
			check(set)
			if diff := cmp.Diff(test.refused, texts(Rules{}.ValidateChange(t.Context(), set, nil))); diff != "" {
				t.Errorf("on create: want -, got +:\n%s", diff)
			}

			old := newSet()
			Rules{}.PrepareForCreate(t.Context(), old)
			set = sent()
			Rules{}.PrepareForUpdate(t.Context(), set, old)
			check(set)
		})
	}
}

func TestSecretWarnings(t *testing.T) {
	set := newSet(func(set *batch.TaskSet) { set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "PASSWORD", Value: "x"}} })
	warnings := Rules{}.Warnings(t.Context(), set, nil)
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "spec.template.spec.env[0]: PASSWORD looks like a secret") {
		t.Errorf("on create: got %q", warnings)
	}
	if warnings := (Rules{}).Warnings(t.Context(), set, set); warnings != nil {
		t.Errorf("on update: got %q, want none", warnings)
	}
}
