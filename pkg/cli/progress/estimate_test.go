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
	"testing"
	"time"
)

// simulate runs total pieces of the same duration in a number of slots and reports a snapshot each second. It returns
// the estimated remaining time of each second, -1 where it is unknown, and the total time. Pieces that have run for
// less than seen are reported as pending.
func simulate(total, slots int, duration, seen time.Duration) (left []time.Duration, took time.Duration) {
	const tick = 100 * time.Millisecond
	var e Estimate
	var running []time.Duration // start times
	begin := time.Unix(0, 0)
	s := Snapshot{Total: total, Pending: total, Started: begin}
	for at := time.Duration(0); ; at += tick {
		kept := running[:0]
		for _, since := range running {
			if at-since >= duration {
				s.Done++
			} else {
				kept = append(kept, since)
			}
		}
		running = kept
		for len(running) < slots && s.Done+len(running) < total {
			running = append(running, at)
		}
		s.Pending = total - s.Done - len(running)
		if at%time.Second == 0 {
			reported := s
			for _, since := range running {
				if at-since >= seen {
					reported.Running++
				}
			}
			reported.Pending = total - s.Done - reported.Running
			e.Add(begin.Add(at), reported)
			d, known := e.Left(begin.Add(at), reported)
			if !known {
				d = -1
			}
			left = append(left, d)
		}
		if s.Done == total {
			return left, at
		}
	}
}

func TestTimeLeft(t *testing.T) {
	for _, test := range []struct {
		name         string
		total, slots int
		duration     time.Duration
		seen         time.Duration
		from         time.Duration // when the remaining time must be known
		tolerance    time.Duration
	}{
		{"all at a time", 10, 10, time.Minute, 0, time.Hour, 0},
		{"two rounds", 100, 50, time.Minute, 0, time.Minute, 2 * time.Second},
		{"two rounds and a bit", 101, 50, time.Minute, 0, time.Minute, 2 * time.Second},
		{"many rounds", 1000, 10, 20 * time.Second, 0, 30 * time.Second, 10 * time.Second},
		{"one at a time", 6, 1, time.Minute, 0, time.Minute, 2 * time.Second},
		{"short", 1000, 4, 200 * time.Millisecond, time.Hour, 5 * time.Second, 5 * time.Second},
		{"some seconds", 200, 4, 2 * time.Second, 300 * time.Millisecond, 15 * time.Second, 15 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			left, took := simulate(test.total, test.slots, test.duration, test.seen)
			for second, got := range left[:len(left)-1] {
				at := time.Duration(second) * time.Second
				actual := took - at
				switch {
				case at < test.duration && got >= 0:
					t.Fatalf("after %s, before anything has ended, %s are said to be left", at, got)
				case at < test.from:
				case got < 0:
					t.Fatalf("after %s it is not known how long is left", at)
				case (got - actual).Abs() > test.tolerance:
					t.Fatalf("after %s, %s are said to be left, and it is %s", at, got, actual)
				}
			}
		})
	}
}

// A later "leat wait" does not know when the running pieces began.
func TestTimeLeftAfterReattaching(t *testing.T) {
	var e Estimate
	at := time.Unix(0, 0)
	e.Add(at, Snapshot{Done: 10, Running: 10, Pending: 10, Total: 30})
	at = at.Add(30 * time.Second)
	e.Add(at, Snapshot{Done: 20, Running: 10, Total: 30})
	if left, known := e.Left(at, Snapshot{Done: 20, Running: 10, Total: 30}); known {
		t.Errorf("%s are said to be left", left)
	}
}

// A task that runs several short indexes reports them once a second, while it seems to run only one.
func TestTimeLeftOfWorkThatIsReportedInBatches(t *testing.T) {
	var e Estimate
	at := time.Unix(0, 0)
	const slots, batch, total = 16, 100, 160_000
	e.Add(at, Snapshot{Pending: total, Total: total, Started: at})
	for second := 1; second <= 40; second++ {
		done := (second - 1) * slots * batch
		s := Snapshot{Done: done, Running: slots, Pending: total - done - slots, Total: total, Started: at}
		now := at.Add(time.Duration(second) * time.Second)
		e.Add(now, s)
		actual := time.Duration(total/slots/batch-second+1) * time.Second
		if left, known := e.Left(now, s); second > 10 && (!known || (left-actual).Abs() > actual/10) {
			t.Fatalf("after %ds, %s are said to be left (%t), and it is %s", second, left, known, actual)
		}
	}
}

func TestTimeLeftOfStalledWork(t *testing.T) {
	var e Estimate
	at := time.Unix(0, 0)
	for done := range 21 {
		e.Add(at.Add(time.Duration(done)*time.Second), Snapshot{Done: done, Pending: 100 - done, Total: 100})
	}
	stuck := Snapshot{Done: 20, Pending: 80, Total: 100}
	if left, known := e.Left(at.Add(21*time.Second), stuck); !known || left < 75*time.Second || left > 90*time.Second {
		t.Errorf("while it goes on, %s are said to be left (%t)", left, known)
	}
	if left, known := e.Left(at.Add(time.Minute), stuck); known {
		t.Errorf("while it stands still, %s are said to be left", left)
	}
}
