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
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func indexedSet(completions int32) *batch.TaskSet {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "u"}}
	set.Spec.Completions, set.Spec.CompletionMode = &completions, ptr.To(batch.IndexedCompletion)
	set.Spec.BackoffLimitPerIndex = new(int32(1))
	return set
}

func taskOf(index int, phase batch.TaskPhase) *batch.Task {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{
		batch.LabelControllerUID: "u", batch.LabelTaskSetName: "a", batch.LabelCompletionIndex: strconv.Itoa(index),
	}}}
	task.Status.Phase = phase
	if phase == batch.TaskRunning {
		task.Spec.WorkerName = "w"
	}
	return task
}

func chunkOf(list string, completed int32, phase batch.TaskPhase) *batch.Task {
	task := taskOf(0, phase)
	delete(task.Labels, batch.LabelCompletionIndex)
	task.Spec.Indexes, task.Status.CompletedCount = list, completed
	return task
}

func TestIndexMapPutsEachIndexInOneState(t *testing.T) {
	short, prefetched := taskOf(4, batch.TaskPending), taskOf(5, batch.TaskPending)
	short.Spec.WorkerName, prefetched.Spec.WorkerName = "w", "w"
	prefetched.Status.State.Waiting = &batch.TaskStateWaiting{Reason: batch.TaskReasonPrefetched}
	for _, test := range []struct {
		name                   string
		done, failed, failures string
		tasks                  []*batch.Task
		want                   indexMap
	}{
		{name: "nothing", want: indexMap{}},
		{name: "done and failed", done: "0-3,5", failed: "7", want: indexMap{Done: "0-3,5", Failed: "7"}},
		{name: "running", tasks: []*batch.Task{taskOf(3, batch.TaskRunning), taskOf(1, batch.TaskRunning), taskOf(2, batch.TaskPending)}, want: indexMap{Running: "1,3"}},
		{name: "too short to be seen to run, and waiting on the worker", tasks: []*batch.Task{short, prefetched}, want: indexMap{Running: "4"}},
		{name: "the set knows the end first", done: "0-3", tasks: []*batch.Task{taskOf(3, batch.TaskRunning)}, want: indexMap{Done: "0-3"}},
		{name: "the task knows the end first", done: "0", tasks: []*batch.Task{chunkOf("1-4", 2, batch.TaskRunning)}, want: indexMap{Done: "0-2", Running: "3"}},
		{name: "retried", failures: "2:1,4:3", tasks: []*batch.Task{taskOf(4, batch.TaskRunning)}, want: indexMap{Running: "4", Retry: "2"}},
		{name: "failed for good, still counted", failed: "2", failures: "2:1", want: indexMap{Failed: "2"}},
		{name: "chunk that waits", tasks: []*batch.Task{chunkOf("1-4", 0, batch.TaskPending)}, want: indexMap{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := indexedSet(10)
			set.Status.CompletedIndexes, set.Status.FailedIndexes, set.Status.IndexFailures = test.done, &test.failed, test.failures
			test.want.Cells = 10
			got := newIndexMap(set, test.tasks)
			if got == nil {
				t.Fatal("there is no map")
			}
			for list, count := range map[string]int{got.Done: got.done, got.Running: got.running} {
				if parsed, err := indexes.Parse(list, 10); err != nil || list != "" && indexes.Count(parsed) != count {
					t.Errorf("%q is counted as %d: %v", list, count, err)
				}
			}
			got.done, got.running = 0, 0
			if *got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestSetsWithoutFixedIndexesHaveNoMap(t *testing.T) {
	set := indexedSet(1)
	set.Spec.Completions = nil
	if got := newIndexMap(set, nil); got != nil {
		t.Errorf("without completions: got %+v", got)
	}
	set = indexedSet(1)
	set.Spec.CompletionMode = nil
	if got := newIndexMap(set, nil); got != nil {
		t.Errorf("without indexes: got %+v", got)
	}
}

func TestSampledIndexesAreFewAndSpreadEvenly(t *testing.T) {
	for _, n := range []int{1, sampleSize} {
		if got := sampledIndexes(n); got != nil {
			t.Errorf("%d: got %v, want all", n, got)
		}
	}
	for _, n := range []int{sampleSize + 1, 123_457, 1_000_000, 1<<31 - 1} {
		ranges := sampledIndexes(n)
		text := indexes.Format(ranges)
		if count := indexes.Count(ranges); count != sampleSize {
			t.Errorf("%d: %d indexes, want %d", n, count, sampleSize)
		}
		if parsed, err := indexes.Parse(text, n); err != nil || len(text) > 2048 || len(parsed) < 1 {
			t.Errorf("%d: %q: %v", n, text, err)
		}
		if last := ranges[len(ranges)-1].Last; last < n-n/stretches-sampleSize || last >= n {
			t.Errorf("%d: the last index is %d", n, last)
		}
	}
}
