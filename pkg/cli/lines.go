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

package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// maxHeldLine is the number of bytes of an incomplete line that are buffered for each stream.
const maxHeldLine = 1 << 20

// lineWriter writes the lines of several streams to one writer, so that lines of different streams do not mix.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
	// sanitized removes control characters from the lines, so that no command can change what others have printed.
	sanitized bool
}

// lineWriter returns a lineWriter for lines of commands. Lines on a terminal are sanitized.
func (f *factory) lineWriter(out io.Writer) *lineWriter {
	return &lineWriter{out: out, sanitized: progress.IsTerminal(f.streams.Out)}
}

// labeler returns what is shown in front of a line, and the part of the line to show. It returns false to hide the
// line. Of a long line it is given the first part.
type labeler func(line []byte) (label string, text []byte, show bool)

// constantLabel returns a labeler that shows all lines with the same label.
func constantLabel(label string) labeler {
	return func(line []byte) (string, []byte, bool) { return label, line, true }
}

// copyLines copies whole lines. A line longer than maxHeldLine is written in parts of whole characters.
func (w *lineWriter) copyLines(from io.Reader, label labeler) error {
	reader := bufio.NewReaderSize(from, 64<<10)
	var text []byte
	lead, show, later := "", false, false // of the line that was begun; later means that a part of it was written
	for {
		part, err := reader.ReadSlice('\n')
		text = append(text, part...)
		goesOn := errors.Is(err, bufio.ErrBufferFull)
		switch {
		case err != nil && !goesOn && !errors.Is(err, io.EOF):
			return err
		case goesOn && len(text) < maxHeldLine:
			continue
		}
		whole := len(text)
		if goesOn {
			whole -= cutCharacter(text)
		}
		shown := text[:whole]
		switch {
		case whole == 0:
			show = false
		case !later:
			lead, shown, show = label(shown)
		}
		// The last part may consist of the line feed alone. Every part has got one already.
		if show && (!later || string(shown) != "\n") {
			if err := w.writeLine(lead, shown); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		text = append(text[:0], text[whole:]...)
		if goesOn && !later {
			lead += "… "
		}
		later = goesOn
	}
}

// writeLine writes lead and text as one line. It adds a line feed if there is none.
func (w *lineWriter) writeLine(lead string, text []byte) error {
	if w.sanitized {
		text = []byte(sanitize.Line(string(text)))
	}
	line := append([]byte(lead), text...)
	if !bytes.HasSuffix(line, []byte("\n")) {
		line = append(line, '\n')
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(line)
	return err
}

// cutCharacter returns the length of an incomplete character at the end of the text.
func cutCharacter(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// wholeCharacters is a writer that drops an incomplete character at the end of the stream.
type wholeCharacters struct {
	out  io.Writer
	held []byte
}

func (w *wholeCharacters) Write(p []byte) (int, error) {
	text := append(w.held, p...)
	whole := len(text) - cutCharacter(text)
	w.held = bytes.Clone(text[whole:])
	_, err := w.out.Write(text[:whole])
	return len(p), err
}
