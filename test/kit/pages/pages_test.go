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

package pages

import (
	"slices"
	"testing"
)

func TestBlocks(t *testing.T) {
	page := "# Title\n\n```sh\necho one\n```\n\n1. In a list:\n\n   ```sh\n   cat <<EOF\n     two\n   EOF\n   ```\n\n```text\nthree\n```\n"
	for language, want := range map[string][]string{
		"sh": {"echo one\n", "cat <<EOF\n  two\nEOF\n"}, "text": {"three\n"}, "yaml": nil,
	} {
		if got := Blocks(page, language); !slices.Equal(got, want) {
			t.Errorf("blocks of %s: %q, want %q", language, got, want)
		}
	}
}
