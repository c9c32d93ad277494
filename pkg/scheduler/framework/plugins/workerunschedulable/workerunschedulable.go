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

// Package workerunschedulable has the filter for spec.unschedulable of workers.
package workerunschedulable

import "github.com/leat-dev/leat/pkg/scheduler/framework"

// WorkerUnschedulable rejects workers that are cordoned.
type WorkerUnschedulable struct{}

var _ framework.FilterPlugin = WorkerUnschedulable{}

// Name returns the name of the plugin.
func (WorkerUnschedulable) Name() string { return "WorkerUnschedulable" }

// Filter reports whether the worker is not cordoned.
func (WorkerUnschedulable) Filter(_ *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return !worker.Unschedulable
}

// Reasons returns the reason if Filter returns false.
func (p WorkerUnschedulable) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	return []framework.Reason{{Summary: "was unschedulable", Details: []string{"is cordoned"}}}
}

// Sign appends nothing: the filter does not read the task.
func (WorkerUnschedulable) Sign(signature []byte, _ *framework.TaskInfo) []byte { return signature }
