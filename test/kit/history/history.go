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

// Package history records what etcd stores and checks what API servers show against it.
package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/test/kit/await"
)

// Change is one revision of a task or of a task set in etcd. Before and SetBefore are nil for a creation, After and
// SetAfter for a deletion.
type Change struct {
	Revision int64
	// Received is when the recorder received the change, which is never before it was stored.
	Received            time.Time
	Before, After       *batch.Task
	SetBefore, SetAfter *batch.TaskSet
}

// Task returns the task that changed, or nil for a task set.
func (c Change) Task() *batch.Task {
	if c.After != nil {
		return c.After
	}
	return c.Before
}

// set returns the task set that changed, or nil for a task.
func (c Change) set() *batch.TaskSet {
	if c.SetAfter != nil {
		return c.SetAfter
	}
	return c.SetBefore
}

// Recorder records the tasks and task sets of some namespaces from etcd, without any API server. It survives restarts
// of etcd. It is safe for concurrent use.
type Recorder struct {
	// Start is the revision before the first change.
	Start int64

	mu       sync.Mutex
	changes  []Change
	position int64 // all changes up to this revision are recorded
	err      error
}

// Record starts a recorder that stops with ctx.
func Record(ctx context.Context, client *clientv3.Client, namespaces ...string) (*Recorder, error) {
	now, err := client.Get(ctx, "/leat/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, err
	}
	r := &Recorder{Start: now.Header.Revision, position: now.Header.Revision}
	wanted := func(key string) bool {
		parts := strings.Split(key, "/")
		return len(parts) == 5 && (parts[2] == "tasks" || parts[2] == "tasksets") && slices.Contains(namespaces, parts[3])
	}
	go func() {
		for ctx.Err() == nil && r.Err() == nil {
			// A member without a leader ends the watch, so that the client asks another member.
			watch, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
			from := r.Position() + 1
			for response := range client.Watch(watch, "/leat/task", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(from), clientv3.WithProgressNotify()) {
				r.record(response, wanted)
			}
			cancel()
		}
	}()
	return r, nil
}

func (r *Recorder) record(response clientv3.WatchResponse, wanted func(key string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(response.Err(), rpctypes.ErrCompacted) {
		r.err = errors.New("etcd was compacted past the recorded revision: the history has a gap")
		return
	}
	for _, event := range response.Events {
		// A new watch may repeat events of the revision at which the last one ended.
		if event.Kv.ModRevision <= r.position || !wanted(string(event.Kv.Key)) {
			continue
		}
		change := Change{Revision: event.Kv.ModRevision, Received: time.Now()}
		decode := func(data []byte, revision int64, task **batch.Task, set **batch.TaskSet) {
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
			if err != nil {
				r.err = errors.Join(r.err, fmt.Errorf("%s at revision %d: %w", event.Kv.Key, change.Revision, err))
				return
			}
			switch o := obj.(type) {
			case *batch.Task:
				*task, o.ResourceVersion = o, strconv.FormatInt(revision, 10)
			case *batch.TaskSet:
				*set, o.ResourceVersion = o, strconv.FormatInt(revision, 10)
			default:
				r.err = errors.Join(r.err, fmt.Errorf("%s at revision %d is a %T", event.Kv.Key, change.Revision, obj))
			}
		}
		if event.PrevKv != nil {
			decode(event.PrevKv.Value, event.PrevKv.ModRevision, &change.Before, &change.SetBefore)
		}
		if event.Type == clientv3.EventTypePut {
			decode(event.Kv.Value, change.Revision, &change.After, &change.SetAfter)
		}
		r.changes = append(r.changes, change)
	}
	if n := len(response.Events); n > 0 {
		r.position = response.Events[n-1].Kv.ModRevision
	} else if response.Err() == nil {
		r.position = max(r.position, response.Header.Revision)
	}
}

// Position returns the revision up to which all changes are recorded.
func (r *Recorder) Position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// Err returns why the history is not complete or cannot be decoded, or nil.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Await waits until all changes up to the revision are recorded, for at most the limit.
func (r *Recorder) Await(ctx context.Context, limit time.Duration, revision int64) error {
	err := await.Until(ctx, limit, func(context.Context) error {
		if position := r.Position(); r.Err() == nil && position < revision {
			return fmt.Errorf("the history has reached revision %d, want %d", position, revision)
		}
		return nil
	})
	return errors.Join(err, r.Err())
}

// Changes returns the changes in a namespace so far, in the order of their revisions.
func (r *Recorder) Changes(namespace string) []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.changes), func(c Change) bool {
		if task := c.Task(); task != nil {
			return task.Namespace != namespace
		}
		set := c.set()
		return set == nil || set.Namespace != namespace
	})
}

// UpTo returns the changes up to and including the revision.
func UpTo(revision int64, changes []Change) []Change {
	later := slices.IndexFunc(changes, func(c Change) bool { return c.Revision > revision })
	if later < 0 {
		return changes
	}
	return changes[:later]
}
