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
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestFit(t *testing.T) {
	for _, tc := range []struct {
		name    string
		task    *batch.Task
		workers []*batch.Worker
		// want is the name of the selected worker, or the message if there is none.
		want string
	}{
		{name: "no workers", task: newTask("t"), want: "0/0 workers are available: the namespace has no workers."},
		{name: "a ready worker with room", task: newTask("t"), workers: []*batch.Worker{newWorker("a", 1)}, want: "a"},
		{
			name: "one obstacle of each kind",
			task: newTask("t", selecting("zone", "x"), requesting("cpu", "2")),
			workers: []*batch.Worker{
				newWorker("a", 1, notReady, cordoned), newWorker("b", 1, notReady),
				newWorker("c", 1, cordoned), newWorker("h", 1, denied),
				newWorker("d", 1, tainted("k", "v", batch.TaintEffectNoSchedule)),
				newWorker("e", 1, labelled("zone", "y")),
				newWorker("f", 0, labelled("zone", "x"), with("cpu", "1900m")),
				newWorker("g", 1, labelled("zone", "x"), with("cpu", "1999m")),
			},
			want: "0/8 workers are available: 1 did not match the task's worker selector, 1 had no room for tasks, " +
				"1 had untolerated taint {k: v}, 1 was denied, 1 was unschedulable, 2 had insufficient cpu, 2 were not ready.",
		},
		{
			name:    "a worker without an incarnation is not ready",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, func(w *batch.Worker) { w.Status.Incarnation = "" })},
			want:    "0/1 workers are available: 1 was not ready.",
		},
		{
			name:    "readiness unknown",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, func(w *batch.Worker) { w.Status.Conditions[0].Status = metav1.ConditionUnknown })},
			want:    "0/1 workers are available: 1 was not ready.",
		},
		{
			name:    "requests met exactly",
			task:    newTask("t", requesting("cpu", "1500m"), requesting("memory", "1Gi"), requesting("example.com/gpu", "2")),
			workers: []*batch.Worker{newWorker("a", 1, with("cpu", "1.5"), with("memory", "1024Mi"), with("example.com/gpu", "2"))},
			want:    "a",
		},
		{
			name:    "a resource that the worker does not have",
			task:    newTask("t", requesting("example.com/gpu", "1")),
			workers: []*batch.Worker{newWorker("a", 1), newWorker("b", 1)},
			want:    "0/2 workers are available: 2 had insufficient example.com/gpu.",
		},
		{
			name:    "a task takes one place whatever it requests",
			task:    newTask("t", requesting("tasks", "5")),
			workers: []*batch.Worker{newWorker("a", 1)},
			want:    "a",
		},
		{
			name:    "taint tolerated by key, value and effect",
			task:    newTask("t", tolerating(batch.Toleration{Key: "k", Value: "v", Effect: batch.TaintEffectNoSchedule})),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectNoSchedule))},
			want:    "a",
		},
		{
			name:    "taint with another value",
			task:    newTask("t", tolerating(batch.Toleration{Key: "k", Value: "w", Operator: batch.TolerationOpEqual})),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectNoSchedule))},
			want:    "0/1 workers are available: 1 had untolerated taint {k: v}.",
		},
		{
			name:    "taint with another effect",
			task:    newTask("t", tolerating(batch.Toleration{Key: "k", Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoSchedule})),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectNoExecute))},
			want:    "0/1 workers are available: 1 had untolerated taint {k: v}.",
		},
		{
			name:    "all taints tolerated",
			task:    newTask("t", tolerating(batch.Toleration{Operator: batch.TolerationOpExists})),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectNoSchedule), tainted("l", "", batch.TaintEffectNoExecute))},
			want:    "a",
		},
		{
			name:    "a worker with a PreferNoSchedule taint is selected if no other fits",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectPreferNoSchedule))},
			want:    "a",
		},
		{
			name:    "a worker with a PreferNoSchedule taint comes last",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, tainted("k", "v", batch.TaintEffectPreferNoSchedule)), newWorker("b", 1)},
			want:    "b",
		},
		{
			name:    "a task with several indexes on a worker that supports them",
			task:    newTask("t", withIndexes),
			workers: []*batch.Worker{newWorker("a", 1), newWorker("b", 1, featuring(batch.WorkerFeatureChunks))},
			want:    "b",
		},
		{
			name:    "a task with several indexes and only older workers",
			task:    newTask("t", withIndexes),
			workers: []*batch.Worker{newWorker("a", 1), newWorker("b", 1, featuring("other")), newWorker("c", 1, notReady)},
			want:    "0/3 workers are available: 1 was not ready, 2 did not support tasks with several indexes (upgrade needed).",
		},
		{
			name:    "a task with a pool runs on the workers of the pool",
			task:    newTask("t", inPool("render")),
			workers: []*batch.Worker{newWorker("a", 1), newWorker("b", 1, labelled(batch.LabelPool, "train")), newWorker("c", 1, labelled(batch.LabelPool, "render"))},
			want:    "c",
		},
		{
			name:    "a task with a pool that has no workers",
			task:    newTask("t", inPool("render")),
			workers: []*batch.Worker{newWorker("a", 1), newWorker("b", 1, labelled(batch.LabelPool, "train"))},
			want:    "0/2 workers are available: 2 were not in the pool render.",
		},
		{
			name:    "a task without a pool runs on any worker",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, labelled(batch.LabelPool, "render"))},
			want:    "a",
		},
		{
			name:    "a task with one index on an older worker",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1)},
			want:    "a",
		},
		{
			name:    "a worker of another namespace",
			task:    newTask("t"),
			workers: []*batch.Worker{newWorker("a", 1, func(w *batch.Worker) { w.Namespace = "other" })},
			want:    "0/0 workers are available: the namespace has no workers.",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newState(Spread, func() {})
			for _, w := range tc.workers {
				c.setWorker(w)
			}
			c.setTask(tc.task)
			waiting := &c.tasks[nameOf(tc.task)].TaskInfo
			namespace := c.namespaces["default"]
			for _, w := range namespace.workers.Workers() {
				if reasons := namespace.unschedulableReasons(waiting, w); namespace.fits(waiting, w) != (len(reasons) == 0) {
					t.Errorf("worker %s: fits returns %v, the reasons are %q", w.Name, namespace.fits(waiting, w), reasons)
				}
			}
			got := ""
			if w := namespace.selectWorker(waiting); w != nil {
				got = w.Name
			} else {
				got = namespace.unschedulableMessage(waiting)
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
