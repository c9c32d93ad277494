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

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
)

func at(second int64) *metav1.Time { return ptr.To(metav1.Unix(second, 0)) }

func with(status metav1.ConditionStatus, types ...string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) {
		for _, name := range types {
			set.Status.Conditions = append(set.Status.Conditions, metav1.Condition{Type: name, Status: status})
		}
	}
}

func status(change func(*batch.TaskSetStatus)) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { change(&set.Status) }
}

func complete(set *batch.TaskSet) {
	with(metav1.ConditionTrue, batch.TaskSetSuccessCriteriaMet, batch.TaskSetComplete)(set)
	set.Status.StartTime, set.Status.CompletionTime = at(1), at(2)
}

func failed(set *batch.TaskSet) {
	with(metav1.ConditionTrue, batch.TaskSetFailureTarget, batch.TaskSetFailed)(set)
	set.Status.StartTime = at(1)
}

func TestValidateStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		set  *batch.TaskSet
		want []string
	}{
		{"new", newSet(), nil},
		{"complete", newSet(complete), nil},
		{"failed", newSet(failed), nil},
		{"bound to succeed, with tasks that end", newSet(with(metav1.ConditionTrue, batch.TaskSetSuccessCriteriaMet), status(func(s *batch.TaskSetStatus) {
			s.StartTime, s.Active, s.Terminating = at(1), 2, ptr.To[int32](1)
		})), nil},
		{"what is not True says nothing", newSet(complete, with(metav1.ConditionFalse, batch.TaskSetFailed, batch.TaskSetFailureTarget)), nil},

		{
			"complete and failed", newSet(complete, failed),
			[]string{
				`status.conditions: Invalid value: Complete and Failed must not both be True`,
				`status.conditions: Invalid value: Complete and FailureTarget must not both be True`,
				`status.conditions: Invalid value: SuccessCriteriaMet and Failed must not both be True`,
				`status.conditions: Invalid value: SuccessCriteriaMet and FailureTarget must not both be True`,
			},
		},
		{
			"complete for no reason", newSet(with(metav1.ConditionTrue, batch.TaskSetComplete), status(func(s *batch.TaskSetStatus) {
				s.StartTime, s.CompletionTime = at(1), at(1)
			})),
			[]string{`status.conditions: Invalid value: Complete may be True only when SuccessCriteriaMet is`},
		},
		{
			"failed for no reason", newSet(with(metav1.ConditionTrue, batch.TaskSetFailed), status(func(s *batch.TaskSetStatus) { s.StartTime = at(1) })),
			[]string{`status.conditions: Invalid value: Failed may be True only when FailureTarget is`},
		},
		{
			"complete at no time", newSet(complete, status(func(s *batch.TaskSetStatus) { s.CompletionTime = nil })),
			[]string{`status.completionTime: Required value: must be set when Complete is True`},
		},
		{
			"failed at a time of completion", newSet(failed, status(func(s *batch.TaskSetStatus) { s.CompletionTime = at(2) })),
			[]string{`status.completionTime: Forbidden: may be set only when Complete is True`},
		},
		{
			"complete before the start", newSet(complete, status(func(s *batch.TaskSetStatus) { s.StartTime = at(3) })),
			[]string{`status.completionTime: Invalid value: "1970-01-01T00:00:02Z": must not be before startTime`},
		},
		{
			"complete without a start", newSet(complete, status(func(s *batch.TaskSetStatus) { s.StartTime = nil })),
			[]string{`status.startTime: Required value: must be set when Complete or Failed is True`},
		},
		{"complete without a start, having nothing to do", newSet(complete, status(func(s *batch.TaskSetStatus) { s.StartTime = nil }),
			func(set *batch.TaskSet) { set.Spec.Suspend, set.Spec.Completions = ptr.To(true), ptr.To[int32](0) }), nil},
		{
			"finished with tasks left", newSet(failed, status(func(s *batch.TaskSetStatus) { s.Active, s.Terminating = 1, ptr.To[int32](2) })),
			[]string{
				`status.active: Invalid value: 1: must be 0 when Complete or Failed is True`,
				`status.terminating: Invalid value: 2: must be 0 when Complete or Failed is True`,
			},
		},
		{
			"more run than exist", newSet(status(func(s *batch.TaskSetStatus) { s.Active, s.Ready = 1, ptr.To[int32](2) })),
			[]string{`status.ready: Invalid value: 2: must be less than or equal to active, 1`},
		},

		{"indexes", newSet(indexed(1, 10), perIndex, status(func(s *batch.TaskSetStatus) {
			s.CompletedIndexes, s.FailedIndexes = "0,3-5,9", ptr.To("1-2,6-8")
		})), nil},
		{"indexes without a mode", newSet(func(set *batch.TaskSet) { set.Spec.Completions = nil }, status(func(s *batch.TaskSetStatus) {
			s.CompletedIndexes = "0-123456"
		})), nil},
		{
			"indexes out of range and in disorder", newSet(indexed(1, 10), perIndex, status(func(s *batch.TaskSetStatus) {
				s.CompletedIndexes, s.FailedIndexes, s.IndexFailures = "1,10", ptr.To("2-1"), "3:0"
			})),
			[]string{
				`status.completedIndexes: Invalid value: "1,10": "10": indexes must be less than 10`,
				`status.indexFailures: Invalid value: "3:0": "3:0": a count must be a whole number of at least 1, written in digits`,
				`status.failedIndexes: Invalid value: "2-1": "2-1": a range must end past its start`,
			},
		},
		{
			"failed and yet completed", newSet(indexed(1, 10), perIndex, status(func(s *batch.TaskSetStatus) {
				s.CompletedIndexes, s.FailedIndexes = "0,3-5,9", ptr.To("1,5-6")
			})),
			[]string{`status.failedIndexes: Invalid value: "1,5-6": must not hold 5, which is among completedIndexes`},
		},
		{
			"failed without a limit", newSet(indexed(1, 10), status(func(s *batch.TaskSetStatus) { s.FailedIndexes = ptr.To("1") })),
			[]string{`status.failedIndexes: Forbidden: may be set only when spec.backoffLimitPerIndex is`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.ValidateStatus(t.Context(), test.set))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestValidateStatusChange(t *testing.T) {
	counted := func(succeeded, failed int32) func(*batch.TaskSet) {
		return status(func(s *batch.TaskSetStatus) { s.Succeeded, s.Failed = succeeded, failed })
	}
	completed := func(list string) func(*batch.TaskSet) {
		return status(func(s *batch.TaskSetStatus) {
			ranges, err := indexes.Parse(list, 100)
			if err != nil {
				t.Fatal(err)
			}
			s.CompletedIndexes, s.Succeeded = list, int32(indexes.Count(ranges))
		})
	}
	started := func(second int64) func(*batch.TaskSet) {
		return status(func(s *batch.TaskSetStatus) { s.StartTime = at(second) })
	}
	suspend := func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) }
	const once = `status.startTime: Forbidden: must not change once it is set, unless the set is suspended or resumed`
	for _, test := range []struct {
		name    string
		old, to *batch.TaskSet
		want    []string
	}{
		{"a set completes", newSet(started(1)), newSet(complete), nil},
		{"a complete set stays so", newSet(complete), newSet(complete), nil},
		{
			"and is not taken back", newSet(complete), newSet(started(1)),
			[]string{
				`status.conditions: Invalid value: Complete must stay True: it is final`,
				`status.conditions: Invalid value: SuccessCriteriaMet must stay True: it is final`,
			},
		},
		{
			"nor is a failure", newSet(failed), newSet(started(1), with(metav1.ConditionFalse, batch.TaskSetFailed, batch.TaskSetFailureTarget)),
			[]string{
				`status.conditions: Invalid value: Failed must stay True: it is final`,
				`status.conditions: Invalid value: FailureTarget must stay True: it is final`,
			},
		},
		{
			"a set completes once", newSet(complete), newSet(complete, status(func(s *batch.TaskSetStatus) { s.CompletionTime = at(9) })),
			[]string{`status.completionTime: Forbidden: must not change once it is set`},
		},
		{"counts grow", newSet(counted(1, 1)), newSet(counted(2, 3)), nil},
		{
			"counts do not shrink", newSet(counted(2, 3)), newSet(counted(1, 1)),
			[]string{
				`status.failed: Invalid value: 1: must be greater than or equal to its former value, 3`,
				`status.succeeded: Invalid value: 1: must be greater than or equal to its former value, 2`,
			},
		},
		{"but as an elastic set does", newSet(indexed(3, 3), completed("0-1")), newSet(indexed(1, 1), completed("0")), nil},
		{"whatever its parallelism is by then", newSet(indexed(8, 8), completed("2-7")), newSet(indexed(1, 2), completed("")), nil},
		{
			"and by no more than that", newSet(indexed(8, 8), completed("0,3-7")), newSet(indexed(1, 4), completed("0")),
			[]string{`status.succeeded: Invalid value: 1: must be greater than or equal to 2, its former value without the indexes past completions`},
		},
		{
			"not as large as it is", newSet(indexed(8, 8), completed("0-5")), newSet(indexed(8, 8), completed("0-4")),
			[]string{`status.succeeded: Invalid value: 5: must be greater than or equal to its former value, 6`},
		},
		{"a set starts", newSet(), newSet(started(1)), nil},
		{"a set starts once", newSet(started(1)), newSet(started(2)), []string{once}},
		{"a start is not forgotten", newSet(started(1)), newSet(), []string{once}},
		{"but by a suspended set", newSet(suspend, started(1)), newSet(suspend), nil},
		{
			"and one that is resumed starts again", newSet(started(1), with(metav1.ConditionTrue, batch.TaskSetSuspended)),
			newSet(started(2), with(metav1.ConditionFalse, batch.TaskSetSuspended)), nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.ValidateStatusChange(t.Context(), test.to, test.old))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	cancelled := func(set *batch.TaskSet) {
		for i := range set.Status.Conditions {
			set.Status.Conditions[i].Reason, set.Status.Conditions[i].LastTransitionTime = batch.TaskSetReasonCancelled, *at(61)
		}
	}
	deleted := func(set *batch.TaskSet) { set.DeletionTimestamp = at(1) }
	for _, test := range []struct {
		set                           *batch.TaskSet
		status, completions, duration string
	}{
		{newSet(), "Running", "0/1", ""},
		{newSet(deleted), "Terminating", "0/1", ""},
		{newSet(complete, deleted, status(func(s *batch.TaskSetStatus) { s.Succeeded = 1 })), "Complete", "1/1", "1s"},
		{newSet(failed, func(set *batch.TaskSet) {
			for i := range set.Status.Conditions {
				set.Status.Conditions[i].LastTransitionTime = *at(61)
			}
		}), "Failed", "0/1", "60s"},
		{newSet(failed, cancelled), "Cancelled", "0/1", "60s"},
		{newSet(with(metav1.ConditionTrue, batch.TaskSetFailureTarget), cancelled), "Cancelling", "0/1", ""},
		{newSet(with(metav1.ConditionTrue, batch.TaskSetSuspended)), "Suspended", "0/1", ""},
		{newSet(with(metav1.ConditionTrue, batch.TaskSetSuccessCriteriaMet)), "SuccessCriteriaMet", "0/1", ""},
		{newSet(with(metav1.ConditionTrue, batch.TaskSetFailureTarget)), "FailureTarget", "0/1", ""},
		{newSet(with(metav1.ConditionFalse, batch.TaskSetSuspended), indexed(3, 100_000), status(func(s *batch.TaskSetStatus) {
			s.Succeeded = 8123
		})), "Running", "8123/100000", ""},
		{newSet(func(set *batch.TaskSet) { set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](3), nil }), "Running", "0/1 of 3", ""},
		{newSet(func(set *batch.TaskSet) { set.Spec.Completions = nil }), "Running", "0/1", ""},
	} {
		t.Run(test.status+" "+test.completions, func(t *testing.T) {
			for name, cell := range map[string]struct{ got, want any }{
				"status":      {StatusColumn(test.set), test.status},
				"completions": {CompletionsColumn(test.set), test.completions},
				"duration":    {DurationColumn(test.set), test.duration},
			} {
				if cell.got != cell.want {
					t.Errorf("%s: got %q, want %q", name, cell.got, cell.want)
				}
			}
		})
	}
}
