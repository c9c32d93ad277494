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

package sandbox

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseProgress(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "",
		"\n":                                "",
		"1/2":                               "1/2",
		"1/2\n":                             "1/2",
		"1/3\n2/3\n":                        "2/3",
		"1/3\n2/3":                          "2/3",
		"1/3\n\n\n":                         "1/3",
		"1/3\ngarbage\n":                    "1/3",
		"1/3\n2/\n/3\n/\n":                  "1/3",
		" 7/8 \r\n":                         "7/8",
		"0/5":                               "0/5",
		"6/5":                               "6/5",
		"0/0":                               "",
		"1/000":                             "",
		"-1/5":                              "",
		"1.5/5":                             "",
		"1/2/3":                             "",
		"1 / 2":                             "",
		"٣/٥":                               "",
		"\xff\xfe/3\n":                      "",
		"123456789012345/123456789012345":   "123456789012345/123456789012345",
		"1234567890123456/1234567890123456": "", // 33 characters
		"4/5\n" + strings.Repeat("9", 100) + "/1": "4/5",
	} {
		if got := parseProgress(text); got != want {
			t.Errorf("parseProgress(%.60q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzParseProgress(f *testing.F) {
	for _, seed := range []string{"", "1/2\n", "1/3\n2/3", "a\n\n1/0\n", "\xff/\x00", strings.Repeat("1/1\n", 5000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := parseProgress(text)
		if got == "" {
			return
		}
		n, m, ok := strings.Cut(got, "/")
		if len(got) > progressSize || !ok || !isNumber(n) || !isNumber(m) || !strings.Contains(text, got) {
			t.Errorf("parseProgress(%q) = %q", text, got)
		}
		if again := parseProgress(text + "\n" + got + "\nx\n"); again != got {
			t.Errorf("of two lines the last one does not count: %q, then %q", got, again)
		}
	})
}

func TestProgressFileOfAnyKind(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(write("target", "1/2\n"), link); err != nil {
		t.Fatal(err)
	}
	huge := write("huge", "1/2\n")
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                         "",
		write("plain", "3/4\n"):    "3/4",
		filepath.Join(dir, "none"): "",
		dir:                        "",
		fifo:                       "",
		link:                       "",
		huge:                       "",
		"/dev/zero":                "",
		write("long", strings.Repeat("x\n", 1<<20)+"5/6\n"):                               "5/6",
		write("cut", "1"+strings.Repeat("2/3", 1)+strings.Repeat("\n", progressWindow-2)): "",
	} {
		if got := ProgressFile(path).Read(); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

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
		if read := ProgressFile(path).Read(); len(text) <= progressWindow && read != got {
			t.Errorf("%q reads as %q from a file, and parses as %q", text, read, got)
		} else if read != "" && !progressForm.MatchString(read) {
			t.Errorf("%q reads as %q from a file", text, read)
		}
	})
}
