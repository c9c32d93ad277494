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
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// updateCounts sets the counters of the status and the condition ReplicaFailure.
func (s *syncContext) updateCounts(status *batch.TaskSetStatus) {
	s.state.FillCounters(status)
	if message := s.state.Sync.CreateError; message != "" {
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

// writeStatus stores the status if it has changed: at once if a condition, the start time or a dependency changes, else
// at most once every statusWriteInterval. Tasks that a stored status has counted may be deleted.
func (s *syncContext) writeStatus(ctx context.Context, status *batch.TaskSetStatus) error {
	before := &s.set.Status
	transition := conditionSummary(status) != conditionSummary(before) || !status.StartTime.Equal(before.StartTime) || !equalDependencies(status, before)
	changed := transition || len(s.state.Counted()) > 0 || s.state.FailedWithoutTask() ||
		status.Active != before.Active || !ptr.Equal(status.Ready, before.Ready) || !ptr.Equal(status.Terminating, before.Terminating) ||
		status.Succeeded != before.Succeeded || status.Failed != before.Failed || createFailureMessage(status) != createFailureMessage(before)
	if !changed {
		s.state.StatusStored()
		return nil
	}
	if due := s.state.Sync.StatusWrittenAt.Add(statusWriteInterval); !transition && s.now.Before(due) {
		s.requeueAt(due)
		return nil
	}
	s.state.FillIndexes(status)
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
	s.state.Sync.StatusWrittenAt = s.now
	s.state.Sync.Set = stored
	s.recordMetrics(s.set, stored)
	s.state.StatusStored()
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
