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

package board

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenRemovesTheFileWhenThePageHasBeenRead(t *testing.T) {
	bin, temporary := t.TempDir(), t.TempDir()
	opened := filepath.Join(bin, "opened")
	script := "#!/bin/sh\necho \"$1\" > " + opened + "\n"
	if err := os.WriteFile(filepath.Join(bin, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("TMPDIR", temporary)
	b := &Board{read: make(chan struct{})}
	if err := b.Open(t.Context(), "http://127.0.0.1:1/secret/"); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(temporary, "leat-board-*", "*.html"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v, %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	close(b.read)
	b.opened.Wait()
	if _, err := os.Stat(files[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is not removed: %v", err)
	}
	b.browser.Wait()
	got, err := os.ReadFile(opened)
	if err != nil || strings.TrimSpace(string(got)) != files[0] {
		t.Errorf("the browser got %s, %v", got, err)
	}
}
