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

package board

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

const (
	// pollInterval is the least time between two reads of what no informer has. A read that takes longer comes less often.
	pollInterval = 5 * time.Second
	// maxFailures is how many failed tasks are listed: as many as the controller keeps.
	maxFailures = 100
	// maxEvents is how many Events are listed.
	maxEvents = 50
)

// setView shows one set.
type setView struct {
	*Board
	namespace, name string

	mu       sync.Mutex
	records  *sample
	failures []row
	exits    []exitCount
	recorded []row // Events
	noEvents string
}

// exitCount is how many tasks have ended in the same way.
type exitCount struct {
	Exit  string `json:"exit"`
	Count int    `json:"count"`
}

type failureRow struct {
	Number  int    `json:"number"` // of the index, -1 if there is none
	Index   int    `json:"index"`
	Exit    string `json:"exit"`
	Line    string `json:"line"`
	Worker  string `json:"worker"`
	Retried int32  `json:"attempts"`
	Ended   int64  `json:"ended"`
}

type conditionRow struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	At      int64  `json:"at"`
}

// relationRow is a set that the shown one waits for, or one that waits for it.
type relationRow struct {
	Relation  string `json:"relation"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     string `json:"state"`
}

type eventRow struct {
	Type   string `json:"type"`
	Reason string `json:"reason"`
	Note   string `json:"note"`
	Count  int32  `json:"count"`
	At     int64  `json:"at"`
}

// setDetails are the facts about a set that are not in a table.
type setDetails struct {
	setRow
	Parallelism int32  `json:"parallelism"`
	Median      int64  `json:"median,omitempty"` // in milliseconds
	Indexed     bool   `json:"indexed"`
	Command     string `json:"command"`
	Message     string `json:"message,omitempty"` // why it has ended
}

func newSetView(b *Board, namespace, name string) *setView {
	return &setView{Board: b, namespace: namespace, name: name, records: &sample{Loading: true}}
}

// set returns the set that is shown, nil if it does not exist.
func (v *setView) set() *batch.TaskSet {
	return v.store.set(v.namespace, v.name)
}

// set returns a set, nil if it does not exist.
func (s *store) set(namespace, name string) *batch.TaskSet {
	item, exists, err := s.sets.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !exists {
		return nil
	}
	return item.(*batch.TaskSet)
}

func (b *Board) setRow(set *batch.TaskSet) setRow {
	s := taskstate.Progress(set)
	rate, left := b.store.rateOf(set)
	row := setRow{
		Namespace: set.Namespace, Name: set.Name, State: taskstate.Status(set), Total: s.Total, Done: s.Done, Failed: s.Failed,
		Running: s.Running, Pending: s.Pending, Rate: round(rate), Left: round(left), Queue: set.Spec.QueueName,
		Created: set.CreationTimestamp.UnixMilli(), Started: milliseconds(set.Status.StartTime),
	}
	if final := taskstate.Finished(set); final != nil {
		row.Ended = final.LastTransitionTime.UnixMilli()
	}
	return row
}

func (v *setView) frame() frame {
	set := v.set()
	if set == nil {
		return frame{Values: map[string]any{"set": nil}}
	}
	details := setDetails{
		setRow: v.setRow(set), Parallelism: ptr.Deref(set.Spec.Parallelism, 1), Median: set.Status.MedianMilliseconds,
		Indexed: ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion,
		Command: sanitize.Truncate(sanitize.Line(taskstate.Command(set)), 500),
	}
	if final := taskstate.Finished(set); final != nil {
		details.Message = sanitize.Line(final.Reason + ": " + final.Message)
	}
	cells := newIndexMap(set, v.store.tasksOf(set))
	if cells != nil {
		// The tasks know more than the set: the figures must be those of the map.
		details.Done, details.Running = cells.done, cells.running
	}
	var conditions []row
	for _, c := range set.Status.Conditions {
		conditions = append(conditions, row{c.Type, conditionRow{
			c.Type, string(c.Status), sanitize.Line(c.Reason), sanitize.Line(c.Message), c.LastTransitionTime.UnixMilli(),
		}})
	}
	values := map[string]any{"set": details, "map": cells, "numbers": taskstate.Numbers(set)}
	v.mu.Lock()
	defer v.mu.Unlock()
	values["records"], values["exits"], values["noEvents"] = v.records, v.exits, v.noEvents
	return frame{Values: values, Tables: map[string][]row{
		"relations": v.relations(set), "conditions": conditions, "failures": v.failures, "events": v.recorded, "slowest": v.records.slowest,
	}}
}

// relations returns the sets that a set depends on, and those that depend on it.
func (v *setView) relations(set *batch.TaskSet) []row {
	var rows []row
	for _, dependency := range set.Spec.DependsOn {
		relation := "waits for"
		if dependency.PerIndex {
			relation = "follows each index of"
		}
		if seen := set.Status.Dependency(dependency.Name); seen != nil && seen.Met {
			relation = "has waited for"
		}
		state := "does not exist"
		if other := v.store.set(set.Namespace, dependency.Name); other != nil {
			state = taskstate.Status(other)
		}
		rows = append(rows, row{"to/" + dependency.Name, relationRow{relation, set.Namespace, dependency.Name, state}})
	}
	for _, other := range setsIn(v.store.sets.GetStore()) {
		dependsOnSet := func(d batch.TaskSetDependency) bool { return d.Name == set.Name }
		if other.Namespace == set.Namespace && slices.ContainsFunc(other.Spec.DependsOn, dependsOnSet) {
			rows = append(rows, row{"from/" + other.Name, relationRow{"is followed by", other.Namespace, other.Name, taskstate.Status(other)}})
		}
	}
	slices.SortFunc(rows[len(set.Spec.DependsOn):], func(a, b row) int { return strings.Compare(a.Key, b.Key) })
	return rows
}

// poll reads failed tasks, Events and records, each time that the set has changed.
func (v *setView) poll(ctx context.Context, changed func()) {
	seen, reads := "", 0
	for {
		begun, set := time.Now(), v.set()
		if set != nil && set.ResourceVersion != seen {
			// Read once more after the last change: Events and records may come later than the status.
			seen, reads = set.ResourceVersion, 2
		}
		if set != nil && reads > 0 {
			reads--
			v.readFailures(ctx, set)
			v.readEvents(ctx, set)
			changed()
			v.readRecords(ctx, set)
			changed()
		}
		pause := max(pollInterval, 10*time.Since(begun))
		if seen == "" {
			pause = updateInterval // the informer has not read it yet
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// readFailures reads the failed tasks that are kept, the latest first.
func (v *setView) readFailures(ctx context.Context, set *batch.TaskSet) {
	if set.Status.Failed == 0 {
		return
	}
	list, err := v.client.BatchV1alpha1().Tasks(v.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string(set.UID), FieldSelector: "status.phase=" + string(batch.TaskFailed), Limit: 2 * maxFailures,
	})
	if err != nil {
		return // the page shows that the server is not reached
	}
	numbers := taskstate.Numbers(set)
	failures := make([]taskstate.Failure, 0, len(list.Items))
	for i := range list.Items {
		failures = append(failures, taskstate.FailureOf(&list.Items[i]))
	}
	slices.SortFunc(failures, func(a, b taskstate.Failure) int { return cmp.Or(b.Ended.Compare(a.Ended), a.Index-b.Index) })
	counts := map[string]int{}
	var rows []row
	for _, f := range failures {
		counts[f.Exit]++
		if len(rows) == maxFailures {
			continue
		}
		number := f.Index
		if number >= 0 {
			number = numbers.Number(number)
		}
		rows = append(rows, row{f.Task, failureRow{number, f.Index, f.Exit, f.LastLine, f.Worker, f.Attempts, f.Ended.UnixMilli()}})
	}
	exits := make([]exitCount, 0, len(counts))
	for exit, count := range counts {
		exits = append(exits, exitCount{exit, count})
	}
	slices.SortFunc(exits, func(a, b exitCount) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.Exit, b.Exit)) })
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failures, v.exits = rows, exits
}

// readEvents reads the Events about the set, the latest first. A server without a cluster keeps none.
func (v *setView) readEvents(ctx context.Context, set *batch.TaskSet) {
	list, err := v.events.Events(v.namespace).List(ctx, metav1.ListOptions{FieldSelector: "regarding.uid=" + string(set.UID), Limit: 500})
	var rows []row
	why := ""
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		why = "There are no Events here, or you may not list them."
	case err != nil:
		return
	default:
		for i := range list.Items {
			e := &list.Items[i]
			r := eventRow{Type: e.Type, Reason: sanitize.Line(e.Reason), Note: sanitize.Line(e.Note), Count: 1, At: e.EventTime.UnixMilli()}
			if e.Series != nil {
				r.Count, r.At = e.Series.Count, e.Series.LastObservedTime.UnixMilli()
			}
			rows = append(rows, row{e.Name, r})
		}
		slices.SortFunc(rows, func(a, b row) int {
			return cmp.Or(cmp.Compare(b.Data.(eventRow).At, a.Data.(eventRow).At), cmp.Compare(a.Key, b.Key))
		})
		rows = rows[:min(len(rows), maxEvents)]
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.recorded, v.noEvents = rows, why
}

func (v *setView) readRecords(ctx context.Context, set *batch.TaskSet) {
	records, err := readSample(ctx, v.client, set)
	if err != nil {
		records = &sample{Error: fmt.Sprintf("Records cannot be read: %s", sanitize.Line(err.Error()))}
		if apierrors.IsNotFound(err) {
			records.Error = "This server keeps no records."
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.records = records
}
