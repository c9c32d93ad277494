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

package taskset

import (
	"context"
	"time"

	"k8s.io/utils/ptr"
)

// manageTasks creates and deletes tasks until as many are active as the set wants. A set that is held wants none.
func (s *syncContext) manageTasks(ctx context.Context, held bool) error {
	spec := &s.set.Spec
	toStop, retryAt := s.state.TasksToStop(s.now)
	s.requeueAt(retryAt)
	completed, _ := s.state.Completed()
	want := ptr.Deref(spec.Parallelism, 1)
	switch {
	case held:
		want = 0
	case spec.Completions == nil && completed > 0:
		want = s.state.Active() // The active tasks may finish, and no more are created.
	}
	stopping := int32(0)
	for _, task := range toStop {
		if task.State().Active() {
			stopping++
		}
	}
	if excess := s.state.Active() - stopping - want; excess > 0 {
		toStop = append(toStop, s.state.ActiveTasksForRemoval(int(excess), toStop)...)
	}
	chunks := s.workers.chunkLimits(s.set.Namespace, s.set.MaxIndexes())
	if len(toStop) == 0 {
		toStop = s.state.TasksToMerge(maxDeletesPerSync, chunks)
	}
	if len(toStop) > 0 {
		if _, err := s.deleteTasks(ctx, toStop); err != nil {
			return err
		}
	}
	limit, until := s.state.TaskLimit(int(want), chunks, s.now)
	free := min(limit-int(s.state.Active()), int(want-s.state.Active()-s.state.Terminating())-s.state.IndexesInBackoff())
	if s.state.Pending() > 0 {
		s.requeueAt(until)
	}
	if free <= 0 || s.state.Pending() == 0 {
		s.state.Sync.CreateError = ""
		return nil
	}
	for _, until := range []time.Time{s.state.BackoffUntil(), s.state.Sync.CreateBackoffUntil} {
		if until.After(s.now) {
			s.requeueAt(until)
			return nil
		}
	}
	if free > maxCreatesPerSync {
		free = maxCreatesPerSync
		s.requeueAt(s.now)
	}
	return s.createTasks(ctx, s.state.Reserve(free, chunks))
}
