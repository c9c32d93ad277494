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
)

const (
	// defaultGrace is the time between SIGTERM and SIGKILL for a task that does not say.
	defaultGrace = 30 * time.Second
	// exitOverdue is the exit code of a task whose time was over before its command could start, as timeout(1) has it.
	exitOverdue = 124
	// exitKilled is the exit code of a command that SIGKILL has ended, and of a shell whose last command that has ended.
	exitKilled = 128 + 9
	// reasonBackOff is the reason of a waiting state between two attempts.
	reasonBackOff = "BackOff"
	// reasonPressure is the reason of the eviction of a task whose command the worker cannot start.
	reasonPressure = "WorkerResourcePressure"
)

// startBackoff are the delays between tries to start a command when what keeps it from starting may pass: 3 s in all.
// So long at least a task is with a worker that cannot start it.
var startBackoff = wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 6}

// ending is why a task is ended although its command has not ended by itself. Of two reasons the greater one counts.
type ending int

const (
	byItself   ending = iota
	byDrain           // the worker stops
	byDeletion        // the task is being deleted
	byDeadline        // activeDeadlineSeconds are over
	byLoss            // the task is not this worker's any more
)

// runner sees one binding of a task to its end. Its goroutine owns the command and everything written to the task; others
// use show, lose and isLost only.
type runner struct {
	worker  *Worker
	binding binding
	before  <-chan struct{} // closed when the runner of an earlier binding has ended; nil if there is none

	changed chan struct{} // holds a signal while shown is news
	lost    chan struct{} // closed when the task was deleted or taken away
	lose    func()        // closes lost
	done    chan struct{} // closed when the runner has ended

	mu    sync.Mutex
	shown *batch.Task

	task     *batch.Task // as last seen
	run      run         // as the task's status is to say
	unsaid   bool        // run has changed since it was last written
	write    *write      // in flight, or nil
	counted  bool        // the attempt that starts next is in run already
	short    error       // what the worker lacked to start the command, nil unless the task must be evicted for that
	process  *process    // nil unless the command runs
	progress progressFile
	ending   ending
	deadline *time.Timer // nil without a deadline
}

// run is the part of a task's status that its worker knows.
type run struct {
	phase          batch.TaskPhase
	state          batch.TaskState
	attempts       int32
	failed         int32 // of the attempts
	startTime      *metav1.Time
	completionTime *metav1.Time
	progress       string
}

func (r run) apply(s *batch.TaskStatus) {
	s.Phase, s.State, s.Attempts, s.StartTime, s.CompletionTime = r.phase, r.state, r.attempts, r.startTime, r.completionTime
	s.Progress, s.FailedAttempts = r.progress, r.failed
}

// write is a status update that is sent while other things go on.
type write struct {
	giveUp chan struct{}
	done   chan struct{} // closed when stored and err are set
	stored *batch.Task
	err    error
}

func newRunner(w *Worker, task *batch.Task, before <-chan struct{}) *runner {
	lost := make(chan struct{})
	return &runner{
		worker:  w,
		binding: bindingOf(w.client.BatchV1alpha1().Tasks(w.options.Namespace), task, w.metrics, lost),
		before:  before,
		changed: make(chan struct{}, 1),
		lost:    lost,
		lose:    sync.OnceFunc(func() { close(lost) }),
		done:    make(chan struct{}),
		task:    task,
	}
}

// show hands over what the informer shows of the task.
func (r *runner) show(task *batch.Task) {
	r.mu.Lock()
	r.shown = task
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// isLost says whether lose was called.
func (r *runner) isLost() bool { return r.binding.isLost() }

// start sees the binding to its end. ctx is for requests only: what else is to be done ends when the worker drains.
func (r *runner) start(ctx context.Context) {
	defer close(r.done)
	if r.before != nil {
		<-r.before
	}
	var err error
	switch {
	case r.task.Status.Incarnation != r.worker.incarnation:
		err = r.worker.disown(ctx, r)
	case r.task.DeletionTimestamp != nil:
		err = r.binding.remove(ctx, r.task)
	default:
		err = r.execute(ctx)
	}
	if err != nil && !errors.Is(err, errLost) {
		klog.FromContext(ctx).Error(err, "The task is left as it is", "task", klog.KObj(r.task))
	}
}

// execute runs the command as often as it takes.
func (r *runner) execute(ctx context.Context) error {
	r.worker.running.Add(1)
	defer r.worker.running.Add(-1)
	r.worker.metrics.running.Inc()
	defer r.worker.metrics.running.Dec()
	defer r.stopDeadline()
	s := r.task.Status
	r.run = run{phase: batch.TaskRunning, attempts: s.Attempts, failed: s.FailedAttempts, startTime: s.StartTime}
	delay := r.worker.options.BackoffBase
	r.setDeadline()
	if r.isLost() {
		r.end(byLoss, 0)
	}
	select {
	case <-r.worker.draining:
		r.end(byDrain, 0)
	default:
	}
	if s.Disruptions > 0 {
		r.announce(ctx)
	}

	var last *batch.TaskStateTerminated
	for r.ending == byItself {
		end := r.attempt(ctx)
		if end == nil {
			break
		}
		last = end
		if last.Reason == batch.TaskReasonCompleted || r.ending != byItself {
			break
		}
		if r.run.failed++; r.task.Spec.BackoffLimit == nil || r.run.failed > *r.task.Spec.BackoffLimit {
			break
		}
		if last.FinishedAt.Sub(last.StartedAt.Time) > 2*r.worker.options.BackoffCap {
			delay = r.worker.options.BackoffBase
		}
		r.backOff(ctx, delay, last)
		delay = min(2*delay, r.worker.options.BackoffCap)
	}
	return r.conclude(ctx, last)
}

// announce reports that the command is about to be started, and waits until that is stored. A task that was disrupted
// may be one that ends its worker faster than its start is reported else. The attempt counts from then on: no number of
// an attempt is reported by two incarnations.
func (r *runner) announce(ctx context.Context) {
	if r.ending != byItself {
		return
	}
	r.run.state = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: metav1.Now()}}
	r.run.attempts++
	r.counted = true
	r.beginWrite(ctx)
	w := r.write
	r.wait(ctx, w.done, nil, nil)
	if r.write == w && r.ending == byItself {
		r.endWrite()
	}
}

// attempt runs the command once, and returns how it ended. It returns nil if the command was not started, and that is
// not the command's fault: the task is ended, or the worker lacks something.
func (r *runner) attempt(ctx context.Context) *batch.TaskStateTerminated {
	attempt := r.run.attempts
	if !r.counted {
		attempt++
	}
	r.counted = false
	log := r.worker.options.Logs.Create(r.task.UID, attempt)
	defer log.Close()
	p, progress, begun, startErr := r.startCommand(ctx, attempt, log)
	defer r.worker.site.clear(progress)
	if p == nil && startErr == nil {
		log.Discard()
		return nil
	}
	r.process, r.progress = p, progress
	r.run.attempts, r.run.progress = attempt, ""
	if r.run.startTime == nil {
		r.run.startTime = &begun
		r.setDeadline()
	}
	r.worker.metrics.begun(r.task, r.run)
	if startErr != nil {
		var message tail
		_, _ = message.Write([]byte(startErr.Error()))
		return &batch.TaskStateTerminated{
			ExitCode: startErr.code, Reason: batch.TaskReasonStartError, Message: message.String(), StartedAt: begun, FinishedAt: metav1.Now(),
		}
	}
	r.worker.commands.Add(1)
	r.run.state = batch.TaskState{Running: &batch.TaskStateRunning{StartedAt: begun}}
	announce := time.NewTimer(r.worker.options.AnnounceDelay)
	defer announce.Stop()
	look := time.NewTicker(r.worker.options.ProgressInterval)
	defer look.Stop()
	r.wait(ctx, p.done, announce.C, look.C)
	r.worker.commands.Add(-1)
	r.process = nil
	r.look()

	end := &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: begun, FinishedAt: metav1.Now()}
	end.ExitCode, end.Signal = p.exit()
	if end.ExitCode != 0 || r.ending == byDeadline {
		end.Reason, end.Message = batch.TaskReasonError, p.output.String()
	}
	if p.outOfMemory {
		end.Reason = batch.TaskReasonOOMKilled
	}
	return end
}

// startCommand starts the command. While what keeps it from starting may pass, it tries again, as the worker's
// startBackoff says. If the worker then still lacks something, it sets short. Both the process and the error are nil if
// the task must be evicted, or is ended.
func (r *runner) startCommand(ctx context.Context, attempt int32, log *logs.Log) (*process, progressFile, metav1.Time, *startError) {
	for pause := r.worker.startBackoff; ; {
		begun := metav1.Now()
		inv, progress, err := r.worker.site.prepare(ctx, r.task, attempt)
		if err == nil {
			inv.log = log
			p, startErr := r.worker.startProcess(inv)
			if startErr == nil || !passes(startErr) || pause.Steps == 0 && shortage(startErr) == "" {
				return p, progress, begun, startErr
			}
			r.worker.site.clear(progress)
			err = startErr
		}
		if shortage(err) != "" {
			r.worker.registration.pressure.note(err, r.worker.commands.Load())
		}
		if pause.Steps == 0 {
			r.short = err
			return nil, "", begun, nil
		}
		klog.FromContext(ctx).V(2).Info("Cannot start the command; it is tried again", "task", klog.KObj(r.task), "err", err)
		r.sleep(ctx, pause.Step())
		if r.ending != byItself {
			return nil, "", begun, nil
		}
	}
}

// look takes in what the command says of its progress, and tells whether that is news.
func (r *runner) look() bool {
	if r.process != nil {
		r.worker.site.keep(r.progress)
		if err := r.process.log.Missing(); shortage(err) != "" {
			r.worker.registration.pressure.note(err, r.worker.commands.Load())
		}
	}
	said := r.progress.read()
	if said == "" || said == r.run.progress {
		return false
	}
	r.run.progress = said
	return true
}

// backOff waits until the next attempt is due, or the task is ended.
func (r *runner) backOff(ctx context.Context, delay time.Duration, last *batch.TaskStateTerminated) {
	r.run.state = batch.TaskState{Waiting: &batch.TaskStateWaiting{
		Reason:  reasonBackOff,
		Message: fmt.Sprintf("Attempt %d failed with exit code %d; the next one starts %s later.", r.run.attempts, last.ExitCode, delay),
	}}
	r.unsaid = true
	r.sleep(ctx, delay)
}

// sleep waits for d, or until the task is ended.
func (r *runner) sleep(ctx context.Context, d time.Duration) {
	due := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(due) })
	defer timer.Stop()
	r.wait(ctx, due, nil, nil)
}

// wait waits for done. Reasons to end the task end its command, for which it then waits; without a command they end the wait.
// At the time to announce, from the start if there is something unsaid, and when a look finds progress, the status is written meanwhile.
func (r *runner) wait(ctx context.Context, done <-chan struct{}, announce, look <-chan time.Time) {
	lost, draining := r.lost, r.worker.draining
	for r.process != nil || r.ending == byItself {
		if r.unsaid && r.write == nil {
			r.beginWrite(ctx)
		}
		var written <-chan struct{}
		if r.write != nil {
			written = r.write.done
		}
		var deadline <-chan time.Time
		if r.deadline != nil {
			deadline = r.deadline.C
		}
		select {
		case <-done:
			return
		case <-announce:
			r.look()
			r.unsaid = true
		case <-look:
			r.unsaid = r.look() || r.unsaid
		case <-written:
			r.endWrite()
		case <-r.changed:
			r.mu.Lock()
			shown := r.shown
			r.mu.Unlock()
			r.see(shown)
		case <-deadline:
			r.end(byDeadline, r.grace())
		case <-draining:
			draining = nil
			r.end(byDrain, min(r.grace(), r.worker.options.DrainTimeout))
		case <-lost:
			lost = nil
			r.end(byLoss, 0)
		}
	}
}

// conclude reports the end of the task. last is how its last attempt ended, nil if none was made.
func (r *runner) conclude(ctx context.Context, last *batch.TaskStateTerminated) error {
	if r.write != nil {
		close(r.write.giveUp)
		r.endWrite()
	}
	phase := batch.TaskFailed
	switch {
	case r.ending == byLoss:
		return errLost
	case r.ending == byDeadline && last == nil:
		now := metav1.Now()
		last = &batch.TaskStateTerminated{ExitCode: exitOverdue, Reason: batch.TaskReasonDeadlineExceeded, StartedAt: now, FinishedAt: now}
	case r.ending == byDeadline:
		last.Reason = batch.TaskReasonDeadlineExceeded
	case last != nil && last.Reason == batch.TaskReasonCompleted:
		// Also when it was told to end: as for a Pod, the exit code counts.
		phase = batch.TaskSucceeded
	case r.ending == byDrain:
		return r.binding.evict(ctx, r.task, false, "WorkerStopped", fmt.Sprintf("Worker %s was stopped before the task had finished.", r.worker.options.Name))
	case r.short != nil && r.ending == byItself:
		r.worker.metrics.givenBack(r.short)
		return r.binding.evict(ctx, r.task, false, reasonPressure,
			fmt.Sprintf("Worker %s cannot start the command: %s", r.worker.options.Name, r.short))
	case last == nil:
		return r.binding.remove(ctx, r.task)
	}
	r.run.phase, r.run.state, r.run.completionTime = phase, batch.TaskState{Terminated: last}, &last.FinishedAt
	r.worker.metrics.ended(r.run)
	// The write itself takes the task out of what the informer shows, so a loss ends only its repetition.
	stored, err := r.binding.updateStatus(ctx, r.lost, r.task, r.run.apply)
	if err == nil && stored.DeletionTimestamp != nil {
		err = r.binding.remove(ctx, stored)
	}
	return err
}

// end notes a reason to end the task, and ends its command if it runs.
func (r *runner) end(why ending, grace time.Duration) {
	r.ending = max(r.ending, why)
	if r.process != nil {
		r.process.terminate(grace)
	}
}

// see takes in a version of the task, unless a newer one is known.
func (r *runner) see(task *batch.Task) {
	if order, err := resourceversion.CompareResourceVersion(task.ResourceVersion, r.task.ResourceVersion); err == nil && order <= 0 {
		return
	}
	if !r.binding.holds(task) {
		r.end(byLoss, 0)
		return
	}
	r.task = task
	r.setDeadline()
	if task.DeletionTimestamp != nil {
		grace := r.grace()
		if s := task.DeletionGracePeriodSeconds; s != nil {
			grace = batch.Seconds(*s)
		}
		r.end(byDeletion, grace)
	}
}

func (r *runner) grace() time.Duration {
	if s := r.task.Spec.TerminationGracePeriodSeconds; s != nil {
		return batch.Seconds(*s)
	}
	return defaultGrace
}

// setDeadline sets the timer by the task's deadline, which counts from the start of its first attempt.
func (r *runner) setDeadline() {
	seconds := r.task.Spec.ActiveDeadlineSeconds
	if seconds == nil || r.run.startTime == nil {
		return
	}
	r.stopDeadline()
	left := time.Until(r.run.startTime.Add(batch.Seconds(*seconds)))
	if left <= 0 {
		r.end(byDeadline, r.grace())
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

func (r *runner) beginWrite(ctx context.Context) {
	r.unsaid = false
	w := &write{giveUp: make(chan struct{}), done: make(chan struct{})}
	r.write = w
	task, run := r.task, r.run
	go func() {
		defer close(w.done)
		w.stored, w.err = r.binding.updateStatus(ctx, w.giveUp, task, run.apply)
	}()
}

// endWrite awaits the write in flight and takes in what came of it.
func (r *runner) endWrite() {
	w := r.write
	<-w.done
	r.write = nil
	switch {
	case w.err == nil:
		r.see(w.stored)
	case errors.Is(w.err, errLost):
		r.end(byLoss, 0)
	}
}
