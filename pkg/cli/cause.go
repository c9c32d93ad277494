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
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// cause groups tasks of a set that failed in the same way.
type cause struct {
	how     string
	tasks   int
	indexes []indexes.Range
	example *batch.Task // of the lowest index
	index   int         // of the example
}

// causeKey identifies a cause.
type causeKey struct {
	how, lastLine string
}

var digits = regexp.MustCompile(`[0-9]+`)

// causeKeyOf returns the cause of a failure: how the task ended, and the last line that it printed. Numbers in the line
// are replaced by 0, because they are mostly an index, a time or a process ID.
func causeKeyOf(task *batch.Task) causeKey {
	once := *task
	once.Status.Attempts = 1
	key := causeKey{how: howEnded(&once)}
	if end := task.Status.State.Terminated; end != nil {
		lines := append([]string{""}, sanitize.Lines(end.Message)...)
		key.lastLine = digits.ReplaceAllString(strings.TrimSpace(lines[len(lines)-1]), "0")
	}
	return key
}

// causesOf groups the failed tasks by cause, the most frequent first.
func causesOf(tasks []batch.Task) []*cause {
	byKey := map[causeKey]*cause{}
	of := map[*cause][]int{}
	var causes []*cause
	for i := range tasks {
		task := &tasks[i]
		index, ok := taskstate.FailedIndex(task)
		if !ok {
			continue
		}
		key := causeKeyOf(task)
		c := byKey[key]
		if c == nil {
			c = &cause{how: key.how}
			byKey[key] = c
			causes = append(causes, c)
		}
		c.tasks++
		of[c] = append(of[c], index)
		if c.example == nil || index < c.index {
			c.example, c.index = task, index
		}
	}
	for _, c := range causes {
		slices.Sort(of[c])
		c.indexes = indexes.Of(of[c])
	}
	slices.SortStableFunc(causes, func(a, b *cause) int { return cmp.Or(b.tasks-a.tasks, a.index-b.index) })
	return causes
}
