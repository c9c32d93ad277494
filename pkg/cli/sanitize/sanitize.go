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

// Package sanitize makes text that comes from tasks and servers safe to print on a terminal.
package sanitize

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// escapeSequence matches the control sequences of ECMA-48: CSI, the strings OSC, DCS, SOS, PM and APC up to their
// terminator, and the short escapes. C1 controls introduce the same sequences in one character.
var escapeSequence = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]` +
	`|(?:\x1b[\]PX^_]|[\x{9d}\x{90}\x{98}\x{9e}\x{9f}])[^\x07\x1b\x{9c}]*(?:\x07|\x1b\\|\x{9c})` +
	`|\x1b[ -/]*[0-~]`)

// Line returns text as one printable line: the part after the last carriage return, without escape sequences, control
// characters other than tabs, and bidirectional controls. Bytes that are not UTF-8 become U+FFFD. A character that is
// truncated at either end of the text is dropped.
func Line(text string) string {
	text = withoutCutCharacters(text)
	text = escapeSequence.ReplaceAllString(strings.ToValidUTF8(text, string(utf8.RuneError)), "")
	text = strings.TrimRight(text, "\n")
	text = strings.Map(func(c rune) rune {
		switch {
		case c == '\t', c == '\r':
			return c
		case c == '\n':
			return ' '
		case c < ' ', c >= 0x7f && c < 0xa0: // C0, DEL and C1
			return -1
		case c == 0x061c, c == 0x200e, c == 0x200f, c >= 0x202a && c <= 0x202e, c >= 0x2066 && c <= 0x2069: // bidirectional controls
			return -1
		}
		return c
	}, text)
	// A command that redraws its line by carriage returns leaves all versions in its output. Keep the last one.
	text = strings.TrimRight(text, "\r")
	return text[strings.LastIndexByte(text, '\r')+1:]
}

// Lines splits text at its line feeds and applies Line to each part. It drops empty lines at the end.
func Lines(text string) []string {
	lines := strings.Split(withoutCutCharacters(text), "\n")
	for i, line := range lines {
		lines[i] = Line(line)
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// Text returns the result of Lines, joined by line feeds.
func Text(text string) string { return strings.Join(Lines(text), "\n") }

// Truncate returns text if it has at most limit bytes. Otherwise it returns the whole characters that fit, and an
// ellipsis.
func Truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}

// withoutCutCharacters returns text without the bytes of truncated characters at its ends.
func withoutCutCharacters(text string) string {
	for range utf8.UTFMax - 1 {
		if text == "" || utf8.RuneStart(text[0]) {
			break
		}
		text = text[1:]
	}
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRuneInString(last) {
				return text[:len(text)-n]
			}
			break
		}
	}
	return text
}
