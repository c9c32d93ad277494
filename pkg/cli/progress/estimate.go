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
	// rateWindow is how far the rate looks back, and rateEnds how many ends it looks back over, if those took longer.
	rateWindow = 10 * time.Second
	rateEnds   = 10
	// observable is how long a piece of work must take for its start to be seen. The counts of shorter ones are reported too
	// seldom to tell how many run.
	observable = 5 * time.Second
	// keptDurations is over how many pieces of work their mean duration is taken.
	keptDurations = 200
)

// estimate derives a rate and the time that is left from counts.
//
// The rate is that of the ends seen of late. The time that is left depends on the duration of the pieces, and on the slots that
// they run in, not on the rate alone: fifty of a hundred that end together after a minute are not a rate of fifty a second, and
// the last one takes as long however fast others ended. So each start is noted, each end is taken for that of the oldest start,
// and what runs is expected to end, and what is pending to take its turn in as many slots, after the mean duration.
type estimate struct {
	samples   []sample
	starts    []start // of what runs, oldest first
	durations []time.Duration
	last      Snapshot
}

// sample is how many pieces had ended.
type sample struct {
	at    time.Time
	ended int
}

// start is when so many pieces began; at zero it was before the first snapshot.
type start struct {
	at    time.Time
	count int
}

func (e *estimate) add(now time.Time, s Snapshot) {
	first := len(e.samples) == 0
	if s.ended() < e.last.ended() || s.Total != e.last.Total {
		*e = estimate{}
		first = true
	}
	if first {
		e.samples = []sample{{now, s.ended()}}
		if s.Running > 0 {
			e.starts = []start{{count: s.Running}}
			if s.ended() == 0 {
				// Then what runs is the first of the work.
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
	// What has started since is what runs now and did not before, and what has ended since. Fewer than none have gone back.
	begun := s.Running - e.last.Running + ends
	if begun > 0 {
		e.starts = append(e.starts, start{now, begun})
	}
	e.finish(now, ends, true)
	e.finish(now, -begun, false)
	e.last = s
}

// finish takes the n oldest starts out, and notes how long ago they were.
func (e *estimate) finish(now time.Time, n int, note bool) {
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

// rate returns how many pieces end per second of late, 0 if that is not known.
func (e *estimate) rate(now time.Time) float64 {
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

// recent reports whether pieces have ended of late.
func (e *estimate) recent(now time.Time) bool {
	return len(e.samples) > 1 && now.Sub(e.samples[len(e.samples)-1].at) <= rateWindow
}

// left returns how long the rest will take. It is not known before pieces have ended whose start was seen, nor while nothing runs
// and nothing ends.
func (e *estimate) left(now time.Time, s Snapshot) (time.Duration, bool) {
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
		// The window of the rate has seen each slot at work several times, unless work has stopped.
		if !e.recent(now) {
			return 0, false
		}
		return time.Duration(float64(s.Total-s.ended()) / rate * float64(time.Second)), true
	}
	if s.Running == 0 {
		return 0, false
	}
	// When each slot is free again.
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
	// All slots take turns: the pending pieces fill whole rounds, and the last round takes the slots that are free first.
	rounds, rest := s.Pending/len(free), s.Pending%len(free)
	longest := free[len(free)-1] + time.Duration(rounds)*mean
	if rest > 0 {
		longest = max(longest, free[rest-1]+time.Duration(rounds+1)*mean)
	}
	return longest, true
}

func (e *estimate) meanDuration() (time.Duration, bool) {
	if len(e.durations) == 0 {
		return 0, false
	}
	var sum time.Duration
	for _, d := range e.durations {
		sum += d
	}
	return sum / time.Duration(len(e.durations)), true
}
