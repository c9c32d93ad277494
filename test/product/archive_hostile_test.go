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

package product

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
)

// hostile is output that attacks a terminal: the clipboard, the title, the screen, a bell, backspaces, a carriage
// return, bidirectional overrides, C1 controls, and bytes that are no text. It does not end its line.
const hostile = "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[2J\x1b[31mred\x07\x08\x08over\rkept \u202egnp.exe\u2066 \xff\xfe\x00 \u009b31m \x9b31m \u009d0;title\u009c \x1bP1;1|17/ab\x1b\\ \x1b(0 \x7f the-end"

// forbidden are parts of hostile that no terminal may receive, whatever the program itself writes to it.
var forbidden = []string{"\x1b]", "\x1b[2J", "\x1b[31m", "\x1bP", "\x1b(0", "\x07", "\x08", "over\r", "\u202e", "\u2066", "\x00", "\u009b", "\u009d", "\x7f", "ZXZpbA"}

// TestHostileOutput prints what attacks terminals, and lines and outputs that are too long for buffers.
func TestHostileOutput(t *testing.T) {
	t.Parallel()
	e := kit.Standalone(t, "--workers=2", "--worker-tasks=4")
	s := newCLISuite(t, e, "default", e.Admin(t))
	payload := filepath.Join(t.TempDir(), "payload")
	kit.Check(t, os.WriteFile(payload, []byte(hostile), 0o600))
	t.Run("terminal", func(t *testing.T) { s.hostileOnTerminal(t, payload) })
	t.Run("long lines", s.longLinesLast)
	t.Run("endless output", s.endlessOutputLasts)
}

// hostileOnTerminal checks that nothing of the output reaches a terminal as it is, and that all of it reaches pipes and
// files.
func (s *cliSuite) hostileOnTerminal(t *testing.T, payload string) {
	// As odd as names can be.
	const set, task = "0-9--x-1", "0.log.x--0"
	script := []string{"--", "sh", "-c", "cat " + payload + "; exit $((TASK_INDEX == 1))"}
	show := func(t *testing.T, code int, end string, args ...string) {
		t.Helper()
		on, wait := s.terminal(t, args...)
		on.expect(t, end)
		if got := wait(); got != code {
			t.Errorf("leat %s: got exit code %d, want %d", strings.Join(args, " "), got, code)
		}
		for _, part := range forbidden {
			if strings.Contains(string(on.text), part) {
				t.Errorf("leat %s: the terminal received %q: %q", strings.Join(args, " "), part, on.text)
			}
		}
		if !utf8.Valid(on.text) {
			t.Errorf("leat %s: the terminal received bytes that are not UTF-8: %q", strings.Join(args, " "), on.text)
		}
	}
	show(t, 1, "the-end", append([]string{"run", "--name=" + set, "--array=2", "--logs"}, script...)...)
	show(t, 1, "the-end", append([]string{"run", "--name=" + task, "--wait", "--backoff-limit=0"}, "--", "sh", "-c", "cat "+payload+"; exit 1")...)
	for range 2 { // from the worker, and from the archive
		for _, command := range []string{"logs SET", "logs -f SET", "logs SET/0", "logs -f SET/1", "logs SET --index=0-1", "logs SET --failed", "logs SET/0 --attempt=1", "logs TASK", "logs -f TASK", "logs TASK --timestamps"} {
			args := strings.Fields(strings.NewReplacer("SET", set, "TASK", "task/"+task).Replace(command))
			show(t, 0, "the-end", args...)
		}
		s.waitForArchive(t)
	}
	for _, command := range []string{"explain SET/1", "explain TASK"} {
		show(t, 0, "the-end", strings.Fields(strings.NewReplacer("SET", set, "TASK", "task/"+task).Replace(command))...)
	}
	for _, command := range []string{"history SET", "history SET -o wide", "history SET -o json", "history TASK", "explain SET", "logs SET --index=0-1 --timestamps"} {
		show(t, 0, `\n`, strings.Fields(strings.NewReplacer("SET", set, "TASK", "task/"+task).Replace(command))...)
	}

	label := regexp.QuoteMeta("[" + set + "/0] ")
	s.leat(t, "logs", set+"/0").expect(t, 0, "^"+label+regexp.QuoteMeta(strings.ToValidUTF8(hostile[:20], ""))+".*", "^$")
	if got := s.leat(t, "logs", set, "--index=0"); got.out != "["+set+"/0] "+hostile+"\n" {
		t.Errorf("into a pipe: got %q, want the bytes %q after the label", got.out, hostile)
	}
	if got := s.leat(t, "logs", "task/"+task); got.out != hostile {
		t.Errorf("of a task, into a pipe: got %q, want %q", got.out, hostile)
	}
	dir := filepath.Join(s.directory, "hostile")
	s.leat(t, "logs", set, "--output-dir="+dir).expect(t, 0, "", "")
	for _, name := range []string{"0.log", "1.log"} {
		if got := string(kit.Must(os.ReadFile(filepath.Join(dir, name)))(t)); got != hostile {
			t.Errorf("%s: got %q, want %q", name, got, hostile)
		}
	}
}

// waitForArchive waits until workers hold no output of sets.
func (s *cliSuite) waitForArchive(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "all output of sets is in the archive", func(ctx context.Context) error {
		list, err := s.api.Workers(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, worker := range list.Items {
			if len(worker.Status.Unarchived) > 0 {
				return fmt.Errorf("%s holds %v", worker.Name, worker.Status.Unarchived)
			}
		}
		return nil
	})
}

// longLinesLast prints a line of 200 kB at each index, the last one without a line feed: it stays one line, wherever it
// is read from.
func (s *cliSuite) longLinesLast(t *testing.T) {
	const size = 200_000
	s.leat(t, "run", "--name=wide", "--array=2", "--wait", "--", "sh", "-c",
		fmt.Sprintf(`head -c %d /dev/zero | tr '\0' $TASK_INDEX; test $TASK_INDEX = 1 || echo`, size)).expect(t, 0, "created", "is complete")
	line := func(index int) string { return strings.Repeat(fmt.Sprint(index), size) }
	for _, from := range []string{"soon", "later"} {
		for args, want := range map[string]string{
			"wide":             "[wide/0] " + line(0) + "\n[wide/1] " + line(1) + "\n",
			"wide --index=0-1": "[wide/0] " + line(0) + "\n[wide/1] " + line(1) + "\n",
			"wide --index=1":   "[wide/1] " + line(1) + "\n",
			"wide/0":           "[wide/0] " + line(0) + "\n",
		} {
			if got := s.leat(t, append([]string{"logs"}, strings.Fields(args)...)...); got.out != want || got.code != 0 {
				t.Errorf("logs %s, %s: got %d bytes in %d lines, want %d in %d: %s", args, from, len(got.out), strings.Count(got.out, "\n"), len(want), strings.Count(want, "\n"), got.errOut)
			}
		}
		dir := filepath.Join(s.directory, "wide-"+from)
		s.leat(t, "logs", "wide", "--output-dir="+dir).expect(t, 0, "", "")
		for name, want := range map[string]string{"0.log": line(0) + "\n", "1.log": line(1)} {
			if got := string(kit.Must(os.ReadFile(filepath.Join(dir, name)))(t)); got != want {
				t.Errorf("%s, %s: got %d bytes, want %d", name, from, len(got), len(want))
			}
		}
		s.waitForArchive(t)
	}
}

// endlessOutputLasts prints more than the archive keeps: the end is kept, after a line about the beginning. The record
// has the size of what is not kept.
func (s *cliSuite) endlessOutputLasts(t *testing.T) {
	const printed, kept = 8 << 20, 1 << 20
	s.leat(t, "run", "--name=endless", "--array=1", "--wait", "--", "sh", "-c", fmt.Sprintf("yes | head -c %d", printed)).expect(t, 0, "created", "is complete")
	for _, from := range []string{"soon", "later"} {
		dir := filepath.Join(s.directory, "endless-"+from)
		s.leat(t, "logs", "endless", "--output-dir="+dir).expect(t, 0, "", "")
		content := string(kit.Must(os.ReadFile(filepath.Join(dir, "0.log")))(t))
		first, rest, _ := strings.Cut(content, "\n")
		if first != "[leat: the beginning of the output is not kept]" || len(content) > kept || len(rest) < kept/2 || strings.Trim(rest, "y\n") != "" {
			t.Errorf("%s: got %d bytes after %q, want almost %d after a line about the beginning", from, len(rest), first, kept)
		}
		s.waitForArchive(t)
	}
	s.leat(t, "history", "endless", "-o", "wide").expect(t, 0, ` 8\.0Mi +7\.0Mi `, "^$")
}
