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

package worker

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
)

// maxExpanded is how many bytes the arguments and the variables of a task may have once they are expanded: more than any system starts a
// program with. References to references double what they yield, and would else take all the memory of the worker.
const maxExpanded = 8 << 20

// expand replaces the references $(NAME) in s that are in vars, by the rules for the containers of a Pod: $$ stands for a
// single $, a reference to an unknown name stays as it is, and what a reference yields is not expanded again. It gives up, and
// gives what it has, once that is longer than limit.
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

// invocation is a command as it is given to the operating system.
type invocation struct {
	argv []string
	dir  string
	env  []string

	tooLong  bool      // it cannot be started: argv and env are not complete
	mark     string    // an entry of env that no other attempt has
	group    *group    // to start in, or nil
	oomScore int64     // zero: as it is
	log      *logs.Log // takes all output, or nil
}

// invocationOf is what an attempt at a task runs. Its environment is the worker's own, then the task's, then what says which
// task it is, and in which file it may say how far it is. References see the last two only, and of the task's variables those before
// them. Variables of the worker's own that are withheld are not in it.
func invocationOf(task *batch.Task, attempt int32, progress progressFile, withheld []string) invocation {
	identity := map[string]string{
		"TASK_NAME":      task.Name,
		"TASK_NAMESPACE": task.Namespace,
		"TASK_ATTEMPT":   strconv.Itoa(int(attempt)),
	}
	if progress != "" {
		identity[progressVariable] = string(progress)
	}
	inv := invocation{dir: task.Spec.WorkingDir, env: slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(withheld, name)
	})}
	vars, room := maps.Clone(identity), maxExpanded
	expanded := func(text string) string {
		if inv.tooLong {
			return ""
		}
		text = expand(text, vars, room)
		room -= len(text)
		inv.tooLong = room < 0
		return text
	}
	for _, e := range task.Spec.Env {
		if _, taken := identity[e.Name]; taken {
			continue
		}
		vars[e.Name] = expanded(e.Value)
		inv.env = append(inv.env, e.Name+"="+vars[e.Name])
	}
	for name, value := range identity {
		inv.env = append(inv.env, name+"="+value)
	}
	for _, args := range [][]string{task.Spec.Command, task.Spec.Args} {
		for _, arg := range args {
			inv.argv = append(inv.argv, expanded(arg))
		}
	}
	return inv
}
