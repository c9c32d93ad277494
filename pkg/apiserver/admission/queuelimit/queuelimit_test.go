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

package queuelimit

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func newTask(name, queue string) *batch.Task {
	return &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batch.TaskSpec{QueueName: queue}}
}

func newQueue(name string, limit *int32) *batch.TaskQueue {
	return &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batch.TaskQueueSpec{MaxPendingTasks: limit}}
}

// fixture returns the plugin and its counts, with a limit of two pending tasks for queue "ml" and no tasks.
func fixture(t *testing.T) (admission.ValidationInterface, *Counts) {
	t.Helper()
	counts, plugin := NewCounts(), New()
	Initializer(counts).Initialize(plugin)
	check(t, counts.Tasks().Replace(nil, ""))
	check(t, counts.Queues().Replace([]any{newQueue("ml", ptr.To[int32](2)), newQueue("free", nil)}, ""))
	return plugin, counts
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(plugin admission.ValidationInterface, namespace, queue, subresource string, dryRun bool) error {
	obj := runtime.Object(newTask("new", queue))
	if subresource != "" {
		obj = &batch.Binding{}
	}
	return plugin.Validate(context.Background(), admission.NewAttributesRecord(obj, nil, batch.SchemeGroupVersion.WithKind("Task"), namespace, "new",
		batch.SchemeGroupVersion.WithResource("tasks"), subresource, admission.Create, &metav1.CreateOptions{}, dryRun, nil), nil)
}

func TestCreate(t *testing.T) {
	plugin, counts := fixture(t)
	tasks, queues := counts.Tasks(), counts.Queues()
	for _, step := range []struct {
		name    string
		do      func() error
		refused bool
	}{
		{"none is pending", func() error { return nil }, false},
		{"one is pending", func() error { return tasks.Add(newTask("a", "ml")) }, false},
		{"it is updated", func() error { return tasks.Update(newTask("a", "ml")) }, false},
		{"two are pending", func() error { return tasks.Add(newTask("b", "ml")) }, true},
		{"one is bound", func() error { return tasks.Delete(newTask("b", "ml")) }, false},
		{"it is removed twice", func() error { return tasks.Delete(newTask("b", "ml")) }, false},
		{"it is evicted", func() error { return tasks.Add(newTask("b", "ml")) }, true},
		{"a task of another queue replaces one", func() error { return tasks.Update(newTask("b", "other")) }, false},
		{"the reflector lists again", func() error {
			return tasks.Replace([]any{newTask("a", "ml"), newTask("c", "ml"), newTask("d", "ml")}, "")
		}, true},
		{"the limit is raised", func() error { return queues.Update(newQueue("ml", ptr.To[int32](4))) }, false},
		{"the limit is lowered", func() error { return queues.Update(newQueue("ml", ptr.To[int32](0))) }, true},
		{"the limit is gone", func() error { return queues.Update(newQueue("ml", nil)) }, false},
		{"the limit is back", func() error { return queues.Update(newQueue("ml", ptr.To[int32](1))) }, true},
		{"the queue is deleted", func() error { return queues.Delete(newQueue("ml", nil)) }, false},
	} {
		check(t, step.do())
		for _, dryRun := range []bool{false, true} {
			if err := create(plugin, "ns", "ml", "", dryRun); apierrors.IsTooManyRequests(err) != step.refused || !step.refused && err != nil {
				t.Fatalf("%s (dry run: %v): got %v", step.name, dryRun, err)
			}
		}
	}
}

func TestMoveToAnotherQueue(t *testing.T) {
	plugin, counts := fixture(t)
	check(t, counts.Tasks().Replace([]any{newTask("a", "ml"), newTask("b", "ml"), newTask("c", "free")}, ""))
	for _, test := range []struct {
		from, to string
		refused  bool
	}{
		{"free", "ml", true}, {"ml", "free", false}, {"free", "other", false}, {"ml", "ml", false},
	} {
		err := plugin.Validate(t.Context(), admission.NewAttributesRecord(newTask("a", test.to), newTask("a", test.from),
			batch.SchemeGroupVersion.WithKind("Task"), "ns", "a", batch.SchemeGroupVersion.WithResource("tasks"), "", admission.Update,
			&metav1.UpdateOptions{}, false, nil), nil)
		if apierrors.IsTooManyRequests(err) != test.refused || !test.refused && err != nil {
			t.Errorf("from %s to %s: got %v, want refused: %t", test.from, test.to, err, test.refused)
		}
	}
	if !plugin.Handles(admission.Update) {
		t.Error("the plugin does not handle updates")
	}
}

func TestTooManyRequests(t *testing.T) {
	plugin, counts := fixture(t)
	check(t, counts.Tasks().Replace([]any{newTask("a", "ml"), newTask("b", "ml"), newTask("c", "ml")}, ""))
	seen := map[int32]bool{}
	for range 200 {
		err := create(plugin, "ns", "ml", "", false)
		status := err.(apierrors.APIStatus).Status()
		const want = "queue ml has 3 pending tasks of at most 2 (maxPendingTasks): wait until some have started, or raise the limit"
		if status.Code != http.StatusTooManyRequests || status.Message != want {
			t.Fatalf("got %+v", status)
		}
		seen[status.Details.RetryAfterSeconds] = true
	}
	for seconds := int32(1); seconds <= 5; seconds++ {
		if !seen[seconds] {
			t.Errorf("none of 200 refusals has a Retry-After of %d s: %v", seconds, seen)
		}
		delete(seen, seconds)
	}
	if len(seen) > 0 {
		t.Errorf("unexpected Retry-After %v", seen)
	}
}

func TestOtherRequestsAreAllowed(t *testing.T) {
	plugin, counts := fixture(t)
	check(t, counts.Tasks().Replace([]any{newTask("a", "ml"), newTask("b", "ml")}, ""))
	for name, err := range map[string]error{
		"another queue":        create(plugin, "ns", "free", "", false),
		"queue without object": create(plugin, "ns", "unheard", "", false),
		"another namespace":    create(plugin, "elsewhere", "ml", "", false),
		"a binding":            create(plugin, "ns", "ml", "binding", false),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if plugin.Handles(admission.Delete) {
		t.Error("the plugin handles deletions")
	}
}

func TestWaitForSync(t *testing.T) {
	counts, plugin := NewCounts(), New()
	if err := plugin.(admission.InitializationValidator).ValidateInitialization(); err == nil {
		t.Error("ValidateInitialization returned no error without counts")
	}
	Initializer(counts).Initialize(plugin)
	check(t, plugin.(admission.InitializationValidator).ValidateInitialization())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := create(plugin, "ns", "ml", "", false); !apierrors.IsTooManyRequests(err) {
			t.Errorf("got %v", err)
		}
	})
	check(t, counts.Queues().Replace([]any{newQueue("ml", ptr.To[int32](0))}, ""))
	if counts.HasSynced() {
		t.Error("the counts are synced without the tasks")
	}
	check(t, counts.Tasks().Replace(nil, ""))
	wg.Wait()
}

func TestUnexpectedTypes(t *testing.T) {
	_, counts := fixture(t)
	for _, err := range []error{
		counts.Tasks().Add(newQueue("q", nil)), counts.Queues().Update(newTask("t", "q")), counts.Tasks().Replace([]any{"text"}, ""),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	counts, plugin := NewCounts(), New()
	Initializer(counts).Initialize(plugin)
	all := make([]any, 100_000)
	for i := range all {
		all[i] = newTask(fmt.Sprint(i), fmt.Sprint("q", i%100))
	}
	if err := counts.Tasks().Replace(all, ""); err != nil {
		b.Fatal(err)
	}
	if err := counts.Queues().Replace([]any{newQueue("q1", ptr.To[int32](1_000_000))}, ""); err != nil {
		b.Fatal(err)
	}
	attributes := admission.NewAttributesRecord(newTask("new", "q1"), nil, batch.SchemeGroupVersion.WithKind("Task"), "ns", "new",
		batch.SchemeGroupVersion.WithResource("tasks"), "", admission.Create, &metav1.CreateOptions{}, false, nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := plugin.Validate(b.Context(), attributes, nil); err != nil {
			b.Fatal(err)
		}
	}
}
