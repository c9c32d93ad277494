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

package taskrunner

import (
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// tableOf returns the rows of the table in the comment of a declaration in phase.go. Each row is split at the arrow
// and at two or more spaces.
func tableOf(t *testing.T, declaration string) [][]string {
	t.Helper()
	source, err := os.ReadFile("phase.go")
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(source), "\n"+declaration)
	if !found {
		t.Fatalf("phase.go does not have %q", declaration)
	}
	comment := before[strings.LastIndex(before, "\n\n")+2:]
	var rows [][]string
	for line := range strings.Lines(comment) {
		if row, ok := strings.CutPrefix(line, "//\t"); ok {
			rows = append(rows, regexp.MustCompile(` {2,}→ *| +→ +| {2,}`).Split(strings.TrimSpace(row), -1))
		}
	}
	if len(rows) < 2 {
		t.Fatalf("the comment of %q has no table", declaration)
	}
	return rows[1:]
}

func TestTransitionsAreThoseOfTheTable(t *testing.T) {
	phases := []phase{reporting, starting, running, terminating, backingOff, finishing}
	events := []event{reported, started, succeeded, failed, ended, due, stopped}
	want := map[phase]map[event]phase{}
	for _, row := range tableOf(t, "type phase string") {
		if len(row) != 4 {
			t.Fatalf("the row %q does not have a phase, an event, a phase and an action", row)
		}
		from, on := phase(row[0]), event(row[1])
		if want[from] == nil {
			want[from] = map[event]phase{}
		}
		want[from][on] = phase(row[2])
		if terminates := strings.HasPrefix(row[3], "send "); terminates != (row[2] == string(terminating)) {
			t.Errorf("%s × %s: the action is %q", from, on, row[3])
		}
	}
	for _, from := range phases {
		for _, on := range events {
			next, ok := transitions[from][on]
			if wanted, documented := want[from][on]; ok != documented || next != wanted {
				t.Errorf("%s × %s → %q, documented is %q", from, on, next, wanted)
			}
		}
		if _, ok := transitions[from][stopped]; !ok {
			t.Errorf("a task that is %s cannot be stopped", from)
		}
	}
	for from := range want {
		if transitions[from] == nil {
			t.Errorf("the table has the unknown phase %s", from)
		}
	}
}

func TestAStoppedTaskMakesNoMoreAttempts(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, wasStopped := starting, false
		for range 50 {
			var possible []event
			for e := range transitions[p] {
				possible = append(possible, e)
			}
			e := possible[r.IntN(len(possible))]
			p, wasStopped = p.transition(e), wasStopped || e == stopped
			if wasStopped && p != terminating && p != finishing {
				t.Fatalf("seed %d: a stopped task is %s", seed, p)
			}
		}
	}
}

func TestAnImpossibleEventPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a command started twice")
		}
	}()
	running.transition(started)
}

func TestOutcomesAreThoseOfTheTable(t *testing.T) {
	reasons := map[string]stopReason{
		"notStopped": notStopped, "stoppedByDrain": stoppedByDrain, "stoppedByDeletion": stoppedByDeletion,
		"stoppedByDeadline": stoppedByDeadline, "stoppedByLoss": stoppedByLoss,
	}
	attempts := map[string]*batch.TaskStateTerminated{
		"none": nil, "succeeded": {Reason: batch.TaskReasonCompleted}, "failed": {Reason: batch.TaskReasonError},
	}
	completions := map[string]bool{"true": true, "false": false}
	startErrs := map[string]error{"unset": nil, "set": errors.New("too many open files")}
	rows := tableOf(t, "func outcomeOf(")
	used := map[int]bool{}
	for reason, stop := range reasons {
		for attempt, last := range attempts {
			for completion, completed := range completions {
				for set, startErr := range startErrs {
					i := slices.IndexFunc(rows, func(row []string) bool {
						matches := func(cell, value string) bool { return cell == "any" || cell == value }
						return matches(row[0], reason) && matches(row[1], attempt) && matches(row[2], completion) && matches(row[3], set)
					})
					if i < 0 {
						t.Errorf("%s, %s, %s, %s: no row matches", reason, attempt, completion, set)
						continue
					}
					used[i] = true
					want, _, _ := strings.Cut(rows[i][4], ",")
					if got := outcomeOf(stop, last, completed, startErr); string(got) != want {
						t.Errorf("%s, %s, %s, %s: the outcome is %q, documented is %q", reason, attempt, completion, set, got, want)
					}
				}
			}
		}
	}
	if len(used) != len(rows) {
		t.Errorf("of %d rows only %v match anything", len(rows), used)
	}
}
