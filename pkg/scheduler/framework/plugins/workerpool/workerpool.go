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

// Package workerpool has the filter for spec.pool of tasks.
package workerpool

import (
	"strconv"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// WorkerPool rejects workers that are not in the pool of the task, if it has one.
type WorkerPool struct{}

var _ framework.FilterPlugin = WorkerPool{}

// Name returns the name of the plugin.
func (WorkerPool) Name() string { return "WorkerPool" }

// Filter reports whether the worker is in the pool of the task.
func (WorkerPool) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	pool := task.Object.Spec.Pool
	return pool == "" || worker.Labels[batch.LabelPool] == pool
}

// Reasons returns the reason if Filter returns false.
func (p WorkerPool) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	pool := task.Object.Spec.Pool
	return []framework.Reason{{Summary: "was not in the pool " + pool, Details: []string{"is not in the pool " + pool}}}
}

// Sign appends the pool of the task.
func (WorkerPool) Sign(signature []byte, task *framework.TaskInfo) []byte {
	if task.Object.Spec.Pool == "" {
		return signature
	}
	return append(strconv.AppendQuote(append(signature, "WorkerPool:"...), task.Object.Spec.Pool), ';')
}
