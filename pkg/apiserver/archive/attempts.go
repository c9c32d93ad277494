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

package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// maxAsked is how many workers are asked at a time for what they have not sent, by one request.
	maxAsked = 16
	// workerTimeout bounds such a question.
	workerTimeout = 20 * time.Second
	// noIndex is the index of attempts at tasks without set.
	noIndex = -1
)

// errServesNoLogs is the error for a worker without an endpoint.
var errServesNoLogs = errors.New("it serves no logs: start it with --client-ca-file")

// attempt is a finished attempt, in the store or on a worker.
type attempt struct {
	index, failures, number int32
	exitCode                int32
	start                   int64 // in microseconds
	duration                int64 // in milliseconds
	outputBytes             int64
	taskUID                 string
	worker                  string

	// segment is where the attempt is. Nil if it is on a worker, at the endpoint.
	segment  *stored
	endpoint *batch.WorkerEndpoint
}

// attemptOf returns the attempt of a record.
func attemptOf(record *v1alpha1.TaskRecord) attempt {
	at := attempt{
		index: noIndex, failures: record.Failures, number: record.Attempt, exitCode: record.ExitCode,
		start: record.StartTime.UnixMicro(), duration: record.DurationMilliseconds, outputBytes: record.OutputBytes,
		taskUID: string(record.TaskUID),
	}
	if record.Index != nil {
		at.index = *record.Index
	}
	return at
}

// entry returns the name of the attempt in a segment.
func (at *attempt) entry() string {
	record := &v1alpha1.TaskRecord{TaskUID: types.UID(at.taskUID), Failures: at.failures, Attempt: at.number}
	if at.index != noIndex {
		record.Index = &at.index
	}
	return segment.EntryName(record)
}

// started and ended return when the attempt was started and when it ended, by the clock of the worker.
func (at *attempt) started() time.Time { return time.UnixMicro(at.start) }
func (at *attempt) ended() time.Time {
	return at.started().Add(time.Duration(at.duration) * time.Millisecond)
}

// matches reports whether the attempt is one of those. ranges nil means all indexes.
func (at *attempt) matches(of *task.Attempts, ranges []indexes.Range) bool {
	if of.Task != nil && at.taskUID != string(of.Task.UID) {
		return false
	}
	return ranges == nil || indexes.Contains(ranges, int(at.index))
}

// compareAttempts compares the indexes, then the starts. An attempt may have run twice, on two workers.
func compareAttempts(a, b attempt) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.start, b.start), cmp.Compare(a.failures, b.failures),
		cmp.Compare(a.number, b.number), cmp.Compare(a.taskUID, b.taskUID), cmp.Compare(a.worker, b.worker))
}

// holder is a worker that may hold attempts that it has not sent.
type holder struct {
	name     string
	endpoint *batch.WorkerEndpoint
}

// failure is why attempts on a worker cannot be read now.
type failure struct {
	worker string
	err    error
}

func (f failure) String() string { return fmt.Sprintf("worker %s cannot be read: %v", f.worker, f.err) }

// holders returns the workers that may hold some of the attempts: those that say so, and the one that has the task.
func (a *Archive) holders(ctx context.Context, of *task.Attempts) ([]holder, error) {
	workers, err := a.Objects.Workers(ctx, of.Namespace)
	if err != nil {
		return nil, err
	}
	var found []holder
	for _, worker := range workers {
		if of.SetUID != "" && slices.Contains(worker.Status.Unarchived, of.SetUID) ||
			of.Task != nil && of.Task.Spec.WorkerName == worker.Name {
			found = append(found, holder{worker.Name, worker.Status.Endpoint})
		}
	}
	return found, nil
}

// ask calls ask for the records of each worker, and keep for the answers, one at a time. It returns the workers that
// have not answered.
func (a *Archive) ask(ctx context.Context, of *task.Attempts, ranges []indexes.Range, holders []holder,
	keep func(holder, []v1alpha1.TaskRecord)) []failure {
	var mu sync.Mutex
	var failures []failure
	group := &errgroup.Group{}
	group.SetLimit(maxAsked)
	var taskUID types.UID
	if of.SetUID == "" && of.Task != nil {
		taskUID = of.Task.UID
	}
	for _, worker := range holders {
		group.Go(func() error {
			var records []v1alpha1.TaskRecord
			err := errServesNoLogs
			if worker.endpoint != nil {
				ctx, cancel := context.WithTimeout(ctx, workerTimeout)
				defer cancel()
				records, err = a.Options.Workers.Records(ctx, worker.endpoint, of.Namespace, of.SetUID, indexes.Format(ranges), taskUID)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, failure{worker.name, err})
				return nil
			}
			keep(worker, records)
			return nil
		})
	}
	_ = group.Wait() // the functions return no error
	slices.SortFunc(failures, func(a, b failure) int { return cmp.Compare(a.worker, b.worker) })
	return failures
}

// found are the finished attempts at some indexes.
type found struct {
	// attempts are sorted by index and start.
	attempts []attempt
	// failures are the workers that may hold more but cannot be read, and broken the segments.
	failures []failure
	broken   []unreadable
}

// find returns the finished attempts at the indexes. It asks workers before the store: a segment that a worker sends
// meanwhile is found twice rather than not at all. A cached list of the store is used unless some of expected, which
// are indexes that must have attempts, have none.
func (a *Archive) find(ctx context.Context, of *task.Attempts, ranges, expected []indexes.Range) (*found, error) {
	holders, err := a.holders(ctx, of)
	if err != nil {
		return nil, err
	}
	result := &found{}
	var unsent []attempt
	result.failures = a.ask(ctx, of, ranges, holders, func(worker holder, records []v1alpha1.TaskRecord) {
		for i := range records {
			if at := attemptOf(&records[i]); at.matches(of, ranges) {
				at.worker, at.endpoint = worker.name, worker.endpoint
				unsent = append(unsent, at)
			}
		}
	})
	result.attempts = unsent
	if a.Store == nil {
		slices.SortFunc(result.attempts, compareAttempts)
		return result, ctx.Err()
	}
	prefix, err := a.prefixOf(ctx, of)
	if err != nil {
		return nil, err
	}
	asked := a.Clock.Now()
	for notBefore := (time.Time{}); ; notBefore = asked {
		listed, err := a.list(ctx, prefix, notBefore)
		if err != nil {
			return nil, err
		}
		inStore, broken, err := a.storedAttempts(ctx, of, ranges, listed)
		if err != nil {
			return nil, err
		}
		result.broken = broken
		result.attempts = merge(inStore, unsent)
		if !listed.begun.Before(asked) || !result.lacks(expected) {
			return result, nil
		}
	}
}

// merge returns the attempts of both, sorted. It drops those on workers that are in the store.
func merge(inStore, unsent []attempt) []attempt {
	all := slices.Concat(inStore, unsent)
	slices.SortStableFunc(all, compareAttempts)
	return slices.CompactFunc(all, func(a, b attempt) bool { return compareAttempts(a, b) == 0 })
}

// lacks reports whether some of the indexes have no attempt.
func (f *found) lacks(expected []indexes.Range) bool {
	have := make([]int, 0, len(f.attempts))
	for i := range f.attempts {
		have = append(have, int(f.attempts[i].index))
	}
	if len(expected) == 1 && expected[0].First == noIndex {
		return len(have) == 0
	}
	return len(indexes.Subtract(expected, indexes.Of(have))) > 0
}

// at returns the attempts at an index, sorted by their start.
func (f *found) at(index int) []attempt {
	byIndex := func(at attempt, index int) int { return cmp.Compare(int(at.index), index) }
	from, _ := slices.BinarySearchFunc(f.attempts, index, byIndex)
	to, _ := slices.BinarySearchFunc(f.attempts, index+1, byIndex)
	return f.attempts[from:to]
}

// output reads the output of a finished attempt.
func (a *Archive) output(ctx context.Context, of *task.Attempts, at *attempt) ([]byte, error) {
	if at.segment == nil {
		ctx, cancel := context.WithTimeout(ctx, workerTimeout)
		defer cancel()
		return a.Options.Workers.Output(ctx, at.endpoint, of.Namespace, of.SetUID, at.entry(), maxUnsentOutput)
	}
	opened, err := a.open(ctx, at.segment)
	if err != nil {
		return nil, err
	}
	output, ok, err := opened.reader.Output(at.entry())
	if err == nil && !ok {
		err = errors.New("the segment does not have it")
	}
	return output, err
}
