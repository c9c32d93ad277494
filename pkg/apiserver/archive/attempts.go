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
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// noIndex is the index of attempts at tasks without set.
	noIndex = -1
	// maxIndex is the highest index.
	maxIndex = math.MaxInt32 - 1
)

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

// found are the finished attempts at some indexes.
type found struct {
	// attempts are sorted by index and start.
	attempts []attempt
	// failures are the workers that may hold more but cannot be read, and broken the segments.
	failures []failure
	broken   []unreadable
	// store is the API error of the store if that cannot be read now. Then the attempts are only those on workers.
	store error
}

// findStored returns the attempts at the indexes in the store. It uses a cached list of the store unless the attempts
// on that are not enough.
func (a *Archive) findStored(ctx context.Context, of *task.Attempts, ranges []indexes.Range, enough func([]attempt) bool) (
	[]attempt, []unreadable, error) {
	if !canBeStored(of) {
		return nil, nil, ctx.Err()
	}
	prefix, err := a.prefixOf(ctx, of)
	if err != nil {
		return nil, nil, err
	}
	asked := a.Clock.Now()
	for notBefore := (time.Time{}); ; notBefore = asked {
		listed, err := a.list(ctx, prefix, notBefore)
		if err != nil {
			return nil, nil, err
		}
		attempts, broken, err := a.storedAttempts(ctx, of, ranges, listed)
		if err != nil {
			return nil, nil, err
		}
		if enough(attempts) || !listed.begun.Before(asked) {
			return attempts, broken, nil
		}
	}
}

// merge returns the attempts of both, sorted. It drops those on workers that are in the store.
func merge(inStore, unsent []attempt) []attempt {
	return sortUnique(slices.Concat(inStore, unsent))
}

// sortUnique sorts attempts, and drops all but the first of those that compare equal.
func sortUnique(attempts []attempt) []attempt {
	slices.SortStableFunc(attempts, compareAttempts)
	return slices.CompactFunc(attempts, func(a, b attempt) bool { return compareAttempts(a, b) == 0 })
}

// lacks reports whether some of the expected indexes have no attempt. The attempts must be sorted by index.
func lacks(attempts []attempt, expected []indexes.Range) bool {
	have := make([]int, 0, len(attempts))
	for i := range attempts {
		have = append(have, int(attempts[i].index))
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
