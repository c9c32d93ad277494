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
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
)

func batchQuantity(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }

// planted is a "leat up" without controllers and workers. What it has, the test has written.
type planted struct {
	env    *kit.Env
	client versioned.Interface
	board  *served
}

func TestPlanted(t *testing.T) {
	t.Parallel()
	browser(t)
	e := kit.Standalone(t)
	p := &planted{env: e, client: kit.Client(t, e.Admin(t))}
	p.board = serve(t, e.Kubeconfig(t, e.Admin(t), namespace), "--all-namespaces")
	t.Run("a million indexes", p.drawsAMillion)
	t.Run("many tasks and workers", p.staysSmooth)
	t.Run("restarted server", p.reconnects)
}

// drawsAMillion shows a set of a million indexes: each is a cell.
func (p *planted) drawsAMillion(t *testing.T) {
	const million = 1_000_000
	sets := p.client.BatchV1alpha1().TaskSets("million")
	set := kit.NewTaskSet("million")
	set.Spec.CompletionMode, set.Spec.Completions, set.Spec.Parallelism = ptr.To(batch.IndexedCompletion), new(int32(million)), new(int32(10))
	set.Spec.BackoffLimitPerIndex, set.Spec.MaxFailedIndexes = new(int32(0)), new(int32(1000))
	set = kit.Must(sets.Create(t.Context(), set, metav1.CreateOptions{}))(t)
	done, failed := []indexes.Range{{First: 0, Last: 499_999}}, []int{500_000, 999_999}
	for i := 500_001; i < 600_000; i += 100 {
		done = append(done, indexes.Range{First: i, Last: i + 60})
	}
	set.Status.StartTime = new(metav1.Now())
	set.Status.CompletedIndexes, set.Status.Succeeded = indexes.Format(done), int32(indexes.Count(done))
	set.Status.FailedIndexes, set.Status.Failed = new(indexes.Format(indexes.Of(failed))), int32(len(failed))
	kit.Must(sets.UpdateStatus(t.Context(), set, metav1.UpdateOptions{}))(t)

	b := newTab(t)
	b.expect("willReadFrequently") // only the test reads the map back
	b.open(t, p.board.url+"set?namespace=million&name=million")
	b.waitForText(t, "#legend", "561,000 done")
	b.waitForText(t, "#legend", "438,998 pending")
	got := evaluate[[]string](t, b, `(indexes => {
  const context = document.getElementById('map').getContext('2d');
  return indexes.map(i => [...context.getImageData(i % map.columns, Math.floor(i / map.columns), 1, 1).data].join());
})([0, 499999, 500000, 999999, 500061, 500062, 700000])`)
	if got[0] != got[1] || got[2] != got[3] || got[4] != got[0] || got[5] != got[6] || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 3 {
		t.Errorf("the cells are %q", got)
	}
	if size := evaluate[[]int](t, b, "[map.size, map.per, map.cells]"); !slices.Equal(size, []int{1, 1, million}) {
		t.Errorf("size, indexes of a cell, cells: %v", size)
	}
	t.Logf("drawn in %.1f ms", evaluate[float64](t, b, "(() => { const begun = performance.now(); showMap(true); return performance.now() - begun })()"))
}

// plant creates workers and tasks, a part of them bound.
func (p *planted) plant(t *testing.T, workers, tasks int) {
	api := p.client.BatchV1alpha1()
	var group errgroup.Group
	group.SetLimit(32)
	for i := range workers {
		group.Go(func() error {
			worker, err := api.Workers("many").Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("worker-%04d", i)}}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			worker.Status.Incarnation = "1"
			worker.Status.Capacity = batch.ResourceList{batch.ResourceTasks: *batchQuantity(16)}
			worker.Status.Allocatable = worker.Status.Capacity
			status := metav1.ConditionTrue
			if i%50 == 7 {
				status = metav1.ConditionUnknown
			}
			worker.Status.Conditions = []metav1.Condition{{Type: batch.WorkerReady, Status: status, Reason: "Test", LastTransitionTime: metav1.Now()}}
			_, err = api.Workers("many").UpdateStatus(t.Context(), worker, metav1.UpdateOptions{})
			return err
		})
	}
	kit.Check(t, group.Wait())
	group.SetLimit(32)
	for i := range tasks {
		group.Go(func() error {
			task := kit.NewTask(fmt.Sprintf("task-%06d", i))
			task.Spec.QueueName = fmt.Sprintf("queue-%d", i%7)
			_, err := api.Tasks("many").Create(t.Context(), task, metav1.CreateOptions{})
			if err != nil || i >= 3*workers {
				return err
			}
			binding := &batch.Binding{ObjectMeta: metav1.ObjectMeta{Name: task.Name}, Target: batch.BindingTarget{Name: fmt.Sprintf("worker-%04d", i%workers), Incarnation: "1"}}
			_, err = api.Tasks("many").Bind(t.Context(), task.Name, binding, metav1.CreateOptions{})
			return err
		})
	}
	kit.Check(t, group.Wait())
}

// staysSmooth measures the page while tasks come and go. With -scale it is the measurement of docs/how-to/board.md.
func (p *planted) staysSmooth(t *testing.T) {
	workers, tasks := 100, 2000
	if *scale {
		workers, tasks = 1000, 100_000
	}
	p.plant(t, workers, tasks)
	b := newTab(t)
	b.open(t, p.board.url)
	b.waitFor(t, "all workers are shown", fmt.Sprintf(`document.getElementById('workers-all').textContent === 'of ' + number(%d)`, workers))
	b.waitFor(t, "all tasks are shown", fmt.Sprintf(`values.totals.pending + values.totals.running === %d`, tasks))
	b.waitFor(t, "each worker has a box", fmt.Sprintf(`document.querySelectorAll('#slots-map g').length === %d`, workers))
	b.waitFor(t, "only the first workers have a row", fmt.Sprintf(`document.querySelectorAll('#workers tbody tr').length === %d`, min(workers, 50)))

	// Delete bound tasks, and create others, while the page is measured.
	ctx, stop := context.WithCancel(t.Context())
	var churn errgroup.Group
	var changes atomic.Int64
	churn.Go(func() error {
		api := p.client.BatchV1alpha1().Tasks("many")
		for i := 0; ctx.Err() == nil && i < 10*workers; i++ {
			task := kit.NewTask(fmt.Sprintf("late-%06d", i))
			_, err := api.Create(ctx, task, metav1.CreateOptions{})
			if err == nil {
				err = api.Delete(ctx, fmt.Sprintf("task-%06d", tasks-1-i), metav1.DeleteOptions{})
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
			changes.Add(2)
		}
		return nil
	})
	before, begun := p.processorTime(t), time.Now()
	frames := evaluate[[]float64](t, b, `new Promise(done => {
  const times = [];
  const next = now => { times.push(now); now - times[0] < 5000 ? requestAnimationFrame(next) : done(times) };
  requestAnimationFrame(next);
})`)
	used, took := p.processorTime(t)-before, time.Since(begun)
	stop()
	kit.Check(t, churn.Wait())
	var longest float64
	for i := 1; i < len(frames); i++ {
		longest = max(longest, frames[i]-frames[i-1])
	}
	t.Logf("%d workers, %d tasks, %.0f changes a second: %.1f frames a second, the longest took %.0f ms; leat board used %.0f %% of a processor",
		workers, tasks, float64(changes.Load())/took.Seconds(), float64(len(frames)-1)/(frames[len(frames)-1]-frames[0])*1000, longest, 100*used/took.Seconds())
	if changes.Load() == 0 {
		t.Error("nothing changed while the page was measured")
	}

	b.open(t, p.board.url+"pending")
	b.waitFor(t, "the reasons are grouped", `document.querySelectorAll('#reasons tbody tr').length >= 7`)
}

// processorTime returns the processor time of "leat board" in seconds.
func (p *planted) processorTime(t *testing.T) float64 {
	t.Helper()
	process := kit.Must(procfs.NewProc(p.board.process.Pid))(t)
	stat := kit.Must(process.Stat())(t)
	return stat.CPUTime()
}

// reconnects restarts the server under the page.
func (p *planted) reconnects(t *testing.T) {
	b := newTab(t)
	b.open(t, p.board.url+"sets")
	b.waitForText(t, "#sets", "million")
	kit.Check(t, p.env.Server.Kill())
	b.waitForText(t, "#connection", "Disconnected")
	b.waitForText(t, "#trouble", "The server is not reached since")
	b.waitForText(t, "#sets", "million") // as it was
	kit.Check(t, p.env.Server.Restart(t.Context()))
	b.waitForText(t, "#connection", "Live")
	b.waitFor(t, "there is no trouble", `document.getElementById('trouble').hidden`)
	kit.Must(p.client.BatchV1alpha1().TaskSets("million").Create(t.Context(), kit.NewTaskSet("later"), metav1.CreateOptions{}))(t)
	b.waitForText(t, "#sets", "later")
	if text := evaluate[string](t, b, "document.body.innerText"); strings.Contains(text, "Disconnected") {
		t.Errorf("the page has %s", text)
	}
}
