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
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/history"
)

// retryWatcher watches tasks. When the watch ends, it watches again from the last resourceVersion that it received.
// When that is too old, it lists.
type retryWatcher struct {
	client  typed.TaskInterface
	options metav1.ListOptions

	mu      sync.Mutex
	got     []history.Observation
	watches int // how many were started
	lists   int
	err     error
}

// startRetryWatcher starts a watcher at a revision until the test ends.
func startRetryWatcher(t *testing.T, client typed.TaskInterface, options metav1.ListOptions, from int64) *retryWatcher {
	t.Helper()
	w := &retryWatcher{client: client, options: options}
	w.options.ResourceVersion = strconv.FormatInt(from, 10)
	w.options.AllowWatchBookmarks = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The only error is the end of the context.
		_ = wait.PollUntilContextCancel(ctx, 5*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			w.watchOnce(ctx)
			return false, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// watchOnce watches until the watch ends. It ignores errors in reaching the server: the next watch retries.
func (w *retryWatcher) watchOnce(ctx context.Context) {
	stream, err := w.client.Watch(ctx, w.options)
	if err != nil {
		w.listIfExpired(ctx, err)
		return
	}
	defer stream.Stop()
	w.mu.Lock()
	w.watches++
	w.mu.Unlock()
	switch status, err := apierrors.APIStatus(nil), history.Receive(stream, w.add); {
	case errors.As(err, &status):
		w.listIfExpired(ctx, err)
	case err != nil:
		w.fail(err)
	}
}

func (w *retryWatcher) listIfExpired(ctx context.Context, err error) {
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		return
	}
	list, err := w.client.List(ctx, metav1.ListOptions{LabelSelector: w.options.LabelSelector, FieldSelector: w.options.FieldSelector})
	if err != nil {
		return
	}
	w.mu.Lock()
	w.lists++
	w.mu.Unlock()
	w.add(history.Observation{Type: history.Listed, List: list.Items}, list.ResourceVersion)
}

func (w *retryWatcher) add(o history.Observation, resourceVersion string) {
	var err error
	if o.Revision, err = strconv.ParseInt(resourceVersion, 10, 64); err != nil {
		w.fail(fmt.Errorf("%s has resourceVersion %q, want a number", o.Type, resourceVersion))
		return
	}
	w.options.ResourceVersion = resourceVersion
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, o)
}

func (w *retryWatcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// received returns what the watcher has received so far, and how many watches and lists that took.
func (w *retryWatcher) received(t *testing.T) (got []history.Observation, watches, lists int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	kit.Check(t, w.err)
	return slices.Clone(w.got), w.watches, w.lists
}

// expect waits until the watcher has received the last of the changes, and checks all that it has received.
func (w *retryWatcher) expect(t *testing.T, changes []history.Change, selects history.Selector) {
	t.Helper()
	want := history.Events(changes, selects)
	if len(want) == 0 {
		t.Fatal("the watch selects no change, so this test proves nothing")
	}
	last := want[len(want)-1].Revision
	err := await.Until(t.Context(), kit.Patience, func(context.Context) error {
		if got, _, _ := w.received(t); len(got) == 0 || got[len(got)-1].Revision < last {
			return fmt.Errorf("the watcher has received %d events, want them up to revision %d", len(got), last)
		}
		return nil
	})
	got, watches, lists := w.received(t)
	if wrong := history.CheckWatch(changes, selects, got); wrong != nil {
		t.Errorf("after %d watches and %d lists: %v", watches, lists, wrong)
	} else if err != nil {
		t.Error(err)
	}
}
