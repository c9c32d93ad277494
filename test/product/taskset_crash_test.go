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
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"syscall"
	"testing"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// killWhileRunning calls kill a number of times while a set runs. Some tasks finish between two calls.
func (s *taskSetSuite) killWhileRunning(t *testing.T, name string, times int, completions int32, kill func()) {
	t.Helper()
	for n := range times {
		mark := completions * int32(n) / int32(times+1)
		s.waitForTaskSet(t, name, fmt.Sprintf("%d indexes have succeeded", mark), func(set *batch.TaskSet) bool { return set.Status.Succeeded >= mark })
		delay := time.NewTimer(time.Duration(rand.IntN(500)) * time.Millisecond)
		<-delay.C
		kill()
	}
}

func checkAllCounted(t *testing.T, set *batch.TaskSet, completions int32) {
	t.Helper()
	if set.Status.Succeeded != completions || set.Status.CompletedIndexes != fmt.Sprintf("0-%d", completions-1) {
		t.Errorf("got status %+v", set.Status)
	}
}

// allKilled kills leat up, with its workers: their commands run again, and each index counts once.
func (s *taskSetSuite) allKilled(t *testing.T) {
	const completions = 300
	name, dir := s.create(t, indexed(completions, 16), runsScript(`sleep 0.2; `+recordRun))
	kills := 0
	s.killWhileRunning(t, name, 4, completions, func() {
		kit.Check(t, s.env.Server.Restart(t.Context()))
		kills++
	})
	set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	checkAllCounted(t, set, completions)
	if set.Status.Failed != 0 {
		t.Errorf("got %d failed tasks, want none", set.Status.Failed)
	}
	runs, again := runsPerIndex(t, dir), 0
	for index := range completions {
		if runs[index] < 1 {
			t.Errorf("index %d counts as succeeded and has not run", index)
		}
		again += runs[index] - 1
	}
	// A slot loses the command that runs, and those of its chunk that ended in the second since its last report.
	if atMost := 16 * (1 + 5); again > atMost*kills {
		t.Errorf("%d commands ran again after %d kills, want at most %d for each", again, kills, atMost)
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

// controllersKilled kills the managers by turns, and freezes the leader once, while workers continue: no command may
// run twice, and each failure counts once.
func (s *taskSetSuite) controllersKilled(t *testing.T, managers []manager) {
	const completions = 300
	name, dir := s.create(t, indexed(completions, 16), runsScript(recordRun+`; sleep 0.2; [ $((TASK_INDEX % 20)) != 13 ]`),
		func(set *batch.TaskSet) { n := int32(0); set.Spec.BackoffLimitPerIndex = &n })
	const failing = completions / 20
	turn := 0
	s.killWhileRunning(t, name, 6, completions-failing, func() {
		m := managers[turn%2]
		if turn++; turn%4 == 0 {
			m = freezeLeader(t, s.env, managers)
		}
		kit.Check(t, m.Restart(t.Context())) // a leader that was frozen exits by itself
	})
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	if set.Status.Succeeded != completions-failing || set.Status.Failed != failing || reason(set, batch.TaskSetFailed) != "FailedIndexes" {
		t.Errorf("got status %+v", set.Status)
	}
	for index, n := range runsPerIndex(t, dir) {
		if n != 1 {
			t.Errorf("index %d has run %d times, want once", index, n)
		}
	}
	s.waitForTasks(t, name, "only the failed tasks are kept", func(tasks []batch.Task) bool { return len(tasks) == failing })
}

// freezeLeader freezes the manager that leads until another one has taken over, wakes it, and returns it.
func freezeLeader(t *testing.T, e *kit.Env, managers []manager) manager {
	t.Helper()
	isLeader := regexp.MustCompile(`(?m)^leader_election_master_status\{.*\} 1$`)
	var frozen manager
	kit.Eventually(t, "a manager leads", func(context.Context) error {
		for _, frozen = range managers {
			if isLeader.MatchString(get(t, "http://127.0.0.1:"+frozen.metrics+"/metrics")) {
				return nil
			}
		}
		return errors.New("none does")
	})
	before := kit.Must(leader(t.Context(), t, e))(t)
	kit.Check(t, frozen.Signal(syscall.SIGSTOP))
	kit.Eventually(t, "another manager leads", func(ctx context.Context) error {
		now, err := leader(ctx, t, e)
		if err == nil && now == before {
			err = fmt.Errorf("%s still holds the lease", before)
		}
		return err
	})
	kit.Check(t, frozen.Signal(syscall.SIGCONT))
	return frozen
}
