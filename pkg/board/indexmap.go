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

package board

import (
	"slices"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// indexMap has the states of the indexes of a set as lists of ranges, like "0-4,7". No index is in two lists. Those in
// none wait. A million cells are a few lists: the browser fills in the cells.
type indexMap struct {
	Cells   int    `json:"cells"`
	Done    string `json:"done"`
	Failed  string `json:"failed"`
	Running string `json:"running"`
	Retry   string `json:"retry"`

	done, running int // how many indexes are in the lists
}

// runs reports whether an unfinished task has a worker and does not wait there. Of short commands, the worker writes
// only the end.
func runs(task *batch.Task) bool {
	return task.Spec.WorkerName != "" && task.Status.State.Waiting == nil
}

// newIndexMap returns the map of a set, nil if it has no fixed number of indexes. tasks are its unfinished tasks: they
// know more than the set, whose status is written once a second.
func newIndexMap(set *batch.TaskSet, tasks []*batch.Task) *indexMap {
	if set.Spec.Completions == nil || ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion) != batch.IndexedCompletion {
		return nil
	}
	cells := int(*set.Spec.Completions)
	done, err := indexes.Parse(set.Status.CompletedIndexes, cells)
	if err != nil {
		return nil
	}
	failed, _ := taskstate.FailedIndexes(set)
	var current []int
	for _, task := range tasks {
		done = indexes.Union(done, taskstate.CompletedIndexes(task))
		if index, ok := taskstate.CurrentIndex(task); ok && runs(task) {
			current = append(current, index)
		}
	}
	slices.Sort(current)
	running := indexes.Of(slices.Compact(current))
	counts, _ := indexes.ParseCounts(set.Status.IndexFailures, cells)
	var again []int
	for _, count := range counts {
		again = append(again, count.Index)
	}
	failed = indexes.Subtract(failed, done)
	running = indexes.Subtract(indexes.Subtract(running, done), failed)
	retry := indexes.Subtract(indexes.Subtract(indexes.Subtract(indexes.Of(again), done), failed), running)
	return &indexMap{
		Cells: cells, Done: indexes.Format(done), Failed: indexes.Format(failed), Running: indexes.Format(running), Retry: indexes.Format(retry),
		done: indexes.Count(done), running: indexes.Count(running),
	}
}
