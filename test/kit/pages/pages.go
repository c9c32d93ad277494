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

// Package pages reads the pages of docs/.
package pages

import "strings"

// Fence opens and closes a block.
const Fence = "```"

// Blocks returns the fenced blocks of a page in a language, without the indentation of blocks in lists.
func Blocks(page, language string) []string {
	var blocks []string
	indent, inside, wanted := "", false, false
	for line := range strings.Lines(page) {
		text := strings.TrimLeft(line, " ")
		switch {
		case !inside && strings.HasPrefix(text, Fence):
			inside, indent = true, line[:len(line)-len(text)]
			if wanted = strings.TrimSpace(text) == Fence+language; wanted {
				blocks = append(blocks, "")
			}
		case inside && strings.TrimSpace(text) == Fence:
			inside = false
		case inside && wanted:
			blocks[len(blocks)-1] += strings.TrimPrefix(line, indent)
		}
	}
	return blocks
}
