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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	logExt   = ".log"
	indexExt = ".idx"
	// entrySize is the size of an entry of an index: an offset in the file beside it, and the time of what begins there, in
	// milliseconds since 1970; both as big-endian numbers of 8 bytes.
	entrySize = 16
)

// Log is the output of one attempt. One goroutine writes and closes it; any number may read it meanwhile. A nil Log keeps nothing.
type Log struct {
	store   *Store
	uid     types.UID
	attempt int32

	// These are the writer's own.
	last        piece
	file, index *os.File // of the last piece; nil unless open
	midLine     bool     // what was written last does not end a line
	lastEntry   int64    // time of the last entry

	mu        sync.Mutex
	pieces    []piece
	charged   int64 // to the store
	ended     bool
	endedAt   time.Time
	discarded bool
	missing   int64         // bytes that came last and are not kept, which no line in the files says yet
	cause     error         // why they are not kept, nil if none are missing
	news      chan struct{} // closed when there is more to read, or no more to come; nil if nobody waits
}

// piece is one file with output.
type piece struct {
	n       int
	start   int64 // where in the output it begins
	size    int64
	entries int   // in the index; with none, all came at first
	first   int64 // in milliseconds since 1970
}

func (p piece) end() int64  { return p.start + p.size }
func (p piece) cost() int64 { return overhead + p.bytes() }

// bytes is the size of the file and its index.
func (p piece) bytes() int64 { return p.size + int64(p.entries)*entrySize }

// Attempt is which attempt the output is of, from 1 up.
func (l *Log) Attempt() int32 { return l.attempt }

func (l *Log) name(n int, ext string) string {
	return fmt.Sprintf("%s.%d.%d%s", l.uid, l.attempt, n, ext)
}

// Write keeps p. It never fails, so that the command does not. Bytes that cannot be kept, since the disk is full for
// example, are counted, and a line in their place says how many are missing.
func (l *Log) Write(p []byte) (int, error) {
	n := len(p)
	if l == nil {
		return n, nil
	}
	now := time.Now().UnixMilli()
	for len(p) > 0 {
		head := l.fitting(p)
		if len(head) == 0 {
			l.rotate()
			continue
		}
		if err := l.append(head, now); err != nil {
			l.lose(int64(len(p)), err)
			break
		}
		p = p[len(head):]
	}
	return n, nil
}

// fitting is how much of p goes into the piece that is being written: whole lines, unless one is longer than a piece. None: the next
// piece is due.
func (l *Log) fitting(p []byte) []byte {
	room := l.store.options.MaxSize/pieces - l.last.bytes() - 2*entrySize
	if int64(len(p)) <= room {
		return p
	}
	if room <= 0 {
		return nil
	}
	if i := bytes.LastIndexByte(p[:room], '\n'); i >= 0 {
		return p[:i+1]
	}
	if l.midLine || l.last.size == 0 {
		return p[:room]
	}
	return nil
}

// append writes p to the last piece, after a line about what is missing before it.
func (l *Log) append(p []byte, now int64) error {
	if l.removed() {
		l.abandon()
	}
	l.mu.Lock()
	discarded, missing := l.discarded, l.missing > 0
	l.mu.Unlock()
	if discarded {
		return nil
	}
	if missing {
		if err := l.explain(now); err != nil {
			return err
		}
	}
	if err := l.put(p, now); err != nil {
		return err
	}
	if l.store.full() {
		l.store.makeRoom()
		if l.store.full() {
			l.keepLast(1)
		}
	}
	return nil
}

// put writes all of p to the last piece, or nothing. All is written to where it belongs by the piece, so that what an
// earlier call has left half done is overwritten.
func (l *Log) put(p []byte, now int64) (err error) {
	if l.file == nil {
		if l.file, err = l.create(l.last.n, logExt); err != nil {
			return err
		}
	}
	if l.last.size == 0 {
		l.last.first, l.lastEntry = now, now
	}
	var entries []byte
	if now != l.lastEntry {
		// Until there is a second entry, the first one goes without saying.
		if l.last.entries == 0 {
			entries = appendEntry(entries, 0, l.last.first)
		}
		entries = appendEntry(entries, l.last.size, now)
		if err := l.writeIndex(entries); err != nil {
			return err
		}
	}
	if _, err := l.file.WriteAt(p, l.last.size); err != nil {
		_ = l.file.Truncate(l.last.size)
		return err
	}
	l.last.size += int64(len(p))
	l.last.entries += len(entries) / entrySize
	l.midLine, l.lastEntry = p[len(p)-1] != '\n', now
	l.publish()
	return nil
}

// lose counts bytes that cannot be kept.
func (l *Log) lose(n int64, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 {
		return
	}
	if l.missing == 0 {
		klog.Background().Error(cause, "Cannot keep the output of a task", "uid", l.uid, "attempt", l.attempt)
	}
	l.missing, l.cause = l.missing+n, cause
}

// Missing returns why the bytes that came last are not kept, nil if they are.
func (l *Log) Missing() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// explain keeps a line that says what is missing.
func (l *Log) explain(now int64) error {
	l.mu.Lock()
	line := missingLine(l.missing, l.cause)
	l.mu.Unlock()
	if l.midLine {
		line = "\n" + line
	}
	if err := l.put([]byte(line), now); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing, l.cause = 0, nil
	return nil
}

// missingLine is the line for people, in the place of output that is not kept.
func missingLine(n int64, cause error) string {
	if path := (*fs.PathError)(nil); errors.As(cause, &path) {
		cause = path.Err // where files of the worker are is nothing to tell
	}
	return fmt.Sprintf("[leat: %d bytes of output are missing here: %v]\n", n, cause)
}

var (
	errFileRemoved = errors.New("the file with them was removed")
	errMadeRoom    = errors.New("they had to make room")
)

// removed reports whether somebody has removed the file of the last piece. What is written to it is lost.
func (l *Log) removed() bool {
	if l.file == nil {
		return false
	}
	var stat unix.Stat_t
	return unix.Fstat(int(l.file.Fd()), &stat) == nil && stat.Nlink == 0
}

// abandon forgets the pieces whose files are gone, and begins another one.
func (l *Log) abandon() {
	l.closeFiles()
	lost := int64(0)
	l.mu.Lock()
	l.pieces = slices.DeleteFunc(slices.Clone(l.pieces), func(p piece) bool {
		_, err := os.Stat(l.store.path(l.name(p.n, logExt)))
		if gone := errors.Is(err, fs.ErrNotExist); !gone {
			return false
		}
		lost += p.size
		l.charge(-p.cost())
		l.removeFiles(p)
		return true
	})
	l.mu.Unlock()
	l.last, l.midLine = piece{n: l.last.n + 1, start: l.last.end()}, false
	l.lose(lost, errFileRemoved)
}

// publish shows readers the last piece as it is.
func (l *Log) publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.discarded {
		return
	}
	if i := len(l.pieces) - 1; i >= 0 && l.pieces[i].n == l.last.n {
		l.charge(l.last.cost() - l.pieces[i].cost())
		l.pieces[i] = l.last
	} else {
		l.charge(l.last.cost())
		l.pieces = append(l.pieces, l.last)
	}
	l.tell()
}

func appendEntry(entries []byte, offset, millis int64) []byte {
	entries = binary.BigEndian.AppendUint64(entries, uint64(offset))
	return binary.BigEndian.AppendUint64(entries, uint64(millis))
}

func (l *Log) writeIndex(entries []byte) (err error) {
	if l.index == nil {
		if l.index, err = l.create(l.last.n, indexExt); err != nil {
			return err
		}
	}
	_, err = l.index.WriteAt(entries, int64(l.last.entries)*entrySize)
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

// rotate ends the last piece, so that the next one begins with what is written next, and makes room for it.
func (l *Log) rotate() {
	l.closeFiles()
	l.last = piece{n: l.last.n + 1, start: l.last.end()}
	l.keepLast(pieces - 1)
}

// keepLast drops all but so many pieces, the first ones.
func (l *Log) keepLast(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pieces) > n {
		l.charge(-l.pieces[0].cost())
		l.removeFiles(l.pieces[0])
		l.pieces = l.pieces[1:]
	}
}

func (l *Log) removeFiles(p piece) {
	err := l.store.removeFile(l.name(p.n, logExt))
	if p.entries > 0 && err == nil {
		err = l.store.removeFile(l.name(p.n, indexExt))
	}
	if err != nil {
		klog.Background().Error(err, "Output that is not kept any more cannot be removed")
	}
}

// charge notes how much more is kept. It must be called with the lock.
func (l *Log) charge(bytes int64) {
	l.charged += bytes
	l.store.total.Add(bytes)
}

// tell wakes those who wait for more. It must be called with the lock.
func (l *Log) tell() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

func (l *Log) closeFiles() {
	for _, file := range []**os.File{&l.file, &l.index} {
		if *file != nil {
			_ = (*file).Close() // all was written
			*file = nil
		}
	}
}

// Close ends the output. Readers come to its end.
func (l *Log) Close() {
	if l == nil {
		return
	}
	if l.removed() {
		l.abandon()
	}
	if l.Missing() != nil && !l.isDiscarded() && l.explain(time.Now().UnixMilli()) != nil {
		l.scar()
	}
	l.closeFiles()
	l.mu.Lock()
	l.ended, l.endedAt = true, time.Now()
	silent := len(l.pieces) == 0
	l.tell()
	l.mu.Unlock()
	l.store.end(l, silent)
}

// scar writes the line about what is missing over the end of what is kept, for which a full disk has room. It is for
// the next process: readers in this one come to the end before it, and are told by missing.
func (l *Log) scar() {
	l.mu.Lock()
	longest := len("\n") + len(missingLine(l.missing+l.last.size, l.cause))
	l.mu.Unlock()
	if l.file == nil || int64(longest) >= l.last.size {
		return
	}
	l.last.size -= int64(longest)
	l.lose(int64(longest), l.Missing())
	l.publish()
	l.mu.Lock()
	line := "\n" + missingLine(l.missing, l.cause)
	l.mu.Unlock()
	_, err := l.file.WriteAt([]byte(line), l.last.size)
	if err = errors.Join(err, l.file.Truncate(l.last.size+int64(len(line)))); err != nil {
		klog.Background().Error(err, "Cannot say in the output of a task that some is missing", "uid", l.uid, "attempt", l.attempt)
	}
}

// Discard forgets an output that was not begun.
func (l *Log) Discard() {
	if l == nil {
		return
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.remove(l)
}

func (l *Log) isDiscarded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.discarded
}

// discard deletes all that is kept. Of what is written later nothing is kept.
func (l *Log) discard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.discarded = true
	for _, p := range l.pieces {
		l.removeFiles(p)
	}
	l.charge(-l.charged)
	l.pieces = nil
	l.tell()
}
