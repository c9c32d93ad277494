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
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// Values of the label result of a scheduling attempt.
const (
	scheduled     = "scheduled"
	unschedulable = "unschedulable"
	failed        = "error"
)

// knownReasons are the eviction reasons that have a label value of their own. Clients may evict with any reason, and
// the label must not have too many values.
var knownReasons = append([]string{reasonDrained, "TaintEviction", "WorkerDenied", batch.TaskReasonRebalanced}, commandEndedReasons...)

var (
	ofQueue = []string{"namespace", "queue"}
	pending = prometheus.NewDesc("leat_pending_tasks", "Number of tasks of a queue that are not bound to a worker.", ofQueue, nil)
	oldest  = prometheus.NewDesc("leat_oldest_pending_task_age_seconds", "Age of the oldest task of a queue that is not bound to a worker, 0 if there is none.", ofQueue, nil)
	running = prometheus.NewDesc("leat_running_tasks", "Number of tasks of a queue that are bound to a worker and have not finished.", ofQueue, nil)
	share   = prometheus.NewDesc("leat_queue_weighted_share", "Dominant resource share of a queue in its namespace, divided by its weight.", ofQueue, nil)
	slots   = prometheus.NewDesc("leat_worker_slots", "Number of tasks that workers can run at a time, by state: used, free, and unavailable on workers that take no tasks.", []string{"namespace", "state"}, nil)
)

// metrics holds the metrics that the scheduler updates as it works. The results of attempts are exposed from the start.
type metrics struct {
	attempts  *prometheus.HistogramVec
	binding   prometheus.Histogram
	waiting   prometheus.Histogram
	requeues  *prometheus.CounterVec
	evictions prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "leat_scheduling_attempt_duration_seconds",
			Help:    "Time from a decision about a task to its end, by result: scheduled and error with the request that binds it, unschedulable without.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 12),
		}, []string{"result"}),
		binding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "leat_task_binding_duration_seconds",
			Help:    "Time that requests to bind a task took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		waiting: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "leat_task_scheduling_wait_seconds",
			Help:    "Time from the creation of a task, or from its eviction, to its binding.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 14),
		}),
		requeues: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_task_requeues_total",
			Help: "Number of tasks that were taken from their workers and wait again, by the reason of the eviction.",
		}, []string{"reason"}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leat_queue_evictions_total",
			Help: "Number of tasks that were evicted because their queue is drained.",
		}),
	}
	for _, result := range []string{scheduled, unschedulable, failed} {
		m.attempts.WithLabelValues(result)
	}
	return m
}

func (m *metrics) attempt(result string, start time.Time) {
	m.attempts.WithLabelValues(result).Observe(time.Since(start).Seconds())
}

func (m *metrics) requeue(reason string) {
	if !slices.Contains(knownReasons, reason) {
		reason = "Other"
	}
	m.requeues.WithLabelValues(reason).Inc()
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.attempts, m.binding, m.waiting, m.requeues, m.evictions}
}

// Describe implements prometheus.Collector.
func (st *state) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pending, oldest, running, share, slots} {
		descriptions <- d
	}
	for _, m := range st.metrics.collectors() {
		m.Describe(descriptions)
	}
}

// Collect implements prometheus.Collector. The gauges of queues and workers are computed when they are collected.
func (st *state) Collect(out chan<- prometheus.Metric) {
	for _, m := range st.metrics.collectors() {
		m.Collect(out)
	}
	for _, m := range st.gauges(time.Now()) {
		out <- m
	}
}

func (st *state) gauges(now time.Time) (all []prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, ns := range st.namespaces {
		for _, q := range ns.queues.All() {
			age := 0.0
			if first := q.OldestPending(); first != nil {
				age = max(0, now.Sub(first.Object.CreationTimestamp.Time).Seconds())
			}
			gauge(pending, float64(q.Pending()), ns.name, q.Name)
			gauge(oldest, age, ns.name, q.Name)
			gauge(running, float64(len(q.Bound())), ns.name, q.Name)
			gauge(share, float64(q.Share)/framework.ShareScale, ns.name, q.Name)
		}
		places := map[string]int64{}
		for _, w := range ns.workers.Workers() {
			if !w.Registered {
				continue
			}
			free := max(0, w.Allocatable[batch.ResourceTasks]-w.Tasks)
			places["used"] += w.Tasks
			if w.InService() && w.TasksAlone == 0 {
				places["free"] += free
			} else {
				places["unavailable"] += free
			}
		}
		for t := range ns.prefetched {
			if t.worker.Registered {
				places["used"]--
			}
		}
		for _, state := range []string{"used", "free", "unavailable"} {
			gauge(slots, float64(places[state]), ns.name, state)
		}
	}
	return all
}
