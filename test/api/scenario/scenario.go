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

// Package scenario changes tasks and checks that informers of any library report every change, also over a restart of
// the server.
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
	// Step is the label of tasks whose value names the last change.
	Step = "step"
	// Worker is the name of the worker of the bound tasks.
	Worker = "w-aaaaa"
	// timeout limits waits for what takes milliseconds on an idle machine, or seconds after a restart of the server.
	timeout = time.Minute
)

// Run creates, changes, binds, evicts and deletes tasks in an empty namespace, restarts the server and continues. The
// observers in all belong to informers of the namespace's tasks, and those in bound to informers with the field
// selector spec.workerName=Worker. Run calls start to start the informers when some tasks exist. It fails the test if
// an informer does not report a change.
func Run(t *testing.T, e *kit.Env, namespace string, all, bound []*Observer, start func()) {
	t.Helper()
	// The changes need the rights of the controller manager. They bypass the aggregator, which may not reach the server
	// for a while after a restart.
	config := e.Controller(t)
	if !e.Standalone() {
		config = e.Direct(t, "system:serviceaccount:leat-system:leat-controller-manager")
	}
	s := &tasks{t: t, client: kit.Client(t, config).BatchV1alpha1().Tasks(namespace), all: all, bound: bound,
		existing: map[string]string{}, assigned: map[string]bool{}}

	// In standalone mode, the lifecycle controller evicts tasks of workers that do not exist.
	_, err := kit.Client(t, e.Worker(t, namespace, Worker)).BatchV1alpha1().Workers(namespace).
		Create(t.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: Worker}}, metav1.CreateOptions{})
	kit.Check(t, err)
	s.create("kept")
	s.create("deleted-before")
	s.create("bound-before")
	s.bind("bound-before")
	s.delete("deleted-before")
	start()
	s.waitObserved("the existing tasks")

	s.create("new")
	s.waitObserved("a created task")
	s.change("kept", "changed")
	s.waitObserved("a changed task")
	s.bind("new")
	s.waitObserved("a bound task")
	s.evict("bound-before")
	s.waitObserved("an evicted task")
	s.delete("new")
	s.waitObserved("a deleted task")

	// These changes likely happen before the informers have reconnected.
	if err := e.Server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.change("kept", "changed-after")
	s.create("after")
	s.bind("kept")
	s.delete("bound-before")
	s.create("bound-before")
	s.waitObserved("the changes around a restart")
	s.change("after", "changed-after")
	s.delete("kept")
	s.waitObserved("the changes after a restart")

	for _, name := range []string{"after", "bound-before"} {
		s.delete(name)
	}
	s.waitObserved("that no tasks exist")
	e.WaitServed(t)
}

type tasks struct {
	t          *testing.T
	client     typed.TaskInterface
	all, bound []*Observer

	existing map[string]string // the value of the label Step by name
	assigned map[string]bool   // by name
}

func (s *tasks) create(name string) {
	s.t.Helper()
	_, err := s.client.Create(s.t.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Step: "created"}},
		Spec:       batch.TaskSpec{Command: []string{"sleep"}},
	}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	s.existing[name] = "created"
}

func (s *tasks) change(name, step string) {
	s.t.Helper()
	_, err := s.client.Patch(s.t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"labels": {%q: %q}}}`, Step, step),
		metav1.PatchOptions{})
	kit.Check(s.t, err)
	s.existing[name] = step
}

func (s *tasks) bind(name string) {
	s.t.Helper()
	_, err := s.client.Bind(s.t.Context(), name, &batch.Binding{Target: batch.BindingTarget{Name: Worker, Incarnation: "one"}}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	s.assigned[name] = true
}

func (s *tasks) evict(name string) {
	s.t.Helper()
	_, err := s.client.Evict(s.t.Context(), name, &batch.Eviction{}, metav1.CreateOptions{})
	kit.Check(s.t, err)
	delete(s.assigned, name)
}

func (s *tasks) delete(name string) {
	s.t.Helper()
	now := int64(0)
	kit.Check(s.t, s.client.Delete(s.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	delete(s.existing, name)
	delete(s.assigned, name)
}

// waitObserved waits until all informers have reported the current state.
func (s *tasks) waitObserved(what string) {
	s.t.Helper()
	assigned := maps.Clone(s.existing)
	maps.DeleteFunc(assigned, func(name, _ string) bool { return !s.assigned[name] })
	for _, expected := range []struct {
		observers []*Observer
		want      map[string]string
	}{{s.all, s.existing}, {s.bound, assigned}} {
		for _, o := range expected.observers {
			err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, timeout, true, func(context.Context) (bool, error) {
				return maps.Equal(o.Objects(), expected.want), nil
			})
			if err != nil {
				s.t.Fatalf("informer %s has not reported %s: got %v, want %v; its events are\n%s", o.Name, what, o.Objects(), expected.want, o.Events())
			}
		}
	}
}
