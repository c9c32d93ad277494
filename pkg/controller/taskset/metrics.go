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
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/ptr"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// The counters of finished tasks and sets increase when the status that counts them is stored, so nothing is counted
// twice. A controller that is killed in between misses some; the statuses of the sets are exact.
// docs/reference/metrics.md describes all metrics.
var (
	setsFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.TaskSetsFinishedTotal,
		Help: "Task sets that have become Complete (result succeeded) or Failed, by the reason of the condition.",
	}, []string{"completion_mode", "result", "reason"})

	tasksCounted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.TaskSetTasksFinishedTotal,
		Help: "Finished tasks that were counted in the status of their task set.",
	}, []string{"completion_mode", "result"})

	indexesFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.FinishedIndexesTotal,
		Help: "Indexes of task sets that have succeeded or failed, as counted in the status of their task set.",
	}, []string{"result"})

	tasksCreated = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.TaskSetTaskCreationsTotal,
		Help: "Requests to create a task of a task set, by reason: new for the first task of an index, retry after a failure of the index.",
	}, []string{"reason", "result"})

	startDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: metrics.TaskSetTaskStartDurationSeconds,
		Help: "Time from the request to create a task of a task set until the controller observes that the task runs or has finished, " +
			"on the controller's clock.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 18), // 5 ms to 11 min
	})
)

func init() {
	ctrlmetrics.Registry.MustRegister(setsFinished, tasksCounted, indexesFinished, tasksCreated, startDuration)
}

// completionMode returns the value of the label completion_mode.
func completionMode(set *batch.TaskSet) string {
	return string(ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion))
}

// recordMetrics records the tasks that a stored status counts and the one before did not, and the end of the set.
func (s *syncContext) recordMetrics(before, after *batch.TaskSet) {
	mode := completionMode(after)
	for _, task := range s.state.Counted() {
		result := metrics.Succeeded
		if !task.Succeeded() {
			result = metrics.Failed
		}
		tasksCounted.WithLabelValues(mode, result).Inc()
	}
	indexesFinished.WithLabelValues(metrics.Succeeded).Add(float64(max(0, after.Status.Succeeded-before.Status.Succeeded)))
	indexesFinished.WithLabelValues(metrics.Failed).Add(float64(max(0, failedIndexes(after)-failedIndexes(before))))
	if final := state.FinishedCondition(after); final != nil && state.FinishedCondition(before) == nil {
		result := metrics.Succeeded
		if final.Type == batch.TaskSetFailed {
			result = metrics.Failed
		}
		setsFinished.WithLabelValues(mode, result, final.Reason).Inc()
	}
}

// failedIndexes returns how many indexes of a set have failed for good.
func failedIndexes(set *batch.TaskSet) int {
	ranges, err := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), math.MaxInt32)
	if err != nil {
		return 0
	}
	return indexes.Count(ranges)
}

// recordCreation records a request to create a task.
func recordCreation(task state.TaskToCreate, err error) {
	reason := "new"
	if task.FailureCount > 0 {
		reason = "retry"
	}
	tasksCreated.WithLabelValues(reason, metrics.Result(err)).Inc()
}
