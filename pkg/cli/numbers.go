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
	"slices"
	"strconv"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// Variables of a task with the position of its index in the set, and with its item.
const (
	positionVariable = "JOB_COMPLETION_INDEX"
	itemVariable     = "TASK_ITEM"
)

// maxNumber is the exclusive upper limit of the number of an index.
const maxNumber = 1 << 31

// maxListedNumbers is the maximum length of spec.indexNumbers.list.
const maxListedNumbers = 10_000

// numbersIn returns the numbers of some indexes of a task, as its commands see them.
func numbersIn(task *batch.Task, of []indexes.Range) []indexes.Range {
	all := task.CompletionIndexes()
	var numbers []int
	for position := range indexes.Count(all) {
		index, env := indexes.At(all, position), task.Spec.Env
		if !indexes.Contains(of, index) {
			continue
		}
		if taskstate.IsChunk(task) {
			env = task.AtIndex(all, position).Spec.Env
		}
		numbers = append(numbers, numberIn(env, index))
	}
	return indexes.Of(numbers)
}

// numberIn returns the number that a command with these variables sees, or the index if it sees none.
func numberIn(env []batch.EnvVar, index int) int {
	value := func(name string) string {
		i := slices.IndexFunc(env, func(v batch.EnvVar) bool { return v.Name == name })
		if i < 0 {
			return ""
		}
		return env[i].Value
	}
	text := value(taskstate.NumberVariable)
	if text == taskstate.ItemReference {
		text = value(itemVariable) // "leat retry" stores numbers as items if they do not fit into a list
	}
	if number, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(number)
	}
	return index
}

// completionsOf returns the number of indexes of a set, or the largest possible number if it has no spec.completions.
func completionsOf(set *batch.TaskSet) int {
	return int(ptr.Deref(set.Spec.Completions, maxCompletions))
}

// formatNumbers formats the numbers of indexes of a set. A long list is truncated.
func formatNumbers(set *batch.TaskSet, of []indexes.Range) string {
	return sanitize.Truncate(indexes.Format(taskstate.Numbers(set).Numbers(of)), 100)
}

// describeIndexes names indexes of a set by their numbers, like "index 5" or "indexes 0-4,7".
func describeIndexes(set *batch.TaskSet, of []indexes.Range) string {
	return describeNumbers(taskstate.Numbers(set).Numbers(of))
}

// describeNumbers returns the noun and the numbers, like "index 5" or "indexes 0-4,7". A long list is truncated.
func describeNumbers(numbers []indexes.Range) string {
	noun := "indexes"
	if indexes.Count(numbers) == 1 {
		noun = "index"
	}
	return noun + " " + sanitize.Truncate(indexes.Format(numbers), 100)
}

// parseNumbers parses the value of --index.
func parseNumbers(text string) ([]indexes.Range, error) {
	numbers, err := indexes.Parse(text, maxNumber)
	if err != nil {
		return nil, usageErrorf("--index %w: write indexes like 5 or 0-4,7", err)
	}
	return numbers, nil
}

// chosenIndexes returns the indexes of the set that have these numbers. A number without an index is an error.
func chosenIndexes(set *batch.TaskSet, numbers []indexes.Range) ([]indexes.Range, error) {
	known, completions := taskstate.Numbers(set), completionsOf(set)
	chosen := known.Indexes(numbers, completions)
	unknown := indexes.Subtract(numbers, known.Numbers(chosen))
	switch {
	case len(unknown) == 0:
		return chosen, nil
	case completions == 0:
		return nil, usageErrorf("taskset/%s has no indexes", set.Name)
	}
	return nil, usageErrorf("taskset/%s has no %s: its indexes go from %d to %d", set.Name, describeNumbers(unknown),
		known.Number(0), known.Number(completions-1))
}

// completedOf returns the succeeded indexes of a set.
func completedOf(set *batch.TaskSet) ([]indexes.Range, error) {
	return indexes.Parse(set.Status.CompletedIndexes, maxCompletions)
}

// hasIndexes reports whether the completion mode of a set is Indexed.
func hasIndexes(set *batch.TaskSet) bool {
	return ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion
}

// isIn reports whether a list of indexes in the status of a set contains the index.
func isIn(list string, index int) bool {
	ranges, err := indexes.Parse(list, maxCompletions)
	return err == nil && indexes.Contains(ranges, index)
}
