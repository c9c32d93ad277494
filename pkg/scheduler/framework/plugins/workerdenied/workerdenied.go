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

// Package workerdenied has the filter for spec.denied of workers.
package workerdenied

import "github.com/leat-dev/leat/pkg/scheduler/framework"

// WorkerDenied rejects workers that an administrator has denied.
type WorkerDenied struct{}

var _ framework.FilterPlugin = WorkerDenied{}

// Name returns the name of the plugin.
func (WorkerDenied) Name() string { return "WorkerDenied" }

// Filter reports whether the worker is not denied.
func (WorkerDenied) Filter(_ *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return !worker.Denied
}

// Reasons returns the reason if Filter returns false.
func (p WorkerDenied) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	return []framework.Reason{{Summary: "was denied", Details: []string{"is denied"}}}
}

// Sign appends nothing: the filter does not read the task.
func (WorkerDenied) Sign(signature []byte, _ *framework.TaskInfo) []byte { return signature }
