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
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/worker/attempt"
)

const (
	logExt   = ".log"
	indexExt = ".idx"
	// entrySize is the size of an index entry: an offset in the log file, and the time of the output that starts
	// there in milliseconds since 1970. Both are big-endian numbers of 8 bytes.
	entrySize = 16
)

// Log is the output of one attempt. One goroutine writes and closes it; any number may read it concurrently. A nil Log
// discards everything.
//
// The first output is in memory, which is moved to the first segment's files: see memory.
type Log struct {
	store    *Store
	id       attempt.ID
	created  time.Time
	queue    *[]*Log // the list of the store that has this log once it has ended; guarded by store.mu
	released bool    // to be removed once nobody reads the task; guarded by store.mu

	// writing is held while the log is written, moved to files or closed. It is locked before store.mu and mu, and
	// guards the fields up to mu.
	writing     sync.Mutex
	buffered    bool        // what is written goes to memory
	move        *time.Timer // moves memory to files when it is due; nil until something is written to memory
	last        segment
	file, index *os.File // of the last segment; nil unless open
	midLine     bool     // the last write did not end a line
	lastEntry   int64    // time of the last entry
	printed     int64    // bytes that were written to the log, kept or not

	mu        sync.Mutex
	memory    *memory // holds the only segment; nil if that is in files, or there is none
	segments  []segment
	accounted int64 // bytes that the store counts for this log
	ended     bool
	endedAt   time.Time
	discarded bool
	missing   int64         // bytes at the end that were not kept, and that no line in the files mentions yet
	cause     error         // why they were not kept; nil if none are missing
	changed   chan struct{} // closed when there is more to read, or the log has ended; nil if nobody waits
}

// segment is one file of a log.
type segment struct {
	n       int
	start   int64 // offset in the output
	size    int64
	entries int   // in the index; with none, all output has the time first
	first   int64 // in milliseconds since 1970
	notices int64 // bytes of lines that report missing output; zero if an earlier process has written it
}

func (s segment) end() int64       { return s.start + s.size }
func (s segment) diskUsage() int64 { return overhead + s.bytes() }

// bytes returns the size of the file and its index.
func (s segment) bytes() int64 { return s.size + int64(s.entries)*entrySize }

// Attempt returns the number of the attempt, from 1 up.
func (l *Log) Attempt() int32 { return l.id.Number }

func (l *Log) name(n int, ext string) string {
	return fmt.Sprintf("%s.%d.%d%s", l.id.Target(), l.id.Number, n, ext)
}

// Write keeps p. It never returns an error, which would end the command. Bytes that cannot be kept, for example because
// the disk is full, are counted, and a line in the output reports how many are missing.
func (l *Log) Write(p []byte) (int, error) {
	n := len(p)
	if l == nil || n == 0 {
		return n, nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.printed += int64(n)
	now := time.Now()
	if l.buffered && !l.fitsMemory(n, now) {
		l.moveToFiles()
	}
	for len(p) > 0 {
		head := l.fitting(p)
		if len(head) == 0 {
			l.rotate()
			continue
		}
		if err := l.append(head, now.UnixMilli()); err != nil {
			l.recordMissing(int64(len(p)), err)
			break
		}
		p = p[len(head):]
	}
	return n, nil
}

// fitting returns the part of p that fits into the last segment: whole lines, and the rest of a line that the segment
// has begun. A line is divided only if it is longer than the reserve of a segment. It returns nil if the next segment
// is due.
func (l *Log) fitting(p []byte) []byte {
	room := l.room()
	if int64(len(p)) <= room {
		return p
	}
	if i := bytes.LastIndexByte(p[:max(0, room)], '\n'); i >= 0 {
		return p[:i+1]
	}
	if !l.midLine && l.last.size > 0 {
		return nil
	}
	// The line goes on in the reserve.
	room = max(0, room+l.reserve())
	rest := p[:min(room, int64(len(p)))]
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i+1]
	}
	return rest
}

// reserve returns how many bytes of a segment are reserved for the end of a line.
func (l *Log) reserve() int64 { return l.store.options.MaxSize / maxSegments / 8 }

// room returns how many bytes fit into the last segment without its reserve.
func (l *Log) room() int64 {
	return l.store.options.MaxSize/maxSegments - l.reserve() - l.last.bytes() - 2*entrySize
}

// append writes p to the last segment. If output before p is missing, it first writes a line that reports it.
func (l *Log) append(p []byte, now int64) error {
	if l.isRemoved() {
		l.dropRemoved()
	}
	l.mu.Lock()
	discarded, missing := l.discarded, l.missing > 0
	l.mu.Unlock()
	if discarded {
		return nil
	}
	if missing {
		if err := l.writeMissingLine(now); err != nil {
			return err
		}
	}
	if err := l.writeSegment(p, now); err != nil {
		return err
	}
	if !l.buffered {
		l.makeRoom()
	}
	return nil
}

// makeRoom removes what was kept for longest if the store is full.
func (l *Log) makeRoom() {
	if l.store.full() {
		l.store.evict()
		if l.store.full() {
			l.keepLast(1)
		}
	}
}

// writeSegment writes all of p to the last segment, or nothing.
func (l *Log) writeSegment(p []byte, now int64) error {
	if l.last.size == 0 {
		l.last.first, l.lastEntry = now, now
	}
	var entries []byte
	if now != l.lastEntry {
		// The first entry is implicit until there is a second one.
		if l.last.entries == 0 {
			entries = appendEntry(entries, 0, l.last.first)
		}
		entries = appendEntry(entries, l.last.size, now)
	}
	if l.buffered {
		l.writeMemory(p, entries)
	} else if err := l.writeFiles(l.last, p, entries); err != nil {
		return err
	}
	l.last.size += int64(len(p))
	l.last.entries += len(entries) / entrySize
	l.midLine, l.lastEntry = p[len(p)-1] != '\n', now
	l.publish()
	return nil
}

// writeFiles appends p and its entries to the files of a segment, all of them or nothing. It writes at explicit
// offsets, and so overwrites what an earlier call has written in part.
func (l *Log) writeFiles(to segment, p, entries []byte) (err error) {
	if l.file == nil {
		if l.file, err = l.create(to.n, logExt); err != nil {
			return err
		}
	}
	if len(entries) > 0 {
		if err := l.writeIndex(to, entries); err != nil {
			return err
		}
	}
	if _, err := l.file.WriteAt(p, to.size); err != nil {
		_ = l.file.Truncate(to.size)
		return err
	}
	return nil
}

// recordMissing counts bytes that cannot be kept.
func (l *Log) recordMissing(n int64, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 {
		return
	}
	if l.missing == 0 {
		klog.Background().Error(cause, "Cannot keep the output of a task", "attempt", l.id)
	}
	l.missing, l.cause = l.missing+n, cause
}

// Missing returns why the last bytes were not kept, or nil if they were.
func (l *Log) Missing() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// writeMissingLine writes a line that reports what is missing.
func (l *Log) writeMissingLine(now int64) error {
	l.mu.Lock()
	line := missingLine(l.missing, l.cause)
	l.mu.Unlock()
	if l.midLine {
		line = "\n" + line
	}
	l.last.notices += int64(len(line))
	if err := l.writeSegment([]byte(line), now); err != nil {
		l.last.notices -= int64(len(line))
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing, l.cause = 0, nil
	return nil
}

// missingLine returns the line that stands in the place of missing output.
func missingLine(n int64, cause error) string {
	if path := (*fs.PathError)(nil); errors.As(cause, &path) {
		cause = path.Err // users need not know the worker's paths
	}
	return fmt.Sprintf("[leat: %d bytes of output are missing here: %v]\n", n, cause)
}

var (
	errFileRemoved = errors.New("the file with them was removed")
	errEvicted     = errors.New("they had to make room")
)

// isRemoved reports whether somebody has removed the file of the last segment. Further writes to it would be lost.
func (l *Log) isRemoved() bool {
	if l.file == nil {
		return false
	}
	var stat unix.Stat_t
	return unix.Fstat(int(l.file.Fd()), &stat) == nil && stat.Nlink == 0
}

// dropRemoved drops the segments whose files were removed, and starts a new one.
func (l *Log) dropRemoved() {
	l.closeFiles()
	lost := int64(0)
	l.mu.Lock()
	l.segments = slices.DeleteFunc(slices.Clone(l.segments), func(p segment) bool {
		_, err := os.Stat(l.store.path(l.name(p.n, logExt)))
		if gone := errors.Is(err, fs.ErrNotExist); !gone {
			return false
		}
		lost += p.size
		l.removeFiles(p)
		return true
	})
	l.accountLocked()
	l.mu.Unlock()
	l.last, l.midLine = segment{n: l.last.n + 1, start: l.last.end()}, false
	l.recordMissing(lost, errFileRemoved)
}

// publish makes the last segment visible to readers.
func (l *Log) publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.discarded {
		return
	}
	if i := len(l.segments) - 1; i >= 0 && l.segments[i].n == l.last.n {
		l.segments[i] = l.last
	} else {
		l.segments = append(l.segments, l.last)
	}
	l.accountLocked()
	l.notify()
}

func appendEntry(entries []byte, offset, millis int64) []byte {
	entries = binary.BigEndian.AppendUint64(entries, uint64(offset))
	return binary.BigEndian.AppendUint64(entries, uint64(millis))
}

func (l *Log) writeIndex(to segment, entries []byte) (err error) {
	if l.index == nil {
		if l.index, err = l.create(to.n, indexExt); err != nil {
			return err
		}
	}
	_, err = l.index.WriteAt(entries, int64(to.entries)*entrySize)
	return err
}

// create creates a file, and the directory if it was removed.
func (l *Log) create(n int, ext string) (*os.File, error) {
	path := l.store.path(l.name(n, ext))
	const flags = os.O_CREATE | os.O_TRUNC | os.O_WRONLY
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(l.store.options.Dir, 0o700); err == nil {
			file, err = os.OpenFile(path, flags, 0o600)
		}
	}
	return file, err
}

// rotate starts a new segment and removes the oldest if there are too many.
func (l *Log) rotate() {
	l.closeFiles()
	l.last = segment{n: l.last.n + 1, start: l.last.end()}
	l.keepLast(maxSegments - 1)
}

// keepLast removes all segments but the last n.
func (l *Log) keepLast(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.segments) > n {
		l.removeFiles(l.segments[0])
		l.segments = l.segments[1:]
	}
	l.accountLocked()
}

func (l *Log) removeFiles(p segment) {
	err := l.store.removeFile(l.name(p.n, logExt))
	if p.entries > 0 && err == nil {
		err = l.store.removeFile(l.name(p.n, indexExt))
	}
	if err != nil {
		klog.Background().Error(err, "Failed to remove expired output")
	}
}

// accountLocked makes the store count the bytes that the log has on the disk. l.mu must be held.
func (l *Log) accountLocked() {
	bytes := int64(0)
	if l.memory == nil {
		for _, p := range l.segments {
			bytes += p.diskUsage()
		}
	}
	l.store.total.Add(bytes - l.accounted)
	l.accounted = bytes
}

// notify wakes readers that wait for more. l.mu must be held.
func (l *Log) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *Log) closeFiles() {
	for _, file := range []**os.File{&l.file, &l.index} {
		if *file != nil {
			_ = (*file).Close() // nothing is buffered
			*file = nil
		}
	}
}

// Close ends the output. Readers that follow it return.
func (l *Log) Close() {
	if l == nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.close()
}

// close implements Close. l.writing must be held.
func (l *Log) close() {
	if l.hasEnded() {
		return
	}
	if l.buffered {
		l.moveToFiles()
	} else if l.isRemoved() {
		l.dropRemoved()
	}
	if l.Missing() != nil && !l.isDiscarded() && l.writeMissingLine(time.Now().UnixMilli()) != nil {
		l.overwriteEnd()
	}
	l.closeFiles()
	l.mu.Lock()
	l.ended, l.endedAt = true, time.Now()
	empty := len(l.segments) == 0
	l.notify()
	l.mu.Unlock()
	l.store.finish(l, empty)
}

// overwriteEnd replaces the end of the kept output by the line that reports what is missing: a full disk has no room
// for more. Only the next process reads that line; readers in this process stop before it and get the line from
// missing.
func (l *Log) overwriteEnd() {
	l.mu.Lock()
	longest := len("\n") + len(missingLine(l.missing+l.last.size, l.cause))
	l.mu.Unlock()
	if l.file == nil || int64(longest) >= l.last.size {
		return
	}
	l.last.size -= int64(longest)
	l.recordMissing(int64(longest), l.Missing())
	l.publish()
	l.mu.Lock()
	line := "\n" + missingLine(l.missing, l.cause)
	l.mu.Unlock()
	_, err := l.file.WriteAt([]byte(line), l.last.size)
	if err = errors.Join(err, l.file.Truncate(l.last.size+int64(len(line)))); err != nil {
		klog.Background().Error(err, "Failed to report missing output in the output of a task", "attempt", l.id)
	}
}

// Discard removes a log that was not written to.
func (l *Log) Discard() {
	if l == nil {
		return
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.removeLocked(l)
}

// CloseAndRemove ends the output like Close, and removes it. While somebody reads the output of the task, it is kept:
// its readers get all of it.
func (l *Log) CloseAndRemove() {
	if l == nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.store.release(l) {
		l.freeMemory()
	}
	l.close()
}

func (l *Log) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

func (l *Log) isDiscarded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.discarded
}

// discard removes all that is kept. Later writes are discarded.
func (l *Log) discard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.discarded = true
	if l.memory == nil {
		for _, p := range l.segments {
			l.removeFiles(p)
		}
	}
	l.segments = nil
	l.accountLocked()
	l.notify()
}
