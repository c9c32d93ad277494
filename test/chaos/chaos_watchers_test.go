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
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/leat-dev/leat/test/kit"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/await"
)

// watcher watches tasks, and whenever the watch ends it watches again from the last resourceVersion it was told of. Told that this is too
// old, it begins again with a list.
type watcher struct {
	*cluster
	name, namespace string
	options         metav1.ListOptions
	selects         selector
	client          typed.TaskInterface
	reconnect       func()
	random          *rand.Rand
	changes         []change // that it was held to

	mu      sync.Mutex
	got     []told
	watches int
	expired []expired
	err     error
}

func newWatcher(s *cluster, name, namespace string, config *rest.Config, options metav1.ListOptions, selects selector, from int64, random *rand.Rand) *watcher {
	config, reconnect := reconnecting(config)
	w := &watcher{cluster: s, name: name, namespace: namespace, options: options, selects: selects, reconnect: reconnect, random: random}
	w.client = kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().Tasks(namespace)
	w.options.ResourceVersion, w.options.AllowWatchBookmarks = strconv.FormatInt(from, 10), true
	return w
}

// run watches until ctx is done.
func (w *watcher) run(ctx context.Context) {
	for {
		w.once(ctx)
		if !await.Pause(ctx, time.Duration(w.random.IntN(300))*time.Millisecond) {
			return
		}
	}
}

// once watches until the watch ends. Errors in reaching the server are what a watcher is there to get over.
func (w *watcher) once(ctx context.Context) {
	seconds := int64(5 + w.random.IntN(20))
	w.options.TimeoutSeconds = &seconds
	// A server that should have ended it and did not is not there any more.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds+5)*time.Second)
	defer cancel()
	stream, err := w.client.Watch(ctx, w.options)
	if err != nil {
		w.failed(ctx, err)
		return
	}
	defer stream.Stop()
	w.mu.Lock()
	w.watches++
	w.mu.Unlock()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			w.failed(ctx, apierrors.FromObject(event.Object))
			return
		}
		task, is := event.Object.(*batch.Task)
		if !is {
			w.fail(fmt.Errorf("a %s came with a %T", event.Type, event.Object))
			return
		}
		o := told{kind: event.Type}
		if event.Type != watch.Bookmark {
			o.task = task
		}
		w.add(o, task.ResourceVersion)
	}
	if ctx.Err() != nil {
		w.reconnect()
	}
}

func (w *watcher) failed(ctx context.Context, err error) {
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			w.reconnect()
		}
		return
	}
	from, _ := strconv.ParseInt(w.options.ResourceVersion, 10, 64)
	at := time.Now()
	list, err := w.client.List(ctx, metav1.ListOptions{LabelSelector: w.options.LabelSelector, FieldSelector: w.options.FieldSelector})
	if err != nil {
		return
	}
	w.mu.Lock()
	w.expired = append(w.expired, expired{from, at})
	w.mu.Unlock()
	w.add(told{kind: listed, list: list.Items}, list.ResourceVersion)
}

func (w *watcher) add(o told, resourceVersion string) {
	var err error
	if o.revision, err = strconv.ParseInt(resourceVersion, 10, 64); err != nil {
		w.fail(fmt.Errorf("a %s came with resourceVersion %q", o.kind, resourceVersion))
		return
	}
	w.options.ResourceVersion = resourceVersion
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, o)
}

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// position is the revision of what it was told last.
func (w *watcher) position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.got) == 0 {
		return 0
	}
	return w.got[len(w.got)-1].revision
}

// await waits until it was told of the last of those changes, or ought to have been: if it is not, verify sees that.
func (w *watcher) await(ctx context.Context, changes []change) {
	if want := due(changes, w.selects); len(want) > 0 {
		_ = await.Until(ctx, patience, func(context.Context) error {
			if w.position() < want[len(want)-1].revision {
				return await.ErrNotYet
			}
			return nil
		})
	}
}

// verify holds all it was told, once it has ended, to those changes.
func (w *watcher) verify(changes []change, reasons []forgotten) (wrong []string) {
	if len(due(changes, w.selects)) == 0 {
		return []string{w.name + ": nothing was selected, which proves nothing"}
	}
	w.changes = changes
	if w.err != nil {
		wrong = append(wrong, fmt.Sprintf("watcher %s: %v", w.name, w.err))
	}
	if err := checkWatch(changes, w.selects, w.got); err != nil {
		wrong = append(wrong, fmt.Sprintf("watcher %s, over %d watches and %d lists: %v", w.name, w.watches, len(w.expired), err))
	}
	for _, message := range checkExpired(w.expired, reasons) {
		wrong = append(wrong, fmt.Sprintf("watcher %s: %s", w.name, message))
	}
	return wrong
}
