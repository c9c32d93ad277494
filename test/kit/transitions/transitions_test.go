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

package transitions

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestWrongTransitionsAreSeen checks the rules with changes that they forbid and with some that they allow.
func TestWrongTransitionsAreSeen(t *testing.T) {
	bound := func(worker, incarnation string, disruptions, attempts int32, phase batch.TaskPhase) *batch.Task {
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: batch.TaskSpec{WorkerName: worker}}
		task.Status.Incarnation, task.Status.Disruptions, task.Status.Attempts, task.Status.Phase = incarnation, disruptions, attempts, phase
		if task.Status.Bindings = disruptions; worker != "" {
			task.Status.Bindings++
		}
		if worker == "" && disruptions > 0 {
			task.Status.Conditions = []metav1.Condition{{Type: batch.DisruptionTarget, Status: metav1.ConditionTrue}}
		}
		return task
	}
	bindings := func(task *batch.Task, n int32) *batch.Task {
		task.Status.Bindings = n
		return task
	}
	chunk := func(worker string, disruptions, attempts, completed, limit int32, phase batch.TaskPhase) *batch.Task {
		task := bound(worker, worker, disruptions, attempts, phase)
		task.Spec.Indexes, task.Status.CompletedCount = "0-3,7-9", completed
		if limit > 0 {
			task.Status.IndexLimit = &limit
		}
		return task
	}
	other := chunk("a", 0, 1, 2, 0, batch.TaskRunning)
	other.Spec.Indexes = "0-3,7"
	for name, c := range map[string]struct {
		before, after *batch.Task
		want          string
	}{
		"a binding":              {bound("", "", 0, 0, batch.TaskPending), bound("a", "a1", 0, 0, batch.TaskPending), ""},
		"a start":                {bound("a", "a1", 0, 0, batch.TaskPending), bound("a", "a1", 0, 1, batch.TaskRunning), ""},
		"an end":                 {bound("a", "a1", 0, 1, batch.TaskRunning), bound("a", "a1", 0, 1, batch.TaskSucceeded), ""},
		"an eviction":            {bound("a", "a1", 0, 1, batch.TaskRunning), bound("", "", 1, 1, batch.TaskPending), ""},
		"a return":               {bound("a", "a1", 0, 0, batch.TaskPending), bindings(bound("", "", 0, 0, batch.TaskPending), 1), ""},
		"a return that counts":   {bound("a", "a1", 0, 0, batch.TaskPending), withoutConditions(bound("", "", 1, 0, batch.TaskPending)), "evicted from a"},
		"a return after a start": {bound("a", "a1", 0, 1, batch.TaskRunning), bindings(bound("", "", 0, 1, batch.TaskPending), 1), "evicted from a"},
		"an uncounted binding":   {bindings(bound("", "", 0, 0, batch.TaskPending), 1), bound("a", "a1", 0, 0, batch.TaskPending), "1 bindings after 1"},
		"an older server":        {bound("", "", 0, 0, batch.TaskPending), bindings(bound("a", "a1", 0, 0, batch.TaskPending), 0), ""},
		"bindings that change":   {bound("a", "a1", 0, 0, batch.TaskPending), bindings(bound("a", "a1", 0, 0, batch.TaskPending), 2), "was not bound"},
		"two bindings":           {bound("a", "a1", 0, 0, batch.TaskPending), bound("b", "b1", 0, 0, batch.TaskPending), "without an eviction"},
		"another incarnation":    {bound("a", "a1", 0, 0, batch.TaskPending), bound("a", "a2", 0, 1, batch.TaskRunning), "without an eviction"},
		"an end while unbound":   {bound("", "", 1, 1, batch.TaskPending), bound("", "", 1, 1, batch.TaskSucceeded), "bound to nobody"},
		"an uncounted eviction":  {bound("a", "a1", 0, 1, batch.TaskRunning), bound("", "", 0, 1, batch.TaskPending), "evicted from a"},
		"attempts that decrease": {bound("a", "a1", 0, 2, batch.TaskRunning), bound("a", "a1", 0, 1, batch.TaskRunning), "1 attempts after 2"},
		"the next index":         {chunk("a", 0, 2, 2, 0, batch.TaskRunning), chunk("a", 0, 1, 3, 0, batch.TaskRunning), ""},
		"a release":              {chunk("a", 0, 1, 2, 0, batch.TaskRunning), chunk("a", 0, 1, 2, 3, batch.TaskRunning), ""},
		"an eviction of a chunk": {chunk("a", 0, 1, 2, 5, batch.TaskRunning), chunk("", 1, 1, 2, 3, batch.TaskPending), ""},
		"the end of a chunk":     {chunk("a", 0, 1, 2, 3, batch.TaskRunning), chunk("a", 0, 1, 3, 3, batch.TaskSucceeded), ""},
		"a prefix counter that goes back": {
			chunk("a", 0, 1, 3, 0, batch.TaskRunning), chunk("a", 0, 1, 2, 0, batch.TaskRunning), "2 completed indexes after 3"},
		"attempts at an index that decrease": {
			chunk("a", 0, 2, 3, 0, batch.TaskRunning), chunk("a", 0, 1, 3, 0, batch.TaskRunning), "1 attempts after 2"},
		"a release that is taken back": {
			chunk("a", 0, 1, 3, 4, batch.TaskRunning), chunk("a", 0, 1, 3, 0, batch.TaskRunning), "first 7 of its indexes after 4"},
		"an index completed past the limit": {
			chunk("a", 0, 1, 3, 4, batch.TaskRunning), chunk("a", 0, 1, 5, 4, batch.TaskRunning), "may run 4 of 7"},
		"an eviction that keeps indexes": {
			chunk("a", 0, 1, 2, 0, batch.TaskRunning), chunk("", 1, 1, 2, 0, batch.TaskPending), "was evicted with 2 completed"},
		"a completion by an eviction": {
			chunk("a", 0, 1, 2, 0, batch.TaskRunning), chunk("", 1, 1, 3, 4, batch.TaskPending), "no worker has reported"},
		"other indexes": {chunk("a", 0, 1, 2, 0, batch.TaskRunning), other, "has the indexes"},
		"a second end":  {bound("a", "a1", 0, 1, batch.TaskSucceeded), bound("a", "a1", 0, 1, batch.TaskFailed), "it was Succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(Wrong(c.before, c.after), "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got violations %q, want %q", got, c.want)
			}
		})
	}
}

func withoutConditions(task *batch.Task) *batch.Task {
	task.Status.Conditions = nil
	return task
}
