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

package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/archive/segment"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// maxLookups is how many look-ups run at a time; others wait.
const maxLookups = 4

// readLimits are the limits of segments that this worker has written.
var readLimits = segment.Limits{Size: segment.MaxSize, Output: MaxBytesPerAttempt, Records: 64 << 20}

// Attempt is a finished attempt in the spool.
type Attempt struct {
	Record  batch.TaskRecord
	spool   *Spool
	segment *unsent
}

// position is a position among the records of a set: behind so many of a segment, and behind all segments before it.
// Segments are ordered by incarnation and number, which no restart changes.
type position struct {
	incarnation string
	number      int64
	records     int
}

// positionText matches a position as Records returns it.
var positionText = regexp.MustCompile(`^([0-9A-Za-z-]{1,128})_([0-9]{1,18})_([0-9]{1,9})$`)

// parsePosition parses a position. An empty one is the beginning.
func parsePosition(text string) (position, error) {
	if text == "" {
		return position{}, nil
	}
	match := positionText.FindStringSubmatch(text)
	if match == nil {
		return position{}, fmt.Errorf("%.100q: %w", text, ErrPosition)
	}
	p := position{incarnation: match[1]}
	p.number, _ = strconv.ParseInt(match[2], 10, 64)
	p.records, _ = strconv.Atoi(match[3])
	return p, nil
}

func (p position) String() string {
	return fmt.Sprintf("%s_%d_%d", p.incarnation, p.number, p.records)
}

// skipped returns how many records of a segment are before the position, and whether others of it may not be.
func (p position) skipped(seg *unsent) (records int, more bool) {
	switch cmp.Or(cmp.Compare(seg.incarnation, p.incarnation), cmp.Compare(seg.number, p.number)) {
	case -1:
		return 0, false
	case 0:
		return p.records, true
	}
	return 0, true
}

// ErrPosition is the error for a position that Records has not returned.
var ErrPosition = errors.New("must be where the records before end")

// Records returns the records of the attempts at the tasks of a set, or without a set if it is empty, that match. If
// there are more than limit, next is the position of the others, and is empty otherwise. from is the position at which
// to begin: empty, or next of a call before. Of attempts that are sent between two calls, the second returns none.
func (s *Spool) Records(ctx context.Context, set types.UID, from string, limit int, match func(*batch.TaskRecord) bool) (
	records []batch.TaskRecord, next string, err error) {
	start, err := parsePosition(from)
	if err != nil {
		return nil, "", err
	}
	var current *unsent
	visited := 0
	err = s.scan(ctx, func(seg *unsent) bool {
		_, more := start.skipped(seg)
		return seg.set == set && more
	}, func(seg *unsent, record *batch.TaskRecord) bool {
		if seg != current {
			current, visited = seg, 0
		}
		visited++
		if skipped, _ := start.skipped(seg); visited <= skipped || !match(record) {
			return true
		}
		if len(records) == limit {
			next = position{seg.incarnation, seg.number, visited - 1}.String()
			return false
		}
		records = append(records, *record)
		return true
	})
	return records, next, err
}

// Task returns the attempts at a task, by index and then by number. Of an attempt that ran twice, it returns the last
// run.
func (s *Spool) Task(ctx context.Context, task types.UID) ([]Attempt, error) {
	if s == nil {
		return nil, nil
	}
	hash := s.hash(task)
	var attempts []Attempt
	err := s.scan(ctx, func(seg *unsent) bool {
		_, found := seg.tasks[hash]
		return found || seg.tasks == nil
	}, func(seg *unsent, record *batch.TaskRecord) bool {
		if record.TaskUID == task {
			attempts = append(attempts, Attempt{Record: *record, spool: s, segment: seg})
		}
		return true
	})
	slices.SortStableFunc(attempts, func(a, b Attempt) int {
		return cmp.Or(compareAttempts(a, b), a.Record.StartTime.Compare(b.Record.StartTime.Time))
	})
	slices.Reverse(attempts)
	attempts = slices.CompactFunc(attempts, func(a, b Attempt) bool { return compareAttempts(a, b) == 0 })
	slices.Reverse(attempts)
	return attempts, err
}

// compareAttempts compares attempts at the same task by index and number.
func compareAttempts(a, b Attempt) int {
	return cmp.Or(cmp.Compare(indexOf(a), indexOf(b)), cmp.Compare(a.Record.Attempt, b.Record.Attempt))
}

func indexOf(a Attempt) int32 {
	if a.Record.Index == nil {
		return -1
	}
	return *a.Record.Index
}

// Output returns the output of an attempt. found is false if it has been sent meanwhile, or had to make room.
func (a Attempt) Output(ctx context.Context) (output []byte, found bool, err error) {
	release, err := a.spool.startLookup(ctx)
	if err != nil {
		return nil, false, err
	}
	defer release()
	return a.spool.output(a.segment, segment.EntryName(&a.Record))
}

// Output returns the output of the attempt at a task of a set with that entry name. If there are several, because the
// attempt ran twice, it returns that of the newest segment. found is false if there is none any more.
func (s *Spool) Output(ctx context.Context, set types.UID, entry string) (output []byte, found bool, err error) {
	release, err := s.startLookup(ctx)
	if err != nil || s == nil {
		return nil, false, err
	}
	defer release()
	for _, seg := range slices.Backward(s.matching(func(seg *unsent) bool { return seg.set == set })) {
		if output, found, err = s.output(seg, entry); found || err != nil || ctx.Err() != nil {
			return output, found, err
		}
	}
	return nil, false, nil
}

func (s *Spool) output(seg *unsent, entry string) (output []byte, found bool, err error) {
	reader, err := s.reader(seg)
	if err == nil {
		output, found, err = reader.Output(entry)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return output, found, err
}

// startLookup waits until a look-up may start. The caller must call release at its end.
func (s *Spool) startLookup(ctx context.Context) (release func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	select {
	case s.lookups <- struct{}{}:
		return func() { <-s.lookups }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// matching returns the segments that match, in the order in which they were opened. match is called with s.mu held.
func (s *Spool) matching(match func(*unsent) bool) []*unsent {
	s.mu.Lock()
	defer s.mu.Unlock()
	var segments []*unsent
	for _, seg := range s.segments {
		if match(seg) {
			segments = append(segments, seg)
		}
	}
	return segments
}

// scan calls visit with each record of the segments that match, in the order of positions, until visit returns false.
// It leaves out segments that are sent or removed meanwhile.
func (s *Spool) scan(ctx context.Context, match func(*unsent) bool, visit func(*unsent, *batch.TaskRecord) bool) error {
	if s == nil {
		return nil
	}
	release, err := s.startLookup(ctx)
	if err != nil {
		return err
	}
	defer release()
	segments := s.matching(match)
	slices.SortFunc(segments, func(a, b *unsent) int {
		return cmp.Or(cmp.Compare(a.incarnation, b.incarnation), cmp.Compare(a.number, b.number))
	})
	for _, seg := range segments {
		reader, err := s.reader(seg)
		more, tasks := true, map[uint64]struct{}{}
		if err == nil {
			err = reader.VisitRecords(func(record *batch.TaskRecord) bool {
				tasks[s.hash(record.TaskUID)] = struct{}{}
				more = ctx.Err() == nil && visit(seg, record)
				return more
			})
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case !more:
			return nil
		}
		s.learnTasks(seg, tasks)
	}
	return nil
}

// learnTasks records the tasks of a segment of an earlier process.
func (s *Spool) learnTasks(seg *unsent, tasks map[uint64]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.tasks == nil {
		seg.tasks = tasks
	}
}

// reader returns a reader of the attempts in a segment so far.
func (s *Spool) reader(seg *unsent) (*segment.Reader, error) {
	seg.mu.Lock()
	defer seg.mu.Unlock()
	if seg.writer != nil {
		return seg.writer.Snapshot()
	}
	return segment.OpenFile(s.path(seg.name), readLimits)
}
