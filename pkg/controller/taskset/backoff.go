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

package taskset

import "time"

// delays grow from base, doubled by each failure, up to limit.
type delays struct {
	base, limit time.Duration
}

// after gives how long to wait after the nth failure in a row.
func (d delays) after(n int) time.Duration {
	if n == 0 {
		return 0
	}
	delay := d.base
	for i := 1; i < n && delay < d.limit; i++ {
		delay *= 2
	}
	return min(delay, d.limit)
}

// retryDelays hold back new tries after failures, by the rules of Job: with a backoff limit per index each index has delays of its
// own, else all wait after failures that no success has followed. They are lost with the process, as Job's are.
type retryDelays struct {
	delays
	// failures have happened since the last success, the last of them at lastFailure.
	failures                 int
	lastFailure, lastSuccess time.Time
	// tries are the failures in a row of an index, waiting says until when it waits.
	tries   map[int]int
	waiting map[int]time.Time
}

func (r *retryDelays) succeeded(at time.Time) {
	if at.After(r.lastSuccess) {
		r.lastSuccess = at
	}
	if !r.lastFailure.After(at) {
		r.failures = 0
	}
}

// failed takes in a failure of an index which had as many before, if known.
func (r *retryDelays) failed(index, before int, at time.Time, perIndex bool) {
	if perIndex {
		if r.tries == nil {
			r.tries, r.waiting = map[int]int{}, map[int]time.Time{}
		}
		r.tries[index] = max(r.tries[index], before) + 1
		r.waiting[index] = at.Add(r.after(r.tries[index]))
		return
	}
	if at.After(r.lastSuccess) {
		r.failures++
		r.lastFailure = at
	}
}

// until gives when new tries are allowed again, of indexes that have no delays of their own.
func (r *retryDelays) until() time.Time {
	if r.failures == 0 {
		return time.Time{}
	}
	return r.lastFailure.Add(r.after(r.failures))
}

// waits tells whether the index waits. It does so until ledger.wake.
func (r *retryDelays) waits(index int) bool {
	_, waits := r.waiting[index]
	return waits
}

// started notes that the index waits no longer; the next failure is in a row with those before.
func (r *retryDelays) started(index int) { delete(r.waiting, index) }

// forget drops what is known of an index that is done.
func (r *retryDelays) forget(index int) {
	delete(r.tries, index)
	delete(r.waiting, index)
}

// earliest gives the earlier of two times, of which the zero one is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
