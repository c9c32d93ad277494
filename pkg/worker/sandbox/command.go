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
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/process"
)

// maxExpanded is how many bytes the arguments and variables of a task may have after expansion. No system starts a
// program with more. References to references can double in size each time, and must not use up the memory of the
// worker.
const maxExpanded = 8 << 20

// expand replaces the references $(NAME) in s by the values in vars, with the rules for the containers of a Pod: $$
// is a single $, a reference to an unknown name stays, and values are not expanded again. It stops, and returns an
// incomplete result, once that is longer than limit.
func expand(s string, vars map[string]string, limit int) string {
	var b strings.Builder
	for b.Len() <= limit {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		s = s[i+1:]
		switch s[0] {
		case '$':
			b.WriteByte('$')
			s = s[1:]
		case '(':
			name, rest, closed := strings.Cut(s[1:], ")")
			value, known := vars[name]
			switch {
			case !closed:
				b.WriteString("$(")
				s = s[1:]
			case !known:
				b.WriteString("$(" + name + ")")
				s = rest
			default:
				b.WriteString(value)
				s = rest
			}
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// variable is an entry of an environment and its name.
type variable struct{ name, entry string }

// inheritedEnv returns the environment of this process without the withheld variables. Of several entries for a name it
// has the last.
func inheritedEnv(withheld []string) []variable {
	var env []variable
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		env = slices.DeleteFunc(env, func(v variable) bool { return v.name == name })
		if !slices.Contains(withheld, name) {
			env = append(env, variable{name, entry})
		}
	}
	return env
}

// newCommand returns the command of an attempt. Its environment is the inherited one, then that of the task, then
// variables that identify the task, its devices and its progress file; the later ones override the earlier ones.
// References are expanded with the latter two; those in the task's variables only with variables before them. A command
// that is too long is incomplete, and has an Err.
func newCommand(task *batch.Task, attempt int32, progress ProgressFile, devices map[string]string, inherited []variable) process.Command {
	identity := map[string]string{
		"TASK_NAME":      task.Name,
		"TASK_NAMESPACE": task.Namespace,
		"TASK_ATTEMPT":   strconv.Itoa(int(attempt)),
	}
	maps.Copy(identity, devices)
	if progress != "" {
		identity[progressVariable] = string(progress)
	}
	c := process.Command{
		Dir: task.Spec.WorkingDir,
		Env: make([]string, 0, len(inherited)+len(task.Spec.Env)+len(identity)+1), // and a mark
	}
	vars, room := maps.Clone(identity), maxExpanded
	expanded := func(text string) string {
		if c.Err != nil {
			return ""
		}
		text = expand(text, vars, room)
		room -= len(text)
		if room < 0 {
			c.Err = fmt.Errorf("command, args and env have more than %d bytes once references are expanded: refer to less", maxExpanded)
		}
		return text
	}
	for _, e := range task.Spec.Env {
		if _, reserved := identity[e.Name]; reserved {
			continue
		}
		vars[e.Name] = expanded(e.Value)
		c.Env = append(c.Env, e.Name+"="+vars[e.Name])
	}
	for _, v := range inherited {
		if _, overridden := vars[v.name]; !overridden {
			c.Env = append(c.Env, v.entry)
		}
	}
	for name, value := range identity {
		c.Env = append(c.Env, name+"="+value)
	}
	for _, args := range [][]string{task.Spec.Command, task.Spec.Args} {
		for _, arg := range args {
			c.Argv = append(c.Argv, expanded(arg))
		}
	}
	return c
}
