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

package taskrunner

import (
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/metrics"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of the workers that share a registerer. No label names a task or a worker; the scraper adds
// the worker.
type Metrics struct {
	running      prometheus.Gauge
	finished     *prometheus.CounterVec
	indexes      *prometheus.CounterVec
	attempts     prometheus.Counter
	retries      prometheus.Counter
	duration     *prometheus.HistogramVec
	startLatency prometheus.Histogram
	statusWrites *prometheus.CounterVec
	returned     *prometheus.CounterVec
}

// NewMetrics returns the metrics of a worker, registered unless registerer is nil.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	return &Metrics{
		running: metrics.RegisterOrGet(registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "leat_worker_running_tasks",
			Help: "Tasks that are being run, those that wait for their next attempt included.",
		})),
		finished: metrics.RegisterOrGet(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_worker_tasks_finished_total",
			Help: "Tasks that have finished, by result (succeeded, failed) and the reason of their terminated state.",
		}, []string{"result", "reason"})),
		indexes: metrics.RegisterOrGet(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_worker_indexes_finished_total",
			Help: "Indexes of tasks with spec.indexes that have finished, by result (succeeded, failed).",
		}, []string{"result"})),
		attempts: metrics.RegisterOrGet(registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leat_task_attempts_total",
			Help: "Starts of the commands of tasks.",
		})),
		retries: metrics.RegisterOrGet(registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leat_task_retries_total",
			Help: "Starts of commands that had failed before.",
		})),
		duration: metrics.RegisterOrGet(registerer, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "leat_task_duration_seconds",
			Help:    "Time from the first start of a task to its end, by result (succeeded, failed).",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), // 10 ms to 44 min
		}, []string{"result"})),
		startLatency: metrics.RegisterOrGet(registerer, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "leat_task_start_latency_seconds",
			Help:    "Time from the creation of a task, which is stored in whole seconds, to its first start.",
			Buckets: prometheus.ExponentialBuckets(0.5, 2, 14), // 0.5 s to 68 min
		})),
		statusWrites: metrics.RegisterOrGet(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_worker_task_status_writes_total",
			Help: "Writes to the status of tasks, by outcome (stored, conflict, error). Those that failed are sent again.",
		}, []string{"outcome"})),
		returned: metrics.RegisterOrGet(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_worker_tasks_returned_total",
			Help: "Tasks that the worker evicted because it lacked the resources to start their commands, " +
				"by reason (TooManyOpenFiles, TooManyProcesses, OutOfMemory, NoSpace).",
		}, []string{"reason"})),
	}
}

// attemptStarted counts an attempt at a task.
func (m *Metrics) attemptStarted(task *batch.Task, s taskStatus) {
	m.attempts.Inc()
	if s.failedAttempts > 0 {
		m.retries.Inc()
	}
	if s.attempts == 1 && s.completedCount == 0 && !task.CreationTimestamp.IsZero() {
		m.startLatency.Observe(max(0, s.startTime.Sub(task.CreationTimestamp.Time).Seconds()))
	}
}

// indexFinished counts a finished index.
func (m *Metrics) indexFinished(hasSucceeded bool) {
	m.indexes.WithLabelValues(resultOf(hasSucceeded)).Inc()
}

// resultOf returns the value of the label result.
func resultOf(hasSucceeded bool) string {
	if hasSucceeded {
		return "succeeded"
	}
	return "failed"
}

// taskFinished counts a finished task.
func (m *Metrics) taskFinished(s taskStatus) {
	result := resultOf(s.phase == batch.TaskSucceeded)
	m.finished.WithLabelValues(result, s.state.Terminated.Reason).Inc()
	if s.startTime != nil {
		m.duration.WithLabelValues(result).Observe(max(0, s.completionTime.Sub(s.startTime.Time).Seconds()))
	}
}

// statusWritten counts a write to the status of a task.
func (m *Metrics) statusWritten(err error) {
	outcome := "stored"
	switch {
	case apierrors.IsConflict(err):
		outcome = "conflict"
	case err != nil:
		outcome = "error"
	}
	m.statusWrites.WithLabelValues(outcome).Inc()
}

// taskReturned counts a task that is evicted because the worker lacks the resource that err names.
func (m *Metrics) taskReturned(err error) { m.returned.WithLabelValues(pressure.Reason(err)).Inc() }
