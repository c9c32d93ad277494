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

package product

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/host"
)

// killWhileRunning kills what kill kills, each time the set has come some way further.
func (s *taskSetSuite) killWhileRunning(t *testing.T, name string, times int, completions int32, kill func()) {
	t.Helper()
	for n := range times {
		// From one kill to the next some tasks must come to their end.
		mark := completions * int32(n) / int32(times+1)
		s.waitForTaskSet(t, name, fmt.Sprintf("%d indexes are complete", mark), func(set *batch.TaskSet) bool { return set.Status.Succeeded >= mark })
		delay := time.NewTimer(time.Duration(rand.IntN(500)) * time.Millisecond)
		<-delay.C
		kill()
	}
}

func checkAllCounted(t *testing.T, set *batch.TaskSet, completions int32) {
	t.Helper()
	if set.Status.Succeeded != completions || set.Status.CompletedIndexes != fmt.Sprintf("0-%d", completions-1) {
		t.Errorf("status: %+v", set.Status)
	}
}

// Everything is in the process that is killed, workers included: what ran then runs again.
func (s *taskSetSuite) allKilled(t *testing.T) {
	const completions = 300
	name, dir := s.create(t, counts(completions, 16), runsScript(`sleep 0.2; `+effect))
	kills := 0
	s.killWhileRunning(t, name, 4, completions, func() {
		kit.Check(t, s.env.Server.Restart(t.Context()))
		kills++
	})
	set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	checkAllCounted(t, set, completions)
	if set.Status.Failed != 0 {
		t.Errorf("%d tasks have failed", set.Status.Failed)
	}
	seen, again := effects(t, dir), 0
	for index := range completions {
		if seen[index] < 1 {
			t.Errorf("index %d counts as complete and has not run", index)
		}
		again += seen[index] - 1
	}
	if again > 16*kills {
		t.Errorf("%d commands ran again after %d kills of 16 each", again, kills)
	}
	s.waitTasks(t, name, "the tasks are gone", none)
}

// The controllers are killed and frozen, and workers go on: no command runs twice, and each failure is counted once.
func (s *taskSetSuite) controllersKilled(t *testing.T, managers []*host.Process) {
	const completions = 300
	name, dir := s.create(t, counts(completions, 16), runsScript(effect+`; sleep 0.2; [ $((TASK_INDEX % 20)) != 13 ]`),
		func(set *batch.TaskSet) { n := int32(0); set.Spec.BackoffLimitPerIndex = &n })
	const failing = completions / 20
	turn := 0
	s.killWhileRunning(t, name, 6, completions-failing, func() {
		p := managers[turn%2]
		if turn++; turn%4 == 0 {
			// A leader that wakes after another has taken over ends by itself, and may be started again.
			kit.Check(t, p.Signal(syscall.SIGSTOP))
			timer := time.NewTimer(5 * time.Second)
			<-timer.C
			kit.Check(t, p.Signal(syscall.SIGCONT))
		}
		kit.Check(t, p.Restart(t.Context()))
	})
	set := s.waitForTaskSet(t, name, "the set has come to its end", is(batch.TaskSetFailed))
	if set.Status.Succeeded != completions-failing || set.Status.Failed != failing || reason(set, batch.TaskSetFailed) != "FailedIndexes" {
		t.Errorf("status: %+v", set.Status)
	}
	for index, n := range effects(t, dir) {
		if n != 1 {
			t.Errorf("index %d has run %d times", index, n)
		}
	}
	s.waitTasks(t, name, "all but the failed tasks are gone", func(tasks []batch.Task) bool { return len(tasks) == failing })
}
