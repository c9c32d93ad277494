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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// What a set must do is what the documentation of batch/v1 JobSpec says of a Job with the same fields.

type specChange func(*batch.TaskSetSpec)

func of(changes ...specChange) batch.TaskSetSpec {
	var spec batch.TaskSetSpec
	for _, change := range changes {
		change(&spec)
	}
	return spec
}

func completions(n int32) specChange {
	return func(s *batch.TaskSetSpec) { s.Completions = &n }
}

func parallelism(n int32) specChange {
	return func(s *batch.TaskSetSpec) { s.Parallelism = &n }
}

func indexed(s *batch.TaskSetSpec) { s.CompletionMode = ptr.To(batch.IndexedCompletion) }

func backoffLimit(n int32) specChange {
	return func(s *batch.TaskSetSpec) { s.BackoffLimit = &n }
}

func perIndex(n int32) specChange {
	return func(s *batch.TaskSetSpec) { indexed(s); s.BackoffLimitPerIndex = &n }
}

func maxFailedIndexes(n int32) specChange {
	return func(s *batch.TaskSetSpec) { s.MaxFailedIndexes = &n }
}

func deadline(seconds int64) specChange {
	return func(s *batch.TaskSetSpec) { s.ActiveDeadlineSeconds = &seconds }
}

func suspended(s *batch.TaskSetSpec) { s.Suspend = ptr.To(true) }

func onExit(action batch.TaskFailurePolicyAction, operator batch.TaskFailurePolicyOnExitCodesOperator, codes ...int32) specChange {
	return rule(batch.TaskFailurePolicyRule{
		Action: action, OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: operator, Values: codes},
	})
}

func onCondition(action batch.TaskFailurePolicyAction, condition string) specChange {
	return rule(batch.TaskFailurePolicyRule{
		Action:           action,
		OnTaskConditions: []batch.TaskFailurePolicyOnTaskConditionsPattern{{Type: condition, Status: metav1.ConditionTrue}},
	})
}

func rule(r batch.TaskFailurePolicyRule) specChange {
	return func(s *batch.TaskSetSpec) {
		if s.TaskFailurePolicy == nil {
			s.TaskFailurePolicy = &batch.TaskFailurePolicy{}
		}
		s.TaskFailurePolicy.Rules = append(s.TaskFailurePolicy.Rules, r)
	}
}

func success(indexes *string, count *int32) specChange {
	return func(s *batch.TaskSetSpec) {
		if s.SuccessPolicy == nil {
			s.SuccessPolicy = &batch.SuccessPolicy{}
		}
		s.SuccessPolicy.Rules = append(s.SuccessPolicy.Rules, batch.SuccessPolicyRule{SucceededIndexes: indexes, SucceededCount: count})
	}
}

func cancel(set *batch.TaskSet) { set.Spec.Cancelled = true }

// outcomeOf is what people see of a set.
type outcomeOf struct {
	conditions                 []string
	active, succeeded, failed  int32
	completed, failedIndexes   string
	indexFailures              string
	started, completionTimeSet bool
}

func (w *world) outcome() outcomeOf {
	s := w.set().Status
	return outcomeOf{
		w.conditions(), s.Active, s.Succeeded, s.Failed, s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""), s.IndexFailures,
		s.StartTime != nil, s.CompletionTime != nil,
	}
}

func (w *world) expect(want outcomeOf) {
	w.t.Helper()
	w.pass(flushInterval)
	if want.conditions == nil {
		want.conditions = []string{}
	}
	if diff := cmp.Diff(want, w.outcome(), cmp.AllowUnexported(outcomeOf{})); diff != "" {
		w.t.Errorf("want -, got +:\n%s", diff)
	}
}

func (w *world) expectActive(want ...int) {
	w.t.Helper()
	w.settle()
	if want == nil {
		want = []int{}
	}
	if diff := cmp.Diff(want, w.active()); diff != "" {
		w.t.Errorf("indexes with active tasks: want -, got +:\n%s", diff)
	}
}

var (
	reached       = []string{"SuccessCriteriaMet/CompletionsReached", "Complete/CompletionsReached"}
	beyondBackoff = []string{"FailureTarget/BackoffLimitExceeded", "Failed/BackoffLimitExceeded", "Stalled/BackoffLimitExceeded"}
)

func failedFor(reason string) []string {
	return []string{"FailureTarget/" + reason, "Failed/" + reason, "Stalled/" + reason}
}

const (
	in    = batch.TaskFailurePolicyOnExitCodesOpIn
	notIn = batch.TaskFailurePolicyOnExitCodesOpNotIn

	failSet   = batch.TaskFailurePolicyActionFailTaskSet
	failIndex = batch.TaskFailurePolicyActionFailIndex
	ignore    = batch.TaskFailurePolicyActionIgnore
	count     = batch.TaskFailurePolicyActionCount
)

func TestSemanticsOfJobSpec(t *testing.T) {
	for _, test := range []struct {
		name string
		spec batch.TaskSetSpec
		do   func(*world)
		want outcomeOf
	}{
		// parallelism and completions
		{
			"parallelism bounds what runs, and less runs when less is left", of(completions(5), parallelism(2)),
			func(w *world) {
				w.expectActive(0, 1)
				w.end(0, 1)
				w.expectActive(0, 2)
				w.end(0, 0, 2)
				w.expectActive(3, 4)
				w.end(0, 3)
				w.expectActive(4)
				w.end(0, 4)
			},
			outcomeOf{conditions: reached, succeeded: 5, completed: "0-4", started: true, completionTimeSet: true},
		},
		{
			"both unset are one", of(), func(w *world) { w.expectActive(0); w.end(0, 0) },
			outcomeOf{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"no parallelism starts nothing", of(completions(3), parallelism(0)), func(w *world) { w.expectActive() },
			outcomeOf{started: true},
		},
		{
			"no completions are complete at once", of(completions(0)), func(*world) {},
			outcomeOf{conditions: reached, started: true, completionTimeSet: true},
		},
		{
			"without completions one success stops starts, and the rest end by themselves", of(parallelism(3)),
			func(w *world) {
				w.expectActive(0, 1, 2)
				w.end(0, 1)
				w.expectActive(0, 2)
				w.end(1, 0)
				w.expectActive(2)
				w.expect(outcomeOf{active: 1, succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true})
				w.end(0, 2)
			},
			outcomeOf{conditions: reached, succeeded: 2, failed: 1, completed: "1,2", indexFailures: "0:1", started: true, completionTimeSet: true},
		},
		{
			"without completions failures are made up for until one succeeds", of(parallelism(2)),
			func(w *world) {
				w.end(1, 0)
				w.pass(11 * time.Second)
				w.expectActive(0, 1)
			},
			outcomeOf{active: 2, failed: 1, indexFailures: "0:1", started: true},
		},
		// completionMode
		{
			"a failed index is tried again until it succeeds", of(completions(2), parallelism(2), indexed),
			func(w *world) {
				w.end(0, 0)
				w.end(1, 1)
				w.pass(11 * time.Second)
				w.expectActive(1)
				w.end(0, 1)
			},
			outcomeOf{conditions: reached, succeeded: 2, failed: 1, completed: "0,1", started: true, completionTimeSet: true},
		},
		// backoffLimit
		{
			"six retries are the default", of(completions(1)),
			func(w *world) {
				for range 6 {
					w.end(1, 0)
					w.pass(time.Hour)
				}
				w.expect(outcomeOf{active: 1, failed: 6, indexFailures: "0:6", started: true})
				w.end(1, 0)
			},
			outcomeOf{conditions: beyondBackoff, failed: 7, indexFailures: "0:7", started: true},
		},
		{
			"past the limit all that runs is ended and counts as failed", of(completions(9), parallelism(4), backoffLimit(0)),
			func(w *world) {
				w.settle()
				w.run(2)
				w.end(1, 1)
				w.expect(outcomeOf{
					conditions: beyondBackoff[:1], failed: 4, indexFailures: "1:1", started: true,
				})
				if left := w.tasks[w.task(2).Name]; left.DeletionTimestamp == nil {
					w.t.Error("the task that runs is not ended")
				}
				w.endTask(w.task(2), 143)
			},
			outcomeOf{conditions: beyondBackoff, failed: 4, indexFailures: "1:1", started: true},
		},
		// backoffLimitPerIndex, maxFailedIndexes
		{
			"an index fails alone, and the set at the end", of(completions(3), parallelism(3), perIndex(1)),
			func(w *world) {
				w.end(1, 0)
				w.end(0, 1)
				w.expect(outcomeOf{active: 1, succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true})
				w.pass(11 * time.Second)
				w.expectActive(0, 2)
				w.end(1, 0)
				w.expect(outcomeOf{active: 1, succeeded: 1, failed: 2, completed: "1", failedIndexes: "0", started: true})
				w.end(0, 2)
			},
			outcomeOf{conditions: failedFor("FailedIndexes"), succeeded: 2, failed: 2, completed: "1,2", failedIndexes: "0", started: true},
		},
		{
			"the set fails past maxFailedIndexes", of(completions(9), parallelism(3), perIndex(0), maxFailedIndexes(1)),
			func(w *world) {
				w.end(1, 1)
				w.expectActive(0, 2, 3)
				w.end(1, 0)
				w.settle()
			},
			outcomeOf{conditions: failedFor("MaxFailedIndexesExceeded"), failed: 4, failedIndexes: "0,1", started: true},
		},
		{
			"backoffLimit still counts", of(completions(9), parallelism(2), perIndex(5), backoffLimit(1)),
			func(w *world) { w.end(1, 0, 1) },
			outcomeOf{conditions: beyondBackoff, failed: 2, indexFailures: "0:1,1:1", started: true},
		},
		// taskFailurePolicy
		{
			"FailTaskSet ends all", of(completions(9), parallelism(2), onExit(failSet, in, 3, 42)),
			func(w *world) { w.end(42, 1) },
			outcomeOf{conditions: failedFor("TaskFailurePolicy"), failed: 2, indexFailures: "1:1", started: true},
		},
		{
			"FailIndex gives up on the index", of(completions(2), parallelism(2), perIndex(5), onExit(failIndex, in, 42)),
			func(w *world) { w.end(42, 1); w.end(0, 0) },
			outcomeOf{conditions: failedFor("FailedIndexes"), succeeded: 1, failed: 1, completed: "0", failedIndexes: "1", started: true},
		},
		{
			"Ignore counts nothing and tries again", of(completions(1), backoffLimit(0), onExit(ignore, in, 42)),
			func(w *world) {
				w.end(42, 0)
				w.pass(11 * time.Second)
				w.end(42, 0)
				w.expect(outcomeOf{started: true})
				w.pass(21 * time.Second)
				w.end(0, 0)
			},
			outcomeOf{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"Count and what no rule matches count", of(completions(2), parallelism(2), backoffLimit(1), onExit(count, in, 1), onExit(failSet, in, 1, 7)),
			func(w *world) { w.end(1, 0); w.settle(); w.end(2, 1) },
			outcomeOf{conditions: beyondBackoff, failed: 2, indexFailures: "0:1,1:1", started: true},
		},
		{
			"NotIn matches the other codes but 0", of(completions(2), parallelism(2), onExit(failSet, notIn, 1)),
			func(w *world) { w.end(0, 0); w.end(2, 1) },
			outcomeOf{conditions: failedFor("TaskFailurePolicy"), succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		{
			"conditions are matched too", of(completions(1), backoffLimit(0), onCondition(ignore, batch.DisruptionTarget)),
			func(w *world) {
				w.settle()
				task := w.task(0)
				task.Status.Conditions = []metav1.Condition{{Type: batch.DisruptionTarget, Status: metav1.ConditionTrue}}
				w.endTask(task, 1)
				w.pass(11 * time.Second)
				w.expectActive(0)
			},
			outcomeOf{active: 1, started: true},
		},
		{
			"a failure with exit code 0 matches no rule of codes", of(completions(1), onExit(failSet, notIn, 1)),
			func(w *world) {
				w.settle()
				task := w.task(0)
				task.Status.Phase, task.Status.CompletionTime = batch.TaskFailed, &metav1.Time{Time: w.now}
				task.Status.State.Terminated = &batch.TaskStateTerminated{Reason: batch.TaskReasonDeadlineExceeded}
				w.putTask(task)
			},
			outcomeOf{failed: 1, indexFailures: "0:1", started: true},
		},
		// successPolicy
		{
			"enough of some indexes", of(completions(9), parallelism(4), indexed, success(ptr.To("1-3"), ptr.To[int32](2))),
			func(w *world) {
				w.end(0, 0, 1)
				w.expectActive(2, 3, 4, 5)
				w.end(0, 3)
			},
			outcomeOf{
				conditions: []string{"SuccessCriteriaMet/SuccessPolicy", "Complete/SuccessPolicy"},
				succeeded:  3, completed: "0,1,3", started: true, completionTimeSet: true,
			},
		},
		{
			"all of some indexes, by the second rule", of(completions(9), parallelism(4), indexed,
				success(nil, ptr.To[int32](8)), success(ptr.To("0,2"), nil)),
			func(w *world) { w.end(0, 2); w.expectActive(0, 1, 3, 4); w.end(0, 0) },
			outcomeOf{
				conditions: []string{"SuccessCriteriaMet/SuccessPolicy", "Complete/SuccessPolicy"},
				succeeded:  2, completed: "0,2", started: true, completionTimeSet: true,
			},
		},
		{
			"failure goes before success", of(completions(9), parallelism(2), indexed, backoffLimit(0), success(nil, ptr.To[int32](1))),
			func(w *world) { w.end(0, 0); w.end(1, 1) },
			outcomeOf{conditions: beyondBackoff, succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		// activeDeadlineSeconds
		{
			"past the deadline all is ended", of(completions(9), parallelism(2), deadline(60)),
			func(w *world) {
				w.end(0, 0)
				w.pass(58 * time.Second)
				w.expectActive(1, 2)
				w.pass(time.Second)
			},
			outcomeOf{conditions: failedFor("DeadlineExceeded"), succeeded: 1, failed: 2, completed: "0", started: true},
		},
		{
			"the deadline starts anew with each resumption", of(completions(9), parallelism(2), deadline(60)),
			func(w *world) {
				w.pass(50 * time.Second)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.pass(time.Hour)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
				w.pass(50 * time.Second)
				w.expectActive(0, 1)
				w.pass(10 * time.Second)
			},
			outcomeOf{conditions: append([]string{"not Suspended/TaskSetResumed"}, failedFor("DeadlineExceeded")...), failed: 2, started: true},
		},
		// cancelled
		{
			"cancelling ends what runs, and what was counted stays", of(completions(9), parallelism(3), backoffLimit(5)),
			func(w *world) {
				w.settle()
				w.end(0, 0)
				w.end(1, 1)
				w.settle()
				w.run(2)
				w.change(cancel)
				w.settle()
				w.expect(outcomeOf{
					conditions: []string{"FailureTarget/Cancelled"}, succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true,
				})
				w.endTask(w.task(2), 143)
			},
			outcomeOf{conditions: failedFor("Cancelled"), succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		{
			"what ends by itself while the set is cancelled counts", of(completions(9), parallelism(3), backoffLimit(5)),
			func(w *world) {
				w.settle()
				w.run(0, 1, 2)
				w.change(cancel)
				w.deliver(len(w.news))
				w.end(1, 0) // before its deletion is asked for
				if err := w.reconcile(); err != nil {
					w.t.Fatal(err)
				}
				w.settle()
				w.endTask(w.task(1), 0)
				w.endTask(w.task(2), 143)
			},
			outcomeOf{conditions: failedFor("Cancelled"), succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true},
		},
		{
			"a suspended set that is cancelled fails", of(completions(2), suspended),
			func(w *world) { w.settle(); w.change(cancel) },
			outcomeOf{conditions: append([]string{"Suspended/TaskSetSuspended"}, failedFor("Cancelled")...), started: true},
		},
		{
			"a set that is cancelled before it starts fails", of(completions(2), func(s *batch.TaskSetSpec) { s.Cancelled = true }), func(*world) {},
			outcomeOf{conditions: failedFor("Cancelled"), started: true},
		},
		{
			"a set that has all it needs completes", of(completions(2), parallelism(2)),
			func(w *world) { w.end(0, 0, 1); w.change(cancel) },
			outcomeOf{conditions: reached, succeeded: 2, completed: "0,1", started: true, completionTimeSet: true},
		},
		{
			"a complete set stays complete", of(completions(1)),
			func(w *world) { w.end(0, 0); w.pass(flushInterval); w.change(cancel) },
			outcomeOf{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"a failed set keeps its reason", of(completions(1), backoffLimit(0)),
			func(w *world) { w.end(1, 0); w.pass(flushInterval); w.change(cancel) },
			outcomeOf{conditions: beyondBackoff, failed: 1, indexFailures: "0:1", started: true},
		},
		// suspend
		{
			"created suspended, nothing starts", of(completions(2), suspended), func(w *world) { w.expectActive() },
			outcomeOf{conditions: []string{"Suspended/TaskSetSuspended"}},
		},
		{
			"suspending ends what runs, and the start is forgotten", of(completions(2), parallelism(2)),
			func(w *world) {
				w.settle()
				w.run(1)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.expectActive()
				w.endTask(w.task(1), 143)
			},
			outcomeOf{conditions: []string{"Suspended/TaskSetSuspended"}},
		},
		{
			"resumed, all goes on where it was", of(completions(3), suspended),
			func(w *world) {
				w.settle()
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
				w.expectActive(0)
				w.end(0, 0)
			},
			outcomeOf{conditions: []string{"not Suspended/TaskSetResumed"}, active: 1, succeeded: 1, completed: "0", started: true},
		},
		{
			"what succeeds while it is ended counts", of(completions(1)),
			func(w *world) {
				w.settle()
				w.run(0)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.settle()
				w.endTask(w.task(0), 0)
			},
			outcomeOf{
				conditions: append([]string{"Suspended/TaskSetSuspended"}, reached...),
				succeeded:  1, completed: "0", started: true, completionTimeSet: true,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.create(test.spec)
			w.settle()
			test.do(w)
			w.expect(test.want)
			if w.set().Status.CompletionTime != nil || len(test.want.conditions) == 0 {
				return
			}
			// A new controller comes to the same.
			w.start()
			w.expect(test.want)
		})
	}
}
