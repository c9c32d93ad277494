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

package state

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestTransitions holds the state of a task to the first table of TaskState.
func TestTransitions(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	type fixture struct {
		state *TaskSet
		task  *batch.Task
	}
	observe := func(change func(*batch.Task)) func(*fixture) {
		return func(f *fixture) {
			f.task = f.task.DeepCopy()
			change(f.task)
			f.state.Observe(f.task.UID, f.task)
		}
	}
	end := func(phase batch.TaskPhase, exitCode int32) func(*fixture) {
		return observe(func(task *batch.Task) {
			if !task.Status.Phase.Finished() {
				task.Status.Phase = phase
				task.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: exitCode, FinishedAt: metav1.Time{Time: now}}
			}
		})
	}
	start := observe(func(task *batch.Task) { task.Status.Phase = batch.TaskRunning })
	succeed, fail, failIgnored := end(batch.TaskSucceeded, 0), end(batch.TaskFailed, 1), end(batch.TaskFailed, ignoredExitCode)
	markDeleted := observe(func(task *batch.Task) { task.DeletionTimestamp = &metav1.Time{Time: now} })
	count := func(f *fixture) { f.state.CountFinished(now) }
	store := func(f *fixture) { f.state.StatusStored() }
	requestDeletion := func(f *fixture) { f.state.DeletionRequested(f.state.tasks["a"], time.Time{}) }
	remove := func(f *fixture) { f.state.Observe("a", nil) }

	states := map[TaskState][]func(*fixture){
		Waiting:     {},
		Running:     {start},
		Terminating: {start, markDeleted},
		Finished:    {succeed},
		Discarded:   {markDeleted, fail, count},
		Ignored:     {failIgnored, count},
		Counted:     {fail, count},
		Retained:    {fail, count, store},
		ToDelete:    {succeed, count, store},
		Deleted:     {succeed, count, store, requestDeletion},
	}
	for from, next := range map[TaskState]struct{ start, finish, deletionTimestamp, deletionRequest, gone TaskState }{
		Waiting:     {Running, Finished, Terminating, Terminating, Absent},
		Running:     {Running, Finished, Terminating, Terminating, Absent},
		Terminating: {Terminating, Finished, Terminating, Terminating, Absent},
		Finished:    {Finished, Finished, Finished, Finished, Finished},
		Discarded:   {Discarded, Discarded, Discarded, Discarded, Absent},
		Ignored:     {Ignored, Ignored, Discarded, Discarded, Absent},
		Counted:     {Counted, Counted, Counted, Counted, Counted},
		Retained:    {Retained, Retained, Retained, Retained, Absent},
		ToDelete:    {ToDelete, ToDelete, ToDelete, Deleted, Absent},
		Deleted:     {Deleted, Deleted, Deleted, Deleted, Absent},
	} {
		for event, test := range map[string]struct {
			apply func(*fixture)
			want  TaskState
		}{
			"start": {start, next.start}, "finish": {succeed, next.finish}, "deletion timestamp": {markDeleted, next.deletionTimestamp},
			"deletion request": {requestDeletion, next.deletionRequest}, "gone": {remove, next.gone},
		} {
			t.Run(from.String()+"/"+event, func(t *testing.T) {
				f := &fixture{state: newTaskSet("set", ExponentialBackoff{}), task: &batch.Task{}}
				set := &batch.TaskSet{}
				set.Spec.Completions = ptr.To[int32](1)
				set.Spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
					Action: batch.TaskFailurePolicyActionIgnore,
					OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{
						Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{ignoredExitCode},
					},
				}}}
				if err := f.state.Load(set); err != nil {
					t.Fatal(err)
				}
				f.task.UID, f.task.Status.Phase = "a", batch.TaskPending
				f.task.Labels = map[string]string{batch.LabelCompletionIndex: "0"}
				f.state.Observe(f.task.UID, f.task)
				tracked := f.state.tasks["a"]
				for _, step := range states[from] {
					step(f)
				}
				if tracked.state != from {
					t.Fatalf("the state is %s, want %s", tracked.state, from)
				}
				test.apply(f)
				if tracked.state != test.want {
					t.Errorf("the next state is %s, want %s", tracked.state, test.want)
				}
				if err := f.state.CheckInvariants(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestDeletionsThatAreRequestedAgain(t *testing.T) {
	start := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	task := func(name string, change func(*TrackedTask)) *TrackedTask {
		t := &TrackedTask{UID: types.UID(name), Name: name, state: Terminating}
		change(t)
		return t
	}
	s := &TaskSet{tasks: map[types.UID]*TrackedTask{}, terminating: 4}
	for _, t := range []*TrackedTask{
		task("requested-and-not-observed", func(t *TrackedTask) { t.deletionRequested, t.deletionRequestedAt = true, start }),
		task("observed-without-a-worker", func(t *TrackedTask) { t.deletionTimestamp = true }),
		task("observed-with-a-worker", func(t *TrackedTask) { t.deletionTimestamp, t.bound = true, true }),
		task("not-in-deletion", func(t *TrackedTask) { t.state = Waiting }),
	} {
		s.tasks[t.UID] = t
	}
	if tasks, checkAt := s.UnconfirmedDeletions(start, time.Second); len(tasks) > 0 || !checkAt.Equal(start.Add(time.Second)) {
		t.Errorf("at first: got %d tasks and the next check at %s, want none, and a check after a second", len(tasks), checkAt)
	}
	tasks, _ := s.UnconfirmedDeletions(start.Add(time.Second), time.Second)
	var names []string
	for _, task := range tasks {
		names = append(names, task.Name)
	}
	slices.Sort(names)
	if want := []string{"observed-without-a-worker", "requested-and-not-observed"}; !slices.Equal(names, want) {
		t.Errorf("after a second: got %q, want %q", names, want)
	}
}
