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
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/host"
)

// controllerUser is the controller manager, where it is to be met past the host.
const controllerUser = "system:serviceaccount:leat-system:leat-controller-manager"

// direct is e.Admin past the host, which takes its time to see that a server is back.
func direct(t *testing.T, e *kit.Env) *rest.Config {
	t.Helper()
	return e.Direct(t, "alice", "leat:admins")
}

// restart kills the server, starts it and waits until it is reached on all ways.
func restart(t *testing.T, e *kit.Env) {
	t.Helper()
	kit.Check(t, e.Server.Restart(t.Context()))
	awaitReached(t, e)
}

func awaitReached(t *testing.T, e *kit.Env) {
	t.Helper()
	kit.Check(t, e.Server.WaitReady(t.Context()))
	for _, config := range []*rest.Config{e.Admin(t), e.Controller(t)} {
		client := tasks(kit.Client(t, config), metav1.NamespaceAll)
		inARow := 0
		kit.Eventually(t, "five requests in a row succeed", func(ctx context.Context) error {
			inARow++
			if _, err := client.List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
				inARow = 0
				return err
			}
			if inARow < 5 {
				return fmt.Errorf("only %d lists in a row", inARow)
			}
			return nil
		})
	}
}

// What was acknowledged is there after a process was killed at any moment and started again, deletes too, and a watch goes on from
// where it was.
func testProcessKilled(t *testing.T, e *kit.Env, process *host.Process) {
	random := seeded(t)
	namespace := e.Namespace(t)
	truth := recordHistory(t, e, namespace)
	person := tasks(kit.Client(t, direct(t, e)), namespace)
	controller := tasks(kit.Client(t, e.Direct(t, controllerUser)), namespace)
	watcher := startRetryWatcher(t, person, metav1.ListOptions{}, truth.Start)

	writers := make([]*writer, 4)
	for i := range writers {
		writers[i] = &writer{
			person: person, controller: controller, prefix: fmt.Sprintf("writer-%d", i),
			random: rand.New(rand.NewPCG(random.Uint64(), 0)), acknowledged: map[string]*batch.Task{},
		}
	}
	const rounds = 3
	for round := range rounds {
		var writing sync.WaitGroup
		errs := make([]error, len(writers))
		for i, w := range writers {
			writing.Go(func() { errs[i] = w.writeUntilInDoubt(t.Context()) })
		}
		<-time.After(time.Duration(200+random.IntN(600)) * time.Millisecond)
		kit.Check(t, process.Kill())
		writing.Wait()
		kit.Check(t, process.Restart(t.Context()))
		kit.Check(t, e.Server.WaitReady(t.Context()))
		list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t)
		stored := map[string]*batch.Task{}
		for i := range list.Items {
			stored[list.Items[i].Name] = &list.Items[i]
		}
		for i, w := range writers {
			kit.Check(t, errs[i])
			if err := w.settle(t.Context(), stored); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		for name := range stored {
			t.Errorf("round %d: %s is stored, and nobody wrote it", round, name)
		}
	}
	last := createTask(t, person, newHeldTask("last"))
	changes := truth.until(t, last.ResourceVersion)
	written := map[string]*batch.Task{} // by resourceVersion
	for _, c := range changes {
		if c.After != nil {
			written[c.After.ResourceVersion] = c.After
		}
	}
	acknowledged := 0
	for _, w := range writers {
		for _, task := range w.written {
			kit.Check(t, history.Same(task, written[task.ResourceVersion]))
		}
		acknowledged += len(w.written)
	}
	if acknowledged < 10*rounds {
		t.Errorf("Only %d writes were acknowledged over %d rounds: this proves nothing.", acknowledged, rounds)
	}
	watcher.expect(t, changes, history.All)
	_, watches, lists := watcher.received(t)
	t.Logf("%d writes were acknowledged; the watcher took %d watches and %d lists.", acknowledged, watches, lists)

	// Nothing was written while the process was down, so nothing is too old to go on from.
	t.Run("Quiet", func(t *testing.T) {
		client := tasks(kit.Client(t, direct(t, e)), namespace)
		etcd := e.EtcdClient(t)
		start := kit.Must(client.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
		quiet := startRetryWatcher(t, client, metav1.ListOptions{}, parseVersion(t, start))
		kit.Eventually(t, "the watch has started", func(context.Context) error {
			if _, watches, _ := quiet.received(t); watches == 0 {
				return fmt.Errorf("no watch was begun")
			}
			return nil
		})
		kit.Check(t, process.Restart(t.Context()))
		kit.Check(t, e.Server.WaitReady(t.Context()))
		revision := kit.Must(etcd.Get(t.Context(), "/none"))(t).Header.Revision
		changed := labelTask(t, client, "last", "changed", "true")
		var since []history.Change
		for _, c := range truth.until(t, changed.ResourceVersion) {
			if c.Revision > parseVersion(t, start) {
				since = append(since, c)
			}
		}
		quiet.expect(t, since, history.All)
		if _, _, lists := quiet.received(t); lists > 0 {
			t.Errorf("A watch from %s had to begin again, and etcd was at %d after the restart.", start, revision)
		}
	})
	awaitReached(t, e)
}

// writer writes tasks of its own, one write at a time, and keeps account of what was acknowledged.
type writer struct {
	person, controller typed.TaskInterface
	random             *rand.Rand
	prefix             string

	acknowledged map[string]*batch.Task // those that are there
	written      []*batch.Task          // all that was ever acknowledged, deletes aside
	doubt        *doubt
}

// doubt is a write that was neither acknowledged nor refused.
type doubt struct {
	name string
	note string // that it wrote, empty if it was a delete
	err  error
}

func note(task *batch.Task) string {
	return task.Labels["note"] + " " + task.Status.Progress
}

// writeUntilInDoubt writes until a write's outcome is not known. An error means that the server refused what it could not have.
func (w *writer) writeUntilInDoubt(ctx context.Context) error {
	for {
		name := fmt.Sprintf("%s-%d", w.prefix, w.random.IntN(5))
		writeCtx, cancel := context.WithTimeout(ctx, 2*time.Second)
		written, wanted, err := w.write(writeCtx, name)
		cancel()
		switch {
		case err == nil && written == nil:
			delete(w.acknowledged, name)
		case err == nil:
			w.acknowledged[name] = written
			w.written = append(w.written, written)
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
			return fmt.Errorf("only this client writes %s, last at %v: %w", name, w.acknowledged[name], err)
		default:
			w.doubt = &doubt{name: name, note: wanted, err: err}
			return nil
		}
	}
}

// write makes one write. It gives the task as acknowledged, nil for a delete, and the note that was to be written.
func (w *writer) write(ctx context.Context, name string) (written *batch.Task, wanted string, err error) {
	value := fmt.Sprint(w.random.Uint32())
	before := w.acknowledged[name]
	if before == nil {
		task := newHeldTask(name)
		task.Labels = map[string]string{"note": value}
		written, err = w.person.Create(ctx, task, metav1.CreateOptions{})
		return written, note(task), err
	}
	task := before.DeepCopy()
	switch dice := w.random.IntN(5); dice {
	case 0:
		return nil, "", w.person.Delete(ctx, name, metav1.DeleteOptions{})
	case 1, 2:
		task.Status.Progress = value
		written, err = w.controller.UpdateStatus(ctx, task, metav1.UpdateOptions{})
	default:
		task.Labels = map[string]string{"note": value}
		written, err = w.person.Update(ctx, task, metav1.UpdateOptions{})
	}
	return written, note(task), err
}

// settle compares the account with what is stored, takes its own tasks out of that, and takes over what became of the write in
// doubt.
func (w *writer) settle(ctx context.Context, stored map[string]*batch.Task) error {
	if doubt := w.doubt; doubt != nil {
		before, now := w.acknowledged[doubt.name], stored[doubt.name]
		switch {
		case doubt.note == "" && now != nil && now.DeletionTimestamp != nil:
			// A delete is two writes, as of Pods. Who was not told of its end deletes again.
			if err := w.person.Delete(ctx, doubt.name, metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("%s is being deleted, and deleted again: %w", doubt.name, err)
			}
			delete(w.acknowledged, doubt.name)
			delete(stored, doubt.name)
		case doubt.note == "" && now == nil:
			delete(w.acknowledged, doubt.name)
		case now != nil && doubt.note == note(now) && (before == nil || now.ResourceVersion != before.ResourceVersion):
			w.acknowledged[doubt.name] = now
		}
		w.doubt = nil
	}
	for name, task := range maps.All(w.acknowledged) {
		now := stored[name]
		if now == nil {
			return fmt.Errorf("%s was acknowledged at %s, and is not there", name, task.ResourceVersion)
		}
		if now.ResourceVersion != task.ResourceVersion {
			return fmt.Errorf("%s was acknowledged at %s, and is at %s", name, task.ResourceVersion, now.ResourceVersion)
		}
		if err := history.Same(now, task); err != nil {
			return err
		}
		delete(stored, name)
	}
	for name := range stored {
		if len(name) > len(w.prefix) && name[:len(w.prefix)] == w.prefix {
			return fmt.Errorf("the delete of %s was acknowledged, and it is there", name)
		}
	}
	return nil
}
