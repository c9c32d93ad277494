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

package durability

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// account is the state of a set after a history.
type account struct {
	t *testing.T
	// bindings and succeeded have, for each index, how often its tasks were bound and how many of them succeeded.
	bindings, succeeded []int
	evictions           int
	// again has the number of tasks that were created for an index after it was counted.
	again map[int]int

	// tasks has the names of the existing tasks by index.
	tasks map[string][]string
	// counted has the indexes that the stored status counts.
	counted []bool
	done    bool
}

// audit checks the history of a set: a task is bound to one worker at a time, and only its incarnation writes the
// status; an index has one task at a time; a task is deleted only after its index is counted; and an index is counted
// once and stays counted.
func audit(t *testing.T, changes []history.Change, set string, completions int) *account {
	t.Helper()
	a := &account{t: t, bindings: make([]int, completions), succeeded: make([]int, completions), counted: make([]bool, completions),
		tasks: map[string][]string{}, again: map[int]int{}}
	for _, c := range changes {
		switch {
		case c.SetAfter != nil && c.SetAfter.Name == set:
			a.recordSet(c.Revision, c.SetAfter)
		case c.Task() != nil && c.Task().Labels[batch.LabelTaskSetName] == set:
			a.recordTask(c)
		}
	}
	for index, n := range a.succeeded {
		// A task that was created after its index was counted may succeed as well.
		if n < 1 || n > 1+a.again[index] {
			t.Errorf("index %d: got %d tasks that succeeded, want 1 and at most %d more", index, n, a.again[index])
		}
	}
	return a
}

func (a *account) recordSet(revision int64, set *batch.TaskSet) {
	a.t.Helper()
	ranges, err := indexes.Parse(set.Status.CompletedIndexes, len(a.counted))
	if err != nil {
		a.t.Fatalf("revision %d: %v", revision, err)
	}
	now := make([]bool, len(a.counted))
	for _, r := range ranges {
		for i := r.First; i <= r.Last; i++ {
			now[i] = true
		}
	}
	for i, was := range a.counted {
		if was && !now[i] {
			a.t.Errorf("revision %d: index %d is no longer counted: %s", revision, i, set.Status.CompletedIndexes)
		}
		if !was && now[i] && a.succeeded[i] == 0 {
			a.t.Errorf("revision %d: index %d is counted, but none of its tasks has succeeded", revision, i)
		}
	}
	if int(set.Status.Succeeded) != indexes.Count(ranges) || set.Status.Failed != 0 {
		a.t.Errorf("revision %d: got %d succeeded and %d failed with completed indexes %s", revision, set.Status.Succeeded, set.Status.Failed, set.Status.CompletedIndexes)
	}
	if a.done {
		a.t.Errorf("revision %d: the set was written after its completion: %+v", revision, set.Status)
	}
	a.counted, a.done = now, complete(set)
}

func (a *account) recordTask(c history.Change) {
	a.t.Helper()
	task := c.Task()
	label := task.Labels[batch.LabelCompletionIndex]
	var index int
	if _, err := fmt.Sscan(label, &index); err != nil || index >= len(a.counted) {
		a.t.Fatalf("task %s has index %q", task.Name, label)
	}
	wrong := func(format string, args ...any) {
		a.t.Errorf("revision %d: task %s: %s", c.Revision, task.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case c.Before == nil:
		a.tasks[label] = append(a.tasks[label], task.Name)
		if len(a.tasks[label]) > 1 {
			wrong("the index has several tasks: %s", strings.Join(a.tasks[label], ", "))
		}
		if a.counted[index] {
			a.again[index]++
		}
	case c.After == nil:
		a.tasks[label] = slices.DeleteFunc(a.tasks[label], func(name string) bool { return name == task.Name })
		if !a.counted[index] {
			wrong("it was deleted before its index was counted")
		}
	default:
		for _, message := range transitions.Wrong(c.Before, c.After) {
			wrong("%s", message)
		}
		switch {
		case c.Before.Spec.WorkerName == "" && c.After.Spec.WorkerName != "":
			a.bindings[index]++
		case c.Before.Spec.WorkerName != "" && c.After.Spec.WorkerName == "":
			a.evictions++
		}
		if c.After.Status.Phase == batch.TaskSucceeded && c.Before.Status.Phase != batch.TaskSucceeded {
			a.succeeded[index]++
		}
	}
}
