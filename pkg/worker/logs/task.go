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

package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/archive/lineio"
	"github.com/leat-dev/leat/pkg/worker/attempt"
)

// TaskReadOptions select the output of a task to read, like the API's TaskLogOptions. For a task with spec.indexes,
// ReadOptions apply to each index.
type TaskReadOptions struct {
	ReadOptions
	// Previous selects the attempt before the last one, at each index.
	Previous bool
	// Indexes selects indexes of a task with spec.indexes; nil selects all.
	Indexes []indexes.Range
	// Prefix writes the index and a space before each line of a task with spec.indexes.
	Prefix bool
	// Finished returns the finished attempts at the task whose output is kept elsewhere, in the order of indexes, and of
	// attempts at the same index. It may be nil. Output that leaves the store after that call is read from the store.
	Finished func(context.Context) ([]Finished, error)
}

// ReadTask writes the output of the last attempt at a task to w, as Log.Read does. For a task with spec.indexes, it
// writes that of the last attempt at each index, one index after the other, and never lines of one among those of
// another. To follow, it waits for further indexes until the run of the task has ended. If there is no output, the
// error is a NotKeptError.
func (s *Store) ReadTask(ctx context.Context, task types.UID, w io.Writer, flush func(), options TaskReadOptions) error {
	if s == nil {
		s = &Store{}
	}
	defer s.startReading(task)()
	var finished []Finished
	if options.Finished != nil {
		var err error
		if finished, err = options.Finished(ctx); err != nil {
			return err
		}
	}
	logs := s.logsOf(task)
	// A finished attempt at a task without spec.indexes has the index of the task in its set.
	if !s.hasIndexes(task) && (len(logs) > 0 || len(finished) == 0 || finished[0].ID.Index == attempt.NoIndex) {
		from, err := selectAttempt(logs, finished, options.Previous)
		if err != nil {
			return err
		}
		return from.Read(ctx, w, flush, options.ReadOptions)
	}
	out := lineio.NewWriter(w)
	for last := attempt.NoIndex; ; {
		from, index, changed := s.nextIndex(task, last, finished, options)
		switch {
		case from != nil:
			last = index
			prefix := ""
			if options.Prefix {
				prefix = lineio.IndexPrefix(last)
			}
			out.Begin(prefix)
			// Output that had to make room meanwhile is one that is not kept: its index has no lines.
			if err := from.Read(ctx, out, flush, options.ReadOptions); err != nil && (out.Begun() || !errors.Is(err, ErrRemoved)) {
				return err
			}
		case changed != nil:
			flush()
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		case last == attempt.NoIndex:
			return s.notKept(task, options)
		default:
			return nil
		}
	}
}

// hasIndexes reports whether the task is known as one with spec.indexes.
func (s *Store) hasIndexes(task types.UID) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[task]
	return t != nil && (t.runs > 0 || len(t.logs) > 0 && t.logs[0].id.Index != attempt.NoIndex)
}

// nextIndex returns the output of the first selected index after last, and the index. If there is none yet, but options
// follow the output and there may be one, changed is closed when it is time to look again.
func (s *Store) nextIndex(task types.UID, last int, finished []Finished, options TaskReadOptions) (from output, index int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[task]
	if t == nil {
		t = &taskLogs{}
	}
	for {
		logs, others := t.logs[t.firstAt(last+1):], finished[firstFinishedAt(finished, last+1):]
		if len(logs) == 0 && len(others) == 0 {
			break
		}
		last = math.MaxInt
		if len(logs) > 0 {
			last = logs[0].id.Index
		}
		if len(others) > 0 {
			last = min(last, others[0].ID.Index)
		}
		if options.Indexes != nil && !indexes.Contains(options.Indexes, last) {
			continue
		}
		from, err := selectAttempt(t.logs[t.firstAt(last):t.firstAt(last+1)],
			finished[firstFinishedAt(finished, last):firstFinishedAt(finished, last+1)], options.Previous)
		if err == nil {
			return from, last, nil
		}
	}
	more := options.Indexes == nil || options.Indexes[len(options.Indexes)-1].Last > last
	if !options.Follow || options.Previous || t.runs == 0 || !more {
		return nil, 0, nil
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return nil, 0, t.changed
}

// firstAt returns the position of the first log of an index or of one after it.
func (t *taskLogs) firstAt(index int) int {
	i, _ := slices.BinarySearchFunc(t.logs, &Log{id: attempt.ID{Index: index}}, byAttempt)
	return i
}

// notKept returns the error for options that select no output of a task with spec.indexes.
func (s *Store) notKept(task types.UID, options TaskReadOptions) error {
	switch {
	case options.Indexes != nil && options.Previous:
		return &NotKeptError{fmt.Sprintf("the worker keeps no output of a previous attempt at the indexes %s", indexes.Format(options.Indexes))}
	case options.Indexes != nil:
		return &NotKeptError{fmt.Sprintf("the worker keeps no output of the indexes %s: it has not started them, "+
			"or what was kept had to make room or was kept for long enough", indexes.Format(options.Indexes))}
	case options.Previous:
		return &NotKeptError{"the worker keeps no output of a previous attempt at an index of the task"}
	}
	return errNothingKept
}
