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

// Package transitions checks the changes of a task, as etcd records them, against the rules of
// docs/concepts/task-life.md.
package transitions

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Wrong returns the rules that a change of a task from one revision to the next violates.
func Wrong(before, after *batch.Task) (violations []string) {
	violation := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }
	from, to := before.Spec.WorkerName, after.Spec.WorkerName
	b, s := &before.Status, &after.Status
	switch {
	case from == "" && to == "":
		if s.Incarnation != "" || s.Phase != batch.TaskPending {
			violation("it is bound to nobody, with phase %s and incarnation %q", s.Phase, s.Incarnation)
		}
	case from == "":
		counted := s.Bindings == b.Bindings+1 || s.Bindings == 0 && b.Bindings == 0 // older servers do not count bindings
		if s.Incarnation == "" || s.Disruptions != b.Disruptions || !counted {
			violation("it was bound to %s, incarnation %q, with %d disruptions after %d and %d bindings after %d",
				to, s.Incarnation, s.Disruptions, b.Disruptions, s.Bindings, b.Bindings)
		}
	case to == "":
		want := b.Disruptions + 1
		if isReturned(after) && b.Phase == batch.TaskPending {
			want = b.Disruptions
		}
		if s.Incarnation != "" || s.Disruptions != want || s.Phase != batch.TaskPending {
			violation("it was evicted from %s, and has phase %s, incarnation %q, and %d disruptions after %d",
				from, s.Phase, s.Incarnation, s.Disruptions, b.Disruptions)
		}
	case from != to || b.Incarnation != s.Incarnation:
		violation("it went from %s, incarnation %s, to %s, incarnation %s, without an eviction", from, b.Incarnation, to, s.Incarnation)
	case s.Disruptions != b.Disruptions:
		violation("it has %d disruptions after %d, but was not evicted", s.Disruptions, b.Disruptions)
	}
	if from != "" && s.Bindings != b.Bindings {
		violation("it has %d bindings after %d, but was not bound", s.Bindings, b.Bindings)
	}
	if s.Attempts < b.Attempts && s.CompletedCount == b.CompletedCount {
		violation("it has %d attempts after %d", s.Attempts, b.Attempts)
	}
	violations = append(violations, wrongIndexes(before, after)...)
	if (b.Phase == batch.TaskSucceeded || b.Phase == batch.TaskFailed) && s.Phase != b.Phase {
		violation("it was %s and is %s", b.Phase, s.Phase)
	}
	return violations
}

// wrongIndexes returns the rules on the indexes of a task that a change violates. A task without spec.indexes has its
// counters at zero.
func wrongIndexes(before, after *batch.Task) (violations []string) {
	violation := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }
	b, s := &before.Status, &after.Status
	if before.Spec.Indexes != after.Spec.Indexes {
		violation("it has the indexes %q after %q", after.Spec.Indexes, before.Spec.Indexes)
	}
	if s.CompletedCount < b.CompletedCount {
		violation("it has %d completed indexes after %d", s.CompletedCount, b.CompletedCount)
	}
	if s.CompletedCount > b.CompletedCount && (before.Spec.WorkerName == "" || after.Spec.WorkerName == "") {
		violation("it has %d completed indexes after %d, and no worker has reported that", s.CompletedCount, b.CompletedCount)
	}
	count := int32(indexes.Count(before.IndexRanges()))
	was, is := ptr.Deref(b.IndexLimit, count), ptr.Deref(s.IndexLimit, count)
	if is > was {
		violation("it may run the first %d of its indexes after %d", is, was)
	}
	if s.CompletedCount > min(is, count) {
		violation("it has %d completed indexes, and may run %d of %d", s.CompletedCount, is, count)
	}
	evicted := before.Spec.WorkerName != "" && after.Spec.WorkerName == ""
	if evicted && !isReturned(after) && count > 0 && is != min(b.CompletedCount+1, was) {
		violation("it was evicted with %d completed indexes, and may run %d", b.CompletedCount, is)
	}
	return violations
}

// isReturned reports whether the task was removed from its worker before it had started. Such an eviction is no
// disruption, so it has no DisruptionTarget condition.
func isReturned(task *batch.Task) bool {
	return !meta.IsStatusConditionTrue(task.Status.Conditions, batch.DisruptionTarget)
}
