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
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func servePage(t *testing.T, options Options, target string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	w := httptest.NewRecorder()
	newPages(options).serve(w, r, strings.TrimPrefix(r.URL.Path, "/"))
	return w
}

// inline matches what the content security policy refuses in a page.
var inline = regexp.MustCompile(`(?i)<script>|<style|\son[a-z]+=|\sstyle=|javascript:|(src|href)="(https?:)?/`)

func TestPagesHaveNothingInlineAndNoAbsoluteLinks(t *testing.T) {
	for _, target := range []string{"/", "/sets", "/pending", "/set?namespace=a&name=b"} {
		w := servePage(t, Options{Namespace: "a", Program: "leat"}, target)
		if w.Code != http.StatusOK {
			t.Errorf("%s: status %d: %s", target, w.Code, w.Body)
		}
		if found := inline.FindString(w.Body.String()); found != "" {
			t.Errorf("%s has %q", target, found)
		}
	}
}

func TestAllFilesTogetherAreSmall(t *testing.T) {
	size := int64(0)
	for _, files := range []fs.FS{static, templates} {
		err := fs.WalkDir(files, ".", func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			size += info.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if size > 150<<10 {
		t.Errorf("the files have %d bytes, want at most 150 KiB", size)
	}
}

func TestSetPageAcceptsOnlyNames(t *testing.T) {
	for _, target := range []string{"/set", "/set?namespace=a", "/set?namespace=a&name=%22%3E%3Cscript%3E", "/set?namespace=a&name=x%20;rm", "/set?namespace=../b&name=c"} {
		if w := servePage(t, Options{Program: "leat"}, target); w.Code != http.StatusNotFound {
			t.Errorf("%s: status %d", target, w.Code)
		}
	}
}

func TestCommandsNameTheProgramAndTheNamespace(t *testing.T) {
	for _, test := range []struct {
		options      Options
		target, want string
	}{
		{Options{Namespace: "team", Program: "leat"}, "/", "<code>leat top -n team</code>"},
		{Options{Program: "leat"}, "/", "<code>leat top</code>"},
		{Options{Namespace: "team", Program: "kubectl leat"}, "/sets", "<code>kubectl leat run --array 100 -n team -- COMMAND</code>"},
		{Options{Program: "leat"}, "/set?namespace=other&name=squares", "<code>leat cancel taskset/squares -n other</code>"},
	} {
		if body := servePage(t, test.options, test.target).Body.String(); !strings.Contains(body, test.want) {
			t.Errorf("%s has no %s: %s", test.target, test.want, body)
		}
	}
}

func TestUnknownPathsAreNotFound(t *testing.T) {
	for path, want := range map[string]int{"board.js": 200, "board.css": 200, "icon.svg": 200, "static/board.js": 404, "../board.js": 404, "x": 404} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		newFiles().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", path, w.Code, want)
		}
	}
}

func TestRedirectIsReadableByItsOwnerOnly(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	file, err := writeRedirect("http://127.0.0.1:1/abc/")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	content, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(content), `content="0;url=http://127.0.0.1:1/abc/"`) {
		t.Errorf("got %s, %v", content, err)
	}
}
