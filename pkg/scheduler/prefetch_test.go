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
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// prefetching sets how many tasks may wait on a worker.
func prefetching(n int32) func(*batch.Worker) {
	return func(w *batch.Worker) { w.Status.PrefetchLimit = n }
}

// ownedBy makes a task part of a set.
func ownedBy(set types.UID) func(*batch.Task) {
	return func(t *batch.Task) {
		t.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: batch.SchemeGroupVersion.String(), Kind: "TaskSet", Name: string(set), UID: set, Controller: ptr.To(true),
		}}
	}
}

// prefetched makes a bound task one that waits on its worker.
func prefetched(t *batch.Task) {
	t.Status.Bindings++
	t.Status.State.Waiting = &batch.TaskStateWaiting{Reason: batch.TaskReasonPrefetched}
}

func started(t *batch.Task) { t.Status.Phase = batch.TaskRunning }

// learn makes the tasks of a set known to run for d.
func learn(st *state, set types.UID, d time.Duration) {
	for range minDurations {
		st.namespace("default").durations.add(newTask("", ownedBy(set)), d, time.Now())
	}
}

func TestShortTasksArePrefetched(t *testing.T) {
	short := ownedBy("short")
	for _, tc := range []struct {
		name    string
		workers []*batch.Worker
		tasks   []*batch.Task // all tasks but the first ones have six copies
		before  func(*state)
		want    string // the workers of the placed tasks, "+" for those that wait on them
	}{
		{
			name: "as many as the worker accepts", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("t", short)}, want: "w w w+ w+",
		},
		{
			name: "more than one for each slot", workers: []*batch.Worker{newWorker("w", 1, prefetching(3))},
			tasks: []*batch.Task{newTask("t", short)}, want: "w w+ w+ w+",
		},
		{
			name: "only when no other worker has a slot", workers: []*batch.Worker{newWorker("v", 1, prefetching(1)), newWorker("w", 2)},
			tasks: []*batch.Task{newTask("t", short)}, want: "v w w v+",
		},
		{
			name: "on the worker with the fewest for its size", workers: []*batch.Worker{newWorker("v", 1, prefetching(1)), newWorker("w", 3, prefetching(3))},
			tasks: []*batch.Task{newTask("t", short)}, want: "v w w w v+ w+",
		},
		{
			name: "not on a worker that does not support it", workers: []*batch.Worker{newWorker("w", 2)},
			tasks: []*batch.Task{newTask("t", short)}, want: "w w",
		},
		{
			name: "not on a worker without slots", workers: []*batch.Worker{newWorker("w", 0, prefetching(2))},
			tasks: []*batch.Task{newTask("t", short)}, want: "",
		},
		{
			name: "not on a worker that another filter rejects", workers: []*batch.Worker{newWorker("w", 1, prefetching(1), cordoned), newWorker("v", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t", short)}, want: "v v+",
		},
		{
			name: "not without a set", workers: []*batch.Worker{newWorker("w", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t")}, want: "w",
		},
		{
			name: "not while it is unknown how long they run", workers: []*batch.Worker{newWorker("w", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t", ownedBy("unknown"))}, want: "w",
		},
		{
			name: "not when they run for ten seconds", workers: []*batch.Worker{newWorker("w", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t", ownedBy("long"))}, want: "w",
		},
		{
			name: "not with extended resources", workers: []*batch.Worker{newWorker("w", 1, prefetching(1), with("example.com/gpu", "9"))},
			tasks: []*batch.Task{newTask("t", short, requesting("example.com/gpu", "1"))}, want: "w",
		},
		{
			name: "not a task that runs alone", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("a", short, on("w")), newTask("b", short, on("w")), newTask("t", short, crashed(1))}, want: "",
		},
		{
			name: "not on the worker of a task that runs alone", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("alone", crashed(1), on("w")), newTask("t", short)}, want: "",
		},
		{
			name: "not a task that a worker has returned", workers: []*batch.Worker{newWorker("w", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t", short, func(t *batch.Task) { t.Status.Bindings, t.Status.Disruptions = 3, 2 })}, want: "w",
		},
		{
			name: "a task that was disrupted", workers: []*batch.Worker{newWorker("w", 1, prefetching(1))},
			tasks: []*batch.Task{newTask("t", short, func(t *batch.Task) { t.Status.Bindings, t.Status.Disruptions = 2, 2 })}, want: "w w+",
		},
		{
			name: "no longer tasks than half of the slots run are waited for", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("long", on("w")), newTask("t", short)}, want: "w w+",
		},
		{
			name: "not behind long tasks only", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("long", on("w")), newTask("longer", on("w")), newTask("t", short)}, want: "",
		},
		{
			name: "as many as the cpu of the running ones is enough for", workers: []*batch.Worker{newWorker("w", 4, prefetching(4), with("cpu", "2"))},
			tasks: []*batch.Task{newTask("t", short, requesting("cpu", "1"))}, want: "w w w+ w+",
		},
		{
			name: "not a task that the worker can never run", workers: []*batch.Worker{newWorker("w", 1, prefetching(1), with("cpu", "1"))},
			tasks: []*batch.Task{newTask("t", short, requesting("cpu", "2"))}, want: "",
		},
		{
			name: "within the limits of the queue", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("t", short, inQueue("q"))}, want: "w w w+",
			before: func(st *state) { st.setQueue(newQueue("q", 1, atMost(3))) },
		},
		{
			name: "not before a task that waits for the worker", workers: []*batch.Worker{newWorker("w", 2, prefetching(2), with("cpu", "1"))},
			tasks:  []*batch.Task{newTask("a", short, on("w")), newTask("b", short, on("w")), newTask("t", short)},
			before: func(st *state) { st.setTask(newTask("urgent", prioritized(1), requesting("cpu", "1"))) }, want: "",
		},
		{
			name: "before a task that can never have the worker", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks:  []*batch.Task{newTask("a", short, on("w")), newTask("b", short, on("w")), newTask("t", short)},
			before: func(st *state) { st.setTask(newTask("elsewhere", prioritized(1), selecting("zone", "x"))) }, want: "w+ w+",
		},
		{
			name: "not on a worker that is reserved", workers: []*batch.Worker{newWorker("w", 2, prefetching(2))},
			tasks: []*batch.Task{newTask("a", short, on("w")), newTask("b", short, on("w")), newTask("t", short)},
			before: func(st *state) {
				// It is scheduled after the others. Only its reservation keeps the worker for it.
				st.setTask(newTask("patient", prioritized(-1)))
				st.next(time.Now())
				st.reserve(time.Now().Add(time.Hour))
			}, want: "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := newState(Spread, func() {})
			defer st.stop()
			learn(st, "short", maxPrefetchDuration-time.Millisecond)
			learn(st, "long", maxPrefetchDuration)
			for _, w := range tc.workers {
				st.setWorker(w)
			}
			for _, task := range tc.tasks[:len(tc.tasks)-1] {
				st.setTask(task)
			}
			if tc.before != nil {
				tc.before(st)
			}
			for i := range 6 {
				task := tc.tasks[len(tc.tasks)-1].DeepCopy()
				task.Name = fmt.Sprint("t", i)
				st.setTask(task)
			}
			got := ""
			for p, ok := st.next(time.Now()); ok; p, ok = st.next(time.Now()) {
				got += " " + p.target.Name
				if p.prefetched {
					got += "+"
				}
			}
			if got != "" {
				got = got[1:]
			}
			if got != tc.want {
				t.Errorf("got placements %q, want %q", got, tc.want)
			}
			check(t, st, "after the placements")
		})
	}
}

func TestPrefetchedTasksAreTakenBack(t *testing.T) {
	const median = 2 * time.Second
	waits := func(name string, mutate ...func(*batch.Task)) *batch.Task {
		return newTask(name, append([]func(*batch.Task){on("w"), ownedBy("set"), prefetched}, mutate...)...)
	}
	for _, tc := range []struct {
		name string
		// tasks are on worker w, which has one slot and runs a task. They were bound in this order.
		tasks []*batch.Task
		// other is another worker. Its slots are free unless it is busy.
		other *batch.Worker
		busy  bool
		after time.Duration // since the last task was bound
		want  []string
	}{
		{name: "when another worker is idle", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 1), after: prefetchInterval, want: []string{"a"}},
		{name: "not at once", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 1), after: prefetchInterval - 1},
		{name: "not when no worker is idle", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 1), busy: true, after: prefetchInterval},
		{name: "not when the idle worker is too small", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 0), after: time.Hour},
		{
			name: "not when the idle worker does not fit", tasks: []*batch.Task{waits("a")}, after: time.Hour,
			other: newWorker("v", 1, tainted("k", "v", batch.TaintEffectNoSchedule)),
		},
		{
			name: "as many as there are slots, those first that start last", other: newWorker("v", 2), after: prefetchInterval,
			tasks: []*batch.Task{waits("a"), waits("b", prioritized(1)), waits("c"), waits("d")}, want: []string{"d", "c"},
		},
		{
			name: "when they wait for too long", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 1), busy: true,
			after: 4*2*median + 1, want: []string{"a"},
		},
		{name: "not when they wait for as long as expected", tasks: []*batch.Task{waits("a")}, other: newWorker("v", 1), busy: true, after: 4 * 2 * median},
		{name: "not when they have started", tasks: []*batch.Task{waits("a", started)}, other: newWorker("v", 1), after: time.Hour},
		{
			name: "not when they are being deleted", other: newWorker("v", 1), after: time.Hour,
			tasks: []*batch.Task{waits("a", func(t *batch.Task) { t.DeletionTimestamp = ptr.To(metav1.Now()) })},
		},
		{
			name: "not when they were not prefetched", other: newWorker("v", 1), after: time.Hour,
			tasks: []*batch.Task{newTask("a", on("w"), ownedBy("set"))},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := newState(Spread, func() {})
			defer st.stop()
			learn(st, "set", median)
			st.setWorker(newWorker("w", 1, prefetching(4)))
			st.setWorker(tc.other)
			if tc.busy {
				st.setTask(newTask("busy", on("v"), started))
			}
			st.setTask(newTask("first", on("w"), ownedBy("set"), started))
			bound := time.Unix(1000, 0)
			for i, task := range tc.tasks {
				st.setTask(task)
				st.tasks[nameOf(task)].boundAt = bound.Add(time.Duration(1 + i - len(tc.tasks)))
			}
			asked := func() (names []string) {
				for _, task := range st.tasksToReturn(bound.Add(tc.after)) {
					names = append(names, task.Name)
				}
				return names
			}
			got := asked()
			if !slices.Equal(got, tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			if again := asked(); len(again) > 0 {
				t.Errorf("%q are asked for while others are", again)
			}
			for _, name := range got {
				st.returnFailed(nameOf(newTask(name)))
			}
			if again := asked(); !slices.Equal(again, tc.want) {
				t.Errorf("%q are asked for after the requests have failed, want %q", again, tc.want)
			}
		})
	}
}

func TestADurationIsThatOfTheCommand(t *testing.T) {
	finished := func(task *batch.Task) { task.Status.Phase = batch.TaskSucceeded }
	for _, tc := range []struct {
		name   string
		states [][]func(*batch.Task) // one second apart
		want   time.Duration
		known  bool
	}{
		{"from when it runs to its end", [][]func(*batch.Task){{on("w")}, {on("w"), started}, {on("w"), started}, {on("w"), finished}}, 2 * time.Second, true},
		{"zero if no update has shown it running", [][]func(*batch.Task){{on("w")}, {on("w"), finished}}, 0, true},
		{"not the time on a worker before the last", [][]func(*batch.Task){
			{on("w"), started}, {disrupted("WorkerLost"), func(t *batch.Task) { t.Status.Disruptions = 1 }}, {on("w")}, {on("w"), started}, {on("w"), finished},
		}, time.Second, true},
		{"not of a task that is deleted", [][]func(*batch.Task){
			{on("w"), started}, {on("w"), started, func(t *batch.Task) { t.DeletionTimestamp = ptr.To(metav1.Now()) }}, nil,
		}, 0, false},
		{"not of a task that was never bound", [][]func(*batch.Task){{}, nil}, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newState(Spread, func() {})
				defer st.stop()
				st.setQueue(newQueue("q", 1, held))
				for i := range maxDurations {
					for _, mutate := range tc.states {
						if task := newTask(fmt.Sprint("t", i), append([]func(*batch.Task){ownedBy("set"), inQueue("q")}, mutate...)...); mutate == nil {
							st.deleteTask(nameOf(task))
						} else {
							st.setTask(task)
						}
						time.Sleep(time.Second) // the clock of the bubble
					}
				}
				if got, known := st.namespace("default").durations.median(newTask("", ownedBy("set"))); got != tc.want || known != tc.known {
					t.Errorf("got %s, known: %v; want %s, %v", got, known, tc.want, tc.known)
				}
			})
		})
	}
}

func TestTheMedianIsThatOfTheLastTasks(t *testing.T) {
	d := durations{}
	now := time.Unix(1000, 0)
	task := newTask("t", ownedBy("set"))
	for i, ran := range []time.Duration{9, 9, 9, 1, 5, 5, 5, 3, 3, 3, 3, 3} {
		_, known := d.median(task)
		if want := i >= minDurations; known != want {
			t.Errorf("after %d tasks: known: %v", i, known)
		}
		d.add(task, ran, now)
	}
	if got, _ := d.median(task); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
	if _, known := d.median(newTask("t", ownedBy("other"))); known {
		t.Error("the median of another set is known")
	}
	// Sets without tasks are forgotten.
	d.add(newTask("t", ownedBy("other")), 1, now.Add(durationsTTL))
	if len(d) != 2 {
		t.Errorf("%d sets are known, want 2", len(d))
	}
	d.add(newTask("t", ownedBy("third")), 1, now.Add(durationsTTL+1))
	if len(d) != 2 {
		t.Errorf("%d sets are known, want the last 2", len(d))
	}
	d.add(newTask("t"), 1, now)
	if len(d) != 2 {
		t.Error("a task without a set has a duration")
	}
}

// The test is the worker.
func TestAPrefetchedTaskMovesToAWorkerThatIsIdle(t *testing.T) {
	f := newFixture(t)
	f.addWorker(newWorker("a", 1, prefetching(1)))
	f.start()
	for i := range minDurations {
		name := fmt.Sprint("before", i)
		f.addTask(newTask(name, ownedBy("set")))
		f.eventually(name+" is bound", f.bound(name))
		f.finish(name)
	}
	f.addTask(newTask("first", ownedBy("set")))
	f.eventually("first is bound", f.bound("first"))
	f.addTask(newTask("second", ownedBy("set")))
	f.eventually("second is bound", f.bound("second"))
	if first := f.task("first").Status; first.State.Waiting != nil {
		t.Errorf("first waits: %+v", first.State)
	}
	if second := f.task("second").Status; second.State.Waiting == nil || second.State.Waiting.Reason != batch.TaskReasonPrefetched {
		t.Errorf("second does not wait: %+v", second.State)
	}
	f.addTask(newTask("third", ownedBy("set")))
	f.atRest()
	if f.bound("third")() {
		t.Error("more tasks wait than the worker accepts")
	}
	f.must(f.test.BatchV1alpha1().Tasks("default").Delete(f.ctx, "third", metav1.DeleteOptions{}))

	f.addWorker(newWorker("b", 1))
	f.eventually("second is asked for", func() bool {
		return meta.IsStatusConditionTrue(f.task("second").Status.Conditions, batch.TaskReturnRequested)
	})
	_, err := f.test.BatchV1alpha1().Tasks("default").Evict(f.ctx, "second", &batch.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: "second"}, Reason: batch.TaskReasonRebalanced, NotStarted: true,
	}, metav1.CreateOptions{})
	f.must(err)
	f.eventually("second is bound again", f.bound("second"))
	second := f.task("second")
	if second.Spec.WorkerName != "b" || second.Status.State.Waiting != nil || second.Status.Disruptions != 0 || second.Status.Bindings != 2 ||
		meta.FindStatusCondition(second.Status.Conditions, batch.TaskReturnRequested) != nil {
		t.Errorf("got worker %s, status %+v", second.Spec.WorkerName, second.Status)
	}
}
