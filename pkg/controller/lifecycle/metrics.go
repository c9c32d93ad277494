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
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// All tasks that finish pass the watch of finished tasks, of a set or not: they are counted there. docs/metrics.md describes all
// metrics.
var (
	tasksFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_tasks_finished_total",
		Help: "Tasks that were seen to finish, by the reason of their terminated state.",
	}, []string{"result", "reason"})

	taskDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "leat_finished_task_duration_seconds",
		Help:    "Time from the start of a finished task's first attempt to the end of its last one, by its status, which has whole seconds.",
		Buckets: longBuckets,
	}, []string{"result"})

	taskWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "leat_finished_task_wait_seconds",
		Help:    "Time from the creation of a finished task to the start of its first attempt, by its status, which has whole seconds.",
		Buckets: longBuckets,
	})

	taskRetries = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_finished_task_retries_total",
		Help: "Attempts at finished tasks after failed ones, without those that disruptions have cost.",
	})

	taskDisruptions = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_finished_task_disruptions_total",
		Help: "How often finished tasks had been taken from a worker, whoever did it.",
	})

	taskEvictions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_lifecycle_evictions_total",
		Help: "Tasks that the lifecycle controller has taken from workers.",
	}, []string{"reason"})

	taskDeletions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_lifecycle_task_deletions_total",
		Help: "Tasks that the lifecycle controller has deleted.",
	}, []string{"reason"})

	workerStates = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "leat_workers",
		Help: "Workers by the status of their Ready condition: ready (True), not_ready (False), unreachable (Unknown).",
	}, []string{"state"})

	workerTransitions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_lifecycle_worker_transitions_total",
		Help: "Workers that were marked as lost, have returned after that, or were removed.",
	}, []string{"transition"})

	leaseLists = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "leat_lifecycle_lease_list_duration_seconds",
		Help:    "Duration of a list of all leases of workers.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 13), // 5 ms to 20 s
	}, []string{"result"})
)

// longBuckets are those of the times of tasks, from seconds to a day.
var longBuckets = []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400}

func init() {
	metrics.Registry.MustRegister(tasksFinished, taskDuration, taskWait, taskRetries, taskDisruptions,
		taskEvictions, taskDeletions, workerStates, workerTransitions, leaseLists)
}

// The values of labels.
const (
	succeeded, failed = "succeeded", "failed"
	otherReason       = "Other"

	transitionLost, transitionReturned, transitionRemoved = "lost", "returned", "removed"

	deletionWorkerLost  = "WorkerLost"
	deletionTimeToLive  = "TimeToLive"
	deletionInterrupted = "DeletionInterrupted"
)

// meterFinished takes in a task that has finished.
func meterFinished(task *batch.Task) {
	s := &task.Status
	result, reason := succeeded, otherReason
	if s.Phase == batch.TaskFailed {
		result = failed
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
	// The server's clock and the worker's may disagree.
	taskWait.Observe(max(0, s.StartTime.Sub(task.CreationTimestamp.Time).Seconds()))
	if s.CompletionTime != nil {
		taskDuration.WithLabelValues(result).Observe(max(0, s.CompletionTime.Sub(s.StartTime.Time).Seconds()))
	}
}

// meterWorkers takes in all workers there are.
func meterWorkers(all []*batch.Worker) {
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

// meterLeaseList takes in a list of leases that was begun at a time.
func meterLeaseList(begun time.Time, err error) {
	result := succeeded
	if err != nil {
		result = failed
	}
	leaseLists.WithLabelValues(result).Observe(time.Since(begun).Seconds())
}
