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

package lifecycle

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
)

// All finished tasks, of sets or not, appear in the watch of finished tasks and are recorded there.
// docs/reference/metrics.md describes all metrics.
var (
	tasksFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.TasksFinishedTotal,
		Help: "Tasks that have finished, by the reason of their terminated state.",
	}, []string{"result", "reason"})

	taskDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metrics.FinishedTaskDurationSeconds,
		Help:    "Time from the start of a finished task's first attempt to the end of its last one, from its status, in whole seconds.",
		Buckets: longBuckets,
	}, []string{"result"})

	taskWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metrics.FinishedTaskWaitSeconds,
		Help:    "Time from the creation of a finished task to the start of its first attempt, from its status, in whole seconds.",
		Buckets: longBuckets,
	})

	taskRetries = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metrics.FinishedTaskRetriesTotal,
		Help: "Attempts of finished tasks that followed a failed attempt, excluding those that followed a disruption.",
	})

	taskDisruptions = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metrics.FinishedTaskDisruptionsTotal,
		Help: "Disruptions of finished tasks: evictions from a worker, by any client.",
	})

	taskEvictions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.LifecycleEvictionsTotal,
		Help: "Tasks evicted by the lifecycle controller.",
	}, []string{"reason"})

	taskDeletions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.LifecycleTaskDeletionsTotal,
		Help: "Tasks deleted by the lifecycle controller.",
	}, []string{"reason"})

	workerStates = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metrics.Workers,
		Help: "Workers by the status of their Ready condition: ready (True), not_ready (False), unreachable (Unknown).",
	}, []string{"state"})

	workerTransitions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.LifecycleWorkerTransitionsTotal,
		Help: "Workers that were marked as lost, that have returned after that, and that were removed.",
	}, []string{"transition"})

	leaseLists = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metrics.LifecycleLeaseListDurationSeconds,
		Help:    "Duration of a list of all worker leases.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 13), // 5 ms to 20 s
	}, []string{"result"})
)

// longBuckets are the buckets for durations of tasks, from a second to a day.
var longBuckets = []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400}

func init() {
	ctrlmetrics.Registry.MustRegister(tasksFinished, taskDuration, taskWait, taskRetries, taskDisruptions,
		taskEvictions, taskDeletions, workerStates, workerTransitions, leaseLists)
}

// Values of labels.
const (
	otherReason = "Other"

	transitionLost, transitionReturned, transitionRemoved = "lost", "returned", "removed"

	deletionWorkerLost  = "WorkerLost"
	deletionTimeToLive  = "TimeToLive"
	deletionInterrupted = "DeletionInterrupted"
)

// recordFinished records a task that has finished.
func recordFinished(task *batch.Task) {
	s := &task.Status
	result, reason := metrics.Succeeded, otherReason
	if s.Phase == batch.TaskFailed {
		result = metrics.Failed
	}
	if t := s.State.Terminated; t != nil {
		switch t.Reason {
		case batch.TaskReasonCompleted, batch.TaskReasonError, batch.TaskReasonStartError, batch.TaskReasonDeadlineExceeded,
			batch.TaskReasonOOMKilled:
			reason = t.Reason
		}
	}
	tasksFinished.WithLabelValues(result, reason).Inc()
	taskRetries.Add(float64(max(0, s.Attempts-s.Disruptions-1)))
	taskDisruptions.Add(float64(max(0, s.Disruptions)))
	if s.StartTime == nil {
		return
	}
	// The clocks of the server and the worker may differ.
	taskWait.Observe(max(0, s.StartTime.Sub(task.CreationTimestamp.Time).Seconds()))
	if s.CompletionTime != nil {
		taskDuration.WithLabelValues(result).Observe(max(0, s.CompletionTime.Sub(s.StartTime.Time).Seconds()))
	}
}

// recordWorkers records the states of all workers.
func recordWorkers(all []*batch.Worker) {
	count := map[string]float64{"ready": 0, "not_ready": 0, "unreachable": 0}
	for _, worker := range all {
		state := "not_ready"
		if ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); ready != nil {
			switch ready.Status {
			case metav1.ConditionTrue:
				state = "ready"
			case metav1.ConditionUnknown:
				state = "unreachable"
			}
		}
		count[state]++
	}
	for state, n := range count {
		workerStates.WithLabelValues(state).Set(n)
	}
}

// recordLeaseList records a list of leases that started at that time.
func recordLeaseList(start time.Time, err error) {
	leaseLists.WithLabelValues(metrics.Result(err)).Observe(time.Since(start).Seconds())
}
