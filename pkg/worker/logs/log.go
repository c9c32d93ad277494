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
	"fmt"
	"os"
	"sync"
	"time"

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
	failed    bool          // no more is kept
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

// Write keeps p. It never fails, lest the command does: when the disk does, what has come so far is kept.
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
		if !l.append(head, now) {
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

// append writes p to the last piece. It is false if nothing more is kept.
func (l *Log) append(p []byte, now int64) bool {
	l.mu.Lock()
	gone := l.discarded || l.failed
	l.mu.Unlock()
	if gone {
		return false
	}
	if l.file == nil {
		file, err := l.create(l.last.n, logExt)
		if err != nil {
			return l.fail(err)
		}
		l.file, l.last.first, l.lastEntry = file, now, now
	}
	var entries []byte
	if now != l.lastEntry {
		// Until there is a second entry, the first one goes without saying.
		if l.last.entries == 0 {
			entries = appendEntry(entries, 0, l.last.first)
		}
		entries = appendEntry(entries, l.last.size, now)
		if err := l.writeIndex(entries); err != nil {
			return l.fail(err)
		}
	}
	if _, err := l.file.Write(p); err != nil {
		return l.fail(err)
	}
	l.last.size += int64(len(p))
	l.last.entries += len(entries) / entrySize
	l.midLine, l.lastEntry = p[len(p)-1] != '\n', now
	l.publish()
	if l.store.full() {
		l.store.makeRoom()
		if l.store.full() {
			l.keepLast(1)
		}
	}
	return true
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
	_, err = l.index.Write(entries)
	return err
}

func (l *Log) create(n int, ext string) (*os.File, error) {
	return os.OpenFile(l.store.path(l.name(n, ext)), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
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

// fail keeps no more, and is false.
func (l *Log) fail(err error) bool {
	klog.Background().Error(err, "The rest of a task's output is not kept", "uid", l.uid, "attempt", l.attempt)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = true
	return false
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
	l.closeFiles()
	l.mu.Lock()
	l.ended, l.endedAt = true, time.Now()
	silent := len(l.pieces) == 0
	l.tell()
	l.mu.Unlock()
	l.store.end(l, silent)
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
