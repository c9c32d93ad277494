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
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// progressVariable is the environment variable with the path of the progress file.
	progressVariable = "TASK_PROGRESS_FILE"
	// progressSize is the longest progress in bytes.
	progressSize = 32
	// progressWindow is how many bytes at the end of the file are read.
	progressWindow = 4 << 10
)

// ProgressFile is the path of the file in which a command may report its progress, or empty.
type ProgressFile string

// Read returns the last progress that the command has reported, or "". It never blocks and reads a bounded amount,
// even if the command has replaced the file by something else.
func (f ProgressFile) Read() string {
	if f == "" {
		return ""
	}
	file, err := os.OpenFile(string(f), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	from := max(0, info.Size()-progressWindow)
	window, _ := io.ReadAll(io.NewSectionReader(file, from, progressWindow))
	text := string(window)
	if from > 0 {
		_, text, _ = strings.Cut(text, "\n") // the first line may have been cut
	}
	return parseProgress(text)
}

// parseProgress returns the last line of text of the form "N/M", where both are numbers and M is not zero.
func parseProgress(text string) string {
	for text != "" {
		rest, line := "", text
		if i := strings.LastIndexByte(strings.TrimSuffix(text, "\n"), '\n'); i >= 0 {
			rest, line = text[:i+1], text[i+1:]
		}
		line = strings.TrimSpace(line)
		n, m, _ := strings.Cut(line, "/")
		if len(line) <= progressSize && isNumber(n) && isNumber(m) && strings.Trim(m, "0") != "" {
			return line
		}
		text = rest
	}
	return ""
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
