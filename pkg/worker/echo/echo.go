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

// Package echo prints the lines of the output of commands as JSON, for what collects the logs of containers.
package echo

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// maxText is how much of a line is in one JSON line, in bytes. Longer lines are split.
	maxText = 64 << 10
	// maxPending is how many bytes wait to be printed at most. Further lines are dropped.
	maxPending = 4 << 20
	// closeTimeout is how long Close waits for what is not printed.
	closeTimeout = time.Second
)

// Attempt identifies the attempt that has printed a line.
type Attempt struct {
	Namespace string `json:"namespace"`
	TaskSet   string `json:"taskSet,omitempty"`
	Task      string `json:"task"`
	Index     *int32 `json:"index,omitempty"`
	Attempt   int32  `json:"attempt"`
}

// line is a line of output.
type line struct {
	Time string `json:"time"`
	Attempt
	Stream string `json:"stream"`
	Text   string `json:"text"`
	// Partial is true if the line goes on in the next one of the same attempt.
	Partial bool `json:"partial,omitempty"`
}

// dropped reports how many lines were dropped in its place.
type dropped struct {
	Time         string `json:"time"`
	Stream       string `json:"stream"`
	DroppedLines int64  `json:"droppedLines"`
}

// Echo prints lines in the background, so that no command waits for what reads them. It is safe for concurrent use. A
// nil Echo prints nothing.
type Echo struct {
	w    io.Writer
	done chan struct{} // closed when all is printed after Close

	mu      sync.Mutex
	changed sync.Cond // there is something to print, or closed is set
	pending []byte
	dropped int64 // lines after pending
	closed  bool
}

// New returns an Echo that prints to w, in writes of whole lines. The caller must close it.
func New(w io.Writer) *Echo {
	e := &Echo{w: w, done: make(chan struct{})}
	e.changed.L = &e.mu
	go e.run()
	return e
}

// run prints what is pending until the Echo is closed.
func (e *Echo) run() {
	defer close(e.done)
	var block []byte
	for {
		e.mu.Lock()
		for len(e.pending) == 0 && e.dropped == 0 && !e.closed {
			e.changed.Wait()
		}
		block, e.pending = e.pending, block[:0]
		n := e.dropped
		e.dropped = 0
		closed := e.closed
		e.mu.Unlock()
		if n > 0 {
			block = appendJSON(block, dropped{Time: now(), Stream: "dropped", DroppedLines: n})
		}
		if len(block) == 0 && closed {
			return
		}
		_, _ = e.w.Write(block) // there is nowhere to report that nobody reads it
	}
}

// Close stops printing. What is pending has closeTimeout to be printed.
func (e *Echo) Close() {
	if e == nil {
		return
	}
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.changed.Signal()
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-e.done:
	case <-timeout.C:
	}
}

// print prints a line, or counts it as dropped if too much is pending.
func (e *Echo) print(l line) {
	text := appendJSON(nil, l)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return
	case e.dropped > 0 || len(e.pending)+len(text) > maxPending:
		e.dropped++
	default:
		e.pending = append(e.pending, text...)
	}
	e.changed.Signal()
}

// Output returns a writer for the output of an attempt, which prints each line when it is complete. The caller must
// close it. It returns nil if e is nil.
func (e *Echo) Output(attempt Attempt) *Output {
	if e == nil {
		return nil
	}
	return &Output{echo: e, attempt: attempt}
}

// Output is a writer for the output of one attempt. It is not safe for concurrent use. A nil Output discards
// everything.
type Output struct {
	echo    *Echo
	attempt Attempt
	begun   []byte // of the line that is not complete, less than maxText bytes
}

// Write prints the lines that p completes. It never returns an error, and does not wait for them to be read.
func (o *Output) Write(p []byte) (int, error) {
	n := len(p)
	if o == nil {
		return n, nil
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if room := maxText - len(o.begun); end < 0 && len(p) < room {
			o.begun = append(o.begun, p...)
			break
		} else if end < 0 || end > room {
			o.begun = append(o.begun, p[:room]...)
			p = p[room:]
			o.printPart()
			continue
		}
		o.begun = append(o.begun, p[:end]...)
		p = p[end+1:]
		o.printLine()
	}
	return n, nil
}

// printLine prints the line, which is complete.
func (o *Output) printLine() {
	o.print(o.begun, false)
	o.begun = o.begun[:0]
}

// printPart prints a part of a line that is too long, without a rune that the part would cut.
func (o *Output) printPart() {
	n := len(o.begun)
	for i := n - 1; i >= n-utf8.UTFMax && i > 0; i-- {
		if utf8.RuneStart(o.begun[i]) {
			if !utf8.FullRune(o.begun[i:]) {
				n = i
			}
			break
		}
	}
	o.print(o.begun[:n], true)
	o.begun = append(o.begun[:0], o.begun[n:]...)
}

func (o *Output) print(text []byte, partial bool) {
	o.echo.print(line{Time: now(), Attempt: o.attempt, Stream: "output", Text: string(text), Partial: partial})
}

// Close prints a last line that has no end.
func (o *Output) Close() {
	if o != nil && len(o.begun) > 0 {
		o.printLine()
		o.begun = nil
	}
}

func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000Z") }

// appendJSON appends a value and a newline. Invalid UTF-8 becomes U+FFFD.
func appendJSON(b []byte, value any) []byte {
	out := bytes.NewBuffer(b)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // these types have no values that cannot be encoded
	return out.Bytes()
}
