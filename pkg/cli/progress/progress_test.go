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
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestPlainLines(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Unix(0, 0))
	var out bytes.Buffer
	r := New(&out, WithClock(clock))
	step := func(after time.Duration, s Snapshot) {
		clock.SetTime(clock.Now().Add(after))
		r.Update(s)
	}
	step(0, Snapshot{Pending: 100, Total: 100})
	step(time.Second, Snapshot{Done: 5, Running: 5, Pending: 90, Total: 100})
	step(9*time.Second, Snapshot{Done: 50, Running: 5, Pending: 45, Total: 100})
	step(10*time.Second, Snapshot{Done: 50, Running: 5, Pending: 45, Total: 100})
	step(10*time.Second, Snapshot{Done: 60, Failed: 1, Running: 4, Pending: 35, Total: 100})
	step(10*time.Second, Snapshot{Done: 70, Failed: 1, Pending: 29, Total: 100})
	step(61*time.Second, Snapshot{Done: 70, Failed: 1, Pending: 29, Total: 100})
	step(time.Second, Snapshot{Done: 99, Failed: 1, Total: 100})
	if _, err := r.Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(time.Hour))
	r.Stop()
	r.Stop()
	want := `0/100 done, 0 failed, 0 running, 100 pending after 0s
50/100 done, 0 failed, 5 running, 45 pending after 10s, 5.0/s, 10s left
60/100 done, 1 failed, 4 running, 35 pending after 30s, 0.6/s, 1m11s left
70/100 done, 1 failed, 29 to go after 40s, 1.0/s, 29s left
70/100 done, 1 failed, 0 running, 29 pending after 1m41s
a line
99/100 done, 1 failed after 1m42s
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}

func TestElapsedTimeIsThatOfTheWork(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Unix(10_000, 0))
	started := clock.Now().Add(-time.Hour)
	for _, test := range []struct {
		snapshot Snapshot
		want     string
	}{
		{Snapshot{Running: 1, Total: 1, Started: started}, "0/1 done, 0 failed, 1 running, 0 pending after 1h0m\n"},
		{Snapshot{Running: 1, Total: 1, Started: clock.Now().Add(time.Minute)}, "0/1 done, 0 failed, 1 running, 0 pending after 0s\n"},
		{Snapshot{Done: 1, Total: 1, Started: started, Ended: started.Add(time.Minute)}, "1/1 done, 0 failed after 1m0s\n"},
	} {
		var out bytes.Buffer
		r := New(&out, WithClock(clock))
		r.Update(test.snapshot)
		r.Stop()
		if out.String() != test.want {
			t.Errorf("%+v is shown as %q, expected %q", test.snapshot, out.String(), test.want)
		}
	}
}

// On a terminal the line is redrawn, written lines appear above it, and its last state stays.
func TestTerminal(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, WithTerminal(true))
	r.Update(Snapshot{Pending: 2, Total: 2})
	if _, err := r.Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	r.Update(Snapshot{Done: 2, Total: 2})
	r.Stop()
	line, end := bytes.Index(out.Bytes(), []byte("a line\n")), bytes.LastIndex(out.Bytes(), []byte("2/2 done, 0 failed after 0s"))
	if line < 0 || end < line {
		t.Errorf("got %q", out.String())
	}
}

// Update must not deadlock with the goroutine that draws.
func TestUpdatesWhileTheLineIsDrawn(t *testing.T) {
	var frames atomic.Int32
	r := New(writerFunc(func(b []byte) (int, error) {
		frames.Add(1)
		return len(b), nil
	}), WithTerminal(true))
	for frames.Load() < 3 {
		r.Update(Snapshot{Running: 1, Total: 2})
	}
	r.Stop()
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

func TestFormats(t *testing.T) {
	for rate, want := range map[float64]string{0: "0/s", 1234.5: "1234/s", 12.34: "12.3/s", 0.2: "12.0/min", 0.001: "3.6/h"} {
		if got := FormatRate(rate); got != want {
			t.Errorf("%v is written %q, expected %q", rate, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v is written %q, expected %q", d, got, want)
		}
	}
}
