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

package consistency

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// follower watches tasks, and whenever the watch ends it watches again from the last resourceVersion it was told of. Told that
// this is too old, it begins again with a list.
type follower struct {
	client  typed.TaskInterface
	options metav1.ListOptions

	mu      sync.Mutex
	got     []observed
	watches int // that were begun
	lists   int // that it had to begin again with
	err     error
}

// follow starts a follower from a resourceVersion. It ends with the test.
func follow(t *testing.T, client typed.TaskInterface, options metav1.ListOptions, from int64) *follower {
	t.Helper()
	f := &follower{client: client, options: options}
	f.options.ResourceVersion = strconv.FormatInt(from, 10)
	f.options.AllowWatchBookmarks = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The only error is the end of the context.
		_ = wait.PollUntilContextCancel(ctx, 5*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			f.once(ctx)
			return false, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// once watches until the watch ends. Errors in reaching the server are what a follower is there to get over.
func (f *follower) once(ctx context.Context) {
	watcher, err := f.client.Watch(ctx, f.options)
	if err != nil {
		f.failed(ctx, err)
		return
	}
	defer watcher.Stop()
	f.mu.Lock()
	f.watches++
	f.mu.Unlock()
	for event := range watcher.ResultChan() {
		if event.Type == watch.Error {
			f.failed(ctx, apierrors.FromObject(event.Object))
			return
		}
		task, ok := event.Object.(*v1alpha1.Task)
		if !ok {
			f.fail(fmt.Errorf("a %s came with a %T", event.Type, event.Object))
			return
		}
		o := observed{kind: event.Type}
		if event.Type != watch.Bookmark {
			o.task = task
		}
		f.add(o, task.ResourceVersion)
	}
}

func (f *follower) failed(ctx context.Context, err error) {
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		return
	}
	list, err := f.client.List(ctx, metav1.ListOptions{LabelSelector: f.options.LabelSelector, FieldSelector: f.options.FieldSelector})
	if err != nil {
		return
	}
	f.mu.Lock()
	f.lists++
	f.mu.Unlock()
	f.add(observed{kind: listed, list: list.Items}, list.ResourceVersion)
}

func (f *follower) add(o observed, resourceVersion string) {
	var err error
	if o.revision, err = strconv.ParseInt(resourceVersion, 10, 64); err != nil {
		f.fail(fmt.Errorf("a %s came with resourceVersion %q", o.kind, resourceVersion))
		return
	}
	f.options.ResourceVersion = resourceVersion
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, o)
}

func (f *follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// told gives what the follower has been told so far, and how often it watched and listed for it.
func (f *follower) told(t *testing.T) (got []observed, watches, lists int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	kit.Check(t, f.err)
	return slices.Clone(f.got), f.watches, f.lists
}

// expect waits until the follower has been told of all the changes, and fails the test unless it was told as it must be.
func (f *follower) expect(t *testing.T, changes []change, selects selector) {
	t.Helper()
	want := events(changes, selects)
	if len(want) == 0 {
		t.Fatal("No change is selected: this proves nothing.")
	}
	last := want[len(want)-1].revision
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		got, _, _ := f.told(t)
		return len(got) > 0 && got[len(got)-1].revision >= last, nil
	})
	got, watches, lists := f.told(t)
	if wrong := compare(changes, selects, got); wrong != nil {
		t.Errorf("Over %d watches and %d lists: %v.", watches, lists, wrong)
	} else if err != nil {
		t.Error(err)
	}
}
