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
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

const (
	// maxReasons is how many groups of waiting tasks are shown.
	maxReasons = 200
	// explainInterval is the least time between two explanations.
	explainInterval = 3 * time.Second
)

// pendingView shows the reasons why tasks wait, and the explanation of one of them.
type pendingView struct {
	*Board
	namespace, name string // what is explained, like taskset/a; empty for nothing

	mu          sync.Mutex
	explanation *explanation
}

// explanation is what "leat explain" prints.
type explanation struct {
	Name  string          `json:"name"`
	Lines []explainedLine `json:"lines"`
	Error string          `json:"error,omitempty"`
	At    int64           `json:"at"`
}

// explainedLine is a title, or a line in two columns.
type explainedLine struct {
	Title string `json:"title,omitempty"`
	About string `json:"about,omitempty"`
	Text  string `json:"text,omitempty"`
}

// reasonRow is a group of tasks that wait for the same reason.
type reasonRow struct {
	Namespace string `json:"namespace"`
	Queue     string `json:"queue"`
	Set       string `json:"set,omitempty"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Count     int    `json:"count"`
	Oldest    int64  `json:"oldest"`
	// Explain is the name of what explains the group.
	Explain string `json:"explain"`
}

// reasonKey identifies a group.
type reasonKey struct{ namespace, queue, set, reason, message string }

func newPendingView(b *Board, namespace, name string) (*pendingView, bool) {
	v := &pendingView{Board: b, namespace: namespace, name: name}
	if name == "" {
		return v, true
	}
	kind, rest, _ := strings.Cut(name, "/")
	return v, (kind == "task" || kind == "taskset") && isName(namespace) && isName(rest)
}

func (v *pendingView) frame() frame {
	groups := map[reasonKey]*reasonRow{}
	waiting := 0
	for _, item := range v.store.tasks.GetStore().List() {
		task := item.(*batch.Task)
		if task.Spec.WorkerName != "" || task.DeletionTimestamp != nil {
			continue
		}
		waiting++
		key := reasonKey{namespace: task.Namespace, queue: task.Spec.QueueName}
		if task.Labels[batch.LabelControllerUID] != "" {
			key.set = task.Labels[batch.LabelTaskSetName]
		}
		if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil && c.Status == metav1.ConditionFalse {
			key.reason, key.message = c.Reason, c.Message
		}
		group := groups[key]
		if group == nil {
			group = &reasonRow{Oldest: task.CreationTimestamp.UnixMilli(), Explain: "task/" + task.Name}
			groups[key] = group
		}
		group.Count++
		if created := task.CreationTimestamp.UnixMilli(); created < group.Oldest {
			group.Oldest, group.Explain = created, "task/"+task.Name
		}
	}
	for _, set := range setsIn(v.store.sets.GetStore()) {
		if reason, message := heldSet(set); reason != "" {
			groups[reasonKey{set.Namespace, set.Spec.QueueName, set.Name, reason, message}] = &reasonRow{
				Count: taskstate.Progress(set).Pending, Oldest: set.CreationTimestamp.UnixMilli(),
			}
		}
	}
	rows := make([]row, 0, len(groups))
	for key, group := range groups {
		group.Namespace, group.Queue, group.Set = key.namespace, key.queue, key.set
		group.Reason, group.Message = sanitize.Line(key.reason), sanitize.Line(key.message)
		if group.Reason == "" {
			group.Reason, group.Message = "Waiting", "The scheduler has not said why."
		}
		if key.set != "" {
			group.Explain = "taskset/" + key.set
		}
		rows = append(rows, row{strings.Join([]string{key.namespace, key.queue, key.set, key.reason, key.message}, "\x00"), group})
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Data.(*reasonRow).Oldest, b.Data.(*reasonRow).Oldest), strings.Compare(a.Key, b.Key))
	})
	values := map[string]any{"waiting": waiting, "reasons": len(rows)}
	rows = rows[:min(len(rows), maxReasons)]
	v.mu.Lock()
	defer v.mu.Unlock()
	values["explanation"] = v.explanation
	return frame{Values: values, Tables: map[string][]row{"reasons": rows}}
}

// heldSet returns why a set has no tasks that could wait, "" if it may have some.
func heldSet(set *batch.TaskSet) (reason, message string) {
	c := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetReplicaFailure)
	switch {
	case taskstate.Finished(set) != nil || set.DeletionTimestamp != nil || set.Spec.Cancelled:
		return "", ""
	case ptr.Deref(set.Spec.Suspend, false):
		return "Suspended", "The set is suspended, and starts nothing until it is resumed."
	case c != nil && c.Status == metav1.ConditionTrue:
		return c.Reason, "Tasks cannot be created: " + c.Message
	case len(taskstate.WaitsFor(set)) > 0:
		return batch.TaskSetReasonWaiting, "The set waits for " + strings.Join(taskstate.WaitsFor(set), ", ") + "."
	case set.Status.StartTime == nil:
		return batch.TaskSetReasonNotStarted, "No controller has started the set yet: does leat-controller-manager run?"
	}
	return "", ""
}

// poll explains the chosen task or set again and again.
func (v *pendingView) poll(ctx context.Context, changed func()) {
	for v.name != "" {
		begun := time.Now()
		var text bytes.Buffer
		err := v.options.Explain(ctx, v.namespace, v.name, &text)
		if ctx.Err() != nil {
			return
		}
		current := &explanation{Name: v.name, Lines: explainedLines(text.String()), At: time.Now().UnixMilli()}
		if err != nil {
			current.Error = sanitize.Line(fmt.Sprintf("It cannot be explained: %v", err))
		}
		v.mu.Lock()
		v.explanation = current
		v.mu.Unlock()
		changed()
		select {
		case <-ctx.Done():
		case <-time.After(max(explainInterval, 5*time.Since(begun))):
		}
	}
}

// explainedLines parses the text of an explanation.
func explainedLines(text string) []explainedLine {
	lines := []explainedLine{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		about, rest, isRow := strings.Cut(line, "\t")
		switch {
		case isRow && strings.HasPrefix(about, "  "):
			lines = append(lines, explainedLine{About: strings.TrimSpace(about), Text: rest})
		case line != "":
			lines = append(lines, explainedLine{Title: line})
		}
	}
	return lines
}
