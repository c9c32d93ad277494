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

package archive

import (
	"context"
	"math"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// liveTask is a task that exists and is bound to a worker.
type liveTask struct {
	task *batch.Task
	// ranges are its indexes: noIndex without any.
	ranges []indexes.Range
	// chunk is true for a task with spec.indexes.
	chunk bool
}

// liveTaskOf returns a task with its indexes.
func liveTaskOf(t *batch.Task) *liveTask {
	if ranges, err := indexes.Parse(t.Spec.Indexes, math.MaxInt32); err == nil && len(ranges) > 0 {
		return &liveTask{t, ranges, true}
	}
	index := noIndex
	if n, err := strconv.ParseInt(t.Labels[v1alpha1.LabelCompletionIndex], 10, 32); err == nil && n >= 0 {
		index = int(n)
	}
	return &liveTask{t, []indexes.Range{{First: index, Last: index}}, false}
}

// hasAttemptAfter reports whether the worker has an attempt at the index that is not among the finished ones. They are
// sorted by their start.
func (l *liveTask) hasAttemptAfter(index int, finished []attempt) bool {
	status := &l.task.Status
	ended := task.Finished(l.task)
	if status.Attempts == 0 {
		return false
	}
	if l.chunk {
		position := indexes.Count(indexes.Below(l.ranges, index))
		switch completed := int(status.CompletedCount); {
		case position > completed && ended:
			return false // it was not started
		case position == completed && !ended:
			return true // it runs
		case position == completed && status.Phase == batch.TaskSucceeded:
			return false
		}
		return !slices.ContainsFunc(finished, l.owns)
	}
	if !ended && status.State.Running != nil {
		return true
	}
	return !slices.ContainsFunc(finished, func(at attempt) bool { return l.owns(at) && at.number >= status.Attempts })
}

// owns reports whether the attempt is one at the task.
func (l *liveTask) owns(at attempt) bool { return at.taskUID == string(l.task.UID) }

// failures returns the number of failed tasks of the index before the task.
func (l *liveTask) failures() int {
	n, _ := strconv.Atoi(l.task.Annotations[v1alpha1.AnnotationIndexFailureCount])
	return n
}

// isSingle reports whether the attempts are those at one task without spec.indexes.
func (s *outputStream) isSingle() bool { return s.of.Task != nil && s.of.Task.Spec.Indexes == "" }

// findLive sets the live tasks and their workers.
func (s *outputStream) findLive(ctx context.Context) error {
	tasks := []*batch.Task{s.of.Task}
	if s.of.Set != nil {
		var err error
		if tasks, err = s.archive.Objects.Tasks(ctx, s.of.Namespace, s.of.SetUID); err != nil {
			return err
		}
	}
	for _, t := range tasks {
		if t.Spec.WorkerName == "" {
			continue
		}
		// The label, which selects, is not the reference, which counts.
		if owner := metav1.GetControllerOf(t); s.of.Set != nil && (owner == nil || owner.UID != s.of.SetUID) {
			continue
		}
		s.live = append(s.live, liveTaskOf(t))
	}
	if len(s.live) == 0 {
		return nil
	}
	workers, err := s.archive.Objects.Workers(ctx, s.of.Namespace)
	if err != nil {
		return err
	}
	s.workers = make(map[string]*batch.Worker, len(workers))
	for _, worker := range workers {
		s.workers[worker.Name] = worker
	}
	return nil
}

// liveAt returns the live tasks at the indexes: of several, that which was created after the most failures.
func (s *outputStream) liveAt(ranges []indexes.Range) map[int]*liveTask {
	found := map[int]*liveTask{}
	if s.isSingle() && len(s.live) > 0 {
		found[ranges[0].First] = s.live[0]
		return found
	}
	for _, l := range s.live {
		if l.ranges[0].First > ranges[len(ranges)-1].Last || l.ranges[len(l.ranges)-1].Last < ranges[0].First {
			continue
		}
		for _, r := range indexes.Intersect(l.ranges, ranges) {
			for index := r.First; index <= r.Last; index++ {
				if other := found[index]; other == nil || other.failures() < l.failures() {
					found[index] = l
				}
			}
		}
	}
	return found
}

// ranges returns the indexes whose output to write.
func (s *outputStream) ranges(ctx context.Context) ([]indexes.Range, error) {
	switch {
	case s.of.Indexes != nil:
		return s.of.Indexes, nil
	case s.of.Task != nil:
		return liveTaskOf(s.of.Task).ranges, nil
	case s.of.Set.Spec.Completions != nil:
		return []indexes.Range{{First: 0, Last: int(*s.of.Set.Spec.Completions) - 1}}, nil
	}
	// A set without completions has as many indexes as there are traces of.
	var known []indexes.Range
	for _, l := range s.live {
		known = indexes.Union(known, l.ranges)
	}
	add := func(attempts []attempt) {
		found := make([]int, 0, len(attempts))
		for i := range attempts {
			found = append(found, int(attempts[i].index))
		}
		known = indexes.Union(known, indexes.Of(found))
	}
	for from := 0; from <= maxIndex; from = s.unsent.last + 1 {
		if err := s.unsent.lookUp(ctx, []indexes.Range{{First: from, Last: from}}, []indexes.Range{{First: from, Last: maxIndex}}); err != nil {
			return nil, err
		}
		add(s.unsent.attempts)
	}
	if len(s.unsent.failures) > 0 {
		s.unknown = s.unsent.failures[0].String()
	}
	if s.archive.Store != nil {
		inStore, _, err := s.archive.findStored(ctx, s.of, nil, func([]attempt) bool { return true })
		if err != nil {
			return nil, err
		}
		slices.SortFunc(inStore, compareAttempts)
		add(inStore)
	}
	return indexes.Intersect(known, []indexes.Range{{First: 0, Last: maxIndex}}), nil
}

// expected returns those of the indexes that have ended, so there must be an attempt at each.
func (s *outputStream) expected(ranges []indexes.Range) []indexes.Range {
	if s.options.Attempt != nil || s.options.Previous {
		return nil
	}
	t := s.of.Task
	switch {
	case t == nil:
		set := s.of.Set
		limit := int(ptr.Deref(set.Spec.Completions, math.MaxInt32))
		// The status was validated when it was written.
		completed, _ := indexes.Parse(set.Status.CompletedIndexes, limit)
		failed, _ := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), limit)
		return indexes.Intersect(ranges, indexes.Union(completed, failed))
	case t.Status.Attempts == 0:
		return nil
	case s.isSingle():
		return ranges
	case task.Finished(t) && t.Status.Phase != batch.TaskSucceeded:
		return indexes.Intersect(ranges, indexes.Slice(liveTaskOf(t).ranges, 0, int(t.Status.CompletedCount)+1))
	}
	return indexes.Intersect(ranges, indexes.Slice(liveTaskOf(t).ranges, 0, int(t.Status.CompletedCount)))
}
