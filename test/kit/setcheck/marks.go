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

package setcheck

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// MarkFunction is a function of bash that appends a mark to the file $MARKS: "mark start", "mark end" or "mark fail". A
// command marks its start first, and its success or failure last.
const MarkFunction = `mark() { echo "$1 $TASK_INDEX $` + reaper.MarkVariable + ` ${EPOCHREALTIME/[.,]/}" >> "$MARKS"; }
`

// MarkKind is what a command has recorded.
type MarkKind string

// A command marks its start, and then its success or its failure.
const (
	Start MarkKind = "start"
	End   MarkKind = "end"
	Fail  MarkKind = "fail"
)

// Mark is a record of the command of an index.
type Mark struct {
	Kind  MarkKind
	Index int
	// Task and Incarnation are those of the task that ran the index, and of its worker.
	Task                types.UID
	Worker, Incarnation string
	At                  time.Time
}

// ParseMarks parses a file of marks. The mark of a process is <owner>/<namespace>/<worker>/<incarnation>/<attempt>.
func ParseMarks(data string) (all []Mark, err error) {
	for line := range strings.Lines(data) {
		var m Mark
		var process string
		var micros int64
		if _, err := fmt.Sscan(line, &m.Kind, &m.Index, &process, &micros); err != nil {
			return nil, fmt.Errorf("mark %q: %w", line, err)
		}
		parts := strings.Split(process, "/")
		if len(parts) < 4 {
			return nil, fmt.Errorf("mark %q: the process is %q, want <owner>/<namespace>/<worker>/<incarnation>/<attempt>", line, process)
		}
		id, ok := attempt.Parse(parts[len(parts)-1])
		if !ok {
			return nil, fmt.Errorf("mark %q: there is no attempt at the end of %q", line, process)
		}
		m.Task, m.Incarnation, m.Worker = id.Task, parts[len(parts)-2], parts[len(parts)-3]
		m.At = time.UnixMicro(micros)
		all = append(all, m)
	}
	return all, nil
}
