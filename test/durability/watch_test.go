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

package durability

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
)

// testWatch tests the rules of a single watch.
func testWatch(t *testing.T, e *kit.Env) {
	people, controllers := kit.Client(t, e.Admin(t)), kit.Client(t, e.Controller(t))

	// A watch reports a task as ADDED when it begins to match the selector, and as DELETED when it ceases to match.
	t.Run("Selectors", func(t *testing.T) {
		namespace := e.Namespace(t)
		person, controller := tasks(people, namespace), tasks(controllers, namespace)
		stored := recordHistory(t, e, namespace)
		watches := []struct {
			options metav1.ListOptions
			selects history.Selector
			want    string // the tasks that are added, or deleted with a minus, in order
		}{
			{metav1.ListOptions{FieldSelector: "spec.workerName=worker-1"},
				func(task *batch.Task) bool { return task.Spec.WorkerName == "worker-1" }, "one -one one -one"},
			{metav1.ListOptions{FieldSelector: "spec.workerName="},
				func(task *batch.Task) bool { return task.Spec.WorkerName == "" }, "one -one one -one two -two"},
			{metav1.ListOptions{FieldSelector: "spec.workerName!=worker-1"},
				func(task *batch.Task) bool { return task.Spec.WorkerName != "worker-1" }, "one -one one -one two -two"},
			{metav1.ListOptions{FieldSelector: "status.phase=Running"},
				func(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }, "one -one"},
			{metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"},
				func(task *batch.Task) bool {
					return task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed
				}, "one -one two -two"},
			{metav1.ListOptions{LabelSelector: "color in (red, blue)"},
				func(task *batch.Task) bool { return task.Labels["color"] == "red" || task.Labels["color"] == "blue" }, "one -one"},
			{metav1.ListOptions{FieldSelector: "spec.queueName=other"},
				func(task *batch.Task) bool { return task.Spec.QueueName == "other" }, "two -two"},
			{metav1.ListOptions{FieldSelector: "metadata.name=two"},
				func(task *batch.Task) bool { return task.Name == "two" }, "two -two"},
			{metav1.ListOptions{FieldSelector: "spec.workerName=worker-1", LabelSelector: "color=red"},
				func(task *batch.Task) bool {
					return task.Spec.WorkerName == "worker-1" && task.Labels["color"] == "red"
				}, "one -one"},
		}
		watchers := make([]*retryWatcher, len(watches))
		for i := range watches {
			watchers[i] = startRetryWatcher(t, person, watches[i].options, stored.Start)
		}

		createTask(t, person, kit.NewTask("one"))
		bindTask(t, controller, "one", "worker-1", "first")
		kit.Check(t, setPhase(t.Context(), controller, "one", batch.TaskRunning))
		labelTask(t, person, "one", "color", "red")
		labelTask(t, person, "one", "color", "blue")
		labelTask(t, person, "one", "color", "green")
		evictTask(t, controller, "one")
		bindTask(t, controller, "one", "worker-1", "second")
		kit.Check(t, setPhase(t.Context(), controller, "one", batch.TaskSucceeded))
		kit.Check(t, person.Delete(t.Context(), "one", metav1.DeleteOptions{}))
		two := newHeldTask("two")
		two.Spec.QueueName = "other"
		createTask(t, person, two)
		kit.Check(t, person.Delete(t.Context(), "two", metav1.DeleteOptions{}))
		last := labelTask(t, person, createTask(t, person, newHeldTask("last")).Name, "last", "true")

		changes := stored.until(t, last.ResourceVersion)
		for i, w := range watches {
			t.Run(w.options.FieldSelector+w.options.LabelSelector, func(t *testing.T) {
				watchers[i].expect(t, changes, w.selects)
				var entered []string
				got, _, _ := watchers[i].received(t)
				for _, o := range got {
					switch {
					case o.Task == nil || o.Task.Name == "last":
					case o.Type == watch.Added:
						entered = append(entered, o.Task.Name)
					case o.Type == watch.Deleted:
						entered = append(entered, "-"+o.Task.Name)
					}
				}
				if strings.Join(entered, " ") != w.want {
					t.Errorf("tasks entered and left as %v, want %s", entered, w.want)
				}
			})
		}
	})

	// A watch without a resourceVersion, or at 0, begins with the tasks that exist.
	t.Run("InitialEvents", func(t *testing.T) {
		namespace := e.Namespace(t)
		person := tasks(people, namespace)
		createTask(t, person, newHeldTask("before"))
		for i, resourceVersion := range []string{"", "0"} {
			// A consistent list makes the watch cache catch up.
			if list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t); len(list.Items) != 1 {
				t.Fatalf("the list has %v, want one task", taskNames(list))
			}
			w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{ResourceVersion: resourceVersion}))(t)
			expect(t, w, watch.Added, "before")
			name := fmt.Sprintf("after-%d", i)
			createTask(t, person, newHeldTask(name))
			expect(t, w, watch.Added, name)
			w.Stop()
			kit.Check(t, person.Delete(t.Context(), name, metav1.DeleteOptions{}))
		}
	})

	// A bookmark marks the end of the initial events, and no event comes twice.
	t.Run("WatchList", func(t *testing.T) {
		namespace := e.Namespace(t)
		person := tasks(people, namespace)
		var newest *batch.Task
		for i := range 10 {
			newest = createTask(t, person, newHeldTask(fmt.Sprintf("task-%d", i)))
		}
		w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{
			SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
		}))(t)
		defer w.Stop()
		var initial []string
		var end *batch.Task
		for end == nil {
			event := next(t, w)
			task := event.Object.(*batch.Task)
			switch event.Type {
			case watch.Added:
				initial = append(initial, task.Name)
			case watch.Bookmark:
				if task.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
					end = task
				}
			default:
				t.Fatalf("got %s %s among the initial events, want only ADDED", event.Type, task.Name)
			}
		}
		slices.Sort(initial)
		if list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t); !slices.Equal(initial, taskNames(list)) {
			t.Errorf("the initial events have %v, want %v", initial, taskNames(list))
		}
		if parseVersion(t, end.ResourceVersion) < parseVersion(t, newest.ResourceVersion) {
			t.Errorf("the initial events end at resourceVersion %s, want at least %s, the newest write", end.ResourceVersion, newest.ResourceVersion)
		}
		labelTask(t, person, "task-3", "live", "true")
		expect(t, w, watch.Modified, "task-3")
		kit.Check(t, person.Delete(t.Context(), "task-4", metav1.DeleteOptions{}))
		event := nextChange(t, w)
		if event.Type == watch.Modified { // a deletion may be two writes, as for Pods
			event = nextChange(t, w)
		}
		if task := event.Object.(*batch.Task); event.Type != watch.Deleted || task.Name != "task-4" {
			t.Errorf("after the deletion: got %s %s, want DELETED task-4", event.Type, task.Name)
		}
	})

	// A watch ends without an error at its timeout. A bookmark just before that has the current revision, also if no
	// selected task has changed.
	t.Run("BookmarksAndTimeout", func(t *testing.T) {
		namespace := e.Namespace(t)
		person := tasks(people, namespace)
		createTask(t, person, newHeldTask("quiet"))
		listed := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
		var wg sync.WaitGroup
		watchToEnd := func(allow bool) (got []watch.Event, took time.Duration) {
			start := time.Now()
			w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{
				ResourceVersion: listed, AllowWatchBookmarks: allow, TimeoutSeconds: ptr.To[int64](6), FieldSelector: "metadata.name=quiet",
			}))(t)
			for event := range w.ResultChan() {
				got = append(got, event)
			}
			return got, time.Since(start)
		}
		var with, without []watch.Event
		var took time.Duration
		wg.Go(func() { with, took = watchToEnd(true) })
		wg.Go(func() { without, _ = watchToEnd(false) })
		changed := labelTask(t, person, "quiet", "changed", "true")
		elsewhere := createTask(t, tasks(people, namespace), newHeldTask("elsewhere"))
		wg.Wait()

		if took < 6*time.Second || took > time.Minute {
			t.Errorf("a watch with a timeout of 6 s ended after %v", took)
		}
		var last int64
		bookmarks := 0
		for _, event := range with {
			task, ok := event.Object.(*batch.Task)
			if !ok {
				t.Fatalf("got %s: %v, want a task", event.Type, event.Object)
			}
			if revision := parseVersion(t, task.ResourceVersion); revision < last {
				t.Errorf("%s at revision %d came after revision %d", event.Type, revision, last)
			} else {
				last = revision
			}
			if event.Type == watch.Bookmark {
				bookmarks++
				want := &batch.Task{ObjectMeta: metav1.ObjectMeta{ResourceVersion: task.ResourceVersion}}
				if !apiequality.Semantic.DeepEqual(task, want) {
					t.Errorf("got bookmark %+v, want %+v", task, want)
				}
			}
		}
		if bookmarks == 0 || last < parseVersion(t, elsewhere.ResourceVersion) {
			t.Errorf("got %d bookmarks, the last at %d, want one at %s or later", bookmarks, last, elsewhere.ResourceVersion)
		}
		if len(without) != 1 || without[0].Type != watch.Modified || without[0].Object.(*batch.Task).ResourceVersion != changed.ResourceVersion {
			t.Errorf("without bookmarks: got %v, want one MODIFIED at %s", without, changed.ResourceVersion)
		}

		// A watch from the bookmark receives only later events.
		w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{ResourceVersion: fmt.Sprint(last)}))(t)
		defer w.Stop()
		labelTask(t, person, "quiet", "changed", "again")
		if task := expect(t, w, watch.Modified, "quiet"); task.Labels["changed"] != "again" {
			t.Errorf("the first event after the bookmark has labels %v, want those of the last write", task.Labels)
		}
	})
}

// next returns the next event of a watch.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended, want an event")
		}
		if _, ok := event.Object.(*batch.Task); !ok {
			t.Fatalf("got %s: %v, want a task", event.Type, event.Object)
		}
		return event
	case <-time.After(kit.Patience):
		t.Fatalf("no event came within %v", kit.Patience)
	}
	panic("unreachable")
}

// nextChange returns the next event of a watch that is not a bookmark.
func nextChange(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		if event := next(t, w); event.Type != watch.Bookmark {
			return event
		}
	}
}

// expect returns the task of the next change, and fails the test unless it is the expected one.
func expect(t *testing.T, w watch.Interface, kind watch.EventType, name string) *batch.Task {
	t.Helper()
	event := nextChange(t, w)
	task := event.Object.(*batch.Task)
	if event.Type != kind || task.Name != name {
		t.Fatalf("got %s %s, want %s %s", event.Type, task.Name, kind, name)
	}
	return task
}
