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

// change is one revision of a task or of a task set in etcd. The object before a creation and after a deletion is nil.
type change struct {
	revision int64
	// observed is when this process received the change, which is not before etcd committed it.
	observed            time.Time
	before, after       *batch.Task
	setBefore, setAfter *batch.TaskSet
}

// task returns the task that changed, or nil if a set changed.
func (c change) task() *batch.Task {
	if c.after != nil {
		return c.after
	}
	return c.before
}

// etcdHistory records the changes of namespaces from etcd, past all servers. The checks compare the answers of the
// servers with it.
type etcdHistory struct {
	start int64 // the revision before the first change

	mu       sync.Mutex
	changes  []change
	position int64 // the revision up to which the record is complete
	err      error
}

// record starts to record the tasks and the task sets of the namespaces, until ctx is done.
func record(ctx context.Context, client *clientv3.Client, namespaces ...string) (*etcdHistory, error) {
	now, err := client.Get(ctx, "/leat/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, err
	}
	h := &etcdHistory{start: now.Header.Revision, position: now.Header.Revision}
	ours := func(key string) bool {
		parts := strings.Split(key, "/")
		return len(parts) == 5 && (parts[2] == "tasks" || parts[2] == "tasksets") && slices.Contains(namespaces, parts[3])
	}
	go func() {
		for ctx.Err() == nil && h.failed() == nil {
			// A member without a leader ends the watch, so that the client asks another one.
			watch, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
			from := h.reached() + 1
			for response := range client.Watch(watch, "/leat/task", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(from), clientv3.WithProgressNotify()) {
				h.add(response, ours)
			}
			cancel()
		}
	}()
	return h, nil
}

func (h *etcdHistory) add(response clientv3.WatchResponse, ours func(string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(response.Err(), rpctypes.ErrCompacted) {
		h.err = errors.New("the history is incomplete: etcd was compacted past the recorded revision")
		return
	}
	for _, event := range response.Events {
		if event.Kv.ModRevision <= h.position || !ours(string(event.Kv.Key)) {
			continue
		}
		c := change{revision: event.Kv.ModRevision, observed: time.Now()}
		put := func(data []byte, revision int64, task **batch.Task, set **batch.TaskSet) {
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
			if err != nil {
				h.err = errors.Join(h.err, fmt.Errorf("%s at revision %d: %w", event.Kv.Key, c.revision, err))
			}
			switch o := obj.(type) {
			case *batch.Task:
				*task, o.ResourceVersion = o, strconv.FormatInt(revision, 10)
			case *batch.TaskSet:
				*set, o.ResourceVersion = o, strconv.FormatInt(revision, 10)
			}
		}
		if event.PrevKv != nil {
			put(event.PrevKv.Value, event.PrevKv.ModRevision, &c.before, &c.setBefore)
		}
		if event.Type == clientv3.EventTypePut {
			put(event.Kv.Value, c.revision, &c.after, &c.setAfter)
		}
		h.changes = append(h.changes, c)
	}
	if n := len(response.Events); n > 0 {
		h.position = response.Events[n-1].Kv.ModRevision
	} else if response.Err() == nil {
		h.position = max(h.position, response.Header.Revision)
	}
}

func (h *etcdHistory) reached() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.position
}

// await waits until the record is complete up to a revision.
func (h *etcdHistory) await(ctx context.Context, revision int64) error {
	err := await.Until(ctx, patience, func(context.Context) error {
		if h.failed() == nil && h.reached() < revision {
			return await.ErrNotYet
		}
		return nil
	})
	return errors.Join(err, h.failed())
}

func (h *etcdHistory) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// of returns the recorded changes of a namespace, in order.
func (h *etcdHistory) of(namespace string) []change {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.changes), func(c change) bool {
		if task := c.task(); task != nil {
			return task.Namespace != namespace
		}
		set := c.setAfter
		if set == nil {
			set = c.setBefore
		}
		return set == nil || set.Namespace != namespace
	})
}

// upTo returns the changes up to a revision.
func upTo(revision int64, changes []change) []change {
	later := slices.IndexFunc(changes, func(c change) bool { return c.revision > revision })
	if later < 0 {
		return changes
	}
	return changes[:later]
}
