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
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// build builds the programs once, and returns the directory that they are in.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "docgen-")
	if err != nil {
		return "", err
	}
	command := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return dir, nil
})

// machine matches defaults that depend on the machine.
var machine = regexp.MustCompile(`(tasks\s+(?:each\s+worker\s+runs|to\s+run)\s+at\s+a\s+time)\s+\(default\s+\d+\)`)

// help returns what a program prints for a command with --help, the same on every machine.
func help(program string, args ...string) (string, error) {
	dir, err := build()
	if err != nil {
		return "", err
	}
	command := exec.Command(filepath.Join(dir, program), append(args, "--help")...)
	command.Env = []string{"HOME=/home/you", "PATH=" + os.Getenv("PATH")}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s --help: %w: %s", program, strings.Join(args, " "), err, out.String())
	}
	text := machine.ReplaceAllString(out.String(), "$1 (default: the number of processors)")
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.TrimSpace(strings.Join(lines, "\n")), nil
}

var (
	// title matches the line that begins a part of a help text.
	title = regexp.MustCompile(`^(?:[A-Z][a-z]+ )*[A-Za-z]+:$|^[A-Z][a-z -]+ flags:$`)
	// entry matches the line of a command in a list.
	entry = regexp.MustCompile(`^  ([a-z][a-z-]*)  +\S`)
)

// writeHelp writes a help text as Markdown: the description as prose, and the rest as blocks.
func writeHelp(page *strings.Builder, text string) (commands []string) {
	description, rest, _ := strings.Cut(text, "\nUsage:\n")
	fmt.Fprintf(page, "\n%s\n", prose(strings.TrimSpace(description)))
	for part := range strings.SplitSeq("Usage:\n"+rest, "\n\n") {
		first, body, _ := strings.Cut(part, "\n")
		switch {
		case strings.HasPrefix(first, `Use "`):
			continue
		case !title.MatchString(first) || body == "":
			fmt.Fprintf(page, "\n```text\n%s\n```\n", part)
			continue
		}
		language := "text"
		switch first {
		case "Usage:", "Flags:":
		case "Examples:":
			language = "sh"
		default:
			for line := range strings.Lines(body) {
				if match := entry.FindStringSubmatch(line); match != nil {
					commands = append(commands, match[1])
				}
			}
		}
		fmt.Fprintf(page, "\n%s\n\n```%s\n%s\n```\n", first, language, dedent(body))
	}
	return commands
}

// dedent removes the two spaces that begin the lines of a part.
func dedent(text string) string {
	lines := strings.Split(text, "\n")
	for _, line := range lines {
		if line != "" && !strings.HasPrefix(line, "  ") {
			return text
		}
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

// cliPage returns the reference of leat.
func cliPage() (string, error) {
	var page strings.Builder
	page.WriteString(header("The command `leat`", "This page is for you if you use `leat`, also as `kubectl leat`, and look up a command or a flag.", "the help of the program"))
	page.WriteString("\n[Run commands](../how-to/run-commands.md) explains how to use it.\n\n## leat\n")
	text, err := help("leat")
	if err != nil {
		return "", err
	}
	for _, name := range writeHelp(&page, text) {
		if name == "help" || name == "completion" {
			continue
		}
		if err := writeCommand(&page, 2, "leat", name); err != nil {
			return "", err
		}
	}
	return page.String(), nil
}

// writeCommand writes a command and those below it.
func writeCommand(page *strings.Builder, level int, program string, args ...string) error {
	text, err := help(program, args...)
	if err != nil {
		return err
	}
	fmt.Fprintf(page, "\n%s %s %s\n", strings.Repeat("#", level), program, strings.Join(args, " "))
	for _, name := range writeHelp(page, text) {
		if err := writeCommand(page, level+1, program, append(args, name)...); err != nil {
			return err
		}
	}
	return nil
}

// programsPage returns the reference of the programs that people do not type.
func programsPage() (string, error) {
	var page strings.Builder
	page.WriteString(header("Server programs", "This page is for you if you administer Leat, and look up a flag of a program other than `leat`.", "the help of the programs"))
	for _, program := range []string{"leat-worker", "leat-controller-manager", "leat-apiserver"} {
		fmt.Fprintf(&page, "\n## %s\n", program)
		text, err := help(program)
		if err != nil {
			return "", err
		}
		description, rest, _ := strings.Cut(text, "\nUsage:\n")
		fmt.Fprintf(&page, "\n%s\n\n```text\nUsage:\n%s\n```\n", prose(strings.TrimSpace(description)), rest)
	}
	return page.String(), nil
}
