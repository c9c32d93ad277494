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

package taskset

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// What is counted here is counted when the status that says so is stored, so nothing is counted twice: a controller that is killed
// between the two leaves it out. The exact numbers are those of the sets. docs/metrics.md describes them all.
var (
	setsFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_tasksets_finished_total",
		Help: "Task sets that have become Complete (result succeeded) or Failed, by the reason of the condition.",
	}, []string{"completion_mode", "result", "reason"})

	tasksCounted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_taskset_tasks_finished_total",
		Help: "Finished tasks that were counted in the status of their set.",
	}, []string{"completion_mode", "result"})

	tasksCreated = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_taskset_task_creations_total",
		Help: "Requests to create a task of a set: new for the first one of an index, retry after failures of the index.",
	}, []string{"reason", "result"})

	startDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "leat_taskset_task_start_duration_seconds",
		Help: "Time from the request to create a task of a set until the controller has seen that it runs, or that it has finished if " +
			"that is seen first, on the controller's clock.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 18), // 5 ms to 11 min
	})
)

func init() {
	metrics.Registry.MustRegister(setsFinished, tasksCounted, tasksCreated, startDuration)
}

// The values of the label result.
const succeeded, failed = "succeeded", "failed"

func completionMode(set *batch.TaskSet) string {
	return string(ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion))
}

// meter counts what a stored status says that the one before did not: the tasks that are counted in it and the end of the set.
func (p *pass) meter(before, after *batch.TaskSet) {
	mode := completionMode(after)
	for _, e := range p.ledger.counted {
		result := succeeded
		if e.phase == batch.TaskFailed {
			result = failed
		}
		tasksCounted.WithLabelValues(mode, result).Inc()
	}
	if final := finished(after); final != nil && finished(before) == nil {
		result := succeeded
		if final.Type == batch.TaskSetFailed {
			result = failed
		}
		setsFinished.WithLabelValues(mode, result, final.Reason).Inc()
	}
}

// meterCreation counts a request to create a task.
func meterCreation(s start, err error) {
	reason, result := "new", succeeded
	if s.failures > 0 {
		reason = "retry"
	}
	if err != nil {
		result = failed
	}
	tasksCreated.WithLabelValues(reason, result).Inc()
}

// meterStart takes in when a task was seen in its present phase.
func (e *entry) meterStart(at time.Time) {
	if e.requestedAt.IsZero() || e.phase == "" || e.phase == batch.TaskPending {
		return
	}
	startDuration.Observe(at.Sub(e.requestedAt).Seconds())
	e.requestedAt = time.Time{}
}
