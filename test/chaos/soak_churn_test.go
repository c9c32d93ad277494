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

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/flowcontrol"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	churnCompletions = 20
	churnParallelism = 20
	// stayingWorkers is the number of instant workers that run between two idle points. The visiting ones restart
	// meanwhile.
	stayingWorkers, visitingWorkers = 6, 3
	instantTasks                    = 20
	visit                           = 3 * time.Second
	pageSize                        = 50
)

// Kinds of calls in the summary.
const (
	opCreate   = "create"
	opPatch    = "patch"
	opDelete   = "delete"
	opGet      = "get"
	opPage     = "page of a list"
	opLog      = "log"
	opWatch    = "watch"
	opDelivery = "watch, delivery"
	opInformer = "informer"
	opJoin     = "worker joins"
	opLeave    = "worker leaves"
	opSet      = "task set, whole"
	opAnswer   = "task, done"
)

var kinds = []string{
	opCreate, opPatch, opDelete, opGet, opPage, opLog, opWatch, opDelivery, opInformer, opJoin, opLeave, opSet, opAnswer,
}

// churn applies load: clients through the host and through the Service, and workers.
type churn struct {
	*soakCluster
	clients     []versioned.Interface
	controllers versioned.Interface   // with the rights of the controller manager
	fakeWorkers []*measure.FakeWorker // the staying ones first

	// pace limits the rate of operations if it is not nil. done counts them: completions of sets and calls of clients.
	pace flowcontrol.RateLimiter
	done atomic.Int64
	n    atomic.Int64 // of the last name

	mu     sync.Mutex
	took   map[string][]time.Duration
	failed map[string]int
	last   map[string]error
}

func newChurn(s *soakCluster) *churn {
	c := &churn{soakCluster: s, controllers: s.client(s.env.Controller(s)), took: map[string][]time.Duration{}, failed: map[string]int{}, last: map[string]error{}}
	c.clients = []versioned.Interface{
		s.client(s.env.Admin(s)), s.client(measure.Protobuf(s.through(s.env.Direct(s, "alice", "leat:admins")))),
	}
	for i := range stayingWorkers + visitingWorkers {
		name := fmt.Sprintf("instant-%05d", i)
		c.fakeWorkers = append(c.fakeWorkers, &measure.FakeWorker{
			Client: kit.Client(s, s.own(measure.Protobuf(s.through(s.env.Worker(s, s.namespace, name))))), Namespace: s.namespace, Name: name,
			Seen:   func(string) { c.record(opAnswer, 0, nil) },
			Failed: func(err error) { c.record(opAnswer, 0, err) },
		})
	}
	return c
}

// run applies load until ctx is done, and returns when all clients and workers have stopped.
func (c *churn) run(ctx context.Context) {
	var all sync.WaitGroup
	repeat := func(f func(context.Context, versioned.Interface) error) {
		for _, client := range c.clients {
			all.Go(func() {
				for ctx.Err() == nil {
					// The call has recorded its error.
					if err := f(ctx, client); err != nil {
						await.Pause(ctx, poll)
					}
				}
			})
		}
	}
	repeat(c.runSet)
	repeat(c.runTask)
	repeat(c.runTask)
	repeat(c.listPages)
	repeat(c.watchTask)
	repeat(c.runInformer)
	repeat(c.readLog)
	for i, w := range c.fakeWorkers {
		all.Go(func() {
			for ctx.Err() == nil {
				life, end := ctx, context.CancelFunc(func() {})
				if i >= stayingWorkers {
					life, end = context.WithTimeout(ctx, visit)
				}
				c.runWorker(ctx, life, w)
				end()
				await.Pause(ctx, poll)
			}
		})
	}
	all.Wait()
}

// wait waits for n tokens of the pace. It requests them at once, so that the wait for a token does not depend on n.
func (c *churn) wait(ctx context.Context, n int) error {
	if c.pace == nil {
		return ctx.Err()
	}
	var all errgroup.Group
	for range n {
		all.Go(func() error { return c.pace.Wait(ctx) })
	}
	return all.Wait()
}

// call calls f and records its duration or its error.
func (c *churn) call(ctx context.Context, kind string, f func() error) error {
	start := time.Now()
	err := f()
	if err == nil || ctx.Err() == nil { // otherwise the end of the load has canceled the call
		c.record(kind, time.Since(start), err)
	}
	return err
}

// record records a call of a kind.
func (c *churn) record(kind string, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed[kind]++
		c.last[kind] = err
		return
	}
	c.took[kind] = append(c.took[kind], took)
	switch kind {
	case opSet:
		c.done.Add(churnCompletions)
	case opDelivery, opJoin, opLeave, opAnswer:
		// These are parts of other operations, or do not wait for the pace.
	default:
		c.done.Add(1)
	}
}

func (c *churn) name(prefix string) string { return fmt.Sprintf("%s-%d", prefix, c.n.Add(1)) }

// runSet creates a set, waits until it is complete, and deletes it.
func (c *churn) runSet(ctx context.Context, client versioned.Interface) error {
	if err := c.wait(ctx, churnCompletions); err != nil {
		return err
	}
	sets := client.BatchV1alpha1().TaskSets(c.namespace)
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: c.name("set")}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = new(int32(churnCompletions)), new(int32(churnParallelism)), new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"true"}
	err := c.call(ctx, opCreate, func() error {
		_, err := sets.Create(ctx, set, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = c.call(ctx, opSet, func() error {
		return await.Until(ctx, patience, func(ctx context.Context) error {
			got, err := sets.Get(ctx, set.Name, metav1.GetOptions{})
			if err == nil && !meta.IsStatusConditionTrue(got.Status.Conditions, batch.TaskSetComplete) {
				err = fmt.Errorf("set %s is not complete: %+v", set.Name, got.Status)
			}
			return err
		})
	})
	return errors.Join(err, c.call(ctx, opDelete, func() error {
		return sets.Delete(ctx, set.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	}))
}

// task returns a task that only workers with the label soak=worker can run.
func (c *churn) task(prefix, worker string) *batch.Task {
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: c.name(prefix), Labels: map[string]string{"soak": prefix}},
		Spec:       batch.TaskSpec{Command: []string{"echo", "hello"}, WorkerSelector: map[string]string{"soak": worker}},
	}
}

// runTask creates, reads, patches and deletes a task that no worker runs.
func (c *churn) runTask(ctx context.Context, client versioned.Interface) error {
	tasks, task := client.BatchV1alpha1().Tasks(c.namespace), c.task("single", "none")
	patched := &batch.Task{}
	for _, step := range []struct {
		kind string
		do   func() error
	}{
		{opCreate, func() error { _, err := tasks.Create(ctx, task, metav1.CreateOptions{}); return err }},
		{opGet, func() error { _, err := tasks.Get(ctx, task.Name, metav1.GetOptions{}); return err }},
		{opPatch, func() (err error) {
			patched, err = tasks.Patch(ctx, task.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/a":"b"}}}`), metav1.PatchOptions{})
			return err
		}},
		// From the cache of either server, once it has reached the revision.
		{opGet, func() error {
			_, err := tasks.Get(ctx, task.Name, metav1.GetOptions{ResourceVersion: patched.ResourceVersion})
			return err
		}},
		{opDelete, func() error { return tasks.Delete(ctx, task.Name, metav1.DeleteOptions{}) }},
	} {
		if err := c.wait(ctx, 1); err != nil {
			return err
		}
		if err := c.call(ctx, step.kind, step.do); err != nil {
			return err
		}
	}
	return nil
}

// listPages reads all pages of a list.
func (c *churn) listPages(ctx context.Context, client versioned.Interface) error {
	for token := ""; ; {
		if err := c.wait(ctx, 1); err != nil {
			return err
		}
		var list *batch.TaskList
		if err := c.call(ctx, opPage, func() (err error) {
			list, err = client.BatchV1alpha1().Tasks(c.namespace).List(ctx, metav1.ListOptions{Limit: pageSize, Continue: token})
			return err
		}); err != nil {
			return err
		}
		if token = list.Continue; token == "" {
			await.Pause(ctx, poll)
			return nil
		}
	}
}

// watchTask watches a task while it creates, patches and deletes it.
func (c *churn) watchTask(ctx context.Context, client versioned.Interface) error {
	if err := c.wait(ctx, 1); err != nil {
		return err
	}
	tasks, task := client.BatchV1alpha1().Tasks(c.namespace), c.task("watched", "none")
	task.Labels["watched"] = task.Name
	var w watch.Interface
	if err := c.call(ctx, opWatch, func() (err error) {
		w, err = tasks.Watch(ctx, metav1.ListOptions{LabelSelector: "watched=" + task.Name})
		return err
	}); err != nil {
		return err
	}
	defer w.Stop()
	for _, step := range []struct {
		kind string
		want watch.EventType
		do   func() error
	}{
		{opCreate, watch.Added, func() error { _, err := tasks.Create(ctx, task, metav1.CreateOptions{}); return err }},
		{opPatch, watch.Modified, func() error {
			_, err := tasks.Patch(ctx, task.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/a":"b"}}}`), metav1.PatchOptions{})
			return err
		}},
		{opDelete, watch.Deleted, func() error { return tasks.Delete(ctx, task.Name, metav1.DeleteOptions{}) }},
	} {
		if err := c.wait(ctx, 1); err != nil {
			return err
		}
		start := time.Now()
		if err := c.call(ctx, step.kind, step.do); err != nil {
			return err
		}
		for received := false; !received; {
			select {
			case event, open := <-w.ResultChan():
				if !open {
					return errors.New("the watch ended") // its server has stopped
				}
				received = event.Type == step.want
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		c.record(opDelivery, time.Since(start), nil)
	}
	return nil
}

// runInformer runs an informer for a visit.
func (c *churn) runInformer(ctx context.Context, client versioned.Interface) error {
	if err := c.wait(ctx, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, visit)
	defer cancel()
	informer := informers.NewTypedFilteredTaskInformer(client, c.namespace, 0, nil, nil)
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	defer running.Wait()
	err := c.call(ctx, opInformer, func() error {
		return await.Until(ctx, visit, func(context.Context) error {
			if !informer.HasSynced() {
				return await.ErrNotYet
			}
			return nil
		})
	})
	await.Pause(ctx, visit)
	return err
}

// readLog creates a task for a real worker, and reads its log.
func (c *churn) readLog(ctx context.Context, client versioned.Interface) error {
	if err := c.wait(ctx, 1); err != nil {
		return err
	}
	tasks, task := client.BatchV1alpha1().Tasks(c.namespace), c.task("printing", "real")
	if err := c.call(ctx, opCreate, func() error { _, err := tasks.Create(ctx, task, metav1.CreateOptions{}); return err }); err != nil {
		return err
	}
	if err := await.Until(ctx, patience, func(ctx context.Context) error {
		got, err := tasks.Get(ctx, task.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != batch.TaskSucceeded {
			err = await.ErrNotYet
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.wait(ctx, 1); err != nil {
		return err
	}
	return errors.Join(c.call(ctx, opLog, func() error {
		stream, err := tasks.GetLogs(task.Name, &batch.TaskLogOptions{}).Stream(ctx)
		if err != nil {
			return err
		}
		defer stream.Close()
		text, err := io.ReadAll(stream)
		if err == nil && string(text) != "hello\n" {
			err = fmt.Errorf("got log %q, want hello", text)
		}
		return err
	}), c.call(ctx, opDelete, func() error { return tasks.Delete(ctx, task.Name, metav1.DeleteOptions{}) }))
}

// runWorker registers a worker, completes tasks until life is done, and deletes the Worker.
func (c *churn) runWorker(ctx, life context.Context, w *measure.FakeWorker) {
	err := c.call(ctx, opJoin, func() error { return w.Register(ctx, instantTasks) })
	if err == nil {
		_ = w.Run(life) // the only error is the end of life
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	api := c.clients[1].BatchV1alpha1()
	_ = c.call(leaving, opLeave, func() error {
		err := api.Workers(c.namespace).Delete(leaving, w.Name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil // it had not registered
		}
		return err
	})
	// The worker can register again when the controllers have deleted its lease, which they do every 10 s. At the end of
	// the load nothing registers again, and the test deletes the lease in their name.
	_ = await.Until(leaving, patience, func(leaving context.Context) error {
		_, err := api.WorkerLeases(c.namespace).Get(leaving, w.Name, metav1.GetOptions{})
		if ctx.Err() != nil {
			err = c.controllers.BatchV1alpha1().WorkerLeases(c.namespace).Delete(leaving, w.Name, metav1.DeleteOptions{})
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return await.ErrNotYet
	})
}

// summary returns a table of the calls by kind, and the numbers of failed calls and of all calls.
func (c *churn) summary() (table string, failed, calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines strings.Builder
	for _, kind := range kinds {
		took := c.took[kind]
		slices.Sort(took)
		at := func(q float64) string {
			if len(took) == 0 || took[len(took)-1] == 0 {
				return ""
			}
			return fmt.Sprintf("%.1f", float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds())/1000)
		}
		last := ""
		if err := c.last[kind]; err != nil {
			last = fmt.Sprintf("%.200s", err.Error())
		}
		fmt.Fprintf(&lines, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", kind, len(took), c.failed[kind], at(0.5), at(0.99), at(1), last)
		calls += len(took) + c.failed[kind]
		failed += c.failed[kind]
	}
	return lines.String(), failed, calls
}
