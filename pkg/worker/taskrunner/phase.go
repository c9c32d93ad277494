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

package taskrunner

import (
	"fmt"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// phase is the state of a runner whose task is bound to this incarnation. Only transition changes it:
//
//	phase        event     → phase        action
//	waiting      granted   → starting     start the command
//	waiting      stopped   → finishing    return or finish the task
//	reporting    reported  → starting     start the command
//	reporting    ended     → finishing    finish the task
//	reporting    stopped   → finishing    finish the task
//	starting     started   → running      report the start, later the progress
//	starting     failed    → backingOff   report the failure and wait
//	starting     ended     → finishing    finish the task
//	starting     stopped   → finishing    finish the task
//	running      succeeded → starting     start the next index of a task with spec.indexes
//	running      failed    → backingOff   report the failure and wait
//	running      ended     → finishing    finish the task
//	running      stopped   → terminating  send SIGTERM, and SIGKILL after the grace period
//	terminating  stopped   → terminating  send SIGKILL earlier, if the grace period is shorter
//	terminating  ended     → finishing    finish the task
//	backingOff   due       → starting     start the command
//	backingOff   stopped   → finishing    finish the task
//	finishing    ended     → finishing    none
//	finishing    stopped   → finishing    none
//
// A task that was disrupted goes on from phase waiting in phase reporting, any other in phase starting. How a task is
// finished depends on its stopReason and on its last attempt: see outcomeOf.
type phase string

const (
	waiting     phase = "waiting"     // has no slot yet
	reporting   phase = "reporting"   // writes the start of a disrupted task
	starting    phase = "starting"    // tries to start the command
	running     phase = "running"     // the command runs
	terminating phase = "terminating" // the command was signalled to end
	backingOff  phase = "backingOff"  // waits between two attempts
	finishing   phase = "finishing"   // makes no more attempts
)

// event is what changes the phase of a runner.
type event string

const (
	granted   event = "granted"   // the task has a slot
	reported  event = "reported"  // the start of a disrupted task is stored
	started   event = "started"   // the command runs
	succeeded event = "succeeded" // the attempt has succeeded, and the next index follows
	failed    event = "failed"    // the attempt has failed, and another one follows
	ended     event = "ended"     // no attempt follows, or the worker lacks the resources for one, or no index is left
	due       event = "due"       // the delay between two attempts has passed
	stopped   event = "stopped"   // there is a stopReason
)

// transitions holds the next phase for each phase and event.
var transitions = map[phase]map[event]phase{
	waiting:     {granted: starting, stopped: finishing},
	reporting:   {reported: starting, ended: finishing, stopped: finishing},
	starting:    {started: running, failed: backingOff, ended: finishing, stopped: finishing},
	running:     {succeeded: starting, failed: backingOff, ended: finishing, stopped: terminating},
	terminating: {stopped: terminating, ended: finishing},
	backingOff:  {due: starting, stopped: finishing},
	finishing:   {ended: finishing, stopped: finishing},
}

// transition returns the phase after an event. It panics if the phase does not have the event, which is a bug.
func (p phase) transition(e event) phase {
	next, ok := transitions[p][e]
	if !ok {
		panic(fmt.Sprintf("a task that is %s cannot be %s", p, e))
	}
	return next
}

// stopReason is why a task is stopped before its command has ended by itself. The greatest reason wins.
type stopReason int

const (
	notStopped        stopReason = iota
	stoppedByReturn              // the scheduler asks for the task, which has no slot yet
	stoppedByDrain               // the worker stops
	stoppedByDeletion            // the task is being deleted
	stoppedByDeadline            // activeDeadlineSeconds have passed
	stoppedByLoss                // the task no longer belongs to this worker
)

// outcome is how a runner finishes its task.
type outcome string

const (
	abandon                outcome = "abandon"
	reportSuccess          outcome = "report success"
	reportFailure          outcome = "report failure"
	reportDeadlineExceeded outcome = "report that the deadline was exceeded"
	evictStopped           outcome = "evict: the worker stops"
	evictPressure          outcome = "evict: the worker lacks resources"
	deleteTask             outcome = "delete"
)

// outcomeOf returns how to finish a task. last is how its last attempt under this assignment ended, nil without one;
// completed reports whether any of its indexes has succeeded, under any assignment; startErr is what the worker lacked
// to start another attempt, or nil. The first line that matches counts:
//
//	stopReason         last attempt  completed  startErr  → outcome
//	stoppedByLoss      any           any        any       → abandon
//	stoppedByDeadline  any           any        any       → report that the deadline was exceeded
//	any                succeeded     any        any       → report success, even if the command was terminated: as for a Pod
//	stoppedByDrain     none          true       any       → report success, which releases the other indexes
//	stoppedByDrain     any           any        any       → evict: the worker stops
//	notStopped         any           any        set       → evict: the worker lacks resources
//	any                none          true       any       → report success, which releases the other indexes
//	any                none          any        any       → delete
//	any                failed        any        any       → report failure
//
// A task that is being deleted is deleted after its result is stored.
func outcomeOf(reason stopReason, last *batch.TaskStateTerminated, completed bool, startErr error) outcome {
	switch {
	case reason == stoppedByLoss:
		return abandon
	case reason == stoppedByDeadline:
		return reportDeadlineExceeded
	case last != nil && last.Reason == batch.TaskReasonCompleted:
		return reportSuccess
	case reason == stoppedByDrain && last == nil && completed:
		return reportSuccess
	case reason == stoppedByDrain:
		return evictStopped
	case reason == notStopped && startErr != nil:
		return evictPressure
	case last == nil && completed:
		return reportSuccess
	case last == nil:
		return deleteTask
	default:
		return reportFailure
	}
}
