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

// Package pressure limits the tasks of a worker while its machine lacks the resources to start commands.
package pressure

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

// Reasons of the condition ResourcePressure. ReasonSufficient is that of its absence.
const (
	reasonOpenFiles  = "TooManyOpenFiles"
	reasonProcesses  = "TooManyProcesses"
	reasonMemory     = "OutOfMemory"
	reasonSpace      = "NoSpace"
	ReasonSufficient = "SufficientResources"
)

// Reason returns the reason of the condition ResourcePressure for err. It returns "" if err does not mean
// that the machine of the worker lacks a resource.
func Reason(err error) string {
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

// IsTransient reports whether a command that failed to start with err may start later, unchanged: the worker lacks a
// resource, or another process still writes the program.
func IsTransient(err error) bool { return Reason(err) != "" || errors.Is(err, unix.ETXTBSY) }

// Tracker limits how many tasks a worker accepts while it lacks the resources to start commands. It is safe for
// concurrent use.
//
//	state    event                                  → action
//	none     a command cannot start                 → held: the limit is the number of running commands
//	held     a command cannot start                 → the limit is lowered to the number of running commands
//	held     the hold has passed, the disk is full  → the hold doubles
//	held     the hold has passed                    → growing: the limit grows by 1
//	growing  the base hold has passed               → the limit grows by twice the previous step
//	growing  a command cannot start                 → held: as from none, with twice the hold
//	any      the limit reaches the capacity         → none
//
// The first hold is base. The hold is reset to base if nothing has failed for twice the longest hold.
type Tracker struct {
	capacity  int64
	base, max time.Duration
	// CheckSpace returns an error while the disk is full. It must be set before the tracker is used. A full disk need
	// not make a command fail to start.
	CheckSpace func() error
	// Changed has a signal while the limit or the condition is new.
	Changed chan struct{}

	mu      sync.Mutex
	reason  string // of the condition, empty in state none
	message string
	limit   int64
	step    int64 // the last growth of the limit, zero while held
	hold    time.Duration
	last    time.Time // a command failed to start
	timer   *time.Timer
	stopped bool
}

// NewTracker returns a tracker for a worker with the given capacity of tasks. base is the first hold, longest the
// longest.
func NewTracker(capacity int64, base, longest time.Duration) *Tracker {
	return &Tracker{
		capacity: capacity, limit: capacity, base: base, max: longest,
		CheckSpace: func() error { return nil }, Changed: make(chan struct{}, 1),
	}
}

// RecordFailure records that the worker lacked a resource while the given number of commands was running. err must
// have a Reason.
func (p *Tracker) RecordFailure(err error, running int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	held, now := p.reason != "" && p.step == 0, time.Now()
	if !held {
		p.hold = min(2*p.hold, p.max)
		if p.hold == 0 || now.Sub(p.last) > 2*p.max {
			p.hold = p.base
		}
	}
	p.last, p.step = now, 0
	if reason := Reason(err); reason != p.reason {
		p.reason, p.message = reason, err.Error()
	}
	p.limit = min(p.limit, running)
	if !held {
		klog.Background().Error(err, "Cannot start commands; accepting fewer tasks", "reason", p.reason, "tasks", p.limit, "hold", p.hold)
	}
	p.schedule(p.hold)
	p.signal()
}

// grow raises the limit once the hold has passed.
func (p *Tracker) grow() {
	p.mu.Lock()
	checksSpace := p.reason == reasonSpace
	p.mu.Unlock()
	var err error
	if checksSpace {
		err = p.CheckSpace()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped || p.reason == "" || time.Since(p.last) < p.hold:
		return
	case err != nil:
		p.hold = min(2*p.hold, p.max)
		p.last, p.message, p.step = time.Now(), err.Error(), 0
		p.schedule(p.hold)
		return
	}
	p.step = max(1, 2*p.step)
	if p.limit += p.step; p.limit >= p.capacity {
		p.limit, p.reason, p.message, p.step = p.capacity, "", "", 0
		klog.Background().Info("Accepting as many tasks as before")
	} else {
		p.schedule(p.base)
	}
	p.signal()
}

// schedule calls grow after d, and cancels an earlier call. p.mu must be held.
func (p *Tracker) schedule(d time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(d, p.grow)
}

func (p *Tracker) signal() {
	select {
	case p.Changed <- struct{}{}:
	default:
	}
}

// Stop stops the timer.
func (p *Tracker) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// State returns how many tasks the worker accepts, and the condition, nil without pressure.
func (p *Tracker) State() (limit int64, condition *metav1.Condition) {
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
