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

// Package tainttoleration has the filter for taints of workers and tolerations of tasks.
package tainttoleration

import (
	"fmt"
	"slices"
	"strconv"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// TaintToleration rejects workers with a taint that the task does not tolerate. Taints with the effect PreferNoSchedule
// do not count: see ToleratesPreferNoSchedule.
type TaintToleration struct{}

var _ framework.FilterPlugin = TaintToleration{}

// Name returns the name of the plugin.
func (TaintToleration) Name() string { return "TaintToleration" }

// Filter reports whether the task tolerates all NoSchedule and NoExecute taints of the worker.
func (TaintToleration) Filter(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return firstUntolerated(task, worker, isHard) == nil
}

// Reasons returns one reason if Filter returns false, with a detail for each taint that the task does not tolerate.
func (TaintToleration) Reasons(task *framework.TaskInfo, worker *framework.WorkerInfo) []framework.Reason {
	var reason framework.Reason
	for i := range worker.Taints {
		taint := &worker.Taints[i]
		if !isHard(taint.Effect) || tolerates(task, taint) {
			continue
		}
		if reason.Summary == "" {
			reason.Summary = fmt.Sprintf("had untolerated taint {%s: %s}", taint.Key, taint.Value)
		}
		reason.Details = append(reason.Details,
			fmt.Sprintf("has the taint %s=%s:%s, which the task does not tolerate", taint.Key, taint.Value, taint.Effect))
	}
	if reason.Summary == "" {
		return nil
	}
	return []framework.Reason{reason}
}

// Sign appends the tolerations of the task.
func (TaintToleration) Sign(signature []byte, task *framework.TaskInfo) []byte {
	if len(task.Object.Spec.Tolerations) == 0 {
		return signature
	}
	signature = append(signature, "TaintToleration:"...)
	for _, t := range task.Object.Spec.Tolerations {
		for _, field := range []string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			signature = strconv.AppendQuote(signature, field)
		}
		signature = append(signature, ',')
	}
	return append(signature, ';')
}

// HasPreferNoSchedule reports whether the worker has a taint with the effect PreferNoSchedule.
func HasPreferNoSchedule(worker *framework.WorkerInfo) bool {
	return slices.ContainsFunc(worker.Taints, func(t batch.Taint) bool { return isPreference(t.Effect) })
}

// ToleratesPreferNoSchedule reports whether the task tolerates all PreferNoSchedule taints of the worker.
func ToleratesPreferNoSchedule(task *framework.TaskInfo, worker *framework.WorkerInfo) bool {
	return firstUntolerated(task, worker, isPreference) == nil
}

// firstUntolerated returns the first taint with such an effect that the task does not tolerate, or nil.
func firstUntolerated(task *framework.TaskInfo, worker *framework.WorkerInfo, effect func(batch.TaintEffect) bool) *batch.Taint {
	for i := range worker.Taints {
		if taint := &worker.Taints[i]; effect(taint.Effect) && !tolerates(task, taint) {
			return taint
		}
	}
	return nil
}

func tolerates(task *framework.TaskInfo, taint *batch.Taint) bool {
	return slices.ContainsFunc(task.Object.Spec.Tolerations, func(t batch.Toleration) bool { return t.ToleratesTaint(taint) })
}

func isHard(effect batch.TaintEffect) bool {
	return effect == batch.TaintEffectNoSchedule || effect == batch.TaintEffectNoExecute
}

func isPreference(effect batch.TaintEffect) bool {
	return effect == batch.TaintEffectPreferNoSchedule
}
