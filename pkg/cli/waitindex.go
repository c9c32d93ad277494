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

package cli

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// followIndex shows progress until one index of a set has ended.
func (m *member) followIndex(ctx context.Context, found object) error {
	set, index := found.set, *found.index
	var logs sync.WaitGroup
	ended := make(chan struct{})
	if m.logs {
		streams := &setLogs{
			factory: m.factory, s: m.s, set: set, lines: m.lineWriter(m.output()), options: batch.TaskLogOptions{Follow: true}, limit: m.maxLogRequests, ended: ended,
			chosen: single(index),
		}
		logs.Go(func() {
			if err := streams.follow(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(m.renderer, "%s\n", m.describe(err))
			}
		})
	}
	var state indexState
	err := m.s.watchSet(ctx, set, func(current *batch.TaskSet) bool {
		set, state = current, stateOf(current, index)
		m.show(state.snapshot(), true)
		return state != indexOpen || m.atMilestone()
	})
	close(ended)
	if err == nil && state == indexOpen {
		return m.concludeMilestone()
	}
	if err == nil {
		logs.Wait()
	}
	m.end()
	if err != nil {
		return wrapDeleted(m.ref, err)
	}
	return m.concludeIndex(ctx, object{set: set, index: &index}, state)
}

// indexState is the state of one index of a set.
type indexState int

const (
	indexOpen indexState = iota // it is pending, runs, or will be retried
	indexSucceeded
	indexFailed
	indexNotRun // the set has finished without it
)

func stateOf(set *batch.TaskSet, index int) indexState {
	switch {
	case isIn(set.Status.CompletedIndexes, index):
		return indexSucceeded
	case isIn(ptr.Deref(set.Status.FailedIndexes, ""), index):
		return indexFailed
	case taskstate.Finished(set) != nil:
		return indexNotRun
	}
	return indexOpen
}

func (s indexState) snapshot() progress.Snapshot {
	switch s {
	case indexSucceeded:
		return progress.Snapshot{Total: 1, Done: 1}
	case indexFailed, indexNotRun:
		return progress.Snapshot{Total: 1, Failed: 1}
	}
	return progress.Snapshot{Total: 1, Pending: 1}
}

// concludeIndex prints how one index of a set ended. It returns an error with the exit code of its command, if known,
// unless it succeeded.
func (m *member) concludeIndex(ctx context.Context, found object, state indexState) error {
	if state == indexSucceeded {
		fmt.Fprintf(m.renderer, "%s has succeeded\n", m.ref)
		return nil
	}
	tasks, err := m.s.tasksOfIndex(ctx, found)
	if err != nil {
		return err
	}
	if task := failedAt(tasks, *found.index); task != nil {
		return m.concludeTask(task, m.logs)
	}
	why := ""
	if final := taskstate.Finished(found.set); final != nil {
		why = fmt.Sprintf(": %s: %s", final.Reason, sanitize.Line(final.Message))
	}
	fmt.Fprintf(m.renderer, "%s has not succeeded%s\n", m.ref, why)
	return &exitError{code: exitFailed}
}

// reportRetries prints the outcome over all retries if the set is a retry.
func (m *member) reportRetries(ctx context.Context, set *batch.TaskSet) {
	if set.Labels[batch.LabelRetryOf] == "" {
		return
	}
	all, err := m.s.retriesOf(ctx, set)
	switch {
	case err != nil:
		fmt.Fprintln(m.renderer, m.describe(err))
	case all != nil:
		fmt.Fprintf(m.renderer, "Over all retries of taskset/%s: %s\n", all.name, all)
	}
}
