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
	"io"
	"os"
	"sync"
	"time"
)

const (
	// memorySize is how much output of a running attempt may be in memory, in bytes.
	memorySize = 64 << 10
	// memoryTime is how long the output of a running attempt may be in memory.
	memoryTime = time.Second
)

// memory holds the first output of an attempt: the content of the first segment, and of its index. It is moved to files
// when the output does not fit, memoryTime after the start of the attempt, and at its end.
type memory struct {
	content, index []byte
}

// memories holds those that are not used.
var memories = sync.Pool{New: func() any { return &memory{content: make([]byte, 0, memorySize)} }}

// fitsMemory reports whether n more bytes may be in memory.
func (l *Log) fitsMemory(n int, now time.Time) bool {
	return now.Sub(l.created) < memoryTime && int64(n) <= min(l.store.memorySize-l.last.size, l.room())
}

// writeMemory appends p and its entries to the memory.
func (l *Log) writeMemory(p, entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.discarded {
		return
	}
	if l.memory == nil {
		l.memory = memories.Get().(*memory)
		l.move = time.AfterFunc(memoryTime-time.Since(l.created), func() {
			l.writing.Lock()
			defer l.writing.Unlock()
			if l.buffered {
				l.moveToFiles()
			}
		})
	}
	l.memory.content = append(l.memory.content, p...)
	l.memory.index = append(l.memory.index, entries...)
}

// moveToFiles moves the memory to files, where later writes go. If there cannot be files, all that is in memory is
// missing. l.writing must be held.
func (l *Log) moveToFiles() {
	l.buffered = false
	l.mu.Lock()
	m, discarded := l.memory, l.discarded
	l.mu.Unlock()
	if m == nil || discarded {
		l.freeMemory()
		return
	}
	// Nobody else changes it.
	err := l.writeFiles(segment{n: l.last.n}, m.content, m.index)
	if err != nil {
		l.closeFiles()
		l.mu.Lock()
		l.removeFiles(l.last)
		l.segments = nil
		l.mu.Unlock()
		lost := l.last.size
		l.last, l.midLine = segment{n: l.last.n + 1, start: l.last.end()}, false
		l.recordMissing(lost, err)
	}
	l.freeMemory()
	l.makeRoom()
}

// freeMemory ends the use of memory. l.writing must be held.
func (l *Log) freeMemory() {
	l.buffered = false
	if l.move != nil {
		l.move.Stop()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.memory; m != nil {
		l.memory = nil
		m.content, m.index = m.content[:0], m.index[:0]
		memories.Put(m)
	}
	l.accountLocked()
}

// readMemory reads from a file that is in memory as io.ReaderAt does. ok is false if it is not there.
func (l *Log) readMemory(ext string, p []byte, offset int64) (n int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.memory == nil {
		return 0, false
	}
	data := l.memory.content
	if ext == indexExt {
		data = l.memory.index
	}
	return copy(p, data[min(offset, int64(len(data))):]), true
}

// content reads a file of a log, from memory as long as it is there.
type content struct {
	log  *Log
	name string
	ext  string
	file *os.File // nil while it is in memory
}

// open opens a file of segment n.
func (l *Log) open(n int, ext string) (*content, error) {
	c := &content{log: l, name: l.name(n, ext), ext: ext}
	if _, inMemory := l.readMemory(ext, nil, 0); inMemory {
		return c, nil
	}
	return c, c.openFile()
}

func (c *content) openFile() (err error) {
	c.file, err = os.Open(c.log.store.path(c.name))
	return err
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(p []byte, offset int64) (int, error) {
	if c.file == nil {
		if n, inMemory := c.log.readMemory(c.ext, p, offset); inMemory {
			if n < len(p) {
				return n, io.EOF
			}
			return n, nil
		}
		if err := c.openFile(); err != nil {
			return 0, err
		}
	}
	return c.file.ReadAt(p, offset)
}

func (c *content) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
}
