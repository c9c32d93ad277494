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

import "time"

// ExponentialBackoff is a delay that starts at Base, doubles with each failure and ends at Max.
type ExponentialBackoff struct {
	Base, Max time.Duration
}

// Delay returns how long to wait after the given number of failures in a row.
func (b ExponentialBackoff) Delay(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	delay := b.Base
	for i := 1; i < failures && delay < b.Max; i++ {
		delay *= 2
	}
	return min(delay, b.Max)
}

// failureBackoff delays the tasks that follow failed ones, by the rules of the Job controller: with a backoff limit per
// index each index has a backoff of its own, else one backoff of all indexes lasts until a task succeeds. The backoff
// is kept in memory only, as the Job controller's is.
type failureBackoff struct {
	ExponentialBackoff
	// failures counts the failures since the last success, the last of them at lastFailure.
	failures                 int
	lastFailure, lastSuccess time.Time
	// consecutiveFailures counts the failures in a row of an index. readyAt is when the backoff of an index ends.
	consecutiveFailures map[int]int
	readyAt             map[int]time.Time
}

// recordSuccess ends the backoff of all indexes if the success at that time is later than the last failure.
func (b *failureBackoff) recordSuccess(at time.Time) {
	if at.After(b.lastSuccess) {
		b.lastSuccess = at
	}
	if !b.lastFailure.After(at) {
		b.failures = 0
	}
}

// recordFailure starts the backoff after a failure of an index. failureCount is the failure count of the failed task.
func (b *failureBackoff) recordFailure(index, failureCount int, at time.Time, perIndex bool) {
	if perIndex {
		if b.consecutiveFailures == nil {
			b.consecutiveFailures, b.readyAt = map[int]int{}, map[int]time.Time{}
		}
		b.consecutiveFailures[index] = max(b.consecutiveFailures[index], failureCount) + 1
		b.readyAt[index] = at.Add(b.Delay(b.consecutiveFailures[index]))
		return
	}
	if at.After(b.lastSuccess) {
		b.failures++
		b.lastFailure = at
	}
}

// until returns when the backoff of all indexes ends, zero if there is none.
func (b *failureBackoff) until() time.Time {
	if b.failures == 0 {
		return time.Time{}
	}
	return b.lastFailure.Add(b.Delay(b.failures))
}

// recordStart ends the backoff of an index that has a task again. A later failure counts as one more in a row.
func (b *failureBackoff) recordStart(index int) { delete(b.readyAt, index) }

// forget removes an index that needs no more tasks.
func (b *failureBackoff) forget(index int) {
	delete(b.consecutiveFailures, index)
	delete(b.readyAt, index)
}

// isEmpty reports whether no index has failed in a row or is in backoff.
func (b *failureBackoff) isEmpty() bool {
	return len(b.consecutiveFailures) == 0 && len(b.readyAt) == 0
}

// earliest returns the earlier of two times. The zero time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
