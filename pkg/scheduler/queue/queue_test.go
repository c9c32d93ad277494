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

package queue

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

var now = time.Unix(1000, 0)

// newQueues returns queues in a namespace with ten places. The class of a task is its worker selector "class".
func newQueues() *Queues {
	return New(Options{
		DominantShare:   func(tasks int64, _ framework.Resources) float64 { return float64(tasks) / 10 },
		Sign:            func(t *framework.TaskInfo) string { return t.Object.Spec.WorkerSelector["class"] },
		HasReservations: func() bool { return false },
		OnActive:        func() {},
	})
}

func enqueue(qs *Queues, queue, class, name string, mutate ...func(*batch.Task)) *Task {
	obj := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}}
	obj.Spec.QueueName, obj.Spec.WorkerSelector = queue, map[string]string{"class": class}
	for _, m := range mutate {
		m(obj)
	}
	t := NewTask(framework.NewTaskInfo(obj), qs.Add(queue))
	t.Queue.AddPending(&t)
	t.Queue.Enqueue(&t)
	return &t
}

func cpu(amount string) func(*batch.Task) {
	return func(t *batch.Task) { t.Spec.Resources.Requests = batch.ResourceList{"cpu": resource.MustParse(amount)} }
}

func priority(p int32) func(*batch.Task) { return func(t *batch.Task) { t.Spec.Priority = p } }

// place moves a task to the bound ones, as the scheduler does.
func place(qs *Queues, t *Task) {
	qs.Start(t)
	t.Queue.Dequeue(t)
	t.Queue.RemovePending(t)
	t.Queue.AddBound(t)
}

func order(qs *Queues, n int) (names []string) {
	for range n {
		t := qs.Head()
		if t == nil {
			break
		}
		names = append(names, t.Object.Name)
		place(qs, t)
	}
	return names
}

func object(weight int32, mutate ...func(*batch.TaskQueueSpec)) *batch.TaskQueue {
	q := &batch.TaskQueue{Spec: batch.TaskQueueSpec{Weight: &weight}}
	for _, m := range mutate {
		m(&q.Spec)
	}
	return q
}

func cpuLimit(amount string) func(*batch.TaskQueueSpec) {
	return func(s *batch.TaskQueueSpec) {
		s.Resources.Limits = batch.ResourceList{"cpu": resource.MustParse(amount)}
	}
}

func TestHeadIsOfTheQueueWithTheLowestShareByWeight(t *testing.T) {
	qs := newQueues()
	qs.Add("b").SetObject(object(2))
	for _, name := range []string{"1", "2", "3", "4"} {
		enqueue(qs, "a", "", "a"+name)
		enqueue(qs, "b", "", "b"+name)
	}
	// After a1 and b1 the shares are 1 and 1/2, after b2 both are 1, and the virtual times are equal too.
	if got, want := order(qs, 6), []string{"a1", "b1", "b2", "a2", "b3", "b4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestABlockedClassHoldsUpNoOther(t *testing.T) {
	qs := newQueues()
	first := enqueue(qs, "q", "large", "a", priority(1))
	second := enqueue(qs, "q", "large", "b")
	other := enqueue(qs, "q", "small", "c")
	if qs.Head() != first {
		t.Fatalf("the head is %s", qs.Head().Object.Name)
	}
	first.Queue.Block(first, BlockedByWorkers, now)
	if qs.Head() != other {
		t.Fatal("the head is not the task of the other class")
	}
	other.Queue.Block(other, BlockedByWorkers, now)
	if head := qs.Head(); head != nil {
		t.Fatalf("the head is %s although all classes are blocked", head.Object.Name)
	}
	qs.ActivateFitting(func(task *Task) bool {
		if task == second {
			t.Error("a task that is not the first of its class is tried")
		}
		return task == first
	})
	if got := order(qs, 3); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after the class is activated: %q", got)
	}
}

func TestStarvedClasses(t *testing.T) {
	qs := newQueues()
	early := enqueue(qs, "q", "early", "a")
	late := enqueue(qs, "q", "late", "b")
	limited := enqueue(qs, "q", "limited", "c")
	q := early.Queue
	q.Block(early, BlockedByWorkers, now)
	q.Block(late, BlockedByWorkers, now.Add(time.Minute))
	q.Block(limited, BlockedByLimits, now)
	starved := func(before time.Time) []*Task { return slices.Collect(q.Starved(before, 1)) }
	if got := starved(now.Add(time.Second)); !slices.Equal(got, []*Task{early}) {
		t.Errorf("%d classes are starved after a second, want 1", len(got))
	}
	if got := starved(now.Add(time.Hour)); len(got) != 2 {
		t.Errorf("%d classes are starved after an hour, want 2", len(got))
	}
	early.Class().SetUnsatisfiableAt(1)
	if got := starved(now.Add(time.Hour)); !slices.Equal(got, []*Task{late}) {
		t.Errorf("%d classes are starved that workers can satisfy, want 1", len(got))
	}
	q.SetObject(object(1, func(s *batch.TaskQueueSpec) { s.StopPolicy = ptr.To(batch.StopPolicyHold) }))
	if got := starved(now.Add(time.Hour)); len(got) != 0 {
		t.Errorf("%d classes of a queue that is held are starved", len(got))
	}
}

func TestRoomWithinALimitIsReservedForATask(t *testing.T) {
	qs := newQueues()
	q := qs.Add("q")
	q.SetObject(object(1, cpuLimit("8")))
	busy := enqueue(qs, "q", "busy", "busy", cpu("4"))
	place(qs, busy)
	large := enqueue(qs, "q", "large", "a-large", cpu("8"))
	if q.ExceededLimit(large) != "cpu" {
		t.Fatal("the large task does not exceed the limit")
	}
	q.Block(large, BlockedByLimits, now)
	small := enqueue(qs, "q", "small", "b-small", cpu("1"))
	if q.ExceededLimit(small) != "" {
		t.Fatal("the small task exceeds the limit before room is reserved")
	}
	noWorker := func(*Task) bool { return false }
	q.ReserveWithinLimits(now, noWorker)
	urgent := enqueue(qs, "q", "urgent", "c-urgent", cpu("1"), priority(1))
	if q.ExceededLimit(small) != "cpu" || q.ExceededLimit(urgent) != "" {
		t.Errorf("the limit that the small task exceeds is %q, that of the urgent one %q", q.ExceededLimit(small), q.ExceededLimit(urgent))
	}
	q.ReserveWithinLimits(now, noWorker)
	if !q.HasLimitReservation() {
		t.Error("the reservation does not last")
	}
	q.RemoveBound(busy)
	if large.Class().BlockedBy() != notBlocked {
		t.Error("the large task is blocked although the limit has room")
	}
	q.Dequeue(large)
	if q.HasLimitReservation() || q.ExceededLimit(small) != "" {
		t.Error("the reservation outlasts its task")
	}
}

func TestAQueueExistsWhileItHasAnObjectOrTasks(t *testing.T) {
	qs := newQueues()
	task := enqueue(qs, "q", "", "t")
	q := task.Queue
	exists := func() bool { qs.Prune(q); return qs.Get("q") == q }
	if !exists() {
		t.Error("a queue with a pending task is removed")
	}
	place(qs, task)
	if !exists() {
		t.Error("a queue with a bound task is removed")
	}
	q.SetObject(object(1))
	q.RemoveBound(task)
	if !exists() {
		t.Error("a queue with an object is removed")
	}
	q.SetObject(nil)
	if exists() {
		t.Error("a queue without an object and tasks is kept")
	}
}
