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
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// maxReadRetries is how often output is asked for again after the delay that the server wants, a few seconds. Then the
// user gets to know why it cannot be read.
const maxReadRetries = 2

// read prints the output of the chosen indexes, of all if there are none, from the subresource of the set. It returns
// the indexes that printed something. The error satisfies notServed if the server or the rights of the user are older.
func (l *setLogs) read(ctx context.Context, chosen []indexes.Range) ([]indexes.Range, error) {
	numbers := taskstate.Numbers(l.set)
	label := func(index int) string { return l.label(l.set.Name, numbers.Number(index), index) }
	said := remarks{out: l.streams.ErrOut}
	defer said.end()
	var printed []indexes.Range
	err := l.readPieces(ctx, chosen, func(stream io.Reader) error {
		some, err := copyPrefixed(l.lines, chosen, label, &said, func(out io.Writer) error {
			_, err := io.Copy(out, stream)
			return err
		})
		printed = indexes.Union(printed, some)
		return err
	})
	return printed, err
}

// readPieces calls copyFrom with the output of the chosen indexes, in one or more streams. The lines begin with the
// index and a space.
func (l *setLogs) readPieces(ctx context.Context, chosen []indexes.Range, copyFrom func(stream io.Reader) error) error {
	options := l.options
	options.Follow, options.Prefix = false, true
	for _, piece := range formatPieces(chosen) {
		options.Indexes = piece
		stream, err := l.s.api.TaskSets(l.s.namespace).GetLogs(l.set.Name, &options).MaxRetries(maxReadRetries).Stream(ctx)
		switch {
		case apierrors.IsGone(err), apierrors.IsBadRequest(err) && options.Attempt == nil && !options.Previous:
			// Nothing is kept, or nothing has started. The indexes are reported.
			fmt.Fprintln(l.streams.ErrOut, l.describe(err))
			continue
		case err != nil:
			return err
		}
		err = copyFrom(breakingReader{stream, l.set.Name})
		_ = stream.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// breakingReader names the set in errors of its output, which come from the connection.
type breakingReader struct {
	io.Reader
	set string
}

func (r breakingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("the output of taskset/%s breaks off: %w", r.set, err)
	}
	return n, err
}

// recordReader returns the reader of the records of the set.
func (l *setLogs) recordReader() *recordReader {
	if l.records == nil {
		l.records = newRecordReader(l.factory, l.s, object{set: l.set})
	}
	return l.records
}

// reportUnprinted reports the selected indexes that have not run, and those whose output is not kept: they have ended,
// printed nothing and have no record. It returns the others that printed nothing.
func (l *setLogs) reportUnprinted(ctx context.Context, printed []indexes.Range) (silent []indexes.Range, err error) {
	succeeded, failed, rest := l.missingIndexes(printed)
	if len(rest) > 0 {
		// Read the tasks before the set: an index without a task has not started, or has ended since.
		tasks, err := l.tasks(ctx)
		if err != nil {
			return nil, err
		}
		for i := range tasks {
			silent = append(silent, startedIndexes(&tasks[i])...)
		}
		set, err := l.s.api.TaskSets(l.s.namespace).Get(ctx, l.set.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if set.UID == l.set.UID {
			l.set = set
		}
		silent = indexes.Union(silent, retriedIndexes(l.set))
		succeeded, failed, rest = l.missingIndexes(printed)
		silent = indexes.Intersect(silent, rest)
	}
	reader := l.recordReader()
	if ended := indexes.Union(succeeded, failed); len(ended) > 0 {
		recorded, err := reader.indexes(ctx, ended)
		if err != nil {
			return nil, err
		}
		silent = indexes.Union(silent, indexes.Intersect(ended, recorded))
	}
	succeeded, failed = indexes.Subtract(succeeded, silent), indexes.Subtract(failed, silent)
	if reader.incomplete() {
		l.reportMissing(indexes.Union(succeeded, failed), "output that is not kept, or cannot be read now")
	} else {
		l.reportMissing(succeeded, "succeeded and %s gone, with what %s printed")
		l.reportMissing(failed, "failed and %s gone, with what %s printed")
	}
	l.reportMissing(indexes.Subtract(rest, silent), "not run")
	return silent, nil
}

// unread returns those of the silent indexes, which have ended and whose output was read and empty, that have output in
// the archive or no record there. A server without archive knows nothing about them.
func (l *setLogs) unread(ctx context.Context, silent []indexes.Range) ([]indexes.Range, error) {
	if len(silent) == 0 {
		return nil, nil
	}
	reader := newRecordReader(l.factory, l.s, object{set: l.set})
	reader.quiet = true
	var with, without indexCollector
	for record, err := range reader.read(ctx, silent) {
		switch {
		case notServed(err):
			return nil, nil
		case err != nil:
			return nil, err
		case record.Index == nil:
		case record.OutputBytes+record.MissingBytes > 0:
			with.add(int(*record.Index))
		default:
			without.add(int(*record.Index))
		}
	}
	found := with.ranges()
	if known := indexes.Union(found, without.ranges()); len(known) > 0 || !reader.incomplete() {
		found = indexes.Union(found, indexes.Subtract(silent, known))
	}
	return found, nil
}

// readMissed prints the output of indexes that have ended. It returns those that printed something or have a record.
func (l *setLogs) readMissed(ctx context.Context, missed []indexes.Range) ([]indexes.Range, error) {
	printed, err := l.read(ctx, missed)
	if err != nil {
		return printed, err
	}
	silent := indexes.Subtract(missed, printed)
	if len(silent) == 0 {
		return printed, nil
	}
	recorded, err := l.recordReader().indexes(ctx, silent)
	return indexes.Union(printed, recorded), err
}

// retriedIndexes returns the indexes of a set that have failed and will be retried.
func retriedIndexes(set *batch.TaskSet) []indexes.Range {
	counts, _ := indexes.ParseCounts(set.Status.IndexFailures, maxCompletions)
	ranges := make([]indexes.Range, 0, len(counts))
	for _, c := range counts {
		ranges = append(ranges, indexes.Range{First: c.Index, Last: c.Index})
	}
	return ranges
}

// failed returns the indexes of the set that have failed: those that have failed for good, and those whose last attempt
// has failed.
func (l *setLogs) failed(ctx context.Context) ([]indexes.Range, error) {
	completed, err := completedOf(l.set)
	if err != nil {
		return nil, err
	}
	failed, _ := taskstate.FailedIndexes(l.set)
	last := map[int32]*batch.TaskRecord{} // by index, of those that have not succeeded
	for record, err := range l.recordReader().read(ctx, nil) {
		if notServed(err) {
			return l.failedTasks(ctx, failed)
		}
		if err != nil {
			return nil, err
		}
		if record.Index == nil || indexes.Contains(completed, int(*record.Index)) {
			continue
		}
		if before := last[*record.Index]; before == nil || before.StartTime.Before(&record.StartTime) {
			last[*record.Index] = &batch.TaskRecord{StartTime: record.StartTime, ExitCode: record.ExitCode, Signal: record.Signal, Reason: record.Reason}
		}
	}
	var more indexCollector
	for index, record := range last {
		if failedAttempt(record) {
			more.add(int(index))
		}
	}
	return indexes.Union(failed, more.ranges()), nil
}

// failedTasks returns the failed indexes and those of failed tasks, for servers without records.
func (l *setLogs) failedTasks(ctx context.Context, failed []indexes.Range) ([]indexes.Range, error) {
	tasks, err := l.tasks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range tasks {
		if index, ok := taskstate.FailedIndex(&tasks[i]); ok {
			failed = append(failed, single(index)...)
		}
	}
	return indexes.Union(failed, nil), nil
}
