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

package board

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// nowView shows queues and workers.
type nowView struct{ *Board }

// totals are the sums over all queues and workers. Ended and Latencies count since the start of the program; the page
// subtracts what it has found.
type totals struct {
	Pending   int   `json:"pending"`
	Running   int   `json:"running"`
	Workers   int   `json:"workers"`
	Ready     int   `json:"ready"`
	Slots     int64 `json:"slots"`
	Ended     int   `json:"ended"`
	Latencies []int `json:"latencies"`
}

type queueRow struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Weight    int32  `json:"weight"`
	// Share is the part of the running tasks that belongs to the queue by weight, and 0 if it has no tasks. Part is the
	// part that it has.
	Share   float64 `json:"share"`
	Part    float64 `json:"part"`
	Pending int     `json:"pending"`
	Running int     `json:"running"`
	Limit   *int32  `json:"limit,omitempty"`
	// Oldest is the creation time of the oldest task that waits, in milliseconds, 0 if there is none.
	Oldest int64  `json:"oldest,omitempty"`
	Stop   string `json:"stop,omitempty"`
}

type workerRow struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Running   int    `json:"running"`
	Slots     int64  `json:"slots"`
	Created   int64  `json:"created"`
}

func (nowView) poll(context.Context, func()) {}

func (v nowView) frame() frame {
	now := totals{}
	queues, bound := map[types.NamespacedName]*queueRow{}, map[types.NamespacedName]int{}
	queue := func(namespace, name string) *queueRow {
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if queues[key] == nil {
			queues[key] = &queueRow{Namespace: namespace, Name: name, Weight: 1}
		}
		return queues[key]
	}
	for _, item := range v.store.queues.GetStore().List() {
		object := item.(*batch.TaskQueue)
		row := queue(object.Namespace, object.Name)
		row.Weight, row.Limit = ptr.Deref(object.Spec.Weight, 1), object.Spec.MaxRunningTasks
		if policy := ptr.Deref(object.Spec.StopPolicy, batch.StopPolicyNone); policy != batch.StopPolicyNone {
			row.Stop = string(policy)
		}
	}
	for _, item := range v.store.tasks.GetStore().List() {
		task := item.(*batch.Task)
		row := queue(task.Namespace, task.Spec.QueueName)
		switch {
		case task.Spec.WorkerName != "":
			row.Running++
			bound[types.NamespacedName{Namespace: task.Namespace, Name: task.Spec.WorkerName}]++
		case task.DeletionTimestamp == nil:
			row.Pending++
			if created := task.CreationTimestamp.UnixMilli(); row.Oldest == 0 || created < row.Oldest {
				row.Oldest = created
			}
		}
	}
	share(queues)
	var queueRows []row
	for key, q := range queues {
		now.Pending += q.Pending
		now.Running += q.Running
		queueRows = append(queueRows, row{key.String(), q})
	}
	var workerRows []row
	for _, item := range v.store.workers.GetStore().List() {
		worker := item.(*batch.Worker)
		slots := worker.Status.Allocatable[batch.ResourceTasks]
		r := workerRow{
			Namespace: worker.Namespace, Name: worker.Name, Status: statusOfWorker(worker), Running: bound[types.NamespacedName{Namespace: worker.Namespace, Name: worker.Name}],
			Slots: slots.Value(), Created: worker.CreationTimestamp.UnixMilli(),
		}
		now.Workers++
		if meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
			now.Ready++
			now.Slots += r.Slots
		}
		workerRows = append(workerRows, row{worker.Namespace + "/" + worker.Name, r})
	}
	byKey := func(a, b row) int { return strings.Compare(a.Key, b.Key) }
	slices.SortFunc(queueRows, byKey)
	slices.SortFunc(workerRows, byKey)
	v.store.mu.Lock()
	now.Ended, now.Latencies = v.store.ended, slices.Clone(v.store.latencies[:])
	v.store.mu.Unlock()
	return frame{Values: map[string]any{"totals": now}, Tables: map[string][]row{"queues": queueRows, "workers": workerRows}}
}

// share sets the shares of queues with tasks, among those of the same namespace.
func share(queues map[types.NamespacedName]*queueRow) {
	weights, running := map[string]float64{}, map[string]float64{}
	for _, q := range queues {
		if q.Pending+q.Running > 0 {
			weights[q.Namespace] += float64(q.Weight)
			running[q.Namespace] += float64(q.Running)
		}
	}
	for _, q := range queues {
		if q.Pending+q.Running > 0 {
			q.Share = float64(q.Weight) / weights[q.Namespace]
			q.Part = float64(q.Running) / max(1, running[q.Namespace])
		}
	}
}

// statusOfWorker returns the value of the column STATUS of a worker.
func statusOfWorker(worker *batch.Worker) string {
	status := "NotReady"
	if c := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); c != nil {
		switch c.Status {
		case metav1.ConditionTrue:
			status = "Ready"
		case metav1.ConditionUnknown:
			status = "Unknown"
		}
	}
	if worker.Spec.Denied {
		status += ", Denied"
	}
	if worker.Spec.Unschedulable {
		status += ", SchedulingDisabled"
	}
	return status
}

// milliseconds returns a time in milliseconds since the epoch, 0 if there is none.
func milliseconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.UnixMilli()
}

// setsView lists sets, the newest first.
type setsView struct{ *Board }

// maxSets is how many sets are listed.
const maxSets = 500

type setRow struct {
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	State     string  `json:"state"`
	Total     int     `json:"total"` // 0 if it is not known
	Done      int     `json:"done"`
	Failed    int     `json:"failed"`
	Running   int     `json:"running"`
	Pending   int     `json:"pending"`
	Rate      float64 `json:"rate"`
	Left      float64 `json:"left"` // in seconds, -1 if it is not known
	Queue     string  `json:"queue"`
	Created   int64   `json:"created"`
	Started   int64   `json:"started,omitempty"`
	Ended     int64   `json:"ended,omitempty"`
}

func (setsView) poll(context.Context, func()) {}

func (v setsView) frame() frame {
	all := setsIn(v.store.sets.GetStore())
	slices.SortFunc(all, func(a, b *batch.TaskSet) int {
		if newer := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); newer != 0 {
			return newer
		}
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	var rows []row
	for _, set := range all[:min(len(all), maxSets)] {
		rows = append(rows, row{set.Namespace + "/" + set.Name, v.setRow(set)})
	}
	return frame{Values: map[string]any{"sets": len(all)}, Tables: map[string][]row{"sets": rows}}
}

func setsIn(store cache.Store) []*batch.TaskSet {
	var all []*batch.TaskSet
	for _, item := range store.List() {
		all = append(all, item.(*batch.TaskSet))
	}
	return all
}

// round keeps the digits of a rate or a time that are shown, so that rows change less often.
func round(x float64) float64 {
	if x < 10 {
		return float64(int(x*100)) / 100
	}
	return float64(int(x))
}
