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
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// race makes n clients attempt the same at once and returns the client that succeeded. All others must get a conflict.
func race(n int, attempt func(i int) error) (int, error) {
	start := make(chan struct{})
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = attempt(i)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	var wrong []error
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			wrong = append(wrong, fmt.Errorf("clients %d and %d both succeeded", winner, i))
		case !apierrors.IsConflict(err):
			wrong = append(wrong, fmt.Errorf("client %d: got %w, want a conflict", i, err))
		}
	}
	if winner < 0 {
		wrong = append(wrong, errors.New("no client succeeded"))
	}
	return winner, errors.Join(wrong...)
}

// testCompareAndSwap tests that one of 50 clients succeeds when all write the resourceVersion that they have read.
func testCompareAndSwap(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	person := tasks(kit.Client(t, e.Admin(t)), namespace)
	another := tasks(kit.Client(t, e.Admin(t)), namespace)
	controller := tasks(kit.Client(t, e.Controller(t)), namespace)

	t.Run("Update", func(t *testing.T) {
		read := createTask(t, person, newHeldTask("update"))
		for round := range 5 {
			winner, err := raceToUpdate(t.Context(), read, person, another)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			stored := getTask(t, person, read.Name)
			if stored.Labels["winner"] != mark(winner, read) {
				t.Fatalf("client %d succeeded: the stored label is %q, want %q", winner, stored.Labels["winner"], mark(winner, read))
			}
			read = stored
		}
	})

	t.Run("Status", func(t *testing.T) {
		read := createTask(t, person, newHeldTask("status"))
		for round := range 5 {
			winner, err := race(50, func(i int) error {
				task := read.DeepCopy()
				task.Status.Progress = mark(i, read)
				_, err := controller.UpdateStatus(t.Context(), task, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			stored := getTask(t, person, read.Name)
			if stored.Status.Progress != mark(winner, read) {
				t.Fatalf("client %d succeeded: the stored progress is %q, want %q", winner, stored.Status.Progress, mark(winner, read))
			}
			read = stored
		}
	})

	t.Run("Delete", func(t *testing.T) {
		read := createTask(t, person, newHeldTask("delete"))
		written := labelTask(t, person, read.Name, "written", "since")
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &read.ResourceVersion}}
		if err := person.Delete(t.Context(), read.Name, options); !apierrors.IsConflict(err) {
			t.Errorf("deleting resourceVersion %s of a task at %s: got %v, want a conflict", read.ResourceVersion, written.ResourceVersion, err)
		}
		options.Preconditions.ResourceVersion = &written.ResourceVersion
		if err := person.Delete(t.Context(), read.Name, options); err != nil {
			t.Error(err)
		}
	})

	t.Run("Bind", func(t *testing.T) {
		for round := range 10 {
			name := fmt.Sprintf("bind-%d", round)
			createTask(t, person, kit.NewTask(name))
			if err := raceToBind(t, name, controller); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// mark returns the value that a client writes. It differs from the stored value, because an update without a change
// can succeed at any resourceVersion.
func mark(i int, read *batch.Task) string {
	return fmt.Sprintf("%d-after-%s", i, read.ResourceVersion)
}

// raceToUpdate makes 50 callers, spread over the clients, update the task that they have read. It returns the caller
// that succeeded.
func raceToUpdate(ctx context.Context, read *batch.Task, clients ...typed.TaskInterface) (int, error) {
	return race(50, func(i int) error {
		task := read.DeepCopy()
		task.Labels = map[string]string{"winner": mark(i, read)}
		_, err := clients[i%len(clients)].Update(ctx, task, metav1.UpdateOptions{})
		return err
	})
}

// raceToBind makes 20 schedulers, spread over the clients, bind the task to different workers. It checks that the
// stored task is bound to the worker of the scheduler that succeeded.
func raceToBind(t *testing.T, name string, clients ...typed.TaskInterface) error {
	t.Helper()
	winner, err := race(20, func(i int) error {
		return tryBindTask(t.Context(), clients[i%len(clients)], name, fmt.Sprintf("worker-%d", i), fmt.Sprintf("incarnation-%d", i))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	task := getTask(t, clients[0], name)
	if task.Spec.WorkerName != fmt.Sprintf("worker-%d", winner) || task.Status.Incarnation != fmt.Sprintf("incarnation-%d", winner) {
		return fmt.Errorf("scheduler %d succeeded: %s is bound to incarnation %q of worker %q", winner, name, task.Status.Incarnation, task.Spec.WorkerName)
	}
	return nil
}

// testFencing tests that an incarnation of a worker cannot write the status of a task that is no longer bound to it,
// not even at the newest resourceVersion.
func testFencing(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	people, controllers := kit.Client(t, e.Admin(t)), kit.Client(t, e.Controller(t))
	person, controller := tasks(people, namespace), tasks(controllers, namespace)
	worker := tasks(kit.Client(t, e.Worker(t, namespace, "worker-1")), namespace)

	t.Run("FormerIncarnation", func(t *testing.T) {
		createTask(t, person, kit.NewTask("former"))
		bindTask(t, controller, "former", "worker-1", "first")
		stale := getTask(t, worker, "former")
		evictTask(t, controller, "former")
		bindTask(t, controller, "former", "worker-1", "second")
		for _, late := range []*batch.Task{stale, getTask(t, worker, "former")} {
			late.Status.Incarnation = "first"
			late.Status.Phase = batch.TaskSucceeded
			if _, err := worker.UpdateStatus(t.Context(), late, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("a status from the first incarnation at resourceVersion %s: got %v, want a conflict", late.ResourceVersion, err)
			}
		}
	})

	t.Run("FormerAttempt", func(t *testing.T) {
		createTask(t, person, kit.NewTask("attempt"))
		bindTask(t, controller, "attempt", "worker-1", "first")
		task := getTask(t, worker, "attempt")
		task.Status.Attempts = 2
		task = kit.Must(worker.UpdateStatus(t.Context(), task, metav1.UpdateOptions{}))(t)
		task.Status.Attempts = 1
		if _, err := worker.UpdateStatus(t.Context(), task, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("a status that goes back from attempt 2 to 1: got %v, want a conflict", err)
		}
	})

	// The worker writes at the newest resourceVersion as fast as it can while its task is evicted.
	t.Run("RacedWithEviction", func(t *testing.T) {
		random := seeded(t)
		namespace := e.Namespace(t)
		person, controller := tasks(people, namespace), tasks(controllers, namespace)
		stored := recordHistory(t, e, namespace)
		createTask(t, person, kit.NewTask("raced"))
		const rounds = 20
		for round := range rounds {
			incarnation := fmt.Sprintf("incarnation-%d", round)
			bindTask(t, controller, "raced", "worker-1", incarnation)
			// The eviction comes at any moment after the first write.
			due, written := make(chan struct{}), make(chan error, 1)
			started := sync.OnceFunc(func() {
				time.AfterFunc(time.Duration(random.IntN(30))*time.Millisecond, func() { close(due) })
			})
			go func() { written <- writeUntilFenced(t.Context(), controller, "raced", incarnation, started) }()
			select {
			case err := <-written:
				t.Fatalf("the writes ended before the eviction: %v", err)
			case <-due:
			}
			evictTask(t, controller, "raced")
			kit.Check(t, <-written)
		}
		last := labelTask(t, person, "raced", "last", "true")
		running := 0
		for _, c := range stored.until(t, last.ResourceVersion) {
			if c.After.Status.Phase == batch.TaskRunning {
				running++
			}
			if err := fenced(c.Before, c.After); err != nil {
				t.Errorf("revision %d: %v", c.Revision, err)
			}
		}
		if last.Status.Disruptions != rounds || running < rounds {
			t.Errorf("got %d disruptions and %d writes of the worker, want %d disruptions and at least as many writes", last.Status.Disruptions, running, rounds)
		}
	})
}

// writeUntilFenced reports the task as running in the incarnation until the server refuses that because of another
// incarnation. It calls wrote after each write.
func writeUntilFenced(ctx context.Context, client typed.TaskInterface, name, incarnation string, wrote func()) error {
	n := 0
	return wait.PollUntilContextTimeout(ctx, time.Microsecond, kit.Patience, true, func(ctx context.Context) (bool, error) {
		n++
		task, err := client.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		evicted := task.Spec.WorkerName == ""
		task.Status.Incarnation = incarnation
		task.Status.Phase = batch.TaskRunning
		task.Status.State = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: metav1.Now()}}
		task.Status.Progress = fmt.Sprintf("%d", n)
		_, err = client.UpdateStatus(ctx, task, metav1.UpdateOptions{})
		switch {
		case err == nil && evicted:
			return false, fmt.Errorf("incarnation %s wrote the status after the eviction", incarnation)
		case err == nil:
			wrote()
			return false, nil
		case apierrors.IsConflict(err) && strings.Contains(err.Error(), incarnation):
			return true, nil
		case apierrors.IsConflict(err):
			return false, nil // the resourceVersion is not the newest
		}
		return false, err
	})
}

// fenced returns an error if a change leaves a task with a worker but no incarnation or the reverse, leaves it running
// without a worker, or replaces the incarnation without an eviction.
func fenced(before, after *batch.Task) error {
	switch {
	case (after.Spec.WorkerName == "") != (after.Status.Incarnation == ""):
		return fmt.Errorf("the task has worker %q and incarnation %q, want both or none", after.Spec.WorkerName, after.Status.Incarnation)
	case after.Spec.WorkerName == "" && (after.Status.Phase != batch.TaskPending || after.Status.State.Running != nil):
		return fmt.Errorf("the task has no worker, phase %s and state %+v, want Pending", after.Status.Phase, after.Status.State)
	case before != nil && before.Spec.WorkerName != "" && after.Spec.WorkerName != "" && before.Status.Incarnation != after.Status.Incarnation:
		return fmt.Errorf("the incarnation changed from %q to %q without an eviction", before.Status.Incarnation, after.Status.Incarnation)
	}
	return nil
}
