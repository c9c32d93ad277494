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

package worker

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// progressForm matches every valid progress.
var progressForm = regexp.MustCompile(`^[0-9]+/[0-9]*[1-9][0-9]*$`)

// FuzzProgress checks that the progress read from a file is valid and occurs in it, whatever a command writes there.
func FuzzProgress(f *testing.F) {
	for _, text := range []string{"", "1/2\n", "1/2\n3/4", "1/0\n", "a\n1/2\nb\n", "1/2/3\n", "\n\n 7/9 \n\n", "٣/٤\n", strings.Repeat("1", 40) + "/2\n", "1/2\r\n", strings.Repeat("x\n", 5000) + "5/6"} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "progress")
	f.Fuzz(func(t *testing.T, text []byte) {
		got := parseProgress(string(text))
		if got != "" && (len(got) > progressSize || !progressForm.MatchString(got) || !strings.Contains(string(text), got)) {
			t.Errorf("%q parses as %q", text, got)
		}
		if again := parseProgress(got); again != got {
			t.Errorf("%q is read as %q", got, again)
		}
		if appended := parseProgress(string(text) + "\n3/4\n"); appended != "3/4" {
			t.Errorf("after %q, 3/4 is read as %q", text, appended)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if read := progressFile(path).read(); len(text) <= progressWindow && read != got {
			t.Errorf("%q reads as %q from a file, and parses as %q", text, read, got)
		} else if read != "" && !progressForm.MatchString(read) {
			t.Errorf("%q reads as %q from a file", text, read)
		}
	})
}

// FuzzExpand checks that an expansion is bounded, and that text without references stays as it is.
func FuzzExpand(f *testing.F) {
	for _, text := range []string{"", "$(A)", "$$(A)", "$(B)$(A)", "$(", "$", "$$$", "$(A", "a$(NONE)b", "$($(A))"} {
		f.Add(text, "value", 100)
		f.Add(text, "$(A)", 3)
		f.Add(strings.Repeat("$(A)", 20), strings.Repeat(text, 20), 10)
	}
	f.Fuzz(func(t *testing.T, text, value string, limit int) {
		vars := map[string]string{"A": value, "B": "b"}
		all := expand(text, vars, maxExpanded)
		got := expand(text, vars, limit)
		if len(got) > max(0, limit)+len(text)+max(len(value), len("b")) {
			t.Errorf("expand(%q, %q, %d) has %d bytes", text, vars, limit, len(got))
		}
		if !strings.HasPrefix(all, got) || len(got) <= limit && got != all && len(all) <= maxExpanded {
			t.Errorf("expand(%q, %q, %d) = %q, of %q", text, vars, limit, got, all)
		}
		if !strings.Contains(text, "$") && all != text {
			t.Errorf("expand(%q) = %q", text, all)
		}
		if escaped := strings.ReplaceAll(text, "$", "$$"); expand(escaped, vars, maxExpanded) != text && len(text) <= maxExpanded {
			t.Errorf("expand(%q) = %q", escaped, expand(escaped, vars, maxExpanded))
		}
	})
}

// FuzzParseStat checks that parsing never panics, and that the program name does not change the result.
func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own, "name")
	f.Add([]byte(""), "")
	f.Add([]byte("1 (a) S 1"), ") R 2 (")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		if s, err := parseStat(text); err == nil && s.state == 0 {
			t.Errorf("%q parses as %+v", text, s)
		}
		_, rest, _ := strings.Cut(string(own), ") ")
		want, err := parseStat(own)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseStat([]byte("1 (" + name + ") " + rest)); err != nil || got != want {
			t.Errorf("of a program %q: %+v, %v; want %+v", name, got, err, want)
		}
	})
}
