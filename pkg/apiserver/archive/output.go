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
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/archive/lineio"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// window is how many indexes of a set are looked up at a time. It bounds the memory of a request.
	window = 1000
	// maxAhead is how many outputs are read ahead of the one that is being written.
	maxAhead = 8
	// maxUnsentOutput is the maximum size of an output that is read from a worker.
	maxUnsentOutput = 16 << 20
	// maxMissing is the maximum number of ranges of indexes that one line names.
	maxMissing = 64
	// streamBuffer is the size of the buffers of a response, in bytes.
	streamBuffer = 32 << 10
)

// OpenOutput implements task.AttemptSource.
func (a *Archive) OpenOutput(ctx context.Context, of *task.Attempts, options *batch.TaskLogOptions) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	reader, writer := io.Pipe()
	buffer := bufio.NewWriterSize(writer, streamBuffer)
	s := &outputStream{archive: a, of: of, options: options, out: lineio.NewWriter(buffer), buffer: buffer, unsent: a.unsent(of)}
	switch now := a.Clock.Now(); {
	case options.SinceSeconds != nil:
		s.since = now.Add(-time.Duration(min(*options.SinceSeconds, now.Unix())) * time.Second)
	case options.SinceTime != nil:
		s.since = options.SinceTime.Time
	}
	go func() {
		err := s.run(ctx)
		if flushed := buffer.Flush(); err == nil {
			err = flushed
		}
		writer.CloseWithError(err) // nil is io.EOF for the reader
	}()
	body := bufio.NewReaderSize(reader, streamBuffer)
	if _, err := body.Peek(1); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	return &openOutput{body, reader, cancel}, nil
}

// openOutput is the reading end of an output.
type openOutput struct {
	io.Reader
	pipe   *io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer. It stops what writes the output.
func (o *openOutput) Close() error {
	o.cancel()
	return o.pipe.Close()
}

// outputStream writes the output of attempts, that of one index after the other.
//
// Each index has finished attempts, which the store or a worker has, and may have a live task. The attempt at a live
// task that runs, or has ended but is not among the finished ones, comes after them. Of an index the stream writes
//
//	the selected attempt   what
//	finished               its output, from the store or the worker
//	live                   the log of the task, from its worker
//	none, not started      nothing
//	none, has finished     a line: the output is not kept, or cannot be read now
//
// If it cannot be read now and nothing has been written yet, the stream ends with an API error instead.
type outputStream struct {
	archive *Archive
	of      *task.Attempts
	options *batch.TaskLogOptions
	since   time.Time
	out     *lineio.Writer
	buffer  *bufio.Writer
	live    []*liveTask
	// workers are those of the live tasks, by name.
	workers map[string]*batch.Worker
	// unsent are the finished attempts on workers.
	unsent *unsentAttempts
	// finished is true once the stream has found an attempt, even one without output.
	finished bool
	// unknown is the reason why there may be more indexes than are known.
	unknown string
	// missing are indexes whose output is not kept. No line has named them yet.
	missing []indexes.Range
	// store is the API error of the store if that cannot be read now, and may have the selected attempts.
	store error
}

// item is one or more consecutive indexes, whose output the stream writes at once.
type item struct {
	ranges []indexes.Range
	// attempt is the finished attempt, and loaded what is read of it.
	attempt *attempt
	loaded  chan loaded
	// live is the live task whose log to read, and previous selects the attempt before its last one.
	live     *liveTask
	previous bool
	// unreadable is the reason why the output cannot be read now. If it is empty and there is neither an attempt nor a
	// live task, the output is not kept.
	unreadable string
}

// loaded is the output of an attempt, or the error of reading it.
type loaded struct {
	output []byte
	err    error
}

// run writes the output.
func (s *outputStream) run(ctx context.Context) error {
	if err := s.findLive(ctx); err != nil {
		return err
	}
	ranges, err := s.ranges(ctx)
	if err != nil {
		return err
	}
	for from, count := 0, indexes.Count(ranges); from < count; from += window {
		if err := s.runWindow(ctx, indexes.Slice(ranges, from, from+window), indexes.Slice(ranges, from, count)); err != nil {
			return err
		}
	}
	if s.unknown != "" {
		return s.cannotReadMore()
	}
	switch {
	case s.store != nil && !s.out.Written():
		return s.store
	case s.store != nil:
		if err := s.writeMissing(); err != nil {
			return err
		}
		return s.say("output may be missing: %v", s.store)
	case s.out.Written():
		return s.writeMissing()
	case len(s.missing) > 0:
		return &task.NoOutputError{Message: s.notKept()}
	case !s.finished:
		return &task.NoOutputError{Message: s.nothing(), NotStarted: true}
	}
	return nil
}

// nothing returns the message if no attempt is known.
func (s *outputStream) nothing() string {
	switch {
	case s.options.Attempt != nil:
		return fmt.Sprintf("attempt: %d: there is no such attempt at %s", *s.options.Attempt, s.subject())
	case s.options.Previous:
		return fmt.Sprintf("there is no previous attempt at %s", s.subject())
	}
	return fmt.Sprintf("there is no output of %s yet: no attempt has started", s.subject())
}

// subject names the task or the set.
func (s *outputStream) subject() string {
	if s.of.Task != nil {
		return "task " + s.of.Task.Name
	}
	return "the tasks of set " + s.of.Set.Name
}

// runWindow writes the output of the indexes of ranges, with which rest begins. It reads finished attempts ahead.
func (s *outputStream) runWindow(ctx context.Context, ranges, rest []indexes.Range) error {
	if err := s.unsent.lookUp(ctx, s.lookUp(ranges), s.lookUp(rest)); err != nil {
		return err
	}
	items, err := s.itemsOf(ctx, ranges, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := 0
	for i := range items {
		for ; next < len(items) && next < i+maxAhead; next++ {
			if ahead := &items[next]; ahead.attempt != nil {
				ahead.loaded = make(chan loaded, 1)
				go func() { ahead.loaded <- s.load(ctx, ahead.attempt) }()
			}
		}
		if err := s.write(ctx, &items[i]); err != nil {
			return err
		}
		items[i] = item{} // the output can be collected
	}
	return ctx.Err()
}

// lookUp returns the indexes to look up for ranges: nil, which means all, for a task without spec.indexes.
func (s *outputStream) lookUp(ranges []indexes.Range) []indexes.Range {
	if s.isSingle() {
		return nil
	}
	return ranges
}

// itemsOf finds the attempts at the indexes, which must be looked up on workers, and selects one of each. Without
// withLive, it selects only finished attempts.
func (s *outputStream) itemsOf(ctx context.Context, ranges []indexes.Range, withLive bool) ([]item, error) {
	expected := s.expected(ranges)
	mustHave := expected
	if !withLive {
		mustHave = ranges // an attempt that was live has ended
	}
	found, err := s.find(ctx, s.lookUp(ranges), mustHave)
	if err != nil {
		return nil, err
	}
	unreadable := ""
	switch {
	case found.store != nil && (s.options.Attempt != nil || s.options.Previous):
		return nil, found.store // attempts cannot be counted
	case found.store != nil:
		unreadable = found.store.Error()
	case len(found.failures) > 0:
		unreadable = found.failures[0].String()
	case len(found.broken) > 0:
		unreadable = fmt.Sprintf("segment %s of the archive: %v", found.broken[0].key, found.broken[0].err)
	}
	live := s.liveAt(ranges)
	var items []item
	for _, r := range ranges {
		for index := r.First; index <= r.Last; index++ {
			attempts := found.attempts
			if !s.isSingle() {
				attempts = found.at(index)
			}
			selected, ok := s.selectAttempt(index, attempts, live[index], withLive)
			if selected.live == nil && found.store != nil {
				s.store = found.store
			}
			switch last := len(items) - 1; {
			case !ok && !indexes.Contains(expected, index):
				continue // it has not started, or not that often
			case !ok:
				selected.unreadable = unreadable
			case selected.live != nil && last >= 0 && items[last].live == selected.live && items[last].previous == selected.previous:
				items[last].ranges = indexes.Union(items[last].ranges, []indexes.Range{{First: index, Last: index}})
				continue
			}
			selected.ranges = []indexes.Range{{First: index, Last: index}}
			items = append(items, selected)
		}
	}
	return items, nil
}

// find returns the finished attempts at the indexes. Workers are asked before the store: a segment that a worker sends
// meanwhile is found twice rather than not at all. expected are indexes that must have attempts.
func (s *outputStream) find(ctx context.Context, ranges, expected []indexes.Range) (*found, error) {
	unsent := s.unsent.within(ranges)
	if s.archive.Store == nil {
		return &found{attempts: unsent, failures: s.unsent.failures}, ctx.Err()
	}
	inStore, broken, err := s.archive.findStored(ctx, s.of, ranges, func(inStore []attempt) bool {
		return !lacks(merge(inStore, unsent), expected)
	})
	switch {
	case apierrors.IsServiceUnavailable(err):
		return &found{attempts: unsent, failures: s.unsent.failures, store: err}, nil
	case err != nil:
		return nil, err
	}
	return &found{attempts: merge(inStore, unsent), failures: s.unsent.failures, broken: broken}, nil
}

// selectAttempt returns the item of the attempt that the options select. ok is false if there is none.
func (s *outputStream) selectAttempt(index int, attempts []attempt, live *liveTask, withLive bool) (selected item, ok bool) {
	total := len(attempts)
	if live != nil && (!withLive || !live.hasAttemptAfter(index, attempts)) {
		live = nil
	}
	if live != nil {
		total++
	}
	position := total - 1
	switch {
	case s.options.Attempt != nil:
		position = int(*s.options.Attempt) - 1
	case s.options.Previous:
		position--
	}
	switch {
	case position >= 0 && position < len(attempts):
		return item{attempt: &attempts[position]}, true
	case live == nil || s.options.Attempt != nil && position != len(attempts):
		return item{}, false
	case s.options.Previous && len(attempts) > 0:
		return item{}, false
	}
	return item{live: live, previous: s.options.Previous}, true
}

// load reads the output of a finished attempt.
func (s *outputStream) load(ctx context.Context, at *attempt) loaded {
	output, err := s.archive.output(ctx, s.of, at)
	var notKept *task.LogNotKeptError
	if !errors.As(err, &notKept) && !errors.Is(err, store.ErrNotFound) {
		return loaded{output, err}
	}
	// The worker has sent it since it was asked.
	var moved *attempt
	_, _, again := s.archive.findStored(ctx, s.of, s.lookUp([]indexes.Range{{First: int(at.index), Last: int(at.index)}}), func(inStore []attempt) bool {
		i := slices.IndexFunc(inStore, func(other attempt) bool { return compareAttempts(other, *at) == 0 })
		if i >= 0 {
			moved = &inStore[i]
		}
		return i >= 0
	})
	switch {
	case again != nil:
		return loaded{nil, again}
	case moved != nil:
		output, err = s.archive.output(ctx, s.of, moved)
	}
	return loaded{output, err}
}

// write writes the output of an item, or a line in its place.
func (s *outputStream) write(ctx context.Context, it *item) error {
	switch {
	case it.attempt != nil:
		return s.writeAttempt(ctx, it)
	case it.live != nil:
		return s.writeLive(ctx, it)
	case it.unreadable != "":
		return s.cannotRead(it.ranges, it.unreadable)
	}
	s.finished = true
	s.missing = indexes.Union(s.missing, it.ranges)
	if len(s.missing) >= maxMissing {
		return s.writeMissing()
	}
	return nil
}

// writeAttempt writes the output of a finished attempt.
func (s *outputStream) writeAttempt(ctx context.Context, it *item) error {
	var result loaded
	select {
	case result = <-it.loaded:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.finished = true
	var notKept *task.LogNotKeptError
	switch {
	case errors.As(result.err, &notKept) || errors.Is(result.err, store.ErrNotFound):
		return s.write(ctx, &item{ranges: it.ranges})
	case result.err != nil && ctx.Err() != nil:
		return ctx.Err()
	case result.err != nil:
		return s.cannotRead(it.ranges, result.err.Error())
	}
	selected := s.selectLines(result.output, it.attempt)
	if len(selected) == 0 {
		return nil
	}
	if err := s.writeMissing(); err != nil {
		return err
	}
	s.out.Begin(s.prefixOf(it.ranges[0].First))
	_, err := s.out.Write(selected)
	return err
}

// selectLines returns the part of the output of a finished attempt that the options select. The archive keeps no times
// of lines: they are all as old as the end of the attempt, and their timestamp is its start.
func (s *outputStream) selectLines(output []byte, at *attempt) []byte {
	if at.ended().Before(s.since) {
		return nil
	}
	if tail := s.options.TailLines; tail != nil {
		output = lineio.Last(output, *tail)
	}
	if s.options.Timestamps {
		output = lineio.WithTime(output, at.started())
	}
	if limit := s.options.LimitBytes; limit != nil && int64(len(output)) > *limit {
		output = output[:*limit]
	}
	return output
}

// prefixOf returns the prefix of the lines of an index.
func (s *outputStream) prefixOf(index int) string {
	if !s.options.Prefix || s.isSingle() {
		return ""
	}
	return lineio.IndexPrefix(index)
}

// writeLive writes the log of a live task.
func (s *outputStream) writeLive(ctx context.Context, it *item) error {
	worker := s.workers[it.live.task.Spec.WorkerName]
	options := *s.options
	options.Follow, options.Attempt, options.Previous, options.Indexes = false, nil, it.previous, ""
	if it.live.chunk {
		options.Indexes = indexes.Format(it.ranges)
	}
	var log io.ReadCloser
	var err error
	var notKept *task.LogNotKeptError
	switch {
	case worker == nil:
		err = &task.LogNotKeptError{}
	case worker.Status.Endpoint != nil:
		log, err = s.archive.Options.Workers.OpenLog(ctx, it.live.task, worker.Status.Endpoint, &options)
	case s.of.Set != nil:
		return s.writeTail(it)
	default:
		err = errServesNoLogs
	}
	switch {
	case errors.As(err, &notKept):
		return s.writeEnded(ctx, it, worker)
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return s.cannotRead(it.ranges, failure{it.live.task.Spec.WorkerName, err}.String())
	}
	defer log.Close()
	s.finished = true
	if err := s.writeMissing(); err != nil {
		return err
	}
	if it.live.chunk {
		s.out.Begin("") // the worker writes prefixes
	} else {
		s.out.Begin(s.prefixOf(it.ranges[0].First))
	}
	return s.copy(ctx, log, it)
}

// writeEnded writes the output of the attempts at a live task that have ended since they were looked up. They may have
// been sent. worker is nil if it does not exist any more.
func (s *outputStream) writeEnded(ctx context.Context, it *item, worker *batch.Worker) error {
	if worker != nil {
		if err := s.unsent.askAgain(ctx, s.lookUp(it.ranges), holder{worker.Name, worker.Status.Endpoint}); err != nil {
			return err
		}
	}
	items, err := s.itemsOf(ctx, it.ranges, false)
	for i := range items {
		if ended := &items[i]; ended.attempt != nil {
			ended.loaded = make(chan loaded, 1)
			ended.loaded <- s.load(ctx, ended.attempt)
		}
		if err == nil {
			err = s.write(ctx, &items[i])
		}
	}
	if err == nil && len(items) == 0 && !it.live.chunk && !it.previous {
		ended := &item{ranges: it.ranges} // it had started
		if s.store != nil {
			ended.unreadable = s.store.Error()
		}
		err = s.write(ctx, ended)
	}
	return err
}

// writeTail reports that the worker of a live task serves no logs, and writes the last lines of its failed command,
// which the status of the task has.
func (s *outputStream) writeTail(it *item) error {
	if err := s.writeMissing(); err != nil {
		return err
	}
	s.finished = true
	t := it.live.task
	failed := it.live.ranges[0].First
	if it.live.chunk && int(t.Status.CompletedCount) < indexes.Count(it.live.ranges) {
		failed = indexes.At(it.live.ranges, int(t.Status.CompletedCount))
	}
	tail := ""
	if end := t.Status.State.Terminated; end != nil && !it.previous && indexes.Contains(it.ranges, failed) {
		tail = end.Message
	}
	if tail == "" {
		return s.say("the output%s cannot be read: worker %s: %v", s.ofIndexes(it.ranges), t.Spec.WorkerName, errServesNoLogs)
	}
	err := s.say("the output%s cannot be read: worker %s: %v; the last lines of index %d, from the status of the task, follow",
		s.ofIndexes(it.ranges), t.Spec.WorkerName, errServesNoLogs, failed)
	if err != nil {
		return err
	}
	s.out.Begin(s.prefixOf(failed))
	_, err = io.WriteString(s.out, tail)
	return err
}

// copy writes the log of a live task. If the worker breaks off, it says so: other indexes follow.
func (s *outputStream) copy(ctx context.Context, log io.Reader, it *item) error {
	buffer := make([]byte, streamBuffer)
	for {
		n, err := log.Read(buffer)
		if _, failed := s.out.Write(buffer[:n]); failed != nil {
			return failed
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return s.say("the output%s breaks off here: %v", s.ofIndexes(it.ranges), failure{it.live.task.Spec.WorkerName, err})
		}
	}
}

// cannotRead reports that the output of the indexes cannot be read now, by a line. If nothing has been written, the
// client can try again.
func (s *outputStream) cannotRead(ranges []indexes.Range, why string) error {
	if !s.out.Written() {
		return unavailable("the output of %s%s cannot be read now: %s: try again", s.subject(), s.ofIndexes(ranges), why)
	}
	if err := s.writeMissing(); err != nil {
		return err
	}
	return s.say("the output%s cannot be read now: %s", s.ofIndexes(ranges), why)
}

// cannotReadMore reports that there may be output of other indexes, as cannotRead does.
func (s *outputStream) cannotReadMore() error {
	if !s.out.Written() {
		return unavailable("the output of %s cannot be read now: %s: try again", s.subject(), s.unknown)
	}
	if err := s.writeMissing(); err != nil {
		return err
	}
	return s.say("there may be output of other indexes, which cannot be read now: %s", s.unknown)
}

// writeMissing writes the line about the indexes whose output is not kept.
func (s *outputStream) writeMissing() error {
	if len(s.missing) == 0 {
		return nil
	}
	message := s.notKept()
	s.missing = nil
	return s.say("%s", message)
}

// notKept returns the message for output that is not kept.
func (s *outputStream) notKept() string {
	why := "it is neither in the archive nor on a worker any more: it may be older than what the archive keeps"
	if s.archive.Store == nil {
		why = "no worker has it any more, and " + noArchive
	}
	return fmt.Sprintf("the output%s is not kept: %s", s.ofIndexes(s.missing), why)
}

// ofIndexes names the indexes, for a message.
func (s *outputStream) ofIndexes(ranges []indexes.Range) string {
	switch {
	case s.isSingle():
		return ""
	case indexes.Count(ranges) == 1:
		return fmt.Sprintf(" of index %d", ranges[0].First)
	}
	return " of the indexes " + indexes.Format(ranges)
}

// say writes a line that is not output.
func (s *outputStream) say(format string, args ...any) error {
	s.out.Begin("")
	_, err := fmt.Fprintf(s.out, "[leat: "+format+"]\n", args...)
	return err
}
