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
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// maxScriptBytes is the maximum size of a script. Linux allows no argument of a program that is longer.
const maxScriptBytes = 128<<10 - 1

// directive begins a line of a script with a flag of "run".
const directive = "#LEAT"

// interpreterOptions are the options with which interpreters take a program as an argument, by their names without a
// version. Shells take the name of the program as the next argument.
var interpreterOptions = map[string]struct {
	option  string
	isShell bool
}{
	"sh": {"-c", true}, "bash": {"-c", true}, "dash": {"-c", true}, "ash": {"-c", true}, "ksh": {"-c", true}, "zsh": {"-c", true},
	"python": {"-c", false}, "perl": {"-e", false}, "ruby": {"-e", false}, "node": {"-e", false},
}

// interpreterVersion is the version at the end of the name of an interpreter, like 3.12.
var interpreterVersion = regexp.MustCompile(`[0-9][0-9.]*$`)

// script is a script that "run" sends with the task, so that workers need not have the file.
type script struct {
	name string
	// interpreter are the interpreter, its options, and the text of the script.
	interpreter []string
	// flags are those of the directives.
	flags []scriptFlag
}

// scriptFlag is a flag of "run" in a line of a script.
type scriptFlag struct {
	line int
	text string // like --array=0-9
}

// readScript reads a script. Its first line names the interpreter.
func readScript(name string) (*script, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", name)
	case info.Size() > maxScriptBytes:
		return nil, fmt.Errorf("%s has %d bytes, and a script at most %d: put it where the workers see it, and write leat run -- sh %s", name, info.Size(), maxScriptBytes, name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	s, err := parseScript(name, string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// parseScript parses the text of a script.
func parseScript(name, text string) (*script, error) {
	first, _, _ := strings.Cut(text, "\n")
	command, ok := strings.CutPrefix(strings.TrimSuffix(first, "\r"), "#!")
	words := strings.Fields(command)
	switch {
	case !ok || len(words) == 0:
		return nil, errors.New("the first line must name the interpreter, like #!/bin/sh; to run a program, write -- before it")
	case !utf8.ValidString(text) || strings.Contains(text, "\x00"):
		return nil, errors.New("a script must be text in UTF-8")
	}
	if path.Base(words[0]) == "env" {
		if words = words[1:]; len(words) > 0 && words[0] == "-S" {
			words = words[1:]
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("%q names no interpreter", first)
		}
	}
	base := interpreterVersion.ReplaceAllString(path.Base(words[0]), "")
	options, ok := interpreterOptions[base]
	if !ok {
		return nil, fmt.Errorf("%s does not take a script as an argument: put the script where the workers see it, and write leat run -- %s %s", words[0], words[0], name)
	}
	s := &script{name: name, interpreter: append(words, options.option, withoutReferences(text))}
	if options.isShell {
		s.interpreter = append(s.interpreter, withoutReferences(name))
	}
	return s, s.readDirectives(text)
}

// readDirectives reads the flags in the comments with which a script begins.
func (s *script) readDirectives(text string) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			return nil
		}
		rest, ok := strings.CutPrefix(line, directive)
		if !ok || rest != "" && rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		rest = strings.TrimSpace(rest)
		end := strings.IndexAny(rest, "= \t")
		if end < 0 {
			end = len(rest)
		}
		flag, value := rest[:end], strings.TrimSpace(strings.TrimPrefix(rest[end:], "="))
		switch {
		case !strings.HasPrefix(flag, "--") || len(flag) < 3:
			return fmt.Errorf("line %d: %q: write one flag of leat run, like %s --array 0-99", number, line, directive)
		case strings.Contains(" "+value, " --"):
			return fmt.Errorf("line %d: %q: write one flag on each line", number, line)
		case value != "":
			flag += "=" + value
		}
		s.flags = append(s.flags, scriptFlag{number, flag})
	}
	return nil
}

// apply sets the flags of the script, except those that the command line sets.
func (s *script) apply(flags *pflag.FlagSet) error {
	given := map[string]bool{}
	flags.Visit(func(flag *pflag.Flag) { given[flag.Name] = true })
	for _, f := range s.flags {
		err := flags.ParseAll([]string{f.text}, func(flag *pflag.Flag, value string) error {
			if given[flag.Name] {
				return nil
			}
			return flags.Set(flag.Name, value)
		})
		if err != nil {
			return usageErrorf("%s: line %d: %s %s: %w", s.name, f.line, directive, f.text, err)
		}
	}
	return nil
}

// withoutReferences returns an argument that the worker passes to the command as the text is.
func withoutReferences(text string) string { return strings.ReplaceAll(text, "$", "$$") }
