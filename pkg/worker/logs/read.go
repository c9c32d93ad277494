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
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/leat-dev/leat/pkg/archive/lineio"
)

// blockSize is how many bytes are read at a time.
const blockSize = 32 << 10

// blocks holds blocks of readers that have ended: a task may have many short outputs.
var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// ErrRemoved is returned by Read when the output was removed while it was read.
var ErrRemoved = errors.New("the output had to make room while it was read")

// ReadOptions select the part of an output to read, like the API's TaskLogOptions.
type ReadOptions struct {
	// Follow continues until the attempt has ended.
	Follow bool
	// Timestamps writes the time and a space before each line.
	Timestamps bool
	// Since skips lines that are older, unless it is zero.
	Since time.Time
	// TailLines starts so many lines before the end, unless it is nil.
	TailLines *int64
	// LimitBytes stops after so many bytes, unless it is nil.
	LimitBytes *int64
}

// Read writes the output to w, from the first line that is kept and that options select. To follow, it calls flush
// when it has written everything, and waits for more until ctx is done. A reader that is slower than the command
// misses output that is removed meanwhile. A line stands in the place of missing output.
func (l *Log) Read(ctx context.Context, w io.Writer, flush func(), options ReadOptions) error {
	if options.LimitBytes != nil {
		w = &limited{w, *options.LimitBytes}
	}
	r := &reader{log: l, w: w, options: options, lineStart: true}
	defer r.release()
	err := r.run(ctx, flush)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// errLimit is returned by limited.
var errLimit = errors.New("the limit is reached")

// limited writes left bytes and then returns errLimit.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) < l.left {
		n, err := l.w.Write(p)
		l.left -= int64(n)
		return n, err
	}
	n, err := l.w.Write(p[:l.left])
	if l.left -= int64(n); err == nil {
		err = errLimit
	}
	return n, err
}

// snapshot is the state of a log at some time.
type snapshot struct {
	segments []segment
	ended    bool
	changed  <-chan struct{} // closed when there is more
	// missing bytes follow the segments; cause is why they were not kept.
	missing int64
	cause   error
}

func (v snapshot) start() int64 {
	if len(v.segments) == 0 {
		return 0
	}
	return v.segments[0].start
}

func (v snapshot) end() int64 {
	if len(v.segments) == 0 {
		return 0
	}
	return v.segments[len(v.segments)-1].end()
}

// at returns the segment with the byte at pos, which must exist.
func (v snapshot) at(pos int64) segment {
	return v.segments[sort.Search(len(v.segments), func(i int) bool { return v.segments[i].end() > pos })]
}

func (l *Log) snapshot() (snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.discarded {
		return snapshot{}, ErrRemoved
	}
	if l.changed == nil && !l.ended {
		l.changed = make(chan struct{})
	}
	return snapshot{slices.Clone(l.segments), l.ended, l.changed, l.missing, l.cause}, nil
}

// reader is one call of Read.
type reader struct {
	log     *Log
	w       io.Writer
	options ReadOptions

	pos       int64 // of the next byte
	lineStart bool  // the next byte starts a line

	segment segment // of file
	file    *content
	times   *timeIndex
	block   *[blockSize]byte // nil until something is read
}

func (r *reader) close() {
	if r.file != nil {
		r.file.close()
		r.file = nil
	}
	if r.times != nil {
		r.times.close()
		r.times = nil
	}
}

// release closes the reader and returns its block.
func (r *reader) release() {
	r.close()
	if r.block != nil {
		blocks.Put(r.block)
	}
}

func (r *reader) run(ctx context.Context, flush func()) error {
	v, err := r.log.snapshot()
	if err != nil {
		return err
	}
	for {
		if r.pos, err = r.startPosition(v); err == nil {
			break
		}
		if v, err = r.refresh(v, err); err != nil {
			return err
		}
	}
	if r.pos == v.start() && r.options.TailLines == nil && r.options.Since.IsZero() && len(v.segments) > 0 && v.segments[0].n > 0 {
		if err := r.writeNotice(beginningLine); err != nil {
			return err
		}
	}
	for {
		if err := r.skip(v); err != nil {
			return err
		}
		for r.pos < v.end() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.next(v); err != nil {
				if v, err = r.refresh(v, err); err != nil {
					return err
				}
				if err := r.skip(v); err != nil {
					return err
				}
			}
		}
		if v.ended || !r.options.Follow {
			if v.missing > 0 {
				return r.writeNotice(missingLine(v.missing, v.cause))
			}
			return nil
		}
		flush()
		select {
		case <-v.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if v, err = r.log.snapshot(); err != nil {
			return err
		}
	}
}

// WriteEnd writes the end of what is kept of the output to w, at most limit bytes: whole lines, unless one is longer.
// As in what Read writes, lines stand in the place of a beginning that is not kept, and of missing output. It returns
// the size of the whole output, and how much of that w does not have. With a limit of 0, it writes nothing. The attempt
// must have ended, and the log must not be closed.
func (l *Log) WriteEnd(w io.Writer, limit int64) (size, missing int64, err error) {
	if l == nil {
		return 0, 0, nil
	}
	l.writing.Lock()
	size = l.printed
	l.writing.Unlock()
	if limit <= 0 {
		return size, size, nil
	}
	v, err := l.snapshot()
	if err != nil {
		return size, size, err
	}
	r := &reader{log: l, w: w, pos: v.start(), lineStart: true}
	defer r.release()
	last := ""
	if v.missing > 0 {
		last = missingLine(v.missing, v.cause)
		limit -= int64(len("\n") + len(last))
	}
	cut := len(v.segments) > 0 && v.segments[0].n > 0
	if cut {
		limit -= int64(len(beginningLine))
	}
	if v.end()-r.pos > limit {
		if !cut {
			cut, limit = true, limit-int64(len(beginningLine))
		}
		if r.pos, err = r.endPosition(v, max(0, limit)); err != nil {
			return size, size, err
		}
	}
	if cut {
		if err := r.writeNotice(beginningLine); err != nil {
			return size, size, err
		}
	}
	missing = size
	for r.pos < v.end() {
		from := r.pos
		if err := r.next(v); err != nil {
			return size, missing, err
		}
		missing -= r.pos - from
	}
	for _, p := range v.segments {
		missing += p.notices
	}
	missing = min(missing, size)
	if last != "" {
		return size, missing, r.writeNotice(last)
	}
	return size, missing, nil
}

var errNotKept = errors.New("the worker keeps no output")

// WriteNotKept writes the line that stands in the place of the output of an attempt without a log, like WriteEnd. It
// writes nothing if the attempt has printed nothing.
func WriteNotKept(w io.Writer, size, limit int64) error {
	if size == 0 || limit <= 0 {
		return nil
	}
	_, err := io.WriteString(w, missingLine(size, errNotKept))
	return err
}

// endPosition returns where the first line starts among the last n bytes, or where these start if no line does.
func (r *reader) endPosition(v snapshot, n int64) (int64, error) {
	line, err := r.lineFrom(v, v.end()-n)
	if err == nil && line == v.end() {
		line -= n
	}
	return line, err
}

// beginningLine stands in the place of a beginning that was removed.
const beginningLine = "[leat: the beginning of the output is not kept]\n"

// skip moves to the first line that is kept, if the next one was removed.
func (r *reader) skip(v snapshot) error {
	missing := v.start() - r.pos
	if missing <= 0 {
		return nil
	}
	r.pos = v.start()
	return r.writeNotice(missingLine(missing, errEvicted))
}

// writeNotice writes a line that is not part of the output.
func (r *reader) writeNotice(line string) error {
	if r.options.Timestamps {
		line = time.Now().UTC().Format(lineio.TimeFormat) + " " + line
	}
	if !r.lineStart {
		line = "\n" + line
	}
	r.lineStart = true
	_, err := io.WriteString(r.w, line)
	return err
}

// refresh returns a new snapshot after an error from a segment that was removed, and any other error as it is.
func (r *reader) refresh(v snapshot, err error) (snapshot, error) {
	if !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	now, err := r.log.snapshot()
	if err == nil && len(now.segments) > 0 && now.segments[0].n == v.segments[0].n {
		err = ErrRemoved // somebody else has removed the file
	}
	return now, err
}

// open opens the file of segment s.
func (r *reader) open(s segment) error {
	if r.file == nil || r.segment.n != s.n {
		r.close()
		file, err := r.log.open(s.n, logExt)
		if err != nil {
			return err
		}
		r.file = file
	}
	r.segment = s
	return nil
}

// read reads from pos to the end of the block or segment. The bytes are valid until the next read.
func (r *reader) read(v snapshot, pos int64) ([]byte, error) {
	p := v.at(pos)
	if err := r.open(p); err != nil {
		return nil, err
	}
	if r.block == nil {
		r.block = blocks.Get().(*[blockSize]byte)
	}
	n, err := r.file.ReadAt(r.block[:min(blockSize, p.end()-pos)], pos-p.start)
	if n > 0 || err == nil {
		return r.block[:n], nil
	}
	return nil, err
}

// next writes the next block.
func (r *reader) next(v snapshot) error {
	block, err := r.read(v, r.pos)
	if err != nil {
		return err
	}
	if !r.options.Timestamps {
		r.pos += int64(len(block))
		r.lineStart = block[len(block)-1] == '\n'
		_, err := r.w.Write(block)
		return err
	}
	if err := r.openTimeIndex(); err != nil {
		return err
	}
	for len(block) > 0 {
		line := block
		if i := bytes.IndexByte(block, '\n'); i >= 0 {
			line = block[:i+1]
		}
		if r.lineStart {
			millis, err := r.times.at(r.pos - r.segment.start)
			if err != nil {
				return err
			}
			stamp := time.UnixMilli(millis).UTC().AppendFormat(make([]byte, 0, len(lineio.TimeFormat)+1), lineio.TimeFormat)
			if _, err := r.w.Write(append(stamp, ' ')); err != nil {
				return err
			}
		}
		if _, err := r.w.Write(line); err != nil {
			return err
		}
		r.lineStart = line[len(line)-1] == '\n'
		r.pos += int64(len(line))
		block = block[len(line):]
	}
	return nil
}

// openTimeIndex opens the index of the open segment.
func (r *reader) openTimeIndex() error {
	if r.times == nil {
		r.times = &timeIndex{}
	}
	r.times.segment = r.segment
	if r.times.file != nil || r.segment.entries == 0 {
		return nil
	}
	file, err := r.log.open(r.segment.n, indexExt)
	r.times.file = file
	return err
}

// startPosition returns where to start. Since and TailLines both apply.
func (r *reader) startPosition(v snapshot) (int64, error) {
	pos := v.start()
	if n := r.options.TailLines; n != nil {
		tail, err := r.tail(v, *n)
		if err != nil {
			return 0, err
		}
		pos = max(pos, tail)
	}
	if !r.options.Since.IsZero() {
		since, err := r.since(v, r.options.Since)
		if err != nil {
			return 0, err
		}
		pos = max(pos, since)
	}
	return pos, nil
}

// tail returns where the last n lines start. Output after the last newline is a line too.
func (r *reader) tail(v snapshot, n int64) (int64, error) {
	end := v.end()
	if n == 0 {
		return end, nil
	}
	for last := end; last > v.start(); {
		p := v.at(last - 1)
		from := max(p.start, last-blockSize)
		block, err := r.read(v, from)
		if err != nil {
			return 0, err
		}
		block = block[:min(int64(len(block)), last-from)]
		if last == end {
			block = bytes.TrimSuffix(block, []byte{'\n'})
		}
		for {
			i := bytes.LastIndexByte(block, '\n')
			if i < 0 {
				break
			}
			if n--; n == 0 {
				return from + int64(i) + 1, nil
			}
			block = block[:i]
		}
		last = from
	}
	return v.start(), nil
}

// since returns where the first line starts that is not older than at.
func (r *reader) since(v snapshot, at time.Time) (int64, error) {
	millis := at.UnixMilli()
	for _, p := range v.segments {
		if err := r.open(p); err != nil {
			return 0, err
		}
		if err := r.openTimeIndex(); err != nil {
			return 0, err
		}
		offset, found, err := r.times.since(millis)
		if err != nil {
			return 0, err
		}
		if found {
			return r.lineFrom(v, p.start+offset)
		}
	}
	return v.end(), nil
}

// lineFrom returns where the first line starts at or after pos.
func (r *reader) lineFrom(v snapshot, pos int64) (int64, error) {
	switch {
	case pos >= v.end():
		return v.end(), nil // a process that was killed may have written a time without its output
	case pos == v.at(pos).start:
		return pos, nil // a segment starts with a line
	}
	for pos--; pos < v.end(); {
		block, err := r.read(v, pos)
		if err != nil {
			return 0, err
		}
		if i := bytes.IndexByte(block, '\n'); i >= 0 {
			return pos + int64(i) + 1, nil
		}
		pos += int64(len(block))
	}
	return pos, nil
}

// timeIndex looks up the times of a segment. The offsets of successive lookups must not decrease.
type timeIndex struct {
	segment segment
	file    *content // nil while there are no entries
	i       int      // the current entry
	block   [256 * entrySize]byte
	from, n int // the entries in block
}

func (t *timeIndex) close() {
	if t.file != nil {
		t.file.close()
	}
}

// entry returns the offset and the time of an entry.
func (t *timeIndex) entry(i int) (offset, millis int64, err error) {
	if i < t.from || i >= t.from+t.n {
		n, err := t.file.ReadAt(t.block[:], int64(i)*entrySize)
		if t.from, t.n = i, n/entrySize; t.n == 0 {
			return 0, 0, err
		}
	}
	b := t.block[(i-t.from)*entrySize:]
	return int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:])), nil
}

// at returns the time of the byte at the offset, in milliseconds since 1970.
func (t *timeIndex) at(offset int64) (int64, error) {
	if t.segment.entries == 0 {
		return t.segment.first, nil
	}
	for ; t.i+1 < t.segment.entries; t.i++ {
		begins, _, err := t.entry(t.i + 1)
		if err != nil {
			return 0, err
		}
		if begins > offset {
			break
		}
	}
	_, millis, err := t.entry(t.i)
	return millis, err
}

// since returns the first offset with a time that is not before millis.
func (t *timeIndex) since(millis int64) (offset int64, found bool, err error) {
	if t.segment.entries == 0 {
		return 0, t.segment.first >= millis, nil
	}
	for i := range t.segment.entries {
		offset, at, err := t.entry(i)
		if err != nil || at >= millis {
			return offset, err == nil, err
		}
	}
	return 0, false, nil
}
