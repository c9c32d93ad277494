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
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
)

// simulation runs tasks for as long as takes returns. Its time passes only when a task ends.
type simulation struct {
	*state
	now     time.Time
	takes   func(*batch.Task) time.Duration
	running ends
	started []*batch.Task
	n       int
}

type end struct {
	at  time.Time
	obj *batch.Task
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSimulation(takes func(*batch.Task) time.Duration) *simulation {
	return &simulation{state: newState(Spread, func() {}), now: time.Unix(1000, 0), takes: takes}
}

func (s *simulation) add(mutate ...func(*batch.Task)) {
	s.n++
	s.setTask(newTask(fmt.Sprintf("t%06d", s.n), append([]func(*batch.Task){created(s.now)}, mutate...)...))
}

// start places and binds all tasks that fit.
func (s *simulation) start() {
	for p, ok := s.next(s.now); ok; p, ok = s.next(s.now) {
		bound := p.obj.DeepCopy()
		bound.Spec.WorkerName = p.target.Name
		s.setTask(bound)
		s.started = append(s.started, bound)
		heap.Push(&s.running, end{s.now.Add(s.takes(bound)), bound})
	}
}

// report writes unschedulable messages to the tasks and delivers the updates, as the scheduler and its informer do.
func (s *simulation) report() {
	for _, r := range s.tasksToReport(s.now, time.Second, reportBatch) {
		updated := r.Object.DeepCopy()
		meta.SetStatusCondition(&updated.Status.Conditions, metav1.Condition{
			Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: batch.TaskReasonUnschedulable, Message: r.Message,
		})
		s.setTask(updated)
		s.reported(r)
	}
}

// step lets time pass until the next task ends and returns that task.
func (s *simulation) step() *batch.Task {
	e := heap.Pop(&s.running).(end)
	s.now = e.at
	s.deleteTask(nameOf(e.obj))
	return e.obj
}

func TestQueuesAreServedByWeight(t *testing.T) {
	for _, tc := range []struct {
		name    string
		workers []*batch.Worker
		queues  []*batch.TaskQueue
		asks    map[string]func(*batch.Task)
		want    map[string]float64 // part of all starts
	}{
		{
			name:    "one to three",
			workers: []*batch.Worker{newWorker("w1", 8), newWorker("w2", 8)},
			queues:  []*batch.TaskQueue{newQueue("a", 1), newQueue("b", 3)},
			want:    map[string]float64{"a": 0.25, "b": 0.75},
		},
		{
			name:    "one to three on places that cannot be divided so",
			workers: []*batch.Worker{newWorker("w", 5)},
			queues:  []*batch.TaskQueue{newQueue("a", 1), newQueue("b", 3)},
			want:    map[string]float64{"a": 0.25, "b": 0.75},
		},
		{
			name:    "one to three on a single place",
			workers: []*batch.Worker{newWorker("w", 1)},
			queues:  []*batch.TaskQueue{newQueue("a", 1), newQueue("b", 3)},
			want:    map[string]float64{"a": 0.25, "b": 0.75},
		},
		{
			name:    "queues without objects weigh one",
			workers: []*batch.Worker{newWorker("w", 12)},
			queues:  []*batch.TaskQueue{newQueue("c", 2)},
			want:    map[string]float64{"a": 0.25, "b": 0.25, "c": 0.5},
		},
		{
			// The dominant resource of a is memory: 3 of its tasks take 12 of 18 GB. That of b is cpu: 2 of
			// its tasks take 6 of 9.
			name:    "dominant shares are equal",
			workers: []*batch.Worker{newWorker("w", 1000, with("cpu", "9"), with("memory", "18Gi"))},
			asks: map[string]func(*batch.Task){
				"a": func(t *batch.Task) { requesting("cpu", "1")(t); requesting("memory", "4Gi")(t) },
				"b": func(t *batch.Task) { requesting("cpu", "3")(t); requesting("memory", "1Gi")(t) },
			},
			want: map[string]float64{"a": 0.6, "b": 0.4},
		},
		{
			name:    "twice the cpu, half the tasks",
			workers: []*batch.Worker{newWorker("w", 1000, with("cpu", "12"))},
			asks:    map[string]func(*batch.Task){"a": requesting("cpu", "1"), "b": requesting("cpu", "2")},
			want:    map[string]float64{"a": 2. / 3, "b": 1. / 3},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSimulation(func(task *batch.Task) time.Duration { return time.Second + time.Duration(len(task.Name)) })
			for _, w := range tc.workers {
				s.setWorker(w)
			}
			for _, q := range tc.queues {
				s.setQueue(q)
			}
			add := func(queue string) {
				more := func(*batch.Task) {}
				if ask := tc.asks[queue]; ask != nil {
					more = ask
				}
				s.add(inQueue(queue), more)
			}
			names := slices.Sorted(func(yield func(string) bool) {
				for name := range tc.want {
					if !yield(name) {
						return
					}
				}
			})
			for range 100 { // the tasks of the first queue are older
				for _, name := range names {
					add(name)
				}
			}
			for range 3000 {
				s.start()
				add(s.step().Spec.QueueName)
			}
			counts := map[string]float64{}
			for _, task := range s.started {
				counts[task.Spec.QueueName]++
			}
			for name, want := range tc.want {
				if got := counts[name] / float64(len(s.started)); math.Abs(got-want) > 0.02 {
					t.Errorf("queue %s has %.3f of the starts, want %.3f", name, got, want)
				}
			}
		})
	}
}

func TestAQueueThatWasIdleHasNoCredit(t *testing.T) {
	s := newSimulation(func(*batch.Task) time.Duration { return time.Second })
	s.setWorker(newWorker("w", 1))
	for range 2000 {
		s.add(inQueue("busy"))
	}
	for range 1000 {
		s.start()
		s.step()
	}
	for range 1000 {
		s.add(inQueue("new"))
	}
	s.started = nil
	for range 100 {
		s.start()
		s.step()
	}
	n := 0
	for _, task := range s.started {
		if task.Spec.QueueName == "new" {
			n++
		}
	}
	if n < 48 || n > 52 {
		t.Errorf("the queue that was idle has %d of 100 starts", n)
	}
}

func TestPriorityComesBeforeShares(t *testing.T) {
	s := newSimulation(func(*batch.Task) time.Duration { return time.Second })
	s.setWorker(newWorker("w", 2))
	s.setQueue(newQueue("heavy", 1000))
	for range 10 {
		s.add(inQueue("heavy"))
		s.add(inQueue("light"), prioritized(1))
	}
	for range 10 {
		s.start()
		s.step()
	}
	for _, task := range s.started[:10] {
		if task.Spec.Priority != 1 {
			t.Fatalf("%s of queue %s was started before a task of higher priority", task.Name, task.Spec.QueueName)
		}
	}
}

// No queue exceeds its limits however many tasks end, and a queue that is held starts nothing.
func TestLimitsAreNeverExceeded(t *testing.T) {
	s := newSimulation(func(t *batch.Task) time.Duration { return time.Duration(1+len(s5(t))) * time.Second })
	s.setWorker(newWorker("w", 100, with("cpu", "100")))
	s.setQueue(newQueue("few", 1, atMost(3)))
	s.setQueue(newQueue("small", 1, limited("cpu", "5")))
	s.setQueue(newQueue("none", 1, atMost(0)))
	s.setQueue(newQueue("held", 1, held))
	for i := range 200 {
		s.add(inQueue("few"))
		s.add(inQueue("small"), requesting("cpu", fmt.Sprint(1+i%3)))
		s.add(inQueue("none"))
		s.add(inQueue("held"))
	}
	used := func(queue string) (tasks int, cpu int64) {
		for _, e := range s.running {
			if e.obj.Spec.QueueName == queue {
				tasks++
				cpu += framework.NewResources(e.obj.Spec.Resources.Requests)["cpu"]
			}
		}
		return tasks, cpu
	}
	for range 300 {
		s.start()
		if n, _ := used("few"); n != 3 && s.namespaces["default"].queues.Get("few").Pending() > 0 {
			t.Fatalf("queue few runs %d", n)
		}
		if _, cpu := used("small"); cpu > 5000 {
			t.Fatalf("queue small uses %d", cpu)
		}
		for _, queue := range []string{"none", "held"} {
			if n, _ := used(queue); n > 0 {
				t.Fatalf("queue %s runs %d", queue, n)
			}
		}
		if len(s.running) == 0 {
			break
		}
		s.step()
	}
	if n := len(s.started); n < 300 {
		t.Errorf("only %d have started", n)
	}
	s.setQueue(newQueue("held", 1))
	s.start()
	if n, _ := used("held"); n == 0 {
		t.Error("a queue that is not held any more starts nothing")
	}
}

func s5(t *batch.Task) string { return t.Name[5:] }

func TestALargeTaskIsStartedAlthoughSmallOnesKeepComing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		large  []func(*batch.Task)
		small  []func(*batch.Task)
		others []func(*batch.Task) // more small tasks
		queue  *batch.TaskQueue
		slower time.Duration // added to the 5 to 8 seconds that each task takes
		within time.Duration
	}{
		{name: "for a whole worker", large: []func(*batch.Task){requesting("cpu", "8")}, small: []func(*batch.Task){requesting("cpu", "1")}, within: 40 * time.Second},
		{
			name: "with small tasks that take longer than it takes to be reported again", large: []func(*batch.Task){requesting("cpu", "8")},
			small: []func(*batch.Task){requesting("cpu", "1")}, slower: 10 * time.Second, within: 40 * time.Second,
		},
		{name: "that runs alone", large: []func(*batch.Task){requesting("cpu", "1"), crashed(1)}, small: []func(*batch.Task){requesting("cpu", "1")}, within: 40 * time.Second},
		{name: "for most of a worker", large: []func(*batch.Task){requesting("cpu", "5")}, small: []func(*batch.Task){requesting("cpu", "2")}, within: 40 * time.Second},
		{name: "in a queue of its own", large: []func(*batch.Task){requesting("cpu", "8"), inQueue("large")}, small: []func(*batch.Task){requesting("cpu", "1")}, within: 40 * time.Second},
		{
			name: "within the limits of its queue", large: []func(*batch.Task){requesting("cpu", "6"), inQueue("l")}, small: []func(*batch.Task){requesting("cpu", "1"), inQueue("l")},
			queue: newQueue("l", 1, limited("cpu", "6")), within: 90 * time.Second, // fifty tasks are older
		},
		{
			name: "within the limits of its queue, on workers that other queues fill", large: []func(*batch.Task){requesting("cpu", "8"), inQueue("l")},
			small: []func(*batch.Task){requesting("cpu", "1"), inQueue("l")}, others: []func(*batch.Task){requesting("cpu", "1")},
			queue: newQueue("l", 1, limited("cpu", "8")), within: 90 * time.Second,
		},
		{
			name: "in a queue that runs as many as it may", large: []func(*batch.Task){requesting("cpu", "8"), inQueue("l")},
			small: []func(*batch.Task){requesting("cpu", "1"), inQueue("l")}, queue: newQueue("l", 1, atMost(20)), within: 60 * time.Second,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := 0
			s := newSimulation(func(*batch.Task) time.Duration {
				n++
				return tc.slower + time.Duration(5000+n*37%3000)*time.Millisecond
			})
			for _, w := range []string{"a", "b", "c", "d"} {
				s.setWorker(newWorker(w, 8, with("cpu", "8")))
			}
			if tc.queue != nil {
				s.setQueue(tc.queue)
			}
			for range 50 {
				s.add(tc.small...)
			}
			s.start()
			s.step()
			begin := s.now
			// This task is too large for any worker and must not hold up the others.
			s.add(requesting("cpu", "9"), prioritized(5), inQueue("unsatisfiable"))
			s.add(append([]func(*batch.Task){func(t *batch.Task) { t.Name = "large" }}, tc.large...)...)
			for {
				s.start()
				if slices.ContainsFunc(s.started, func(t *batch.Task) bool { return t.Name == "large" }) {
					break
				}
				s.reserve(s.now.Add(-10 * time.Second))
				s.report()
				if s.now.Sub(begin) > 10*time.Minute {
					t.Fatal("it is not started for ten minutes")
				}
				s.add(tc.small...)
				if tc.others == nil {
					tc.others = tc.small
				}
				s.add(tc.others...)
				s.step()
			}
			if waited := s.now.Sub(begin); waited > tc.within {
				t.Errorf("it waited for %s", waited)
			}
			// All reservations are released.
			if ns := s.namespaces["default"]; ns.reservations.Len() != 0 || ns.queues.Add("l").HasLimitReservation() {
				t.Errorf("%d workers are still reserved", ns.reservations.Len())
			}
		})
	}
}

// An update that does not change what the task needs costs it neither its reservation nor the time that it has waited.
func TestATaskKeepsItsReservationAndBackoffWhenItIsUpdated(t *testing.T) {
	for _, tc := range []struct {
		name   string
		update func(*batch.Task)
	}{
		{"status", func(t *batch.Task) {
			meta.SetStatusCondition(&t.Status.Conditions, metav1.Condition{
				Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: batch.TaskReasonUnschedulable, Message: "No room.",
			})
		}},
		{"labels", labelledTask},
		{"annotations", func(t *batch.Task) { t.Annotations = map[string]string{"a": "b"} }},
		{"deadline", func(t *batch.Task) { t.Spec.ActiveDeadlineSeconds = ptr.To(int64(60)) }},
		{"crash limit", func(t *batch.Task) { t.Spec.CrashLimit = ptr.To(int32(9)) }},
		{"a higher priority", prioritized(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			t.Run("room on a worker", func(t *testing.T) {
				c := newState(Spread, func() {})
				c.setWorker(newWorker("w", 8, with("cpu", "8")))
				c.setTask(newTask("busy", on("w"), requesting("cpu", "4")))
				large := newTask("large", requesting("cpu", "8"))
				c.setTask(large)
				c.next(now)
				c.reserve(now)
				updated := large.DeepCopy()
				tc.update(updated)
				c.setTask(updated)
				c.setTask(newTask("small", requesting("cpu", "1")))
				if p, ok := c.next(now); ok {
					t.Fatalf("%s was placed in reserved room", p.obj.Name)
				}
				c.deleteTask(toolscache.ObjectName{Namespace: "default", Name: "busy"})
				if p, ok := c.next(now); !ok || p.obj != updated {
					t.Fatal("the updated large task was not placed")
				}
			})
			t.Run("room within a limit", func(t *testing.T) {
				c := newState(Spread, func() {})
				c.setWorker(newWorker("w", 8, with("cpu", "80")))
				c.setQueue(newQueue("l", 1, limited("cpu", "8")))
				c.setTask(newTask("busy", on("w"), requesting("cpu", "4"), inQueue("l")))
				large := newTask("large", requesting("cpu", "8"), inQueue("l"))
				c.setTask(large)
				c.next(now)
				c.reserve(now)
				updated := large.DeepCopy()
				tc.update(updated)
				c.setTask(updated)
				c.setTask(newTask("small", requesting("cpu", "1"), inQueue("l")))
				if p, ok := c.next(now); ok {
					t.Fatalf("%s was placed in reserved room", p.obj.Name)
				}
			})
			t.Run("time that it was unschedulable", func(t *testing.T) {
				c := newState(Spread, func() {})
				c.setWorker(newWorker("w", 8, with("cpu", "8")))
				c.setTask(newTask("busy", on("w"), requesting("cpu", "4")))
				large := newTask("large", requesting("cpu", "8"))
				c.setTask(large)
				c.next(now)
				updated := large.DeepCopy()
				tc.update(updated)
				c.setTask(updated)
				c.next(now.Add(9 * time.Second))
				c.reserve(now)
				if c.namespaces["default"].reservations.Len() == 0 {
					t.Fatal("no worker is reserved: the delay has begun again")
				}
			})
			t.Run("delay after a failed binding", func(t *testing.T) {
				c := newState(Spread, func() {})
				defer c.stop()
				c.setWorker(newWorker("w", 1))
				task := newTask("a")
				c.setTask(task)
				p, _ := c.next(now)
				c.bindingFailed(p, false)
				updated := task.DeepCopy()
				tc.update(updated)
				c.setTask(updated)
				if p, ok := c.next(now); ok {
					t.Fatalf("%s was placed again during its backoff", p.obj.Name)
				}
			})
		})
	}
}

func TestATaskWhoseWorkerCrashedRunsAlone(t *testing.T) {
	c := newState(Spread, func() {})
	now := time.Now()
	next := func() string {
		p, ok := c.next(now)
		if !ok {
			return ""
		}
		return p.obj.Name + " on " + p.target.Name
	}
	want := func(want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	wantMessage := func(task, want string) {
		t.Helper()
		if got := c.namespaces["default"].unschedulableMessage(&c.tasks[toolscache.ObjectName{Namespace: "default", Name: task}].TaskInfo); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	gone := func(task string) { c.deleteTask(toolscache.ObjectName{Namespace: "default", Name: task}) }

	c.setWorker(newWorker("a", 4))
	c.setWorker(newWorker("b", 4))
	c.setTask(newTask("innocent", on("a")))
	c.setTask(newTask("suspect-1", crashed(1)))
	c.setTask(newTask("suspect-2", crashed(3)))
	want("suspect-1 on b")
	want("")
	wantMessage("suspect-2", "0/2 workers are available: 1 ran a task alone whose worker has crashed before, "+
		"1 ran other tasks (the task runs alone since its worker has crashed).")
	c.setTask(newTask("small"))
	want("small on a")
	want("")
	for _, name := range []string{"x", "y", "z"} {
		c.setTask(newTask(name, prioritized(-1)))
	}
	want("x on a")
	want("y on a")
	want("")
	wantMessage("z", "0/2 workers are available: 1 had no room for tasks, 1 ran a task alone whose worker has crashed before.")
	gone("suspect-1")
	want("suspect-2 on b")
	want("")
	gone("suspect-2")
	want("z on b")
	if w := c.namespaces["default"].workers.Worker("b"); w.TasksAlone != 0 || w.Tasks != 1 {
		t.Errorf("worker b has %d tasks, of which %d run alone", w.Tasks, w.TasksAlone)
	}

	// A task that runs alone takes the whole worker, so a reserved worker does not admit it.
	c = newState(Spread, func() {})
	c.setWorker(newWorker("a", 4, with("cpu", "8")))
	c.setTask(newTask("busy", on("a"), requesting("cpu", "8")))
	c.setTask(newTask("a-waits", requesting("cpu", "4"), inQueue("ml")))
	want("")
	c.reserve(now)
	c.setQueue(newQueue("ml", 1, atMost(0)))
	gone("busy")
	c.setTask(newTask("suspect", crashed(1)))
	want("")
	c.setTask(newTask("small"))
	want("small on a")
}

func TestATaskFollowsItsQueue(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 1))
	c.setQueue(newQueue("held", 1, held))
	task := newTask("a", inQueue("held"))
	c.setTask(task)
	if p, ok := c.next(time.Now()); ok {
		t.Fatalf("%s of a queue that is held was placed", p.obj.Name)
	}
	moved := task.DeepCopy()
	inQueue("open")(moved)
	c.setTask(moved)
	if p, ok := c.next(time.Now()); !ok || p.obj != moved {
		t.Fatal("the task was not placed after it was moved to another queue")
	}
	// The task is moved back while its binding is in flight. It counts in the queue that it is in now.
	back := moved.DeepCopy()
	inQueue("held")(back)
	on("w")(back)
	c.setTask(back)
	ns := c.namespaces["default"]
	if ns.queues.Get("open") != nil || len(ns.queues.Get("held").Bound()) != 1 {
		t.Errorf("the queues of the namespace: %v", ns.queues.All())
	}
}

func TestAReservedWorkerAdmitsWhatLeavesRoom(t *testing.T) {
	c := newState(Spread, func() {})
	now := time.Unix(1000, 0)
	c.setWorker(newWorker("w", 4, with("cpu", "8"), with("gpu", "1")))
	c.setTask(newTask("busy", on("w"), requesting("gpu", "1")))
	c.setTask(newTask("a", requesting("gpu", "1"), requesting("cpu", "4")))
	c.next(now)
	c.reserve(now)
	place := func(task *batch.Task) bool {
		c.setTask(task)
		p, ok := c.next(now)
		return ok && p.obj.Name == task.Name
	}
	if !place(newTask("b", requesting("cpu", "4"))) {
		t.Error("a task that leaves 4 cpu, one gpu and a place was not admitted")
	}
	if place(newTask("c", requesting("cpu", "1"))) {
		t.Error("a task that leaves less than 4 cpu was admitted")
	}
	if due := c.tasksToReport(now.Add(time.Hour), time.Second, 10); !slices.ContainsFunc(due, func(r queue.Report) bool {
		return r.Object.Name == "c" && r.Message == "0/1 workers are available: 1 was held back for a task that comes first."
	}) {
		t.Errorf("reports: %+v", due)
	}
	if !place(newTask("d", requesting("cpu", "1"), prioritized(1))) {
		t.Error("a task that is scheduled before was not admitted")
	}
	if p, ok := c.next(now); ok {
		t.Errorf("%s was admitted", p.obj.Name)
	}
	c.deleteTask(toolscache.ObjectName{Namespace: "default", Name: "a"})
	if p, ok := c.next(now); !ok || p.obj.Name != "c" {
		t.Error("the worker is reserved although its task is gone")
	}
}

func TestNoWorkerIsReservedForAQueueThatStartsNoTasks(t *testing.T) {
	c := newState(Spread, func() {})
	now := time.Unix(1000, 0)
	c.setWorker(newWorker("w", 8, with("cpu", "8")))
	c.setTask(newTask("busy", on("w"), requesting("cpu", "4")))
	c.setTask(newTask("waits", inQueue("ml"), requesting("cpu", "8")))
	c.next(now)
	c.reserve(now)
	c.setTask(newTask("small", requesting("cpu", "1")))
	if p, ok := c.next(now); ok {
		t.Fatalf("%s was started", p.obj.Name)
	}
	c.setQueue(newQueue("ml", 1, held))
	c.reserve(now)
	if p, ok := c.next(now); !ok || p.obj.Name != "small" {
		t.Error("a worker is reserved for a queue that is held")
	}
	c.deleteTask(toolscache.ObjectName{Namespace: "default", Name: "small"})
	c.setQueue(newQueue("ml", 1, atMost(1)))
	c.next(now)
	c.reserve(now)
	c.setTask(newTask("long", on("w"), inQueue("ml"), requesting("cpu", "1")))
	c.reserve(now) // the queue has just reached its limit: it may start the next task soon
	c.setTask(newTask("small", requesting("cpu", "1")))
	if p, ok := c.next(now); ok {
		t.Fatalf("%s was started", p.obj.Name)
	}
	c.reserve(time.Now().Add(time.Second)) // as if it had been at its limit for long
	if p, ok := c.next(now); !ok || p.obj.Name != "small" {
		t.Error("a worker is reserved for a queue that has been at its limit for long")
	}
}

func TestPackAndSpread(t *testing.T) {
	for strategy, want := range map[ScoringStrategy]string{Spread: "a b a b", Pack: "a a b b"} {
		c := newState(strategy, func() {})
		c.setWorker(newWorker("a", 2))
		c.setWorker(newWorker("b", 2))
		var got []string
		for i := range 4 {
			c.setTask(newTask(fmt.Sprint("t", i)))
			p, _ := c.next(time.Now())
			got = append(got, p.target.Name)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: got %s, want %s", strategy, s, want)
		}
	}
}

func TestUnschedulableMessages(t *testing.T) {
	for _, tc := range []struct {
		name  string
		queue *batch.TaskQueue
		task  *batch.Task
		want  string
	}{
		{"held", newQueue("ml", 1, held), newTask("t"), "Queue ml is held (stopPolicy Hold)."},
		{"drained", newQueue("ml", 1, drained), newTask("t"), "Queue ml is held (stopPolicy HoldAndDrain)."},
		{"as many as may", newQueue("ml", 1, atMost(2)), newTask("t"), "Queue ml runs 2 of at most 2 tasks."},
		{"more than may", newQueue("ml", 1, atMost(1)), newTask("t"), "Queue ml runs 2 of at most 1 tasks."},
		{"none may", newQueue("ml", 1, atMost(0)), newTask("t"), "Queue ml runs 2 of at most 0 tasks."},
		{
			"too little left", newQueue("ml", 1, limited("cpu", "3")), newTask("t", requesting("cpu", "1500m")),
			"Queue ml has less than 1500m cpu left of its limit of 3.",
		},
		{
			"more than the limit", newQueue("ml", 1, limited("memory", "1Gi")), newTask("t", requesting("memory", "2Gi")),
			"Queue ml is limited to 1Gi memory, and the task requests 2Gi.",
		},
		{"no room", newQueue("ml", 1), newTask("t", requesting("cpu", "7")), "0/1 workers are available: 1 had insufficient cpu."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newState(Spread, func() {})
			c.setQueue(tc.queue)
			c.setWorker(newWorker("w", 10, with("cpu", "8"), with("memory", "8Gi")))
			c.setTask(newTask("one", inQueue("ml"), on("w"), requesting("cpu", "1")))
			c.setTask(newTask("two", inQueue("ml"), on("w"), requesting("cpu", "1")))
			inQueue("ml")(tc.task)
			c.setTask(tc.task)
			if p, ok := c.next(time.Now()); ok {
				t.Fatalf("%s was started", p.obj.Name)
			}
			due := c.tasksToReport(time.Now().Add(time.Second), time.Second, 10)
			if len(due) != 1 || due[0].Message != tc.want {
				t.Errorf("got  %+v\nwant %s", due, tc.want)
			}
		})
	}
}

func TestTasksOfAQueueThatStartsTasksAreReportedOnce(t *testing.T) {
	s := newSimulation(func(*batch.Task) time.Duration { return time.Second })
	s.setWorker(newWorker("w", 1))
	for range 100 {
		s.add(inQueue("ml"))
	}
	s.start()
	s.step()
	s.start()
	if due := s.tasksToReport(s.now, time.Second, 200); len(due) != 0 {
		t.Errorf("%d are reported after a second although the queue starts tasks", len(due))
	}
	for range 10 {
		s.step()
		s.start()
	}
	s.tasks[toolscache.ObjectName{Namespace: "default", Name: "t000100"}].Reported = "0/1 workers are available: 1 had no room for tasks."
	due := s.tasksToReport(s.now, time.Second, 200)
	if len(due) != 87 {
		t.Errorf("%d are reported, want all but one of 88 pending tasks", len(due))
	}
	for _, r := range due {
		if r.Message != "Waits for its turn in queue ml: tasks that come first take the room there is." {
			t.Fatalf("the message is %q", r.Message)
		}
		s.reported(r)
	}
	s.step()
	s.start()
	if due := s.tasksToReport(s.now, time.Second, 200); len(due) != 0 {
		t.Errorf("%d are reported again", len(due))
	}
}

func TestQueueStatus(t *testing.T) {
	c := newState(Spread, func() {})
	start := time.Unix(1000, 0)
	c.setWorker(newWorker("w", 10, with("cpu", "8")))
	c.setTask(newTask("other", inQueue("other")))
	if due := c.queueStatusesToWrite(start, time.Second); len(due) != 0 {
		t.Fatalf("a queue without an object has a status: %+v", due)
	}
	c.setQueue(newQueue("ml", 1, atMost(2), func(q *batch.TaskQueue) { q.Generation, q.ResourceVersion = 7, "1" }))
	for i := range 4 {
		c.setTask(newTask(fmt.Sprint("t", i), inQueue("ml"), created(start.Add(time.Duration(i)*time.Minute)), requesting("cpu", "1500m")))
	}
	c.setTask(newTask("gated", inQueue("ml"), created(start.Add(-time.Minute)), func(t *batch.Task) {
		t.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "g"}}
	}))
	for _, ok := c.next(start); ok; _, ok = c.next(start) {
	}
	due := c.queueStatusesToWrite(start, time.Second)
	if len(due) != 1 {
		t.Fatalf("%d status updates are due", len(due))
	}
	got := due[0].Status
	cpu := got.Used["cpu"]
	if got.Pending != 3 || got.Running != 2 || cpu.String() != "3" || len(got.Used) != 1 || !got.OldestPendingTime.Time.Equal(start.Add(-time.Minute)) {
		t.Errorf("status: %+v", got)
	}
	active := meta.FindStatusCondition(got.Conditions, "Active")
	if active == nil || active.Status != metav1.ConditionTrue || active.Reason != "Ready" || active.ObservedGeneration != 7 {
		t.Errorf("Active: %+v", active)
	}
	if due := c.queueStatusesToWrite(start.Add(time.Second/2), time.Second); len(due) != 0 {
		t.Error("a status is written twice in a second")
	}
	due[0].ResourceVersion = "5"
	c.queueStatusWritten(due[0])
	if due := c.queueStatusesToWrite(start.Add(time.Hour), time.Second); len(due) != 0 {
		t.Error("a status is written although nothing has changed")
	}
	c.setQueue(func() *batch.TaskQueue { q := due[0].DeepCopy(); held(q); q.ResourceVersion = "6"; return q }())
	due = c.queueStatusesToWrite(start.Add(time.Hour), time.Second)
	if len(due) != 1 {
		t.Fatalf("%d status updates are due after the queue was held", len(due))
	}
	if active := meta.FindStatusCondition(due[0].Status.Conditions, "Active"); active.Status != metav1.ConditionFalse || active.Reason != "Stopped" {
		t.Errorf("Active: %+v", active)
	}
}

func TestDrainEvictsEachTaskOnce(t *testing.T) {
	c := newState(Spread, func() {})
	c.setWorker(newWorker("w", 10))
	for i := range 3 {
		c.setTask(newTask(fmt.Sprint("t", i), inQueue("ml"), on("w")))
	}
	c.setTask(newTask("ending", inQueue("ml"), on("w"), func(t *batch.Task) { t.DeletionTimestamp = ptr.To(metav1.Now()) }))
	c.setTask(newTask("other", inQueue("other"), on("w")))
	if due := c.tasksToEvict(10); len(due) != 0 {
		t.Fatalf("%d tasks of queues that are not drained are to be evicted", len(due))
	}
	c.setQueue(newQueue("ml", 1, drained))
	first, rest := c.tasksToEvict(2), c.tasksToEvict(10)
	if len(first) != 2 || len(rest) != 1 {
		t.Fatalf("%d, then %d tasks are to be evicted, want 2 and 1", len(first), len(rest))
	}
	c.evictionFailed(nameOf(first[0]))
	if again := c.tasksToEvict(10); len(again) != 1 || again[0].Name != first[0].Name {
		t.Errorf("want the task whose eviction failed, got %d tasks", len(again))
	}
}

// The command of an evicted task runs until its worker notices the eviction. The task must not be placed before.
func TestATaskEvictedFromALiveWorkerIsPlacedAfterTheEvictionGrace(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reason string
		before func(c *state)
		waits  bool
	}{
		{name: "drained", reason: reasonDrained, waits: true},
		{name: "by a taint", reason: "TaintEviction", waits: true},
		{name: "by hand", reason: "IWantTo", waits: true},
		{name: "by the worker that stops", reason: "WorkerStopped"},
		{name: "by the worker that was restarted", reason: "WorkerRestarted"},
		{name: "from a lost worker", reason: "WorkerLost"},
		{name: "from a worker that is gone", reason: "TaintEviction", before: func(c *state) { c.deleteWorker(toolscache.ObjectName{Namespace: "default", Name: "w"}) }},
		{name: "from a worker that is not ready", reason: "TaintEviction", before: func(c *state) { c.setWorker(newWorker("w", 1, notReady)) }},
		{name: "from a process that is gone", reason: "TaintEviction", before: func(c *state) {
			c.setWorker(newWorker("w", 1, func(w *batch.Worker) { w.Status.Incarnation = "second" }))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				retried := false
				c := newState(Spread, func() { retried = true })
				c.setWorker(newWorker("w", 1))
				c.setTask(newTask("t", on("w")))
				if tc.before != nil {
					tc.before(c)
				}
				c.setWorker(newWorker("x", 1))
				c.setTask(newTask("t", disrupted(tc.reason), func(t *batch.Task) { t.Status.Disruptions = 1 }))
				_, ok := c.next(time.Now())
				if ok == tc.waits {
					t.Fatalf("placed at once: %v", ok)
				}
				if tc.waits {
					// Neither an event nor another scheduler ends the grace early.
					c.setTask(newTask("t", disrupted(tc.reason), labelledTask, func(t *batch.Task) { t.Status.Disruptions = 1 }))
					if _, ok := c.next(time.Now()); ok {
						t.Fatal("placed after an event")
					}
					another := newState(Spread, func() {})
					another.setWorker(newWorker("x", 1))
					fresh := newTask("t", disrupted(tc.reason))
					fresh.Status.Conditions[0].LastTransitionTime = metav1.Now()
					another.setTask(fresh)
					if _, ok := another.next(time.Now()); ok {
						t.Fatal("placed by another scheduler")
					}
					another.stop()
					<-time.After(evictionGrace)
					synctest.Wait()
					if _, ok := c.next(time.Now()); !ok || !retried {
						t.Errorf("not placed after the grace")
					}
				}
				c.stop()
			})
		})
	}
}

// A timer may fire just before it is cancelled. It must not end the delay that has begun since.
func TestACancelledTimerDoesNotEndALaterDelay(t *testing.T) {
	c := newState(Spread, func() {})
	defer c.stop()
	c.setWorker(newWorker("w", 1))
	c.setTask(newTask("t"))
	task := c.tasks[nameOf(newTask("t"))]
	p, _ := c.next(time.Now())
	c.bindingFailed(p, false)
	cancelled := task.delay
	c.setTask(newTask("t", disrupted("TaintEviction"), func(t *batch.Task) { t.Status.Disruptions = 1 }))
	task.evictionGraceEnd = time.Now().Add(time.Hour)
	c.remove(task)
	c.place(task)
	c.delayOver(task, cancelled)
	if task.state != taskWaiting || task.delay == nil {
		t.Error("the delay is over")
	}
}

func TestAReservationOutlastsAnotherTaskOfItsClass(t *testing.T) {
	c := newState(Spread, func() {})
	now := time.Unix(1000, 0)
	c.setWorker(newWorker("w", 8, with("cpu", "8")))
	c.setTask(newTask("busy", on("w"), requesting("cpu", "4")))
	c.setTask(newTask("large", requesting("cpu", "8")))
	c.next(now)
	c.reserve(now)
	c.setTask(newTask("urgent", requesting("cpu", "8"), prioritized(1)))
	c.setWorker(newWorker("x", 8, with("cpu", "8")))
	if p, ok := c.next(now); !ok || p.obj.Name != "urgent" || p.target.Name != "x" {
		t.Fatalf("placed %+v, want urgent on x", p.obj)
	}
	c.next(now)
	c.reserve(now)
	large := c.tasks[nameOf(newTask("large"))]
	if r := c.namespaces["default"].reservations.OfTask(&large.TaskInfo); r == nil || r.Worker.Name != "w" {
		t.Fatalf("the reservation is %+v, want w", r)
	}
	c.setTask(newTask("small", requesting("cpu", "1")))
	if p, ok := c.next(now); ok {
		t.Fatalf("%s was placed in reserved room", p.obj.Name)
	}
	c.deleteTask(nameOf(newTask("busy")))
	if p, ok := c.next(now); !ok || p.obj.Name != "large" {
		t.Fatal("the large task was not placed")
	}
}
