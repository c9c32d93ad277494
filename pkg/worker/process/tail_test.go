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
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTailKeepsTheLastBytes(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var kept Tail
		var all []byte
		for range r.IntN(12) {
			chunk := bytes.Repeat([]byte{'a' + byte(r.IntN(26))}, []int{0, 1, 7, 1000, TailSize - 1, TailSize, TailSize + 1, 3 * TailSize}[r.IntN(8)])
			all = append(all, chunk...)
			if n, err := kept.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write returned %d, %v for %d bytes", n, err, len(chunk))
			}
		}
		want := string(all[max(0, len(all)-TailSize):])
		if got := kept.String(); got != want {
			t.Fatalf("seed %d: %d bytes kept of %d, want the last %d", seed, len(got), len(all), len(want))
		}
	}
}

func TestTailIsValidText(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"text":                        {"grüß\n", "grüß\n"},
		"an invalid byte":             {"a\xffb", "a\uFFFDb"},
		"a run of invalid bytes":      {"a\xff\xfe\xfdb", "a\uFFFDb"},
		"starts with a stray byte":    {"\x80a", "\uFFFDa"},
		"a rune that is cut off":      {"é" + strings.Repeat("x", TailSize-1), strings.Repeat("x", TailSize-1)},
		"a long rune that is cut off": {"\U0001F600" + strings.Repeat("x", TailSize-3), strings.Repeat("x", TailSize-3)},
		"a rune that just fits":       {"yé" + strings.Repeat("x", TailSize-2), "é" + strings.Repeat("x", TailSize-2)},
		"replacements that are too long": {
			strings.Repeat("\xffx", TailSize/2), strings.Repeat("\uFFFDx", TailSize/4),
		},
		"nothing but continuation bytes": {strings.Repeat("\x80", 2*TailSize), "\uFFFD"},
	} {
		t.Run(name, func(t *testing.T) {
			var kept Tail
			_, _ = kept.Write([]byte(tc.in))
			got := kept.String()
			if got != tc.want {
				t.Errorf("got %q (%d bytes), want %q (%d bytes)", got, len(got), tc.want, len(tc.want))
			}
			if !utf8.ValidString(got) || len(got) > TailSize {
				t.Errorf("%d bytes, valid: %v", len(got), utf8.ValidString(got))
			}
		})
	}
}
