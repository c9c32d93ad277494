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
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

func TestConditionsFollowThePhase(t *testing.T) {
	terminated := func(reason string, code int32) batch.TaskState {
		return batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: reason, ExitCode: code}}
	}
	for _, test := range []struct {
		name   string
		status batch.TaskStatus
		want   []string
	}{
		{"pending", batch.TaskStatus{Phase: batch.TaskPending}, []string{"Reconciling=True Pending "}},
		{"running", batch.TaskStatus{Phase: batch.TaskRunning}, []string{"Reconciling=True Running "}},
		{"succeeded", batch.TaskStatus{Phase: batch.TaskSucceeded, State: terminated("Completed", 0)}, []string{"Complete=True Completed "}},
		{
			"failed", batch.TaskStatus{Phase: batch.TaskFailed, State: terminated("Error", 3)},
			[]string{"Failed=True Error Error: exit code 3", "Stalled=True Error Error: exit code 3"},
		},
		{
			"past its deadline", batch.TaskStatus{Phase: batch.TaskFailed, State: terminated("DeadlineExceeded", 0)},
			[]string{"Failed=True DeadlineExceeded DeadlineExceeded", "Stalled=True DeadlineExceeded DeadlineExceeded"},
		},
		{
			"failed for what is no reason of a condition", batch.TaskStatus{Phase: batch.TaskFailed, State: terminated("not one word", 1)},
			[]string{"Failed=True Error Error: exit code 1", "Stalled=True Error Error: exit code 1"},
		},
		{"failed without a word", batch.TaskStatus{Phase: batch.TaskFailed}, []string{"Failed=True Error Error", "Stalled=True Error Error"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.status.Conditions = []metav1.Condition{{Type: batch.TaskFailure, Status: metav1.ConditionTrue, Reason: "MadeUp"}}
			setConditionsForPhase(&test.status, nil)
			var got []string
			for _, c := range test.status.Conditions {
				got = append(got, c.Type+"="+string(c.Status)+" "+c.Reason+" "+c.Message)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if errs := metav1validation.ValidateConditions(test.status.Conditions, field.NewPath("conditions")); len(errs) > 0 {
				t.Error(errs)
			}
		})
	}
}

func TestWorkersCannotWritePhaseConditions(t *testing.T) {
	past := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	stored := newTask(func(task *batch.Task) {
		task.Status.Conditions = []metav1.Condition{
			{Type: batch.TaskReconciling, Status: metav1.ConditionTrue, Reason: "Pending", LastTransitionTime: past},
			{Type: batch.TaskScheduled, Status: metav1.ConditionTrue, Reason: "Bound", LastTransitionTime: past},
		}
	})
	sent := stored.DeepCopy()
	sent.Status.Conditions = append([]metav1.Condition{{Type: batch.TaskComplete, Status: metav1.ConditionTrue, Reason: "Hm"}}, sent.Status.Conditions[1])
	Rules{}.PrepareForStatusUpdate(t.Context(), sent, stored)
	want := []metav1.Condition{stored.Status.Conditions[1], stored.Status.Conditions[0]}
	if diff := cmp.Diff(want, sent.Status.Conditions); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestTheServerRestoresBindings(t *testing.T) {
	stored := newTask(func(task *batch.Task) { task.Status.Bindings = 3 })
	sent := newTask() // by a client that does not know the field
	Rules{}.PrepareForStatusUpdate(t.Context(), sent, stored)
	if sent.Status.Bindings != 3 {
		t.Errorf("got %d bindings, want 3", sent.Status.Bindings)
	}
}

func TestARequestToReturnATaskEndsWithItsStart(t *testing.T) {
	for _, test := range []struct {
		phase batch.TaskPhase
		want  bool
	}{{batch.TaskPending, true}, {batch.TaskRunning, false}, {batch.TaskSucceeded, false}, {batch.TaskFailed, false}} {
		stored := newTask(func(task *batch.Task) {
			task.Status.Conditions = []metav1.Condition{{Type: batch.TaskReturnRequested, Status: metav1.ConditionTrue, Reason: "Rebalanced"}}
		})
		sent := stored.DeepCopy()
		sent.Status.Phase = test.phase
		Rules{}.PrepareForStatusUpdate(t.Context(), sent, stored)
		if got := meta.IsStatusConditionTrue(sent.Status.Conditions, batch.TaskReturnRequested); got != test.want {
			t.Errorf("phase %s: the task has the condition: %v, want %v", test.phase, got, test.want)
		}
		if !meta.IsStatusConditionTrue(stored.Status.Conditions, batch.TaskReturnRequested) {
			t.Errorf("phase %s: the stored task has changed", test.phase)
		}
	}
}

func TestSchedulingGatedCondition(t *testing.T) {
	gated := func(names ...string) *batch.Task {
		return newTask(func(task *batch.Task) {
			for _, name := range names {
				task.Spec.SchedulingGates = append(task.Spec.SchedulingGates, batch.TaskSchedulingGate{Name: name})
			}
		})
	}
	says := func(task *batch.Task) string {
		c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled)
		if c == nil {
			return ""
		}
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	stored := gated("a", "b", "c")
	Rules{}.PrepareForCreate(t.Context(), stored)
	if got, want := says(stored), "False SchedulingGated: The task waits for the removal of scheduling gate a and 2 more."; got != want {
		t.Errorf("created: got %q, want %q", got, want)
	}
	if got := StatusColumn(stored); got != "SchedulingGated" {
		t.Errorf("got column %q", got)
	}
	before := says(stored)
	for _, step := range []struct {
		gates []string
		want  string
	}{
		{[]string{"a", "b", "c"}, "False SchedulingGated: The task waits for the removal of scheduling gate a and 2 more."},
		{[]string{"b", "c"}, "False SchedulingGated: The task waits for the removal of scheduling gate b and 1 more."},
		{[]string{"c"}, "False SchedulingGated: The task waits for the removal of scheduling gate c."},
		{nil, ""},
	} {
		updated := gated(step.gates...)
		updated.Status = stored.Status
		Rules{}.PrepareForUpdate(t.Context(), updated, stored)
		if got := says(updated); got != step.want {
			t.Errorf("%q are left: got %q, want %q", step.gates, got, step.want)
		}
		if says(stored) != before {
			t.Fatalf("%q are left: the stored object was changed", step.gates)
		}
	}

	// The scheduler owns the condition with other reasons.
	waits, updated := gated(), gated()
	meta.SetStatusCondition(&waits.Status.Conditions, metav1.Condition{Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: "Unschedulable", Message: "No room."})
	updated.Status = waits.Status
	Rules{}.PrepareForUpdate(t.Context(), updated, waits)
	if got := says(updated); got != "False Unschedulable: No room." {
		t.Errorf("without gates: got %q", got)
	}
	none := gated()
	Rules{}.PrepareForCreate(t.Context(), none)
	if got := says(none); got != "" {
		t.Errorf("created without gates: got %q", got)
	}
}
