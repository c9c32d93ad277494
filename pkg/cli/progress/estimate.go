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

package progress

import (
	"slices"
	"time"
)

const (
	// The rate covers the last rateWindow, or longer until it covers the last rateEnds ends.
	rateWindow = 10 * time.Second
	rateEnds   = 10
	// observable is the least duration of a piece of work whose start is seen. Counts are reported too seldom to show
	// how many shorter pieces run.
	observable = 5 * time.Second
	// keptDurations is the number of recent pieces over which the mean duration is taken.
	keptDurations = 200
)

// Estimate derives a rate and the remaining time from counts.
//
// The rate counts recent ends. The remaining time depends on the duration of a piece and on the number of slots, not on
// the rate alone: fifty of a hundred pieces that end together after a minute are not a rate of fifty a second. So
// Estimate records each start and matches each end to the oldest start. It expects running pieces to end after the mean
// duration, and pending pieces to take turns in as many slots.
type Estimate struct {
	samples   []sample
	starts    []start // of what runs, oldest first
	durations []time.Duration
	last      Snapshot
}

// sample is the number of ended pieces at a time.
type sample struct {
	at    time.Time
	ended int
}

// start is the time at which count pieces began. A zero time means before the first snapshot.
type start struct {
	at    time.Time
	count int
}

// Add records a snapshot. Snapshots must be added in the order of their times.
func (e *Estimate) Add(now time.Time, s Snapshot) {
	first := len(e.samples) == 0
	if s.ended() < e.last.ended() || s.Total != e.last.Total {
		*e = Estimate{}
		first = true
	}
	if first {
		e.samples = []sample{{now, s.ended()}}
		if s.Running > 0 {
			e.starts = []start{{count: s.Running}}
			if s.ended() == 0 {
				// Nothing has ended, so the running pieces began with the work.
				e.starts[0].at = s.Started
			}
		}
		e.last = s
		return
	}
	ends := s.ended() - e.last.ended()
	if ends > 0 {
		e.samples = append(e.samples, sample{now, s.ended()})
	}
	// Pieces that began since the last snapshot run now or have ended. A negative number of pieces went back to
	// pending.
	begun := s.Running - e.last.Running + ends
	if begun > 0 {
		e.starts = append(e.starts, start{now, begun})
	}
	e.finish(now, ends, true)
	e.finish(now, -begun, false)
	e.last = s
}

// finish removes the n oldest starts. If note is set, it records their durations.
func (e *Estimate) finish(now time.Time, n int, note bool) {
	for n > 0 && len(e.starts) > 0 {
		oldest := &e.starts[0]
		count := min(n, oldest.count)
		if note && !oldest.at.IsZero() {
			for range min(count, keptDurations) {
				e.durations = append(e.durations, now.Sub(oldest.at))
			}
		}
		n -= count
		if oldest.count -= count; oldest.count == 0 {
			e.starts = e.starts[1:]
		}
	}
	e.durations = e.durations[max(0, len(e.durations)-keptDurations):]
}

// Rate returns the recent number of ends per second, 0 if it is not known or if the work stands still.
func (e *Estimate) Rate(now time.Time) float64 {
	if e.last.Running == 0 && !e.recent(now) {
		return 0
	}
	return e.rate(now)
}

// rate returns the recent number of ends per second, 0 if it is not known.
func (e *Estimate) rate(now time.Time) float64 {
	if len(e.samples) < 2 {
		return 0
	}
	last := e.samples[len(e.samples)-1].ended
	for len(e.samples) > 2 && now.Sub(e.samples[1].at) >= rateWindow && last-e.samples[1].ended >= rateEnds {
		e.samples = e.samples[1:]
	}
	elapsed := now.Sub(e.samples[0].at).Seconds()
	if elapsed < 1 {
		return 0 // too short to tell
	}
	return float64(last-e.samples[0].ended) / elapsed
}

// recent reports whether a piece has ended within rateWindow.
func (e *Estimate) recent(now time.Time) bool {
	return len(e.samples) > 1 && now.Sub(e.samples[len(e.samples)-1].at) <= rateWindow
}

// Left returns the remaining time, if it is known. It is unknown until a piece whose start was seen has ended, and
// while nothing runs and nothing ends.
func (e *Estimate) Left(now time.Time, s Snapshot) (time.Duration, bool) {
	if s.Total == 0 {
		return 0, false
	}
	rate := e.rate(now)
	if rate <= 0 {
		return 0, false
	}
	mean, known := e.meanDuration()
	if !known && s.Running > 0 {
		return 0, false
	}
	if mean < observable {
		// The rate covers several pieces of each slot, unless work has stopped.
		if !e.recent(now) {
			return 0, false
		}
		return time.Duration(float64(s.Total-s.ended()) / rate * float64(time.Second)), true
	}
	if s.Running == 0 {
		return 0, false
	}
	// The time until each slot is free.
	free := make([]time.Duration, 0, s.Running)
	for _, start := range e.starts {
		remaining := mean / 2
		if !start.at.IsZero() {
			remaining = max(0, mean-now.Sub(start.at))
		}
		for range start.count {
			free = append(free, remaining)
		}
	}
	slices.Sort(free)
	if len(free) == 0 {
		return 0, false
	}
	// Pending pieces fill whole rounds of all slots. The last round uses the slots that are free first.
	rounds, rest := s.Pending/len(free), s.Pending%len(free)
	longest := free[len(free)-1] + time.Duration(rounds)*mean
	if rest > 0 {
		longest = max(longest, free[rest-1]+time.Duration(rounds+1)*mean)
	}
	return longest, true
}

func (e *Estimate) meanDuration() (time.Duration, bool) {
	if len(e.durations) == 0 {
		return 0, false
	}
	var sum time.Duration
	for _, d := range e.durations {
		sum += d
	}
	return sum / time.Duration(len(e.durations)), true
}
