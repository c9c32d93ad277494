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

// Package logs keeps the output of commands for some time, in a bounded amount of disk space. Readers may follow it.
//
// The output of an attempt at a task is kept as it was written, standard output and standard error together, in files
//
//	<task uid>.<attempt>.<n>.log
//	<task uid>_<index>.<attempt>.<n>.log
//
// the latter for an attempt at one index of a task with spec.indexes. n counts up. When a file reaches a quarter of
// what the attempt may keep, the next one is started and the oldest is removed, so that the end of a long output is
// kept. An .idx file beside a log file has the times of its lines. Files are not synced: a crash of the machine can
// lose output.
//
// In the first second of an attempt its output is in memory, up to 64 KiB. An attempt that ends before that writes its
// files once, at its end, or never if its output is kept elsewhere. A worker that is killed loses what is in memory:
// output of attempts that ran for less than a second.
package logs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/worker/attempt"
)

const (
	// MinSize is the smallest allowed Options.MaxSize, in bytes.
	MinSize = 16 << 10
	// maxSegments is how many files the output of an attempt has once it has reached its limit.
	maxSegments = 4
	// overhead is roughly how many bytes a file takes on the disk in addition to its content.
	overhead = 8 << 10
	// maxEmpty is how many attempts without output are remembered after their end.
	maxEmpty = 10_000
)

// Defaults of Options.
const (
	DefaultMaxSize      = 10 << 20
	DefaultMaxTotalSize = 1 << 30
	DefaultRetention    = 24 * time.Hour
)

// Options configure a Store.
type Options struct {
	// Dir is the directory, created if necessary. Only one Store at a time may use it.
	Dir string
	// MaxSize is how many bytes are kept of an attempt, at least MinSize.
	MaxSize int64
	// MaxTotalSize is how many bytes are kept in total. The attempts that ended first are removed first. If only
	// running attempts are left, they are cut to the last quarter of MaxSize each.
	MaxTotalSize int64
	// Retention is how long output is kept after the end of its attempt.
	Retention time.Duration
}

// Store keeps the output of attempts. It is safe for concurrent use. A nil Store keeps nothing.
type Store struct {
	options Options
	total   atomic.Int64 // bytes that are kept on the disk, with overhead
	// memorySize is how much of a running attempt may be in memory, in bytes.
	memorySize int64

	mu     sync.Mutex
	tasks  map[types.UID]*taskLogs
	ended  []*Log      // with output, in the order of their end
	empty  []*Log      // without output, in the order of their end
	expiry *time.Timer // of the first in ended
	closed bool
}

// taskLogs are the logs of one task.
type taskLogs struct {
	logs    []*Log        // in the order of indexes, and of attempts at the same index
	runs    int           // runs of a task with spec.indexes that have not ended
	readers int           // calls of ReadTask
	changed chan struct{} // closed when there is another log, or a run has ended; nil if nobody waits
}

// notify wakes readers that wait for another log.
func (t *taskLogs) notify() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Open opens the store. Attempts whose output is in the directory count as ended.
func Open(options Options) (*Store, error) {
	if options.MaxSize < MinSize || options.MaxTotalSize < options.MaxSize {
		return nil, fmt.Errorf("an attempt must be allowed to keep %d bytes or more, and all attempts no less than one: not %d and %d",
			MinSize, options.MaxSize, options.MaxTotalSize)
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{options: options, memorySize: memorySize, tasks: map[types.UID]*taskLogs{}}
	if err := s.load(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked()
	s.expireLocked()
	return s, nil
}

// Close stops the removal of expired output. Writes to open logs are still kept.
func (s *Store) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
}

// load reads the directory, and removes log files without content and index files without a log file.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	found := map[attempt.ID]*Log{}
	indexes := map[string]int64{}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == indexExt {
			if info, err := entry.Info(); err == nil {
				indexes[entry.Name()] = info.Size()
			}
		}
	}
	for _, entry := range entries {
		id, n, ok := parseName(entry.Name())
		if !ok {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue
		}
		if info.Size() == 0 {
			_ = os.Remove(s.path(entry.Name()))
			continue
		}
		log := found[id]
		if log == nil {
			log = &Log{store: s, id: id, ended: true}
			found[id] = log
		}
		name := log.name(n, indexExt)
		segment := segment{n: n, size: info.Size(), entries: int(indexes[name] / entrySize), first: info.ModTime().UnixMilli()}
		delete(indexes, name)
		log.segments = append(log.segments, segment)
		if info.ModTime().After(log.endedAt) {
			log.endedAt = info.ModTime()
		}
	}
	for name := range indexes {
		_ = os.Remove(s.path(name))
	}
	for _, log := range found {
		slices.SortFunc(log.segments, func(a, b segment) int { return cmp.Compare(a.n, b.n) })
		var at int64
		for i := range log.segments {
			log.segments[i].start = at
			at += log.segments[i].size
		}
		log.accountLocked()
		task := s.taskLocked(log.id.Task)
		task.logs = append(task.logs, log)
		log.queue, s.ended = &s.ended, append(s.ended, log)
	}
	for _, task := range s.tasks {
		slices.SortFunc(task.logs, byAttempt)
	}
	slices.SortFunc(s.ended, func(a, b *Log) int { return a.endedAt.Compare(b.endedAt) })
	return nil
}

// parseName parses the name of a log file. It accepts only the form in which names are written, since the file is
// opened by a name in that form.
func parseName(name string) (id attempt.ID, n int, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || "."+parts[3] != logExt {
		return attempt.ID{}, 0, false
	}
	task, index, ok := attempt.ParseTarget(parts[0])
	a, errA := strconv.ParseInt(parts[1], 10, 32)
	n, errN := strconv.Atoi(parts[2])
	ok = ok && errA == nil && errN == nil && a >= 0 && n >= 0 && strconv.FormatInt(a, 10) == parts[1] && strconv.Itoa(n) == parts[2]
	return attempt.ID{Task: task, Index: index, Number: int32(a)}, n, ok
}

// byAttempt compares logs of the same task, by index and then by attempt.
func byAttempt(a, b *Log) int {
	return cmp.Or(cmp.Compare(a.id.Index, b.id.Index), cmp.Compare(a.id.Number, b.id.Number))
}

// Create starts the output of an attempt. The caller must close it when the attempt has ended. It replaces earlier
// output of the same attempt, which a worker may have written that was killed before it reported the attempt. Without
// output there are no files.
func (s *Store) Create(id attempt.ID) *Log {
	if s == nil {
		return nil
	}
	log := &Log{store: s, id: id, created: time.Now(), buffered: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	task := s.taskLocked(id.Task)
	i, found := slices.BinarySearchFunc(task.logs, log, byAttempt)
	if found {
		s.removeLocked(task.logs[i])
		task = s.taskLocked(id.Task)
	}
	task.logs = slices.Insert(task.logs, i, log)
	task.notify()
	return log
}

// StartRun records that the indexes of a task with spec.indexes start to run, until end is called. Readers that follow
// the output of the task wait for further indexes until then.
func (s *Store) StartRun(task types.UID) (end func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taskLocked(task)
	t.runs++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.runs--
		t.notify()
		s.forgetLocked(task)
	}
}

// taskLocked returns the logs of a task, and adds the task if necessary. s.mu must be held.
func (s *Store) taskLocked(task types.UID) *taskLogs {
	t := s.tasks[task]
	if t == nil {
		t = &taskLogs{}
		s.tasks[task] = t
	}
	return t
}

// startReading records that somebody reads the output of a task, until end is called.
func (s *Store) startReading(task types.UID) (end func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[task]
	if t == nil {
		return func() {}
	}
	t.readers++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.readers--; t.readers == 0 {
			for _, l := range slices.Clone(t.logs) {
				if l.released {
					s.removeLocked(l)
				}
			}
		}
		s.forgetLocked(task)
	}
}

// release removes a log that is kept elsewhere. It returns false while somebody reads the output of the task: the log
// is then removed after that.
func (s *Store) release(l *Log) (removed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[l.id.Task]; t != nil && t.readers > 0 {
		l.released = true
		return false
	}
	s.removeLocked(l)
	return true
}

// forgetLocked removes a task that has no logs, does not run and is not read. s.mu must be held.
func (s *Store) forgetLocked(task types.UID) {
	if t := s.tasks[task]; t != nil && len(t.logs) == 0 && t.runs == 0 && t.readers == 0 {
		delete(s.tasks, task)
	}
}

// NotKeptError is returned when there is no output of an attempt. Its message is for the person who asked for it.
type NotKeptError struct{ message string }

// Error implements error.
func (e *NotKeptError) Error() string { return e.message }

var errNothingKept = &NotKeptError{"the worker keeps no output of the task: it has not started the command, " +
	"or what was kept had to make room or was kept for long enough"}

// Get returns the output of the last attempt at the task, or of the one before if previous is true. The error is a
// NotKeptError.
func (s *Store) Get(uid types.UID, previous bool) (*Log, error) {
	from, err := selectAttempt(s.logsOf(uid), nil, previous)
	if err != nil {
		return nil, err
	}
	return from.(*Log), nil
}

// logsOf returns the logs of a task.
func (s *Store) logsOf(uid types.UID) []*Log {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if task := s.tasks[uid]; task != nil {
		return slices.Clone(task.logs)
	}
	return nil
}

// finish records that a log has ended.
func (s *Store) finish(l *Log, empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.isDiscarded() {
		return // removed while it ran
	}
	if empty {
		l.queue, s.empty = &s.empty, append(s.empty, l)
		if len(s.empty) > maxEmpty {
			s.removeLocked(s.empty[0])
		}
		return
	}
	l.queue, s.ended = &s.ended, append(s.ended, l)
	if len(s.ended) == 1 {
		s.expireLocked()
	}
}

// evict removes ended logs until the total size is within its limit.
func (s *Store) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked()
}

// spaceProbe is how many bytes must fit on a disk that is not full.
const spaceProbe = 4 << 10

// SpaceLeft returns an error while the disk of the store is full.
func (s *Store) SpaceLeft() error {
	if s == nil {
		return nil
	}
	probe := s.path("probe")
	err := os.WriteFile(probe, make([]byte, spaceProbe), 0o600)
	_ = os.Remove(probe)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nil
}

func (s *Store) full() bool { return s.total.Load() > s.options.MaxTotalSize }

// evictLocked removes logs in the order of their end until the total size is within its limit. s.mu must be held.
func (s *Store) evictLocked() {
	for s.full() && len(s.ended) > 0 {
		s.removeLocked(s.ended[0])
	}
}

// expireLocked removes logs whose retention has passed, and schedules the next removal. s.mu must be held.
func (s *Store) expireLocked() {
	for len(s.ended) > 0 {
		left := time.Until(s.ended[0].endedAt.Add(s.options.Retention))
		if left > 0 {
			if s.expiry != nil {
				s.expiry.Stop()
			}
			if !s.closed {
				s.expiry = time.AfterFunc(left, func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.expireLocked()
				})
			}
			return
		}
		s.removeLocked(s.ended[0])
	}
}

// removeLocked removes a log and its files. s.mu must be held.
func (s *Store) removeLocked(l *Log) {
	if t := s.tasks[l.id.Task]; t != nil {
		if i, found := slices.BinarySearchFunc(t.logs, l, byAttempt); found && t.logs[i] == l {
			t.logs = slices.Delete(t.logs, i, i+1)
		}
		s.forgetLocked(l.id.Task)
	}
	if l.queue != nil {
		// Usually the log is the first.
		if i := slices.Index(*l.queue, l); i == 0 {
			(*l.queue)[0] = nil
			*l.queue = (*l.queue)[1:]
		} else if i > 0 {
			*l.queue = slices.Delete(*l.queue, i, i+1)
		}
		l.queue = nil
	}
	l.discard()
}

// path returns the path of a file of the store.
func (s *Store) path(name string) string { return filepath.Join(s.options.Dir, name) }

// removeFile removes a file if it exists.
func (s *Store) removeFile(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
