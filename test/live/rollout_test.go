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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	client "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

const (
	// Each user sends a request every 100 ms, after the response to the previous one: 100 a second together.
	users, perSecond = 10, 100
	pause            = users * time.Second / perSecond
	// calm is the number of requests before and after the rollout, so that 0.1 % of the writes are more than one.
	calm = 2500
	// work is the number of sequential tasks in the set: enough for the whole rollout, with little CPU time at once.
	work = 1000
)

// testRollout: users who create, read, change, delete and watch through the API server of the cluster do not notice
// that all our pods are replaced. A running set completes.
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
			// Spread the first requests over the interval.
			select {
			case <-time.After(time.Duration(i) * pause / users):
				traffic.user(load, tasks, fmt.Sprintf("user-%d", i))
			case <-load.Done():
			}
		})
	}
	traffic.more(t)
	for _, name := range []string{"deployment/leat-apiserver", "deployment/leat-controller-manager"} {
		c.run(t, "rollout", "restart", name, "--namespace="+system)
	}
	c.ready(t)
	c.run(t, append([]string{"wait", "--for=delete", "--namespace=" + system, "--timeout=" + patience.String()}, old...)...)
	replaced := time.Since(start)
	traffic.more(t)
	end()
	working.Wait()

	took := time.Since(start)
	pace := float64(traffic.reads+len(traffic.writes)) / took.Seconds()
	t.Logf("replaced all pods in %s; in %s %d reads and %d writes, %.0f a second, the slowest in %s; %d reads and %d writes failed",
		replaced.Round(time.Second), took.Round(time.Second), traffic.reads, len(traffic.writes), pace,
		traffic.slowest.Round(time.Millisecond), len(traffic.failedReads), len(traffic.failedWrites))
	for _, err := range traffic.failedReads {
		t.Errorf("a read failed: %v", err)
	}
	for _, err := range traffic.failedWrites {
		t.Logf("a write failed: %v%s", err, causes(err))
		if !retriable(err) {
			t.Errorf("a write failed with an error that is not retriable: %v", err)
		}
	}
	// A write fails if its connection ends while the request is in flight. On an overloaded machine requests are in flight
	// for long, so the limit holds only if the pace was kept.
	if failed, all := len(traffic.failedWrites), len(traffic.writes); pace > 0.9*perSecond && failed*1000 >= all {
		t.Errorf("got %d failed writes of %d, want less than 0.1 %%", failed, all)
	}
	kit.Eventually(t, "the watch has sent an event for every write", func(context.Context) error { return seen.lacks(traffic.writes) })
	watcher.Stop()
	watching.Wait()
	if seen.err != nil {
		t.Errorf("the watch ended: %v", seen.err)
	}
	t.Logf("%d events, over %d connections", len(seen.times), begun.Load())
	for event, times := range seen.times {
		if times != 1 {
			t.Errorf("%s: got %d events, want 1", event, times)
		}
	}
	c.complete(t, pool, set.Name, work)
}

// traffic records the requests of users.
type traffic struct {
	mu                        sync.Mutex
	reads                     int
	writes                    []string // the events that a watch must send
	failedReads, failedWrites []error
	slowest                   time.Duration
}

// more waits for the responses to calm more requests.
func (r *traffic) more(t testing.TB) {
	t.Helper()
	answered := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.reads + len(r.writes)
	}
	before := answered()
	kit.Eventually(t, "requests get responses", func(context.Context) error {
		if more := answered() - before; more < calm {
			return fmt.Errorf("got %d, want %d", more, calm)
		}
		return nil
	})
}

// user creates, reads, changes and deletes tasks sequentially until the context ends.
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
	// write sends a write until it succeeds, and records its event. done reports whether the error of a retry means that
	// an earlier attempt succeeded.
	write := func(do func(context.Context) (*v1alpha1.Task, error), done func(error) bool, event func(*v1alpha1.Task) string) {
		for retry := false; ; retry = true {
			var task *v1alpha1.Task
			err := r.timed(ctx, func(ctx context.Context) (err error) {
				task, err = do(ctx)
				return err
			})
			r.mu.Lock()
			switch {
			case err == nil:
				r.writes = append(r.writes, event(task))
			case retry && done(err): // an earlier attempt succeeded, and its response was lost
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

// timed sends a request and records its duration. The end of ctx does not cancel the request.
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

// retriable reports whether a client may retry the request after this error.
func retriable(err error) bool {
	return apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsProbableEOF(err)
}

// causes returns the messages of the causes of an API error.
func causes(err error) string {
	var text string
	if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			text += ": " + cause.Message
		}
	}
	return text
}

// history records the events of a watch.
type history struct {
	mu    sync.Mutex
	times map[string]int // by event, with the names of traffic
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

// lacks returns an error if an event is missing.
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
