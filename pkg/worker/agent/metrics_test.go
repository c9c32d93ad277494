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

package agent

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/processtest"
)

// gathered returns the values of all metrics by name and labels. The value of a histogram is its count.
func gathered(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			name := family.GetName()
			for _, label := range metric.Label {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				values[name] = metric.Counter.GetValue()
			case dto.MetricType_GAUGE:
				values[name] = metric.Gauge.GetValue()
			default:
				values[name] = float64(metric.Histogram.GetSampleCount())
			}
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	api := f.server.Client()
	var failed bool
	api.Hook = func(verb, _, name string) error {
		if verb == "updateStatus" && name == "good" && !failed {
			failed = true
			return apierrors.NewInternalError(errors.New("away"))
		}
		return nil
	}
	w := f.startWith(api, func(o *Options) { o.Registerer = registry })
	f.run(w, "running", script(f.sleeper("pid", "")))
	f.await("running", "is running", func(t *batch.Task) bool { return t.Status.Phase == batch.TaskRunning })
	f.run(w, "good", script("exit 0"))
	f.awaitFinished("good")
	f.run(w, "bad", script("exit 1", backoffLimit(1)))
	f.run(w, "none", &batch.Task{Spec: batch.TaskSpec{Command: []string{"no-such-program"}}})
	f.awaitFinished("bad")
	f.awaitFinished("none")
	// The last write is counted once its response has arrived.
	var got map[string]float64
	want := map[string]float64{
		"leat_worker_running_tasks": 1,
		"leat_worker_tasks_finished_total reason=Completed result=succeeded": 1,
		"leat_worker_tasks_finished_total reason=Error result=failed":        1,
		"leat_worker_tasks_finished_total reason=StartError result=failed":   1,
		"leat_task_attempts_total":                                           5,
		"leat_task_retries_total":                                            1,
		"leat_task_duration_seconds result=failed":                           2,
		"leat_task_duration_seconds result=succeeded":                        1,
		"leat_task_start_latency_seconds":                                    4,
		"leat_worker_task_status_writes_total outcome=error":                 1,
		"leat_worker_task_status_writes_total outcome=stored":                5,
	}
	processtest.Eventually(t, "the metrics are those of what was run", func() bool {
		got = gathered(t, registry)
		return maps.Equal(got, want)
	})
	for name := range got {
		for _, secret := range []string{"running ", "good", "bad", "none", "default", " w"} {
			if strings.Contains(strings.Join(strings.Fields(name)[1:], " "), secret) {
				t.Errorf("a label names a task or a worker: %s", name)
			}
		}
	}
}
