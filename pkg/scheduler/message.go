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

package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// reasonReserved is the reason why a worker that passes all filters does not fit a task.
const reasonReserved = "was held back for a task that comes first"

// unschedulableReasons returns why a worker does not fit a task, as the part of a sentence that follows the number of
// workers. It returns the reasons of the first filter only. It returns nothing if the worker fits.
func (ns *namespaceState) unschedulableReasons(t *framework.TaskInfo, w *cache.Worker) []string {
	var summaries []string
	for _, reason := range ns.state.filters.FirstReasons(t, &w.WorkerInfo) {
		summaries = append(summaries, reason.Summary)
	}
	if len(summaries) == 0 && !ns.reservations.Admits(t, &w.WorkerInfo) {
		summaries = []string{reasonReserved}
	}
	return summaries
}

// unschedulableMessage returns the message for a task that fits none of the workers of its namespace.
func (ns *namespaceState) unschedulableMessage(t *framework.TaskInfo) string {
	total, counts := 0, map[string]int{}
	for _, w := range ns.workers.Workers() {
		if !w.Registered {
			continue
		}
		total++
		for _, reason := range ns.unschedulableReasons(t, w) {
			counts[reason]++
		}
	}
	if total == 0 {
		return "0/0 workers are available: the namespace has no workers."
	}
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		if rest, ok := strings.CutPrefix(reason, "was "); ok && n > 1 {
			reason = "were " + rest
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d workers are available: %s.", total, strings.Join(parts, ", "))
}

// reportedMessage returns the unschedulable message in the status of a task. It is empty if there is none.
func reportedMessage(obj *batch.Task) string {
	c := meta.FindStatusCondition(obj.Status.Conditions, batch.TaskScheduled)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != batch.TaskReasonUnschedulable {
		return ""
	}
	return c.Message
}
