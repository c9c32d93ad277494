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

// Package taskrunner runs the command of one task for a worker, and reports on it until the task is finished, evicted
// or lost.
package taskrunner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/echo"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
)

const (
	// defaultGracePeriod is the time between SIGTERM and SIGKILL for a task that does not set one.
	defaultGracePeriod = 30 * time.Second
	// exitCodeDeadline is the exit code of a task whose deadline passed before its command could start, as timeout(1)
	// has it.
	exitCodeDeadline = 124
	// reasonBackOff is the reason of the waiting state between two attempts.
	reasonBackOff = "BackOff"
	// reasonStopped is the reason of the eviction of a task whose worker stops.
	reasonStopped = "WorkerStopped"
	// reasonPressure is the reason of the eviction of a task whose command the worker cannot start.
	reasonPressure = "WorkerResourcePressure"
)

// StartBackoff is the default backoff between tries to start a command after a transient error. It sums up to 3 s: a
// worker keeps a task that it cannot start at least that long.
var StartBackoff = wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 6}

// Config is what the runners of one worker share. It must not be copied.
type Config struct {
	// Tasks is the client for the tasks of the worker's namespace.
	Tasks typed.TaskInterface
	// WorkerName and Incarnation identify the worker.
	WorkerName, Incarnation string

	// DrainTimeout, BackoffBase, BackoffCap, AnnounceDelay and ProgressInterval are those of the worker's options.
	DrainTimeout, BackoffBase, BackoffCap, AnnounceDelay, ProgressInterval time.Duration
	// StartBackoff is the backoff between tries to start a command after a transient error.
	StartBackoff wait.Backoff

	// Sandbox prepares commands, and Start starts them.
	Sandbox *sandbox.Sandbox
	Start   func(process.Command) (*process.Process, *process.StartError)
	// Logs keeps the output of commands; it may be nil.
	Logs *logs.Store
	// Archive keeps finished attempts; it may be nil.
	Archive Archive
	// Echo prints the output of commands; it may be nil.
	Echo *echo.Echo
	// Pressure records when the worker lacks a resource to start commands.
	Pressure *pressure.Tracker
	Metrics  *Metrics

	// Draining is closed when no more commands may start.
	Draining <-chan struct{}
	// IsSuperseded reports whether another process has registered under the worker's name.
	IsSuperseded func(context.Context) (bool, error)
	// Crashed reports whether the earlier incarnation that the task is bound to crashed while it ran the task's
	// command.
	Crashed func(*batch.Task) bool

	// Slots are those of the worker.
	Slots *Slots

	// Running counts tasks that have a slot, and Commands counts commands that have started and not ended.
	Running  atomic.Int32
	Commands atomic.Int64
}

// Runner runs the task of one assignment until it is finished, evicted or lost. Its goroutine owns the command and all
// writes to the task; other goroutines call only Update, MarkLost, IsLost, Done, Name and Handles.
type Runner struct {
	config     *Config
	assignment assignment
	previous   <-chan struct{} // closed when the runner of the previous assignment has ended; nil without one

	changed  chan struct{} // has a signal while observed is new
	lost     chan struct{} // closed when the task was deleted or evicted
	markLost func()        // closes lost
	done     chan struct{} // closed when the runner has ended

	mu       sync.Mutex
	observed *batch.Task // latest from the informer

	phase          phase
	slot           *Slot
	task           *batch.Task      // latest known
	status         taskStatus       // to be written
	dirty          bool             // status has changed since it was last written
	inFlight       *statusUpdate    // nil without one
	attemptCounted bool             // status counts the attempt that starts next
	startErr       error            // what the worker lacked to start the command; the task is evicted for it
	process        *process.Process // nil unless the command runs
	progress       sandbox.ProgressFile
	stopReason     stopReason
	deadline       *time.Timer // nil without a deadline
	chunk          *chunk      // nil for a task without spec.indexes
}

// taskStatus is the part of a task's status that its worker writes.
type taskStatus struct {
	phase          batch.TaskPhase
	state          batch.TaskState
	attempts       int32
	failedAttempts int32
	startTime      *metav1.Time
	completionTime *metav1.Time
	progress       string
	busy           time.Duration

	// These are those of a task with spec.indexes only. indexCount is the number of its indexes.
	indexCount, completedCount int32
	indexLimit                 *int32
}

func (t taskStatus) applyTo(s *batch.TaskStatus) {
	s.Progress, s.FailedAttempts = t.progress, t.failedAttempts
	s.BusyMilliseconds = int64((t.busy + time.Millisecond - 1) / time.Millisecond)
	if t.indexCount > 0 {
		t.applyIndexesTo(s)
	}
	s.Phase, s.State, s.Attempts, s.StartTime, s.CompletionTime = t.phase, t.state, t.attempts, t.startTime, t.completionTime
}

// statusUpdate is a status update in flight.
type statusUpdate struct {
	cancel chan struct{}
	done   chan struct{} // closed when stored and err are set
	stored *batch.Task
	err    error
}

// New returns a runner for the task's assignment. If previous is not nil, Run waits until it is closed.
func New(config *Config, task *batch.Task, previous <-chan struct{}) *Runner {
	lost := make(chan struct{})
	return &Runner{
		config:     config,
		assignment: newAssignment(config.Tasks, task, config.Metrics, lost),
		previous:   previous,
		changed:    make(chan struct{}, 1),
		lost:       lost,
		markLost:   sync.OnceFunc(func() { close(lost) }),
		done:       make(chan struct{}),
		phase:      waiting,
		task:       task,
	}
}

// Name returns the name of the task.
func (r *Runner) Name() string { return r.assignment.name }

// Handles reports whether the task belongs to the assignment of the runner, and the runner has not lost it.
func (r *Runner) Handles(task *batch.Task) bool {
	return !r.IsLost() && r.assignment.uid == task.UID && r.assignment.isSameBinding(task)
}

// Done returns a channel that is closed when Run has returned.
func (r *Runner) Done() <-chan struct{} { return r.done }

// MarkLost tells the runner that its task is finished, deleted or evicted.
func (r *Runner) MarkLost() { r.markLost() }

// Update passes a version of the task from the informer to the runner.
func (r *Runner) Update(task *batch.Task) {
	r.mu.Lock()
	r.observed = task
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// IsLost reports whether MarkLost was called.
func (r *Runner) IsLost() bool { return r.assignment.isLost() }

// Run handles the assignment from its beginning to its end. ctx is for requests only: a drain of the worker stops the
// rest.
func (r *Runner) Run(ctx context.Context) {
	defer close(r.done)
	if r.previous != nil {
		<-r.previous
	}
	var err error
	switch {
	case r.task.Status.Incarnation != r.config.Incarnation:
		err = r.evictStale(ctx)
	case r.task.DeletionTimestamp != nil:
		err = r.assignment.forceDelete(ctx, r.task)
	default:
		err = r.runInSlot(ctx)
	}
	if err != nil && !errors.Is(err, errLost) {
		klog.FromContext(ctx).Error(err, "Failed to report on the task", "task", klog.KObj(r.task))
	}
}

// evictStale evicts or deletes a task that is bound to another incarnation, whose commands have ended with it. First it
// makes sure that the other incarnation is not a successor.
func (r *Runner) evictStale(ctx context.Context) error {
	superseded := false
	_, err := r.assignment.withRetry(ctx, r.lost, r.task, func(ctx context.Context, _ *batch.Task) (_ *batch.Task, err error) {
		superseded, err = r.config.IsSuperseded(ctx)
		return nil, err
	})
	if err != nil || superseded {
		return err
	}
	return r.assignment.evict(ctx, r.task, r.config.Crashed(r.task), "WorkerRestarted",
		fmt.Sprintf("Worker %s was restarted.", r.config.WorkerName))
}

// runInSlot waits for a slot and runs the task in it. It returns the task to the scheduler if that asks for it, or the
// worker stops, before the task has the slot.
func (r *Runner) runInSlot(ctx context.Context) error {
	r.slot = r.config.Slots.Enter(r.task)
	defer r.slot.Release()
	r.returnIfRequested()
	r.wait(ctx, r.slot.Granted(), nil, nil)
	switch {
	case r.phase == waiting:
		r.handle(granted)
		return r.runTask(ctx)
	case r.stopReason == stoppedByReturn:
		return r.assignment.returnTask(ctx, r.task, batch.TaskReasonRebalanced,
			fmt.Sprintf("Worker %s had no slot for the task.", r.config.WorkerName))
	case r.stopReason == stoppedByDrain:
		return r.assignment.returnTask(ctx, r.task, reasonStopped,
			fmt.Sprintf("Worker %s was stopped before it started the task.", r.config.WorkerName))
	default:
		return r.finish(ctx, nil)
	}
}

// returnIfRequested stops a task that waits for a slot if the scheduler asks for it. A task that has the slot starts.
func (r *Runner) returnIfRequested() {
	if r.phase == waiting && meta.IsStatusConditionTrue(r.task.Status.Conditions, batch.TaskReturnRequested) && r.slot.Withdraw() {
		r.stop(stoppedByReturn, 0)
	}
}

// runTask runs the command until it succeeds, its limit of failures is reached or the task is stopped. Then it reports
// the result.
func (r *Runner) runTask(ctx context.Context) error {
	r.config.Running.Add(1)
	defer r.config.Running.Add(-1)
	r.config.Metrics.running.Inc()
	defer r.config.Metrics.running.Dec()
	defer r.stopDeadline()
	s := r.task.Status
	r.status = taskStatus{phase: batch.TaskRunning, attempts: s.Attempts, failedAttempts: s.FailedAttempts, startTime: s.StartTime}
	if r.task.Spec.Indexes != "" {
		r.startChunk()
	}
	delay := r.config.BackoffBase
	if s.Disruptions > 0 {
		r.phase = reporting
	}
	if r.chunk != nil {
		r.endIfReleased()
	}
	r.setDeadline()
	r.checkStopped()
	if r.phase == reporting {
		r.reportStart(ctx)
	}

	var last *batch.TaskStateTerminated
	for r.phase == starting {
		terminated := r.runAttempt(ctx)
		if terminated == nil {
			r.handle(ended)
			break
		}
		last = terminated
		if r.chunk != nil && r.startsNextIndex(last) {
			r.handle(succeeded)
			r.checkStopped()
			continue
		}
		if !r.retries(last) {
			r.handle(ended)
			break
		}
		r.handle(failed)
		if last.FinishedAt.Sub(last.StartedAt.Time) > 2*r.config.BackoffCap {
			delay = r.config.BackoffBase
		}
		r.backOff(ctx, delay, last)
		delay = min(2*delay, r.config.BackoffCap)
	}
	if r.chunk != nil {
		r.chunk.close()
	}
	r.slot.Release() // The next task need not wait until the result is stored.
	return r.finish(ctx, last)
}

// checkStopped handles what stops the task between two attempts, without waiting.
func (r *Runner) checkStopped() {
	if r.IsLost() {
		r.stop(stoppedByLoss, 0)
	}
	select {
	case <-r.config.Draining:
		r.stop(stoppedByDrain, 0)
	default:
	}
	select {
	case <-r.changed:
		r.observe(r.latestObserved())
	default:
	}
}

// latestObserved returns the latest task from the informer.
func (r *Runner) latestObserved() *batch.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.observed
}

// handle changes the phase after an event.
func (r *Runner) handle(e event) { r.phase = r.phase.transition(e) }

// retries counts the failure of an attempt, and reports whether another attempt follows.
func (r *Runner) retries(last *batch.TaskStateTerminated) bool {
	if last.Reason == batch.TaskReasonCompleted || r.stopReason != notStopped {
		return false
	}
	r.status.failedAttempts++
	return r.task.Spec.BackoffLimit != nil && r.status.failedAttempts <= *r.task.Spec.BackoffLimit
}

// reportStart reports that the command is about to start, and waits until that is stored. A task that was disrupted may
// be one that crashes its worker before the start would be reported otherwise. From then on the attempt counts: no two
// incarnations report the same attempt number.
func (r *Runner) reportStart(ctx context.Context) {
	r.status.state = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: metav1.Now()}}
	r.status.attempts++
	r.attemptCounted = true
	r.startUpdate(ctx)
	u := r.inFlight
	r.wait(ctx, u.done, nil, nil)
	if r.inFlight == u && r.phase == reporting {
		r.finishUpdate()
	}
	if r.phase == reporting {
		r.handle(reported)
	}
}

// runAttempt runs the command once and returns how it ended. It returns nil if the command was not started for no fault
// of its own: the task is stopped, or the worker lacks a resource.
func (r *Runner) runAttempt(ctx context.Context) *batch.TaskStateTerminated {
	task, id := r.task, attempt.ID{Task: r.task.UID, Index: attempt.NoIndex, Number: r.status.attempts}
	if r.chunk != nil {
		task, id.Index = r.atIndex()
	}
	if !r.attemptCounted {
		id.Number++
	}
	r.attemptCounted = false
	log := r.config.Logs.Create(id)
	defer log.Close()
	var lines *echo.Output
	if r.config.Echo != nil {
		lines = r.config.Echo.Output(echoAttempt(task, id))
		defer lines.Close()
	}
	p, progress, startedAt, startErr := r.startCommand(ctx, task, id, log, lines)
	defer r.config.Sandbox.Release(progress)
	if p == nil && startErr == nil {
		log.Discard()
		return nil
	}
	r.process, r.progress = p, progress
	if p != nil {
		r.handle(started)
	}
	r.status.attempts, r.status.progress = id.Number, ""
	if r.status.startTime == nil {
		r.status.startTime = &startedAt
	}
	if r.chunk != nil {
		r.chunk.started(r.config, startedAt)
	}
	r.setDeadline()
	r.config.Metrics.attemptStarted(r.task, r.status)
	terminated := r.awaitEnd(ctx, p, startErr, startedAt)
	r.archive(task, id, log, p, terminated)
	if took := terminated.FinishedAt.Sub(startedAt.Time); r.chunk != nil {
		r.indexEnded(terminated, took)
	} else {
		r.status.busy = max(took, 1)
	}
	return terminated
}

// awaitEnd waits until the command has ended, and returns how. p is nil if the command could not be started.
func (r *Runner) awaitEnd(
	ctx context.Context, p *process.Process, startErr *process.StartError, startedAt metav1.Time,
) *batch.TaskStateTerminated {
	if startErr != nil {
		var message process.Tail
		_, _ = message.Write([]byte(startErr.Error()))
		return &batch.TaskStateTerminated{
			ExitCode: startErr.ExitCode, Reason: batch.TaskReasonStartError, Message: message.String(),
			StartedAt: startedAt, FinishedAt: metav1.Now(),
		}
	}
	r.config.Commands.Add(1)
	r.status.state = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: startedAt}}
	if r.chunk != nil {
		r.wait(ctx, p.Done(), r.chunk.announce.C, r.chunk.poll.C)
	} else {
		announce := time.NewTimer(r.config.AnnounceDelay)
		defer announce.Stop()
		poll := time.NewTicker(r.config.ProgressInterval)
		defer poll.Stop()
		r.wait(ctx, p.Done(), announce.C, poll.C)
	}
	r.config.Commands.Add(-1)
	r.process = nil
	r.pollProgress()

	terminated := &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: startedAt, FinishedAt: metav1.Now()}
	terminated.ExitCode, terminated.Signal = p.ExitStatus()
	if terminated.ExitCode != 0 || r.stopReason == stoppedByDeadline {
		terminated.Reason, terminated.Message = batch.TaskReasonError, p.Output()
	}
	if p.OOMKilled() {
		terminated.Reason = batch.TaskReasonOOMKilled
	}
	return terminated
}

// startCommand starts the command, and retries with the configured StartBackoff after transient errors. If the worker
// still lacks a resource then, it sets r.startErr. Both the process and the error are nil if the task must be
// evicted, or is stopped.
func (r *Runner) startCommand(
	ctx context.Context, task *batch.Task, id attempt.ID, log *logs.Log, lines *echo.Output,
) (*process.Process, sandbox.ProgressFile, metav1.Time, *process.StartError) {
	for backoff := r.config.StartBackoff; ; {
		startedAt := metav1.Now()
		c, progress, err := r.config.Sandbox.Prepare(ctx, task, id, r.slot.Devices())
		if err == nil {
			c.Log = log
			if lines != nil {
				c.Echo = lines
			}
			p, startErr := r.config.Start(c)
			if startErr == nil || !pressure.IsTransient(startErr) || backoff.Steps == 0 && pressure.Reason(startErr) == "" {
				return p, progress, startedAt, startErr
			}
			r.config.Sandbox.Release(progress)
			err = startErr
		}
		if pressure.Reason(err) != "" {
			r.config.Pressure.RecordFailure(err, r.config.Commands.Load())
		}
		if backoff.Steps == 0 {
			r.startErr = err
			return nil, "", startedAt, nil
		}
		klog.FromContext(ctx).V(2).Info("Retrying to start the command", "task", klog.KObj(r.task), "err", err)
		r.sleep(ctx, backoff.Step())
		if r.phase == finishing {
			return nil, "", startedAt, nil
		}
	}
}

// pollProgress reads the progress that the command reports, and reports whether it has changed. It also notices log
// output that is lost for lack of a resource.
func (r *Runner) pollProgress() bool {
	if r.process != nil {
		r.config.Sandbox.EnsureDir(r.progress)
		if err := r.process.MissingOutput(); pressure.Reason(err) != "" {
			r.config.Pressure.RecordFailure(err, r.config.Commands.Load())
		}
	}
	progress := r.progress.Read()
	if progress == "" || progress == r.status.progress {
		return false
	}
	r.status.progress = progress
	return true
}

// backOff waits until the next attempt is due, or the task is stopped.
func (r *Runner) backOff(ctx context.Context, delay time.Duration, last *batch.TaskStateTerminated) {
	r.status.state = batch.TaskState{Waiting: &batch.TaskStateWaiting{
		Reason: reasonBackOff,
		Message: fmt.Sprintf("Attempt %d failed with exit code %d; the next one starts %s later.",
			r.status.attempts, last.ExitCode, delay),
	}}
	r.dirty = true
	r.sleep(ctx, delay)
	if r.phase == backingOff {
		r.handle(due)
	}
}

// sleep waits for d, or until the task is stopped.
func (r *Runner) sleep(ctx context.Context, d time.Duration) {
	due := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(due) })
	defer timer.Stop()
	r.wait(ctx, due, nil, nil)
}

// wait handles events until done is closed. An event that stops the task terminates its command, and wait goes on until
// the command has ended; without a command wait returns. It writes the status when announce fires, when a poll finds
// progress, and at once if the status is dirty.
func (r *Runner) wait(ctx context.Context, done <-chan struct{}, announce, poll <-chan time.Time) {
	lost, draining := r.lost, r.config.Draining
	var full <-chan time.Time
	if r.chunk != nil && r.chunk.full != nil {
		full = r.chunk.full.C
	}
	for r.phase != finishing {
		if r.dirty && r.inFlight == nil {
			r.startUpdate(ctx)
		}
		var written <-chan struct{}
		if r.inFlight != nil {
			written = r.inFlight.done
		}
		var deadline <-chan time.Time
		if r.deadline != nil {
			deadline = r.deadline.C
		}
		select {
		case <-done:
			return
		case <-announce:
			r.pollProgress()
			r.dirty = true
		case <-poll:
			r.dirty = r.pollProgress() || r.dirty
		case <-written:
			r.finishUpdate()
		case <-r.changed:
			r.observe(r.latestObserved())
		case <-full:
			r.releaseRest()
		case <-deadline:
			r.stop(stoppedByDeadline, r.gracePeriod())
		case <-draining:
			draining = nil
			r.stop(stoppedByDrain, min(r.gracePeriod(), r.config.DrainTimeout))
		case <-lost:
			lost = nil
			r.stop(stoppedByLoss, 0)
		}
	}
}

// finish reports the result of the task, evicts it or deletes it. last is how its last attempt ended, nil without one.
func (r *Runner) finish(ctx context.Context, last *batch.TaskStateTerminated) error {
	if r.inFlight != nil {
		close(r.inFlight.cancel)
		r.finishUpdate()
	}
	phase := batch.TaskFailed
	switch outcomeOf(r.stopReason, last, r.status.completedCount > 0, r.startErr) {
	case abandon:
		return errLost
	case evictStopped:
		task, err := r.storeCompleted(ctx)
		if err != nil {
			return err
		}
		return r.assignment.evict(ctx, task, false, reasonStopped,
			fmt.Sprintf("Worker %s was stopped before the task had finished.", r.config.WorkerName))
	case evictPressure:
		r.config.Metrics.taskReturned(r.startErr)
		return r.assignment.evict(ctx, r.task, false, reasonPressure,
			fmt.Sprintf("Worker %s cannot start the command: %s", r.config.WorkerName, r.startErr))
	case deleteTask:
		return r.assignment.forceDelete(ctx, r.task)
	case reportDeadlineExceeded:
		if last == nil {
			now := metav1.Now()
			last = &batch.TaskStateTerminated{ExitCode: exitCodeDeadline, StartedAt: now, FinishedAt: now}
		}
		last.Reason = batch.TaskReasonDeadlineExceeded
	case reportSuccess:
		phase = batch.TaskSucceeded
		if last == nil {
			now := metav1.Now()
			last = &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: now, FinishedAt: now}
		}
	case reportFailure:
	}
	r.status.phase, r.status.state, r.status.completionTime = phase, batch.TaskState{Terminated: last}, &last.FinishedAt
	r.config.Metrics.taskFinished(r.status)
	// This update itself removes the task from the informer: a loss ends only the retries.
	stored, err := r.assignment.updateStatus(ctx, r.lost, r.task, r.status.applyTo)
	if err == nil && stored.DeletionTimestamp != nil {
		err = r.assignment.forceDelete(ctx, stored)
	}
	return err
}

// stop records why the task is stopped, and terminates its command if it runs.
func (r *Runner) stop(reason stopReason, gracePeriod time.Duration) {
	r.stopReason = max(r.stopReason, reason)
	r.handle(stopped)
	if r.phase == terminating {
		r.process.Terminate(gracePeriod)
	}
}

// observe handles a version of the task, unless a newer one is known.
func (r *Runner) observe(task *batch.Task) {
	if order, err := resourceversion.CompareResourceVersion(task.ResourceVersion, r.task.ResourceVersion); err == nil && order <= 0 {
		return
	}
	if !r.assignment.matches(task) {
		r.stop(stoppedByLoss, 0)
		return
	}
	r.task = task
	if r.chunk != nil {
		r.lowerIndexLimit(task.Status.IndexLimit)
	}
	r.setDeadline()
	if task.DeletionTimestamp != nil {
		gracePeriod := r.gracePeriod()
		if s := task.DeletionGracePeriodSeconds; s != nil {
			gracePeriod = batch.Seconds(*s)
		}
		r.stop(stoppedByDeletion, gracePeriod)
		return
	}
	r.returnIfRequested()
}

func (r *Runner) gracePeriod() time.Duration {
	if s := r.task.Spec.TerminationGracePeriodSeconds; s != nil {
		return batch.Seconds(*s)
	}
	return defaultGracePeriod
}

// setDeadline sets the timer for the deadline, which counts from the start of the first attempt at the task, or of the
// index that runs.
func (r *Runner) setDeadline() {
	seconds, from := r.task.Spec.ActiveDeadlineSeconds, r.status.startTime
	if r.chunk != nil {
		from = r.chunk.indexStartedAt
	}
	if seconds == nil || from == nil {
		return
	}
	r.stopDeadline()
	left := time.Until(from.Add(batch.Seconds(*seconds)))
	if left <= 0 {
		r.stop(stoppedByDeadline, r.gracePeriod())
		return
	}
	r.deadline = time.NewTimer(left)
}

func (r *Runner) stopDeadline() {
	if r.deadline != nil {
		r.deadline.Stop()
		r.deadline = nil
	}
}

// startUpdate starts to write the status in the background. No update may be in flight.
func (r *Runner) startUpdate(ctx context.Context) {
	r.dirty = false
	u := &statusUpdate{cancel: make(chan struct{}), done: make(chan struct{})}
	r.inFlight = u
	task, status := r.task, r.status
	go func() {
		defer close(u.done)
		u.stored, u.err = r.assignment.updateStatus(ctx, u.cancel, task, status.applyTo)
	}()
}

// finishUpdate waits for the update in flight and handles its result.
func (r *Runner) finishUpdate() {
	u := r.inFlight
	<-u.done
	r.inFlight = nil
	switch {
	case u.err == nil:
		r.observe(u.stored)
	case errors.Is(u.err, errLost):
		r.stop(stoppedByLoss, 0)
	}
}
