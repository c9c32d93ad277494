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

// Package logs keeps what commands print, for a time, on a bounded part of a disk, for readers who may follow along.
//
// The output of each attempt at a task is kept as it was printed, standard output and standard error together, in files
//
//	<task uid>.<attempt>.<n>.log
//
// with n counting up: once one is a quarter of what an attempt may keep, the next is begun and the oldest goes, so that the end of
// a long output is what stays. Beside each may lie an .idx file, which says when the lines came. Nothing is synced: what a
// crash of the machine takes is gone.
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
)

const (
	// MinSize is the least that an attempt can be allowed to keep, in bytes.
	MinSize = 16 << 10
	// pieces is how many files the output of an attempt is spread over once it is as large as it may be.
	pieces = 4
	// overhead is what a file costs the disk besides its bytes, roughly.
	overhead = 8 << 10
	// maxSilent is of how many attempts that have ended without output it is still known that they had none.
	maxSilent = 10_000
)

// What is kept where nobody says otherwise.
const (
	DefaultMaxSize      = 10 << 20
	DefaultMaxTotalSize = 1 << 30
	DefaultRetention    = 24 * time.Hour
)

// Options say where output is kept, and how much of it.
type Options struct {
	// Dir is the directory, made if need be. Only one Store at a time may use it.
	Dir string
	// MaxSize is how many bytes an attempt keeps at most, MinSize or more.
	MaxSize int64
	// MaxTotalSize is how many bytes are kept at most: the attempts that ended first go first. When all that is kept is of
	// attempts that run, theirs goes too, but for the last quarter of MaxSize of each.
	MaxTotalSize int64
	// Retention is how long output is kept after the end of its attempt.
	Retention time.Duration
}

// Store keeps the output of attempts. It is safe for concurrent use. A nil Store keeps nothing.
type Store struct {
	options Options
	total   atomic.Int64 // bytes that are kept, and overhead

	mu     sync.Mutex
	tasks  map[types.UID][]*Log // in the order of attempts
	ended  []*Log               // with output, those first that ended first
	silent []*Log               // without output, those first that ended first
	expiry *time.Timer          // of the first that has ended
	closed bool
}

// Open opens the store with what an earlier one has left in the directory, whose attempts count as ended.
func Open(options Options) (*Store, error) {
	if options.MaxSize < MinSize || options.MaxTotalSize < options.MaxSize {
		return nil, fmt.Errorf("an attempt must be allowed to keep %d bytes or more, and all attempts no less than one: not %d and %d",
			MinSize, options.MaxSize, options.MaxTotalSize)
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{options: options, tasks: map[types.UID][]*Log{}}
	if err := s.load(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trim()
	s.expire()
	return s, nil
}

// Close ends what the store does by itself. Output that is written later is kept all the same.
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

// load takes in the files of the directory, and removes those that lack their counterpart.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	found := map[types.UID]map[int32]*Log{}
	indexes := map[string]int64{}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == indexExt {
			if info, err := entry.Info(); err == nil {
				indexes[entry.Name()] = info.Size()
			}
		}
	}
	for _, entry := range entries {
		uid, attempt, n, ok := parseName(entry.Name())
		if !ok {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue
		}
		if info.Size() == 0 { // nothing came of it
			_ = os.Remove(s.path(entry.Name()))
			continue
		}
		log := found[uid][attempt]
		if log == nil {
			log = &Log{store: s, uid: uid, attempt: attempt, ended: true}
			if found[uid] == nil {
				found[uid] = map[int32]*Log{}
			}
			found[uid][attempt] = log
		}
		name := log.name(n, indexExt)
		piece := piece{n: n, size: info.Size(), entries: int(indexes[name] / entrySize), first: info.ModTime().UnixMilli()}
		delete(indexes, name)
		log.pieces = append(log.pieces, piece)
		if info.ModTime().After(log.endedAt) {
			log.endedAt = info.ModTime()
		}
	}
	for name := range indexes {
		_ = os.Remove(s.path(name))
	}
	for uid, attempts := range found {
		for _, log := range attempts {
			slices.SortFunc(log.pieces, func(a, b piece) int { return cmp.Compare(a.n, b.n) })
			var at int64
			for i := range log.pieces {
				log.pieces[i].start = at
				at += log.pieces[i].size
				log.charged += log.pieces[i].cost()
			}
			s.total.Add(log.charged)
			s.tasks[uid] = append(s.tasks[uid], log)
			s.ended = append(s.ended, log)
		}
		slices.SortFunc(s.tasks[uid], byAttempt)
	}
	slices.SortFunc(s.ended, func(a, b *Log) int { return a.endedAt.Compare(b.endedAt) })
	return nil
}

// parseName reads the name of a file with output, as it is written and no other way: the file is opened by that name.
func parseName(name string) (uid types.UID, attempt int32, n int, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || "."+parts[3] != logExt {
		return "", 0, 0, false
	}
	a, errA := strconv.ParseInt(parts[1], 10, 32)
	n, errN := strconv.Atoi(parts[2])
	ok = parts[0] != "" && errA == nil && errN == nil && a >= 0 && n >= 0 && strconv.FormatInt(a, 10) == parts[1] && strconv.Itoa(n) == parts[2]
	return types.UID(parts[0]), int32(a), n, ok
}

func byAttempt(a, b *Log) int { return cmp.Compare(a.attempt, b.attempt) }

// Create begins the output of an attempt, which must be closed when the attempt has ended. Of the same attempt at the same task
// nothing is kept from before: a worker that was killed may have begun it unknown to anyone. Nothing is made on the disk
// until something is written.
func (s *Store) Create(uid types.UID, attempt int32) *Log {
	if s == nil {
		return nil
	}
	log := &Log{store: s, uid: uid, attempt: attempt}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := slices.BinarySearchFunc(s.tasks[uid], log, byAttempt); found {
		s.remove(s.tasks[uid][i])
	}
	i, _ := slices.BinarySearchFunc(s.tasks[uid], log, byAttempt)
	s.tasks[uid] = slices.Insert(s.tasks[uid], i, log)
	return log
}

// NotKeptError tells that there is no output of an attempt, in words for the person who asked for it.
type NotKeptError struct{ message string }

func (e *NotKeptError) Error() string { return e.message }

// Get gives the output of the last attempt at the task, or the one before that. The error is a NotKeptError.
func (s *Store) Get(uid types.UID, previous bool) (*Log, error) {
	var logs []*Log
	if s != nil {
		s.mu.Lock()
		logs = slices.Clone(s.tasks[uid])
		s.mu.Unlock()
	}
	if len(logs) == 0 {
		return nil, &NotKeptError{"the worker keeps no output of the task: it has not started the command, or what was kept had to make room or was kept for long enough"}
	}
	last := logs[len(logs)-1]
	if !previous {
		return last, nil
	}
	if last.attempt <= 1 {
		return nil, &NotKeptError{fmt.Sprintf("there is no attempt before attempt %d", last.attempt)}
	}
	if i, found := slices.BinarySearchFunc(logs, &Log{attempt: last.attempt - 1}, byAttempt); found {
		return logs[i], nil
	}
	return nil, &NotKeptError{fmt.Sprintf("the worker keeps no output of attempt %d: another worker ran it, or what was kept had to make room or was kept for long enough", last.attempt-1)}
}

// end takes a log in that has ended.
func (s *Store) end(l *Log, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.tasks[l.uid], l) {
		return // removed while it ran
	}
	if silent {
		s.silent = append(s.silent, l)
		if len(s.silent) > maxSilent {
			s.remove(s.silent[0])
		}
		return
	}
	s.ended = append(s.ended, l)
	if len(s.ended) == 1 {
		s.expire()
	}
}

// makeRoom removes what has to go so that no more is kept than may be.
func (s *Store) makeRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trim()
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

// trim removes those that ended first as long as too much is kept. It must be called with the lock.
func (s *Store) trim() {
	for s.full() && len(s.ended) > 0 {
		s.remove(s.ended[0])
	}
}

// expire removes what was kept for long enough, and comes again for the next. It must be called with the lock.
func (s *Store) expire() {
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
					s.expire()
				})
			}
			return
		}
		s.remove(s.ended[0])
	}
}

// remove forgets a log and deletes its files. It must be called with the lock.
func (s *Store) remove(l *Log) {
	same := func(other *Log) bool { return other == l }
	if s.tasks[l.uid] = slices.DeleteFunc(s.tasks[l.uid], same); len(s.tasks[l.uid]) == 0 {
		delete(s.tasks, l.uid)
	}
	// What goes first is first, as a rule.
	for _, list := range []*[]*Log{&s.ended, &s.silent} {
		if i := slices.Index(*list, l); i == 0 {
			(*list)[0] = nil
			*list = (*list)[1:]
		} else if i > 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
	l.discard()
}

// path is where a file of the store is.
func (s *Store) path(name string) string { return filepath.Join(s.options.Dir, name) }

// removeFile deletes a file that need not be there.
func (s *Store) removeFile(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
