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

// Package scenario is what every client of Leat must see, whichever library it is made with: the same changes, told in full
// over the end and the return of the server.
package scenario

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

const (
	// Step is the label of a task whose value says which change was its last.
	Step = "step"
	// Worker is the name of the worker that tasks are bound to.
	Worker = "w-aaaaa"
	// timeout bounds the wait for what takes milliseconds, or after a restart of the server seconds, on a machine that is
	// not busy.
	timeout = time.Minute
)

// Run creates, changes, binds, evicts and deletes tasks in the namespace, which must be empty, kills the server, starts it
// again and goes on. All are informers of the namespace's tasks, Bound those with the field selector spec.workerName=Worker.
// They are started between, by start: with some tasks there already.
func Run(t *testing.T, e *kit.Env, namespace string, all, bound []*Objects, start func()) {
	t.Helper()
	// The controller manager's rights suffice for all that happens here. It speaks to the server itself: through the
	// aggregator it might not reach it for a while after a restart.
	config := e.Controller(t)
	if !e.Standalone() {
		config = e.Direct(t, "system:serviceaccount:leat-system:leat-controller-manager")
	}
	s := &story{t: t, tasks: kit.Client(t, config).BatchV1alpha1().Tasks(namespace), all: all, bound: bound,
		tasksNow: map[string]string{}, boundNow: map[string]bool{}}

	// Where a lifecycle controller runs, tasks do not stay with a worker that is not there.
	_, err := kit.Client(t, e.Worker(t, namespace, Worker)).BatchV1alpha1().Workers(namespace).
		Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: Worker}}, metav1.CreateOptions{})
	kit.Check(t, err)
	s.create("kept")
	s.create("deleted-before")
	s.create("bound-before")
	s.bind("bound-before")
	s.delete("deleted-before")
	start()
	s.seen("what there was")

	s.create("new")
	s.seen("a task that was created")
	s.change("kept", "changed")
	s.seen("a task that was changed")
	s.bind("new")
	s.seen("a task that was bound")
	s.evict("bound-before")
	s.seen("a task that was evicted")
	s.delete("new")
	s.seen("a task that was deleted")

	// All of this happens before the informers have found the server again, as likely as not.
	if err := e.Server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.change("kept", "changed-after")
	s.create("after")
	s.bind("kept")
	s.delete("bound-before")
	s.create("bound-before")
	s.seen("what happened around a restart")
	s.change("after", "changed-after")
	s.delete("kept")
	s.seen("what happened after a restart")

	for _, name := range []string{"after", "bound-before"} {
		s.delete(name)
	}
	s.seen("that nothing is left")
	e.WaitServed(t)
}

type story struct {
	t          *testing.T
	tasks      typed.TaskInterface
	all, bound []*Objects

	tasksNow map[string]string // by name, the value of their label
	boundNow map[string]bool
}

func (s *story) create(name string) {
	s.t.Helper()
	_, err := s.tasks.Create(s.t.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Step: "created"}},
		Spec:       batch.TaskSpec{Command: []string{"sleep"}},
	}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	s.tasksNow[name] = "created"
}

func (s *story) change(name, step string) {
	s.t.Helper()
	_, err := s.tasks.Patch(s.t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"labels": {%q: %q}}}`, Step, step),
		metav1.PatchOptions{})
	kit.Check(s.t, err)
	s.tasksNow[name] = step
}

func (s *story) bind(name string) {
	s.t.Helper()
	_, err := s.tasks.Bind(s.t.Context(), name, &batch.Binding{Target: batch.BindingTarget{Name: Worker, Incarnation: "one"}}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	s.boundNow[name] = true
}

func (s *story) evict(name string) {
	s.t.Helper()
	_, err := s.tasks.Evict(s.t.Context(), name, &batch.Eviction{}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	delete(s.boundNow, name)
}

func (s *story) delete(name string) {
	s.t.Helper()
	now := int64(0)
	kit.Check(s.t, s.tasks.Delete(s.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	delete(s.tasksNow, name)
	delete(s.boundNow, name)
}

// seen waits until all informers have told of all that happened.
func (s *story) seen(what string) {
	s.t.Helper()
	boundNow := maps.Clone(s.tasksNow)
	maps.DeleteFunc(boundNow, func(name, _ string) bool { return !s.boundNow[name] })
	for _, expected := range []struct {
		objects []*Objects
		want    map[string]string
	}{{s.all, s.tasksNow}, {s.bound, boundNow}} {
		for _, objects := range expected.objects {
			err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, timeout, true, func(context.Context) (bool, error) {
				return maps.Equal(objects.Now(), expected.want), nil
			})
			if err != nil {
				s.t.Fatalf("%s has not seen %s: it has %v, want %v; it was told\n%s", objects.Name, what, objects.Now(), expected.want, objects.Told())
			}
		}
	}
}
