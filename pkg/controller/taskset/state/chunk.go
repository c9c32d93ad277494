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
	"cmp"
	"slices"
	"time"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// maxShort is the maximum duration of commands that are combined. A chunk has at least two.
	maxShort = batch.ChunkDuration / 2
	// minDurations is how many durations must be known before commands are combined, and maxDurations how many are kept.
	minDurations, maxDurations = 8, 32
	// learningTimeout is how long the controller waits for them, from the time when the first task is bound or, while
	// none is, from the first creation.
	learningTimeout = time.Second
	// waitingTasks is how many tasks may wait in addition to one for each that is bound, while the controller learns or
	// creates chunks. Few tasks wait, so that the later ones are sized by what was learned meanwhile.
	waitingTasks = 16
	// maxChunkItems bounds the items of a chunk, in bytes: they are in the request that creates it.
	maxChunkItems = 64 << 10
)

// durations are the durations of the commands that have ended last, at most maxDurations.
type durations struct {
	last []time.Duration
	next int
	// stored is the median in the stored status, which holds until enough durations are known.
	stored time.Duration
}

// add adds a duration and forgets the oldest one.
func (d *durations) add(duration time.Duration) {
	if len(d.last) < maxDurations {
		d.last = append(d.last, duration)
		return
	}
	d.last[d.next] = duration
	d.next = (d.next + 1) % maxDurations
}

// median returns the median, zero until it is known.
func (d *durations) median() time.Duration {
	if len(d.last) < minDurations {
		return d.stored
	}
	sorted := slices.Sorted(slices.Values(d.last))
	return sorted[len(sorted)/2]
}

// measure records how long a command of a finished task ran. The last command of a chunk may have run much longer than
// the others: they ran for at most batch.ChunkDuration together.
func (s *TaskSet) measure(t *TrackedTask) {
	if t.measured || !t.phase.Finished() {
		return
	}
	t.measured = true
	ended := max(1, t.completedCount)
	if t.chunk && t.phase == batch.TaskFailed {
		ended = t.completedCount + 1
	}
	if t.busy > 0 {
		s.durations.add(min(t.busy, batch.ChunkDuration) / time.Duration(ended))
	}
}

// placement is what an active task counts as when the controller decides about chunks.
type placement int

const (
	notActive placement = iota
	// bound is a task that has a worker.
	bound
	// mergeable is a task that waits for a worker and whose index may run in a chunk.
	mergeable
	// otherWaiting is any other task that waits for a worker.
	otherWaiting
	placements
)

// placementOf returns what a task counts as.
func (s *TaskSet) placementOf(t *TrackedTask) placement {
	switch {
	case !t.state.Active():
		return notActive
	case t.bound:
		return bound
	case !t.chunk && t.failureCount == 0 && !s.alone.has(t.Index()):
		return mergeable
	}
	return otherWaiting
}

// place updates the counters of bound and waiting tasks.
func (s *TaskSet) place(t *TrackedTask) {
	s.placed[t.placement]--
	t.placement = s.placementOf(t)
	s.placed[t.placement]++
}

// ChunkLimits limit the chunks of a set.
type ChunkLimits struct {
	// MaxIndexes is the maximum number of indexes in a task.
	MaxIndexes int
	// Slots is the number of tasks that the workers of the namespace run at a time, zero if it is not known.
	Slots int
}

// chunkSize returns how many indexes the next task gets: as many as run for batch.ChunkDuration, but not so many that
// other slots would have nothing left to do at the end. It returns 1 unless all commands are known to be short.
func (s *TaskSet) chunkSize(limits ChunkLimits) int {
	median := s.durations.median()
	if median == 0 || median > maxShort {
		return 1
	}
	// Other tasks that are bound wait for a slot.
	running := s.placed[bound]
	if limits.Slots > 0 {
		running = min(running, limits.Slots)
	}
	left := s.pending.size + s.placed[mergeable]
	return max(1, min(int(batch.ChunkDuration/median), limits.MaxIndexes, left/(2*max(1, running))))
}

// takeChunk removes the first n pending indexes, or fewer if the next one does not fit or must run alone. It returns
// nil if that leaves less than two.
func (s *TaskSet) takeChunk(n int) []indexes.Range {
	if n < 2 {
		return nil
	}
	var chunk []indexes.Range
	items := 0
	for _, r := range s.pending.ranges {
		if len(chunk) == batch.MaxTaskIndexRanges || n == 0 {
			break
		}
		end := r.First
		for ; end <= r.Last && n > 0 && s.failures[end] == 0 && !s.alone.has(end); end++ {
			if end < len(s.items) {
				if items += len(s.items[end]) + 1; items > maxChunkItems {
					break
				}
			}
			n--
		}
		if end > r.First {
			chunk = append(chunk, indexes.Range{First: r.First, Last: end - 1})
		}
		if end <= r.Last {
			break
		}
	}
	if indexes.Count(chunk) < 2 {
		return nil
	}
	for _, r := range chunk {
		s.pending.removeRange(r)
	}
	return chunk
}

// TaskLimit returns how many tasks may be active, at most parallelism. While the controller does not know how long the
// commands run, and while it creates chunks, only few tasks wait for a worker. until is when the limit may rise, zero
// if time does not change it.
func (s *TaskSet) TaskLimit(parallelism int, chunks ChunkLimits, now time.Time) (limit int, until time.Time) {
	if chunks.MaxIndexes < 2 {
		return parallelism, time.Time{}
	}
	few := 2*s.placed[bound] + waitingTasks
	median := s.durations.median()
	switch {
	case median > maxShort:
		return parallelism, time.Time{}
	case median > 0:
		// Each chunk may leave a gap in the completed indexes, which the status lists.
		return max(1, min(parallelism, few, 2*parallelism-s.openRanges())), time.Time{}
	}
	if s.learningSince.IsZero() || !s.boundOnce && s.placed[bound] > 0 {
		s.learningSince, s.boundOnce = now, s.placed[bound] > 0
	}
	if until = s.learningSince.Add(learningTimeout); !until.After(now) {
		return parallelism, time.Time{}
	}
	return min(parallelism, few), until
}

// TasksToMerge returns tasks of one index that wait for a worker and whose indexes can run in chunks, at most n. It
// leaves as many as are bound, so that workers have something to do until the chunks exist.
func (s *TaskSet) TasksToMerge(n int, chunks ChunkLimits) []*TrackedTask {
	excess := s.placed[mergeable] - s.placed[bound]
	if excess <= 0 || s.chunkSize(chunks) < 2 {
		return nil
	}
	tasks := make([]*TrackedTask, 0, s.placed[mergeable])
	for _, t := range s.tasks {
		if t.placement == mergeable && !s.alone.has(t.Index()) {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *TrackedTask) int { return cmp.Compare(b.Index(), a.Index()) })
	return tasks[:min(n, excess, len(tasks))]
}
