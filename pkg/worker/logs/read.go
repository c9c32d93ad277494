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
	"os"
	"slices"
	"sort"
	"time"
)

// timeFormat is how times are written before lines: as RFC 3339 has them, all of one length.
const timeFormat = "2006-01-02T15:04:05.000Z"

// blockSize is how much is read at a time.
const blockSize = 32 << 10

// ErrRemoved tells that what was being read is kept no more.
var ErrRemoved = errors.New("the output had to make room while it was read")

// ReadOptions say which part of an output is read, as the API's TaskLogOptions do.
type ReadOptions struct {
	// Follow goes on until the attempt has ended.
	Follow bool
	// Timestamps begins every line with its time, and a space.
	Timestamps bool
	// Since leaves out the lines that came earlier, unless it is zero.
	Since time.Time
	// TailLines begins so many lines before the end, unless it is nil.
	TailLines *int64
	// LimitBytes ends after so many bytes, unless it is nil.
	LimitBytes *int64
}

// Read writes the output to w, from the first line that is still kept or the one that the options say, to its end. When all there is
// was written and more may come, flush is called and Read waits, without a limit but ctx. A reader that is slower than
// the command misses what has been dropped meanwhile. In the place of output that is not kept, a line says so.
func (l *Log) Read(ctx context.Context, w io.Writer, flush func(), options ReadOptions) error {
	if options.LimitBytes != nil {
		w = &limited{w, *options.LimitBytes}
	}
	r := &reader{log: l, w: w, options: options, lineStart: true}
	defer r.close()
	err := r.run(ctx, flush)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// errLimit ends what reads up to a limit.
var errLimit = errors.New("the limit is reached")

// limited writes so many bytes and then fails with errLimit.
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

// view is what there is of an output at some time.
type view struct {
	pieces []piece
	ended  bool
	news   <-chan struct{} // closed when there is more
	// missing bytes follow the pieces, and are not kept for that cause.
	missing int64
	cause   error
}

func (v view) start() int64 {
	if len(v.pieces) == 0 {
		return 0
	}
	return v.pieces[0].start
}

func (v view) end() int64 {
	if len(v.pieces) == 0 {
		return 0
	}
	return v.pieces[len(v.pieces)-1].end()
}

// at is the piece that holds the byte at pos. There must be one.
func (v view) at(pos int64) piece {
	return v.pieces[sort.Search(len(v.pieces), func(i int) bool { return v.pieces[i].end() > pos })]
}

func (l *Log) view() (view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.discarded {
		return view{}, ErrRemoved
	}
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return view{slices.Clone(l.pieces), l.ended, l.news, l.missing, l.cause}, nil
}

// reader reads one output once.
type reader struct {
	log     *Log
	w       io.Writer
	options ReadOptions

	pos       int64 // of the next byte
	lineStart bool  // the next byte begins a line

	piece piece // whose file is open
	file  *os.File
	times *times
	block [blockSize]byte
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
	if r.times != nil {
		r.times.close()
		r.times = nil
	}
}

func (r *reader) run(ctx context.Context, flush func()) error {
	v, err := r.log.view()
	if err != nil {
		return err
	}
	for {
		if r.pos, err = r.begin(v); err == nil {
			break
		}
		if v, err = r.again(v, err); err != nil {
			return err
		}
	}
	if r.pos == v.start() && r.options.TailLines == nil && r.options.Since.IsZero() && len(v.pieces) > 0 && v.pieces[0].n > 0 {
		if err := r.say(beginningLine); err != nil {
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
				if v, err = r.again(v, err); err != nil {
					return err
				}
				if err := r.skip(v); err != nil {
					return err
				}
			}
		}
		if v.ended || !r.options.Follow {
			if v.missing > 0 {
				return r.say(missingLine(v.missing, v.cause))
			}
			return nil
		}
		flush()
		select {
		case <-v.news:
		case <-ctx.Done():
			return ctx.Err()
		}
		if v, err = r.log.view(); err != nil {
			return err
		}
	}
}

// beginningLine is in the place of the beginning of an output that has lost it.
const beginningLine = "[leat: the beginning of the output is not kept]\n"

// skip goes on with the first line that is kept, if what would come next is not.
func (r *reader) skip(v view) error {
	missing := v.start() - r.pos
	if missing <= 0 {
		return nil
	}
	r.pos = v.start()
	return r.say(missingLine(missing, errMadeRoom))
}

// say writes a line of its own.
func (r *reader) say(line string) error {
	if r.options.Timestamps {
		line = time.Now().UTC().Format(timeFormat) + " " + line
	}
	if !r.lineStart {
		line = "\n" + line
	}
	r.lineStart = true
	_, err := io.WriteString(r.w, line)
	return err
}

// again is the view to go on with after an error that came of a piece that has been dropped meanwhile.
func (r *reader) again(v view, err error) (view, error) {
	if !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	now, err := r.log.view()
	if err == nil && len(now.pieces) > 0 && now.pieces[0].n == v.pieces[0].n {
		err = ErrRemoved // by somebody else
	}
	return now, err
}

// open makes p the piece whose file is open.
func (r *reader) open(p piece) error {
	if r.file == nil || r.piece.n != p.n {
		r.close()
		file, err := os.Open(r.log.store.path(r.log.name(p.n, logExt)))
		if err != nil {
			return err
		}
		r.file = file
	}
	r.piece = p
	return nil
}

// read reads from pos into the block, to the end of the piece at most. The bytes are good until the next read.
func (r *reader) read(v view, pos int64) ([]byte, error) {
	p := v.at(pos)
	if err := r.open(p); err != nil {
		return nil, err
	}
	n, err := r.file.ReadAt(r.block[:min(blockSize, p.end()-pos)], pos-p.start)
	if n > 0 || err == nil {
		return r.block[:n], nil
	}
	return nil, err
}

// next writes what follows, some of it.
func (r *reader) next(v view) error {
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
	if err := r.openTimes(); err != nil {
		return err
	}
	for len(block) > 0 {
		line := block
		if i := bytes.IndexByte(block, '\n'); i >= 0 {
			line = block[:i+1]
		}
		if r.lineStart {
			millis, err := r.times.at(r.pos - r.piece.start)
			if err != nil {
				return err
			}
			stamp := time.UnixMilli(millis).UTC().AppendFormat(make([]byte, 0, len(timeFormat)+1), timeFormat)
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

// openTimes makes times those of the open piece.
func (r *reader) openTimes() error {
	if r.times == nil {
		r.times = &times{}
	}
	r.times.piece = r.piece
	if r.times.file != nil || r.piece.entries == 0 {
		return nil
	}
	file, err := os.Open(r.log.store.path(r.log.name(r.piece.n, indexExt)))
	r.times.file = file
	return err
}

// begin is where to begin. Lines that came earlier than wanted, and those before the tail, are both left out.
func (r *reader) begin(v view) (int64, error) {
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

// tail is where the last n lines begin. An end without a newline is a line too.
func (r *reader) tail(v view, n int64) (int64, error) {
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

// since is where the first line begins that came at that time or later.
func (r *reader) since(v view, at time.Time) (int64, error) {
	millis := at.UnixMilli()
	for _, p := range v.pieces {
		if err := r.open(p); err != nil {
			return 0, err
		}
		if err := r.openTimes(); err != nil {
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

// lineFrom is where the first line begins at pos or later.
func (r *reader) lineFrom(v view, pos int64) (int64, error) {
	switch {
	case pos >= v.end():
		return v.end(), nil // a process that was killed may have noted the time of what it had not yet written
	case pos == v.at(pos).start:
		return pos, nil // pieces begin with a line
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

// times tell when what is in a piece came. It is asked for offsets that never go down.
type times struct {
	piece   piece
	file    *os.File // nil as long as there are no entries
	i       int      // the entry that counts
	block   [256 * entrySize]byte
	from, n int // the entries in the block
}

func (t *times) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}

// entry reads the offset and the time of an entry.
func (t *times) entry(i int) (offset, millis int64, err error) {
	if i < t.from || i >= t.from+t.n {
		n, err := t.file.ReadAt(t.block[:], int64(i)*entrySize)
		if t.from, t.n = i, n/entrySize; t.n == 0 {
			return 0, 0, err
		}
	}
	b := t.block[(i-t.from)*entrySize:]
	return int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:])), nil
}

// at is the time of the byte at the offset, in milliseconds since 1970.
func (t *times) at(offset int64) (int64, error) {
	if t.piece.entries == 0 {
		return t.piece.first, nil
	}
	for ; t.i+1 < t.piece.entries; t.i++ {
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

// since is the first offset whose bytes came at that time or later.
func (t *times) since(millis int64) (offset int64, found bool, err error) {
	if t.piece.entries == 0 {
		return 0, t.piece.first >= millis, nil
	}
	for i := range t.piece.entries {
		offset, at, err := t.entry(i)
		if err != nil || at >= millis {
			return offset, err == nil, err
		}
	}
	return 0, false, nil
}
