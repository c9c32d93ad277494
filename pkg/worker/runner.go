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
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
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
	// reasonPressure is the reason of the eviction of a task whose command the worker cannot start.
	reasonPressure = "WorkerResourcePressure"
)

// startBackoff is the backoff between tries to start a command after a transient error. It sums up to 3 s: a worker
// keeps a task that it cannot start at least that long.
var startBackoff = wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 6}

// runner runs the task of one assignment until it is finished, evicted or lost. Its goroutine owns the command and all
// writes to the task; other goroutines call only update, markLost and isLost.
type runner struct {
	worker     *Worker
	assignment assignment
	previous   <-chan struct{} // closed when the runner of the previous assignment has ended; nil without one

	changed  chan struct{} // has a signal while observed is new
	lost     chan struct{} // closed when the task was deleted or evicted
	markLost func()        // closes lost
	done     chan struct{} // closed when the runner has ended

	mu       sync.Mutex
	observed *batch.Task // latest from the informer

	phase          phase            // see there
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
}

func (t taskStatus) applyTo(s *batch.TaskStatus) {
	s.Phase, s.State, s.Attempts, s.StartTime, s.CompletionTime = t.phase, t.state, t.attempts, t.startTime, t.completionTime
	s.Progress, s.FailedAttempts = t.progress, t.failedAttempts
}

// statusUpdate is a status update in flight.
type statusUpdate struct {
	cancel chan struct{}
	done   chan struct{} // closed when stored and err are set
	stored *batch.Task
	err    error
}

func newRunner(w *Worker, task *batch.Task, previous <-chan struct{}) *runner {
	lost := make(chan struct{})
	return &runner{
		worker:     w,
		assignment: newAssignment(w.client.BatchV1alpha1().Tasks(w.options.Namespace), task, w.metrics, lost),
		previous:   previous,
		changed:    make(chan struct{}, 1),
		lost:       lost,
		markLost:   sync.OnceFunc(func() { close(lost) }),
		done:       make(chan struct{}),
		phase:      starting,
		task:       task,
	}
}

// update passes a version of the task from the informer to the runner.
func (r *runner) update(task *batch.Task) {
	r.mu.Lock()
	r.observed = task
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// isLost reports whether markLost was called.
func (r *runner) isLost() bool { return r.assignment.isLost() }

// run handles the assignment from its beginning to its end. ctx is for requests only: a drain of the worker stops the
// rest.
func (r *runner) run(ctx context.Context) {
	defer close(r.done)
	if r.previous != nil {
		<-r.previous
	}
	var err error
	switch {
	case r.task.Status.Incarnation != r.worker.incarnation:
		err = r.worker.evictStale(ctx, r)
	case r.task.DeletionTimestamp != nil:
		err = r.assignment.forceDelete(ctx, r.task)
	default:
		err = r.runTask(ctx)
	}
	if err != nil && !errors.Is(err, errLost) {
		klog.FromContext(ctx).Error(err, "Failed to report on the task", "task", klog.KObj(r.task))
	}
}

// runTask runs the command until it succeeds, its limit of failures is reached or the task is stopped. Then it reports
// the result.
func (r *runner) runTask(ctx context.Context) error {
	r.worker.running.Add(1)
	defer r.worker.running.Add(-1)
	r.worker.metrics.running.Inc()
	defer r.worker.metrics.running.Dec()
	defer r.stopDeadline()
	s := r.task.Status
	r.status = taskStatus{phase: batch.TaskRunning, attempts: s.Attempts, failedAttempts: s.FailedAttempts, startTime: s.StartTime}
	delay := r.worker.options.BackoffBase
	if s.Disruptions > 0 {
		r.phase = reporting
	}
	r.setDeadline()
	if r.isLost() {
		r.stop(stoppedByLoss, 0)
	}
	select {
	case <-r.worker.draining:
		r.stop(stoppedByDrain, 0)
	default:
	}
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
		if !r.retries(last) {
			r.handle(ended)
			break
		}
		r.handle(failed)
		if last.FinishedAt.Sub(last.StartedAt.Time) > 2*r.worker.options.BackoffCap {
			delay = r.worker.options.BackoffBase
		}
		r.backOff(ctx, delay, last)
		delay = min(2*delay, r.worker.options.BackoffCap)
	}
	return r.finish(ctx, last)
}

// handle changes the phase after an event.
func (r *runner) handle(e event) { r.phase = r.phase.transition(e) }

// retries counts the failure of an attempt, and reports whether another attempt follows.
func (r *runner) retries(last *batch.TaskStateTerminated) bool {
	if last.Reason == batch.TaskReasonCompleted || r.stopReason != notStopped {
		return false
	}
	r.status.failedAttempts++
	return r.task.Spec.BackoffLimit != nil && r.status.failedAttempts <= *r.task.Spec.BackoffLimit
}

// reportStart reports that the command is about to start, and waits until that is stored. A task that was disrupted may
// be one that crashes its worker before the start would be reported otherwise. From then on the attempt counts: no two
// incarnations report the same attempt number.
func (r *runner) reportStart(ctx context.Context) {
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
func (r *runner) runAttempt(ctx context.Context) *batch.TaskStateTerminated {
	attempt := r.status.attempts
	if !r.attemptCounted {
		attempt++
	}
	r.attemptCounted = false
	log := r.worker.options.Logs.Create(r.task.UID, attempt)
	defer log.Close()
	p, progress, startedAt, startErr := r.startCommand(ctx, attempt, log)
	defer r.worker.sandbox.Release(progress)
	if p == nil && startErr == nil {
		log.Discard()
		return nil
	}
	r.process, r.progress = p, progress
	if p != nil {
		r.handle(started)
	}
	r.status.attempts, r.status.progress = attempt, ""
	if r.status.startTime == nil {
		r.status.startTime = &startedAt
		r.setDeadline()
	}
	r.worker.metrics.attemptStarted(r.task, r.status)
	if startErr != nil {
		var message process.Tail
		_, _ = message.Write([]byte(startErr.Error()))
		return &batch.TaskStateTerminated{
			ExitCode: startErr.ExitCode, Reason: batch.TaskReasonStartError, Message: message.String(),
			StartedAt: startedAt, FinishedAt: metav1.Now(),
		}
	}
	r.worker.commands.Add(1)
	r.status.state = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: startedAt}}
	announce := time.NewTimer(r.worker.options.AnnounceDelay)
	defer announce.Stop()
	poll := time.NewTicker(r.worker.options.ProgressInterval)
	defer poll.Stop()
	r.wait(ctx, p.Done(), announce.C, poll.C)
	r.worker.commands.Add(-1)
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

// startCommand starts the command, and retries with the worker's startBackoff after transient errors. If the worker
// still lacks a resource then, it sets r.startErr. Both the process and the error are nil if the task must be
// evicted, or is stopped.
func (r *runner) startCommand(
	ctx context.Context, attempt int32, log *logs.Log,
) (*process.Process, sandbox.ProgressFile, metav1.Time, *process.StartError) {
	for backoff := r.worker.startBackoff; ; {
		startedAt := metav1.Now()
		c, progress, err := r.worker.sandbox.Prepare(ctx, r.task, attempt)
		if err == nil {
			c.Log = log
			p, startErr := r.worker.startProcess(c)
			if startErr == nil || !pressure.IsTransient(startErr) || backoff.Steps == 0 && pressure.Reason(startErr) == "" {
				return p, progress, startedAt, startErr
			}
			r.worker.sandbox.Release(progress)
			err = startErr
		}
		if pressure.Reason(err) != "" {
			r.worker.registration.pressure.RecordFailure(err, r.worker.commands.Load())
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
func (r *runner) pollProgress() bool {
	if r.process != nil {
		r.worker.sandbox.EnsureDir(r.progress)
		if err := r.process.MissingOutput(); pressure.Reason(err) != "" {
			r.worker.registration.pressure.RecordFailure(err, r.worker.commands.Load())
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
func (r *runner) backOff(ctx context.Context, delay time.Duration, last *batch.TaskStateTerminated) {
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
func (r *runner) sleep(ctx context.Context, d time.Duration) {
	due := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(due) })
	defer timer.Stop()
	r.wait(ctx, due, nil, nil)
}

// wait handles events until done is closed. An event that stops the task terminates its command, and wait goes on until
// the command has ended; without a command wait returns. It writes the status when announce fires, when a poll finds
// progress, and at once if the status is dirty.
func (r *runner) wait(ctx context.Context, done <-chan struct{}, announce, poll <-chan time.Time) {
	lost, draining := r.lost, r.worker.draining
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
			r.mu.Lock()
			observed := r.observed
			r.mu.Unlock()
			r.observe(observed)
		case <-deadline:
			r.stop(stoppedByDeadline, r.gracePeriod())
		case <-draining:
			draining = nil
			r.stop(stoppedByDrain, min(r.gracePeriod(), r.worker.options.DrainTimeout))
		case <-lost:
			lost = nil
			r.stop(stoppedByLoss, 0)
		}
	}
}

// finish reports the result of the task, evicts it or deletes it. last is how its last attempt ended, nil without one.
func (r *runner) finish(ctx context.Context, last *batch.TaskStateTerminated) error {
	if r.inFlight != nil {
		close(r.inFlight.cancel)
		r.finishUpdate()
	}
	phase := batch.TaskFailed
	switch outcomeOf(r.stopReason, last, r.startErr) {
	case abandon:
		return errLost
	case evictStopped:
		return r.assignment.evict(ctx, r.task, false, "WorkerStopped",
			fmt.Sprintf("Worker %s was stopped before the task had finished.", r.worker.options.Name))
	case evictPressure:
		r.worker.metrics.taskReturned(r.startErr)
		return r.assignment.evict(ctx, r.task, false, reasonPressure,
			fmt.Sprintf("Worker %s cannot start the command: %s", r.worker.options.Name, r.startErr))
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
	case reportFailure:
	}
	r.status.phase, r.status.state, r.status.completionTime = phase, batch.TaskState{Terminated: last}, &last.FinishedAt
	r.worker.metrics.taskFinished(r.status)
	// This update itself removes the task from the informer: a loss ends only the retries.
	stored, err := r.assignment.updateStatus(ctx, r.lost, r.task, r.status.applyTo)
	if err == nil && stored.DeletionTimestamp != nil {
		err = r.assignment.forceDelete(ctx, stored)
	}
	return err
}

// stop records why the task is stopped, and terminates its command if it runs.
func (r *runner) stop(reason stopReason, gracePeriod time.Duration) {
	r.stopReason = max(r.stopReason, reason)
	r.handle(stopped)
	if r.phase == terminating {
		r.process.Terminate(gracePeriod)
	}
}

// observe handles a version of the task, unless a newer one is known.
func (r *runner) observe(task *batch.Task) {
	if order, err := resourceversion.CompareResourceVersion(task.ResourceVersion, r.task.ResourceVersion); err == nil && order <= 0 {
		return
	}
	if !r.assignment.matches(task) {
		r.stop(stoppedByLoss, 0)
		return
	}
	r.task = task
	r.setDeadline()
	if task.DeletionTimestamp != nil {
		gracePeriod := r.gracePeriod()
		if s := task.DeletionGracePeriodSeconds; s != nil {
			gracePeriod = batch.Seconds(*s)
		}
		r.stop(stoppedByDeletion, gracePeriod)
	}
}

func (r *runner) gracePeriod() time.Duration {
	if s := r.task.Spec.TerminationGracePeriodSeconds; s != nil {
		return batch.Seconds(*s)
	}
	return defaultGracePeriod
}

// setDeadline sets the timer for the task's deadline, which counts from the start of its first attempt.
func (r *runner) setDeadline() {
	seconds := r.task.Spec.ActiveDeadlineSeconds
	if seconds == nil || r.status.startTime == nil {
		return
	}
	r.stopDeadline()
	left := time.Until(r.status.startTime.Add(batch.Seconds(*seconds)))
	if left <= 0 {
		r.stop(stoppedByDeadline, r.gracePeriod())
		return
	}
	r.deadline = time.NewTimer(left)
}

func (r *runner) stopDeadline() {
	if r.deadline != nil {
		r.deadline.Stop()
		r.deadline = nil
	}
}

// startUpdate starts to write the status in the background. No update may be in flight.
func (r *runner) startUpdate(ctx context.Context) {
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
func (r *runner) finishUpdate() {
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
