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
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// scrape returns the value of each series by its name and labels. The value of a histogram is its count.
func scrape(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if family.GetType() == dto.MetricType_HISTOGRAM {
				value = float64(m.GetHistogram().GetSampleCount())
			}
			values[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	_, err := f.test.BatchV1alpha1().TaskQueues("default").Create(f.ctx, newQueue("ml", 4), metav1.CreateOptions{})
	f.must(err)
	f.addWorker(newWorker("a", 2))
	f.addWorker(newWorker("b", 3, cordoned))
	f.addWorker(newWorker("c", 4, notReady))
	for _, name := range []string{"one", "two", "three"} {
		f.addTask(newTask(name, inQueue("ml"), created(time.Now().Add(-time.Hour))))
	}
	f.addTask(newTask("other", inQueue("plain"), requesting("cpu", "1")))
	stop := f.start(WithMetrics(registry))
	f.eventually("two are bound", func() bool { return f.countBound() == 2 })
	bound, err := f.test.BatchV1alpha1().Tasks("default").List(f.ctx, metav1.ListOptions{FieldSelector: "spec.workerName=a"})
	f.must(err)
	for i, reason := range []string{"WorkerStopped", "BecauseISaySo"} {
		_, err := f.test.BatchV1alpha1().Tasks("default").Evict(f.ctx, bound.Items[i].Name, &batch.Eviction{Reason: reason}, metav1.CreateOptions{})
		f.must(err)
	}
	f.eventually("two others are bound", func() bool { return f.countBound() == 2 && f.api.Count("create", "tasks/binding") >= 4 })

	want := map[string]float64{
		"leat_pending_tasks{namespace=default,queue=ml}":             1,
		"leat_pending_tasks{namespace=default,queue=plain}":          1,
		"leat_running_tasks{namespace=default,queue=ml}":             2,
		"leat_running_tasks{namespace=default,queue=plain}":          0,
		"leat_queue_weighted_share{namespace=default,queue=ml}":      2. / 9 / 4,
		"leat_worker_slots{namespace=default,state=free}":            0,
		"leat_worker_slots{namespace=default,state=used}":            2,
		"leat_worker_slots{namespace=default,state=unavailable}":     7,
		"leat_task_requeues_total{reason=Other}":                     1,
		"leat_task_requeues_total{reason=WorkerStopped}":             1,
		"leat_queue_evictions_total{}":                               0,
		"leat_scheduling_attempt_duration_seconds{result=scheduled}": 4,
		"leat_scheduling_attempt_duration_seconds{result=error}":     0,
		"leat_task_binding_duration_seconds{}":                       4,
		"leat_task_scheduling_wait_seconds{}":                        4,
	}
	var got map[string]float64
	defer func() {
		if t.Failed() {
			t.Logf("the metrics are %v", got)
		}
	}()
	f.eventually("the metrics are as expected", func() bool {
		got = scrape(t, registry)
		for name, value := range want {
			if v, ok := got[name]; !ok || v < value-1e-9 || v > value+1e-9 {
				return false
			}
		}
		age := got["leat_oldest_pending_task_age_seconds{namespace=default,queue=ml}"]
		return age >= 3600 && age < 3700 && got["leat_scheduling_attempt_duration_seconds{result=unschedulable}"] > 0
	})
	for name := range scrape(t, registry) {
		for _, task := range []string{"one", "two", "three", "other"} {
			if strings.Contains(name, "="+task) {
				t.Errorf("the name of a task is in %s", name)
			}
		}
	}
	stop()
	if left := scrape(t, registry); len(left) > 0 {
		t.Errorf("metrics are left after the scheduler has ended: %v", left)
	}
}
