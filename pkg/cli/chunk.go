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
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// startedIndexes returns the indexes of a task whose commands have been started, as far as its status tells.
func startedIndexes(task *batch.Task) []indexes.Range {
	held, count := taskstate.HeldIndexes(task), 0
	if taskstate.IsChunk(task) {
		count = int(task.Status.CompletedCount)
	}
	if task.Status.Attempts > 0 {
		count++
	}
	return indexes.Slice(held, 0, count)
}

// runOf returns the number of the run whose output the worker of a task has, 0 if there is none. Each attempt of a task
// with one index is a run. A run of a task with several indexes lasts until all have ended or the task is evicted.
func runOf(task *batch.Task) int32 {
	switch {
	case !taskstate.IsChunk(task):
		return task.Status.Attempts
	case task.Status.Phase == batch.TaskPending || len(startedIndexes(task)) == 0:
		return 0
	}
	return task.Status.Disruptions + 1
}

// single returns the range of one index.
func single(index int) []indexes.Range { return []indexes.Range{{First: index, Last: index}} }

// tasksOfIndex returns the tasks of an index of a set, newest first.
func (s *session) tasksOfIndex(ctx context.Context, found object) ([]batch.Task, error) {
	own := batch.LabelControllerUID + "=" + string(found.set.UID) + ","
	lone, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: own + batch.LabelCompletionIndex + "=" + strconv.Itoa(*found.index)})
	if err != nil {
		return nil, err
	}
	// Only tasks whose first index is not larger can have the index.
	chunks, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: own + batch.LabelFirstCompletionIndex + "<" + strconv.Itoa(*found.index+1)})
	if err != nil {
		return nil, err
	}
	tasks := append(lone.Items, slices.DeleteFunc(chunks.Items, func(task batch.Task) bool {
		return !indexes.Contains(taskstate.HeldIndexes(&task), *found.index)
	})...)
	slices.SortFunc(tasks, newestFirst)
	return tasks, nil
}
