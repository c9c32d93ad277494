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

// Package workerselector has the filter for spec.workerSelector of tasks.
package workerselector

import (
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// WorkerSelector rejects workers that lack a label of the task's worker selector.
type WorkerSelector struct{}

var _ framework.FilterPlugin = WorkerSelector{}

// Name returns the name of the plugin.
func (WorkerSelector) Name() string { return "WorkerSelector" }

// Filter reports whether the worker has all labels of the worker selector.
func (WorkerSelector) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	for key, value := range task.Object.Spec.WorkerSelector {
		if got, ok := worker.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Reasons returns one reason if Filter returns false, with a detail for each label that the worker lacks.
func (p WorkerSelector) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	if p.Filter(task, worker) {
		return nil
	}
	reason := framework.Reason{Summary: "did not match the task's worker selector"}
	selector := task.Object.Spec.WorkerSelector
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		if got, ok := worker.Labels[key]; !ok || got != selector[key] {
			reason.Details = append(reason.Details, "lacks the label "+labels.Set{key: selector[key]}.String())
		}
	}
	return []framework.Reason{reason}
}

// Sign appends the worker selector of the task.
func (WorkerSelector) Sign(signature []byte, task *framework.TaskInfo) []byte {
	selector := task.Object.Spec.WorkerSelector
	if len(selector) == 0 {
		return signature
	}
	signature = append(signature, "WorkerSelector:"...)
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		signature = strconv.AppendQuote(signature, key)
		signature = append(signature, '=')
		signature = strconv.AppendQuote(signature, selector[key])
		signature = append(signature, ',')
	}
	return append(signature, ';')
}
