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
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

var created = metav1.NewTime(time.UnixMilli(1_700_000_000_000))

// boardWith returns a Board whose store has the objects. Its informers do not run.
func boardWith(t *testing.T, objects ...runtime.Object) *Board {
	t.Helper()
	s := &store{connection: &connection{}, starts: map[types.UID]*started{}, estimates: map[types.UID]*progress.Estimate{}}
	if err := s.watch(fake.NewSimpleClientset(), ""); err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		var to cache.Indexer
		switch object.(type) {
		case *batch.Task:
			to = s.tasks.GetIndexer()
		case *batch.TaskQueue:
			to = s.queues.GetIndexer()
		case *batch.Worker:
			to = s.workers.GetIndexer()
		case *batch.TaskSet:
			to = s.sets.GetIndexer()
		}
		if err := to.Add(object); err != nil {
			t.Fatal(err)
		}
	}
	return &Board{store: s, outputs: make(chan struct{}, maxOutputs)}
}

func task(name, queue, worker string, after time.Duration) *batch.Task {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(created.Add(after))}}
	task.Spec.QueueName, task.Spec.WorkerName, task.Status.Phase = queue, worker, batch.TaskPending
	return task
}

func TestNowCountsTasksByQueueAndWorker(t *testing.T) {
	queue := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "heavy"}}
	queue.Spec.Weight, queue.Spec.StopPolicy, queue.Spec.MaxRunningTasks = new(int32(3)), ptr.To(batch.StopPolicyHold), new(int32(7))
	idle := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "idle"}}
	worker := &batch.Worker{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "w", CreationTimestamp: created}}
	worker.Status.Allocatable = batch.ResourceList{batch.ResourceTasks: resource.MustParse("4")}
	worker.Status.Conditions = []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue}}
	worker.Spec.Unschedulable = true
	deleted := task("e", "default", "", 0)
	deleted.DeletionTimestamp = &created
	b := boardWith(t, queue, idle, worker, deleted,
		task("a", "heavy", "", 5*time.Second), task("b", "heavy", "", 3*time.Second), task("c", "heavy", "w", 0), task("d", "default", "w", 0))
	content := nowView{b}.frame()
	oldest := created.Add(3 * time.Second).UnixMilli()
	want := []row{
		{"n/default", &queueRow{Namespace: "n", Name: "default", Weight: 1, Share: 0.25, Part: 0.5, Running: 1}},
		{"n/heavy", &queueRow{Namespace: "n", Name: "heavy", Weight: 3, Share: 0.75, Part: 0.5, Pending: 2, Running: 1, Limit: new(int32(7)), Oldest: oldest, Stop: "Hold"}},
		{"n/idle", &queueRow{Namespace: "n", Name: "idle", Weight: 1}},
	}
	if diff := cmp.Diff(want, content.Tables["queues"]); diff != "" {
		t.Errorf("queues: %s", diff)
	}
	wantWorkers := []row{{"n/w", workerRow{Namespace: "n", Name: "w", Status: "Ready, SchedulingDisabled", Running: 2, Slots: 4, Created: created.UnixMilli()}}}
	if diff := cmp.Diff(wantWorkers, content.Tables["workers"]); diff != "" {
		t.Errorf("workers: %s", diff)
	}
	if got := content.Values["totals"].(totals); got.Pending != 2 || got.Running != 2 || got.Workers != 1 || got.Ready != 1 || got.Slots != 4 {
		t.Errorf("totals: %+v", got)
	}
}

func TestSetsAreListedNewestFirstAndNotAll(t *testing.T) {
	var objects []runtime.Object
	for i := range maxSets + 5 {
		set := indexedSet(10)
		set.Name = string(rune('a'+i%26)) + string(rune('a'+i/26))
		set.CreationTimestamp = metav1.NewTime(created.Add(time.Duration(i) * time.Second))
		objects = append(objects, set)
	}
	content := setsView{boardWith(t, objects...)}.frame()
	rows := content.Tables["sets"]
	if len(rows) != maxSets || content.Values["sets"] != maxSets+5 {
		t.Fatalf("%d rows of %v", len(rows), content.Values["sets"])
	}
	first, last := rows[0].Data.(setRow), rows[maxSets-1].Data.(setRow)
	if first.Created <= last.Created || first.State != "Pending" || first.Left != -1 {
		t.Errorf("the first is %+v, the last %+v", first, last)
	}
}

func TestPendingGroupsTasksByReason(t *testing.T) {
	unschedulable := func(name, set, message string, after time.Duration) *batch.Task {
		task := task(name, "default", "", after)
		if set != "" {
			task.Labels = map[string]string{batch.LabelControllerUID: "u", batch.LabelTaskSetName: set}
		}
		task.Status.Conditions = []metav1.Condition{{Type: batch.TaskScheduled, Status: metav1.ConditionFalse, Reason: "Unschedulable", Message: message}}
		return task
	}
	suspended := indexedSet(10)
	suspended.Name, suspended.Spec.Suspend, suspended.CreationTimestamp = "held", new(true), metav1.NewTime(created.Add(time.Hour))
	waits := indexedSet(10)
	waits.Name, waits.Spec.DependsOn, waits.CreationTimestamp = "waits", []batch.TaskSetDependency{{Name: "held"}}, metav1.NewTime(created.Add(2*time.Hour))
	b := boardWith(t, suspended, waits,
		unschedulable("a", "s", "no\x1b[31m room", time.Minute), unschedulable("b", "s", "no\x1b[31m room", time.Second), unschedulable("c", "", "no gpu", time.Hour/2),
		task("d", "default", "", time.Hour/4), task("e", "default", "w", 0))
	v, _ := newPendingView(b, "", "")
	want := []reasonRow{
		{"n", "default", "s", "Unschedulable", "no room", 2, created.Add(time.Second).UnixMilli(), "taskset/s"},
		{"n", "default", "", "Waiting", "The scheduler has not said why.", 1, created.Add(time.Hour / 4).UnixMilli(), "task/d"},
		{"n", "default", "", "Unschedulable", "no gpu", 1, created.Add(time.Hour / 2).UnixMilli(), "task/c"},
		{"n", "", "held", "Suspended", "The set is suspended, and starts nothing until it is resumed.", 10, created.Add(time.Hour).UnixMilli(), "taskset/held"},
		{"n", "", "waits", "Waiting", "The set waits for held.", 10, created.Add(2 * time.Hour).UnixMilli(), "taskset/waits"},
	}
	var got []reasonRow
	content := v.frame()
	for _, row := range content.Tables["reasons"] {
		got = append(got, *row.Data.(*reasonRow))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if content.Values["waiting"] != 4 {
		t.Errorf("%v wait", content.Values["waiting"])
	}
}

func TestASetHasThoseBeforeAndAfterIt(t *testing.T) {
	named := func(name string, dependsOn ...batch.TaskSetDependency) *batch.TaskSet {
		set := indexedSet(10)
		set.Name, set.Spec.DependsOn = name, dependsOn
		return set
	}
	middle := named("middle", batch.TaskSetDependency{Name: "gone"}, batch.TaskSetDependency{Name: "first", PerIndex: true}, batch.TaskSetDependency{Name: "missing"})
	middle.Status.Dependencies = []batch.TaskSetDependencyStatus{{Name: "gone", Met: true}}
	stranger := named("stranger", batch.TaskSetDependency{Name: "middle"})
	stranger.Namespace = "other"
	b := boardWith(t, middle, stranger, named("first"), named("z", batch.TaskSetDependency{Name: "middle"}), named("a", batch.TaskSetDependency{Name: "middle"}))
	want := []relationRow{
		{"has waited for", "n", "gone", "does not exist"}, {"follows each index of", "n", "first", "Pending"}, {"waits for", "n", "missing", "does not exist"},
		{"is followed by", "n", "a", "Waiting for middle"}, {"is followed by", "n", "z", "Waiting for middle"},
	}
	var got []relationRow
	for _, row := range newSetView(b, "n", "middle").frame().Tables["relations"] {
		got = append(got, row.Data.(relationRow))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExplanationIsTitlesAndRows(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := boardWith(t)
	failure := errors.New("bro\x1b[1mken")
	b.options.Explain = func(_ context.Context, namespace, name string, out io.Writer) error {
		if namespace != "n" || name != "task/a" {
			t.Errorf("explained %s of %s", name, namespace)
		}
		_, err := io.WriteString(out, "task/a waits.\n  Queue\tdefault: a\tb\n  \tmore\n\n")
		return errors.Join(err, failure)
	}
	v, ok := newPendingView(b, "n", "task/a")
	if !ok {
		t.Fatal("refused")
	}
	v.poll(ctx, cancel)
	got := v.frame().Values["explanation"].(*explanation)
	want := []explainedLine{{Title: "task/a waits."}, {About: "Queue", Text: "default: a\tb"}, {Text: "more"}}
	if diff := cmp.Diff(want, got.Lines); diff != "" || got.Error != "It cannot be explained: broken" {
		t.Errorf("error %q, lines %s", got.Error, diff)
	}
	for _, name := range []string{"a", "worker/a", "task/../b", "task/"} {
		if _, ok := newPendingView(b, "n", name); ok {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestStartsAndEndsAreCounted(t *testing.T) {
	s := boardWith(t).store
	counted := func() (n int) {
		for _, count := range s.latencies {
			n += count
		}
		return n
	}
	ended := func(task *batch.Task) { s.taskEnded(informers.DeletedTask{OptionalObj: task}) }
	running := func(task *batch.Task) *batch.Task {
		task.Status.State.Running = &batch.TaskStateRunning{}
		return task
	}
	s.taskAdded(running(task("old", "q", "w", 0)), true) // was there before the page
	ended(task("old", "q", "w", 0))
	if counted() != 0 || s.ended != 1 {
		t.Errorf("of the first list: %d starts, %d ends", counted(), s.ended)
	}
	s.taskAdded(task("a", "q", "", 0), false)
	s.taskUpdated(running(task("a", "q", "w", 0)))
	s.taskUpdated(running(task("a", "q", "w", 0)))
	if counted() != 1 {
		t.Errorf("seen to run: %d starts", counted())
	}
	ended(task("a", "q", "w", 0))
	s.taskAdded(task("short", "q", "", 0), false)
	s.taskUpdated(task("short", "q", "w", 0))
	ended(task("short", "q", "w", 0))
	if counted() != 2 || s.ended != 3 {
		t.Errorf("too short to be seen to run: %d starts, %d ends", counted(), s.ended)
	}
	s.taskAdded(task("never", "q", "", 0), false)
	ended(task("never", "q", "", 0))
	if counted() != 2 || s.ended != 3 || len(s.starts) != 0 {
		t.Errorf("deleted while it waited: %d starts, %d ends, %d kept", counted(), s.ended, len(s.starts))
	}
	before := indexedSet(10)
	after := indexedSet(10)
	after.Status.Succeeded, after.Status.Failed = 3, 1
	s.setUpdated(before, after)
	recreated := indexedSet(10)
	recreated.UID, recreated.Status.Succeeded = "other", 9
	s.setUpdated(after, recreated)
	if s.ended != 7 {
		t.Errorf("of a set: %d ends", s.ended)
	}
}
