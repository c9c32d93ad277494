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

package sanitize

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"plain", "Grüße\t世界 👩‍🚀", "Grüße\t世界 👩‍🚀"},
		{"colors", "\x1b[1;31mred\x1b[0m", "red"},
		{"title and link", "a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"},
		{"short escapes", "\x1b7a\x1b(Bb\x1bc", "ab"},
		{"cursor by C1", "a\u009b2Jb\u009dtitle\u009cc", "abc"},
		{"C0, DEL and C1", "a\x07\x00\x08b\x7f\u0085c", "abc"},
		{"raw C1 bytes are not UTF-8", "a\x9b2Jb", "a\uFFFD2Jb"},
		{"an escape without an end", "a\x1b", "a"},
		{"a string without an end", "a\x1b]0;title", "a0;title"},
		{"carriage returns redraw", "10%\r20%\r30%", "30%"},
		{"the last redraw is whole", "10%\r100%\r", "100%"},
		{"DOS", "line\r\n", "line"},
		{"a line feed", "a\nb", "a b"},
		{"reordered", "a\u202egpj.exe\u2066", "agpj.exe"},
		{"cut at the start", "\xbc\xc3\x9f", "ß"},
		{"cut at the end", "ß\xe4\xb8", "ß"},
		{"cut in the middle", "a\xe4\xb8b", "a\uFFFDb"},
		{"nothing but half a character", "\x80\x80", ""},
		{"empty", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Line(test.text); got != test.want {
				t.Errorf("Line(%q) is %q, expected %q", test.text, got, test.want)
			}
		})
	}
}

func TestLines(t *testing.T) {
	for text, want := range map[string][]string{
		"":                         {},
		"\n\n":                     {},
		"a\r\nb\r\n\r\n":           {"a", "b"},
		"\n\x1b[31mred\n\x1b[0m\n": {"", "red"},
		"\xbca\n1%\r2%\nend\xc3":   {"a", "2%", "end"},
	} {
		if got := Lines(text); !slices.Equal(got, want) {
			t.Errorf("Lines(%q) is %q, expected %q", text, got, want)
		}
		if got := Text(text); got != strings.Join(want, "\n") {
			t.Errorf("Text(%q) is %q", text, got)
		}
	}
}

func TestTruncate(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aßß", 2, "a…"}, {"世界", 4, "世…"}, {"世界", 2, "…"}, {"", 0, ""},
	} {
		if got := Truncate(test.text, test.limit); got != test.want {
			t.Errorf("Truncate(%q, %d) is %q, expected %q", test.text, test.limit, got, test.want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\r\n\u009b2J\xc3")
	f.Fuzz(func(t *testing.T, text string) {
		got := Line(text)
		if !utf8.ValidString(got) {
			t.Fatalf("Line(%q) is %q, which is not UTF-8", text, got)
		}
		if strings.ContainsFunc(got, func(c rune) bool { return unicode.IsControl(c) && c != '\t' }) {
			t.Fatalf("Line(%q) is %q, which has a control character", text, got)
		}
		if again := Line(got); again != got {
			t.Fatalf("Line(%q) is %q, and then %q", text, got, again)
		}
	})
}
