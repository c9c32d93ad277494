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
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// scrape returns the values of the metrics of task sets by name and label values. A histogram has two values, its count
// and its sum.
func scrape(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "leat_taskset") {
			continue
		}
		for _, metric := range family.Metric {
			name := family.GetName()
			for _, label := range metric.Label {
				name += " " + label.GetValue()
			}
			if h := metric.Histogram; h != nil {
				values[name+" count"], values[name+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				continue
			}
			values[name] = metric.Counter.GetValue()
		}
	}
	return values
}

// metricChanges returns the changes of the metrics by f, sorted.
func metricChanges(t *testing.T, f func()) []string {
	t.Helper()
	before := scrape(t)
	f()
	var added []string
	for name, value := range scrape(t) {
		if value != before[name] {
			added = append(added, fmt.Sprintf("%s: %.3g", strings.TrimPrefix(name, "leat_"), value-before[name]))
		}
	}
	slices.Sort(added)
	return added
}

func expectMetrics(t *testing.T, f func(), want ...string) {
	t.Helper()
	if got := metricChanges(t, f); !slices.Equal(got, want) {
		t.Errorf("the metrics have changed by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMetricsOfASet(t *testing.T) {
	expectMetrics(t, func() {
		w := startWorld(t, newSpec(completions(3), parallelism(3), perIndex(1), indexed))
		w.now = w.now.Add(250 * time.Millisecond)
		w.run(0)
		w.syncUntilIdle()
		w.end(0, 0, 1)
		w.end(1, 2)
		w.advance(11 * time.Second)
		w.end(1, 2)
		w.syncUntilIdle()
		w.advance(2 * time.Second)
	},
		"taskset_task_creations_total new succeeded: 3",
		"taskset_task_creations_total retry succeeded: 1",
		"taskset_task_start_duration_seconds count: 4",
		"taskset_task_start_duration_seconds sum: 1.75",
		"taskset_tasks_finished_total Indexed failed: 2",
		"taskset_tasks_finished_total Indexed succeeded: 2",
		"tasksets_finished_total Indexed FailedIndexes failed: 1",
	)
}

// TestMetricsCountNothingTwice fails some writes of the status, and then restarts the controller. Tasks in a status
// that was stored by a controller which was killed before the response are not counted.
func TestMetricsCountNothingTwice(t *testing.T) {
	w := startWorld(t, newSpec(completions(2), parallelism(2)))
	refusals := 0
	w.inject = func(verb, resource string) (before, after error) {
		if resource == "tasksets/status" && refusals < 3 {
			refusals++
			before = apierrors.NewInternalError(errors.New("internal"))
		}
		return before, nil
	}
	expectMetrics(t, func() {
		w.end(0, 0, 1)
		w.deliver(len(w.events))
		w.now = w.now.Add(2 * time.Second)
		for range 3 {
			if w.reconcile() == nil {
				t.Error("the status was stored")
			}
		}
	}, "taskset_task_start_duration_seconds count: 2")
	expectMetrics(t, func() { w.syncUntilIdle() },
		"taskset_tasks_finished_total NonIndexed succeeded: 2",
		"tasksets_finished_total NonIndexed CompletionsReached succeeded: 1",
	)
	expectMetrics(t, func() {
		w.startController()
		w.syncUntilIdle()
	})
}
