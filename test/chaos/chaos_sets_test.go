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

package chaos

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// effect is a mark that the command of a task has written.
type effect struct {
	ends   bool // false for the mark of its start
	index  int
	task   string
	worker string
	at     time.Time
}

// parseEffects parses the marks of commands: "start" or "end", index, task, worker, and the time in microseconds.
func parseEffects(data string) (all []effect, err error) {
	for line := range strings.Lines(data) {
		var what string
		var micros int64
		var e effect
		if _, err := fmt.Sscan(line, &what, &e.index, &e.task, &e.worker, &micros); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		e.ends, e.at = what == "end", time.UnixMicro(micros)
		all = append(all, e)
	}
	return all, nil
}

// setCheck is the state of checkSet.
type setCheck struct {
	set         string
	completions int
	wrong       []string

	// By index: the bindings of its tasks, its tasks that succeeded, its tasks that were created after it was counted,
	// whether the stored status counts it, its existing tasks, and when a success was observed.
	bindings, succeeded, recreated []int
	counted                        []bool
	tasks                          [][]string
	succeededAt                    []time.Time
	// evictedFrom has, by index, the workers from which its tasks were evicted.
	evictedFrom []map[string]bool
	done        bool

	evictions, starts, restarted, late int
	effects                            []effect
	// reporters are the incarnations that reported the attempts, by task, UID and number.
	reporters map[string]string
}

// fail records a violation.
func (a *setCheck) fail(format string, args ...any) {
	a.wrong = append(a.wrong, "set "+a.set+": "+fmt.Sprintf(format, args...))
}

// checkSet compares the history of a set and the marks of its commands with the promises: a task is bound to one worker
// at a time, and only the incarnation that it is bound to reports on it. An index has one task at a time. A task is
// deleted only after it was counted. A counted index succeeded, is counted once, and stays counted. In the end all
// indexes are counted. No command of an index starts afterwards, except on a worker from which the index was evicted.
func checkSet(changes []history.Change, effects []effect, set string, completions int) *setCheck {
	a := &setCheck{
		set: set, completions: completions, bindings: make([]int, completions), succeeded: make([]int, completions), recreated: make([]int, completions),
		counted: make([]bool, completions), tasks: make([][]string, completions), succeededAt: make([]time.Time, completions),
		evictedFrom: make([]map[string]bool, completions), reporters: map[string]string{}, effects: effects,
	}
	for _, c := range changes {
		switch {
		case c.SetAfter != nil && c.SetAfter.Name == set:
			a.observeSet(c.Revision, c.SetAfter)
		case c.Task() != nil && c.Task().Labels[batch.LabelTaskSetName] == set:
			a.observeTask(c)
		}
	}
	for index, n := range a.succeeded {
		// A leader that wakes from a freeze may create a task of a counted index, which may succeed too.
		if n < 1 || n > 1+a.recreated[index] {
			a.fail("%d tasks of index %d have succeeded", n, index)
		}
		if !a.counted[index] {
			a.fail("index %d is not counted in the end", index)
		}
	}
	if !a.done {
		a.fail("not complete")
	}
	a.compareEffects(effects)
	return a
}

// observeSet checks the status of the set at a revision.
func (a *setCheck) observeSet(revision int64, set *batch.TaskSet) {
	ranges, err := indexes.Parse(set.Status.CompletedIndexes, a.completions)
	if err != nil {
		a.fail("revision %d: %v", revision, err)
		return
	}
	now := make([]bool, a.completions)
	for _, r := range ranges {
		for i := r.First; i <= r.Last; i++ {
			now[i] = true
		}
	}
	for i, was := range a.counted {
		if was && !now[i] {
			a.fail("revision %d: index %d is no longer counted: %s", revision, i, set.Status.CompletedIndexes)
		}
		if !was && now[i] && a.succeeded[i] == 0 {
			a.fail("revision %d: index %d is counted, but none of its tasks succeeded", revision, i)
		}
	}
	if int(set.Status.Succeeded) != indexes.Count(ranges) || set.Status.Failed != 0 {
		a.fail("revision %d: succeeded is %d and failed is %d, but the completed indexes are %s", revision, set.Status.Succeeded, set.Status.Failed, set.Status.CompletedIndexes)
	}
	if a.done {
		a.fail("revision %d: the status was written after completion: %+v", revision, set.Status)
	}
	a.counted, a.done = now, meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
}

// observeTask checks a change of a task of the set.
func (a *setCheck) observeTask(c history.Change) {
	task := c.Task()
	wrong := func(format string, args ...any) {
		a.fail("revision %d: task %s: %s", c.Revision, task.Name, fmt.Sprintf(format, args...))
	}
	index, err := strconv.Atoi(task.Labels[batch.LabelCompletionIndex])
	if err != nil || index < 0 || index >= a.completions {
		wrong("has the index %q", task.Labels[batch.LabelCompletionIndex])
		return
	}
	switch {
	case c.Before == nil:
		a.tasks[index] = append(a.tasks[index], task.Name)
		if len(a.tasks[index]) > 1 {
			wrong("its index has several tasks: %s", strings.Join(a.tasks[index], ", "))
		}
		if a.counted[index] {
			a.recreated[index]++
			a.succeededAt[index] = time.Time{}
		}
	case c.After == nil:
		a.tasks[index] = slices.DeleteFunc(a.tasks[index], func(name string) bool { return name == task.Name })
		if !a.counted[index] {
			wrong("deleted before it was counted")
		}
	default:
		for _, message := range transitions.Wrong(c.Before, c.After) {
			wrong("%s", message)
		}
		from, to := c.Before.Spec.WorkerName, c.After.Spec.WorkerName
		switch {
		case from == "" && to != "":
			a.bindings[index]++
		case from != "" && to == "":
			a.evictions++
			if a.evictedFrom[index] == nil {
				a.evictedFrom[index] = map[string]bool{}
			}
			a.evictedFrom[index][from] = true
		case to != "":
			a.observeReport(c, wrong)
		}
		if c.After.Status.Phase == batch.TaskSucceeded && c.Before.Status.Phase != batch.TaskSucceeded {
			a.succeeded[index]++
			a.succeededAt[index] = c.Received
		}
	}
}

// observeReport checks that only the incarnation that started an attempt reports on it.
func (a *setCheck) observeReport(c history.Change, wrong func(string, ...any)) {
	before, after := c.Before.Status, c.After.Status
	if after.Attempts == before.Attempts && after.Phase == before.Phase {
		return
	}
	attempt := fmt.Sprintf("%s/%s/%d", c.After.Name, c.After.UID, after.Attempts)
	switch reporter := a.reporters[attempt]; {
	case reporter == "":
		a.reporters[attempt] = after.Incarnation
	case reporter != after.Incarnation:
		wrong("attempt %d is reported by incarnation %s after %s", after.Attempts, after.Incarnation, reporter)
	}
}

// compareEffects compares the marks of the commands with the history.
func (a *setCheck) compareEffects(effects []effect) {
	started, ended := make([]int, a.completions), make([]int, a.completions)
	for _, e := range effects {
		if e.index < 0 || e.index >= a.completions {
			a.fail("a command ran for index %d", e.index)
			continue
		}
		if e.ends {
			ended[e.index]++
			continue
		}
		started[e.index]++
		if at := a.succeededAt[e.index]; !at.IsZero() && e.at.After(at) {
			// A worker that was frozen right before the start of a command starts it when it wakes. By then the task was
			// evicted.
			if a.late++; !a.evictedFrom[e.index][e.worker] {
				a.fail("index %d started on worker %s at %s, after it succeeded at %s", e.index, e.worker, e.at.Format(time.TimeOnly), at.Format(time.TimeOnly))
			}
		}
	}
	for index := range started {
		if ended[index] == 0 {
			a.fail("index %d is counted, but its command never ended; it started %d times", index, started[index])
		}
		if started[index] > a.bindings[index] {
			a.fail("the command of index %d started %d times, but the index was bound %d times", index, started[index], a.bindings[index])
		}
		a.starts += started[index]
		a.restarted += max(0, started[index]-1)
	}
}
