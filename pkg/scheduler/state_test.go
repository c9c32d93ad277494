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
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/cache"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
	"github.com/leat-dev/leat/pkg/scheduler/reservation"
)

func TestTasksArePlacedByPriorityThenAgeThenName(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int, priority int32, more ...func(*batch.Task)) func(*batch.Task) {
		return func(t *batch.Task) {
			t.CreationTimestamp = metav1.NewTime(start.Add(time.Duration(s) * time.Second))
			t.Spec.Priority = priority
			for _, m := range more {
				m(t)
			}
		}
	}
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 100, with("cpu", "100")))
	for _, task := range []*batch.Task{
		newTask("c-late", at(9, 0)), newTask("b", at(5, 0)), newTask("a", at(5, 0)), newTask("low", at(1, -1)),
		// Tasks of other equivalence classes are ordered with the rest.
		newTask("urgent", at(8, 7, requesting("cpu", "1"))), newTask("bb", at(5, 0, requesting("cpu", "2"))),
	} {
		c.setTask(task)
	}
	var got []string
	for p, ok := c.next(start); ok; p, ok = c.next(start) {
		got = append(got, p.obj.Name)
	}
	if want := []string{"urgent", "a", "b", "bb", "c-late", "low"}; !slices.Equal(got, want) {
		t.Errorf("got order %q, want %q", got, want)
	}
}

func TestSpreadPlacesTasksOnTheWorkerWithTheFewest(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("a", 3))
	c.setWorker(newWorker("b", 2))
	c.setTask(newTask("old", func(t *batch.Task) { t.Spec.WorkerName = "a" }))
	for i := range 5 {
		c.setTask(newTask(fmt.Sprint("t", i)))
	}
	var got []string
	for p, ok := c.next(time.Now()); ok; p, ok = c.next(time.Now()) {
		got = append(got, p.target.Name)
	}
	if want := []string{"b", "a", "b", "a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: the fifth task has no place", got, want)
	}
}

func TestAnAssumedTaskKeepsItsPlaceUntilTheBindingFails(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	first, second := newTask("a"), newTask("b")
	first.ResourceVersion = "5"
	c.setTask(first)
	c.setTask(second)
	p, ok := c.next(time.Now())
	if !ok || p.obj != first {
		t.Fatalf("got %v, want task a", p.obj)
	}
	c.setTask(first) // an event that is older than the binding
	if p, ok := c.next(time.Now()); ok {
		t.Fatalf("%s was placed where a is assumed", p.obj.Name)
	}
	c.bindingFailed(p, false)
	if p, ok := c.next(time.Now()); !ok || p.obj.Name != "b" {
		t.Fatalf("b was not placed where a is forgotten")
	}
	c.deleteTask(nameOf(second))
	if p, ok := c.next(time.Now()); ok {
		t.Fatalf("%s was placed again during its backoff", p.obj.Name)
	}
	changed := first.DeepCopy()
	changed.ResourceVersion = "6"
	tolerating(batch.Toleration{Operator: batch.TolerationOpExists})(changed)
	c.setTask(changed)
	if p, ok := c.next(time.Now()); !ok || p.obj != changed {
		t.Fatalf("a was not placed again although its tolerations have changed")
	}
	c.stop()
}

func TestATaskThatChangedDuringItsBindingHasNoBackoff(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	task := newTask("a")
	task.ResourceVersion = "5"
	c.setTask(task)
	p, _ := c.next(time.Now())
	changed := task.DeepCopy()
	changed.ResourceVersion = "6"
	c.setTask(changed)
	c.bindingFailed(p, false)
	if p, ok := c.next(time.Now()); !ok || p.obj != changed {
		t.Fatal("the task backs off although it has changed since")
	}
}

// Two schedulers may run at the same time, for example a leader that was frozen and its successor. The one whose
// binding the server rejects must not place another task where the other scheduler has placed one.
func TestATaskWithAStaleBindingKeepsItsPlaceUntilTheInformerCatchesUp(t *testing.T) {
	for _, tc := range []struct {
		name string
		show func(c *state, task *batch.Task)
		next string
	}{
		{"nothing", func(*state, *batch.Task) {}, ""},
		{"bound there", func(c *state, task *batch.Task) { on("w")(task); c.setTask(task) }, ""},
		{"bound elsewhere", func(c *state, task *batch.Task) { on("x")(task); c.setTask(task) }, "b"},
		{"changed", func(c *state, task *batch.Task) { labelledTask(task); c.setTask(task) }, "a"},
		{"gone", func(c *state, task *batch.Task) { c.deleteTask(nameOf(task)) }, "b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newState(Spread, func() {})
				c.setWorker(newWorker("w", 1))
				first := newTask("a", func(t *batch.Task) { t.ResourceVersion = "5" })
				c.setTask(first)
				c.setTask(newTask("b"))
				p, _ := c.next(time.Now())
				c.bindingFailed(p, true)
				if p, ok := c.next(time.Now()); ok {
					t.Fatalf("%s was placed before the informer caught up", p.obj.Name)
				}
				changed := first.DeepCopy()
				changed.ResourceVersion = "6"
				tc.show(c, changed)
				if p, ok := c.next(time.Now()); ok != (tc.next != "") || ok && p.obj.Name != tc.next {
					t.Fatalf("then placed: %+v, want %q", p.obj, tc.next)
				}
				if tc.name == "nothing" {
					<-time.After(time.Second)
					synctest.Wait()
					if p, ok := c.next(time.Now()); !ok || p.obj.Name != "b" {
						t.Error("the other task is not placed although the backoff is over")
					}
					c.deleteTask(toolscache.ObjectName{Namespace: "default", Name: "b"})
					<-time.After(time.Second)
					synctest.Wait()
					if p, ok := c.next(time.Now()); !ok || p.obj != first {
						t.Error("the task is not placed again")
					}
				}
				c.stop()
			})
		})
	}
}

func TestATaskThatWasBoundAndEvictedUnseenIsPlacedAgain(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	task := newTask("a")
	c.setTask(task)
	c.next(time.Now())
	evicted := task.DeepCopy()
	evicted.Status.Disruptions = 1
	disrupted("WorkerLost")(evicted)
	c.setTask(evicted) // the watch was interrupted while the task was bound
	if p, ok := c.next(time.Now()); !ok || p.obj != evicted {
		t.Fatal("the task counts as assumed")
	}
}

func TestARecreatedTaskIsAnotherTask(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	task := newTask("a", func(t *batch.Task) { t.UID = "1" })
	c.setTask(task)
	p, _ := c.next(time.Now())
	again := task.DeepCopy()
	again.UID = "2"
	c.setTask(again)
	c.bindingFailed(p, false) // the response to the first binding comes late
	if p, ok := c.next(time.Now()); !ok || p.obj != again {
		t.Fatal("the new task is not bound")
	}
}

// An event must not cost an attempt for each pending task: only the first task of each class is tried.
func TestAnEventTriesOneTaskOfEachClass(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1, with("cpu", "4")))
	c.setTask(newTask("running", func(t *batch.Task) { t.Spec.WorkerName = "w" }))
	for i := range 1000 {
		c.setTask(newTask(fmt.Sprint("plain", i)))
		c.setTask(newTask(fmt.Sprint("cpu", i), requesting("cpu", "1")))
	}
	c.next(time.Now())
	c.setWorker(newWorker("w", 1, with("cpu", "5")))
	active := func() (n int) {
		for class := range c.namespaces["default"].queues.Get("").Classes() {
			if class.BlockedBy() == 0 {
				n++
			}
		}
		return n
	}
	if active() != 0 {
		t.Errorf("%d classes are active although the worker is full", active())
	}
	c.setWorker(newWorker("w", 2, with("cpu", "5")))
	if active() != 2 {
		t.Errorf("%d classes are active, want 2", active())
	}
	c.next(time.Now())
	c.next(time.Now())
	c.setTask(newTask("running", func(t *batch.Task) { t.Spec.WorkerName, t.Status.Phase = "w", batch.TaskRunning }))
	if active() != 0 {
		t.Error("a task that stays on its worker activates classes")
	}
	refreshed := newWorker("w", 2, with("cpu", "5"))
	refreshed.Status.RunningTasks = 1
	c.setWorker(refreshed)
	if active() != 0 {
		t.Error("a worker whose state has not changed activates classes")
	}
}

func TestTasksAreReportedOnceTheyHaveBeenUnschedulableForTheDelay(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	start := time.Now()
	for i := range 4 {
		c.setTask(newTask(fmt.Sprint("t", i), func(t *batch.Task) { t.CreationTimestamp.Time = start }))
	}
	c.next(start)
	c.next(start)
	if due := c.tasksToReport(start.Add(time.Second-1), time.Second, 10); len(due) != 0 {
		t.Errorf("before the delay is over: %d reports, want none yet", len(due))
	}
	start = start.Add(time.Second)
	due := c.tasksToReport(start, time.Second, 2)
	if len(due) != 2 {
		t.Fatalf("%d reports, want as many as the limit of 2", len(due))
	}
	c.reported(due[0])
	c.reported(due[1])
	due = c.tasksToReport(start, time.Second, 2)
	if len(due) != 1 {
		t.Fatalf("%d reports, want the last one", len(due))
	}
	// The queue starts tasks: the delay begins again for the others.
	c.setWorker(newWorker("w", 2))
	later := start.Add(7 * time.Second)
	c.next(later)
	c.next(later)
	if due := c.tasksToReport(later, time.Second, 10); len(due) != 0 {
		t.Errorf("%d reports right after a task of the class was bound", len(due))
	}
	due = c.tasksToReport(later.Add(5*time.Second), 10*time.Second, 10)
	if len(due) != 0 {
		t.Errorf("%d reports of tasks that carry the message already", len(due))
	}
}

// The invariants hold after any sequence of events: each worker counts the tasks that are bound to it or assumed there,
// no worker has more than it offers, and no task that fits a worker stays pending.
func TestInvariantsUnderRandomEvents(t *testing.T) {
	prefetches := 0
	for seed := range uint64(30) {
		// Time stands still in a synctest bubble, so no timer fires.
		synctest.Test(t, func(t *testing.T) { prefetches += randomEvents(t, seed) })
	}
	if prefetches < 100 {
		t.Errorf("only %d tasks were prefetched: the test needs more events that lead to it", prefetches)
	}
}

// randomEvents returns how many tasks were prefetched.
func randomEvents(t *testing.T, seed uint64) (prefetches int) {
	r := rand.New(rand.NewPCG(seed, seed))
	c := newState(Spread, func() {})
	stored := map[string]*batch.Task{} // as the server has them
	flight := []placement{}
	returned := map[string]bool{}
	version := 0
	show := func(task *batch.Task) {
		version++
		task.ResourceVersion = fmt.Sprint(version)
		stored[task.Name] = task
		c.setTask(task)
	}
	pick := func() *batch.Task {
		names := slices.Sorted(maps.Keys(stored))
		if len(names) == 0 {
			return nil
		}
		return stored[names[r.IntN(len(names))]].DeepCopy()
	}
	// Tasks that differ rarely wait on a worker: one that comes first usually waits for the worker, too.
	alike := seed%2 == 0
	for step := range 2000 {
		switch op := r.IntN(15); {
		case op < 3:
			task := newTask(fmt.Sprint("t", step), func(t *batch.Task) { t.UID = types.UID(fmt.Sprint(step)); t.Spec.Priority = r.Int32N(3) })
			if alike {
				task.Spec.Priority = 0
				ownedBy("set")(task)
				show(task)
				break
			}
			if r.IntN(2) == 0 {
				requesting("cpu", fmt.Sprint(1+r.IntN(3)))(task)
			}
			if r.IntN(4) == 0 {
				selecting("zone", fmt.Sprint(r.IntN(2)))(task)
			}
			if r.IntN(2) == 0 {
				ownedBy(types.UID(fmt.Sprint("set", r.IntN(2))))(task)
			}
			task.Spec.QueueName = []string{"a", "b", "c"}[r.IntN(3)]
			show(task)
		case op < 5:
			w := newWorker(fmt.Sprint("w", r.IntN(5)), int64(r.IntN(4)), with("cpu", fmt.Sprint(r.IntN(5))), labelled("zone", fmt.Sprint(r.IntN(2))), prefetching(r.Int32N(4)))
			if r.IntN(4) == 0 {
				cordoned(w)
			}
			c.setWorker(w)
		case op == 5:
			c.deleteWorker(toolscache.ObjectName{Namespace: "default", Name: fmt.Sprint("w", r.IntN(5))})
		case op < 8 && len(flight) > 0: // response to a binding
			p := flight[0]
			flight = flight[1:]
			task := stored[p.obj.Name]
			if task == nil || task.Spec.WorkerName != "" || r.IntN(5) == 0 {
				c.bindingFailed(p, r.IntN(2) == 0)
				break
			}
			task = task.DeepCopy()
			task.Spec.WorkerName = p.target.Name
			task.Status.Bindings++
			if p.prefetched {
				task.Status.State.Waiting = &batch.TaskStateWaiting{Reason: batch.TaskReasonPrefetched}
			}
			show(task)
		case op == 8: // finished
			if task := pick(); task != nil {
				delete(stored, task.Name)
				c.deleteTask(nameOf(task))
			}
		case op == 9: // evicted
			if task := pick(); task != nil && task.Spec.WorkerName != "" {
				task.Spec.WorkerName = ""
				task.Status.Disruptions++
				if r.IntN(3) == 0 {
					task.Status.WorkerCrashes++
				}
				disrupted("WorkerStopped")(task)
				task.Status.Phase, task.Status.State.Waiting = batch.TaskPending, nil
				show(task)
			}
		case op == 10:
			queue := newQueue([]string{"a", "b", "c"}[r.IntN(3)], int32(1+r.IntN(3)))
			if r.IntN(2) == 0 {
				queue.Spec.MaxRunningTasks = ptr.To(r.Int32N(5))
			}
			if r.IntN(2) == 0 {
				queue.Spec.Resources.Limits = batch.ResourceList{"cpu": *resource.NewQuantity(r.Int64N(5), resource.DecimalSI)}
			}
			if r.IntN(4) == 0 {
				queue.Spec.StopPolicy = ptr.To(batch.StopPolicyHold)
			}
			c.setQueue(queue)
		case op == 11:
			c.deleteQueue(toolscache.ObjectName{Namespace: "default", Name: []string{"a", "b", "c"}[r.IntN(3)]})
		case op == 12:
			c.reserve(time.Now().Add(time.Duration(r.IntN(2)) * time.Hour))
			c.tasksToReport(time.Now().Add(time.Hour), time.Second, 5)
		case op == 13: // asked for, and returned before its start
			for _, due := range c.tasksToReturn(time.Now().Add(time.Duration(r.IntN(2)) * time.Hour)) {
				task := stored[due.Name].DeepCopy()
				if returned[task.Name] {
					t.Fatalf("seed %d, step %d: %s is asked for although it was returned before", seed, step, task.Name)
				}
				switch r.IntN(3) {
				case 0:
					c.returnFailed(nameOf(task))
				case 1:
					task.Spec.WorkerName, task.Status.State.Waiting = "", nil
					returned[task.Name] = true
					show(task)
				default:
					task.Status.Phase, task.Status.State.Waiting = batch.TaskRunning, nil
					show(task)
				}
			}
		default:
			if task := pick(); task != nil {
				task.Labels = map[string]string{"step": fmt.Sprint(step)}
				switch r.IntN(4) {
				case 0:
					task.Spec.Priority = r.Int32N(3)
				case 1:
					task.Spec.QueueName = []string{"a", "b", "c"}[r.IntN(3)]
				}
				show(task)
			}
		}
		for p, ok := c.next(time.Now()); ok; p, ok = c.next(time.Now()) {
			w := c.namespaces["default"].workers.Worker(p.target.Name)
			slots, cpu := w.Allocatable["tasks"], w.Allocatable["cpu"]
			if p.prefetched {
				prefetches++
				if returned[p.obj.Name] {
					t.Fatalf("seed %d, step %d: %s is prefetched although it was returned before", seed, step, p.obj.Name)
				}
				slots, cpu = slots+w.PrefetchLimit, cpu*(slots+w.PrefetchLimit)/slots
			}
			if w.Tasks > slots || p.task.Requests["cpu"] > 0 && w.Used["cpu"] > cpu {
				t.Fatalf("seed %d, step %d: worker %s has more tasks than it can run", seed, step, p.target.Name)
			} else if w.TasksAlone > 0 && w.Tasks > 1 {
				t.Fatalf("seed %d, step %d: worker %s runs %d tasks beside one that runs alone", seed, step, p.target.Name, w.Tasks-1)
			}
			if q := p.task.Queue; !withinLimits(q, p.task) {
				t.Fatalf("seed %d, step %d: queue %s runs more than it may", seed, step, q.Name)
			}
			flight = append(flight, p)
		}
		check(t, c, fmt.Sprintf("seed %d, step %d", seed, step))
	}
	c.stop()
	return prefetches
}

func withinLimits(q *queue.Queue, started *task) bool {
	if q.Object() == nil {
		return true
	}
	spec := &q.Object().Spec
	limit, limited := framework.NewResources(spec.Resources.Limits)["cpu"]
	limited = limited && started.Requests["cpu"] > 0
	return ptr.Deref(spec.StopPolicy, batch.StopPolicyNone) == batch.StopPolicyNone &&
		(spec.MaxRunningTasks == nil || len(q.Bound()) <= int(*spec.MaxRunningTasks)) && (!limited || q.Used()["cpu"] <= limit)
}

func check(t *testing.T, c *state, at string) {
	t.Helper()
	ns := c.namespaces["default"]
	if ns == nil {
		if len(c.tasks) > 0 {
			t.Fatalf("%s: the namespace is removed while it has tasks", at)
		}
		return
	}
	tasksShort := map[*cache.Worker]int64{}
	tasks, tasksAlone, cpu := map[*cache.Worker]int64{}, map[*cache.Worker]int64{}, map[*cache.Worker]int64{}
	bound, pending, waiting, queueCPU := map[*queue.Queue]int{}, map[*queue.Queue]int{}, map[*queue.Queue]int{}, map[*queue.Queue]int64{}
	for task := range ns.prefetched {
		if c.taskOf(&task.TaskInfo) != task {
			t.Fatalf("%s: a task that is gone waits on a worker", at)
		}
	}
	for name, task := range c.tasks {
		q := task.Queue
		if task.worker != nil {
			tasks[task.worker]++
			if framework.RunsAlone(task.Object) {
				tasksAlone[task.worker]++
			}
			if task.Short {
				tasksShort[task.worker]++
			}
			cpu[task.worker] += task.Requests["cpu"]
			bound[q]++
			queueCPU[q] += task.Requests["cpu"]
			if task.Enqueued() {
				t.Fatalf("%s: %s is pending and on a worker", at, name)
			}
		} else {
			pending[q]++
		}
		reported := task.Object.Status.State.Waiting
		isPrefetched := task.state == taskBound && reported != nil && reported.Reason == batch.TaskReasonPrefetched
		if _, got := ns.prefetched[task]; got != isPrefetched {
			t.Fatalf("%s: that %s waits on a worker is %v, want %v", at, name, got, isPrefetched)
		}
		if onWorker := task.state == taskAssumed || task.state == taskUnconfirmed || task.state == taskBound; onWorker != (task.worker != nil) {
			t.Fatalf("%s: %s is in state %d, and its worker is %v", at, name, task.state, task.worker)
		}
		if task.Enqueued() != (task.state == taskPending) {
			t.Fatalf("%s: %s is in state %d, and that it is enqueued is %v", at, name, task.state, task.Enqueued())
		}
		if !task.Enqueued() {
			continue
		}
		waiting[q]++
		if !q.StartsTasks(time.Now().Add(time.Hour)) || q.ExceededLimit(&task.Task) != "" {
			continue
		}
		for _, w := range ns.workers.Workers() {
			if r := ns.reservations.OfWorker(&w.WorkerInfo); r != nil && r.Task.QueueInfo != task.QueueInfo && r.Task.Object.Spec.Priority == task.Object.Spec.Priority {
				continue // their order changes with the shares, and reviewReservations looks at it only at intervals
			}
			if ns.fits(&task.TaskInfo, w) && &task.Task == task.Class().First() {
				t.Fatalf("%s: %s is blocked although it fits %s", at, name, w.Name)
			}
		}
	}
	total, reserved := int64(0), 0
	sharing, sharingCPU := map[*reservation.Reservation]int64{}, map[*reservation.Reservation]int64{}
	for _, task := range c.tasks {
		r := ns.reservations.OfSharing(&task.TaskInfo)
		sharing[r]++
		sharingCPU[r] += task.Requests["cpu"]
	}
	for _, w := range ns.workers.Workers() {
		total += w.Allocatable["tasks"]
		if r := ns.reservations.OfWorker(&w.WorkerInfo); r != nil {
			reserved++
			n, used := r.Sharing()
			if n != sharing[r] || used["cpu"] != sharingCPU[r] {
				t.Fatalf("%s: %d tasks with %d cpu share the reservation of %s, should be %d and %d", at, n, used["cpu"], w.Name, sharing[r], sharingCPU[r])
			}
			if ns.reservations.OfTask(r.Task) != r || c.taskOf(r.Task) == nil || &c.taskOf(r.Task).TaskInfo != r.Task || !c.taskOf(r.Task).Enqueued() {
				t.Fatalf("%s: %s is reserved for a task that is not pending", at, w.Name)
			}
		}
		if w.Tasks != tasks[w] || w.Used["cpu"] != cpu[w] {
			t.Fatalf("%s: %s counts %d tasks and %d cpu, has %d and %d", at, w.Name, w.Tasks, w.Used["cpu"], tasks[w], cpu[w])
		}
		if w.TasksShort != tasksShort[w] {
			t.Fatalf("%s: %s counts %d short tasks, has %d", at, w.Name, w.TasksShort, tasksShort[w])
		}
		if got := ns.workers.FirstPrefetching(func(other *cache.Worker) bool { return other == w }); w.AcceptsPrefetch() != (got == w) {
			t.Fatalf("%s: AcceptsPrefetch of %s returns %v, and that it is offered %v", at, w.Name, w.AcceptsPrefetch(), got == w)
		}
		if w.TasksAlone != tasksAlone[w] {
			t.Fatalf("%s: %s counts %d tasks that run alone, has %d", at, w.Name, w.TasksAlone, tasksAlone[w])
		}
		if got := ns.workers.FirstPreferred(func(other *cache.Worker) bool { return other == w }); w.AcceptsTasks() != (got == w) {
			t.Fatalf("%s: AcceptsTasks of %s returns %v, and that it is offered %v", at, w.Name, w.AcceptsTasks(), got == w)
		}
	}
	if ns.workers.Total()["tasks"] != total || ns.reservations.Len() != reserved {
		t.Fatalf("%s: the total is %d tasks and %d workers are reserved, should be %d and %d", at, ns.workers.Total()["tasks"], ns.reservations.Len(), total, reserved)
	}
	for _, q := range ns.queues.All() {
		inClasses := 0
		for class := range q.Classes() {
			inClasses += class.Len()
		}
		if inClasses != waiting[q] || len(q.Bound()) != bound[q] || q.Pending() != pending[q] || q.Used()["cpu"] != queueCPU[q] {
			t.Fatalf("%s: queue %q counts %d in classes, %d bound, %d pending, %d cpu; should be %d, %d, %d, %d", at, q.Name,
				inClasses, len(q.Bound()), q.Pending(), q.Used()["cpu"], waiting[q], bound[q], pending[q], queueCPU[q])
		}
		weight := 1.0
		if q.Object() != nil {
			weight = float64(*q.Object().Spec.Weight)
		}
		if want := int64(math.Round(ns.workers.DominantShare(int64(len(q.Bound())), q.Used()) / weight * framework.ShareScale)); !ns.sharesStale && q.Share != want {
			t.Fatalf("%s: the share of queue %q is %d, should be %d", at, q.Name, q.Share, want)
		}
	}
}

func TestIsTaskUpdated(t *testing.T) {
	for _, tc := range []struct {
		name   string
		update func(*batch.Task)
		want   bool
	}{
		{"nothing", func(*batch.Task) {}, false},
		{"status condition", disrupted("WorkerLost"), false},
		{"resource version", func(t *batch.Task) { t.ResourceVersion = "7" }, false},
		{"generation", func(t *batch.Task) { t.Generation = 7 }, false},
		{"labels", labelledTask, false},
		{"annotations", func(t *batch.Task) { t.Annotations = map[string]string{"a": "b"} }, false},
		{"finalizers", func(t *batch.Task) { t.Finalizers = []string{"example.com/f"} }, false},
		{"deadline", func(t *batch.Task) { t.Spec.ActiveDeadlineSeconds = ptr.To(int64(60)) }, false},
		{"attempts", func(t *batch.Task) { t.Status.Attempts = 3 }, false},
		{"priority", prioritized(1), false}, // it moves the task within its class
		{"bound", on("w"), true},
		{"bound and returned meanwhile", func(t *batch.Task) { t.Status.Bindings = 1 }, true},
		{"evicted meanwhile", func(t *batch.Task) { t.Status.Disruptions = 1 }, true},
		{"worker crashed", crashed(1), true},
		{"deleted", func(t *batch.Task) { t.DeletionTimestamp = ptr.To(metav1.Now()) }, true},
		{"gated", func(t *batch.Task) { t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "g"}} }, true},
		{"queue", inQueue("other"), true},
		{"worker selector", selecting("zone", "a"), true},
		{"tolerations", tolerating(batch.Toleration{Operator: batch.TolerationOpExists}), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newState(Spread, func() {})
			c.setWorker(newWorker("w", 1, with("cpu", "1")))
			c.setTask(newTask("busy", on("w")))
			c.setTask(newTask("t"))
			c.next(time.Now()) // t is blocked
			task := c.tasks[nameOf(newTask("t"))]
			class := task.Class()
			updated := newTask("t")
			tc.update(updated)
			if got := c.isTaskUpdated(task, updated); got != tc.want {
				t.Fatalf("isTaskUpdated returns %v", got)
			}
			c.setTask(updated)
			if task.Object != updated {
				t.Error("the object is not replaced")
			}
			if tc.want || tc.name == "priority" {
				return
			}
			if task.Class() != class || class.BlockedBy() != queue.BlockedByWorkers {
				t.Error("the update changes more than the object")
			}
		})
	}
}

// TestTaskStates holds the table in the comment of state.
func TestTaskStates(t *testing.T) {
	name := toolscache.ObjectName{Namespace: "default", Name: "t"}
	version := func(v string) func(*batch.Task) { return func(t *batch.Task) { t.ResourceVersion = v } }
	gated := func(t *batch.Task) { t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "g"}} }
	evicted := func(reason string) func(*batch.Task) {
		return func(t *batch.Task) { disrupted(reason)(t); t.Status.Disruptions = 1 }
	}
	update := func(mutate ...func(*batch.Task)) func(*state) {
		return func(st *state) { st.setTask(newTask("t", append([]func(*batch.Task){version("2")}, mutate...)...)) }
	}
	fail := func(stale bool) func(*state) {
		return func(st *state) {
			t := st.tasks[name]
			st.bindingFailed(placement{task: t, obj: newTask("t", version("1"))}, stale)
		}
	}
	timer := func(st *state) { st.delayOver(st.tasks[name], st.tasks[name].delay) }
	next := func(st *state) { st.next(time.Now()) }
	finished := func(t *batch.Task) { t.Status.Phase = batch.TaskSucceeded }
	boundOnce := func(t *batch.Task) { t.Status.Bindings = 1 }

	pending := []func(*state){func(st *state) { st.setTask(newTask("t", version("1"))) }}
	assumed := append(slices.Clone(pending), next)
	for _, tc := range []struct {
		from  []func(*state)
		state taskState
		event string
		do    func(*state)
		want  taskState
	}{
		{pending, taskPending, "next", next, taskAssumed},
		{pending, taskPending, "update that isTaskUpdated does not count", update(labelledTask), taskPending},
		{pending, taskPending, "gated", update(gated), taskWaiting},
		{pending, taskPending, "bound by another scheduler", update(on("x")), taskBound},
		{assumed, taskAssumed, "update older than the binding", update(labelledTask), taskAssumed},
		{assumed, taskAssumed, "bound", update(on("w")), taskBound},
		{assumed, taskAssumed, "bound elsewhere", update(on("x")), taskBound},
		{assumed, taskAssumed, "bound and evicted", update(evicted("WorkerLost")), taskPending},
		{assumed, taskAssumed, "binding failed", fail(false), taskWaiting},
		{append(slices.Clone(assumed), update(labelledTask)), taskAssumed, "binding of an older version failed", fail(false), taskPending},
		{assumed, taskAssumed, "binding refused as stale", fail(true), taskUnconfirmed},
		{append(slices.Clone(assumed), fail(true)), taskUnconfirmed, "bound", update(on("w")), taskBound},
		{append(slices.Clone(assumed), fail(true)), taskUnconfirmed, "other update", update(labelledTask), taskPending},
		{append(slices.Clone(assumed), fail(true)), taskUnconfirmed, "backoff over", timer, taskWaiting},
		{append(slices.Clone(assumed), update(on("w"))), taskBound, "update", update(on("w"), labelledTask), taskBound},
		{append(slices.Clone(assumed), update(on("w"))), taskBound, "another queue", update(on("w"), inQueue("other")), taskBound},
		{append(slices.Clone(assumed), update(on("w"))), taskBound, "returned by its worker", update(evicted("WorkerStopped")), taskPending},
		{append(slices.Clone(assumed), update(on("w"))), taskBound, "evicted from a live worker", update(evicted("TaintEviction")), taskWaiting},
		{append(slices.Clone(assumed), update(on("w"), boundOnce)), taskBound, "returned before its start", update(boundOnce), taskPending},
		{assumed, taskAssumed, "bound and returned before its start", update(boundOnce), taskPending},
		{append(slices.Clone(pending), update(gated)), taskWaiting, "gates removed", update(), taskPending},
		{append(slices.Clone(pending), update(gated)), taskWaiting, "bound by another scheduler", update(on("x")), taskBound},
		{append(slices.Clone(assumed), fail(false)), taskWaiting, "update during the backoff", update(labelledTask), taskWaiting},
		{append(slices.Clone(assumed), fail(false), func(st *state) { st.tasks[name].backoffEnd = time.Time{} }), taskWaiting, "backoff over", timer, taskPending},
		{pending, taskPending, "finished", update(finished), taskRemoved},
		{assumed, taskAssumed, "finished", update(finished), taskRemoved},
		{append(slices.Clone(assumed), fail(true)), taskUnconfirmed, "deleted", func(st *state) { st.deleteTask(name) }, taskRemoved},
		{append(slices.Clone(pending), update(gated)), taskWaiting, "deleted", func(st *state) { st.deleteTask(name) }, taskRemoved},
	} {
		t.Run(fmt.Sprintf("%d %s", tc.state, tc.event), func(t *testing.T) {
			st := newState(Spread, func() {})
			defer st.stop()
			st.setWorker(newWorker("w", 1))
			for _, step := range tc.from {
				step(st)
			}
			task := st.tasks[name]
			if task.state != tc.state {
				t.Fatalf("the task is in state %d before the event", task.state)
			}
			tc.do(st)
			if task.state != tc.want || (st.tasks[name] == nil) != (tc.want == taskRemoved) {
				t.Errorf("the task is in state %d, want %d", task.state, tc.want)
			}
			if st.tasks[name] != nil {
				st.next(time.Now()) // check expects no schedulable task
				check(t, st, "after the event")
			}
		})
	}
}
