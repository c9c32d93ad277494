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

package taskrunner

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// chunk is what a runner knows about a task with spec.indexes in addition. The worker runs its indexes one after the
// other, and each is an attempt of its own: the attempt at one index that succeeds is followed by that at the next. The
// index that runs, or runs next, is that at position status.completedCount.
type chunk struct {
	ranges []indexes.Range
	// endLogs ends the output of the task.
	endLogs func()
	// The first start under the assignment sets the fields below.
	startedAt time.Time    // zero before
	full      *time.Timer  // fires batch.ChunkDuration after the start
	announce  *time.Timer  // fires AnnounceDelay later: most chunks have ended by then, and cost no report of their start
	poll      *time.Ticker // fires when progress is reported
	// indexStartedAt is when the index that runs was started, nil between two indexes.
	indexStartedAt *metav1.Time
}

// startChunk sets what the runner knows about a task with spec.indexes.
func (r *Runner) startChunk() {
	s := r.task.Status
	r.chunk = &chunk{ranges: r.task.IndexRanges(), endLogs: r.config.Logs.StartRun(r.task.UID)}
	r.status.indexCount = int32(indexes.Count(r.chunk.ranges))
	r.status.completedCount, r.status.indexLimit = s.CompletedCount, s.IndexLimit
	r.status.busy = time.Duration(s.BusyMilliseconds) * time.Millisecond
}

// close ends the output and stops the timers.
func (c *chunk) close() {
	c.endLogs()
	if !c.startedAt.IsZero() {
		c.announce.Stop()
		c.poll.Stop()
		c.full.Stop()
	}
}

// started records the start of an index. The first one starts the timers.
func (c *chunk) started(config *Config, at metav1.Time) {
	c.indexStartedAt = &at
	if c.startedAt.IsZero() {
		c.startedAt = at.Time
		left := batch.ChunkDuration - time.Since(at.Time)
		c.full, c.announce = time.NewTimer(left), time.NewTimer(left+config.AnnounceDelay)
		c.poll = time.NewTicker(config.ProgressInterval)
	}
}

// atIndex returns the next index, and the task as it would be for that index alone.
func (r *Runner) atIndex() (*batch.Task, int) {
	position := int(r.status.completedCount)
	return r.task.AtIndex(r.chunk.ranges, position), indexes.At(r.chunk.ranges, position)
}

// indexEnded counts an index that has ended after some time. One that was terminated for a drain runs again elsewhere,
// and has not ended, unless it has succeeded nevertheless.
func (r *Runner) indexEnded(terminated *batch.TaskStateTerminated, took time.Duration) {
	r.stopDeadline()
	r.chunk.indexStartedAt = nil
	hasSucceeded := terminated.Reason == batch.TaskReasonCompleted && r.stopReason != stoppedByDeadline
	if !hasSucceeded && (r.stopReason == stoppedByDrain || r.stopReason == stoppedByLoss) {
		return
	}
	r.status.busy += max(took, 1)
	r.config.Metrics.indexFinished(hasSucceeded)
	if hasSucceeded {
		r.status.completedCount++
	}
}

// startsNextIndex reports whether another index is started after one has ended.
func (r *Runner) startsNextIndex(last *batch.TaskStateTerminated) bool {
	if last.Reason != batch.TaskReasonCompleted || r.stopReason != notStopped ||
		r.status.completedCount >= r.status.indexEnd() || time.Since(r.chunk.startedAt) >= batch.ChunkDuration {
		return false
	}
	r.status.attempts = 0
	return true
}

// releaseRest ends a chunk whose time has passed. If other indexes wait behind the one that runs, it releases them at
// once: from here on this worker starts none of them, whatever becomes of the write. Between two indexes it finishes
// the task.
func (r *Runner) releaseRest() {
	if r.phase == starting {
		r.handle(ended)
		return
	}
	if next := r.status.completedCount + 1; next < r.status.indexEnd() {
		r.lowerIndexLimit(&next)
		r.dirty = true
	}
}

// lowerIndexLimit lowers the number of indexes that may run. It does nothing if that is not lower.
func (r *Runner) lowerIndexLimit(limit *int32) {
	if limit != nil && *limit < r.status.indexEnd() {
		r.status.indexLimit = limit
	}
	r.endIfReleased()
}

// endIfReleased ends the task if the next index is not its own any more.
func (r *Runner) endIfReleased() {
	if r.status.completedCount >= r.status.indexEnd() && (r.phase == reporting || r.phase == starting) {
		r.handle(ended)
	}
}

// storeCompleted writes how many indexes have succeeded and the attempts at the next one, unless they are stored. It
// returns the task as stored.
func (r *Runner) storeCompleted(ctx context.Context) (*batch.Task, error) {
	stored := r.task.Status
	if r.chunk == nil || stored.CompletedCount == r.status.completedCount && stored.Attempts == r.status.attempts {
		return r.task, nil
	}
	return r.assignment.updateStatus(ctx, r.lost, r.task, r.status.applyTo)
}

// indexEnd returns the position after the last index that may run.
func (t *taskStatus) indexEnd() int32 {
	return min(t.indexCount, ptr.Deref(t.indexLimit, t.indexCount))
}

// applyIndexesTo sets the fields of the status that only a task with spec.indexes has. The stored indexLimit may be
// lower than the worker knows: other tasks run again what this worker has run past it, so that does not count. The task
// has then succeeded, or is at the last index that it may run.
func (t *taskStatus) applyIndexesTo(s *batch.TaskStatus) {
	if s.IndexLimit == nil || t.indexLimit != nil && *t.indexLimit < *s.IndexLimit {
		s.IndexLimit = t.indexLimit
	}
	end := min(t.indexCount, ptr.Deref(s.IndexLimit, t.indexCount))
	switch {
	case t.completedCount < end || t.completedCount == end && t.phase == batch.TaskSucceeded:
	case t.phase.Finished():
		t.phase, t.completedCount = batch.TaskSucceeded, end
		last := *t.state.Terminated
		last.ExitCode, last.Signal, last.Reason, last.Message = 0, 0, batch.TaskReasonCompleted, ""
		t.state.Terminated = &last
	default:
		if t.completedCount = end - 1; t.completedCount == s.CompletedCount {
			t.attempts = max(t.attempts, s.Attempts)
		}
	}
	s.CompletedCount = t.completedCount
}
