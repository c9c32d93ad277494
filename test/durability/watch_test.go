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

// The rules of a single watch.
func testWatch(t *testing.T, e *kit.Env) {
	people, controllers := kit.Client(t, e.Admin(t)), kit.Client(t, e.Controller(t))

	// A task is ADDED to a watch when it begins to match its history.Selector, and DELETED from it when it ceases to.
	t.Run("Selectors", func(t *testing.T) {
		namespace := e.Namespace(t)
		person, controller := tasks(people, namespace), tasks(controllers, namespace)
		truth := recordHistory(t, e, namespace)
		watches := []struct {
			options metav1.ListOptions
			selects history.Selector
			enters  string // the names that are added, and after a minus deleted, in order
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
			watchers[i] = startRetryWatcher(t, person, watches[i].options, truth.Start)
		}

		createTask(t, person, newTask("one"))
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

		changes := truth.until(t, last.ResourceVersion)
		for i, w := range watches {
			t.Run(w.options.FieldSelector+w.options.LabelSelector, func(t *testing.T) {
				watchers[i].expect(t, changes, w.selects)
				var enters []string
				got, _, _ := watchers[i].received(t)
				for _, o := range got {
					switch {
					case o.Task == nil || o.Task.Name == "last":
					case o.Type == watch.Added:
						enters = append(enters, o.Task.Name)
					case o.Type == watch.Deleted:
						enters = append(enters, "-"+o.Task.Name)
					}
				}
				if strings.Join(enters, " ") != w.enters {
					t.Errorf("Tasks entered and left as %v, want %s.", enters, w.enters)
				}
			})
		}
	})

	// A watch at resourceVersion 0, or none, shows what there is and then what happens.
	t.Run("InitialEvents", func(t *testing.T) {
		namespace := e.Namespace(t)
		person := tasks(people, namespace)
		createTask(t, person, newHeldTask("before"))
		for i, resourceVersion := range []string{"", "0"} {
			// A list that is up to date has brought the cache up to date.
			if list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t); len(list.Items) != 1 {
				t.Fatalf("The list has %v.", taskNames(list))
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

	// A stream that begins with what there is: the end of that is marked, and nothing comes twice.
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
				t.Fatalf("%s of %s came among the initial events.", event.Type, task.Name)
			}
		}
		slices.Sort(initial)
		if list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t); !slices.Equal(initial, taskNames(list)) {
			t.Errorf("The initial events were %v, want %v.", initial, taskNames(list))
		}
		if parseVersion(t, end.ResourceVersion) < parseVersion(t, newest.ResourceVersion) {
			t.Errorf("The initial events end at %s, before the newest write at %s.", end.ResourceVersion, newest.ResourceVersion)
		}
		labelTask(t, person, "task-3", "live", "true")
		expect(t, w, watch.Modified, "task-3")
		kit.Check(t, person.Delete(t.Context(), "task-4", metav1.DeleteOptions{}))
		event := nextChange(t, w)
		if event.Type == watch.Modified { // a delete may be told in two steps, as of Pods
			event = nextChange(t, w)
		}
		if task := event.Object.(*batch.Task); event.Type != watch.Deleted || task.Name != "task-4" {
			t.Errorf("After a delete the watch had %s %s, want DELETED task-4.", event.Type, task.Name)
		}
	})

	// A watch ends when its time is over, without an error, and just before that a bookmark tells where it was, even if nothing
	// that it selects has changed.
	t.Run("BookmarksAndTimeout", func(t *testing.T) {
		namespace := e.Namespace(t)
		person := tasks(people, namespace)
		createTask(t, person, newHeldTask("quiet"))
		start := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
		var wg sync.WaitGroup
		watched := func(allow bool) (got []watch.Event, took time.Duration) {
			begun := time.Now()
			w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{
				ResourceVersion: start, AllowWatchBookmarks: allow, TimeoutSeconds: ptr.To[int64](6), FieldSelector: "metadata.name=quiet",
			}))(t)
			for event := range w.ResultChan() {
				got = append(got, event)
			}
			return got, time.Since(begun)
		}
		var with, without []watch.Event
		var took time.Duration
		wg.Go(func() { with, took = watched(true) })
		wg.Go(func() { without, _ = watched(false) })
		changed := labelTask(t, person, "quiet", "changed", "true")
		elsewhere := createTask(t, tasks(people, namespace), newHeldTask("elsewhere"))
		wg.Wait()

		if took < 6*time.Second || took > 12*time.Second {
			t.Errorf("A watch for 6 s ended after %v.", took)
		}
		var last int64
		bookmarks := 0
		for _, event := range with {
			task, ok := event.Object.(*batch.Task)
			if !ok {
				t.Fatalf("The watch had %s: %v", event.Type, event.Object)
			}
			if revision := parseVersion(t, task.ResourceVersion); revision < last {
				t.Errorf("%s at %d came after %d.", event.Type, revision, last)
			} else {
				last = revision
			}
			if event.Type == watch.Bookmark {
				bookmarks++
				want := &batch.Task{ObjectMeta: metav1.ObjectMeta{ResourceVersion: task.ResourceVersion}}
				if !apiequality.Semantic.DeepEqual(task, want) {
					t.Errorf("A bookmark is %+v, want %+v.", task, want)
				}
			}
		}
		if bookmarks == 0 || last < parseVersion(t, elsewhere.ResourceVersion) {
			t.Errorf("%d bookmarks came, the last at %d, want one past %s.", bookmarks, last, elsewhere.ResourceVersion)
		}
		if len(without) != 1 || without[0].Type != watch.Modified || without[0].Object.(*batch.Task).ResourceVersion != changed.ResourceVersion {
			t.Errorf("Without bookmarks came %v, want one MODIFIED at %s.", without, changed.ResourceVersion)
		}

		// Going on from the bookmark shows what came after it and nothing else.
		w := kit.Must(person.Watch(t.Context(), metav1.ListOptions{ResourceVersion: fmt.Sprint(last)}))(t)
		defer w.Stop()
		labelTask(t, person, "quiet", "changed", "again")
		if task := expect(t, w, watch.Modified, "quiet"); task.Labels["changed"] != "again" {
			t.Errorf("From the bookmark on came %v first, want what was written after it.", task.Labels)
		}
	})
}

// next gives the next event of a watch.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("The watch ended.")
		}
		if _, ok := event.Object.(*batch.Task); !ok {
			t.Fatalf("The watch had %s: %v", event.Type, event.Object)
		}
		return event
	case <-time.After(kit.Patience):
		t.Fatalf("No event came within %v.", kit.Patience)
	}
	panic("unreachable")
}

// nextChange gives the next event of a watch that is not a bookmark.
func nextChange(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		if event := next(t, w); event.Type != watch.Bookmark {
			return event
		}
	}
}

// expect waits for the next change, which must be that.
func expect(t *testing.T, w watch.Interface, kind watch.EventType, name string) *batch.Task {
	t.Helper()
	event := nextChange(t, w)
	task := event.Object.(*batch.Task)
	if event.Type != kind || task.Name != name {
		t.Fatalf("The watch had %s %s, want %s %s.", event.Type, task.Name, kind, name)
	}
	return task
}
