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

// Package progress shows on a terminal, or in plain lines elsewhere, how far work in pieces has come.
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
	// plainInterval is how often a line is written where there is no terminal, if anything has changed.
	plainInterval = 10 * time.Second
	// memory is how far the rate looks back.
	memory = 10 * time.Second
	// barWidth leaves room for the figures on a terminal of 80 columns.
	barWidth = 20
)

// Snapshot is how far the work has come. Pending and Total are counted by whoever makes it; a Total of 0 is unknown.
type Snapshot struct {
	Done, Failed, Running, Pending, Total int
}

// Renderer shows snapshots. Its methods are safe for concurrent use.
type Renderer struct {
	out      io.Writer
	terminal bool
	clock    clock.PassiveClock

	mu      sync.Mutex
	current Snapshot
	rate    rate
	written time.Time // of the last plain line
	shown   Snapshot  // in the last plain line
	bars    *mpb.Progress
	bar     *mpb.Bar
}

// Option changes how a Renderer shows what it is given.
type Option func(*Renderer)

// WithTerminal says whether the output is a terminal, in place of finding out.
func WithTerminal(terminal bool) Option { return func(r *Renderer) { r.terminal = terminal } }

// WithClock sets the clock that rates are measured by.
func WithClock(clock clock.PassiveClock) Option { return func(r *Renderer) { r.clock = clock } }

// New makes a renderer that writes to out: a line that changes on a terminal, else a line now and then. Stop ends it.
func New(out io.Writer, options ...Option) *Renderer {
	r := &Renderer{out: out, terminal: IsTerminal(out), clock: clock.RealClock{}}
	for _, option := range options {
		option(r)
	}
	return r
}

// IsTerminal tells whether the stream, a reader or a writer, is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Update shows a new snapshot.
func (r *Renderer) Update(s Snapshot) {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = s
	r.rate.add(now, s.Done+s.Failed)
	if r.terminal {
		r.draw(s)
		return
	}
	if r.written.IsZero() || now.Sub(r.written) >= plainInterval && s != r.shown {
		r.written, r.shown = now, s
		fmt.Fprintln(r.out, r.text())
	}
}

// draw begins the line on the terminal, or hands it what is new. It draws itself from then on, several times a second.
func (r *Renderer) draw(s Snapshot) {
	total := int64(max(s.Total, 1))
	if r.bars == nil {
		r.bars = mpb.New(mpb.WithOutput(r.out), mpb.WithAutoRefresh())
		r.bar = r.bars.New(0, mpb.BarStyle().Lbound("").Rbound("").Filler("█").Tip("█").Padding("░").Refiller("█"),
			mpb.BarWidth(barWidth), mpb.BarFillerTrim(),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
				r.mu.Lock()
				defer r.mu.Unlock()
				return " " + r.text()
			})))
	}
	r.bar.SetTotal(total, false)
	r.bar.SetCurrent(int64(min(s.Done+s.Failed, s.Total)))
}

// Stop shows the last snapshot and ends: what is written to the output then comes below. A later Update begins anew.
func (r *Renderer) Stop() {
	r.mu.Lock()
	bars, bar := r.bars, r.bar
	r.bars, r.bar = nil, nil
	if !r.terminal && !r.written.IsZero() && r.shown != r.current {
		r.written, r.shown = r.clock.Now(), r.current
		fmt.Fprintln(r.out, r.text())
	}
	r.mu.Unlock()
	// Without the lock, which drawing takes.
	if bars != nil {
		bar.Abort(false)
		bars.Wait()
	}
}

// Write writes whole lines above the progress.
func (r *Renderer) Write(lines []byte) (int, error) {
	r.mu.Lock()
	bars := r.bars
	r.mu.Unlock()
	if bars == nil {
		return r.out.Write(lines)
	}
	return bars.Write(lines)
}

// text gives the current snapshot in words.
func (r *Renderer) text() string {
	s := r.current
	var b strings.Builder
	b.WriteString(strconv.Itoa(s.Done))
	if s.Total > 0 {
		fmt.Fprintf(&b, "/%d", s.Total)
	}
	fmt.Fprintf(&b, " done, %d failed, %d running, %d pending", s.Failed, s.Running, s.Pending)
	perSecond := r.rate.perSecond()
	if perSecond <= 0 {
		return b.String()
	}
	b.WriteString(", " + FormatRate(perSecond))
	if left := s.Total - s.Done - s.Failed; left > 0 {
		fmt.Fprintf(&b, ", %s left", shortDuration(time.Duration(float64(left)/perSecond*float64(time.Second))))
	}
	return b.String()
}

// FormatRate writes a number per second so that it can be read: per minute or hour where that is more than one.
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

// shortDuration writes a duration in at most two units.
func shortDuration(d time.Duration) string {
	switch d = max(d.Round(time.Second), time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// rate is what has ended per second, of late.
type rate struct {
	samples []sample
}

type sample struct {
	at    time.Time
	ended int
}

// add takes in how many have ended by now, and forgets what is older than memory, but for one sample to compare with.
func (r *rate) add(at time.Time, ended int) {
	if n := len(r.samples); n > 0 && ended < r.samples[n-1].ended {
		r.samples = nil
	}
	r.samples = append(r.samples, sample{at, ended})
	for len(r.samples) > 2 && at.Sub(r.samples[1].at) >= memory {
		r.samples = r.samples[1:]
	}
}

// perSecond gives the rate, 0 if it is not known yet.
func (r *rate) perSecond() float64 {
	if len(r.samples) < 2 {
		return 0
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	elapsed := last.at.Sub(first.at).Seconds()
	if elapsed < 1 {
		return 0 // too short to tell
	}
	return float64(last.ended-first.ended) / elapsed
}
