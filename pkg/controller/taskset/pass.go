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

package taskset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// pass takes one set further. It counts, decides, starts and ends tasks, writes the status, and deletes what that status counts, in
// this order: a failure that fails the set is stored before tasks are ended for it, and a count before its tasks are deleted.
type pass struct {
	*Controller
	*record
	set   *batch.TaskSet
	now   time.Time
	again time.Time
}

// at has another pass run at that time.
func (p *pass) at(t time.Time) {
	if !t.IsZero() {
		p.again = earliest(p.again, t)
	}
}

func (p *pass) run(ctx context.Context) error {
	l := p.ledger
	l.count(p.now)
	if finished(p.set) != nil {
		return p.tidy(ctx)
	}
	adoption := p.adopt(ctx)
	p.at(l.wake(p.now))
	status := p.set.Status.DeepCopy()
	var work error
	if decided := outcome(p.set); decided != nil {
		// The decision is stored: what still runs is ended.
		work = p.end(ctx, l.victims(len(l.entries), nil))
		p.conclude(status, decided)
	} else {
		work = p.proceed(ctx, status)
	}
	p.fill(status)
	if err := p.write(ctx, status); err != nil {
		return err
	}
	return errors.Join(adoption, work, p.dispose(ctx))
}

// outcome gives the condition by which the set is bound to succeed or to fail, nil as long as it is not.
func outcome(set *batch.TaskSet) *metav1.Condition {
	for _, target := range []string{batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget} {
		if condition := meta.FindStatusCondition(set.Status.Conditions, target); condition != nil && condition.Status == metav1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// proceed decides whether the set is bound to succeed or to fail and, if not, starts and ends tasks.
func (p *pass) proceed(ctx context.Context, status *batch.TaskSetStatus) error {
	l := p.ledger
	suspended := ptr.Deref(p.set.Spec.Suspend, false)
	if status.StartTime == nil && !suspended {
		status.StartTime = p.time()
	}
	target := p.failure(status, suspended)
	if target != nil {
		// Those that are ended for it count as failed, as in a Job.
		l.failed += l.active
		l.failing = true
	} else {
		target = p.success()
	}
	var work error
	switch {
	case target != nil:
	case p.set.Spec.Cancelled:
		if target = p.completion(); target == nil {
			// Those that are ended for it do not count as failed: people have ended them, as by suspending.
			target = p.condition(batch.TaskSetFailureTarget, metav1.ConditionTrue, batch.TaskSetReasonCancelled, "TaskSet was cancelled")
		}
	default:
		work = p.manage(ctx, suspended)
		target = p.completion()
	}
	if target != nil {
		meta.SetStatusCondition(&status.Conditions, *target)
		p.conclude(status, target)
		if l.active > 0 {
			p.at(p.now)
		}
		return work
	}
	p.suspension(status, suspended)
	return work
}

// failure gives why the set is bound to fail, nil if it is not.
func (p *pass) failure(status *batch.TaskSetStatus, suspended bool) *metav1.Condition {
	l, spec := p.ledger, &p.set.Spec
	because := func(reason, message string) *metav1.Condition {
		return p.condition(batch.TaskSetFailureTarget, metav1.ConditionTrue, reason, message)
	}
	deadline := time.Time{}
	if spec.ActiveDeadlineSeconds != nil && !suspended {
		deadline = status.StartTime.Add(batch.Seconds(*spec.ActiveDeadlineSeconds))
	}
	switch {
	case l.fatal != "":
		return because(batch.TaskSetReasonTaskFailurePolicy, l.fatal)
	case l.failed > ptr.Deref(spec.BackoffLimit, batch.DefaultBackoffLimit):
		return because(batch.TaskSetReasonBackoffLimitExceeded, "TaskSet has reached the specified backoff limit")
	case !deadline.IsZero() && !p.now.Before(deadline):
		return because(batch.TaskSetReasonDeadlineExceeded, "TaskSet was active longer than specified deadline")
	case spec.MaxFailedIndexes != nil && l.failedIndexes.n > int(*spec.MaxFailedIndexes):
		return because(batch.TaskSetReasonMaxFailedIndexesExceeded, "TaskSet has exceeded the specified maximal number of failed indexes")
	case l.failedIndexes.n > 0 && l.failedIndexes.n+l.completed.n >= l.limit:
		return because(batch.TaskSetReasonFailedIndexes, "TaskSet has failed indexes")
	}
	p.at(deadline)
	return nil
}

// success gives why the set is bound to succeed before all indexes have, nil if it is not.
func (p *pass) success() *metav1.Condition {
	for i, rule := range p.ledger.rules {
		if rule.have >= rule.want {
			return p.condition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonSuccessPolicy,
				fmt.Sprintf("Matched rules at index %d", i))
		}
	}
	return nil
}

// completion gives the condition of a set that has all successes it needs. Without completions one success is enough, and the tasks
// that run are left to end by themselves.
func (p *pass) completion() *metav1.Condition {
	l := p.ledger
	enough := l.completed.n >= l.limit
	if p.set.Spec.Completions == nil {
		enough = l.completed.n > 0
	}
	if !enough || l.active > 0 {
		return nil
	}
	return p.condition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonCompletionsReached,
		"Reached expected number of succeeded tasks")
}

// conclude finishes a set that is bound to succeed or to fail, once none of its tasks is left unfinished.
func (p *pass) conclude(status *batch.TaskSetStatus, target *metav1.Condition) {
	if p.ledger.active > 0 || p.ledger.terminating > 0 {
		return
	}
	if status.StartTime == nil {
		status.StartTime = p.time() // suspended, and done by the tasks that were ending
	}
	final := batch.TaskSetFailed
	if target.Type == batch.TaskSetSuccessCriteriaMet {
		final = batch.TaskSetComplete
		status.CompletionTime = p.time()
	}
	meta.SetStatusCondition(&status.Conditions, *p.condition(final, metav1.ConditionTrue, target.Reason, target.Message))
	if final == batch.TaskSetFailed {
		meta.SetStatusCondition(&status.Conditions, *p.condition(batch.TaskSetStalled, metav1.ConditionTrue, target.Reason, target.Message))
	}
}

// suspension keeps the Suspended condition. The start is forgotten by a suspended set and is that of the resumption afterwards: the
// deadline is one of continuous activity.
func (p *pass) suspension(status *batch.TaskSetStatus, suspended bool) {
	current := meta.FindStatusCondition(status.Conditions, batch.TaskSetSuspended)
	switch {
	case suspended && (current == nil || current.Status != metav1.ConditionTrue):
		meta.SetStatusCondition(&status.Conditions,
			*p.condition(batch.TaskSetSuspended, metav1.ConditionTrue, batch.TaskSetReasonSuspended, "TaskSet suspended"))
		status.StartTime = nil
	case !suspended && current != nil && current.Status == metav1.ConditionTrue:
		meta.SetStatusCondition(&status.Conditions,
			*p.condition(batch.TaskSetSuspended, metav1.ConditionFalse, batch.TaskSetReasonResumed, "TaskSet resumed"))
		status.StartTime = p.time()
	}
}

// manage starts and ends tasks so that as many are active as should be.
func (p *pass) manage(ctx context.Context, suspended bool) error {
	l, spec := p.ledger, &p.set.Spec
	unwanted, again := l.unwanted(p.now)
	p.at(again)
	want := ptr.Deref(spec.Parallelism, 1)
	switch {
	case suspended:
		want = 0
	case spec.Completions == nil && l.completed.n > 0:
		want = l.active // those that run are left to end, and no more are started
	}
	ending := int32(0)
	for _, e := range unwanted {
		if e.active() {
			ending++
		}
	}
	if over := l.active - ending - want; over > 0 {
		unwanted = append(unwanted, l.victims(int(over), unwanted)...)
	}
	if len(unwanted) > 0 {
		if err := p.end(ctx, unwanted); err != nil {
			return err
		}
	}
	free := int(want-l.active-l.terminating) - len(l.retry.waiting)
	if free <= 0 || l.pending.n == 0 {
		p.progress.createMessage = ""
		return nil
	}
	for _, until := range []time.Time{l.retry.until(), p.progress.createAfter} {
		if until.After(p.now) {
			p.at(until)
			return nil
		}
	}
	if free > passCreates {
		free = passCreates
		p.at(p.now)
	}
	return p.create(ctx, l.take(free))
}

// errStale ends a pass that has taken too long: the next one begins with what the server says.
var errStale = fmt.Errorf("the pass has taken more than %s: what is left of it is done anew", staleAfter)

// create creates tasks, a few at first and then more at a time, until that fails.
func (p *pass) create(ctx context.Context, starts []start) error {
	l, tasks := p.ledger, p.client.BatchV1alpha1().Tasks(p.set.Namespace)
	for len(starts) > 0 {
		window := max(p.progress.window, 1)
		n := min(window, len(starts))
		created, errs, requested := make([]*batch.Task, n), make([]error, n), make([]time.Time, n)
		p.each(ctx, n, func(i int) {
			if p.stale(p.now) {
				errs[i] = errStale
				return
			}
			task := batch.NewTask(p.set, starts[i].index, starts[i].failures)
			requested[i] = p.clock.Now()
			created[i], errs[i] = tasks.Create(ctx, task, metav1.CreateOptions{})
			meterCreation(starts[i], errs[i])
			if apierrors.IsAlreadyExists(errs[i]) {
				requested[i] = time.Time{}
				created[i], errs[i] = p.existing(ctx, task)
			}
		})
		for i, task := range created {
			if task != nil && errs[i] == nil {
				l.observe(task.UID, task)
				e := l.entries[task.UID]
				e.requestedAt = requested[i]
				if asked := orderOfSet(p.set); !requested[i].IsZero() && e.order != asked {
					e.asked = &asked
				}
			} else {
				l.giveBack(starts[i])
			}
		}
		starts = starts[n:]
		if err := errors.Join(ctx.Err(), errors.Join(errs...)); err != nil {
			for _, s := range starts {
				l.giveBack(s)
			}
			return p.refused(ctx, errs)
		}
		if n == window {
			p.progress.window = min(2*window, passCreates)
		}
	}
	p.progress.createFailures, p.progress.createAfter, p.progress.createMessage = 0, time.Time{}, ""
	return nil
}

// existing gives a task of ours that is there already: it was created, and we have not been told yet.
func (p *pass) existing(ctx context.Context, want *batch.Task) (*batch.Task, error) {
	task, err := p.client.BatchV1alpha1().Tasks(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(task, p.set) || task.Labels[batch.LabelControllerUID] != string(p.uid) {
		return nil, fmt.Errorf("task %s exists and is not of this set: delete it", want.Name)
	}
	return task, nil
}

// refused has the set wait before it creates tasks again, as long as the server asks for if it does. People see why in the status.
func (p *pass) refused(ctx context.Context, errs []error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if slices.Contains(errs, errStale) {
		return errStale
	}
	p.progress.window = 1
	p.progress.createFailures++
	delay := delays{createBase, createLimit}.after(p.progress.createFailures)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			delay = batch.Seconds(int64(seconds))
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			delay = createLimit
		}
		p.progress.createMessage = err.Error()
		klog.FromContext(ctx).V(2).Info("Cannot create a task; it is tried again", "taskset", klog.KObj(p.set), "after", delay, "err", err)
		break
	}
	p.progress.createAfter = p.now.Add(delay)
	p.at(p.progress.createAfter)
	return nil
}

// end deletes tasks that are active, or that have failed and are to be tried again.
func (p *pass) end(ctx context.Context, entries []*entry) error {
	failed, err := p.delete(ctx, entries)
	for _, e := range failed {
		if e.finished() {
			p.ledger.ignored = append(p.ledger.ignored, e)
		} else {
			p.ledger.excess = append(p.ledger.excess, e)
		}
	}
	return err
}

// dispose deletes tasks whose part in the status is stored.
func (p *pass) dispose(ctx context.Context) error {
	l := p.ledger
	n := min(len(l.disposed), passDeletes)
	batch := l.disposed[:n]
	rest := l.disposed[n:]
	failed, err := p.delete(ctx, batch)
	l.disposed = append(failed, rest...)
	if len(rest) > 0 {
		p.at(p.now)
	}
	if n > len(failed) && p.progress.createAfter.After(p.now) {
		// There is more room now.
		p.progress.createAfter = p.now
		p.at(p.now)
	}
	return err
}

// delete deletes tasks, and gives those that it could not.
func (p *pass) delete(ctx context.Context, entries []*entry) (failed []*entry, err error) {
	var mu sync.Mutex
	tasks := p.client.BatchV1alpha1().Tasks(p.set.Namespace)
	done := make([]bool, len(entries))
	p.each(ctx, len(entries), func(i int) {
		e := entries[i]
		if e.gone || e.deleting {
			done[i] = true
			return
		}
		preconditions := &metav1.Preconditions{UID: &e.uid}
		if e.active() && p.ledger.loaded {
			// If it has finished meanwhile it is to be counted.
			preconditions.ResourceVersion = &e.version
		}
		deletion := tasks.Delete(ctx, e.name, metav1.DeleteOptions{
			Preconditions:     preconditions,
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		// A conflict means that the name is that of another task by now or, with a resourceVersion, that the task has changed, of
		// which an event tells.
		conflict := apierrors.IsConflict(deletion)
		if deletion == nil || apierrors.IsNotFound(deletion) || conflict && preconditions.ResourceVersion == nil {
			done[i] = true
			return
		}
		if conflict {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		err = deletion
	})
	for i, e := range entries {
		switch {
		case !done[i]:
			failed = append(failed, e)
		case !e.gone && !e.deleting:
			p.ledger.deleting(e)
		}
	}
	return failed, errors.Join(err, ctx.Err())
}

// fill writes the counts into the status.
func (p *pass) fill(status *batch.TaskSetStatus) {
	l := p.ledger
	status.Active, status.Ready, status.Terminating = l.active, ptr.To(l.ready), ptr.To(l.terminating)
	status.Succeeded, status.Failed = int32(l.completed.n), l.failed
	if message := p.progress.createMessage; message != "" {
		meta.SetStatusCondition(&status.Conditions,
			*p.condition(batch.TaskSetReplicaFailure, metav1.ConditionTrue, batch.TaskSetReasonFailedCreate, bounded(message)))
	} else {
		meta.RemoveStatusCondition(&status.Conditions, batch.TaskSetReplicaFailure)
	}
}

// bounded cuts a message to what a condition takes.
func bounded(message string) string {
	const limit = 4096
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit], "") + "…"
}

// write stores the status if it has changed, at once if a transition is in it and else at its time. What is counted may be deleted
// then.
func (p *pass) write(ctx context.Context, status *batch.TaskSetStatus) error {
	l, before := p.ledger, &p.set.Status
	transition := conditionsOf(status) != conditionsOf(before) || !status.StartTime.Equal(before.StartTime)
	changed := transition || len(l.counted) > 0 ||
		status.Active != before.Active || !ptr.Equal(status.Ready, before.Ready) || !ptr.Equal(status.Terminating, before.Terminating) ||
		status.Succeeded != before.Succeeded || status.Failed != before.Failed || message(status) != message(before)
	if !changed {
		l.stored()
		return nil
	}
	if due := p.progress.wrote.Add(flushInterval); !transition && p.now.Before(due) {
		p.at(due)
		return nil
	}
	status.CompletedIndexes = l.completed.String()
	status.IndexFailures = l.indexFailures()
	if l.backoffLimitPerIndex != nil {
		status.FailedIndexes = ptr.To(l.failedIndexes.String())
	}
	set := *p.set
	set.Status = *status
	stored, err := p.client.BatchV1alpha1().TaskSets(set.Namespace).UpdateStatus(ctx, &set, metav1.UpdateOptions{})
	if apierrors.IsRequestEntityTooLargeError(err) && p.recorder != nil {
		// Of a set that was accepted when there was no rule for its size: people must know why it stands still.
		p.recorder.Eventf(p.set, nil, corev1.EventTypeWarning, "StatusTooLarge", "UpdateStatus", "The status cannot be stored: %v", err)
	}
	if err != nil {
		return err
	}
	p.progress.wrote = p.now
	p.progress.set = stored
	p.meter(p.set, stored)
	l.stored()
	p.tell(before, status)
	p.set = stored
	return nil
}

// conditionsOf returns what makes a transition. ReplicaFailure comes and goes with each task, and waits for its time.
func conditionsOf(status *batch.TaskSetStatus) string {
	var b strings.Builder
	for _, condition := range status.Conditions {
		if condition.Type != batch.TaskSetReplicaFailure {
			b.WriteString(condition.Type + "=" + string(condition.Status) + "/" + condition.Reason + " ")
		}
	}
	return b.String()
}

func message(status *batch.TaskSetStatus) string {
	if condition := meta.FindStatusCondition(status.Conditions, batch.TaskSetReplicaFailure); condition != nil {
		return condition.Message
	}
	return ""
}

// tell records an Event for what has become true.
func (p *pass) tell(before, after *batch.TaskSetStatus) {
	if p.recorder == nil {
		return
	}
	for _, condition := range after.Conditions {
		old := meta.FindStatusCondition(before.Conditions, condition.Type)
		if old != nil && old.Status == condition.Status || condition.Status != metav1.ConditionTrue && condition.Type != batch.TaskSetSuspended {
			continue
		}
		switch condition.Type {
		case batch.TaskSetComplete:
			p.recorder.Eventf(p.set, nil, corev1.EventTypeNormal, "Completed", "Complete", "TaskSet completed")
		case batch.TaskSetFailed:
			if condition.Reason == batch.TaskSetReasonCancelled {
				p.recorder.Eventf(p.set, nil, corev1.EventTypeNormal, condition.Reason, "Cancel", "%s", condition.Message)
			} else {
				p.recorder.Eventf(p.set, nil, corev1.EventTypeWarning, condition.Reason, "Fail", "%s", condition.Message)
			}
		case batch.TaskSetSuspended:
			reason, action := "Suspended", "Suspend"
			if condition.Status != metav1.ConditionTrue {
				reason, action = "Resumed", "Resume"
			}
			p.recorder.Eventf(p.set, nil, corev1.EventTypeNormal, reason, action, "%s", condition.Message)
		case batch.TaskSetReplicaFailure:
			p.recorder.Eventf(p.set, nil, corev1.EventTypeWarning, condition.Reason, "Create", "%s", condition.Message)
		}
	}
}

func (p *pass) condition(name string, status metav1.ConditionStatus, reason, message string) *metav1.Condition {
	return &metav1.Condition{Type: name, Status: status, Reason: reason, Message: message, LastTransitionTime: *p.time()}
}

func (p *pass) time() *metav1.Time { return &metav1.Time{Time: p.now} }

// tidy deletes what a finished set no longer needs and, when its time is over, the set.
func (p *pass) tidy(ctx context.Context) error {
	l := p.ledger
	l.failing = true
	for _, e := range l.ignored {
		l.settle(e)
	}
	l.ignored = nil
	l.stored()
	err := errors.Join(p.end(ctx, l.victims(len(l.entries), nil)), p.dispose(ctx))
	if p.set.Spec.TTLSecondsAfterFinished == nil {
		return err
	}
	return errors.Join(err, p.expire(ctx))
}

// expire deletes a set whose time to live is over, tasks first. What is known of it may be old, so it is read before.
func (p *pass) expire(ctx context.Context) error {
	expiry := func(set *batch.TaskSet) (time.Time, bool) {
		final, ttl := finished(set), set.Spec.TTLSecondsAfterFinished
		if final == nil || ttl == nil {
			return time.Time{}, false
		}
		return final.LastTransitionTime.Add(batch.Seconds(int64(*ttl))), true
	}
	if at, _ := expiry(p.set); at.After(p.now) {
		p.at(at)
		return nil
	}
	sets := p.client.BatchV1alpha1().TaskSets(p.set.Namespace)
	set, err := sets.Get(ctx, p.set.Name, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	if at, ok := expiry(set); set.UID != p.set.UID || set.DeletionTimestamp != nil || !ok || at.After(p.now) {
		return nil // an event will tell
	}
	return ignoreNotFound(sets.Delete(ctx, set.Name, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion},
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground),
	}))
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
