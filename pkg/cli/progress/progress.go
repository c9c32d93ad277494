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

// Package progress shows the progress of work that consists of pieces: as a bar on a terminal, as plain lines
// elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
	"k8s.io/utils/clock"
)

const (
	// plainInterval is the interval between plain lines while the snapshot changes.
	plainInterval = 10 * time.Second
	// plainHeartbeat is the interval between plain lines while it does not change.
	plainHeartbeat = time.Minute
	// barWidth leaves space for the figures on a terminal of 80 columns.
	barWidth = 20
)

// Snapshot is the state of the work. The caller counts Pending and Total. A Total of 0 means unknown.
type Snapshot struct {
	Done, Failed, Running, Pending, Total int
	// Started and Ended are the times when the work began and ended. If they are zero, the renderer uses the times when
	// it was first shown a begun and an ended snapshot.
	Started, Ended time.Time
}

// Add returns the combined snapshot of two works. Its Started is the earlier start, its Ended the later end.
func (s Snapshot) Add(other Snapshot) Snapshot {
	if s == (Snapshot{}) {
		return other
	}
	sum := Snapshot{
		Done: s.Done + other.Done, Failed: s.Failed + other.Failed, Running: s.Running + other.Running, Pending: s.Pending + other.Pending,
		Started: s.Started, Ended: other.Ended,
	}
	if s.Total > 0 && other.Total > 0 {
		sum.Total = s.Total + other.Total
	}
	if !other.Started.IsZero() && (s.Started.IsZero() || other.Started.Before(s.Started)) {
		sum.Started = other.Started
	}
	if s.Ended.After(other.Ended) {
		sum.Ended = s.Ended
	}
	return sum
}

// ended returns the number of ended pieces.
func (s Snapshot) ended() int { return s.Done + s.Failed }

// finished reports whether all pieces have ended.
func (s Snapshot) finished() bool { return s.Total > 0 && s.ended() >= s.Total && s.Running == 0 }

// Renderer shows snapshots. Its methods are safe for concurrent use. On a terminal it is either drawing, from the first
// Update until Stop, or idle; bars is nil while it is idle.
type Renderer struct {
	out      io.Writer
	terminal bool
	clock    clock.PassiveClock

	mu       sync.Mutex
	current  Snapshot
	begun    time.Time // when the first snapshot came
	ended    time.Time // when a snapshot first was finished; zero while the work goes on
	estimate Estimate
	written  time.Time     // when the last plain line was written
	shown    Snapshot      // of the last plain line
	bars     *mpb.Progress // nil while idle
	bar      *mpb.Bar
}

// Option configures a Renderer.
type Option func(*Renderer)

// WithTerminal sets whether the output is a terminal. The default is to detect it.
func WithTerminal(terminal bool) Option { return func(r *Renderer) { r.terminal = terminal } }

// WithClock sets the clock. The default is the real clock.
func WithClock(clock clock.PassiveClock) Option { return func(r *Renderer) { r.clock = clock } }

// New returns a Renderer that writes to out. Call Stop when the work has ended.
func New(out io.Writer, options ...Option) *Renderer {
	r := &Renderer{out: out, terminal: IsTerminal(out), clock: clock.RealClock{}}
	for _, option := range options {
		option(r)
	}
	return r
}

// IsTerminal reports whether the stream, a reader or a writer, is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Update shows a snapshot. Call it periodically even if nothing changes, so that the elapsed time is shown.
func (r *Renderer) Update(s Snapshot) {
	bar := r.note(s)
	if bar == nil {
		return
	}
	// Do not hold the lock: the goroutine that receives these calls takes it to draw the line.
	bar.SetTotal(int64(max(s.Total, 1)), false)
	bar.SetCurrent(int64(min(s.Done+s.Failed, s.Total)))
}

// note records a snapshot and writes a plain line if one is due. On a terminal it returns the bar to move instead.
func (r *Renderer) note(s Snapshot) *mpb.Bar {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun.IsZero() {
		r.begun = now
	}
	if !s.finished() {
		r.ended = time.Time{}
	} else if r.ended.IsZero() {
		r.ended = now
	}
	r.current = s
	r.estimate.Add(now, s)
	if r.terminal {
		if r.bars == nil {
			r.begin()
		}
		return r.bar
	}
	if since := now.Sub(r.written); r.written.IsZero() || since >= plainInterval && s != r.shown || since >= plainHeartbeat {
		r.written, r.shown = now, s
		fmt.Fprintln(r.out, r.text())
	}
	return nil
}

// begin starts drawing the line on the terminal. It redraws itself several times a second. The caller holds mu.
func (r *Renderer) begin() {
	r.bars = mpb.New(mpb.WithOutput(r.out), mpb.WithAutoRefresh())
	r.bar = r.bars.New(0, mpb.BarStyle().Lbound("").Rbound("").Filler("█").Tip("█").Padding("░").Refiller("█"),
		mpb.BarWidth(barWidth), mpb.BarFillerTrim(),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			r.mu.Lock()
			defer r.mu.Unlock()
			return " " + r.text()
		})))
}

// Stop shows the last snapshot and stops drawing, so that later output appears below it. A later Update starts a new
// line.
func (r *Renderer) Stop() {
	r.mu.Lock()
	bars, bar := r.bars, r.bar
	r.bars, r.bar = nil, nil
	if !r.terminal && !r.written.IsZero() && r.shown != r.current {
		r.written, r.shown = r.clock.Now(), r.current
		fmt.Fprintln(r.out, r.text())
	}
	r.mu.Unlock()
	// Do not hold the lock: drawing takes it.
	if bars != nil {
		bar.Abort(false)
		bars.Wait()
	}
}

// Write writes whole lines above the progress. It implements io.Writer.
func (r *Renderer) Write(lines []byte) (int, error) {
	r.mu.Lock()
	bars := r.bars
	r.mu.Unlock()
	if bars == nil {
		return r.out.Write(lines)
	}
	return bars.Write(lines)
}

// text returns the line for the current snapshot. The caller holds mu.
func (r *Renderer) text() string {
	now, s := r.clock.Now(), r.current
	var b strings.Builder
	b.WriteString(strconv.Itoa(s.Done))
	if s.Total > 0 {
		fmt.Fprintf(&b, "/%d", s.Total)
	}
	fmt.Fprintf(&b, " done, %d failed", s.Failed)
	rate := r.estimate.Rate(now)
	switch {
	case s.finished():
	case s.Running == 0 && rate > 0:
		// Pieces start and end between two snapshots: some slots are busy, but it is unknown how many.
		fmt.Fprintf(&b, ", %d to go", s.Pending)
	default:
		fmt.Fprintf(&b, ", %d running, %d pending", s.Running, s.Pending)
	}
	b.WriteString(" after " + shortDuration(r.elapsed(now)))
	if s.finished() || rate <= 0 {
		return b.String()
	}
	b.WriteString(", " + FormatRate(rate))
	if left, known := r.estimate.Left(now, s); known {
		fmt.Fprintf(&b, ", %s left", shortDuration(left))
	}
	return b.String()
}

// elapsed returns the time that the work has taken so far, or took if it has ended.
func (r *Renderer) elapsed(now time.Time) time.Duration {
	begun := r.begun
	if !r.current.Started.IsZero() {
		begun = r.current.Started
	}
	switch {
	case !r.current.finished():
	case !r.current.Ended.IsZero():
		now = r.current.Ended
	default:
		now = r.ended
	}
	return max(0, now.Sub(begun)) // the clock of the server may be ahead
}

// FormatRate formats a rate per second. Small rates are converted to a rate per minute or per hour.
func FormatRate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0/s"
	case perSecond >= 100:
		return fmt.Sprintf("%.0f/s", perSecond)
	case perSecond >= 0.5:
		return fmt.Sprintf("%.1f/s", perSecond)
	case perSecond*60 >= 0.5:
		return fmt.Sprintf("%.1f/min", perSecond*60)
	}
	return fmt.Sprintf("%.1f/h", perSecond*3600)
}

// shortDuration formats a duration with at most two units.
func shortDuration(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
