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

package echo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/ptr"
)

// printed returns the lines that were printed.
func printed(t *testing.T, out string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for text := range strings.Lines(out) {
		var l map[string]any
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%.200q is not JSON: %v", text, err)
		}
		all = append(all, l)
	}
	return all
}

func TestTheFieldsOfALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		e := New(&out)
		for _, a := range []Attempt{{"default", "set", "set-7-abcde", ptr.To[int32](7), 2}, {"default", "", "alone", nil, 1}} {
			o := e.Output(a)
			fmt.Fprintln(o, "a <b>")
			o.Close()
		}
		e.Close()
		const want = `{"time":"2000-01-01T00:00:00.000Z","namespace":"default","taskSet":"set","task":"set-7-abcde","index":7,"attempt":2,"stream":"output","text":"a <b>"}
{"time":"2000-01-01T00:00:00.000Z","namespace":"default","task":"alone","attempt":1,"stream":"output","text":"a <b>"}
`
		if out.String() != want {
			t.Errorf("got  %s\nwant %s", out.String(), want)
		}
	})
}

func TestHowOutputIsSplit(t *testing.T) {
	long := strings.Repeat("x", maxText)
	for name, tc := range map[string]struct {
		writes, want []string // a part of a line ends in a plus sign
	}{
		"lines":                         {[]string{"a\nb\n\n", "c\n"}, []string{"a", "b", "", "c"}},
		"a line in several writes":      {[]string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		"a last line without end":       {[]string{"a\nb"}, []string{"a", "b"}},
		"nothing":                       {[]string{""}, nil},
		"invalid UTF-8":                 {[]string{"a\xffb\n"}, []string{"a\uFFFDb"}},
		"a line that just fits":         {[]string{long + "\nb\n"}, []string{long, "b"}},
		"a line that is too long":       {[]string{long + "yz\n"}, []string{long + "+", "yz"}},
		"a long line in several writes": {[]string{long[1:], "y", "z\n"}, []string{long[1:] + "y+", "z"}},
		"a line of several parts":       {[]string{long + long + "y\n"}, []string{long + "+", long + "+", "y"}},
		"a rune between two parts":      {[]string{long[2:] + "€\n"}, []string{long[2:] + "+", "€"}},
		"a long line without runes":     {[]string{strings.Repeat("\x80", maxText) + "\n"}, []string{strings.Repeat("\uFFFD", maxText)}},
	} {
		var out bytes.Buffer
		e := New(&out)
		o := e.Output(Attempt{Task: "t"})
		for _, text := range tc.writes {
			if n, err := o.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("%s: wrote %d, %v", name, n, err)
			}
		}
		o.Close()
		e.Close()
		var got []string
		for _, l := range printed(t, out.String()) {
			text := l["text"].(string)
			if l["partial"] == true {
				text += "+"
			}
			got = append(got, text)
		}
		if fmt.Sprint(len(got), got) != fmt.Sprint(len(tc.want), tc.want) {
			t.Errorf("%s: got %.100q, want %.100q", name, got, tc.want)
		}
	}
}

func TestLinesAreDroppedWhileNobodyReads(t *testing.T) {
	in, out := io.Pipe()
	e := New(out)
	o := e.Output(Attempt{Task: "t"})
	const lines = 30_000
	text := strings.Repeat("x", 100)
	for i := range lines {
		fmt.Fprintln(o, i, text) // does not wait
	}
	e.mu.Lock()
	if len(e.pending) > maxPending || e.dropped == 0 {
		t.Errorf("%d bytes are pending and %d lines dropped", len(e.pending), e.dropped)
	}
	e.mu.Unlock()
	read := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(in)
		read <- all
	}()
	e.Close()
	<-e.done
	out.Close()
	kept, missing := 0, 0
	for _, l := range printed(t, string(<-read)) {
		if n, ok := l["droppedLines"]; ok {
			missing += int(n.(float64))
			continue
		}
		if want := fmt.Sprint(kept+missing, " ", text); l["text"] != want {
			t.Fatalf("got %q, want %q", l["text"], want)
		}
		kept++
	}
	if kept == 0 || missing == 0 || kept+missing != lines {
		t.Errorf("%d lines are printed and %d reported as dropped, of %d", kept, missing, lines)
	}
}

func TestNoLineIsPrintedBeforeLinesThatWereDropped(t *testing.T) {
	in, out := io.Pipe()
	e := New(out)
	o := e.Output(Attempt{Task: "t"})
	long := strings.Repeat("x", maxText-1)
	for range 2 * maxPending / maxText {
		fmt.Fprintln(o, long)
	}
	fmt.Fprintln(o, "short") // there is room for it
	go func() {
		e.Close()
		<-e.done
		out.Close()
	}()
	all, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	lines := printed(t, string(all))
	for i, l := range lines {
		if _, ok := l["droppedLines"]; ok != (i == len(lines)-1) || l["text"] == "short" {
			t.Errorf("line %d of %d is %.100v", i, len(lines), l)
		}
	}
}

func TestCloseDoesNotWaitForAReaderForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		e := New(out)
		o := e.Output(Attempt{Task: "t"})
		fmt.Fprintln(o, "a")
		began := time.Now()
		e.Close()
		if took := time.Since(began); took != closeTimeout {
			t.Errorf("took %s", took)
		}
		fmt.Fprintln(o, "late")
		in.Close()
	})
}

func TestNothingIsPrintedWithoutAnEcho(t *testing.T) {
	var e *Echo
	o := e.Output(Attempt{})
	if n, err := o.Write([]byte("a\n")); n != 2 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	o.Close()
	e.Close()
}
