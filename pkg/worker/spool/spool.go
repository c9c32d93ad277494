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

// Package spool keeps the output and the records of finished attempts on the disk of a worker until they are in the
// archive.
//
// Attempts are appended to segments, one for each TaskSet and one for all tasks without a set:
//
//	<uid of the set, or tasks>_<incarnation>_<n>.zip
//
// n counts up. A segment is ended when it is large or old enough, when its set needs no more, or when the worker stops.
// It is then uploaded, and removed once the server has stored it. Segments that a process leaves are uploaded by the
// next one. Segments that the server refuses are moved to the directory refused.
package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/archive/segment"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Defaults of Options.
const (
	DefaultMaxBytesPerAttempt = 1 << 20
	DefaultMaxSize            = 1 << 30
)

// Limits of Options.
const (
	// MaxBytesPerAttempt is the largest allowed Options.MaxBytesPerAttempt: several attempts fit into a segment.
	MaxBytesPerAttempt = 4 << 20
	// MinMaxSize is the smallest allowed Options.MaxSize: a segment is full while another one is uploaded.
	MinMaxSize = 16 << 20
)

const (
	// attemptOverhead is more than an attempt usually adds to a segment besides its output: headers, name and record.
	attemptOverhead = 4 << 10
	// closeInterval is the time between two tries to end the file of a segment.
	closeInterval = 30 * time.Second
	// maxAge is how long a segment stays open.
	maxAge = 10 * time.Minute
	// maxOpen is how many segments are open at a time.
	maxOpen = 64
	// maxUnarchived is the maximum length of status.unarchived of a Worker.
	maxUnarchived = 64
	// announceInterval is the time between two signals of Changed, after announceBurst of them.
	announceInterval, announceBurst = time.Second, 5
	// lockInterval is the time between two tries to lock a directory that another process uses.
	lockInterval = time.Second

	segmentExt = ".zip"
	recordsExt = ".records"
	refusedDir = "refused"
	lockFile   = "lock"
)

// Options configure a Spool.
type Options struct {
	// Dir is the directory, created if necessary. A process that finds another one using it waits until that has ended.
	Dir string
	// MaxBytesPerAttempt is how many bytes of the output of an attempt are kept, at its end. The spool keeps less if the
	// server accepts less.
	MaxBytesPerAttempt int64
	// MaxSize is roughly how many bytes are kept in total. The oldest segments that are ended are removed first.
	MaxSize int64
	// Retention is how long segments are kept that the server refuses, and those for which there is no archive any more.
	Retention time.Duration
	// Worker is the name of the Worker, and Archiver sends its segments.
	Worker   string
	Archiver Archiver
	// Metrics may be nil. Workers that share one are counted together.
	Metrics *Metrics
}

// phase is the state of a segment. Only Spool.transition changes it.
//
//	phase      event                             next
//	open       full, old, its set released,      closing
//	           least recently used, spool stops
//	closing    file ended and synced             pending
//	           file cannot be ended              closing (retried until the spool stops)
//	           file has no attempt, or removed   gone
//	pending    next in order                     uploading
//	           spool full, retention passed      gone (dropped)
//	uploading  stored                            gone (sent)
//	           refused                           gone (moved to refused)
//	           failed, or no archive             pending
type phase int

const (
	phaseOpen phase = iota
	phaseClosing
	phasePending
	phaseUploading
	phaseGone
)

// unsent is a segment that is not in the archive yet.
type unsent struct {
	name        string // of the file
	set         types.UID
	incarnation string
	number      int64

	// The mutex of the spool guards these.
	phase    phase
	size     int64
	since    time.Time           // when it was opened; of an earlier process: when its file was last changed
	lastUse  int64               // of the segment among the open ones
	failures int                 // of uploads
	expiry   *time.Timer         // ends it when it is old; nil if it is not open
	tasks    map[uint64]struct{} // hashes of the UIDs of its tasks; nil if they are unknown

	mu     sync.Mutex
	writer writer // nil once it has ended
}

// writer is a segment.Writer.
type writer interface {
	Add(record *batch.TaskRecord, output []byte) error
	Size() int64
	Len() int
	Snapshot() (*segment.Reader, error)
	Close() error
}

// refused is a segment that the server has refused.
type refused struct {
	name  string
	size  int64
	since time.Time
}

// Spool keeps finished attempts until they are in the archive. It is safe for concurrent use. A nil Spool keeps
// nothing.
type Spool struct {
	options Options
	create  func(path string) (writer, error)
	seed    maphash.Seed
	lookups chan struct{} // has an element for each look-up that runs

	announced chan struct{} // of Changed
	stopping  chan struct{} // closed by Stop
	// maxBytesPerAttempt is Options.MaxBytesPerAttempt, or less if the server accepts less.
	maxBytesPerAttempt atomic.Int64
	uploads            sync.WaitGroup
	closers            sync.WaitGroup
	cancel             context.CancelFunc // of uploads; nil until Start
	// denials are the answers in a row that forbid the question whether there is an archive. Only ask uses it.
	denials int

	mu          sync.Mutex
	lock        *os.File // whose lock reserves the directory; nil while another process has it
	incarnation string
	archive     archiveState
	stopped     bool // no attempts are accepted any more
	drained     bool // and no segment is closing
	failing     bool // the last attempt could not be written
	next        int64
	uses        int64
	total       int64 // bytes of segments and refused
	segments    []*unsent
	open        map[types.UID]*unsent
	sets        map[types.UID]int      // segments of each set
	expected    map[types.UID]struct{} // sets between Expect and Release
	refused     []refused
	changed     chan struct{} // closed when segments, archive or drained change
	// uploadFailures counts the failed uploads in a row. After one, none starts before resumeUploads. away is true if the
	// last one failed without a Retry-After of the server.
	uploadFailures int
	resumeUploads  time.Time
	away           bool
	announce       *time.Timer // of the next signal of Changed; nil if none is due
	announcements  *rate.Limiter
}

// Open opens the spool in a directory, and recovers the segments that earlier processes have left.
func Open(options Options) (*Spool, error) {
	switch {
	case options.MaxBytesPerAttempt < 0 || options.MaxBytesPerAttempt > MaxBytesPerAttempt:
		return nil, fmt.Errorf("an attempt may keep 0 to %d bytes in the archive, not %d", MaxBytesPerAttempt, options.MaxBytesPerAttempt)
	case options.MaxSize < MinMaxSize:
		return nil, fmt.Errorf("a spool must be allowed to keep %d bytes or more, not %d", MinMaxSize, options.MaxSize)
	}
	if options.Metrics == nil {
		options.Metrics = NewMetrics(nil)
	}
	if err := os.MkdirAll(filepath.Join(options.Dir, refusedDir), 0o700); err != nil {
		return nil, err
	}
	s := &Spool{
		options:   options,
		create:    func(path string) (writer, error) { return segment.Create(path) },
		seed:      maphash.MakeSeed(),
		lookups:   make(chan struct{}, maxLookups),
		announced: make(chan struct{}, 1),
		stopping:  make(chan struct{}),
		open:      map[types.UID]*unsent{},
		sets:      map[types.UID]int{},
		expected:  map[types.UID]struct{}{},
		changed:   make(chan struct{}),

		announcements: rate.NewLimiter(rate.Every(announceInterval), announceBurst),
	}
	s.maxBytesPerAttempt.Store(options.MaxBytesPerAttempt)
	if _, err := s.acquire(); err != nil {
		return nil, err
	}
	options.Metrics.unsent.add(s)
	return s, nil
}

// acquire locks the directory and reads it. It returns false while another process has the lock.
func (s *Spool) acquire() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		return true, nil
	}
	lock, err := os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	s.lock = lock
	if err := s.loadLocked(); err != nil {
		s.lock = nil
		return false, errors.Join(err, lock.Close())
	}
	return true, nil
}

// segmentName matches the name of a segment: its set, incarnation and number.
var segmentName = regexp.MustCompile(`^(tasks|[0-9a-f-]{36})_([0-9A-Za-z-]{1,128})_([0-9]{1,18})\.zip$`)

// loadLocked reads the directory, and recovers segments that were open. s.mu must be held.
func (s *Spool) loadLocked() error {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		match := segmentName.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		seg := &unsent{name: entry.Name(), incarnation: match[2], phase: phasePending}
		if match[1] != batch.WorkerTasksWithoutSet {
			seg.set = types.UID(match[1])
		}
		seg.number, _ = strconv.ParseInt(match[3], 10, 64)
		n, err := segment.Recover(s.path(seg.name))
		if err != nil {
			klog.Background().Error(err, "Failed to recover output that is not in the archive yet; the file is left", "file", s.path(seg.name))
			continue
		}
		if n == 0 {
			continue
		}
		info, err := os.Stat(s.path(seg.name))
		if err != nil {
			return err
		}
		seg.size, seg.since = info.Size(), info.ModTime()
		s.addLocked(seg)
	}
	slices.SortStableFunc(s.segments, func(a, b *unsent) int { return a.since.Compare(b.since) })
	for _, entry := range entries {
		// A segment whose sidecar file is left alone has lost its own.
		name, isSidecar := strings.CutSuffix(entry.Name(), recordsExt)
		if isSidecar && segmentName.MatchString(name) && !exists(s.path(name)) {
			_ = os.Remove(s.path(entry.Name()))
		}
	}
	if entries, err = os.ReadDir(s.path(refusedDir)); err != nil {
		return err
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && segmentName.MatchString(entry.Name()) {
			s.refused = append(s.refused, refused{entry.Name(), info.Size(), info.ModTime()})
			s.total += info.Size()
		}
	}
	slices.SortFunc(s.refused, func(a, b refused) int { return a.since.Compare(b.since) })
	s.makeRoomLocked(0)
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// path returns the path of a file of the spool.
func (s *Spool) path(name string) string { return filepath.Join(s.options.Dir, name) }

// Close releases the directory. What is not sent stays in it. Stop must have returned if Start was called.
func (s *Spool) Close() {
	if s == nil {
		return
	}
	s.options.Metrics.unsent.remove(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.announce != nil {
		s.announce.Stop()
	}
	if s.lock != nil {
		_ = s.lock.Close()
		s.lock = nil
	}
}

// addLocked adds a segment. s.mu must be held.
func (s *Spool) addLocked(seg *unsent) {
	s.segments = append(s.segments, seg)
	s.total += seg.size
	s.sets[seg.set]++
	if _, expected := s.expected[seg.set]; seg.set != "" && s.sets[seg.set] == 1 && !expected {
		s.announceLocked()
	}
	s.notifyLocked()
}

// transition changes the phase of a segment, and all that depends on it. s.mu must be held.
func (s *Spool) transition(seg *unsent, to phase) {
	if seg.phase == phaseOpen {
		seg.expiry.Stop()
		delete(s.open, seg.set)
	}
	seg.phase = to
	if to == phaseGone {
		s.segments = slices.DeleteFunc(s.segments, func(other *unsent) bool { return other == seg })
		s.total -= seg.size
		if s.sets[seg.set]--; s.sets[seg.set] == 0 {
			delete(s.sets, seg.set)
		}
	}
	s.notifyLocked()
}

// notifyLocked wakes those who wait for a change. s.mu must be held.
func (s *Spool) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that has an element when Unarchived has got another set. It has none when a set has left.
func (s *Spool) Changed() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.announced
}

// announceLocked sends a signal to Changed, now or when announcements allow it. s.mu must be held.
func (s *Spool) announceLocked() {
	if s.announce != nil {
		return
	}
	signal := func() {
		select {
		case s.announced <- struct{}{}:
		default:
		}
	}
	wait := s.announcements.Reserve().Delay()
	if wait == 0 {
		signal()
		return
	}
	s.announce = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.announce = nil
		signal()
	})
}

// Unarchived returns the UIDs of the sets with attempts that are not in the archive yet, and of those that are
// expected, in ascending order. If there are too many for the status of a Worker, it returns those with the newest
// segments, and others if there is room.
func (s *Spool) Unarchived() []types.UID {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var sets []types.UID
	for _, seg := range slices.Backward(s.segments) {
		if len(sets) == maxUnarchived {
			break
		}
		if seg.set != "" && !slices.Contains(sets, seg.set) {
			sets = append(sets, seg.set)
		}
	}
	if s.archive == archiveAvailable {
		for _, set := range slices.Sorted(maps.Keys(s.expected)) {
			if len(sets) < maxUnarchived && !slices.Contains(sets, set) {
				sets = append(sets, set)
			}
		}
	}
	slices.Sort(sets)
	return sets
}

// errEnded is returned by unsent.add if the segment takes no more attempts.
var errEnded = errors.New("the segment has ended")

// Add keeps a finished attempt, until it is in the archive. set is the UID of its TaskSet, empty without one. output is
// the kept end of what the command has printed; Add does not retain it. It reports whether the attempt is kept: if not,
// the caller keeps the output where it was.
func (s *Spool) Add(set types.UID, record *batch.TaskRecord, output []byte) bool {
	if s == nil || set != "" && !segment.IsUID(string(set)) {
		return false
	}
	if excess := int64(len(output)) - s.maxBytesPerAttempt.Load(); excess > 0 {
		output = output[excess:]
		record = record.DeepCopy()
		record.MissingBytes = min(record.MissingBytes+excess, record.OutputBytes) // lines about missing output are no part of it
	}
	for {
		seg, err := s.segmentFor(set, int64(len(output)))
		if seg == nil {
			s.reportWrite(err)
			return false
		}
		size, err := seg.add(record, output)
		switch {
		case errors.Is(err, errEnded):
			s.end(seg)
		case err != nil:
			s.reportWrite(err)
			return false
		default:
			s.written(seg, record.TaskUID, size)
			return true
		}
	}
}

// add appends an attempt, and returns the size of the segment.
func (seg *unsent) add(record *batch.TaskRecord, output []byte) (int64, error) {
	seg.mu.Lock()
	defer seg.mu.Unlock()
	if seg.writer == nil {
		return 0, errEnded
	}
	err := seg.writer.Add(record, output)
	if (errors.Is(err, segment.ErrFull) || errors.Is(err, segment.ErrDuplicate)) && seg.writer.Len() > 0 {
		return 0, errEnded
	}
	return seg.writer.Size(), err
}

// segmentFor returns the open segment of a set, and opens one if necessary. It returns nil, and maybe an error, if
// attempts are not accepted.
func (s *Spool) segmentFor(set types.UID, output int64) (*unsent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.archive != archiveAvailable {
		return nil, nil
	}
	if !s.makeRoomLocked(output + attemptOverhead) {
		return nil, fmt.Errorf("the spool has %d bytes, and may have %d", s.total, s.options.MaxSize)
	}
	s.uses++
	if seg := s.open[set]; seg != nil {
		seg.lastUse = s.uses
		return seg, nil
	}
	if len(s.open) >= maxOpen {
		s.endLocked(s.leastRecentlyUsedLocked())
	}
	s.next++
	seg := &unsent{
		name: fileName(set, s.incarnation, s.next), set: set, incarnation: s.incarnation, number: s.next,
		since: time.Now(), lastUse: s.uses, tasks: map[uint64]struct{}{},
	}
	var err error
	if seg.writer, err = s.create(s.path(seg.name)); err != nil {
		return nil, err
	}
	seg.expiry = time.AfterFunc(maxAge, func() { s.end(seg) })
	s.open[set] = seg
	s.addLocked(seg)
	return seg, nil
}

func fileName(set types.UID, incarnation string, number int64) string {
	if set == "" {
		set = batch.WorkerTasksWithoutSet
	}
	return fmt.Sprintf("%s_%s_%d%s", set, incarnation, number, segmentExt)
}

// leastRecentlyUsedLocked returns the open segment whose last attempt is the oldest. s.mu must be held.
func (s *Spool) leastRecentlyUsedLocked() *unsent {
	var least *unsent
	for _, seg := range s.open {
		if least == nil || seg.lastUse < least.lastUse {
			least = seg
		}
	}
	return least
}

// written records an attempt that was added to a segment.
func (s *Spool) written(seg *unsent, task types.UID, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.tasks[s.hash(task)] = struct{}{}
	if seg.phase <= phaseClosing {
		s.total += size - seg.size
		seg.size = size
	}
	if s.failing {
		s.failing = false
		klog.Background().Info("Output of tasks is kept for the archive again")
	}
}

// reportWrite logs that an attempt could not be kept, once until one is kept again. err may be nil.
func (s *Spool) reportWrite(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || s.failing {
		return
	}
	s.failing = true
	klog.Background().Error(err, "Cannot keep the output of tasks for the archive; it stays in the logs of the worker")
}

func (s *Spool) hash(task types.UID) uint64 { return maphash.String(s.seed, string(task)) }

// MaxBytesPerAttempt returns how many bytes of the output of an attempt are kept at most. It changes with the limit of
// the server.
func (s *Spool) MaxBytesPerAttempt() int64 { return s.maxBytesPerAttempt.Load() }

// Expect announces a set: the worker has tasks of it. So the worker is known as one with output of the set before the
// first of them has ended.
func (s *Spool) Expect(set types.UID) {
	if s == nil || !segment.IsUID(string(set)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, expected := s.expected[set]; expected {
		return
	}
	s.expected[set] = struct{}{}
	if s.archive == archiveAvailable && s.sets[set] == 0 {
		s.announceLocked()
	}
}

// Release ends the segment of a set: the worker has no more tasks of it.
func (s *Spool) Release(set types.UID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.expected, set)
	if seg := s.open[set]; seg != nil && set != "" {
		s.endLocked(seg)
	}
}

// end ends a segment, unless it has ended.
func (s *Spool) end(seg *unsent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(seg)
}

// endLocked ends a segment, unless it has ended. It does not wait for the disk. s.mu must be held.
func (s *Spool) endLocked(seg *unsent) {
	if seg.phase != phaseOpen {
		return
	}
	s.transition(seg, phaseClosing)
	s.closers.Go(func() { s.close(seg) })
}

// close ends the file of a segment, and retries until that succeeds or the spool stops.
func (s *Spool) close(seg *unsent) {
	for failed := false; ; failed = true {
		size, err := seg.close(s.path(seg.name))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			s.closed(seg, size)
			return
		}
		if !failed {
			klog.Background().Error(err, "Failed to end a file for the archive; retrying", "file", s.path(seg.name))
		}
		timer := time.NewTimer(closeInterval)
		select {
		case <-timer.C:
		case <-s.stopping:
			timer.Stop()
			return // the next process recovers the file
		}
	}
}

// closed records the size of a segment whose file has ended: 0 if there is no file any more.
func (s *Spool) closed(seg *unsent, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += size - seg.size
	seg.size = size
	if size == 0 {
		s.transition(seg, phaseGone)
	} else {
		s.transition(seg, phasePending)
	}
}

// close ends the file of a segment, and returns its size: 0 if it had no attempts and was removed. After an error, the
// next call ends what is whole.
func (seg *unsent) close(path string) (int64, error) {
	seg.mu.Lock()
	defer seg.mu.Unlock()
	attempts := 0
	var err error
	if seg.writer != nil {
		attempts, err = seg.writer.Len(), seg.writer.Close()
		seg.writer = nil
	} else {
		attempts, err = segment.Recover(path)
	}
	if err != nil || attempts == 0 {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makeRoomLocked removes refused segments and then pending ones, the oldest first, until there is room for so many
// bytes. It reports whether there is. s.mu must be held.
func (s *Spool) makeRoomLocked(bytes int64) bool {
	for s.total+bytes > s.options.MaxSize {
		if len(s.refused) > 0 {
			s.removeRefusedLocked()
			continue
		}
		i := slices.IndexFunc(s.segments, func(seg *unsent) bool { return seg.phase == phasePending })
		if i < 0 {
			return false
		}
		s.dropLocked(s.segments[i], "the spool is full")
	}
	return true
}

// dropLocked removes a pending segment. s.mu must be held.
func (s *Spool) dropLocked(seg *unsent, why string) {
	klog.Background().Error(nil, "Removed output that is not in the archive: "+why, "file", seg.name, "bytes", seg.size,
		"age", time.Since(seg.since).Round(time.Second))
	s.options.Metrics.droppedBytes.Add(float64(seg.size))
	s.removeFile(seg.name)
	s.transition(seg, phaseGone)
}

// removeRefusedLocked removes the oldest refused segment. s.mu must be held.
func (s *Spool) removeRefusedLocked() {
	first := s.refused[0]
	s.removeFile(filepath.Join(refusedDir, first.name))
	s.total -= first.size
	s.refused = s.refused[1:]
}

// removeFile removes a file if it exists.
func (s *Spool) removeFile(name string) {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.Background().Error(err, "Failed to remove a file of the spool")
	}
}

// expire removes refused segments whose retention has passed and, while there is no archive, pending ones.
func (s *Spool) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.refused) > 0 && time.Since(s.refused[0].since) > s.options.Retention {
		s.removeRefusedLocked()
	}
	if s.archive != archiveNone {
		return
	}
	for _, seg := range slices.Clone(s.segments) {
		if seg.phase == phasePending && time.Since(seg.since) > s.options.Retention {
			s.dropLocked(seg, "there has been no archive for the retention of logs")
		}
	}
}

// jittered returns a random duration between half of d and d.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
