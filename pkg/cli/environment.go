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
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// largeEnvironment is the number of bytes of variables above which a warning is printed, because each task stores them.
const largeEnvironment = 64 << 10

// environment collects the variables of the command from --export, --env-file and --env, in this order. A later
// variable replaces an earlier one of the same name.
type environment []batch.EnvVar

func (e *environment) set(variable batch.EnvVar) {
	if i := slices.IndexFunc(*e, func(v batch.EnvVar) bool { return v.Name == variable.Name }); i >= 0 {
		*e = slices.Delete(*e, i, i+1)
	}
	*e = append(*e, variable)
}

// literal returns a variable with references in its value escaped, so that they are not expanded.
func literal(name, value string) batch.EnvVar {
	return batch.EnvVar{Name: name, Value: strings.ReplaceAll(value, "$", "$$")}
}

// environment returns the variables that the flags ask for. It prints warnings about exported and large environments.
func (o *runOptions) environment() ([]batch.EnvVar, error) {
	var env environment
	if o.export {
		o.exportTo(&env)
	}
	for _, file := range o.envFiles {
		if err := o.readEnvFile(file, &env); err != nil {
			return nil, usageErrorf("--env-file: %w", err)
		}
	}
	given := map[string]bool{}
	for _, text := range o.env {
		name, value, hasValue := strings.Cut(text, "=")
		if name == "" {
			return nil, usageErrorf("--env %q: write NAME=VALUE, or NAME for the value that it has here", text)
		}
		if given[name] {
			return nil, usageErrorf("--env %s is given twice", name)
		}
		given[name] = true
		if hasValue {
			env.set(batch.EnvVar{Name: name, Value: value})
			continue
		}
		variable, err := inherited(name)
		if err != nil {
			return nil, usageErrorf("--env %w", err)
		}
		env.set(variable)
	}
	size := 0
	for _, variable := range env {
		size += len(variable.Name) + len(variable.Value)
	}
	if size > largeEnvironment {
		fmt.Fprintf(o.streams.ErrOut, "warning: %d variables of %d KiB are stored with each task and sent to every client that watches tasks\n", len(env), size>>10)
	}
	return env, nil
}

// inherited returns the variable with its value in the environment of this process.
func inherited(name string) (batch.EnvVar, error) {
	value, ok := os.LookupEnv(name)
	switch {
	case !ok:
		return batch.EnvVar{}, fmt.Errorf("%s: no such variable is set here: write %s=VALUE", name, name)
	case !utf8.ValidString(value):
		return batch.EnvVar{}, fmt.Errorf("%s: its value here is not UTF-8: write %s=VALUE", name, name)
	}
	return literal(name, value), nil
}

// exportTo adds the environment of this process, except variables of the shell or of the surrounding task and variables
// that cannot be stored.
func (o *runOptions) exportTo(env *environment) {
	var leftOut []string
	for _, text := range os.Environ() {
		name, value, _ := strings.Cut(text, "=")
		switch {
		case slices.Contains([]string{"_", "SHLVL", "PWD", "OLDPWD", "JOB_COMPLETION_INDEX"}, name) || strings.HasPrefix(name, "TASK_"):
		case len(validation.IsRelaxedEnvVarName(name)) > 0 || !utf8.ValidString(value):
			leftOut = append(leftOut, fmt.Sprintf("%q", name))
		default:
			env.set(literal(name, value))
		}
	}
	fmt.Fprintf(o.streams.ErrOut, "warning: --export stores your environment, %s, readable by every user who can read tasks; --env NAME copies one variable\n",
		plural(len(*env), "variable"))
	if len(leftOut) > 0 {
		fmt.Fprintf(o.streams.ErrOut, "warning: --export skips variables that cannot be stored: %s\n", strings.Join(leftOut, ", "))
	}
}

// readEnvFile reads variables as docker does. Each line is NAME=VALUE, with the value taken literally, or NAME for the
// value in the environment of this process. Empty lines and lines that begin with # are skipped.
func (o *runOptions) readEnvFile(file string, env *environment) error {
	from, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("%w: name a file with NAME=VALUE on each line", err)
	}
	defer from.Close()
	reader, err := withoutByteOrderMark(from)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, maxTextBytes)
	n := 1
	for ; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if text := strings.TrimSpace(line); text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(line, " \t"), "=")
		var variable batch.EnvVar
		switch {
		case name == "" || strings.ContainsAny(name, " \t"):
			return fmt.Errorf("%s: line %d: %q: write NAME=VALUE, or NAME for the value that it has here", file, n, line)
		case !utf8.ValidString(line):
			return fmt.Errorf("%s: line %d is not UTF-8", file, n)
		case hasValue:
			variable = literal(name, value)
		default:
			if variable, err = inherited(name); err != nil {
				return fmt.Errorf("%s: line %d: %w", file, n, err)
			}
		}
		env.set(variable)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: line %d: %w", file, n, err)
	}
	return nil
}

// withoutByteOrderMark returns a reader that skips the byte order mark of UTF-8. It returns an error if the mark is
// that of UTF-16.
func withoutByteOrderMark(from io.Reader) (io.Reader, error) {
	reader := bufio.NewReaderSize(from, 4<<10)
	start, err := reader.Peek(3)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte("\xef\xbb\xbf")):
		_, err = reader.Discard(3)
		return reader, err
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		return nil, fmt.Errorf("the file is UTF-16: convert it with iconv -f utf-16 -t utf-8")
	}
	return reader, nil
}
