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

// Package workerfeatures has the filter for the features of the API that a task needs.
package workerfeatures

import (
	"slices"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// WorkerFeatures rejects workers that do not support tasks with several indexes for such tasks. They would run the
// command once, without an index.
type WorkerFeatures struct{}

var _ framework.FilterPlugin = WorkerFeatures{}

// Name returns the name of the plugin.
func (WorkerFeatures) Name() string { return "WorkerFeatures" }

// Filter reports whether the worker supports what the task needs.
func (WorkerFeatures) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return !needsChunks(task) || slices.Contains(worker.Features, batch.WorkerFeatureChunks)
}

// Reasons returns the reason if Filter returns false.
func (p WorkerFeatures) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	return []framework.Reason{{
		Summary: "did not support tasks with several indexes (upgrade needed)",
		Details: []string{"does not support tasks with several indexes (upgrade needed)"},
	}}
}

// Sign appends the feature that the task needs.
func (WorkerFeatures) Sign(signature []byte, task *framework.TaskInfo) []byte {
	if !needsChunks(task) {
		return signature
	}
	return append(signature, "WorkerFeatures:chunks;"...)
}

func needsChunks(task *framework.TaskInfo) bool { return task.Object.Spec.Indexes != "" }
