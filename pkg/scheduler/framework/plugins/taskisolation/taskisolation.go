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

// Package taskisolation has the filter for tasks that need a worker of their own.
package taskisolation

import (
	"fmt"

	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// TaskIsolation rejects workers with other tasks for a task that runs alone, and workers with a task that runs alone
// for all other tasks.
type TaskIsolation struct{}

var _ framework.FilterPlugin = TaskIsolation{}

// Name returns the name of the plugin.
func (TaskIsolation) Name() string { return "TaskIsolation" }

// Filter reports whether neither the task nor a task on the worker would lose the worker of its own.
func (TaskIsolation) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return worker.TasksAlone == 0 && (!task.Alone || worker.Tasks == 0)
}

// Reasons returns the reason if Filter returns false.
func (TaskIsolation) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	switch {
	case worker.TasksAlone > 0:
		return []framework.Reason{{
			Summary: "ran a task alone whose worker has crashed before",
			Details: []string{"runs a task alone whose worker has crashed before"},
		}}
	case task.Alone && worker.Tasks > 0:
		others := "1 other task"
		if worker.Tasks > 1 {
			others = fmt.Sprintf("%d other tasks", worker.Tasks)
		}
		return []framework.Reason{{
			Summary: "ran other tasks (the task runs alone since its worker has crashed)",
			Details: []string{fmt.Sprintf("runs %s, and the task runs alone since its worker has crashed", others)},
		}}
	}
	return nil
}

// Sign appends whether the task runs alone.
func (p TaskIsolation) Sign(signature []byte, task *framework.TaskInfo) []byte {
	if !task.Alone {
		return signature
	}
	return append(signature, "TaskIsolation;"...)
}
