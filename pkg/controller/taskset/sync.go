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

// syncContext is the state of one sync of a TaskSet. A sync
//
//  1. counts the tasks that have finished,
//  2. decides whether the set succeeds or fails,
//  3. creates and deletes tasks,
//  4. writes the status,
//  5. deletes the tasks that the stored status has counted.
//
// The order makes a crash at any point harmless: the condition that fails a set is stored before its tasks are deleted,
// and the count of a task is stored before that task is deleted.
type syncContext struct {
	*Controller
	*record
	set *batch.TaskSet
	// now is when the sync began.
	now time.Time
	// requeue is when to sync next even if nothing changes, zero for never.
	requeue time.Time
}

// requeueAt requests another sync at time t. The zero time requests none.
func (s *syncContext) requeueAt(t time.Time) {
	if !t.IsZero() {
		s.requeue = earliest(s.requeue, t)
	}
}

func (s *syncContext) sync(ctx context.Context) error {
	state := s.ledger
	state.countFinished(s.now)
	if finishedCondition(s.set) != nil {
		return s.cleanUpFinished(ctx)
	}
	adoptionErr := s.adopt(ctx)
	s.requeueAt(state.endBackoffs(s.now))
	status := s.set.Status.DeepCopy()
	var workErr error
	if target := targetCondition(s.set); target != nil {
		// The decision is stored, so the remaining tasks can be deleted.
		workErr = s.stopTasks(ctx, state.activeTasksForRemoval(len(state.tasks), nil))
		s.enactFinished(status, target)
	} else {
		workErr = s.syncTasks(ctx, status)
	}
	s.updateCounts(status)
	if err := s.writeStatus(ctx, status); err != nil {
		return err
	}
	return errors.Join(adoptionErr, workErr, s.deleteCounted(ctx))
}

// targetCondition returns the stored condition that decides the outcome of the set, SuccessCriteriaMet or
// FailureTarget, or nil while the outcome is open.
func targetCondition(set *batch.TaskSet) *metav1.Condition {
	for _, conditionType := range []string{batch.TaskSetSuccessCriteriaMet, batch.TaskSetFailureTarget} {
		if condition := meta.FindStatusCondition(set.Status.Conditions, conditionType); condition != nil && condition.Status == metav1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// syncTasks decides the outcome of the set and, while it is open, creates and deletes tasks.
func (s *syncContext) syncTasks(ctx context.Context, status *batch.TaskSetStatus) error {
	state := s.ledger
	suspended := ptr.Deref(s.set.Spec.Suspend, false)
	if status.StartTime == nil && !suspended {
		status.StartTime = s.timestamp()
	}
	target := s.failureTarget(status, suspended)
	if target != nil {
		// The active tasks will be deleted and count as failed, as in a Job.
		state.failed += state.active
		state.failureDecided = true
	} else {
		target = s.successPolicyTarget()
	}
	var workErr error
	switch {
	case target != nil:
	case s.set.Spec.Cancelled:
		if target = s.completionTarget(); target == nil {
			// The active tasks will be deleted but do not count as failed: a user stopped them, as by suspending.
			target = s.newCondition(batch.TaskSetFailureTarget, metav1.ConditionTrue, batch.TaskSetReasonCancelled, "TaskSet was cancelled")
		}
	default:
		workErr = s.manageTasks(ctx, suspended)
		target = s.completionTarget()
	}
	if target != nil {
		meta.SetStatusCondition(&status.Conditions, *target)
		s.enactFinished(status, target)
		if state.active > 0 {
			s.requeueAt(s.now)
		}
		return workErr
	}
	s.updateSuspended(status, suspended)
	return workErr
}

// failureTarget returns the FailureTarget condition of a set that has to fail, nil if it does not have to.
func (s *syncContext) failureTarget(status *batch.TaskSetStatus, suspended bool) *metav1.Condition {
	state, spec := s.ledger, &s.set.Spec
	because := func(reason, message string) *metav1.Condition {
		return s.newCondition(batch.TaskSetFailureTarget, metav1.ConditionTrue, reason, message)
	}
	deadline := time.Time{}
	if spec.ActiveDeadlineSeconds != nil && !suspended {
		deadline = status.StartTime.Add(batch.Seconds(*spec.ActiveDeadlineSeconds))
	}
	switch {
	case state.policyFailure != "":
		return because(batch.TaskSetReasonTaskFailurePolicy, state.policyFailure)
	case state.failed > ptr.Deref(spec.BackoffLimit, batch.DefaultBackoffLimit):
		return because(batch.TaskSetReasonBackoffLimitExceeded, "TaskSet has reached the specified backoff limit")
	case !deadline.IsZero() && !s.now.Before(deadline):
		return because(batch.TaskSetReasonDeadlineExceeded, "TaskSet was active longer than specified deadline")
	case spec.MaxFailedIndexes != nil && state.failedIndexes.size > int(*spec.MaxFailedIndexes):
		return because(batch.TaskSetReasonMaxFailedIndexesExceeded, "TaskSet has exceeded the specified maximal number of failed indexes")
	case state.failedIndexes.size > 0 && state.failedIndexes.size+state.completed.size >= state.indexEnd:
		return because(batch.TaskSetReasonFailedIndexes, "TaskSet has failed indexes")
	}
	s.requeueAt(deadline)
	return nil
}

// successPolicyTarget returns the SuccessCriteriaMet condition if a rule of the success policy is met, else nil.
func (s *syncContext) successPolicyTarget() *metav1.Condition {
	for i, rule := range s.ledger.successRules {
		if rule.succeeded >= rule.required {
			return s.newCondition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonSuccessPolicy,
				fmt.Sprintf("Matched rules at index %d", i))
		}
	}
	return nil
}

// completionTarget returns the SuccessCriteriaMet condition of a set that has all the successes it needs and no active
// task left, else nil. Without completions one success is enough; the tasks that are active then may finish.
func (s *syncContext) completionTarget() *metav1.Condition {
	state := s.ledger
	complete := state.completed.size >= state.indexEnd
	if s.set.Spec.Completions == nil {
		complete = state.completed.size > 0
	}
	if !complete || state.active > 0 {
		return nil
	}
	return s.newCondition(batch.TaskSetSuccessCriteriaMet, metav1.ConditionTrue, batch.TaskSetReasonCompletionsReached,
		"Reached expected number of succeeded tasks")
}

// enactFinished adds Complete or Failed to a set whose outcome is decided, once all of its tasks have finished.
func (s *syncContext) enactFinished(status *batch.TaskSetStatus, target *metav1.Condition) {
	if s.ledger.active > 0 || s.ledger.terminating > 0 {
		return
	}
	if status.StartTime == nil {
		status.StartTime = s.timestamp() // The set is suspended, and tasks that were terminating have completed it.
	}
	final := batch.TaskSetFailed
	if target.Type == batch.TaskSetSuccessCriteriaMet {
		final = batch.TaskSetComplete
		status.CompletionTime = s.timestamp()
	}
	meta.SetStatusCondition(&status.Conditions, *s.newCondition(final, metav1.ConditionTrue, target.Reason, target.Message))
	if final == batch.TaskSetFailed {
		meta.SetStatusCondition(&status.Conditions, *s.newCondition(batch.TaskSetStalled, metav1.ConditionTrue, target.Reason, target.Message))
	}
}

// updateSuspended maintains the Suspended condition. A suspended set has no start time and a resumed set starts again,
// because the deadline limits continuous activity.
func (s *syncContext) updateSuspended(status *batch.TaskSetStatus, suspended bool) {
	current := meta.FindStatusCondition(status.Conditions, batch.TaskSetSuspended)
	switch {
	case suspended && (current == nil || current.Status != metav1.ConditionTrue):
		meta.SetStatusCondition(&status.Conditions,
			*s.newCondition(batch.TaskSetSuspended, metav1.ConditionTrue, batch.TaskSetReasonSuspended, "TaskSet suspended"))
		status.StartTime = nil
	case !suspended && current != nil && current.Status == metav1.ConditionTrue:
		meta.SetStatusCondition(&status.Conditions,
			*s.newCondition(batch.TaskSetSuspended, metav1.ConditionFalse, batch.TaskSetReasonResumed, "TaskSet resumed"))
		status.StartTime = s.timestamp()
	}
}

// manage toCreate and ends tasks so that as many are active as should be.
func (s *syncContext) manageTasks(ctx context.Context, suspended bool) error {
	state, spec := s.ledger, &s.set.Spec
	toStop, retryAt := state.tasksToStop(s.now)
	s.requeueAt(retryAt)
	want := ptr.Deref(spec.Parallelism, 1)
	switch {
	case suspended:
		want = 0
	case spec.Completions == nil && state.completed.size > 0:
		want = state.active // The active tasks may finish, and no more are created.
	}
	stopping := int32(0)
	for _, e := range toStop {
		if e.active() {
			stopping++
		}
	}
	if excess := state.active - stopping - want; excess > 0 {
		toStop = append(toStop, state.activeTasksForRemoval(int(excess), toStop)...)
	}
	if len(toStop) > 0 {
		if err := s.stopTasks(ctx, toStop); err != nil {
			return err
		}
	}
	free := int(want-state.active-state.terminating) - len(state.backoff.readyAt)
	if free <= 0 || state.pending.size == 0 {
		s.progress.createError = ""
		return nil
	}
	for _, until := range []time.Time{state.backoff.until(), s.progress.createBackoffUntil} {
		if until.After(s.now) {
			s.requeueAt(until)
			return nil
		}
	}
	if free > maxCreatesPerSync {
		free = maxCreatesPerSync
		s.requeueAt(s.now)
	}
	return s.createTasks(ctx, state.reserve(free))
}

// errStale aborts a sync that has taken too long. The next sync starts from the set as the server has it.
var errStale = fmt.Errorf("the sync has taken longer than %s and is repeated", staleAfter)

// createTasks creates tasks in batches of growing size until all are created or one fails, as upstream's
// slowStartBatch does: a set that cannot create tasks does not flood the server with requests.
func (s *syncContext) createTasks(ctx context.Context, toCreate []taskToCreate) error {
	state, tasks := s.ledger, s.client.BatchV1alpha1().Tasks(s.set.Namespace)
	for len(toCreate) > 0 {
		batchSize := max(s.progress.createBatch, 1)
		n := min(batchSize, len(toCreate))
		created, errs, requested := make([]*batch.Task, n), make([]error, n), make([]time.Time, n)
		s.parallelize(ctx, n, func(i int) {
			if s.isStale(s.now) {
				errs[i] = errStale
				return
			}
			task := batch.NewTask(s.set, toCreate[i].index, toCreate[i].failures)
			requested[i] = s.clock.Now()
			created[i], errs[i] = tasks.Create(ctx, task, metav1.CreateOptions{})
			recordCreation(toCreate[i], errs[i])
			if apierrors.IsAlreadyExists(errs[i]) {
				requested[i] = time.Time{}
				created[i], errs[i] = s.getExisting(ctx, task)
			}
		})
		for i, task := range created {
			if task != nil && errs[i] == nil {
				state.observe(task.UID, task)
				tracked := state.tasks[task.UID]
				tracked.requestedAt = requested[i]
				if order := queueOrderOfSet(s.set); !requested[i].IsZero() && tracked.order != order {
					tracked.requestedOrder = &order
				}
			} else {
				state.release(toCreate[i])
			}
		}
		toCreate = toCreate[n:]
		if err := errors.Join(ctx.Err(), errors.Join(errs...)); err != nil {
			for _, task := range toCreate {
				state.release(task)
			}
			return s.backOffCreation(ctx, errs)
		}
		if n == batchSize {
			s.progress.createBatch = min(2*batchSize, maxCreatesPerSync)
		}
	}
	s.progress.createFailures, s.progress.createBackoffUntil, s.progress.createError = 0, time.Time{}, ""
	return nil
}

// getExisting returns a task of this set that exists already: it was created, but the informer has not shown it yet.
func (s *syncContext) getExisting(ctx context.Context, want *batch.Task) (*batch.Task, error) {
	task, err := s.client.BatchV1alpha1().Tasks(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(task, s.set) || task.Labels[batch.LabelControllerUID] != string(s.uid) {
		return nil, fmt.Errorf("task %s exists and is not controlled by this task set: delete it", want.Name)
	}
	return task, nil
}

// backOffCreation delays the creation of tasks after a failure, for as long as the server suggests if it does. The
// condition ReplicaFailure shows the error.
func (s *syncContext) backOffCreation(ctx context.Context, errs []error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if slices.Contains(errs, errStale) {
		return errStale
	}
	s.progress.createBatch = 1
	s.progress.createFailures++
	delay := exponentialBackoff{createBackoffBase, createBackoffMax}.delay(s.progress.createFailures)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
			delay = batch.Seconds(int64(seconds))
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			delay = createBackoffMax
		}
		s.progress.createError = err.Error()
		klog.FromContext(ctx).V(2).Info("Failed to create task, will retry", "taskset", klog.KObj(s.set), "retryAfter", delay, "err", err)
		break
	}
	s.progress.createBackoffUntil = s.now.Add(delay)
	s.requeueAt(s.progress.createBackoffUntil)
	return nil
}

// stopTasks deletes tasks that are active, and failed tasks that the failure policy ignores.
func (s *syncContext) stopTasks(ctx context.Context, entries []*trackedTask) error {
	failed, err := s.deleteTasks(ctx, entries)
	for _, e := range failed {
		if e.finished() {
			s.ledger.ignoredFailures = append(s.ledger.ignoredFailures, e)
		} else {
			s.ledger.duplicates = append(s.ledger.duplicates, e)
		}
	}
	return err
}

// deleteCounted deletes tasks that the stored status has counted.
func (s *syncContext) deleteCounted(ctx context.Context) error {
	state := s.ledger
	n := min(len(state.toDelete), maxDeletesPerSync)
	now := state.toDelete[:n]
	rest := state.toDelete[n:]
	failed, err := s.deleteTasks(ctx, now)
	state.toDelete = append(failed, rest...)
	if len(rest) > 0 {
		s.requeueAt(s.now)
	}
	if n > len(failed) && s.progress.createBackoffUntil.After(s.now) {
		// The deletions have freed quota.
		s.progress.createBackoffUntil = s.now
		s.requeueAt(s.now)
	}
	return err
}

// deleteTasks deletes tasks and returns those that it could not delete.
func (s *syncContext) deleteTasks(ctx context.Context, entries []*trackedTask) (failed []*trackedTask, err error) {
	var mu sync.Mutex
	tasks := s.client.BatchV1alpha1().Tasks(s.set.Namespace)
	done := make([]bool, len(entries))
	s.parallelize(ctx, len(entries), func(i int) {
		e := entries[i]
		if e.gone || e.deleting {
			done[i] = true
			return
		}
		preconditions := &metav1.Preconditions{UID: &e.uid}
		if e.active() && s.ledger.loaded {
			// A task that has finished meanwhile must be counted first.
			preconditions.ResourceVersion = &e.resourceVersion
		}
		deleteErr := tasks.Delete(ctx, e.name, metav1.DeleteOptions{
			Preconditions:     preconditions,
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		// A conflict means that another task has the name now or, with a resourceVersion, that the task has changed. An
		// event will show the change.
		conflict := apierrors.IsConflict(deleteErr)
		if deleteErr == nil || apierrors.IsNotFound(deleteErr) || conflict && preconditions.ResourceVersion == nil {
			done[i] = true
			return
		}
		if conflict {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		err = deleteErr
	})
	for i, e := range entries {
		switch {
		case !done[i]:
			failed = append(failed, e)
		case !e.gone && !e.deleting:
			s.ledger.deletionRequested(e)
		}
	}
	return failed, errors.Join(err, ctx.Err())
}

// updateCounts sets the counters of the status and the condition ReplicaFailure.
func (s *syncContext) updateCounts(status *batch.TaskSetStatus) {
	state := s.ledger
	status.Active, status.Ready, status.Terminating = state.active, ptr.To(state.ready), ptr.To(state.terminating)
	status.Succeeded, status.Failed = int32(state.completed.size), state.failed
	if message := s.progress.createError; message != "" {
		meta.SetStatusCondition(&status.Conditions,
			*s.newCondition(batch.TaskSetReplicaFailure, metav1.ConditionTrue, batch.TaskSetReasonFailedCreate, truncateMessage(message)))
	} else {
		meta.RemoveStatusCondition(&status.Conditions, batch.TaskSetReplicaFailure)
	}
}

// truncateMessage returns the message, shortened to what the API accepts in a condition.
func truncateMessage(message string) string {
	const limit = 4096
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit], "") + "…"
}

// writeStatus stores the status if it has changed: at once if a condition or the start time changes, else at most once
// every statusWriteInterval. Tasks that a stored status has counted may be deleted.
func (s *syncContext) writeStatus(ctx context.Context, status *batch.TaskSetStatus) error {
	state, before := s.ledger, &s.set.Status
	transition := conditionSummary(status) != conditionSummary(before) || !status.StartTime.Equal(before.StartTime)
	changed := transition || len(state.counted) > 0 ||
		status.Active != before.Active || !ptr.Equal(status.Ready, before.Ready) || !ptr.Equal(status.Terminating, before.Terminating) ||
		status.Succeeded != before.Succeeded || status.Failed != before.Failed || createFailureMessage(status) != createFailureMessage(before)
	if !changed {
		state.statusStored()
		return nil
	}
	if due := s.progress.statusWrittenAt.Add(statusWriteInterval); !transition && s.now.Before(due) {
		s.requeueAt(due)
		return nil
	}
	status.CompletedIndexes = state.completed.String()
	status.IndexFailures = state.formatIndexFailures()
	if state.backoffLimitPerIndex != nil {
		status.FailedIndexes = ptr.To(state.failedIndexes.String())
	}
	set := *s.set
	set.Status = *status
	stored, err := s.client.BatchV1alpha1().TaskSets(set.Namespace).UpdateStatus(ctx, &set, metav1.UpdateOptions{})
	if apierrors.IsRequestEntityTooLargeError(err) && s.recorder != nil {
		// The set was accepted before its size was limited. Users must learn why it makes no progress.
		s.recorder.Eventf(s.set, nil, corev1.EventTypeWarning, "StatusTooLarge", "UpdateStatus", "The status cannot be stored: %v", err)
	}
	if err != nil {
		return err
	}
	s.progress.statusWrittenAt = s.now
	s.progress.set = stored
	s.recordMetrics(s.set, stored)
	state.statusStored()
	s.recordEvents(before, status)
	s.set = stored
	return nil
}

// conditionSummary returns a string that changes when a condition does. It excludes ReplicaFailure, which may come and
// go with each task and need not be written at once.
func conditionSummary(status *batch.TaskSetStatus) string {
	var b strings.Builder
	for _, condition := range status.Conditions {
		if condition.Type != batch.TaskSetReplicaFailure {
			b.WriteString(condition.Type + "=" + string(condition.Status) + "/" + condition.Reason + " ")
		}
	}
	return b.String()
}

// createFailureMessage returns the message of the condition ReplicaFailure, empty without one.
func createFailureMessage(status *batch.TaskSetStatus) string {
	if condition := meta.FindStatusCondition(status.Conditions, batch.TaskSetReplicaFailure); condition != nil {
		return condition.Message
	}
	return ""
}

// recordEvents records an Event for each condition that has become true.
func (s *syncContext) recordEvents(before, after *batch.TaskSetStatus) {
	if s.recorder == nil {
		return
	}
	for _, condition := range after.Conditions {
		old := meta.FindStatusCondition(before.Conditions, condition.Type)
		if old != nil && old.Status == condition.Status || condition.Status != metav1.ConditionTrue && condition.Type != batch.TaskSetSuspended {
			continue
		}
		switch condition.Type {
		case batch.TaskSetComplete:
			s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, "Completed", "Complete", "TaskSet completed")
		case batch.TaskSetFailed:
			if condition.Reason == batch.TaskSetReasonCancelled {
				s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, condition.Reason, "Cancel", "%s", condition.Message)
			} else {
				s.recorder.Eventf(s.set, nil, corev1.EventTypeWarning, condition.Reason, "Fail", "%s", condition.Message)
			}
		case batch.TaskSetSuspended:
			reason, action := "Suspended", "Suspend"
			if condition.Status != metav1.ConditionTrue {
				reason, action = "Resumed", "Resume"
			}
			s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, reason, action, "%s", condition.Message)
		case batch.TaskSetReplicaFailure:
			s.recorder.Eventf(s.set, nil, corev1.EventTypeWarning, condition.Reason, "Create", "%s", condition.Message)
		}
	}
}

func (s *syncContext) newCondition(name string, status metav1.ConditionStatus, reason, message string) *metav1.Condition {
	return &metav1.Condition{Type: name, Status: status, Reason: reason, Message: message, LastTransitionTime: *s.timestamp()}
}

func (s *syncContext) timestamp() *metav1.Time { return &metav1.Time{Time: s.now} }

// cleanUpFinished deletes the tasks that a finished set no longer needs and, once its time to live is over, the set.
func (s *syncContext) cleanUpFinished(ctx context.Context) error {
	state := s.ledger
	state.failureDecided = true
	for _, e := range state.ignoredFailures {
		state.flush(e)
	}
	state.ignoredFailures = nil
	state.statusStored()
	err := errors.Join(s.stopTasks(ctx, state.activeTasksForRemoval(len(state.tasks), nil)), s.deleteCounted(ctx))
	if s.set.Spec.TTLSecondsAfterFinished == nil {
		return err
	}
	return errors.Join(err, s.processTTL(ctx))
}

// processTTL deletes a set whose time to live is over, after its tasks. It reads the set first, because the time to
// live may have been extended.
func (s *syncContext) processTTL(ctx context.Context) error {
	expiry := func(set *batch.TaskSet) (time.Time, bool) {
		final, ttl := finishedCondition(set), set.Spec.TTLSecondsAfterFinished
		if final == nil || ttl == nil {
			return time.Time{}, false
		}
		return final.LastTransitionTime.Add(batch.Seconds(int64(*ttl))), true
	}
	if at, _ := expiry(s.set); at.After(s.now) {
		s.requeueAt(at)
		return nil
	}
	sets := s.client.BatchV1alpha1().TaskSets(s.set.Namespace)
	set, err := sets.Get(ctx, s.set.Name, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	if at, ok := expiry(set); set.UID != s.set.UID || set.DeletionTimestamp != nil || !ok || at.After(s.now) {
		return nil // An event will show the change.
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
