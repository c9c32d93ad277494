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

package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// Limits that the server enforces on spec.items.
const (
	maxItems     = 100_000
	maxItemBytes = 65_536
	maxTextBytes = 1 << 20
)

// readItems reads one item from each line. Lines end with \n or \r\n. Empty lines are skipped, as xargs skips them, and
// counted: a command with an empty argument may do harm. used is the number of bytes of maxTextBytes that the command
// and its variables need. name is the name of the file in errors.
func readItems(from io.Reader, name string, used int) (items []string, empty int, err error) {
	from, err = withoutByteOrderMark(from)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	reader := bufio.NewReaderSize(from, 2*maxItemBytes)
	left := maxTextBytes - used
	for line := 1; ; line++ {
		text, err := reader.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, 0, fmt.Errorf("%s: line %d: %w", name, line, err)
		}
		end := errors.Is(err, io.EOF)
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
		left -= len(text) + 1
		switch {
		case len(text) == 0:
			left++
			if !end {
				empty++
			}
		case tooLong || len(text) > maxItemBytes:
			return nil, 0, fmt.Errorf("%s: line %d is longer than %d bytes: put it into a file that the workers can read, and list the names of such files", name, line, maxItemBytes)
		case bytes.IndexByte(text, 0) >= 0:
			return nil, 0, fmt.Errorf("%s: line %d has a NUL character: is it a binary file, or the output of find -print0? tr '\\0' '\\n' makes lines of that", name, line)
		case !utf8.Valid(text):
			return nil, 0, fmt.Errorf("%s: line %d is not UTF-8: convert the file with iconv -f latin1 -t utf-8, say", name, line)
		case len(items) == maxItems || left < 0:
			limit := fmt.Sprintf("%d lines", maxItems)
			if left < 0 {
				limit = fmt.Sprintf("%d bytes, command included", maxTextBytes)
			}
			return nil, 0, fmt.Errorf("%s: line %d: one set holds at most %s: split the file, with split -l %d %s part- say, and run each part",
				name, line, limit, max(len(items), 1), name)
		default:
			items = append(items, string(text))
		}
		if end {
			break
		}
	}
	if len(items) == 0 {
		return nil, 0, fmt.Errorf("%s has no lines: there is nothing to run", name)
	}
	return items, empty, nil
}

// withItem replaces each {} of the command by a reference to the item. Without {} it appends the reference as the last
// argument.
func withItem(command []string) []string {
	with := make([]string, 0, len(command)+1)
	found := false
	for _, arg := range command {
		found = found || strings.Contains(arg, "{}")
		with = append(with, strings.ReplaceAll(arg, "{}", taskstate.ItemReference))
	}
	if !found {
		with = append(with, taskstate.ItemReference)
	}
	return with
}
