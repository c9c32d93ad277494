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

package pools

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// newWorker returns a ready worker with two slots that has been idle for ten minutes.
func newWorker(name string, mutate ...func(*framework.WorkerSnapshot)) *framework.WorkerSnapshot {
	info := framework.NewWorkerInfo(&batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: batch.WorkerStatus{
			Incarnation: "first",
			Allocatable: batch.ResourceList{"tasks": resource.MustParse("2"), "cpu": resource.MustParse("4")},
			Conditions:  []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue}},
		},
	})
	w := &framework.WorkerSnapshot{WorkerInfo: info, IdleSince: start.Add(-10 * time.Minute)}
	for _, m := range mutate {
		m(w)
	}
	return w
}

func busy(w *framework.WorkerSnapshot) { w.Tasks = 1 }
func full(w *framework.WorkerSnapshot) { w.Tasks = 2 }
func lost(w *framework.WorkerSnapshot) { w.Ready = false }

func denied(w *framework.WorkerSnapshot)           { w.Denied = true }
func cordonedByPerson(w *framework.WorkerSnapshot) { w.Unschedulable = true }
func unregistered(w *framework.WorkerSnapshot)     { w.Object.Status.Incarnation, w.Ready = "", false }
func justIdle(w *framework.WorkerSnapshot)         { w.IdleSince = start.Add(-10 * time.Second) }
func cordonedByPool(w *framework.WorkerSnapshot) {
	w.Unschedulable = true
	w.Object.Annotations = map[string]string{pool.AnnotationCordoned: "then"}
}

// newView returns a pool that keeps idle workers for a minute. Its ready workers have the ordinals from 0 on. A nil
// worker is one that has been missing for ten seconds.
func newView(name string, least, most, replicas int, workers ...*framework.WorkerSnapshot) *view {
	described := &pool.Worker{Allocatable: batch.ResourceList{"tasks": resource.MustParse("2"), "cpu": resource.MustParse("4")}}
	v := &view{
		min: least, max: most, idle: time.Minute, replicas: replicas, offer: newOffer(name, described, nil),
		workers: map[int]*framework.WorkerSnapshot{}, missing: map[int]time.Time{},
	}
	for ordinal := range max(replicas, len(workers)) {
		if ordinal < len(workers) && workers[ordinal] != nil {
			w := workers[ordinal]
			w.Name = pool.WorkerName(name, ordinal)
			w.Labels = map[string]string{batch.LabelPool: name}
			v.workers[ordinal] = w
		}
		if w := v.workers[ordinal]; ordinal < replicas && (w == nil || !w.Ready) {
			v.missing[ordinal] = start.Add(-10 * time.Second)
		}
	}
	return v
}

// missingFor sets for how long the missing workers of a pool have been missing.
func (v *view) missingFor(d time.Duration) *view {
	for ordinal := range v.missing {
		v.missing[ordinal] = start.Add(-d)
	}
	return v
}

// tasks returns so many waiting tasks of a pool, which may be empty.
func tasks(n int, poolName string, requests batch.ResourceList) framework.TaskGroup {
	task := &batch.Task{Spec: batch.TaskSpec{Pool: poolName, Resources: batch.TaskResources{Requests: requests}}}
	return framework.TaskGroup{Task: framework.NewTaskInfo(task), Count: n}
}

func TestDecide(t *testing.T) {
	list := func(workers ...*framework.WorkerSnapshot) []*framework.WorkerSnapshot { return workers }
	cpu := batch.ResourceList{"cpu": resource.MustParse("3")}
	for name, test := range map[string]struct {
		views   []*view
		others  []*framework.WorkerSnapshot
		waiting []framework.TaskGroup
		// want has target/keep of each pool.
		want string
		next time.Duration
	}{
		"nothing to do at zero":                    {views: []*view{newView("a", 0, 5, 0)}, want: "0/0"},
		"from zero, by slots":                      {views: []*view{newView("a", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(5, "a", nil)}, want: "3/3"},
		"from zero, by another resource":           {views: []*view{newView("a", 0, 9, 0)}, waiting: []framework.TaskGroup{tasks(5, "a", cpu)}, want: "5/5"},
		"at most the maximum":                      {views: []*view{newView("a", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(100, "a", nil)}, want: "5/5"},
		"at least the minimum":                     {views: []*view{newView("a", 2, 5, 0)}, want: "2/2"},
		"a fixed pool":                             {views: []*view{newView("a", 3, 3, 1, newWorker(""))}, waiting: []framework.TaskGroup{tasks(9, "a", nil)}, want: "3/3"},
		"free slots count":                         {views: []*view{newView("a", 0, 5, 2, newWorker("", busy), newWorker("", full))}, waiting: []framework.TaskGroup{tasks(2, "a", nil)}, want: "3/3"},
		"workers that are coming count":            {views: []*view{newView("a", 0, 5, 2)}, waiting: []framework.TaskGroup{tasks(4, "a", nil)}, want: "2/2", next: 110 * time.Second},
		"workers that do not come do not count":    {views: []*view{newView("a", 0, 5, 2).missingFor(3 * time.Minute)}, waiting: []framework.TaskGroup{tasks(1, "a", nil)}, want: "3/3"},
		"a task that no worker of the pool fits":   {views: []*view{newView("a", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(1, "a", batch.ResourceList{"cpu": resource.MustParse("5")})}, want: "0/0"},
		"a task of another pool":                   {views: []*view{newView("a", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(1, "b", nil)}, want: "0/0"},
		"without a pool, the first by name":        {views: []*view{newView("a", 0, 5, 0), newView("b", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(3, "", nil)}, want: "2/2 0/0"},
		"without a pool, the next if that is full": {views: []*view{newView("a", 0, 1, 0), newView("b", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(6, "", nil)}, want: "1/1 2/2"},
		"other workers first":                      {views: []*view{newView("a", 0, 5, 0)}, others: list(newWorker("x")), waiting: []framework.TaskGroup{tasks(3, "", nil)}, want: "1/1"},
		"room on a new worker for the next group":  {views: []*view{newView("a", 0, 5, 0)}, waiting: []framework.TaskGroup{tasks(1, "a", cpu), tasks(1, "a", nil)}, want: "1/1"},

		"idle workers go":                                 {views: []*view{newView("a", 0, 5, 3, newWorker("", busy), newWorker(""), newWorker(""))}, want: "1/1"},
		"idle workers stay up to the minimum":             {views: []*view{newView("a", 2, 5, 3, newWorker(""), newWorker(""), newWorker(""))}, want: "2/2"},
		"not idle for long enough":                        {views: []*view{newView("a", 0, 5, 2, newWorker(""), newWorker("", justIdle))}, want: "2/2", next: 50 * time.Second},
		"a busy worker of a higher ordinal":               {views: []*view{newView("a", 0, 5, 2, newWorker(""), newWorker("", busy))}, want: "2/2"},
		"a worker that a person has cordoned":             {views: []*view{newView("a", 0, 5, 2, newWorker(""), newWorker("", cordonedByPerson))}, want: "2/2"},
		"a worker that is denied":                         {views: []*view{newView("a", 0, 5, 2, newWorker(""), newWorker("", denied))}, want: "2/2"},
		"a lost worker without tasks":                     {views: []*view{newView("a", 0, 5, 2, newWorker("", busy), newWorker("", lost))}, want: "1/1"},
		"a lost worker with tasks":                        {views: []*view{newView("a", 0, 5, 2, newWorker("", busy), newWorker("", lost, busy))}, want: "2/2", next: 110 * time.Second},
		"a worker that never came and is not needed":      {views: []*view{newView("a", 0, 5, 2, newWorker("", busy)).missingFor(time.Minute)}, want: "1/1"},
		"a cordoned Worker that never came":               {views: []*view{newView("a", 0, 5, 2, newWorker("", busy), newWorker("", unregistered, cordonedByPool, justIdle)).missingFor(time.Minute)}, want: "1/1"},
		"a worker that is not there yet":                  {views: []*view{newView("a", 0, 5, 1)}, want: "1/1", next: 50 * time.Second},
		"a cordoned worker that is needed again":          {views: []*view{newView("a", 0, 5, 2, newWorker("", full), newWorker("", cordonedByPool))}, waiting: []framework.TaskGroup{tasks(1, "a", nil)}, want: "2/2"},
		"idle workers stay while tasks wait for the pool": {views: []*view{newView("a", 0, 1, 1, newWorker("", func(w *framework.WorkerSnapshot) { w.Allocatable = framework.Resources{"tasks": 2} }))}, waiting: []framework.TaskGroup{tasks(1, "a", cpu)}, want: "1/1"},

		"above the maximum, idle":             {views: []*view{newView("a", 0, 1, 3, newWorker("", busy), newWorker("", justIdle), newWorker("", justIdle))}, want: "1/1"},
		"above the maximum, busy":             {views: []*view{newView("a", 0, 1, 3, newWorker("", busy), newWorker("", busy), newWorker("", justIdle))}, want: "2/1"},
		"above the maximum gets no more work": {views: []*view{newView("a", 0, 1, 2, newWorker("", full), newWorker(""))}, waiting: []framework.TaskGroup{tasks(1, "a", nil)}, want: "1/1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, next := "", time.Duration(0)
			for i, d := range decide(start, plugins.NewFilters(), test.views, test.others, test.waiting) {
				if i > 0 {
					got += " "
				}
				got += fmt.Sprintf("%d/%d", d.target, d.keep)
				if !d.next.IsZero() {
					next = d.next.Sub(start)
				}
			}
			if got != test.want || next != test.next {
				t.Errorf("target/keep: got %s, next after %s, want %s, next after %s", got, next, test.want, test.next)
			}
		})
	}
}

// TestOfferIsWhatWorkersWereSeenToOffer checks that a pool whose annotation promises too much is not scaled without
// success.
func TestOfferIsWhatWorkersWereSeenToOffer(t *testing.T) {
	described := &pool.Worker{
		Allocatable: batch.ResourceList{"tasks": resource.MustParse("8"), "cpu": resource.MustParse("4"), "example.com/gpu": resource.MustParse("1")},
		Labels:      map[string]string{"zone": "a", "disk": "ssd"},
		Taints:      []batch.Taint{{Key: "gpu", Effect: batch.TaintEffectNoSchedule}},
	}
	before := newOffer("p", described, nil)
	if want := (framework.Resources{"tasks": 8, "cpu": 4000, "example.com/gpu": 1}); cmp.Diff(want, before.Allocatable) != "" || len(before.Labels) != 3 {
		t.Errorf("before a worker was seen: got %+v", before)
	}
	seen := &framework.WorkerState{
		Labels:      map[string]string{batch.LabelPool: "p", "zone": "b", "disk": "ssd", "more": ""},
		Allocatable: framework.Resources{"tasks": 2, "cpu": 8000, "memory": 1},
	}
	after := newOffer("p", described, seen)
	if d := cmp.Diff(framework.Resources{"tasks": 2, "cpu": 4000, "example.com/gpu": 0}, after.Allocatable); d != "" {
		t.Errorf("allocatable (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{batch.LabelPool: "p", "disk": "ssd"}, after.Labels); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
	if len(after.Features) != 0 || len(after.Taints) != 1 {
		t.Errorf("features and taints: got %v and %v", after.Features, after.Taints)
	}
	if described.Labels["zone"] != "a" {
		t.Error("the settings of the pool have changed")
	}
}

func TestSetsGetWorkersByTheirMedian(t *testing.T) {
	for name, test := range map[string]struct {
		completions, succeeded, median int64
		failed                         string
		bound                          int
		want                           int
	}{
		"unknown":                          {completions: 100, want: unlimited},
		"long tasks":                       {completions: 100, median: 120_000, want: 200},
		"as many as finish in the target":  {completions: 100, median: 6000, want: 10},
		"besides those that run":           {completions: 100, median: 6000, bound: 4, want: 6},
		"more run already":                 {completions: 100, median: 6000, bound: 40, want: 0},
		"what has finished does not count": {completions: 100, succeeded: 70, failed: "3-12", median: 6000, want: 2},
		"short tasks get a worker":         {completions: 100, median: 1, want: 1},
		"the status is ahead of the tasks": {completions: 100, succeeded: 100, median: 6000, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			set := &batch.TaskSet{
				Spec:   batch.TaskSetSpec{Completions: new(int32(test.completions))},
				Status: batch.TaskSetStatus{Succeeded: int32(test.succeeded), FailedIndexes: &test.failed, MedianMilliseconds: test.median},
			}
			if got := maxWaiting(set, test.bound, time.Minute); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}
