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
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
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

// controllerUser is the user name of the controller manager.
const controllerUser = "system:serviceaccount:leat-system:leat-controller-manager"

// direct returns the config of an administrator who connects to the server itself. The host needs some time to notice
// that a server is back.
func direct(t *testing.T, e *kit.Env) *rest.Config {
	t.Helper()
	return e.Direct(t, "alice", "leat:admins")
}

// restart kills the server, starts it, and waits until clients reach it, also through the host.
func restart(t *testing.T, e *kit.Env) {
	t.Helper()
	kit.Check(t, e.Server.Restart(t.Context()))
	awaitReachable(t, e)
}

func awaitReachable(t *testing.T, e *kit.Env) {
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
				return fmt.Errorf("%d lists in a row", inARow)
			}
			return nil
		})
	}
}

// testProcessKilled tests that acknowledged writes, deletions among them, survive when the process is killed at any
// moment and started again, and that a watch continues.
func testProcessKilled(t *testing.T, e *kit.Env, process *host.Process) {
	random := seeded(t)
	namespace := e.Namespace(t)
	stored := recordHistory(t, e, namespace)
	person := tasks(kit.Client(t, direct(t, e)), namespace)
	controller := tasks(kit.Client(t, e.Direct(t, controllerUser)), namespace)
	watcher := startRetryWatcher(t, person, metav1.ListOptions{}, stored.Start)

	var acknowledged atomic.Int64
	writers := make([]*writer, 4)
	for i := range writers {
		writers[i] = &writer{
			count:  &acknowledged,
			person: person, controller: controller, prefix: fmt.Sprintf("writer-%d", i),
			random: rand.New(rand.NewPCG(random.Uint64(), 0)), acknowledged: map[string]*batch.Task{},
		}
	}
	const rounds, writesPerRound = 3, 20
	for round := range rounds {
		enough := acknowledged.Load() + writesPerRound
		var writing sync.WaitGroup
		errs := make([]error, len(writers))
		ctx, stop := context.WithCancel(t.Context())
		for i, w := range writers {
			writing.Go(func() { errs[i] = w.writeUntilUnknown(ctx) })
		}
		kit.Eventually(t, "enough writes are acknowledged in this round", func(context.Context) error {
			if n := acknowledged.Load(); n < enough {
				return fmt.Errorf("%d writes in all, want %d", n, enough)
			}
			return nil
		})
		// The kill must hit a write at any of its steps.
		<-time.After(time.Duration(random.IntN(200)) * time.Millisecond)
		kit.Check(t, process.Kill())
		// A server without etcd does not answer.
		time.AfterFunc(2*time.Second, stop)
		writing.Wait()
		kit.Check(t, process.Restart(t.Context()))
		kit.Check(t, e.Server.WaitReady(t.Context()))
		list := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t)
		served := map[string]*batch.Task{}
		for i := range list.Items {
			served[list.Items[i].Name] = &list.Items[i]
		}
		for i, w := range writers {
			kit.Check(t, errs[i])
			if err := w.verify(t.Context(), served); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		for name := range served {
			t.Errorf("round %d: %s exists, but no client wrote it", round, name)
		}
	}
	last := createTask(t, person, newHeldTask("last"))
	changes := stored.until(t, last.ResourceVersion)
	written := map[string]*batch.Task{} // by resourceVersion
	for _, c := range changes {
		if c.After != nil {
			written[c.After.ResourceVersion] = c.After
		}
	}
	for _, w := range writers {
		for _, task := range w.written {
			kit.Check(t, history.Same(task, written[task.ResourceVersion]))
		}
	}
	watcher.expect(t, changes, history.All)
	_, watches, lists := watcher.received(t)
	t.Logf("%d acknowledged writes; the watcher needed %d watches and %d lists", acknowledged.Load(), watches, lists)

	// Without writes while the process is down, the watch continues without a list.
	t.Run("Quiet", func(t *testing.T) {
		client := tasks(kit.Client(t, direct(t, e)), namespace)
		etcd := e.EtcdClient(t)
		start := kit.Must(client.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
		quiet := startRetryWatcher(t, client, metav1.ListOptions{}, parseVersion(t, start))
		kit.Eventually(t, "the watch has started", func(context.Context) error {
			if _, watches, _ := quiet.received(t); watches == 0 {
				return errors.New("it has not")
			}
			return nil
		})
		kit.Check(t, process.Restart(t.Context()))
		kit.Check(t, e.Server.WaitReady(t.Context()))
		revision := kit.Must(etcd.Get(t.Context(), "/none"))(t).Header.Revision
		changed := labelTask(t, client, "last", "changed", "true")
		var since []history.Change
		for _, c := range stored.until(t, changed.ResourceVersion) {
			if c.Revision > parseVersion(t, start) {
				since = append(since, c)
			}
		}
		quiet.expect(t, since, history.All)
		if _, _, lists := quiet.received(t); lists > 0 {
			t.Errorf("the watch from %s listed %d times, want none; etcd was at revision %d after the restart", start, lists, revision)
		}
	})
	awaitReachable(t, e)
}

// writer writes tasks that no other client writes, one write at a time, and records what the server acknowledged.
type writer struct {
	person, controller typed.TaskInterface
	random             *rand.Rand
	prefix             string
	count              *atomic.Int64 // acknowledged writes of all writers

	acknowledged map[string]*batch.Task // those that exist
	written      []*batch.Task          // all acknowledged creations and updates
	unknown      *unknownWrite
}

// unknownWrite is a write with an unknown outcome: it was neither acknowledged nor refused.
type unknownWrite struct {
	name string
	note string // empty for a deletion
}

// note returns what a writer has written to a task.
func note(task *batch.Task) string {
	return task.Labels["note"] + " " + task.Status.Progress
}

// writeUntilUnknown writes until the outcome of a write is unknown, also because the context ended. It returns an error
// if the server refuses a write that must succeed.
func (w *writer) writeUntilUnknown(ctx context.Context) error {
	for {
		name := fmt.Sprintf("%s-%d", w.prefix, w.random.IntN(5))
		written, wanted, err := w.write(ctx, name)
		switch {
		case err == nil && written == nil:
			w.count.Add(1)
			delete(w.acknowledged, name)
		case err == nil:
			w.count.Add(1)
			w.acknowledged[name] = written
			w.written = append(w.written, written)
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
			return fmt.Errorf("writing %s, which no other client writes, last acknowledged as %v: %w", name, w.acknowledged[name], err)
		default:
			w.unknown = &unknownWrite{name: name, note: wanted}
			return nil
		}
	}
}

// write makes one write. It returns the acknowledged task, or nil for a deletion, and the note that it meant to write.
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

// verify compares the acknowledged tasks with the tasks that the server returns, and removes them from those. It
// resolves the write with an unknown outcome.
func (w *writer) verify(ctx context.Context, served map[string]*batch.Task) error {
	if write := w.unknown; write != nil {
		before, now := w.acknowledged[write.name], served[write.name]
		switch {
		case write.note == "" && now != nil && now.DeletionTimestamp != nil:
			// A deletion is two writes, as for Pods. A client that has no answer repeats it.
			if err := w.person.Delete(ctx, write.name, metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("deleting %s again: %w", write.name, err)
			}
			delete(w.acknowledged, write.name)
			delete(served, write.name)
		case write.note == "" && now == nil:
			delete(w.acknowledged, write.name)
		case now != nil && write.note == note(now) && (before == nil || now.ResourceVersion != before.ResourceVersion):
			w.acknowledged[write.name] = now
		}
		w.unknown = nil
	}
	for name, task := range w.acknowledged {
		now := served[name]
		if now == nil {
			return fmt.Errorf("%s was acknowledged at resourceVersion %s and does not exist", name, task.ResourceVersion)
		}
		if now.ResourceVersion != task.ResourceVersion {
			return fmt.Errorf("%s has resourceVersion %s, want the acknowledged %s", name, now.ResourceVersion, task.ResourceVersion)
		}
		if err := history.Same(now, task); err != nil {
			return err
		}
		delete(served, name)
	}
	for name := range served {
		if strings.HasPrefix(name, w.prefix+"-") {
			return fmt.Errorf("%s exists after its deletion was acknowledged", name)
		}
	}
	return nil
}
