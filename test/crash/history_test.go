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

package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/transitions"
)

// history is what etcd itself tells of the tasks and the task sets of a namespace, past every server.
type history struct {
	namespace string

	mu      sync.Mutex
	changes []change
	errs    []error
}

// change is one revision of a task, or of a task set. What was not there before, or is not after, is nil.
type change struct {
	revision          int64
	before, after     *batch.Task
	setBefore, setNow *batch.TaskSet
}

// watch records the history of a namespace from now on until the test ends, over any restart of etcd.
func watch(t *testing.T, e *kit.Env, namespace string) *history {
	t.Helper()
	client := e.EtcdClient(t)
	h := &history{namespace: namespace}
	now := kit.Must(client.Get(t.Context(), "/leat/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t)
	for _, resource := range []string{"tasks", "tasksets"} {
		prefix := "/leat/" + resource + "/" + namespace + "/"
		responses := client.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(now.Header.Revision+1))
		go func() {
			for response := range responses {
				h.record(response)
			}
		}()
	}
	return h
}

func (h *history) record(response clientv3.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := response.Err(); err != nil {
		h.errs = append(h.errs, err)
	}
	for _, event := range response.Events {
		c := change{revision: event.Kv.ModRevision}
		put := func(data []byte, task **batch.Task, set **batch.TaskSet) {
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
			if err != nil {
				h.errs = append(h.errs, fmt.Errorf("%s at revision %d: %w", event.Kv.Key, c.revision, err))
			}
			switch o := obj.(type) {
			case *batch.Task:
				*task = o
			case *batch.TaskSet:
				*set = o
			}
		}
		if event.PrevKv != nil {
			put(event.PrevKv.Value, &c.before, &c.setBefore)
		}
		if event.Type == clientv3.EventTypePut {
			put(event.Kv.Value, &c.after, &c.setNow)
		}
		h.changes = append(h.changes, c)
	}
}

// until gives all changes in their order, once etcd has told of one that is.
func (h *history) until(t *testing.T, what string, is func(change) bool) []change {
	t.Helper()
	var changes []change
	kit.Eventually(t, "etcd tells that "+what, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, err := range h.errs {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(h.changes, is) {
			return fmt.Errorf("%d changes so far", len(h.changes))
		}
		changes = slices.Clone(h.changes)
		return nil
	})
	slices.SortStableFunc(changes, func(a, b change) int { return int(a.revision - b.revision) })
	return changes
}

// account is what the history of a set amounts to.
type account struct {
	t *testing.T
	// bindings and runs of each index: how often a task of it was bound, and how many of its tasks have succeeded.
	bindings, succeeded []int
	evictions           int
	// again says how many tasks were created for an index that was counted.
	again map[int]int

	// tasks are those there are, by index.
	tasks map[string][]string
	// counted says what the stored status counts.
	counted []bool
	done    bool
}

// audit holds the history of a set to what is promised of it, whoever is killed: a task is given to one worker at a time, and only the
// incarnation that it was given to writes of it; there is one task of an index at a time; a task is deleted only after it has been
// counted; and what is counted stays counted, and is not counted twice.
func audit(t *testing.T, changes []change, set string, completions int) *account {
	t.Helper()
	a := &account{t: t, bindings: make([]int, completions), succeeded: make([]int, completions), counted: make([]bool, completions),
		tasks: map[string][]string{}, again: map[int]int{}}
	for _, c := range changes {
		switch {
		case c.setNow != nil && c.setNow.Name == set:
			a.takeSet(c.revision, c.setNow)
		case c.after != nil && c.after.Labels[batch.LabelTaskSetName] == set, c.before != nil && c.before.Labels[batch.LabelTaskSetName] == set:
			a.takeTask(c)
		}
	}
	for index, n := range a.succeeded {
		// A task that was created once more after its index was counted may succeed, too.
		if n < 1 || n > 1+a.again[index] {
			t.Errorf("%d tasks of index %d have succeeded", n, index)
		}
	}
	return a
}

func (a *account) takeSet(revision int64, set *batch.TaskSet) {
	a.t.Helper()
	ranges, err := indexes.Parse(set.Status.CompletedIndexes, len(a.counted))
	if err != nil {
		a.t.Fatalf("revision %d: %v", revision, err)
	}
	now := make([]bool, len(a.counted))
	for _, r := range ranges {
		for i := r.First; i <= r.Last; i++ {
			now[i] = true
		}
	}
	for i, was := range a.counted {
		if was && !now[i] {
			a.t.Errorf("revision %d: index %d is no longer counted: %s", revision, i, set.Status.CompletedIndexes)
		}
		if !was && now[i] && a.succeeded[i] == 0 {
			a.t.Errorf("revision %d: index %d is counted, and none of its tasks has succeeded", revision, i)
		}
	}
	if int(set.Status.Succeeded) != indexes.Count(ranges) || set.Status.Failed != 0 {
		a.t.Errorf("revision %d: %d have succeeded and %d have failed, and the indexes are %s", revision, set.Status.Succeeded, set.Status.Failed, set.Status.CompletedIndexes)
	}
	if a.done {
		a.t.Errorf("revision %d: the set was written to after its end: %+v", revision, set.Status)
	}
	a.counted, a.done = now, is(batch.TaskSetComplete)(set)
}

func (a *account) takeTask(c change) {
	a.t.Helper()
	task := c.after
	if task == nil {
		task = c.before
	}
	label := task.Labels[batch.LabelCompletionIndex]
	var index int
	if _, err := fmt.Sscan(label, &index); err != nil || index >= len(a.counted) {
		a.t.Fatalf("task %s has the index %q", task.Name, label)
	}
	wrong := func(format string, args ...any) {
		a.t.Errorf("revision %d: task %s: %s", c.revision, task.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case c.before == nil:
		a.tasks[label] = append(a.tasks[label], task.Name)
		if len(a.tasks[label]) > 1 {
			wrong("the index has several tasks: %s", strings.Join(a.tasks[label], ", "))
		}
		if a.counted[index] {
			a.again[index]++
		}
	case c.after == nil:
		a.tasks[label] = slices.DeleteFunc(a.tasks[label], func(name string) bool { return name == task.Name })
		if !a.counted[index] {
			wrong("it was deleted before it was counted")
		}
	default:
		for _, message := range transitions.Wrong(c.before, c.after) {
			wrong("%s", message)
		}
		switch {
		case c.before.Spec.WorkerName == "" && c.after.Spec.WorkerName != "":
			a.bindings[index]++
		case c.before.Spec.WorkerName != "" && c.after.Spec.WorkerName == "":
			a.evictions++
		}
		if c.after.Status.Phase == batch.TaskSucceeded && c.before.Status.Phase != batch.TaskSucceeded {
			a.succeeded[index]++
		}
	}
}
