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

package taskstate

import (
	"strings"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// Failure is how a task has failed, in short.
type Failure struct {
	Task     string
	Index    int // -1 if the task has none
	Exit     string
	LastLine string // of the output
	Worker   string
	Attempts int32
	Ended    time.Time
}

// FailureOf returns how a failed task has failed.
func FailureOf(task *batch.Task) Failure {
	f := Failure{Task: task.Name, Index: -1, Worker: task.Spec.WorkerName, Attempts: task.Status.Attempts}
	if index, ok := FailedIndex(task); ok {
		f.Index = index
	}
	if task.Status.CompletionTime != nil {
		f.Ended = task.Status.CompletionTime.Time
	}
	if end := task.Status.State.Terminated; end != nil {
		f.Exit = Exit(end.Reason, end.ExitCode, end.Signal)
		if lines := sanitize.Lines(end.Message); len(lines) > 0 {
			f.LastLine = sanitize.Truncate(strings.TrimSpace(lines[len(lines)-1]), 200)
		}
	}
	return f
}
