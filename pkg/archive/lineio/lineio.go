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

// Package lineio writes the output of attempts line by line. The server and the workers do it alike, so that it does
// not matter where an output is read from.
package lineio

import (
	"bytes"
	"io"
	"strconv"
	"time"
)

// TimeFormat is the format of the times before lines: RFC 3339 with a fixed length.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// Writer writes the output of one index after that of another. A line that the output of an index does not end is ended
// before the next index writes.
type Writer struct {
	w         io.Writer
	prefix    []byte // before each line
	begun     bool   // the index has written something
	written   bool   // any index has written something
	lineStart bool   // the next byte starts a line
}

// NewWriter returns a Writer to w, which is at the start of a line.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, lineStart: true} }

// Begin starts the output of an index. The prefix is written before each line.
func (w *Writer) Begin(prefix string) { w.begun, w.prefix = false, []byte(prefix) }

// Begun reports whether the output that Begin has started has a byte.
func (w *Writer) Begun() bool { return w.begun }

// Written reports whether anything was written.
func (w *Writer) Written() bool { return w.written }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.begun && !w.lineStart {
		if _, err := w.w.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		w.lineStart = true
	}
	w.begun, w.written = true, true
	if len(w.prefix) == 0 {
		w.lineStart = p[len(p)-1] == '\n'
		return w.w.Write(p)
	}
	for n := 0; n < len(p); {
		line := p[n:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		if w.lineStart {
			if _, err := w.w.Write(w.prefix); err != nil {
				return n, err
			}
		}
		written, err := w.w.Write(line)
		if n += written; err != nil {
			return n, err
		}
		w.lineStart = line[len(line)-1] == '\n'
	}
	return len(p), nil
}

// IndexPrefix returns the prefix of the lines of an index: the index and a space.
func IndexPrefix(index int) string { return strconv.Itoa(index) + " " }

// Last returns the last n lines. Output after the last newline is a line too.
func Last(content []byte, n int64) []byte {
	start := len(content)
	for ; n > 0 && start > 0; n-- {
		start = bytes.LastIndexByte(content[:start-1], '\n') + 1
	}
	return content[start:]
}

// WithTime returns the content with the time and a space before each line.
func WithTime(content []byte, at time.Time) []byte {
	stamp := at.UTC().AppendFormat(nil, TimeFormat+" ")
	stamped := make([]byte, 0, len(content)+len(stamp)*(1+bytes.Count(content, []byte{'\n'})))
	for line := range bytes.Lines(content) {
		stamped = append(append(stamped, stamp...), line...)
	}
	return stamped
}
