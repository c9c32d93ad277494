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

// The tests in this file compare the behavior of task sets with the documentation of batch/v1 JobSpec.

// specChange sets fields of a spec.
type specChange func(*batch.TaskSetSpec)

// newSpec returns a spec with the given fields.
func newSpec(changes ...specChange) batch.TaskSetSpec {
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

// wantStatus is the expected status of a set.
type wantStatus struct {
	conditions                 []string
	active, succeeded, failed  int32
	completed, failedIndexes   string
	indexFailures              string
	started, completionTimeSet bool
}

// statusSummary returns the status of the set.
func (w *world) statusSummary() wantStatus {
	s := w.set().Status
	return wantStatus{
		w.conditions(), s.Active, s.Succeeded, s.Failed, s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""), s.IndexFailures,
		s.StartTime != nil, s.CompletionTime != nil,
	}
}

// expect advances the clock until the status is written, and compares it.
func (w *world) expect(want wantStatus) {
	w.t.Helper()
	w.advance(statusWriteInterval)
	if want.conditions == nil {
		want.conditions = []string{}
	}
	if diff := cmp.Diff(want, w.statusSummary(), cmp.AllowUnexported(wantStatus{})); diff != "" {
		w.t.Errorf("want -, got +:\n%s", diff)
	}
}

// expectActive syncs until the controller is idle, and compares the indexes with active tasks.
func (w *world) expectActive(want ...int) {
	w.t.Helper()
	w.syncUntilIdle()
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
		want wantStatus
	}{
		// parallelism and completions
		{
			"parallelism limits the active tasks, and fewer are active when fewer are left", newSpec(completions(5), parallelism(2)),
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
			wantStatus{conditions: reached, succeeded: 5, completed: "0-4", started: true, completionTimeSet: true},
		},
		{
			"both default to one", newSpec(), func(w *world) { w.expectActive(0); w.end(0, 0) },
			wantStatus{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"parallelism 0 creates nothing", newSpec(completions(3), parallelism(0)), func(w *world) { w.expectActive() },
			wantStatus{started: true},
		},
		{
			"completions 0 is complete at once", newSpec(completions(0)), func(*world) {},
			wantStatus{conditions: reached, started: true, completionTimeSet: true},
		},
		{
			"without completions one success stops creation, and active tasks may finish", newSpec(parallelism(3)),
			func(w *world) {
				w.expectActive(0, 1, 2)
				w.end(0, 1)
				w.expectActive(0, 2)
				w.end(1, 0)
				w.expectActive(2)
				w.expect(wantStatus{active: 1, succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true})
				w.end(0, 2)
			},
			wantStatus{conditions: reached, succeeded: 2, failed: 1, completed: "1,2", indexFailures: "0:1", started: true, completionTimeSet: true},
		},
		{
			"without completions failed tasks are replaced until one succeeds", newSpec(parallelism(2)),
			func(w *world) {
				w.end(1, 0)
				w.advance(11 * time.Second)
				w.expectActive(0, 1)
			},
			wantStatus{active: 2, failed: 1, indexFailures: "0:1", started: true},
		},
		// completionMode
		{
			"a failed index is retried until it succeeds", newSpec(completions(2), parallelism(2), indexed),
			func(w *world) {
				w.end(0, 0)
				w.end(1, 1)
				w.advance(11 * time.Second)
				w.expectActive(1)
				w.end(0, 1)
			},
			wantStatus{conditions: reached, succeeded: 2, failed: 1, completed: "0,1", started: true, completionTimeSet: true},
		},
		// backoffLimit
		{
			"six retries are the default", newSpec(completions(1)),
			func(w *world) {
				for range 6 {
					w.end(1, 0)
					w.advance(time.Hour)
				}
				w.expect(wantStatus{active: 1, failed: 6, indexFailures: "0:6", started: true})
				w.end(1, 0)
			},
			wantStatus{conditions: beyondBackoff, failed: 7, indexFailures: "0:7", started: true},
		},
		{
			"beyond the limit active tasks are deleted and count as failed", newSpec(completions(9), parallelism(4), backoffLimit(0)),
			func(w *world) {
				w.syncUntilIdle()
				w.run(2)
				w.end(1, 1)
				w.expect(wantStatus{
					conditions: beyondBackoff[:1], failed: 4, indexFailures: "1:1", started: true,
				})
				if left := w.tasks[w.task(2).Name]; left.DeletionTimestamp == nil {
					w.t.Error("the running task is not deleted")
				}
				w.endTask(w.task(2), 143)
			},
			wantStatus{conditions: beyondBackoff, failed: 4, indexFailures: "1:1", started: true},
		},
		// backoffLimitPerIndex, maxFailedIndexes
		{
			"an index fails independently, and the set fails at the end", newSpec(completions(3), parallelism(3), perIndex(1)),
			func(w *world) {
				w.end(1, 0)
				w.end(0, 1)
				w.expect(wantStatus{active: 1, succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true})
				w.advance(11 * time.Second)
				w.expectActive(0, 2)
				w.end(1, 0)
				w.expect(wantStatus{active: 1, succeeded: 1, failed: 2, completed: "1", failedIndexes: "0", started: true})
				w.end(0, 2)
			},
			wantStatus{conditions: failedFor("FailedIndexes"), succeeded: 2, failed: 2, completed: "1,2", failedIndexes: "0", started: true},
		},
		{
			"the set fails beyond maxFailedIndexes", newSpec(completions(9), parallelism(3), perIndex(0), maxFailedIndexes(1)),
			func(w *world) {
				w.end(1, 1)
				w.expectActive(0, 2, 3)
				w.end(1, 0)
				w.syncUntilIdle()
			},
			wantStatus{conditions: failedFor("MaxFailedIndexesExceeded"), failed: 4, failedIndexes: "0,1", started: true},
		},
		{
			"backoffLimit still applies", newSpec(completions(9), parallelism(2), perIndex(5), backoffLimit(1)),
			func(w *world) { w.end(1, 0, 1) },
			wantStatus{conditions: beyondBackoff, failed: 2, indexFailures: "0:1,1:1", started: true},
		},
		// taskFailurePolicy
		{
			"FailTaskSet fails the set", newSpec(completions(9), parallelism(2), onExit(failSet, in, 3, 42)),
			func(w *world) { w.end(42, 1) },
			wantStatus{conditions: failedFor("TaskFailurePolicy"), failed: 2, indexFailures: "1:1", started: true},
		},
		{
			"FailIndex fails the index", newSpec(completions(2), parallelism(2), perIndex(5), onExit(failIndex, in, 42)),
			func(w *world) { w.end(42, 1); w.end(0, 0) },
			wantStatus{conditions: failedFor("FailedIndexes"), succeeded: 1, failed: 1, completed: "0", failedIndexes: "1", started: true},
		},
		{
			"Ignore does not count the failure and retries", newSpec(completions(1), backoffLimit(0), onExit(ignore, in, 42)),
			func(w *world) {
				w.end(42, 0)
				w.advance(11 * time.Second)
				w.end(42, 0)
				w.expect(wantStatus{started: true})
				w.advance(21 * time.Second)
				w.end(0, 0)
			},
			wantStatus{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"Count counts, and so do failures that no rule matches", newSpec(completions(2), parallelism(2), backoffLimit(1), onExit(count, in, 1), onExit(failSet, in, 1, 7)),
			func(w *world) { w.end(1, 0); w.syncUntilIdle(); w.end(2, 1) },
			wantStatus{conditions: beyondBackoff, failed: 2, indexFailures: "0:1,1:1", started: true},
		},
		{
			"NotIn matches all other codes except 0", newSpec(completions(2), parallelism(2), onExit(failSet, notIn, 1)),
			func(w *world) { w.end(0, 0); w.end(2, 1) },
			wantStatus{conditions: failedFor("TaskFailurePolicy"), succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		{
			"conditions are matched", newSpec(completions(1), backoffLimit(0), onCondition(ignore, batch.DisruptionTarget)),
			func(w *world) {
				w.syncUntilIdle()
				task := w.task(0)
				task.Status.Conditions = []metav1.Condition{{Type: batch.DisruptionTarget, Status: metav1.ConditionTrue}}
				w.endTask(task, 1)
				w.advance(11 * time.Second)
				w.expectActive(0)
			},
			wantStatus{active: 1, started: true},
		},
		{
			"a failure with exit code 0 matches no rule with exit codes", newSpec(completions(1), onExit(failSet, notIn, 1)),
			func(w *world) {
				w.syncUntilIdle()
				task := w.task(0)
				task.Status.Phase, task.Status.CompletionTime = batch.TaskFailed, &metav1.Time{Time: w.now}
				task.Status.State.Terminated = &batch.TaskStateTerminated{Reason: batch.TaskReasonDeadlineExceeded}
				w.putTask(task)
			},
			wantStatus{failed: 1, indexFailures: "0:1", started: true},
		},
		// successPolicy
		{
			"succeededCount of succeededIndexes", newSpec(completions(9), parallelism(4), indexed, success(ptr.To("1-3"), ptr.To[int32](2))),
			func(w *world) {
				w.end(0, 0, 1)
				w.expectActive(2, 3, 4, 5)
				w.end(0, 3)
			},
			wantStatus{
				conditions: []string{"SuccessCriteriaMet/SuccessPolicy", "Complete/SuccessPolicy"},
				succeeded:  3, completed: "0,1,3", started: true, completionTimeSet: true,
			},
		},
		{
			"all of succeededIndexes, in the second rule", newSpec(completions(9), parallelism(4), indexed,
				success(nil, ptr.To[int32](8)), success(ptr.To("0,2"), nil)),
			func(w *world) { w.end(0, 2); w.expectActive(0, 1, 3, 4); w.end(0, 0) },
			wantStatus{
				conditions: []string{"SuccessCriteriaMet/SuccessPolicy", "Complete/SuccessPolicy"},
				succeeded:  2, completed: "0,2", started: true, completionTimeSet: true,
			},
		},
		{
			"failure has precedence over success", newSpec(completions(9), parallelism(2), indexed, backoffLimit(0), success(nil, ptr.To[int32](1))),
			func(w *world) { w.end(0, 0); w.end(1, 1) },
			wantStatus{conditions: beyondBackoff, succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		// activeDeadlineSeconds
		{
			"at the deadline active tasks are deleted", newSpec(completions(9), parallelism(2), deadline(60)),
			func(w *world) {
				w.end(0, 0)
				w.advance(58 * time.Second)
				w.expectActive(1, 2)
				w.advance(time.Second)
			},
			wantStatus{conditions: failedFor("DeadlineExceeded"), succeeded: 1, failed: 2, completed: "0", started: true},
		},
		{
			"the deadline restarts when the set is resumed", newSpec(completions(9), parallelism(2), deadline(60)),
			func(w *world) {
				w.advance(50 * time.Second)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.advance(time.Hour)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
				w.advance(50 * time.Second)
				w.expectActive(0, 1)
				w.advance(10 * time.Second)
			},
			wantStatus{conditions: append([]string{"not Suspended/TaskSetResumed"}, failedFor("DeadlineExceeded")...), failed: 2, started: true},
		},
		// cancelled
		{
			"cancelling deletes active tasks and keeps the counts", newSpec(completions(9), parallelism(3), backoffLimit(5)),
			func(w *world) {
				w.syncUntilIdle()
				w.end(0, 0)
				w.end(1, 1)
				w.syncUntilIdle()
				w.run(2)
				w.change(cancel)
				w.syncUntilIdle()
				w.expect(wantStatus{
					conditions: []string{"FailureTarget/Cancelled"}, succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true,
				})
				w.endTask(w.task(2), 143)
			},
			wantStatus{conditions: failedFor("Cancelled"), succeeded: 1, failed: 1, completed: "0", indexFailures: "1:1", started: true},
		},
		{
			"tasks that finish while the set is cancelled count", newSpec(completions(9), parallelism(3), backoffLimit(5)),
			func(w *world) {
				w.syncUntilIdle()
				w.run(0, 1, 2)
				w.change(cancel)
				w.deliver(len(w.events))
				w.end(1, 0) // The task finishes before the controller deletes it.
				if err := w.reconcile(); err != nil {
					w.t.Fatal(err)
				}
				w.syncUntilIdle()
				w.endTask(w.task(1), 0)
				w.endTask(w.task(2), 143)
			},
			wantStatus{conditions: failedFor("Cancelled"), succeeded: 1, failed: 1, completed: "1", indexFailures: "0:1", started: true},
		},
		{
			"a suspended set that is cancelled fails", newSpec(completions(2), suspended),
			func(w *world) { w.syncUntilIdle(); w.change(cancel) },
			wantStatus{conditions: append([]string{"Suspended/TaskSetSuspended"}, failedFor("Cancelled")...), started: true},
		},
		{
			"a set that is cancelled before it starts fails", newSpec(completions(2), func(s *batch.TaskSetSpec) { s.Cancelled = true }), func(*world) {},
			wantStatus{conditions: failedFor("Cancelled"), started: true},
		},
		{
			"a set with enough successes completes", newSpec(completions(2), parallelism(2)),
			func(w *world) { w.end(0, 0, 1); w.change(cancel) },
			wantStatus{conditions: reached, succeeded: 2, completed: "0,1", started: true, completionTimeSet: true},
		},
		{
			"a complete set stays complete", newSpec(completions(1)),
			func(w *world) { w.end(0, 0); w.advance(statusWriteInterval); w.change(cancel) },
			wantStatus{conditions: reached, succeeded: 1, completed: "0", started: true, completionTimeSet: true},
		},
		{
			"a failed set keeps its reason", newSpec(completions(1), backoffLimit(0)),
			func(w *world) { w.end(1, 0); w.advance(statusWriteInterval); w.change(cancel) },
			wantStatus{conditions: beyondBackoff, failed: 1, indexFailures: "0:1", started: true},
		},
		// suspend
		{
			"a suspended set creates nothing", newSpec(completions(2), suspended), func(w *world) { w.expectActive() },
			wantStatus{conditions: []string{"Suspended/TaskSetSuspended"}},
		},
		{
			"suspending deletes active tasks and resets the start time", newSpec(completions(2), parallelism(2)),
			func(w *world) {
				w.syncUntilIdle()
				w.run(1)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.expectActive()
				w.endTask(w.task(1), 143)
			},
			wantStatus{conditions: []string{"Suspended/TaskSetSuspended"}},
		},
		{
			"a resumed set continues", newSpec(completions(3), suspended),
			func(w *world) {
				w.syncUntilIdle()
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(false) })
				w.expectActive(0)
				w.end(0, 0)
			},
			wantStatus{conditions: []string{"not Suspended/TaskSetResumed"}, active: 1, succeeded: 1, completed: "0", started: true},
		},
		{
			"tasks that succeed while they terminate count", newSpec(completions(1)),
			func(w *world) {
				w.syncUntilIdle()
				w.run(0)
				w.change(func(s *batch.TaskSet) { s.Spec.Suspend = ptr.To(true) })
				w.syncUntilIdle()
				w.endTask(w.task(0), 0)
			},
			wantStatus{
				conditions: append([]string{"Suspended/TaskSetSuspended"}, reached...),
				succeeded:  1, completed: "0", started: true, completionTimeSet: true,
			},
		},
	} {
		for mode, chunks := range map[string]bool{"": false, "/chunks": true} {
			t.Run(test.name+mode, func(t *testing.T) {
				w := newWorld(t)
				w.chunks = chunks
				w.create(test.spec)
				w.syncUntilIdle()
				test.do(w)
				w.expect(test.want)
				if w.set().Status.CompletionTime != nil || len(test.want.conditions) == 0 {
					return
				}
				// A new controller must get the same result.
				w.startController()
				w.expect(test.want)
			})
		}
	}
}
