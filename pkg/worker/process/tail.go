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

package process

import (
	"strings"
	"unicode/utf8"
)

// TailSize is how many bytes of a command's output are kept.
const TailSize = 4 << 10

// Tail is a writer that keeps the last bytes written to it.
type Tail struct {
	ring *[TailSize]byte // nil until something is written
	next int             // where the next byte goes
	full bool            // the ring holds TailSize bytes, the oldest at next
}

// Write appends p. Only the last TailSize bytes of all are kept. It never returns an error.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	if t.ring == nil && n > 0 {
		t.ring = new([TailSize]byte)
	}
	if n >= TailSize {
		t.full = t.full || n > TailSize || t.next > 0
		p, t.next = p[n-TailSize:], 0
	}
	for len(p) > 0 {
		copied := copy(t.ring[t.next:], p)
		p = p[copied:]
		if t.next += copied; t.next == TailSize {
			t.next, t.full = 0, true
		}
	}
	return n, nil
}

// String returns the kept bytes as valid UTF-8, at most TailSize bytes long.
func (t *Tail) String() string {
	if t.ring == nil {
		return ""
	}
	kept := string(t.ring[:t.next])
	if t.full {
		kept = trimPartialRune(string(t.ring[t.next:]) + kept)
	}
	// A replacement character can be longer than the run of invalid bytes that it replaces.
	kept = strings.ToValidUTF8(kept, string(utf8.RuneError))
	if len(kept) > TailSize {
		kept = trimPartialRune(kept[len(kept)-TailSize:])
	}
	return kept
}

// trimPartialRune removes the rest of a rune at the start of s whose first bytes are missing.
func trimPartialRune(s string) string {
	for i := range min(len(s), utf8.UTFMax-1) {
		if utf8.RuneStart(s[i]) {
			return s[i:]
		}
	}
	return s[min(len(s), utf8.UTFMax-1):]
}
