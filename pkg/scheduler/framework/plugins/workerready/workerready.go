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

// Package workerready has the filter for the Ready condition of workers.
package workerready

import (
	"k8s.io/apimachinery/pkg/api/meta"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// WorkerReady rejects workers that are not ready, or that have no incarnation that a task could be bound to.
type WorkerReady struct{}

var _ framework.FilterPlugin = WorkerReady{}

// Name returns the name of the plugin.
func (WorkerReady) Name() string { return "WorkerReady" }

// Filter reports whether the worker is ready.
func (WorkerReady) Filter(_ *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return worker.Ready
}

// Reasons returns the reason if Filter returns false.
func (p WorkerReady) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	detail := "is not ready"
	if worker.Object != nil {
		c := meta.FindStatusCondition(worker.Object.Status.Conditions, batch.WorkerReady)
		if c != nil && c.Reason != "" {
			detail += " (" + c.Reason + ")"
		}
	}
	return []framework.Reason{{Summary: "was not ready", Details: []string{detail}}}
}

// Sign appends nothing: the filter does not read the task.
func (WorkerReady) Sign(signature []byte, _ *framework.TaskInfo) []byte { return signature }
