//go:build cluster

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

package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	client "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

const (
	// users send a request each every 100 ms, if the one before has been answered: 100 a second together.
	users, perSecond = 10, 100
	pause            = users * time.Second / perSecond
	// calm is how many requests are answered before and after: enough for 0.1 % of the writes to be some.
	calm = 2500
	// work is how many tasks a set has, one after the other: all the time, and without taking the processors from all else.
	work = 1000
)

// testRollout: people who create, read, change and delete through the cluster's API server, and watch, do not notice that all our pods
// are replaced; and a set goes on.
func (c *installation) testRollout(t *testing.T, pool string) {
	namespace := c.namespace(t, "rollout")
	tasks := c.client(t).BatchV1alpha1().Tasks(namespace)
	list := kit.Must(tasks.List(t.Context(), metav1.ListOptions{}))(t)
	var begun atomic.Int32
	watcher := kit.Must(watchtools.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			begun.Add(1)
			return tasks.Watch(ctx, options)
		},
	}))(t)
	seen := &history{times: map[string]int{}}
	var watching, working sync.WaitGroup
	watching.Go(func() { seen.follow(watcher.ResultChan()) })

	set := newSet("over-the-rollout", work)
	set.Spec.Parallelism = new(int32(1))
	kit.Must(c.client(t).BatchV1alpha1().TaskSets(pool).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	old := strings.Fields(c.run(t, "get", "pods", "--namespace="+system, "--selector=app.kubernetes.io/component in (apiserver, controller-manager)", "--output=name"))
	load, end := context.WithCancel(t.Context())
	defer end()
	traffic, start := &traffic{}, time.Now()
	for i := range users {
		working.Go(func() {
			// One after the other, as people who do not know of each other.
			select {
			case <-time.After(time.Duration(i) * pause / users):
				traffic.user(load, tasks, fmt.Sprintf("user-%d", i))
			case <-load.Done():
			}
		})
	}
	traffic.goesOn(t)
	for _, name := range []string{"deployment/leat-apiserver", "deployment/leat-controller-manager"} {
		c.run(t, "rollout", "restart", name, "--namespace="+system)
	}
	c.ready(t)
	c.run(t, append([]string{"wait", "--for=delete", "--namespace=" + system, "--timeout=" + patience.String()}, old...)...)
	replaced := time.Since(start)
	traffic.goesOn(t)
	end()
	working.Wait()

	took := time.Since(start)
	pace := float64(traffic.reads+len(traffic.writes)) / took.Seconds()
	t.Logf("all pods were replaced in %s; in %s there were %d reads and %d writes, %.0f a second, the slowest took %s; %d reads and %d writes failed",
		replaced.Round(time.Second), took.Round(time.Second), traffic.reads, len(traffic.writes), pace,
		traffic.slowest.Round(time.Millisecond), len(traffic.failedReads), len(traffic.failedWrites))
	for _, err := range traffic.failedReads {
		t.Errorf("a read failed: %v", err)
	}
	for _, err := range traffic.failedWrites {
		t.Logf("a write failed: %v%s", err, causes(err))
		if !retriable(err) {
			t.Errorf("it could not simply be sent again: %v", err)
		}
	}
	// A write that meets the end of its connection on the way fails: how many do is a question of how long the way is. On a machine
	// that does not keep the pace, it is as long as one has to wait for a processor.
	if failed, all := len(traffic.failedWrites), len(traffic.writes); pace > 0.9*perSecond && failed*1000 >= all {
		t.Errorf("%d of %d writes failed, which is 0.1 %% or more", failed, all)
	}
	kit.Eventually(t, "the watch has told of every write", func(context.Context) error { return seen.lacks(traffic.writes) })
	watcher.Stop()
	watching.Wait()
	if seen.err != nil {
		t.Errorf("the watch ended: %v", seen.err)
	}
	t.Logf("%d events, over %d connections", len(seen.times), begun.Load())
	for event, times := range seen.times {
		if times != 1 {
			t.Errorf("the watch told %d times of %s", times, event)
		}
	}
	c.complete(t, pool, set.Name, work)
}

// traffic is what users have done.
type traffic struct {
	mu                        sync.Mutex
	reads                     int
	writes                    []string // the events that a watch must tell of
	failedReads, failedWrites []error
	slowest                   time.Duration
}

// goesOn waits until some more requests have been answered.
func (r *traffic) goesOn(t testing.TB) {
	t.Helper()
	answered := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.reads + len(r.writes)
	}
	before := answered()
	kit.Eventually(t, "requests are answered", func(context.Context) error {
		if more := answered() - before; more < calm {
			return fmt.Errorf("%d of %d have been", more, calm)
		}
		return nil
	})
}

// user works on one task after the other until the context ends.
func (r *traffic) user(ctx context.Context, tasks client.TaskInterface, user string) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	next := func() bool {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
			return true
		}
	}
	// write sends a write until it has been done, and gives the event that follows from it.
	write := func(do func(context.Context) (*v1alpha1.Task, error), done func(error) bool, event func(*v1alpha1.Task) string) {
		for again := false; ; again = true {
			var task *v1alpha1.Task
			err := r.timed(ctx, func(ctx context.Context) (err error) {
				task, err = do(ctx)
				return err
			})
			r.mu.Lock()
			switch {
			case err == nil:
				r.writes = append(r.writes, event(task))
			case again && done(err): // the first one was, and its answer was lost
				r.writes = append(r.writes, event(nil))
				err = nil
			default:
				r.failedWrites = append(r.failedWrites, err)
			}
			r.mu.Unlock()
			if err == nil || !next() {
				return
			}
		}
	}
	read := func(do func(context.Context) error) {
		err := r.timed(ctx, do)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.reads++; err != nil {
			r.failedReads = append(r.failedReads, err)
		}
	}
	for n := 0; ; n++ {
		task := newTask(fmt.Sprintf("%s-%d", user, n))
		get := func() {
			read(func(ctx context.Context) error {
				_, err := tasks.Get(ctx, task.Name, metav1.GetOptions{})
				return err
			})
		}
		list := func() {
			read(func(ctx context.Context) error {
				_, err := tasks.List(ctx, metav1.ListOptions{Limit: 50})
				return err
			})
		}
		for _, step := range []func(){
			func() {
				write(func(ctx context.Context) (*v1alpha1.Task, error) {
					return tasks.Create(ctx, task, metav1.CreateOptions{})
				},
					apierrors.IsAlreadyExists, func(*v1alpha1.Task) string { return created(task) })
			},
			get, get, list,
			func() {
				patch := []byte(`{"metadata":{"labels":{"changed":"yes"}}}`)
				write(func(ctx context.Context) (*v1alpha1.Task, error) {
					return tasks.Patch(ctx, task.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				}, func(error) bool { return false }, changed)
			},
			get, get, list,
			func() {
				write(func(ctx context.Context) (*v1alpha1.Task, error) {
					return nil, tasks.Delete(ctx, task.Name, metav1.DeleteOptions{})
				},
					apierrors.IsNotFound, func(*v1alpha1.Task) string { return deleted(task) })
			},
			list,
		} {
			if !next() {
				return
			}
			step()
		}
	}
}

// timed sends a request that goes on when no more are sent.
func (r *traffic) timed(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slowest = max(r.slowest, time.Since(start))
	return err
}

func created(task *v1alpha1.Task) string { return "the creation of " + task.Name }
func deleted(task *v1alpha1.Task) string { return "the deletion of " + task.Name }
func changed(task *v1alpha1.Task) string {
	return "revision " + task.ResourceVersion + " of " + task.Name
}

// retriable tells whether a client that gets this error may send its request again as it is.
func retriable(err error) bool {
	return apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsProbableEOF(err)
}

// causes is what an error says of its causes.
func causes(err error) string {
	var text string
	if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			text += ": " + cause.Message
		}
	}
	return text
}

// history is what a watch has told.
type history struct {
	mu    sync.Mutex
	times map[string]int // by event, as traffic names them
	err   error
}

func (h *history) follow(events <-chan watch.Event) {
	for event := range events {
		h.mu.Lock()
		switch task, _ := event.Object.(*v1alpha1.Task); event.Type {
		case watch.Added:
			h.times[created(task)]++
		case watch.Modified:
			h.times[changed(task)]++
		case watch.Deleted:
			h.times[deleted(task)]++
		case watch.Error:
			h.err = apierrors.FromObject(event.Object)
		}
		h.mu.Unlock()
	}
}

// lacks says which of the events have not been told of.
func (h *history) lacks(events []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var missing []string
	for _, event := range events {
		if h.times[event] == 0 {
			missing = append(missing, event)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d are missing, such as %s", len(missing), len(events), missing[0])
	}
	return nil
}
