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

package worker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Reasons of the condition ResourcePressure.
const (
	reasonOpenFiles  = "TooManyOpenFiles"
	reasonProcesses  = "TooManyProcesses"
	reasonMemory     = "OutOfMemory"
	reasonSpace      = "NoSpace"
	reasonSufficient = "SufficientResources"
)

// shortage returns the reason of the condition ResourcePressure that err stands for. It returns "" for any error that
// does not come from a lack of something on the machine of the worker.
func shortage(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return reasonOpenFiles
	case errors.Is(err, unix.EAGAIN):
		return reasonProcesses
	case errors.Is(err, unix.ENOMEM):
		return reasonMemory
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return reasonSpace
	}
	return ""
}

// passes reports whether a start that failed with err may succeed later with nothing changed about the command: the
// worker lacks something, or somebody still writes the program.
func passes(err error) bool { return shortage(err) != "" || errors.Is(err, unix.ETXTBSY) }

// pressure is how many tasks a worker takes while it lacks what it needs to start commands. It is safe for concurrent
// use.
//
//	state  event                                 action
//	none   a command cannot be started           → held: the limit is the number of commands that run
//	held   a command cannot be started           the limit is lowered to the number of commands that run
//	held   the hold is over, disk space is short the hold doubles
//	held   the hold is over                      → grows: the limit is raised by 1
//	grows  the shortest hold is over             the limit is raised by twice as much as the last time
//	grows  a command cannot be started           → held: as from none, with twice the hold
//	any    the limit reaches the capacity        → none
//
// The first hold is base. The hold starts over at base when nothing has failed for twice the longest hold.
type pressure struct {
	capacity  int64
	base, max time.Duration
	// spaceLeft returns an error while there is no disk space. A start of a command need not show that.
	spaceLeft func() error
	// changed holds a signal while limit or the condition is news.
	changed chan struct{}

	mu      sync.Mutex
	reason  string // of the condition, empty in state none
	message string
	limit   int64
	raise   int64 // by how much the limit was last raised, zero while held
	hold    time.Duration
	last    time.Time // when a command could not be started
	timer   *time.Timer
	stopped bool
}

func newPressure(capacity int64, base, longest time.Duration) *pressure {
	return &pressure{
		capacity: capacity, limit: capacity, base: base, max: longest,
		spaceLeft: func() error { return nil }, changed: make(chan struct{}, 1),
	}
}

// note takes in that the worker lacked something, while the given number of commands was running. err must be a
// shortage.
func (p *pressure) note(err error, running int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	held, now := p.reason != "" && p.raise == 0, time.Now()
	if !held {
		p.hold = min(2*p.hold, p.max)
		if p.hold == 0 || now.Sub(p.last) > 2*p.max {
			p.hold = p.base
		}
	}
	p.last, p.raise = now, 0
	if reason := shortage(err); reason != p.reason {
		p.reason, p.message = reason, err.Error()
	}
	p.limit = min(p.limit, running)
	if !held {
		klog.Background().Error(err, "Cannot start commands; the worker takes fewer tasks", "reason", p.reason, "tasks", p.limit, "hold", p.hold)
	}
	p.after(p.hold)
	p.signal()
}

// grow raises the limit once the hold is over.
func (p *pressure) grow() {
	p.mu.Lock()
	short := p.reason == reasonSpace
	p.mu.Unlock()
	var err error
	if short {
		err = p.spaceLeft()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped || p.reason == "" || time.Since(p.last) < p.hold:
		return
	case err != nil:
		p.hold = min(2*p.hold, p.max)
		p.last, p.message, p.raise = time.Now(), err.Error(), 0
		p.after(p.hold)
		return
	}
	p.raise = max(1, 2*p.raise)
	if p.limit += p.raise; p.limit >= p.capacity {
		p.limit, p.reason, p.message, p.raise = p.capacity, "", "", 0
		klog.Background().Info("The worker takes as many tasks as before")
	} else {
		p.after(p.base)
	}
	p.signal()
}

// after calls grow after d, and not earlier. It must be called with the lock.
func (p *pressure) after(d time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(d, p.grow)
}

func (p *pressure) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// stop ends all that p does by itself.
func (p *pressure) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// state returns how many tasks the worker takes, and the condition that says so, nil without pressure.
func (p *pressure) state() (limit int64, condition *metav1.Condition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == "" {
		return p.limit, nil
	}
	return p.limit, &metav1.Condition{
		Type: batch.WorkerResourcePressure, Status: metav1.ConditionTrue, Reason: p.reason,
		Message: fmt.Sprintf("The worker takes %d tasks of %d: %s", p.limit, p.capacity, p.message),
	}
}
