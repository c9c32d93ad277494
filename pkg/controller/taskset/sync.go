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
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
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
	state *state.TaskSet
	set   *batch.TaskSet
	// now is when the sync began.
	now time.Time
	// requeue is when to sync next even if nothing changes, zero for never.
	requeue time.Time
}

// requeueAt requests another sync at time t. The zero time requests none.
func (s *syncContext) requeueAt(t time.Time) {
	if !t.IsZero() && (s.requeue.IsZero() || t.Before(s.requeue)) {
		s.requeue = t
	}
}

// sync runs the steps of a sync, in the order of syncContext. A finished set is only cleaned up.
func (s *syncContext) sync(ctx context.Context) error {
	s.state.CountFinished(s.now)
	if state.FinishedCondition(s.set) != nil {
		return s.cleanUpFinished(ctx)
	}
	unconfirmed, checkAt := s.state.UnconfirmedDeletions(s.now, staleAfter)
	s.requeueAt(checkAt)
	if _, err := s.deleteTasks(ctx, unconfirmed); err != nil {
		return err
	}
	adoptionErr := s.adopt(ctx)
	s.requeueAt(s.state.EndBackoffs(s.now))
	status := s.set.Status.DeepCopy()
	var workErr error
	if target := state.TargetCondition(s.set); target != nil {
		// The decision is stored, so the remaining tasks can be deleted.
		_, workErr = s.deleteTasks(ctx, s.state.ActiveTasks())
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

// syncTasks decides the outcome of the set and, while it is open, creates and deletes tasks.
func (s *syncContext) syncTasks(ctx context.Context, status *batch.TaskSetStatus) error {
	suspended := ptr.Deref(s.set.Spec.Suspend, false)
	depends, err := s.syncDependencies(ctx, status)
	if err != nil {
		return err
	}
	if err := s.state.CancelIndexes(&s.set.Spec); err != nil {
		return err
	}
	held := suspended || depends.hold
	if status.StartTime == nil && !held {
		status.StartTime = s.timestamp()
	}
	target := s.failureTarget(status, held, depends.failure)
	if target != nil {
		// The active tasks will be deleted and count as failed, as in a Job.
		s.state.DecideFailure()
	} else {
		target = s.successPolicyTarget()
	}
	var workErr error
	switch {
	case target != nil:
	case s.set.Spec.Cancelled:
		if target = s.completionTarget(depends.hold); target == nil {
			// The active tasks will be deleted but do not count as failed: a user stopped them, as by suspending.
			target = s.newCondition(batch.TaskSetFailureTarget, metav1.ConditionTrue, batch.TaskSetReasonCancelled, "TaskSet was cancelled")
		}
	default:
		workErr = s.manageTasks(ctx, held)
		target = s.completionTarget(depends.hold)
	}
	if target != nil {
		meta.SetStatusCondition(&status.Conditions, *target)
		s.enactFinished(status, target)
		if s.state.Active() > 0 {
			s.requeueAt(s.now)
		}
		return workErr
	}
	s.updateSuspended(status, suspended, depends.hold)
	return workErr
}

// newCondition returns a condition that changes now.
func (s *syncContext) newCondition(name string, status metav1.ConditionStatus, reason, message string) *metav1.Condition {
	return &metav1.Condition{Type: name, Status: status, Reason: reason, Message: message, LastTransitionTime: *s.timestamp()}
}

// timestamp returns the start of the sync as an API time.
func (s *syncContext) timestamp() *metav1.Time { return &metav1.Time{Time: s.now} }
