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

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

const (
	callWrite = "write"
	callGet   = "get"
	callPages = "list, in pages of 500"
	callWhole = "list, whole"
	callWatch = "watch, from the request until the event"

	// callInterval is the time between two series of calls: three writes, each observed by a watch, and one get.
	callInterval = 200 * time.Millisecond
	// listInterval is the time from the end of a list to the next one.
	listInterval = time.Second
	callLabel    = "called"
	pageSize     = 500
)

// objectives are the objectives of docs/reference/reliability-tests.md for the 99th percentile, in the order of the
// output.
var objectives = []struct {
	kind  string
	bound time.Duration
}{
	{callWrite, time.Second}, {callGet, time.Second}, {callPages, 30 * time.Second}, {callWhole, 30 * time.Second}, {callWatch, time.Second},
}

// latency summarizes the latencies of one kind of call.
type latency struct {
	Kind                                                                 string
	N                                                                    int
	P50Milliseconds, P99Milliseconds, MaxMilliseconds, BoundMilliseconds float64
}

// calls are requests of users while the set runs.
type calls struct {
	tasks     typed.TaskInterface
	rest      rest.Interface
	namespace string
	stored    int
	failed    func(error)

	mu   sync.Mutex
	took map[string][]time.Duration
	sent map[string]time.Time // of writes without an event yet, by the name of the task and the type of the event
	n    int                  // number of created tasks
}

// run sends requests until ctx ends.
func (c *calls) run(ctx context.Context) {
	c.took, c.sent = map[string][]time.Duration{}, map[string]time.Time{}
	var all sync.WaitGroup
	all.Go(func() { c.every(ctx, callInterval, func(n int) { all.Go(func() { c.writeAndGet(ctx, n) }) }) })
	all.Go(func() { c.every(ctx, listInterval, func(n int) { c.list(ctx, n) }) })
	for ctx.Err() == nil {
		c.follow(ctx)
	}
	all.Wait()
}

func (c *calls) every(ctx context.Context, interval time.Duration, f func(n int)) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		f(n)
		timer.Reset(interval)
	}
}

// call calls f, and records its latency if it succeeds.
func (c *calls) call(ctx context.Context, kind string, f func() error) bool {
	begun := time.Now()
	err := f()
	if err != nil {
		if ctx.Err() == nil {
			c.failed(err)
		}
		return false
	}
	c.record(kind, time.Since(begun))
	return true
}

func (c *calls) record(kind string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took[kind] = append(c.took[kind], took)
}

// writeAndGet creates, patches and deletes a task that fits no worker, and gets another task.
func (c *calls) writeAndGet(ctx context.Context, n int) {
	name := fmt.Sprintf("called-%d", n)
	write := func(event watch.EventType, f func() error) bool {
		c.mu.Lock()
		c.sent[name+string(event)] = time.Now()
		c.mu.Unlock()
		return c.call(ctx, callWrite, f)
	}
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{callLabel: "yes"}},
		Spec:       batch.TaskSpec{Command: []string{"true"}, WorkerSelector: map[string]string{"there": "none"}},
	}
	if !write(watch.Added, func() error { _, err := c.tasks.Create(ctx, task, metav1.CreateOptions{}); return err }) {
		return
	}
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	write(watch.Modified, func() error {
		_, err := c.tasks.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/a":"b"}}}`), metav1.PatchOptions{})
		return err
	})
	read := name
	if c.stored > 0 {
		read = storedName(rand.IntN(c.stored))
	}
	c.call(ctx, callGet, func() error { _, err := c.tasks.Get(ctx, read, metav1.GetOptions{}); return err })
	write(watch.Deleted, func() error { return c.tasks.Delete(ctx, name, metav1.DeleteOptions{}) })
}

// follow watches the tasks of writeAndGet until the watch or ctx ends.
func (c *calls) follow(ctx context.Context) {
	w, err := c.tasks.Watch(ctx, metav1.ListOptions{LabelSelector: callLabel + "=yes"})
	if err != nil {
		if ctx.Err() == nil {
			c.failed(err)
		}
		return
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		task, ok := event.Object.(*batch.Task)
		if !ok {
			continue
		}
		key := task.Name + string(event.Type)
		c.mu.Lock()
		if sent, ok := c.sent[key]; ok {
			c.took[callWatch] = append(c.took[callWatch], time.Since(sent))
			delete(c.sent, key)
		}
		c.mu.Unlock()
	}
}

// list lists all tasks of the namespace, alternately in pages and unpaginated.
func (c *calls) list(ctx context.Context, n int) {
	if n%2 == 1 {
		c.call(ctx, callWhole, func() error {
			// Do not decode the list, because that would use CPU time that the servers need.
			stream, err := c.rest.Get().Namespace(c.namespace).Resource("tasks").Stream(ctx)
			if err != nil {
				return err
			}
			defer stream.Close()
			_, err = io.Copy(io.Discard, stream)
			return err
		})
		return
	}
	c.call(ctx, callPages, func() error {
		for token := ""; ; {
			list, err := c.tasks.List(ctx, metav1.ListOptions{Limit: pageSize, Continue: token})
			if err != nil {
				return err
			}
			if token = list.Continue; token == "" {
				return nil
			}
		}
	})
}

// latencies returns the latencies of all kinds of calls.
func (c *calls) latencies() []latency {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []latency
	for _, b := range objectives {
		took := c.took[b.kind]
		if len(took) == 0 {
			continue
		}
		slices.Sort(took)
		all = append(all, latency{
			Kind: b.kind, N: len(took), P50Milliseconds: at(took, 0.5), P99Milliseconds: at(took, 0.99), MaxMilliseconds: at(took, 1),
			BoundMilliseconds: float64(b.bound.Milliseconds()),
		})
	}
	return all
}

// at returns a quantile, in milliseconds, of sorted durations. It returns 0 if there are none.
func at(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
}

// printCalls prints the latencies of calls.
func (r *result) printCalls(out io.Writer) {
	fmt.Fprintf(out, "\ncalls with %d stored tasks:\n\n", r.Stored)
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "| call\t| n\t| p50 ms\t| p99 ms\t| max ms\t| objective, p99\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, l := range r.Calls {
		fmt.Fprintf(table, "| %s\t| %d\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t|\n", l.Kind, l.N, l.P50Milliseconds, l.P99Milliseconds, l.MaxMilliseconds, l.BoundMilliseconds)
	}
	_ = table.Flush() // an error of the terminal is not interesting
}

func storedName(i int) string { return fmt.Sprintf("stored-%08d", i) }
