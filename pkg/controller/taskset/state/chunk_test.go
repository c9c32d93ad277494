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

package state

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestMemoryOfChunks checks that the state of a set needs memory for its tasks and not for their indexes.
func TestMemoryOfChunks(t *testing.T) {
	const chunks, limit = 1000, 2 << 20
	set := &batch.TaskSet{Spec: batch.TaskSetSpec{Completions: ptr.To[int32](chunks * 1000), Parallelism: ptr.To[int32](chunks)}}
	set.Status.MedianMilliseconds = 1
	tasks := make([]*batch.Task, 0, chunks)
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	s := newTaskSet("uid", ExponentialBackoff{})
	if err := s.Load(set); err != nil {
		t.Fatal(err)
	}
	for i := range chunks {
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprintf("a1b2c3d4-0000-4000-8000-%012d", i)), Name: fmt.Sprintf("set-%d-abcde", i)}}
		task.Spec.Indexes = indexes.Format(s.takeChunk(1000))
		s.ObserveCreated(task, time.Now())
		tasks = append(tasks, task)
	}
	for i, task := range tasks {
		task = task.DeepCopy()
		task.Spec.WorkerName, task.Status.Phase, task.Status.CompletedCount = "worker", batch.TaskRunning, int32(i)
		s.Observe(task.UID, task)
	}
	if completed, _ := s.Completed(); completed != chunks*(chunks-1)/2 {
		t.Errorf("%d indexes are completed", completed)
	}
	clear(tasks)
	if used := int(heap()) - int(before); used > limit {
		t.Errorf("the state of %d indexes in %d tasks uses %d bytes, want at most %d", chunks*1000, chunks, used, limit)
	}
	runtime.KeepAlive(s)
}

// TestChunkSizes checks that the indexes that are left are divided by the tasks that run, and not by those that wait on
// a worker.
func TestChunkSizes(t *testing.T) {
	for name, test := range map[string]struct {
		bound  int
		chunks ChunkLimits
		want   int
	}{
		"a second's indexes":                     {2, ChunkLimits{MaxIndexes: 1000, Slots: 4}, 100},
		"maxIndexes":                             {2, ChunkLimits{MaxIndexes: 30, Slots: 4}, 30},
		"an equal share of half of what is left": {10, ChunkLimits{MaxIndexes: 1000, Slots: 10}, 50},
		"tasks that wait on a worker":            {20, ChunkLimits{MaxIndexes: 1000, Slots: 10}, 50},
		"more slots than tasks":                  {10, ChunkLimits{MaxIndexes: 1000, Slots: 100}, 50},
		"unknown slots":                          {20, ChunkLimits{MaxIndexes: 1000}, 25},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTaskSet("uid", ExponentialBackoff{})
			set := &batch.TaskSet{Spec: batch.TaskSetSpec{Completions: ptr.To[int32](1000), Parallelism: ptr.To[int32](1000)}}
			set.Status.MedianMilliseconds = 10
			if err := s.Load(set); err != nil {
				t.Fatal(err)
			}
			s.placed[bound] = test.bound
			if got := s.chunkSize(test.chunks); got != test.want {
				t.Errorf("got %d indexes, want %d", got, test.want)
			}
		})
	}
}
