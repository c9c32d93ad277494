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
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// scrape returns the values of all metrics by name and label values. A histogram has two values, its count and its sum.
func scrape(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "leat_") {
			continue
		}
		for _, metric := range family.Metric {
			name := family.GetName()
			for _, label := range metric.Label {
				name += " " + label.GetValue()
			}
			switch {
			case metric.Histogram != nil:
				values[name+" count"], values[name+" sum"] = float64(metric.Histogram.GetSampleCount()), metric.Histogram.GetSampleSum()
			case metric.Gauge != nil:
				values[name] = metric.Gauge.GetValue()
			default:
				values[name] = metric.Counter.GetValue()
			}
		}
	}
	return values
}

// expectMetrics checks how f changes the metrics, except those of lists of leases.
func expectMetrics(t testing.TB, f func(), want ...string) {
	t.Helper()
	before := scrape(t)
	f()
	var got []string
	for name, value := range scrape(t) {
		if value != before[name] && !strings.Contains(name, "lease_list") {
			got = append(got, fmt.Sprintf("%s: %.3g", strings.TrimPrefix(name, "leat_"), value-before[name]))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the metrics changed by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// finish finishes a task, with a start time three seconds after its creation.
func (s *fixture) finish(name string, phase batch.TaskPhase, reason string, after time.Duration) {
	s.Helper()
	task := s.task(name)
	task.Status.Phase = phase
	task.Status.StartTime = &metav1.Time{Time: task.CreationTimestamp.Add(3 * time.Second)}
	task.Status.CompletionTime = &metav1.Time{Time: task.Status.StartTime.Add(after)}
	task.Status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: reason}}
	_, err := s.test.Tasks(namespace).UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
	s.must(err)
	s.advance(0)
}

func TestMetricsOfFinishedTasks(t *testing.T) {
	prepare := func(s *fixture) {
		// This task was counted by a former leader.
		s.startWorker("w")
		s.bind("before", "w")
		s.finish("before", batch.TaskSucceeded, batch.TaskReasonCompleted, time.Second)
	}
	run(t, prepare, func(s *fixture) {
		expectMetrics(s, func() {
			s.bind("good", "w")
			s.bind("bad", "w")
			s.bind("odd", "w")
			_, err := s.test.Tasks(namespace).Evict(s.Context(), "bad", &batch.Eviction{Reason: "Test"}, metav1.CreateOptions{})
			s.must(err)
			_, err = s.test.Tasks(namespace).Bind(s.Context(), "bad", &batch.Binding{Target: batch.BindingTarget{Name: "w", Incarnation: "w-1"}}, metav1.CreateOptions{})
			s.must(err)
			s.advance(0)
		})
		expectMetrics(s, func() {
			task := s.task("bad")
			task.Status.Attempts = 4
			_, err := s.test.Tasks(namespace).UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.finish("good", batch.TaskSucceeded, batch.TaskReasonCompleted, 10*time.Second)
			s.finish("bad", batch.TaskFailed, batch.TaskReasonError, 20*time.Second)
			s.finish("odd", batch.TaskFailed, "UnknownReason", 30*time.Second)
		},
			"finished_task_disruptions_total: 1",
			"finished_task_duration_seconds failed count: 2",
			"finished_task_duration_seconds failed sum: 50",
			"finished_task_duration_seconds succeeded count: 1",
			"finished_task_duration_seconds succeeded sum: 10",
			"finished_task_retries_total: 2",
			"finished_task_wait_seconds count: 3",
			"finished_task_wait_seconds sum: 9",
			"tasks_finished_total Completed succeeded: 1",
			"tasks_finished_total Error failed: 1",
			"tasks_finished_total Other failed: 1",
		)
		// Later updates of a finished task are not counted.
		expectMetrics(s, func() {
			task := s.task("good")
			task.Spec.TTLSecondsAfterFinished = new(int32(1))
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.advance(time.Minute)
		}, "lifecycle_task_deletions_total TimeToLive: 1")
	})
}

// TestFinishedTasksAreCountedOnceOverRelists interrupts the watch, after which the list has tasks that were counted and
// others that were not.
func TestFinishedTasksAreCountedOnceOverRelists(t *testing.T) {
	task := func(name, version string) *batch.Task {
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}}
		task.Status.Phase = batch.TaskSucceeded
		return task
	}
	f := newFinishedTasks(nil)
	defer f.queue.ShutDown()
	list := func(version string, tasks ...*batch.Task) error {
		var objs []any
		for _, task := range tasks {
			objs = append(objs, task)
		}
		return f.Replace(objs, version)
	}
	for _, step := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"the first list", func() error { return list("10", task("a", "3")) }, nil},
		{"one finishes", func() error { return f.Add(task("b", "11")) }, []string{"tasks_finished_total Other succeeded: 1"}},
		{"it changes", func() error { return f.Update(task("b", "12")) }, nil},
		{"one is deleted", func() error { return f.Delete(task("a", "13")) }, nil},
		{"a list without changes", func() error { return list("20", task("b", "12")) }, nil},
		{"a list with one more", func() error { return list("30", task("b", "12"), task("c", "25")) }, []string{"tasks_finished_total Other succeeded: 1"}},
		{"the same list again", func() error { return list("30", task("b", "12"), task("c", "25")) }, nil},
	} {
		t.Run(step.what, func(t *testing.T) {
			expectMetrics(t, func() {
				if err := step.do(); err != nil {
					t.Error(err)
				}
			}, step.want...)
		})
	}
}

func TestMetricsOfWorkers(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("t", "w")
		s.bind("deleted", "w")
		s.advance(20 * time.Second)
		if got := scrape(s)["leat_workers ready"]; got != 2 {
			t.Errorf("%v workers are ready", got)
		}
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "deleted", metav1.DeleteOptions{}))
		stop()
		expectMetrics(s, func() { s.advance(2 * time.Minute) },
			"lifecycle_evictions_total WorkerLost: 1",
			"lifecycle_task_deletions_total WorkerLost: 1",
			"lifecycle_worker_transitions_total lost: 1",
			"workers ready: -1",
			"workers unreachable: 1",
		)
		expectMetrics(s, func() { s.advance(2 * time.Hour) },
			"lifecycle_worker_transitions_total removed: 1",
			"workers unreachable: -1",
		)
	})
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		s.startWorkerWith(namespace, "w", 0, 90*time.Second)
		s.advance(70 * time.Second)
		before := scrape(s)["leat_lifecycle_lease_list_duration_seconds succeeded count"]
		expectMetrics(s, func() { s.advance(40 * time.Second) }, "lifecycle_worker_transitions_total returned: 1")
		if got := scrape(s)["leat_lifecycle_lease_list_duration_seconds succeeded count"] - before; got != 4 {
			t.Errorf("%v lists of leases in 40 s", got)
		}
		expectMetrics(s, func() {
			s.failLists(time.Minute)
			s.advance(time.Minute)
		})
		if scrape(s)["leat_lifecycle_lease_list_duration_seconds failed count"] == 0 {
			t.Error("failed lists are not counted")
		}
	})
}
