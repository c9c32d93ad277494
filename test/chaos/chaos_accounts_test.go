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
	"github.com/leat-dev/leat/test/kit/transitions"
)

// effect is a mark that the command of a task has left behind.
type effect struct {
	ends   bool // or starts
	index  int
	task   string
	worker string
	at     time.Time
}

// parseEffects reads what commands have written: "start" or "end", index, task, worker, and the time in microseconds.
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

// account is what the history of a set amounts to.
type account struct {
	set         string
	completions int
	wrong       []string

	// Of each index: how often a task of it was bound and how many of its tasks have succeeded; what the stored status counts; the tasks
	// there are; when it was heard that one had succeeded; and how many were created after it was counted.
	bindings, succeeded, again []int
	counted                    []bool
	tasks                      [][]string
	final                      []time.Time
	// taken are the workers that tasks of an index were taken from.
	taken []map[string]bool
	done  bool

	evictions, starts, repeated, late int
	effects                           []effect
	// owners are the incarnations that have begun the attempts, by task, UID and number.
	owners map[string]string
}

func (a *account) say(format string, args ...any) {
	a.wrong = append(a.wrong, "set "+a.set+": "+fmt.Sprintf(format, args...))
}

// checkSet holds the history of a set, and what its commands have left behind, to what is promised of it: a task is given to one worker at
// a time, and only the incarnation it was given to writes of it; there is one task of an index at a time; a task is deleted only after it
// was counted; what is counted stays counted, was done, and is counted once; in the end all is counted; and nothing is started after that
// by a worker that nothing was taken from.
func checkSet(changes []change, effects []effect, set string, completions int) *account {
	a := &account{
		set: set, completions: completions, bindings: make([]int, completions), succeeded: make([]int, completions), again: make([]int, completions),
		counted: make([]bool, completions), tasks: make([][]string, completions), final: make([]time.Time, completions),
		taken: make([]map[string]bool, completions), owners: map[string]string{}, effects: effects,
	}
	for _, c := range changes {
		switch {
		case c.setNow != nil && c.setNow.Name == set:
			a.takeSet(c.revision, c.setNow)
		case c.task() != nil && c.task().Labels[batch.LabelTaskSetName] == set:
			a.takeTask(c)
		}
	}
	for index, n := range a.succeeded {
		// One that was created once more after its index was counted may succeed, too: by a leader that was frozen and woke.
		if n < 1 || n > 1+a.again[index] {
			a.say("%d tasks of index %d have succeeded", n, index)
		}
		if !a.counted[index] {
			a.say("index %d is not counted in the end", index)
		}
	}
	if !a.done {
		a.say("it is not complete")
	}
	a.takeEffects(effects)
	return a
}

func (a *account) takeSet(revision int64, set *batch.TaskSet) {
	ranges, err := indexes.Parse(set.Status.CompletedIndexes, a.completions)
	if err != nil {
		a.say("revision %d: %v", revision, err)
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
			a.say("revision %d: index %d is no longer counted: %s", revision, i, set.Status.CompletedIndexes)
		}
		if !was && now[i] && a.succeeded[i] == 0 {
			a.say("revision %d: index %d is counted, and none of its tasks has succeeded", revision, i)
		}
	}
	if int(set.Status.Succeeded) != indexes.Count(ranges) || set.Status.Failed != 0 {
		a.say("revision %d: %d have succeeded and %d have failed, and the indexes are %s", revision, set.Status.Succeeded, set.Status.Failed, set.Status.CompletedIndexes)
	}
	if a.done {
		a.say("revision %d: it was written to after its end: %+v", revision, set.Status)
	}
	a.counted, a.done = now, meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
}

func (a *account) takeTask(c change) {
	task := c.task()
	wrong := func(format string, args ...any) {
		a.say("revision %d: task %s: %s", c.revision, task.Name, fmt.Sprintf(format, args...))
	}
	index, err := strconv.Atoi(task.Labels[batch.LabelCompletionIndex])
	if err != nil || index < 0 || index >= a.completions {
		wrong("it has the index %q", task.Labels[batch.LabelCompletionIndex])
		return
	}
	switch {
	case c.before == nil:
		a.tasks[index] = append(a.tasks[index], task.Name)
		if len(a.tasks[index]) > 1 {
			wrong("the index has several tasks: %s", strings.Join(a.tasks[index], ", "))
		}
		if a.counted[index] {
			a.again[index]++
			a.final[index] = time.Time{}
		}
	case c.after == nil:
		a.tasks[index] = slices.DeleteFunc(a.tasks[index], func(name string) bool { return name == task.Name })
		if !a.counted[index] {
			wrong("it was deleted before it was counted")
		}
	default:
		for _, message := range transitions.Wrong(c.before, c.after) {
			wrong("%s", message)
		}
		from, to := c.before.Spec.WorkerName, c.after.Spec.WorkerName
		switch {
		case from == "" && to != "":
			a.bindings[index]++
		case from != "" && to == "":
			a.evictions++
			if a.taken[index] == nil {
				a.taken[index] = map[string]bool{}
			}
			a.taken[index][from] = true
		case to != "":
			a.report(c, wrong)
		}
		if c.after.Status.Phase == batch.TaskSucceeded && c.before.Status.Phase != batch.TaskSucceeded {
			a.succeeded[index]++
			a.final[index] = c.told
		}
	}
}

// report takes what a worker has written of an attempt: it is the incarnation's that began it.
func (a *account) report(c change, wrong func(string, ...any)) {
	before, after := c.before.Status, c.after.Status
	if after.Attempts == before.Attempts && after.Phase == before.Phase {
		return
	}
	attempt := fmt.Sprintf("%s/%s/%d", c.after.Name, c.after.UID, after.Attempts)
	switch owner := a.owners[attempt]; {
	case owner == "":
		a.owners[attempt] = after.Incarnation
	case owner != after.Incarnation:
		wrong("attempt %d is reported by incarnation %s after %s", after.Attempts, after.Incarnation, owner)
	}
}

// takeEffects compares what the commands have left behind with the history.
func (a *account) takeEffects(effects []effect) {
	started, ended := make([]int, a.completions), make([]int, a.completions)
	for _, e := range effects {
		if e.index < 0 || e.index >= a.completions {
			a.say("a command ran for index %d", e.index)
			continue
		}
		if e.ends {
			ended[e.index]++
			continue
		}
		started[e.index]++
		if final := a.final[e.index]; !final.IsZero() && e.at.After(final) {
			// A worker that was frozen or cut off when it was about to start a command starts it when it wakes: then it was taken from it.
			if a.late++; !a.taken[e.index][e.worker] {
				a.say("index %d was started on %s at %s, and had its end at %s", e.index, e.worker, e.at.Format(time.TimeOnly), final.Format(time.TimeOnly))
			}
		}
	}
	for index := range started {
		if ended[index] == 0 {
			a.say("index %d is counted, and its command never came to its end: it was started %d times", index, started[index])
		}
		if started[index] > a.bindings[index] {
			a.say("the command of index %d was started %d times, and given to a worker %d times", index, started[index], a.bindings[index])
		}
		a.starts += started[index]
		a.repeated += max(0, started[index]-1)
	}
}
