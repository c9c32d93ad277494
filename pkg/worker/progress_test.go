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
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
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
		if got := progressFile(path).read(); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

// progressWrites returns the progress in each status update of a worker, in order.
func progressWrites(w *running) []string {
	var values []string
	for _, a := range w.api.Actions() {
		if update, ok := a.(clienttesting.UpdateAction); ok && a.Matches("update", "tasks/status") {
			values = append(values, update.GetObject().(*batch.Task).Status.Progress)
		}
	}
	return values
}

func TestProgressIsReported(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay, o.ProgressInterval = 5*time.Millisecond, 20*time.Millisecond })
	f.run(w, "t", script(`echo 1/3 >"$TASK_PROGRESS_FILE"; until [ -e `+f.file("second")+` ]; do sleep 0.01; done
		printf garbage\\n2/3 >>"$TASK_PROGRESS_FILE"; until [ -e `+f.file("third")+` ]; do sleep 0.01; done
		echo >>"$TASK_PROGRESS_FILE"; echo 3/3 >>"$TASK_PROGRESS_FILE"; echo $TASK_PROGRESS_FILE >`+f.file("path")+`; touch "$TASK_PROGRESS_FILE.more"`))
	for _, step := range []struct{ progress, file string }{{"1/3", "second"}, {"2/3", "third"}} {
		f.await("t", "is at "+step.progress, func(task *batch.Task) bool { return task.Status.Progress == step.progress })
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
		f.must(os.WriteFile(f.file(step.file), nil, 0o600))
	}
	if task := f.awaitFinished("t"); task.Status.Progress != "3/3" {
		t.Errorf("at its end it is at %q", task.Status.Progress)
	}
	// The progress is polled often, but written only at the start, at the end and when it changes.
	if writes := progressWrites(w); len(writes) > 5 || writes[len(writes)-1] != "3/3" {
		t.Errorf("written were %q", writes)
	}
	path, err := os.ReadFile(f.file("path"))
	f.must(err)
	dir := filepath.Dir(strings.TrimSpace(string(path)))
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		t.Errorf("%s is left with %v", dir, entries)
	}
	f.must(w.stop())
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Errorf("%s is left", filepath.Dir(dir))
	}
}

func TestProgressOfAShortTaskCostsNoWrite(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(`echo 2/2 >$TASK_PROGRESS_FILE`))
	if task := f.awaitFinished("t"); task.Status.Progress != "2/2" {
		t.Errorf("progress is %q", task.Status.Progress)
	}
	if writes := progressWrites(w); len(writes) != 1 {
		t.Errorf("written were %q", writes)
	}
}

func TestEachAttemptHasItsOwnProgress(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(`[ ! -e "$TASK_PROGRESS_FILE" ] || exit 9; [ $TASK_ATTEMPT = 2 ] || { echo 5/9 >$TASK_PROGRESS_FILE; exit 1; }; exit 3`, backoffLimit(1)))
	f.await("t", "waits after its first attempt", func(task *batch.Task) bool {
		return task.Status.State.Waiting != nil && task.Status.Progress == "5/9"
	})
	if s := f.awaitFinished("t").Status; s.Progress != "" || s.State.Terminated.ExitCode != 3 {
		t.Errorf("the second attempt, which reported nothing, has %q, %+v", s.Progress, s.State.Terminated)
	}
}
