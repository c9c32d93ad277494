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
	"slices"
	"strings"
	"testing"
)

func TestEachLine(t *testing.T) {
	long := strings.Repeat("x", maxItemBytes)
	many := strings.Repeat("a\n", maxItems)
	for _, test := range []struct {
		name, text string
		used       int
		want       []string
		empty      int
		err        string
	}{
		{name: "lines", text: "a b\nc\n", want: []string{"a b", "c"}},
		{name: "the last without an end", text: "a\nb", want: []string{"a", "b"}},
		{name: "Windows' ends", text: "a\r\nb\r\n", want: []string{"a", "b"}},
		{name: "a byte order mark", text: "\ufeffa\nb\n", want: []string{"a", "b"}},
		{name: "a byte order mark alone", text: "\ufeff", err: "F has no lines"},
		{name: "a mark within", text: "a\n\ufeffb\n", want: []string{"a", "\ufeffb"}},
		{name: "UTF-16", text: "\xff\xfea\x00\n\x00", err: "F: the file is UTF-16: convert it with iconv -f utf-16 -t utf-8"},
		{name: "empty lines are left out", text: "\na\n\r\n\nb\n\n", want: []string{"a", "b"}, empty: 4},
		{name: "blanks are not", text: " \n\ta \n", want: []string{" ", "\ta "}},
		{name: "what a shell would change", text: "$(x) '\" \\ *\n", want: []string{"$(x) '\" \\ *"}},
		{name: "as long as may be", text: long + "\n", want: []string{long}},
		{name: "nothing", text: "", err: "F has no lines: there is nothing to run"},
		{name: "nothing but empty lines", text: "\n\n", err: "F has no lines"},
		{name: "too long a line", text: "a\n" + long + "x\n", err: "F: line 2 is longer than 65536 bytes: put it into a file that the workers can read"},
		{name: "far too long a line", text: "a\nb\n" + strings.Repeat(long, 5), err: "F: line 3 is longer than 65536 bytes"},
		{name: "a binary file", text: "a\nb\x00c\n", err: `F: line 2 has a NUL character: is it a binary file, or the output of find -print0? tr '\0' '\n'`},
		{name: "another encoding", text: "a\nb\ncaf\xe9\n", err: "F: line 3 is not UTF-8: convert the file with iconv"},
		{name: "as many as may be", text: many, want: slices.Repeat([]string{"a"}, maxItems)},
		{name: "too many", text: many + "b\n", err: "F: line 100001: one set holds at most 100000 lines: split the file, with split -l 100000 F part- say"},
		{name: "as much as may be", text: "abc\n", used: maxTextBytes - 4, want: []string{"abc"}},
		{name: "too much", text: "abc\nd\n", used: maxTextBytes - 4, err: "F: line 2: one set holds at most 1048576 bytes, command included: split the file, with split -l 1 F part- say"},
	} {
		t.Run(test.name, func(t *testing.T) {
			items, empty, err := readItems(strings.NewReader(test.text), "F", test.used)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("the error is %v, expected %q", err, test.err)
			}
			if !slices.Equal(items, test.want) || empty != test.empty {
				t.Errorf("got %.100q and %d empty ones", items, empty)
			}
		})
	}
}

func TestWithItem(t *testing.T) {
	for _, test := range []struct{ command, want []string }{
		{[]string{"gzip"}, []string{"gzip", "$(TASK_ITEM)"}},
		{[]string{"cp", "{}", "/to/{}.bak"}, []string{"cp", "$(TASK_ITEM)", "/to/$(TASK_ITEM).bak"}},
	} {
		if got := withItem(test.command); !slices.Equal(got, test.want) {
			t.Errorf("%q becomes %q, expected %q", test.command, got, test.want)
		}
	}
}
