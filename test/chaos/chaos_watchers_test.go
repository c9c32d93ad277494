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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/history"
)

// watcher watches tasks. Whenever the watch ends, it continues from the last resourceVersion that it received. After a
// 410 it lists and continues from the list.
type watcher struct {
	*cluster
	name, namespace string
	options         metav1.ListOptions
	selects         history.Selector
	client          typed.TaskInterface
	reconnect       func()
	random          *rand.Rand
	changes         []history.Change // the argument of verify

	mu      sync.Mutex
	got     []history.Observation
	watches int
	expired []expired
	err     error
}

func newWatcher(s *cluster, name, namespace string, config *rest.Config, options metav1.ListOptions, selects history.Selector, from int64, random *rand.Rand) *watcher {
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

// once watches until the watch ends. It ignores errors of the connection, which run retries.
func (w *watcher) once(ctx context.Context) {
	seconds := int64(5 + w.random.IntN(20))
	w.options.TimeoutSeconds = &seconds
	// A server that does not end the watch in time is down.
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
	switch status, err := apierrors.APIStatus(nil), history.Receive(stream, w.add); {
	case errors.As(err, &status):
		w.failed(ctx, err)
	case err != nil:
		w.fail(err)
	case ctx.Err() != nil:
		w.reconnect()
	}
}

// failed handles the error of a watch: it lists again if the resourceVersion is too old.
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
	w.add(history.Observation{Type: history.Listed, List: list.Items}, list.ResourceVersion)
}

func (w *watcher) add(e history.Observation, resourceVersion string) {
	var err error
	if e.Revision, err = strconv.ParseInt(resourceVersion, 10, 64); err != nil {
		w.fail(fmt.Errorf("%s with resourceVersion %q", e.Type, resourceVersion))
		return
	}
	w.options.ResourceVersion = resourceVersion
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, e)
}

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// position returns the revision that the watcher received last.
func (w *watcher) position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.got) == 0 {
		return 0
	}
	return w.got[len(w.got)-1].Revision
}

// await waits until the watcher has received the last of the changes, or patience is over, which verify reports.
func (w *watcher) await(ctx context.Context, changes []history.Change) {
	if want := history.Events(changes, w.selects); len(want) > 0 {
		_ = await.Until(ctx, patience, func(context.Context) error {
			if w.position() < want[len(want)-1].Revision {
				return await.ErrNotYet
			}
			return nil
		})
	}
}

// verify compares all that the watcher received with the changes. The watcher must have ended.
func (w *watcher) verify(changes []history.Change, reasons []horizon) (wrong []string) {
	if len(history.Events(changes, w.selects)) == 0 {
		return []string{w.name + ": no change matches the history.Selector, which proves nothing"}
	}
	w.changes = changes
	if w.err != nil {
		wrong = append(wrong, fmt.Sprintf("watcher %s: %v", w.name, w.err))
	}
	if err := history.CheckWatch(changes, w.selects, w.got); err != nil {
		wrong = append(wrong, fmt.Sprintf("watcher %s, over %d watches and %d lists: %v", w.name, w.watches, len(w.expired), err))
	}
	for _, message := range checkExpired(w.expired, reasons) {
		wrong = append(wrong, fmt.Sprintf("watcher %s: %s", w.name, message))
	}
	return wrong
}
