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
	"testing"
)

func TestDirectoriesAreReusedWithoutTheirContent(t *testing.T) {
	d, err := newAttemptDirs(filepath.Join(t.TempDir(), "deep", "down"))
	if err != nil {
		t.Fatal(err)
	}
	take := func(attempt string) string {
		t.Helper()
		dir, err := d.acquire(attempt)
		if entries, readErr := os.ReadDir(dir); err != nil || readErr != nil || len(entries) > 0 {
			t.Fatalf("attempt %s has %s with %v: %v, %v", attempt, dir, entries, err, readErr)
		}
		return dir
	}
	first, second := take("a-1"), take("b-1")
	if first == second {
		t.Errorf("two attempts at a time have %s", first)
	}
	if got := tasksIn(d.parent); len(got) != 2 || !got["a"] || !got["b"] {
		t.Errorf("recorded are %v", got)
	}
	chunk := take("c-7_12-1")
	if got := tasksIn(d.parent); len(got) != 3 || !got["c-7"] {
		t.Errorf("recorded are %v, with an attempt at an index", got)
	}
	d.release(chunk)
	d.release(second)
	if got := tasksIn(d.parent); len(got) != 1 || !got["a"] {
		t.Errorf("recorded are %v, after one of two has ended", got)
	}
	if err := os.MkdirAll(filepath.Join(first, "deep", "down"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.release(first)
	third := take("c-1")
	// The command has removed its directory.
	if err := os.Remove(third); err != nil {
		t.Fatal(err)
	}
	d.release(third)
	take("c-2")
	// Somebody has removed everything.
	if err := os.RemoveAll(filepath.Dir(d.parent)); err != nil {
		t.Fatal(err)
	}
	take("d-1")
	if err := d.markStopping(); err != nil {
		t.Fatal(err)
	}
	if got := tasksIn(d.parent); len(got) != 0 {
		t.Errorf("recorded are %v, of a process that stops in order", got)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
