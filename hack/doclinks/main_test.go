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

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAnchorOf(t *testing.T) {
	for heading, want := range map[string]string{
		"What a task waits for":                 "what-a-task-waits-for",
		"Scale workers with KEDA, also to zero": "scale-workers-with-keda-also-to-zero",
		"The command `leat`":                    "the-command-leat",
		"[Linked](page.md) text":                "linked-text",
		"150,000 stored tasks":                  "150000-stored-tasks",
	} {
		if got := anchorOf(heading); got != want {
			t.Errorf("anchor of %q: %q, want %q", heading, got, want)
		}
	}
}

func TestBrokenLinks(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "page.md")
	content := "# Page\n\n[good](other.md#title) [here](#page) [site](https://example.com/x) [gone](gone.md) [anchor](other.md#nothing)\n" +
		"![picture](picture.svg)\n\n```sh\n[code](code.md)\n```\n"
	for name, text := range map[string]string{page: content, filepath.Join(dir, "other.md"): "# Title\n\n```sh\n# Nothing\n```\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		page + ": gone.md: no such file",
		page + ": other.md#nothing: no such heading",
		page + ": picture.svg: no such file",
	}
	if got := brokenLinks(page, content); !slices.Equal(got, want) {
		t.Errorf("broken links: %q, want %q", got, want)
	}
}

func TestBrokenMentions(t *testing.T) {
	t.Chdir(t.TempDir())
	const gone = "docs/" + "gone.md" // in two parts, so that the check does not find it here
	got := brokenMentions("main.go", "// See "+gone+".\n// https://kubernetes.io/docs/concepts/x.md is not ours.\n")
	if want := []string{"main.go: " + gone + ": no such file"}; !slices.Equal(got, want) {
		t.Errorf("broken mentions: %q, want %q", got, want)
	}
}
