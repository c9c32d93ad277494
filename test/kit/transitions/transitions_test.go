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
		"an uncounted binding":   {bound("", "", 0, 0, batch.TaskPending), bindings(bound("a", "a1", 0, 0, batch.TaskPending), 0), "0 bindings after 0"},
		"bindings that change":   {bound("a", "a1", 0, 0, batch.TaskPending), bindings(bound("a", "a1", 0, 0, batch.TaskPending), 2), "was not bound"},
		"two bindings":           {bound("a", "a1", 0, 0, batch.TaskPending), bound("b", "b1", 0, 0, batch.TaskPending), "without an eviction"},
		"another incarnation":    {bound("a", "a1", 0, 0, batch.TaskPending), bound("a", "a2", 0, 1, batch.TaskRunning), "without an eviction"},
		"an end while unbound":   {bound("", "", 1, 1, batch.TaskPending), bound("", "", 1, 1, batch.TaskSucceeded), "bound to nobody"},
		"an uncounted eviction":  {bound("a", "a1", 0, 1, batch.TaskRunning), bound("", "", 0, 1, batch.TaskPending), "evicted from a"},
		"attempts that decrease": {bound("a", "a1", 0, 2, batch.TaskRunning), bound("a", "a1", 0, 1, batch.TaskRunning), "1 attempts after 2"},
		"a second end":           {bound("a", "a1", 0, 1, batch.TaskSucceeded), bound("a", "a1", 0, 1, batch.TaskFailed), "it was Succeeded"},
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
