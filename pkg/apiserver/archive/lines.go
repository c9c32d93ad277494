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

package archive

import (
	"bytes"
	"io"
	"time"
)

// timeFormat is the format of timestamps, that of the logs of workers.
const timeFormat = "2006-01-02T15:04:05.000Z"

// lineWriter writes the output of one index after the other, and never lines of one among those of another.
type lineWriter struct {
	w         io.Writer
	prefix    string // before each line
	begun     bool   // the index has written something
	written   bool   // any index has written something
	lineStart bool   // the next byte starts a line
}

// begin starts the output of an index.
func (w *lineWriter) begin(prefix string) { w.begun, w.prefix = false, prefix }

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.begun && !w.lineStart {
		if _, err := io.WriteString(w.w, "\n"); err != nil {
			return 0, err
		}
		w.lineStart = true
	}
	w.begun, w.written = true, true
	for n := 0; n < len(p); {
		line := p[n:]
		if end := bytes.IndexByte(line, '\n'); end >= 0 && w.prefix != "" {
			line = line[:end+1]
		}
		if w.lineStart {
			if _, err := io.WriteString(w.w, w.prefix); err != nil {
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

// selectLines returns the part of the output of a finished attempt that the options select. The archive keeps no times
// of lines: they are all as old as the end of the attempt, and their timestamp is its start.
func (s *outputStream) selectLines(output []byte, at *attempt) []byte {
	if at.ended().Before(s.since) {
		return nil
	}
	if tail := s.options.TailLines; tail != nil {
		output = lastLines(output, *tail)
	}
	if s.options.Timestamps {
		output = withTimestamps(output, at.started())
	}
	if limit := s.options.LimitBytes; limit != nil && int64(len(output)) > *limit {
		output = output[:*limit]
	}
	return output
}

// lastLines returns the last n lines. The last line may lack its end.
func lastLines(output []byte, n int64) []byte {
	if n == 0 {
		return nil
	}
	for from := len(bytes.TrimSuffix(output, []byte{'\n'})); ; n-- {
		from = bytes.LastIndexByte(output[:from], '\n')
		if from < 0 {
			return output
		}
		if n == 1 {
			return output[from+1:]
		}
	}
}

// withTimestamps returns the lines with the timestamp before each.
func withTimestamps(output []byte, at time.Time) []byte {
	stamp := append(at.UTC().AppendFormat(nil, timeFormat), ' ')
	stamped := make([]byte, 0, len(output)+len(stamp)*(1+bytes.Count(output, []byte{'\n'})))
	for line := range bytes.Lines(output) {
		stamped = append(append(stamped, stamp...), line...)
	}
	return stamped
}
