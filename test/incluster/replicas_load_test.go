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

package incluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/test/kit"
)

// load sends requests to a namespace at a fixed rate. Half of them read, the others create, change and delete tasks.
// They do not wait for each other.
type load struct {
	client atomic.Pointer[typed.TaskInterface]
	stop   func()

	mu sync.Mutex
	// requests counts reads and writes, failed has the errors of those that client-go did not retry any more.
	requests map[string]int
	failed   map[string][]error
	// answers counts unsuccessful answers on the wire by verb, including those that client-go retried.
	answers map[string]int
	// written has the acknowledged changes, by the name that change returns.
	written map[string]bool
	// fresh has the tasks to change next, changed those to delete next.
	fresh, changed []string
}

// newLoad starts a load. It ends with stop, or with the test.
func newLoad(t *testing.T, config *rest.Config, namespace string, perSecond int) *load {
	t.Helper()
	l := &load{requests: map[string]int{}, failed: map[string][]error{}, answers: map[string]int{}, written: map[string]bool{}}
	l.setClient(t, config, namespace)
	kit.Must((*l.client.Load()).Create(t.Context(), kit.NewTask("constant"), metav1.CreateOptions{}))(t)
	ctx, cancel := context.WithCancel(t.Context())
	inFlight := make(chan struct{}, perSecond/4)
	var all sync.WaitGroup
	all.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// Skip requests on a machine that is too slow for the rate.
			select {
			case inFlight <- struct{}{}:
			default:
				continue
			}
			all.Go(func() {
				defer func() { <-inFlight }()
				l.request(context.WithoutCancel(ctx), n) // a started request is not canceled
			})
		}
	})
	l.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

// setClient changes the identity or the address that the load uses.
func (l *load) setClient(t *testing.T, config *rest.Config, namespace string) {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Timeout = time.Minute
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &countingTransport{next, l} })
	client := tasksOf(t, config, namespace)
	l.client.Store(&client)
}

// countingTransport counts unsuccessful answers.
type countingTransport struct {
	next http.RoundTripper
	load *load
}

func (c *countingTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	what := ""
	switch {
	case err != nil:
		what = err.Error()
	case response.StatusCode >= http.StatusBadRequest:
		what = response.Status
	default:
		return response, nil
	}
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	c.load.answers[request.Method+": "+what]++
	return response, err
}

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (c *countingTransport) WrappedRoundTripper() http.RoundTripper { return c.next }

// request sends the nth request.
func (l *load) request(ctx context.Context, n int) {
	client := *l.client.Load()
	var err error
	kind := "read"
	switch n % 4 {
	case 0:
		_, err = client.Get(ctx, "constant", metav1.GetOptions{})
	case 2:
		_, err = client.List(ctx, metav1.ListOptions{Limit: 20})
	default:
		kind = "write"
		err = l.write(ctx, client, n)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[kind]++
	if err != nil {
		l.failed[kind] = append(l.failed[kind], err)
	}
}

// write deletes or changes a task if there are more than a few, and otherwise creates one. The effect of a failed write
// is unknown.
func (l *load) write(ctx context.Context, client typed.TaskInterface, n int) error {
	const few = 10
	if name := l.take(&l.changed, few); name != "" {
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		l.acknowledged(watch.Deleted, &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil)
		return nil
	}
	if name := l.take(&l.fresh, few); name != "" {
		task, err := client.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"changed":"yes"}}}`), metav1.PatchOptions{})
		if err == nil {
			l.acknowledged(watch.Modified, task, &l.changed)
		}
		return err
	}
	task, err := client.Create(ctx, kit.NewTask(fmt.Sprintf("task-%d", n)), metav1.CreateOptions{})
	if err == nil {
		l.acknowledged(watch.Added, task, &l.fresh)
	}
	return err
}

// take removes the first name from a list with more than a few names. Otherwise it returns an empty name.
func (l *load) take(from *[]string, few int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(*from) <= few {
		return ""
	}
	name := (*from)[0]
	*from = (*from)[1:]
	return name
}

// acknowledged records a change and adds the task to the list next.
func (l *load) acknowledged(event watch.EventType, task *v1alpha1.Task, next *[]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[change(event, task)] = true
	if next != nil {
		*next = append(*next, task.Name)
	}
}

// change returns a name for a change of a task. Only watchers learn the resource version of a deletion.
func change(event watch.EventType, task *v1alpha1.Task) string {
	if event == watch.Deleted {
		return fmt.Sprintf("%s %s", event, task.Name)
	}
	return fmt.Sprintf("%s %s at %s", event, task.Name, task.ResourceVersion)
}

// count returns the number of finished requests.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests["read"] + l.requests["write"]
}

// awaitRequests waits for n more requests.
func (l *load) awaitRequests(t *testing.T, n int) {
	t.Helper()
	// Wait for a part at a time, because the time for all of them depends on the machine.
	const part = 500
	for before, done := l.count(), 0; done < n; {
		done = min(done+part, n)
		kit.Eventually(t, "the requests have finished", func(context.Context) error {
			if now := l.count(); now < before+done {
				return fmt.Errorf("%d of %d requests have finished", now-before, n)
			}
			return nil
		})
	}
}

// check fails the test if a read failed, even if client-go retried it, or if a write failed with an error that
// clients do not retry.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d reads, %d failed; %d writes, %d failed", l.requests["read"], len(l.failed["read"]), l.requests["write"], len(l.failed["write"]))
	for _, answer := range slices.Sorted(maps.Keys(l.answers)) {
		t.Logf("on the wire: %s, %d times", answer, l.answers[answer])
		if strings.HasPrefix(answer, http.MethodGet) {
			t.Errorf("unsuccessful answer to a read: %s", answer)
		}
	}
	for _, err := range l.failed["read"] {
		t.Errorf("a read failed: %v", err)
	}
	for _, err := range l.failed["write"] {
		t.Logf("a write failed: %v", err)
		if !retriable(err) {
			t.Errorf("clients do not retry this error of a write: %#v", err)
		}
	}
}

// retriable reports whether clients retry after this error.
func retriable(err error) bool {
	return apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err)
}

// follower records the events of a watch or an informer.
type follower struct {
	what string
	mu   sync.Mutex
	seen map[string]int
	// wrong has violations of the guarantees of a watch.
	wrong []error
}

func (f *follower) observe(event watch.EventType, task *v1alpha1.Task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[change(event, task)]++
}

// followRaw watches with a client that resumes from the last resource version when a watch ends.
func followRaw(t *testing.T, client typed.TaskInterface) *follower {
	t.Helper()
	f := &follower{what: "a watch", seen: map[string]int{}}
	list := kit.Must(client.List(t.Context(), metav1.ListOptions{}))(t)
	w := kit.Must(watchtools.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: client.Watch,
	}))(t)
	var last string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range w.ResultChan() {
			task, ok := event.Object.(*v1alpha1.Task)
			if !ok {
				f.addWrong(fmt.Errorf("event %s: %w", event.Type, apierrors.FromObject(event.Object)))
				continue
			}
			if len(task.ResourceVersion) < len(last) || len(task.ResourceVersion) == len(last) && task.ResourceVersion <= last {
				f.addWrong(fmt.Errorf("%s after version %s", change(event.Type, task), last))
			}
			last = task.ResourceVersion
			f.observe(event.Type, task)
		}
	}()
	t.Cleanup(func() {
		w.Stop()
		<-ended
	})
	return f
}

func (f *follower) addWrong(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = append(f.wrong, err)
}

// followInformer watches with an informer, like controllers.
func followInformer(t *testing.T, config *rest.Config, namespace string) *follower {
	t.Helper()
	f := &follower{what: "an informer", seen: map[string]int{}}
	factory := externalversions.NewSharedInformerFactoryWithOptions(kit.Client(t, config), 0, externalversions.WithNamespace(namespace))
	informer := factory.Batch().V1alpha1().Tasks().Informer()
	kit.Must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.observe(watch.Added, obj.(*v1alpha1.Task)) },
		UpdateFunc: func(_, obj any) { f.observe(watch.Modified, obj.(*v1alpha1.Task)) },
		DeleteFunc: func(obj any) {
			if task, ok := obj.(*v1alpha1.Task); ok {
				f.observe(watch.Deleted, task)
				return
			}
			f.addWrong(errors.New("the informer missed a deletion until it listed again"))
		},
	}))(t)
	ctx, stop := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		stop()
		factory.Shutdown()
	})
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer has not synced")
	}
	return f
}

// check waits until the follower has all written changes, and fails the test unless it has each once.
func (f *follower) check(t *testing.T, written map[string]bool) {
	t.Helper()
	kit.Eventually(t, f.what+" has all changes", func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		var missing []string
		for change := range written {
			if f.seen[change] == 0 {
				missing = append(missing, change)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
		}
		return nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for change, times := range f.seen {
		if times != 1 {
			t.Errorf("%s: got %d events, want 1: %s", f.what, times, change)
		}
	}
	for _, err := range f.wrong {
		t.Errorf("%s: %v", f.what, err)
	}
	t.Logf("%s has all %d changes, each once", f.what, len(written))
}
